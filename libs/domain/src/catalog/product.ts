import { refuse, type Aggregate, type ErrorCode, type Instant, type JsonObject, type ProductId } from '@keyledger/kernel';
import { malformed, type Meter } from '../license/terms.ts';
import { changes, checkMetadata } from '../metadata.ts';

/** What is sold. null before it was created. */
export type ProductState = Readonly<{
  id: ProductId; name: string; code: string | null; metadata: JsonObject; archived: boolean; createdAt: Instant;
  /** What is counted of it. None, for one made before there were any. */
  meters?: readonly Meter[];
}>;

/** `code` is the vendor's own name for it, unique in the environment: the caller claims it first (see unique.ts). */
export type ProductCommand =
  | { readonly type: 'Create'; readonly productId: ProductId; readonly name: string; readonly code?: string | null; readonly metadata?: JsonObject; readonly meters?: readonly Meter[] }
  | { readonly type: 'Update'; readonly name?: string; readonly code?: string | null; readonly metadata?: JsonObject; readonly meters?: readonly Meter[] }
  | { readonly type: 'Archive' };

export type ProductEvent =
  | { readonly type: 'ProductCreated'; readonly productId: ProductId; readonly name: string; readonly code: string | null; readonly metadata: JsonObject; readonly meters?: readonly Meter[] }
  | { readonly type: 'ProductChanged'; readonly name?: string; readonly code?: string | null; readonly metadata?: JsonObject; readonly meters?: readonly Meter[] }
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
        const { productId, name, code, metadata, meters } = event;
        return { id: productId, name, code, metadata, ...(meters && { meters }), archived: false, createdAt: at };
      }
      case 'ProductChanged': {
        const { type: _, ...change } = event;
        return product && { ...product, ...change };
      }
      case 'ProductArchived': return product && { ...product, archived: true };
    }
  },
};

function created({ productId, name, code = null, metadata = {}, meters }: ProductCommand & { type: 'Create' }): ProductEvent {
  checkMetadata(metadata);
  checkMeters(meters);
  return { type: 'ProductCreated', productId, name, code, metadata, ...(meters && { meters }) };
}

function changed(product: ProductState, { name, code, metadata, meters }: ProductCommand & { type: 'Update' }): ProductEvent[] {
  checkMetadata(metadata);
  checkMeters(meters);
  const change = changes<Omit<ProductEvent & { type: 'ProductChanged' }, 'type'>>({ ...product, meters: product.meters ?? [] }, { name, code, metadata, meters });
  return change ? [{ type: 'ProductChanged', ...change }] : [];
}

function checkMeters(meters: readonly Meter[] = []): void {
  if (new Set(meters.map(({ meter }) => meter)).size < meters.length) throw malformed('meters', 'names a meter twice');
}

/**
 * Nothing new is made of an archived product: PRODUCT_ARCHIVED. For whoever creates plans, generators, orders and licenses.
 * `missing` is said when there is no such product: PRODUCT_NOT_FOUND where the path names it.
 */
export function mustBeActive(product: ProductState | null, missing: ErrorCode = 'REFERENCE_NOT_FOUND'): asserts product is ProductState {
  if (!product) throw refuse(missing, 'There is no such product', missing === 'REFERENCE_NOT_FOUND' ? { field: 'productId' } : {});
  if (product.archived) throw refuse('PRODUCT_ARCHIVED', `The product ${product.name} is archived`, { productId: product.id });
}

/** As the HTTP contract shows it; the stream's revision is added by whoever knows it. */
export const productView = ({ id, name, code, metadata, meters = [], archived, createdAt }: ProductState) =>
  ({ id, name, code, status: archived ? 'archived' : 'active', metadata, meters, createdAt }) as const;
