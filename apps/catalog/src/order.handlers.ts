import { GetLicense, GetOrder, IssueOrderedLicense, PlaceOrder, PrepareLicenses, type LicenseView } from '@keyledger/contracts';
import { likeMeters, mustBeActive, mustBeIssuable, orderView, type OrderState, type PlanState, type ProductState, type Terms } from '@keyledger/domain';
import { context, instantOf, newId, Refusal, refuse, type OrderId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Injectable } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { Customers } from './customer.handlers.ts';
import { planOf, termsOf } from './generator.handlers.ts';
import { CatalogStreams } from './streams.ts';

/** Issues what an order says. The order fixes the ids, so this can be repeated until every license is there. */
@Injectable()
export class Fulfilment {
  /** Orders this process has issued, or is issuing, itself: the reaction to the order skips them. */
  readonly #own = new LRUCache<OrderId, Promise<unknown>>({ maxSize: 20_000, sizeCalculation: () => 1 });

  constructor(private readonly messages: MessageClient) {}

  licensesOf(order: OrderState): readonly Promise<LicenseView>[] {
    const issued = order.licenseIds.map((licenseId) => this.messages.send(IssueOrderedLicense, { licenseId, orderId: order.id, ...issueOf(order) }));
    // Not the licenses, which would be kept as well.
    this.#own.set(order.id, Promise.all(issued).then(() => true, () => undefined));
    return issued;
  }

  async wasDone(orderId: OrderId): Promise<boolean> {
    return (await this.#own.get(orderId)) !== undefined;
  }
}

/** The parts of an order that go into each of its licenses. */
function issueOf({ productId, planId, customerId, purchasedAt, terms, deploymentId, deploymentMode }: Pick<OrderState, 'productId' | 'planId' | 'customerId' | 'purchasedAt' | 'terms' | 'deploymentId' | 'deploymentMode'>) {
  const deployment = { ...(deploymentId !== null && { deploymentId }), ...(deploymentMode !== null && { deploymentMode }) };
  return { productId, planId, customerId, purchasedAt, terms: { ...terms, ...deployment } };
}

const placed = (state: OrderState | null, revision: number) => ({ order: state as OrderState, revision });

@Handles(PlaceOrder)
export class OrderCommands {
  constructor(private readonly streams: CatalogStreams, private readonly customers: Customers, private readonly fulfilment: Fulfilment, private readonly messages: MessageClient) {}

  async execute(command: PlaceOrder) {
    const orderId = newId('ord');
    const { order, revision } = (await this.streams.orders.done(orderId, command.type, placed)) ?? (await this.#place(command, orderId));
    const licenses = await thoseLeft(this.fulfilment.licensesOf(order));
    const { licenseIds: _, ...summary } = orderView(order);
    return { ...summary, licenses, revision };
  }

  async #place(command: PlaceOrder, orderId: OrderId) {
    const plan = await planOf(this.streams, command.planId);
    const { state: product } = await this.streams.products.load(plan.productId);
    mustBeActive(product);
    const { quantity = 1 } = command;
    const { enabled: licensingEnabled } = plan.licensing;
    // An order whose licenses are refused would be useless, and so would its customer.
    if (licensingEnabled) mustBeIssuable(termsOf(plan), context().now);
    const customerId = await this.#customer(command);
    const licenseIds = licensingEnabled ? Array.from({ length: quantity }, (_, index) => newId('lic', index)) : [];
    const purchasedAt = command.purchasedAt && instantOf(command.purchasedAt);
    // Two durable writes that do not depend on each other; the licenses' events need both.
    const prepared = licenseIds.length > 0 ? this.messages.send(PrepareLicenses, { licenseIds }) : undefined;
    const taken = this.streams.orders.create(
      orderId,
      { ...command, orderId, productId: plan.productId, customerId, quantity, licensingEnabled, licenseIds, terms: meteredTerms(plan, product), ...(purchasedAt && { purchasedAt }) },
      placed,
    );
    return (await Promise.all([taken, prepared]))[0];
  }

  async #customer({ customerId, customer }: PlaceOrder) {
    if ((customerId === undefined) === (customer === undefined)) {
      throw refuse('VALIDATION_FAILED', 'Give either customerId or customer', { errors: [{ pointer: '/customerId', detail: 'either customerId or customer must be given' }] });
    }
    if (customer) return this.customers.findOrCreate(customer);
    return (await this.customers.require(customerId as NonNullable<typeof customerId>, 'REFERENCE_NOT_FOUND')).id;
  }
}

@Handles(GetOrder)
export class OrderQueries {
  constructor(private readonly streams: CatalogStreams, private readonly messages: MessageClient) {}

  async execute({ orderId }: GetOrder) {
    const { state, revision } = await this.streams.orders.load(orderId);
    if (!state) throw refuse('ORDER_NOT_FOUND');
    const { licenseIds, ...summary } = orderView(state);
    return { ...summary, licenses: await thoseLeft(licenseIds.map((licenseId) => this.messages.send(GetLicense, { licenseId }))), revision };
  }
}

/** An erased license is removed from its order, too. */
async function thoseLeft(licenses: readonly Promise<LicenseView>[]): Promise<LicenseView[]> {
  const found = await Promise.all(licenses.map((license) => license.catch((error: unknown) => {
    if (error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND') return undefined;
    throw error;
  })));
  return found.filter((license) => license !== undefined);
}

/** The product defines the meters of the plan's quotas. */
function meteredTerms(plan: PlanState, { meters = [] }: ProductState): Partial<Terms> {
  const { quotas, ...terms } = termsOf(plan);
  return quotas ? { ...terms, quotas: likeMeters(quotas, meters) } : terms;
}
