import { ArchiveProduct, CreateProduct, GetProduct, UpdateProduct } from '@keyledger/contracts';
import { Product, productView, type ProductState } from '@keyledger/domain';
import { context, newId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles } from '@keyledger/messaging';
import { Pools } from './pools.ts';
import { CatalogStreams, shown } from './streams.ts';
import { UniqueValues } from './unique-values.ts';

const view = shown(productView, 'PRODUCT_NOT_FOUND');

@Handles(CreateProduct, UpdateProduct, ArchiveProduct)
export class ProductCommands {
  readonly #codes;

  constructor(private readonly streams: CatalogStreams, keyrings: Keyrings, private readonly pools: Pools) {
    const hashOf = (state: ProductState | null) => this.#hash(state?.code);
    this.#codes = new UniqueValues(streams, keyrings, { kind: 'product-code', taken: 'PRODUCT_CODE_TAKEN', rules: Product, owners: streams.products, hashOf });
  }

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

  #create(command: CreateProduct) {
    const productId = newId('prd');
    const create = { ...command, productId };
    const hash = this.#hash(command.code);
    return hash === null ? this.streams.products.run(productId, create, view) : this.#codes.create(productId, hash, create, view);
  }

  #update({ productId, ...fields }: UpdateProduct) {
    const change = { ...fields, type: 'Update' } as const;
    return change.code === undefined ? this.streams.products.run(productId, change, view) : this.#codes.update(productId, this.#hash(change.code), change, view);
  }

  #hash(code: string | null | undefined): string | null {
    return code ? this.#codes.hash(code) : null;
  }
}

@Handles(GetProduct)
export class ProductQueries {
  constructor(private readonly streams: CatalogStreams, private readonly pools: Pools) {}

  async execute({ productId }: GetProduct) {
    return this.pools.complete(await this.streams.products.load(productId, view));
  }
}
