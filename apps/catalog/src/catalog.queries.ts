import { ListCustomers, ListGenerators, ListOrders, ListPlans, ListProducts } from '@keyledger/contracts';
import { customerView, generatorView, orderView, planView, productView } from '@keyledger/domain';
import { refuse } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { matches, matching, page, Projectors, type Projection, type Sort } from '@keyledger/read-models';
import { sql, type Expression, type SqlBool } from 'kysely';
import { customers, products } from './catalog.tables.ts';
import { Pools } from './pools.ts';
import { CatalogStreams } from './streams.ts';

const sorts: Readonly<Record<string, Sort>> = {
  name: { column: 'name', kind: 'text' }, createdAt: { column: 'created_at', kind: 'text' }, purchasedAt: { column: 'purchased_at', kind: 'text' },
};

interface Listing<State, View extends object> {
  readonly projectors: Projectors;
  readonly table: string;
  readonly request: { sort?: string; limit?: number; cursor?: string };
  readonly where?: readonly (Expression<SqlBool> | undefined)[];
  /** Text that a row must contain. */
  readonly search?: { readonly projection: Projection; readonly q: string | undefined };
  readonly load: (id: string) => Promise<{ state: State | null; revision: number }>;
  readonly view: (state: State) => View;
}

/** The most matches of a search that are collected and counted. Of more, the rows of the list are read in its order until the page is full. */
const countable = 10_000;

/** The table gives the ids and their order; the content comes from the streams. */
async function list<State, View extends object>({ projectors, table, request: { sort = '-createdAt', limit = 25, cursor }, where = [], search, load, view }: Listing<State, View>) {
  const { data, page: position } = await projectors.listing(async (database) => {
    const all = database.sql<Record<string, { id: string }>>().selectFrom(table).select('id');
    const hasMany = search?.q !== undefined && await matches(database, search.projection, search.q, countable) > countable;
    const contains = search?.q === undefined ? undefined : matching(database, search.projection, search.q, 'id', hasMany);
    const query = [...where, contains].filter((condition) => condition !== undefined).reduce((rest, condition) => rest.where(condition), all);
    return page(query, sorts, { sort, limit, cursor, total: !hasMany });
  });
  const found = await Promise.all(data.map(({ id }) => load(id)));
  return { data: found.flatMap(({ state, revision }) => (state === null ? [] : [{ ...view(state), revision }])), page: position };
}

const equals = (column: string, value: string | undefined): Expression<SqlBool> | undefined => (value === undefined ? undefined : sql<SqlBool>`${sql.ref(column)} = ${value}`);

@Handles(ListProducts)
export class ProductList {
  constructor(private readonly streams: CatalogStreams, private readonly projectors: Projectors, private readonly pools: Pools) {}

  async execute({ q, status, ...request }: ListProducts) {
    const { data, page: position } = await list({
      projectors: this.projectors, table: 'catalog_product', request, where: [equals('status', status)], search: { projection: products, q }, load: (id) => this.streams.products.load(id), view: productView,
    });
    return { data: await this.pools.completeAll(data), page: position };
  }
}

@Handles(ListPlans)
export class PlanList {
  constructor(private readonly streams: CatalogStreams, private readonly projectors: Projectors) {}

  async execute({ productId, ...request }: ListPlans) {
    if (productId && !(await this.streams.products.load(productId)).state) throw refuse('PRODUCT_NOT_FOUND');
    return list({ projectors: this.projectors, table: 'catalog_plan', request, where: [equals('product_id', productId)], load: (id) => this.streams.plans.load(id), view: planView });
  }
}

@Handles(ListCustomers)
export class CustomerList {
  constructor(private readonly streams: CatalogStreams, private readonly projectors: Projectors) {}

  async execute({ q, ...request }: ListCustomers) {
    return list({ projectors: this.projectors, table: 'catalog_customer', request, search: { projection: customers, q }, load: (id) => this.streams.customers.load(id), view: customerView });
  }
}

@Handles(ListOrders)
export class OrderList {
  constructor(private readonly streams: CatalogStreams, private readonly projectors: Projectors) {}

  async execute({ customerId, planId, ...request }: ListOrders) {
    const where = [equals('customer_id', customerId), equals('plan_id', planId)];
    return list({ projectors: this.projectors, table: 'catalog_order', request, where, load: (id) => this.streams.orders.load(id), view: orderView });
  }
}

@Handles(ListGenerators)
export class GeneratorList {
  constructor(private readonly streams: CatalogStreams, private readonly projectors: Projectors) {}

  async execute({ productId, ...request }: ListGenerators) {
    return list({ projectors: this.projectors, table: 'catalog_generator', request, where: [equals('product_id', productId)], load: (id) => this.streams.generators.load(id), view: generatorView });
  }
}
