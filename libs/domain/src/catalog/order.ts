import { malformed, type Aggregate, type CustomerId, type Instant, type LicenseId, type OrderId, type PlanId, type ProductId } from '@keyledger/kernel';
import { instantIn, type Terms } from '../license/terms.ts';

/** A purchase: a fact that does not change. null before it was placed. */
export type OrderState = Readonly<Omit<OrderPlaced, 'type' | 'orderId'> & { id: OrderId; createdAt: Instant }>;

/**
 * `licenseIds` are the ids of the licenses to issue, one for each piece when `licensingEnabled`, else none. They are part of the order,
 * so that a retry for an order whose licenses were not all issued issues exactly those. `terms` are those of the plan on that day.
 */
export type OrderCommand = {
  readonly type: 'Place'; readonly orderId: OrderId; readonly planId: PlanId; readonly productId: ProductId; readonly customerId: CustomerId;
  /** Default: now; may lie in the past. */
  readonly purchasedAt?: Instant;
  /** 1 (the default) to 100. */
  readonly quantity?: number;
  readonly licensingEnabled: boolean; readonly licenseIds: readonly LicenseId[]; readonly terms: Partial<Terms>;
  readonly deploymentId?: string | null; readonly deploymentMode?: string | null;
};

type OrderPlaced = {
  readonly type: 'OrderPlaced'; readonly orderId: OrderId; readonly planId: PlanId; readonly productId: ProductId; readonly customerId: CustomerId;
  readonly purchasedAt: Instant; readonly quantity: number;
  readonly licensingEnabled: boolean; readonly licenseIds: readonly LicenseId[]; readonly terms: Partial<Terms>;
  readonly deploymentId: string | null; readonly deploymentMode: string | null;
};
export type OrderEvent = OrderPlaced;

const MAXIMUM_QUANTITY = 100;

export const Order: Aggregate<OrderState | null, OrderCommand, OrderEvent> = {
  category: 'order',
  stateVersion: 1,
  shapes: { OrderPlaced: { schema: 1 } },
  initial: () => null,
  decide: (order, command, now) => (order ? [] : [placed(command, now)]),

  evolve(_order, event, { at }) {
    const { type: _, orderId, ...order } = event;
    return { id: orderId, ...order, createdAt: at };
  },
};

function placed(command: OrderCommand, now: Instant): OrderPlaced {
  const { orderId, planId, productId, customerId, purchasedAt = now, quantity = 1, licensingEnabled, licenseIds, terms } = command;
  if (!Number.isInteger(quantity) || quantity < 1 || quantity > MAXIMUM_QUANTITY) throw malformed('quantity', `must be 1 to ${MAXIMUM_QUANTITY}`);
  const due = licensingEnabled ? quantity : 0;
  if (new Set(licenseIds).size !== due || licenseIds.length !== due) throw new Error(`${orderId}: ${due} license ids expected, got ${licenseIds.length}`);
  const { deploymentId = null, deploymentMode = null } = command;
  return {
    type: 'OrderPlaced', orderId, planId, productId, customerId, purchasedAt: instantIn('purchasedAt', purchasedAt), quantity,
    licensingEnabled, licenseIds, terms, deploymentId, deploymentMode,
  };
}

/** The summary in lists. A service that can read licenses shows a single order with its `licenses` in place of their ids. */
export const orderView = ({ id, planId, productId, customerId, purchasedAt, quantity, licenseIds, createdAt }: OrderState) =>
  ({ id, planId, productId, customerId, purchasedAt, quantity, licenseIds, createdAt });
