import { createHash } from 'node:crypto';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { deserialize, serialize } from 'node:v8';
import { PerEnvironment, type Aggregate, type JsonObject, type Sealer } from '@keyledger/kernel';
import { PostgresPool, prepare, schemaOf } from './postgres-pool.ts';

/** A fold put away. It is a cache: one that is missing, of another version, shredded or not of this very history is ignored. */
export interface Snapshot {
  readonly revision: number;
  /** Id of the event at that revision: proof that the snapshot belongs to the stream as it is now (and not as it was before a restore). */
  readonly eventId: string;
  /** Of the state's shape and of the code that made it; see `versionOf`. */
  readonly version: string;
  /** Sealed under the stream's subject: a state holds in clear what its events hold sealed. */
  readonly sealed: string;
}

export interface SnapshotStore {
  get(stream: string): Promise<Snapshot | undefined>;
  put(stream: string, snapshot: Snapshot): Promise<void>;
}

/** Changes with `stateVersion` and, as a safety net, with the text of `evolve` and of the upcasts. */
export function versionOf<State, Command extends { type: string }, Event extends { type: string }>(aggregate: Aggregate<State, Command, Event>): string {
  const { stateVersion, evolve, shapes } = aggregate;
  const code = JSON.stringify(shapes, (_, value: unknown) => (typeof value === 'function' ? String(value) : value));
  return `${stateVersion}-${createHash('sha256').update(String(evolve)).update(code).digest('base64url').slice(0, 16)}`;
}

/** Of the state as it is at the call; the fold moves on. */
export const packState = (state: unknown): JsonObject => ({ state: serialize(state).toString('base64') });

/** undefined when it cannot be opened: its subject's key is destroyed, or it is damaged. The stream can always be replayed. */
export function openState<State>(sealer: Sealer, subject: string, { sealed }: Snapshot): { readonly state: State } | undefined {
  try {
    const packed = sealer.open(subject, sealed);
    return packed ? { state: deserialize(Buffer.from(String(packed.state), 'base64')) as State } : undefined;
  } catch {
    return undefined;
  }
}

/** For aggregates that keep no secrets. */
export const unsealed: Sealer = {
  seal: (_, value) => JSON.stringify(value),
  open: (_, text) => JSON.parse(text) as JsonObject,
};

/** Snapshots in a database file of their own, one per environment. It may be deleted at any time. */
export class SqliteSnapshots implements SnapshotStore {
  readonly #db: DatabaseSync;
  readonly #get: StatementSync;
  readonly #put: StatementSync;

  constructor(file: string) {
    this.#db = new DatabaseSync(file);
    this.#db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
      CREATE TABLE IF NOT EXISTS snapshots (
        stream TEXT PRIMARY KEY, revision INTEGER NOT NULL, event_id TEXT NOT NULL, version TEXT NOT NULL, sealed TEXT NOT NULL) STRICT`);
    this.#get = this.#db.prepare('SELECT revision, event_id AS eventId, version, sealed FROM snapshots WHERE stream = ?');
    this.#put = this.#db.prepare('INSERT OR REPLACE INTO snapshots (stream, revision, event_id, version, sealed) VALUES (?, ?, ?, ?, ?)');
  }

  async get(stream: string): Promise<Snapshot | undefined> {
    return this.#get.get(stream) as Snapshot | undefined;
  }

  async put(stream: string, { revision, eventId, version, sealed }: Snapshot): Promise<void> {
    this.#put.run(stream, revision, eventId, version, sealed);
  }

  close(): void {
    this.#db.close();
  }
}

/** Snapshots in a table of the schema `<environment>_events`. Its rows may be deleted at any time. */
export class PostgresSnapshots implements SnapshotStore {
  readonly #pool: PostgresPool;
  readonly #table: string;

  constructor(pool: PostgresPool, environment: string) {
    this.#pool = pool;
    this.#table = `"${schemaOf(environment)}".snapshots`;
  }

  async get(stream: string): Promise<Snapshot | undefined> {
    const [row] = await this.#pool.ask({ name: `get ${this.#table}`, text: `select revision, event_id, version, sealed from ${this.#table} where stream = $1` }, [stream]);
    return row && { revision: Number(row[0]), eventId: String(row[1]), version: String(row[2]), sealed: String(row[3]) };
  }

  async put(stream: string, { revision, eventId, version, sealed }: Snapshot): Promise<void> {
    const text = `insert into ${this.#table} (stream, revision, event_id, version, sealed) values ($1, $2, $3, $4, $5)
      on conflict (stream) do update set revision = excluded.revision, event_id = excluded.event_id, version = excluded.version, sealed = excluded.sealed`;
    await this.#pool.ask({ name: `put ${this.#table}`, text }, [stream, revision, eventId, version, sealed]);
  }
}

export class PostgresSnapshotStores extends PerEnvironment<PostgresSnapshots> {
  #pool: PostgresPool | undefined;

  /** Few streams are long: two connections (the default) for all environments. */
  static async open({ url, environments, connections = 2 }: { readonly url: string; readonly environments: readonly string[]; readonly connections?: number }): Promise<PostgresSnapshotStores> {
    await prepare(url, async (run) => {
      for (const schema of environments.map(schemaOf)) {
        await run(`create schema if not exists "${schema}"`);
        await run(`create table if not exists "${schema}".snapshots (stream text primary key, revision integer not null, event_id text not null, version text not null, sealed text not null)`);
      }
    });
    const pool = new PostgresPool(url, connections);
    const stores = new PostgresSnapshotStores(environments.map((environment) => [environment, new PostgresSnapshots(pool, environment)]));
    stores.#pool = pool;
    return stores;
  }

  async close(): Promise<void> {
    await this.#pool?.close();
  }
}
