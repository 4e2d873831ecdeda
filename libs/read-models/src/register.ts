import type { Position } from '@keyledger/event-store';
import type { Database, Statement } from './database.ts';

/** A stream that a projection could not fold: its row stays as of the event before, later events wait. */
export interface Parked {
  readonly projection: string;
  readonly stream: string;
  /** Of the event that could not be applied. */
  readonly position: Position;
  readonly error: string;
  /** When that event was recorded. */
  readonly since: string;
}

/** A projection's table: serving, former or being built. */
export interface Registered {
  readonly build: number;
  readonly version: string;
  readonly position: number;
  readonly serving: boolean;
  readonly columns: string;
  readonly fence: number;
}

type Table = Pick<Registered, 'build'> & { readonly projection: { readonly name: string } };

/** Which tables exist, each one's position, and the parked streams; kept beside the tables in the same database. */
export class Register {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async create(): Promise<void> {
    await this.#database.batch([
      {
        sql: `create table if not exists projections (name text not null, build integer not null, version text not null, position bigint not null,
          serving integer not null, columns text not null, fence bigint not null, primary key (name, build))`,
      },
      {
        sql: `create table if not exists parked (projection text not null, build integer not null, stream text not null, position bigint not null,
          error text not null, since text not null, primary key (projection, build, stream))`,
      },
    ]).catch(ignoreExisting);
  }

  async tablesOf(name: string): Promise<readonly Registered[]> {
    const { rows } = await this.#database.run<Registered>(
      'select build, version, position, serving, columns, fence from projections where name = ? order by build', [name]);
    return rows.map((row) => ({ ...row, serving: Boolean(row.serving) }));
  }

  async servingOf(name: string): Promise<Registered | undefined> {
    return (await this.tablesOf(name)).find(({ serving }) => serving);
  }

  /** In all tables that queries see. */
  async parked(): Promise<readonly Parked[]> {
    const { rows } = await this.#database.run<Parked>(
      `select k.projection, k.stream, k.position, k.error, k.since from parked k join projections p on p.name = k.projection and p.build = k.build
      where p.serving = 1 order by k.projection, k.stream`);
    return rows;
  }

  async parkedIn({ projection, build }: Table): Promise<readonly string[]> {
    const { rows } = await this.#database.run<{ stream: string }>('select stream from parked where projection = ? and build = ?', [projection.name, build]);
    return rows.map(({ stream }) => stream);
  }

  add(name: string, { build, version, position, serving, columns, fence }: Registered): Statement {
    return {
      sql: 'insert into projections (name, build, version, position, serving, columns, fence) values (?, ?, ?, ?, ?, ?, ?)',
      params: [name, build, version, position, Number(serving), columns, fence],
    };
  }

  /** Fails the batch when another process has written to the table. */
  advance({ projection, build, fence }: Table & Pick<Registered, 'fence'>, position: Position): Statement {
    return { sql: 'update projections set position = ?, fence = fence + 1 where name = ? and build = ? and fence = ?', params: [position, projection.name, build, fence], expect: 1 };
  }

  /** Queries use it from now on. Fails the batch as `advance` does. */
  serve({ projection, build, fence }: Table & Pick<Registered, 'fence'>, position: Position): Statement {
    return {
      sql: 'update projections set serving = 1, position = ?, fence = fence + 1 where name = ? and build = ? and fence = ?', params: [position, projection.name, build, fence], expect: 1,
    };
  }

  widen(name: string, build: number, columns: string): Statement {
    return { sql: 'update projections set columns = ? where name = ? and build = ?', params: [columns, name, build] };
  }

  forget(name: string, build: number): Statement[] {
    return [
      { sql: 'delete from parked where projection = ? and build = ?', params: [name, build] },
      { sql: 'delete from projections where name = ? and build = ?', params: [name, build] },
    ];
  }

  park({ build }: Pick<Registered, 'build'>, parked: readonly Parked[]): Statement {
    return {
      sql: 'insert into parked (projection, build, stream, position, error, since) values (?, ?, ?, ?, ?, ?) on conflict do nothing',
      many: parked.map(({ projection, stream, position, error, since }) => [projection, build, stream, position, error.slice(0, 1_000), since]),
    };
  }

  unpark({ projection, build }: Table, stream: string): Statement {
    return { sql: 'delete from parked where projection = ? and build = ? and stream = ?', params: [projection.name, build, stream] };
  }
}

const ignoreExisting = (error: unknown): void => {
  if (!/exist|UNIQUE|duplicate/i.test((error as Error).message)) throw error;
};
