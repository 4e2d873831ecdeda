import { ArchiveProduct, CreateProduct, GetProduct, UpdateProduct } from '@keyledger/contracts';
import { productView } from '@keyledger/domain';
import { context, newId, refuse, type ProductId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Pools } from './pools.ts';
import { CatalogStreams, shown } from './streams.ts';
import { UniqueValues } from './unique-values.ts';

const view = shown(productView);

@Handles(CreateProduct, UpdateProduct, ArchiveProduct)
export class ProductCommands {
  constructor(private readonly streams: CatalogStreams, private readonly unique: UniqueValues, private readonly pools: Pools) {}

  async execute(command: CreateProduct | UpdateProduct | ArchiveProduct) {
    const product = await this.#run(command);
    if ('pool' in command) this.pools.look(context().environment);
    return this.pools.complete(product);
  }

  #run(command: CreateProduct | UpdateProduct | ArchiveProduct) {
    switch (command.type) {
      case 'Create': return this.#create(command as CreateProduct);
      case 'Update': return this.#update(command as UpdateProduct);
      case 'Archive': return this.streams.products.run(command.productId, { type: 'Archive' }, view);
    }
  }

  async #create(command: CreateProduct) {
    const productId = newId('prd');
    if (command.code) await this.#claim(command.code, productId);
    return this.streams.products.run(productId, { ...command, productId }, view);
  }

  /** Claim, change, release: whatever dies in between can be repeated. */
  async #update({ productId, ...change }: UpdateProduct) {
    const { state } = await this.streams.products.load(productId);
    if (!state) throw refuse('PRODUCT_NOT_FOUND');
    if (change.code) await this.#claim(change.code, productId);
    const answer = await this.streams.products.run(productId, { ...change, type: 'Update' }, view);
    if (state.code && change.code !== undefined && change.code !== state.code) await this.unique.release('product-code', state.code, productId);
    return answer;
  }

  #claim(code: string, ownerId: ProductId): Promise<void> {
    const bears = async (id: string) => (await this.streams.products.load(id)).state?.code === code;
    return this.unique.claim({ kind: 'product-code', value: code, ownerId, taken: 'PRODUCT_CODE_TAKEN', bears });
  }
}

@Handles(GetProduct)
export class ProductQueries {
  constructor(private readonly streams: CatalogStreams, private readonly pools: Pools) {}

  async execute({ productId }: GetProduct) {
    const { state, revision } = await this.streams.products.load(productId);
    if (!state) throw refuse('PRODUCT_NOT_FOUND');
    return this.pools.complete(view(state, revision));
  }
}
