import { PerEnvironment } from '@keyledger/kernel';
import { PostgresPool, prepare, schemaOf } from './postgres-pool.ts';
import type { Snapshot, SnapshotStore } from './snapshots.ts';

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
