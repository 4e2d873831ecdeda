import { AsyncLocalStorage } from 'node:async_hooks';
import {
  CompiledQuery, SqliteAdapter, SqliteIntrospector, SqliteQueryCompiler,
  type DatabaseConnection, type Dialect, type Driver, type QueryCompiler, type QueryResult, type TransactionSettings,
} from 'kysely';
import { SqliteFile } from './sqlite-file.ts';
import type { SqlValue } from './sqlite-file.worker.ts';

/** Kysely (and with it MikroORM) on a file that another thread works on. */
export const sqliteDialect = (file: SqliteFile): Dialect => dialectOn(() => new SqliteDriver(file));
/** For transactions that only read, on a connection that is opened with the first of them. They begin in `waitingFor`. */
export const listsDialect = (path: string): Dialect => dialectOn(() => new ListsDriver(path));

const turnWithin = new AsyncLocalStorage<number>();
/** The longest wait for the turn of a list: Kysely hands its driver nothing of the kind. */
export const waitingFor = <T>(ms: number, list: () => Promise<T>): Promise<T> => turnWithin.run(ms, list);

const dialectOn = (createDriver: () => Driver): Dialect => ({
  createDriver,
  createQueryCompiler: () => new SqliteQueryCompiler(),
  createAdapter: () => new Adapter(),
  createIntrospector: (db) => new SqliteIntrospector(db),
});

class Adapter extends SqliteAdapter {
  /** Statements may overlap: the file itself ensures that a transaction is alone. */
  override get supportsMultipleConnections(): boolean {
    return true;
  }
}

class SqliteDriver implements Driver {
  protected file: SqliteFile | undefined;

  constructor(file?: SqliteFile) {
    this.file = file;
  }

  async init(): Promise<void> {}

  async acquireConnection(): Promise<SqliteConnection> {
    return new SqliteConnection(this.file as SqliteFile);
  }

  beginTransaction(connection: SqliteConnection, _settings: TransactionSettings): Promise<void> {
    return connection.begin();
  }

  commitTransaction(connection: SqliteConnection): Promise<void> {
    return connection.commit();
  }

  rollbackTransaction(connection: SqliteConnection): Promise<void> {
    return connection.rollback();
  }

  async savepoint(connection: SqliteConnection, name: string): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw(`savepoint "${name}"`));
  }

  async rollbackToSavepoint(connection: SqliteConnection, name: string): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw(`rollback to "${name}"`));
  }

  async releaseSavepoint(connection: SqliteConnection, name: string, _compile: QueryCompiler['compileQuery']): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw(`release "${name}"`));
  }

  async releaseConnection(connection: SqliteConnection): Promise<void> {
    // A commit that failed leaves its transaction open.
    if (connection.inTransaction) await connection.rollback();
  }

  /** The opener of the file closes it. */
  async destroy(): Promise<void> {}
}

class ListsDriver extends SqliteDriver {
  readonly #path: string;

  constructor(path: string) {
    super();
    this.#path = path;
  }

  override async init(): Promise<void> {
    this.file = await SqliteFile.open(this.#path, 'lists');
  }

  override beginTransaction(connection: SqliteConnection): Promise<void> {
    return connection.begin(turnWithin.getStore());
  }

  override async destroy(): Promise<void> {
    await this.file?.close();
  }
}

class SqliteConnection implements DatabaseConnection {
  readonly #file: SqliteFile;
  inTransaction = false;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  async begin(withinMs?: number): Promise<void> {
    await this.#file.begin(withinMs);
    this.inTransaction = true;
  }

  async commit(): Promise<void> {
    await this.#file.commit();
    this.inTransaction = false;
  }

  async rollback(): Promise<void> {
    this.inTransaction = false;
    await this.#file.rollback();
  }

  async executeQuery<Row>({ sql, parameters }: CompiledQuery): Promise<QueryResult<Row>> {
    const statement = { sql, params: parameters.map(bindable) };
    const { columns, rows, changes, lastId } = await (this.inTransaction ? this.#file.within(statement) : this.#file.run(statement));
    return { rows: rows.map((row) => objectOf(columns, row) as Row), numAffectedRows: BigInt(changes), insertId: BigInt(lastId) };
  }

  async *streamQuery<Row>(query: CompiledQuery): AsyncIterableIterator<QueryResult<Row>> {
    yield await this.executeQuery<Row>(query);
  }
}

/** SQLite knows neither booleans nor undefined. */
const bindable = (value: unknown): SqlValue => (typeof value === 'boolean' ? Number(value) : value === undefined ? null : value as SqlValue);

export function objectOf(columns: readonly string[], row: readonly unknown[]): Record<string, unknown> {
  const object: Record<string, unknown> = {};
  for (let at = 0; at < columns.length; at++) object[columns[at] as string] = row[at];
  return object;
}
