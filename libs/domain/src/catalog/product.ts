import { malformed, refuse, type Aggregate, type ErrorCode, type Instant, type JsonObject, type ProductId } from '@keyledger/kernel';
import type { Meter } from '../license/terms.ts';
import { changes, checkMetadata } from '../metadata.ts';

/** A product for sale. null before it was created. */
export type ProductState = Readonly<{
  id: ProductId; name: string; code: string | null; metadata: JsonObject; archived: boolean; createdAt: Instant;
  /** Its meters. None, for a product from before meters existed. */
  meters?: readonly Meter[];
  pool?: PoolWanted | null;
}>;

/** How many unassigned licenses the vendor wants to have in store. */
type PoolWanted = { readonly buffer: number };

/** `code` is the vendor's own name for it, unique in the environment: the caller claims it first (see unique.ts). */
export type ProductCommand =
  | { readonly type: 'Create'; readonly productId: ProductId; readonly name: string; readonly code?: string | null; readonly metadata?: JsonObject; readonly meters?: readonly Meter[]; readonly pool?: PoolWanted | null }
  | { readonly type: 'Update'; readonly name?: string; readonly code?: string | null; readonly metadata?: JsonObject; readonly meters?: readonly Meter[]; readonly pool?: PoolWanted | null }
  | { readonly type: 'Archive' };

export type ProductEvent =
  | { readonly type: 'ProductCreated'; readonly productId: ProductId; readonly name: string; readonly code: string | null; readonly metadata: JsonObject; readonly meters?: readonly Meter[]; readonly pool?: PoolWanted }
  | { readonly type: 'ProductChanged'; readonly name?: string; readonly code?: string | null; readonly metadata?: JsonObject; readonly meters?: readonly Meter[]; readonly pool?: PoolWanted | null }
  | { readonly type: 'ProductArchived' };

export const Product: Aggregate<ProductState | null, ProductCommand, ProductEvent> = {
  category: 'product',
  stateVersion: 2,
  shapes: { ProductCreated: { schema: 1 }, ProductChanged: { schema: 1 }, ProductArchived: { schema: 1 } },
  initial: () => null,

  decide(product, command) {
    if (command.type === 'Create') return product ? [] : [created(command)];
    if (!product) throw refuse('PRODUCT_NOT_FOUND');
    switch (command.type) {
      case 'Update': return changed(product, command);
      case 'Archive': return product.archived ? [] : [{ type: 'ProductArchived' }];
    }
  },

  evolve(product, event, { at }) {
    switch (event.type) {
      case 'ProductCreated': {
        const { productId, name, code, metadata, meters, pool } = event;
        return { id: productId, name, code, metadata, ...(meters && { meters }), ...(pool && { pool }), archived: false, createdAt: at };
      }
      case 'ProductChanged': {
        const { type: _, ...change } = event;
        return product && { ...product, ...change };
      }
      case 'ProductArchived': return product && { ...product, archived: true };
    }
  },
};

function created({ productId, name, code = null, metadata = {}, meters, pool }: ProductCommand & { type: 'Create' }): ProductEvent {
  checkMetadata(metadata);
  checkMeters(meters);
  return { type: 'ProductCreated', productId, name, code, metadata, ...(meters && { meters }), ...(pool && { pool }) };
}

function changed(product: ProductState, { name, code, metadata, meters, pool }: ProductCommand & { type: 'Update' }): ProductEvent[] {
  checkMetadata(metadata);
  checkMeters(meters);
  const change = changes<Omit<ProductEvent & { type: 'ProductChanged' }, 'type'>>({ ...product, meters: product.meters ?? [], pool: product.pool ?? null }, { name, code, metadata, meters, pool });
  return change ? [{ type: 'ProductChanged', ...change }] : [];
}

function checkMeters(meters: readonly Meter[] = []): void {
  if (new Set(meters.map(({ meter }) => meter)).size < meters.length) throw malformed('meters', 'names a meter twice');
}

/**
 * Nothing new is made of an archived product: PRODUCT_ARCHIVED. For commands that create plans, generators, orders and licenses.
 * `missing` is the refusal if there is no such product: PRODUCT_NOT_FOUND where the path names it.
 */
export function mustBeActive(product: ProductState | null, missing: ErrorCode = 'REFERENCE_NOT_FOUND'): asserts product is ProductState {
  if (!product) throw refuse(missing, 'There is no such product', missing === 'REFERENCE_NOT_FOUND' ? { field: 'productId' } : {});
  if (product.archived) throw refuse('PRODUCT_ARCHIVED', `The product ${product.name} is archived`, { productId: product.id });
}

/** As the HTTP contract shows it; the services that know the stream's revision and what is left of the pool add them. */
export const productView = ({ id, name, code, metadata, meters = [], pool = null, archived, createdAt }: ProductState) =>
  ({ id, name, code, status: archived ? 'archived' : 'active', metadata, meters, pool, createdAt }) as const;
