import { CountAvailable, type ProductView } from '@keyledger/contracts';
import { isLow } from '@keyledger/domain';
import { Clock, environments, isTransient, runIn, systemContext, type ProductId } from '@keyledger/kernel';
import { MessageClient } from '@keyledger/messaging';
import { Log, Metrics } from '@keyledger/observability';
import { Projectors } from '@keyledger/read-models';
import { Injectable } from '@nestjs/common';
import { CatalogStreams } from './streams.ts';

/** Pools are counted periodically and when a product is viewed; the code that sells and issues licenses knows nothing of them. */
const LOOK_EVERY_MS = 15_000;
const PRODUCTS_PER_QUESTION = 500;
/** A view does not wait longer for the count, and omits it then. */
const ASK_MS = 1_000;

type Watched = Omit<ProductView, 'pool'> & { readonly pool: { readonly buffer: number } | null };

/** Licenses without a holder that are left of each product with a buffer: in views, as a metric, and as an event when there are too few. */
@Injectable()
export class Pools {
  #timer: NodeJS.Timeout | undefined;
  readonly #looking = new Map<string, Promise<void>>();
  /** Where a count has been asked for that has not begun. */
  readonly #wanted = new Set<string>();

  constructor(
    private readonly streams: CatalogStreams, private readonly projectors: Projectors, private readonly messages: MessageClient,
    private readonly clock: Clock, private readonly metrics: Metrics, private readonly log: Log,
  ) {}

  begin(): void {
    this.#timer = setInterval(() => environments.forEach((environment) => this.look(environment)), LOOK_EVERY_MS).unref();
  }

  async end(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#looking.values());
  }

  async complete(product: Watched): Promise<ProductView> {
    const [completed] = await this.completeAll([product]);
    return completed as ProductView;
  }

  async completeAll(products: readonly Watched[]): Promise<ProductView[]> {
    const watched = products.filter(({ pool }) => pool !== null).map(({ id }) => id);
    const available = watched.length > 0 ? await this.#count(watched).catch(ifUnanswered) : undefined;
    return products.map((product) => ({ ...product, pool: product.pool && levelOf(product.pool.buffer, available?.get(product.id)) }));
  }

  /** One count at a time in each environment, and one more for all that ask meanwhile. */
  look(environment: string): void {
    if (this.#wanted.has(environment)) return;
    this.#wanted.add(environment);
    const before = this.#looking.get(environment) ?? Promise.resolve();
    const look = before.then(() => {
      this.#wanted.delete(environment);
      return runIn(systemContext(environment, this.clock.now(environment)), () => this.#lookAround(environment));
    }).catch((error: unknown) => this.log.warn({ err: error, environment }, 'the pools could not be counted; it will be tried again'));
    this.#looking.set(environment, look);
  }

  async #lookAround(environment: string): Promise<void> {
    const database = await this.projectors.current();
    const { rows } = await database.run<{ id: ProductId; buffer: number }>(`select id, pool_buffer as buffer from catalog_product where pool_buffer is not null and status = 'active' order by pool_buffer, id`);
    let low = 0;
    for (let from = 0; from < rows.length; from += PRODUCTS_PER_QUESTION) {
      const some = rows.slice(from, from + PRODUCTS_PER_QUESTION);
      const available = await this.#count(some.map(({ id }) => id));
      for (const { id, buffer } of some) low += await this.#note(id, { available: available.get(id) ?? 0, buffer });
    }
    this.metrics.poolsLow(environment, low);
  }

  async #note(productId: ProductId, level: { available: number; buffer: number }): Promise<number> {
    const news = await this.streams.pools.run(productId, { type: 'Note', ...level }, (_state, _revision, events) => events[0]?.type);
    if (news) this.log[news === 'PoolRanLow' ? 'warn' : 'info']({ productId, ...level }, news === 'PoolRanLow' ? 'a product runs out of licenses' : 'a product has licenses again');
    return isLow(level) ? 1 : 0;
  }

  async #count(productIds: readonly ProductId[]): Promise<ReadonlyMap<string, number>> {
    const { data } = await this.messages.send(CountAvailable, { productIds }, { timeoutMs: ASK_MS });
    return new Map(data.map(({ productId, available }) => [productId, available]));
  }
}

const levelOf = (buffer: number, available: number | undefined): NonNullable<ProductView['pool']> =>
  ({ buffer, available: available ?? null, low: available === undefined ? null : isLow({ available, buffer }) });

function ifUnanswered(error: unknown): undefined {
  if (isTransient(error)) return undefined;
  throw error;
}
