import { CreateGenerator, GetGenerator, ResolveOffer, UpdateGenerator } from '@keyledger/contracts';
import { DEFAULT_KEY_FORMAT, generatorView, mustBeActive, termsOver, type Terms } from '@keyledger/domain';
import { newId, refuse, type GeneratorId, type PlanId, type ProductId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Customers } from './customer.handlers.ts';
import { CatalogStreams, shown } from './streams.ts';

const view = shown(generatorView, 'GENERATOR_NOT_FOUND');

@Handles(CreateGenerator, UpdateGenerator)
export class GeneratorCommands {
  constructor(private readonly streams: CatalogStreams) {}

  async execute(command: CreateGenerator | UpdateGenerator) {
    if (command instanceof UpdateGenerator) {
      const { state } = await this.streams.generators.load(command.generatorId);
      if (state && command.planId) await planOf(this.streams, command.planId, state.productId);
      return this.streams.generators.run(command.generatorId, command, view);
    }
    const generatorId = newId('gen');
    return (await this.streams.generators.done(generatorId, command.type, view)) ?? this.#create({ ...command, generatorId });
  }

  async #create(command: CreateGenerator & { generatorId: GeneratorId }) {
    mustBeActive((await this.streams.products.load(command.productId)).state);
    if (command.planId) await planOf(this.streams, command.planId, command.productId);
    return this.streams.generators.run(command.generatorId, command, view);
  }
}

@Handles(GetGenerator)
export class GeneratorQueries {
  constructor(private readonly streams: CatalogStreams) {}

  execute({ generatorId }: GetGenerator) {
    return this.streams.generators.load(generatorId, view);
  }
}

/** What a new license is made of. The generator's terms override its plan's. */
@Handles(ResolveOffer)
export class Offers {
  constructor(private readonly streams: CatalogStreams, private readonly customers: Customers) {}

  async execute({ productId, generatorId, planId, customerId }: ResolveOffer) {
    const { state: product } = await this.streams.products.load(productId);
    mustBeActive(product);
    if (customerId) await this.customers.require(customerId, 'REFERENCE_NOT_FOUND');
    const generator = generatorId ? (await this.streams.generators.load(generatorId)).state : undefined;
    if (generatorId && generator?.productId !== productId) throw noReference('generatorId');
    const plan = planId ?? generator?.planId ?? null;
    const planTerms = plan ? termsOf(await planOf(this.streams, plan, productId)) : {};
    return { planId: plan, terms: termsOver(planTerms, generator?.terms ?? {}), meters: product.meters ?? [], keyFormat: generator?.keyFormat ?? DEFAULT_KEY_FORMAT };
  }
}

export async function planOf(streams: CatalogStreams, planId: PlanId, productId?: ProductId) {
  const { state } = await streams.plans.load(planId);
  if (!state || (productId !== undefined && state.productId !== productId)) throw noReference('planId');
  return state;
}

/** The terms that a plan gives to new licenses. */
export function termsOf({ licensing: { enabled: _, ...terms } }: Awaited<ReturnType<typeof planOf>>): Partial<Terms> {
  return terms;
}

const noReference = (field: string) => refuse('REFERENCE_NOT_FOUND', `${field} does not belong to this product`, { field });
