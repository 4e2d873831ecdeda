import { CreatePlan, GetPlan, UpdatePlan } from '@keyledger/contracts';
import { mustBeActive, planView } from '@keyledger/domain';
import { newId, type PlanId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { CatalogStreams, shown } from './streams.ts';

const view = shown(planView, 'PLAN_NOT_FOUND');

@Handles(CreatePlan, UpdatePlan)
export class PlanCommands {
  constructor(private readonly streams: CatalogStreams) {}

  async execute(command: CreatePlan | UpdatePlan) {
    if (command instanceof UpdatePlan) return this.streams.plans.run(command.planId, command, view);
    const planId = newId('pln');
    return (await this.streams.plans.done(planId, command.type, view)) ?? this.#create({ ...command, planId });
  }

  async #create(command: CreatePlan & { planId: PlanId }) {
    mustBeActive((await this.streams.products.load(command.productId)).state, 'PRODUCT_NOT_FOUND');
    return this.streams.plans.run(command.planId, command, view);
  }
}

@Handles(GetPlan)
export class PlanQueries {
  constructor(private readonly streams: CatalogStreams) {}

  execute({ planId }: GetPlan) {
    return this.streams.plans.load(planId, view);
  }
}
