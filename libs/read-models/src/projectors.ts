import type { EventStore, Position } from '@keyledger/event-store';
import { PerEnvironment, type Sealing } from '@keyledger/kernel';
import type { Database } from './database.ts';
import type { Projection } from './projection.ts';
import { Projector } from './projector.ts';
import type { Parked } from './register.ts';
import { ReadIndex } from './read-index.ts';

/** Names for dependency injection: state tables and read models. */
export class StateDatabases extends PerEnvironment<Database> {}
export class ReadDatabases extends PerEnvironment<Database> {}

/** A list may take a moment under heavy writes; a verdict may not. */
const listTimeoutMs = 3_000;

/** How far one projector is behind its log. */
export interface Lag {
  readonly environment: string;
  readonly projection: string;
  readonly positions: number;
  readonly seconds: number;
  readonly parked: number;
}

/** How far who has read up to `position` is behind a log: in positions, and as the age of the next event in seconds. */
export async function distance(store: EventStore, position: Position): Promise<Pick<Lag, 'positions' | 'seconds'>> {
  const positions = Math.max(0, (await store.head()) - position);
  const [next] = positions > 0 ? await store.readAll(position, 1) : [];
  return { positions, seconds: next ? Math.max(0, (Date.now() - Date.parse(next.recordedAt)) / 1000) : 0 };
}

interface Kept {
  readonly projector: Projector;
  readonly index: ReadIndex;
  readonly store: EventStore;
  readonly database: Database;
}

/** A service's read models in all environments. */
export class Projectors {
  readonly #kept: PerEnvironment<Kept>;
  readonly #name: string;

  private constructor(name: string, kept: PerEnvironment<Kept>) {
    this.#name = name;
    this.#kept = kept;
  }

  static async start({ name, projections, events, databases, sealings, parked }: {
    /** The service, for metrics. */
    readonly name: string;
    readonly projections: readonly Projection[];
    readonly events: PerEnvironment<EventStore>;
    readonly databases: PerEnvironment<Database>;
    readonly sealings: PerEnvironment<Sealing>;
    readonly parked: (parked: Parked) => void;
  }): Promise<Projectors> {
    const kept = await Promise.all([...events.entries()].map(async ([environment, store]) => {
      const database = databases.of(environment);
      const projector = await Projector.start({ store, database, projections, sealing: sealings.of(environment), parked });
      return [environment, { projector, store, database, index: new ReadIndex(store, projector, listTimeoutMs) }] as const;
    }));
    return new Projectors(name, new PerEnvironment(kept));
  }

  /** The read models of the current message's environment, once they show every write that was answered before this call. */
  async current(): Promise<Database> {
    const { index, database } = this.#kept.here();
    if (!index.isCurrent()) await index.current();
    return database;
  }

  /** What users list, count and search in them: see `Database.listing`. */
  async listing<T>(read: (database: Database) => Promise<T>, withinMs?: number): Promise<T> {
    return (await this.current()).listing(read, withinMs);
  }

  here(): Projector {
    return this.#kept.here().projector;
  }

  /** For metrics and readiness. */
  async lags(): Promise<readonly Lag[]> {
    return Promise.all([...this.#kept.entries()].map(async ([environment, { projector, store }]) =>
      ({ environment, projection: this.#name, ...(await distance(store, projector.position)), parked: projector.parkedCount })));
  }

  async close(): Promise<void> {
    await Promise.all([...this.#kept.entries()].map(([, { projector }]) => projector.close()));
  }
}
