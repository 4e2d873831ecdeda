import { join } from 'node:path';
import { PerEnvironment } from '@keyledger/kernel';
import { MikroORM, SqliteDriver, UnderscoreNamingStrategy, type EntityName, type SqlEntityManager } from '@mikro-orm/sql';
import { CompiledQuery, Kysely, type Transaction } from 'kysely';
import type { Pool } from 'pg';
import { guardPool, patiently, serverSettings, started, startOptions, until, type Guard } from './lost-server.ts';
import { listsDialect, objectOf, sqliteDialect, waitingFor } from './sqlite-dialect.ts';
import { SqlFailure, SqliteFile, type DatabaseKind } from './sqlite-file.ts';
import type { SqlValue, Statement } from './sqlite-file.worker.ts';
import { LIST_ANSWER_MS, LIST_TURN_MS, Turns } from './turns.ts';

export { SqlFailure, type DatabaseKind } from './sqlite-file.ts';
export type { SqlValue, Statement } from './sqlite-file.worker.ts';
export type Dialect = 'sqlite' | 'postgres';
export type Row = Readonly<Record<string, unknown>>;
/** Any table, any column. */
export type Tables = Record<string, Record<string, unknown>>;

/** A step of a schema's history, written by hand for both dialects. Its name is `<service>-<number>-<what>` and, once released, fixed. */
export interface Migration {
  readonly name: string;
  up(sql: { readonly dialect: Dialect; run(text: string): Promise<void> }): Promise<void>;
}

export interface DatabaseOptions {
  readonly kind: DatabaseKind;
  readonly environment: string;
  readonly entities: readonly EntityName[];
  readonly migrations?: readonly Migration[];
  readonly at: { readonly sqliteFile: string } | { readonly postgresUrl: string; readonly schema?: string };
  /** PostgreSQL: the most at a time. Default: 4. */
  readonly connections?: number;
  /**
   * PostgreSQL: a statement not answered in that time fails, with UNAVAILABLE: its server may have vanished silently. Default: 1.5 s
   * in state tables, which decide about requests, and 20 s in read models, which are also built; null for copying whole tables.
   */
  readonly answerWithinMs?: number | null;
}

export interface Answer<R = Row> {
  readonly rows: readonly R[];
  readonly changes: number;
}

/** What a database can do in its dialect beyond Kysely. */
interface Engine {
  readonly dialect: Dialect;
  batch(statements: readonly Statement[]): Promise<readonly Answer[]>;
  alone<T>(work: () => Promise<T>): Promise<T>;
  scrub(overwritten: boolean): Promise<void>;
  listing<T>(read: (sql: Transaction<Tables>) => Promise<T>, withinMs: number): Promise<T>;
  /** Slow start-up work is done. */
  started?(): void;
  close(): Promise<void>;
}

/**
 * State tables or read models of one environment: a MikroORM, and below it plain SQL with bound parameters where speed matters.
 * SQL given to `run` and `batch` has `?` for a parameter in both dialects.
 */
export class Database {
  readonly kind: DatabaseKind;
  readonly environment: string;
  readonly orm: MikroORM;
  readonly #engine: Engine;
  readonly #reading: Transaction<Tables> | undefined;
  #closing: Promise<void> | undefined;

  /** Resolves when all migrations have been applied. */
  static async open({ kind, environment, entities, migrations = [], at, connections = 4, answerWithinMs = answerWithin[kind] }: DatabaseOptions): Promise<Database> {
    const { orm, engine } = 'sqliteFile' in at
      ? await openSqlite(kind, entities, at.sqliteFile)
      : await openPostgres(entities, at.postgresUrl, at.schema ?? `${environment}_${kind}`.replaceAll('-', '_'), { connections, answerWithinMs });
    const database = new Database(kind, environment, orm, engine);
    try {
      await patiently(() => migrate(database, migrations));
      engine.started?.();
      return database;
    } catch (error) {
      await database.close();
      throw error;
    }
  }

  private constructor(kind: DatabaseKind, environment: string, orm: MikroORM, engine: Engine, reading?: Transaction<Tables>) {
    this.kind = kind;
    this.environment = environment;
    this.orm = orm;
    this.#engine = engine;
    this.#reading = reading;
  }

  get dialect(): Dialect {
    return this.#engine.dialect;
  }

  /** A unit of work of its own. Its SQL holds values as literals: fine for a few rows, not for a hot path. */
  em(): SqlEntityManager {
    return this.orm.em.fork() as SqlEntityManager;
  }

  /** The query builder, part of the transaction when called within `em.transactional`, as `run` and `batch` are. Parameters are bound, names are those of tables and columns. `T` says which tables there are. */
  sql<T = Tables>(): Kysely<T> {
    return (this.#reading ?? (this.orm.em as SqlEntityManager).getKysely<T>()) as Kysely<T>;
  }

  /** One statement, committed by itself; on SQLite together with those that arrive at the same time. */
  async run<R = Row>(text: string, params: readonly unknown[] = []): Promise<Answer<R>> {
    const { rows, numAffectedRows } = await this.sql().executeQuery<R>(CompiledQuery.raw(placeholders(this.dialect, text), [...params]));
    return { rows, changes: Number(numAffectedRows ?? rows.length) };
  }

  /** All statements or none, in one transaction and (on SQLite) one round trip. A statement that misses its `expect` rejects with SqlFailure.unexpected. */
  batch(statements: readonly Statement[]): Promise<readonly Answer[]> {
    const sql = this.sql();
    return sql.isTransaction ? runEach(this.dialect, sql, statements) : this.#engine.batch(statements);
  }

  /** Statements that depend on each other's answers. No other statement runs meanwhile: keep it short, and use only the given `sql`. */
  transaction<T>(work: (sql: Transaction<Tables>) => Promise<T>): Promise<T> {
    return this.sql().transaction().execute(work);
  }

  /**
   * What users list, count and search, which may take long. On SQLite it has a connection and a thread of its own, and is done one after the other; on
   * PostgreSQL all connections but one: look-ups and writes never wait for it, and when its turn does not come within 2 s (or `withinMs`, for clients that
   * wait longer or shorter), it is refused before it costs anything. PostgreSQL gives it up 3 s after that, with UNAVAILABLE. Only for reading, with the given database.
   */
  listing<T>(read: (database: Database) => Promise<T>, withinMs = LIST_TURN_MS): Promise<T> {
    return this.#engine.listing((reading) => read(new Database(this.kind, this.environment, this.orm, this.#engine, reading)), withinMs);
  }

  /** Runs in one process at a time. For the start; it takes one connection more than the work needs. */
  alone<T>(work: () => Promise<T>): Promise<T> {
    return this.#engine.alone(work);
  }

  /**
   * After a deletion: no deleted data stays readable in the files. SQLite writes its file anew for that, some 6 s per GB in which no
   * other statement runs: gather deletions, or overwrite rows first and pass `overwritten`, so that only its log is emptied.
   * On PostgreSQL the space is freed either way, and its write-ahead log ages out by itself.
   */
  scrub({ overwritten: isOverwritten = false } = {}): Promise<void> {
    return this.#engine.scrub(isOverwritten);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#engine.close());
  }
}

export type Databases = PerEnvironment<Database>;

/** `<directory>/<environment>/<kind>.db`, or a schema `<environment>_<kind>` each. `here()` is the one of the current message's environment. */
export async function openDatabases(
  { environments, at, ...options }: Omit<DatabaseOptions, 'environment' | 'at'>
    & { readonly environments: readonly string[]; readonly at: { readonly directory: string } | { readonly postgresUrl: string } },
): Promise<Databases> {
  const open = async (environment: string) => [environment, await Database.open({
    ...options, environment, at: 'directory' in at ? { sqliteFile: join(at.directory, environment, `${options.kind}.db`) } : at,
  })] as const;
  return new PerEnvironment(await Promise.all(environments.map(open)));
}

/** Rows that one statement changes at most: SQLite answers nothing else meanwhile, and PostgreSQL is cut off after 1.5 s. */
export const ROWS_AT_ONCE = 2_000;

/** Repeats a statement, whose last `?` is the most rows it may change, until it finds no more of them. Other statements have their turn in between. */
export async function inPieces(database: Pick<Database, 'run'>, text: string, params: readonly unknown[]): Promise<void> {
  for (let changes = ROWS_AT_ONCE; changes === ROWS_AT_ONCE;) ({ changes } = await database.run(text, [...params, ROWS_AT_ONCE]));
}

const answerWithin: Readonly<Record<DatabaseKind, number>> = { state: 1_500, read: 20_000 };

const common = { dbName: '', namingStrategy: UnderscoreNamingStrategy, allowGlobalContext: true, discovery: { warnWhenNoEntities: false } } as const;

async function openSqlite(kind: DatabaseKind, entities: readonly EntityName[], path: string): Promise<{ orm: MikroORM; engine: Engine }> {
  const file = await SqliteFile.open(path, kind);
  const orm = new MikroORM({ ...common, dbName: path, entities: [...entities], driver: SqliteDriver, driverOptions: sqliteDialect(file) });
  await orm.connect();
  let lists: Kysely<Tables> | undefined;
  const engine: Engine = {
    dialect: 'sqlite',
    listing: (read, withinMs) => waitingFor(withinMs, () => (lists ??= new Kysely<Tables>({ dialect: listsDialect(path) })).transaction().execute(read)),
    async batch(statements) {
      const results = await file.batch(statements);
      return results.map(({ columns, rows, changes }) => ({ rows: rows.map((row) => objectOf(columns, row)), changes }));
    },
    // Only one process uses a file.
    alone: (work) => work(),
    scrub: (overwritten) => file.scrub(overwritten),
    async close() {
      await orm.close();
      await lists?.destroy();
      await file.close();
    },
  };
  return { orm, engine };
}

async function openPostgres(entities: readonly EntityName[], url: string, schema: string, guard: Guard): Promise<{ orm: MikroORM; engine: Engine }> {
  const { PostgreSqlDriver } = await import('@mikro-orm/postgresql');
  const pools: Pool[] = [];
  const orm = new MikroORM({
    ...common, dbName: undefined, clientUrl: url, entities: [...entities], driver: PostgreSqlDriver,
    driverOptions: {
      ...startOptions(guard),
      // As a whole, because MikroORM drops the part after the `?` (a socket's folder, sslmode).
      connectionString: url,
      options: serverSettings(schema, guard),
      onPoolCreated(pool: Pool & { options: { types: { setTypeParser(oid: number, parse: typeof Number): void } } }) {
        // bigint as number, as in SQLite: none of ours exceeds 2^53.
        pool.options.types.setTypeParser(20, Number);
        guardPool(pool, guard);
        pools.push(pool);
      },
    },
  });
  await patiently(() => orm.connect());
  const sql = (orm.em as SqlEntityManager).getKysely<Tables>();
  await patiently(() => oneAtATime(sql, async (alone) => {
    await alone.executeQuery(CompiledQuery.raw(`create schema if not exists "${schema}"`));
    await alone.executeQuery(CompiledQuery.raw('create extension if not exists pg_trgm with schema public'));
  }));
  const turns = new Turns(Math.max(1, guard.connections - 1));
  const engine: Engine = {
    dialect: 'postgres',
    listing(read, withinMs) {
      const end = performance.now() + withinMs + LIST_ANSWER_MS;
      return turns.take(() => sql.transaction().execute((reading) => until(end, () => read(reading))), withinMs);
    },
    batch: (statements) => sql.transaction().execute((transaction) => runEach('postgres', transaction, statements)),
    alone: (work) => patiently(() => oneAtATime(sql, work)),
    scrub: () => patiently(async () => {
      const run = (text: string) => sql.executeQuery<{ name: string }>(CompiledQuery.raw(text));
      const { rows } = await run("select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname = current_schema()");
      // Other connections keep it from truncating tables, and it would try for 5 s.
      if (rows.length > 0) await run(`vacuum (truncate false) ${rows.map(({ name }) => name).join(', ')}`);
    }),
    started: () => pools.forEach(started),
    async close() {
      turns.close();
      await orm.close();
    },
  };
  return { orm, engine };
}

async function runEach(dialect: Dialect, sql: Kysely<Tables>, statements: readonly Statement[]): Promise<readonly Answer[]> {
  const answers: Answer[] = [];
  for (const statement of statements) answers.push(await runOne(dialect, sql, statement));
  return answers;
}

async function runOne(dialect: Dialect, sql: Kysely<Tables>, { sql: text, params = [], many, expect }: Statement): Promise<Answer> {
  let changes = 0;
  let rows: readonly Row[] = [];
  for (const [own, values] of many ? multiplied(text, many) : [[text, params] as const]) {
    const result = await sql.executeQuery<Row>(CompiledQuery.raw(placeholders(dialect, own), [...values]));
    changes += Number(result.numAffectedRows ?? result.rows.length);
    rows = result.rows;
  }
  if (expect !== undefined && changes !== expect) throw new SqlFailure({ message: `${changes} rows changed instead of ${expect}: ${text}`, unexpected: true });
  return { rows, changes };
}

/** `values (?, ?)` once for all rows of a message, instead of a message for each row. */
function* multiplied(text: string, many: readonly (readonly SqlValue[])[]): Generator<readonly [string, readonly SqlValue[]]> {
  const one = /values (\([?, ]+\))/.exec(text)?.[1];
  const atOnce = one ? Math.floor(MAX_PARAMETERS / Math.max(1, many[0]?.length ?? 1)) : 1;
  for (let from = 0; from < many.length; from += atOnce) {
    const rows = many.slice(from, from + atOnce);
    yield [one ? text.replace(one, rows.map(() => one).join(', ')) : text, rows.flat()];
  }
}
/** SQLite takes 32,766, PostgreSQL 65,535. */
const MAX_PARAMETERS = 30_000;

/** `?` → `$1`, `$2`, … No statement of ours has a question mark in a literal. */
const placeholders = (dialect: Dialect, text: string): string => {
  let n = 0;
  return dialect === 'sqlite' ? text : text.replaceAll('?', () => `$${++n}`);
};

/** Several processes start at the same moment; the lock ends with the transaction. */
function oneAtATime<T>(sql: Kysely<Tables>, work: (sql: Kysely<Tables>) => Promise<T>): Promise<T> {
  return sql.transaction().execute(async (transaction) => {
    // The work under the lock may use other connections, and take long.
    await transaction.executeQuery(CompiledQuery.raw('set local idle_in_transaction_session_timeout = 0'));
    await transaction.executeQuery(CompiledQuery.raw('select pg_advisory_xact_lock(5280017)'));
    return work(transaction);
  });
}

/** MikroORM's own migrator takes longer than all other steps of a process's start together. */
async function migrate(database: Database, migrations: readonly Migration[]): Promise<void> {
  const { dialect } = database;
  const apply = async (sql: Kysely<Tables>) => {
    const run = async (text: string) => void await sql.executeQuery(CompiledQuery.raw(text));
    await run('create table if not exists migrations (name text primary key)');
    const { rows } = await sql.executeQuery<{ name: string }>(CompiledQuery.raw('select name from migrations'));
    const applied = new Set(rows.map(({ name }) => name));
    for (const { name, up } of migrations.filter((migration) => !applied.has(migration.name))) {
      await up({ dialect, run });
      await sql.executeQuery(CompiledQuery.raw(placeholders(dialect, 'insert into migrations (name) values (?)'), [name]));
    }
  };
  if (dialect === 'postgres') await oneAtATime(database.sql(), apply);
  else await database.transaction(apply);
}
