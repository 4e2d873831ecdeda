import { mkdirSync } from 'node:fs';
import { dirname, extname, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { refuse, type Refusal } from '@keyledger/kernel';
import {
  CompiledQuery, SqliteAdapter, SqliteIntrospector, SqliteQueryCompiler,
  type DatabaseConnection, type Dialect, type Driver, type QueryCompiler, type QueryResult, type TransactionSettings,
} from 'kysely';
import type { Failure, Reply, Request, Result, SqlValue, Statement } from './sqlite.worker.ts';

/** `state` is fsynced with every commit; `read` can be rebuilt and is not. */
export type DatabaseKind = 'state' | 'read';

/** The database refused a statement. `unexpected`: one of a batch changed another number of rows than it should. */
export class SqlFailure extends Error {
  override readonly name = 'SqlFailure';
  readonly code: number | string | undefined;
  readonly unexpected: boolean;

  constructor({ message, code, unexpected = false }: Failure) {
    super(message);
    this.code = code;
    this.unexpected = unexpected;
  }
}

/** SQLite's primary codes for a file locked by another connection, a failing disk and a full one: temporary, and no statement is at fault. */
const fileFaults: readonly number[] = [5, 10, 13];
const failureOf = (failure: Failure): Error =>
  (fileFaults.includes(Number(failure.code) & 255) ? unavailable(failure.message, new SqlFailure(failure)) : new SqlFailure(failure));
const unavailable = (detail: string, cause: Error): Refusal => Object.assign(refuse('UNAVAILABLE', `The database does not answer: ${detail}`), { cause });

/** A transaction held longer is a bug; statements waiting for it get an error instead of waiting for ever. */
const BUSY_TIMEOUT_MS = 5_000;

type Question = Request extends infer R ? (R extends Request ? Omit<R, 'call'> : never) : never;
interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** One thread for all databases of a kind, so that one environment's fsync never holds up the event loop, nor rebuilding a read model a lease. */
class SqliteThread {
  static readonly #threads = new Map<DatabaseKind, SqliteThread>();
  readonly #kind: DatabaseKind;
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  readonly files = new Map<string, SqliteFile>();
  #openFiles = 0;
  #calls = 0;
  #dead: Error | undefined;

  static of(kind: DatabaseKind): SqliteThread {
    const running = SqliteThread.#threads.get(kind);
    if (running) return running;
    const thread = new SqliteThread(kind);
    SqliteThread.#threads.set(kind, thread);
    return thread;
  }

  private constructor(kind: DatabaseKind) {
    this.#kind = kind;
    // No execArgv: a loader for the sources is not needed there (Node strips the worker's types), and would cost its start-up.
    this.#worker = new Worker(new URL(`./sqlite.worker${extname(import.meta.url)}`, import.meta.url), { execArgv: [], name: `sqlite-${kind}` });
    // `node --watch` reports the thread's imports on the same channel.
    this.#worker.on('message', (replies: unknown) => {
      if (Array.isArray(replies)) for (const reply of replies as readonly Reply[]) this.#answered(reply);
    });
    this.#worker.on('error', (error) => this.#died(error as Error));
    this.#worker.on('exit', () => this.#died(new Error('The database is closed')));
  }

  ask<T>(question: Question): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#dead) return reject(this.#dead);
      const call = this.#calls++;
      this.#pending.set(call, { resolve: resolve as (result: unknown) => void, reject });
      try {
        this.#worker.postMessage({ ...question, call });
      } catch (error) {
        this.#pending.delete(call);
        reject(error as Error);
      }
    });
  }

  retain(): void {
    this.#openFiles++;
  }

  /** Ends when its last file has been closed. */
  async release(): Promise<void> {
    if (--this.#openFiles > 0) return;
    if (SqliteThread.#threads.get(this.#kind) === this) SqliteThread.#threads.delete(this.#kind);
    await this.#worker.terminate();
  }

  #answered(reply: Reply): void {
    const pending = this.#pending.get(reply.call);
    this.#pending.delete(reply.call);
    if ('error' in reply) pending?.reject(failureOf(reply.error));
    else pending?.resolve(reply.result);
  }

  #died(error: Error): void {
    this.#dead ??= error;
    if (SqliteThread.#threads.get(this.#kind) === this) SqliteThread.#threads.delete(this.#kind);
    for (const { reject } of this.#pending.values()) reject(this.#dead);
    this.#pending.clear();
  }
}

interface Waiting {
  readonly exclusive: boolean;
  readonly go: () => void;
  readonly timer: NodeJS.Timeout;
}

/**
 * One open database file. There is one connection per file and process, however many ask for it: services that share a file share
 * its turn-taking. Statements outside of transactions go out at once and are committed together; a transaction has the connection for itself.
 */
export class SqliteFile {
  readonly path: string;
  readonly #thread: SqliteThread;
  readonly #opened: Promise<unknown>;
  #users = 0;
  #held = false;
  #waiting: Waiting[] = [];

  /** Opens the file, creating it and its folder; every `open` needs its `close`. */
  static async open(path: string, kind: DatabaseKind): Promise<SqliteFile> {
    const thread = SqliteThread.of(kind);
    const full = resolve(path);
    const file = thread.files.get(full) ?? new SqliteFile(full, kind, thread);
    thread.files.set(full, file);
    file.#users++;
    try {
      await file.#opened;
      return file;
    } catch (error) {
      if (thread.files.get(full) === file) {
        thread.files.delete(full);
        await thread.release();
      }
      throw error;
    }
  }

  private constructor(path: string, kind: DatabaseKind, thread: SqliteThread) {
    this.path = path;
    this.#thread = thread;
    thread.retain();
    mkdirSync(dirname(path), { recursive: true });
    this.#opened = thread.ask({ op: 'open', file: path, durable: kind === 'state' });
  }

  async run(statement: Statement): Promise<Result> {
    if (this.#held) await this.#turn(false);
    return this.#thread.ask({ op: 'run', file: this.path, statement, alone: false });
  }

  /** One transaction, one message to the thread and back. */
  async batch(statements: readonly Statement[]): Promise<Result[]> {
    if (this.#held) await this.#turn(false);
    return this.#thread.ask({ op: 'batch', file: this.path, statements });
  }

  async begin(): Promise<void> {
    if (this.#held) await this.#turn(true);
    this.#held = true;
    try {
      await this.within({ sql: 'begin immediate' });
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  /** A statement of the open transaction. */
  within(statement: Statement): Promise<Result> {
    return this.#thread.ask({ op: 'run', file: this.path, statement, alone: true });
  }

  /** After a failure the transaction is still open, to be rolled back. */
  async commit(): Promise<void> {
    await this.within({ sql: 'commit' });
    this.#release();
  }

  async rollback(): Promise<void> {
    try {
      await this.#thread.ask({ op: 'rollback', file: this.path });
    } finally {
      this.#release();
    }
  }

  async scrub(overwritten: boolean): Promise<void> {
    if (this.#held) await this.#turn(false);
    await this.#thread.ask({ op: 'scrub', file: this.path, overwritten });
  }

  async close(): Promise<void> {
    if (--this.#users > 0) return;
    this.#thread.files.delete(this.path);
    await this.#thread.ask({ op: 'close', file: this.path });
    await this.#thread.release();
  }

  #turn(exclusive: boolean): Promise<void> {
    return new Promise((go, reject) => {
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((waiting) => waiting.go !== go);
        reject(unavailable('database is locked', new Error(`A transaction has held ${this.path} for ${BUSY_TIMEOUT_MS} ms`)));
      }, BUSY_TIMEOUT_MS);
      this.#waiting.push({ exclusive, go, timer });
    });
  }

  /** First come, first served, up to and including the next transaction. */
  #release(): void {
    this.#held = false;
    let next: Waiting | undefined;
    while (!this.#held && (next = this.#waiting.shift())) {
      clearTimeout(next.timer);
      this.#held = next.exclusive;
      next.go();
    }
  }
}

/** Kysely (and with it MikroORM) on a file that another thread works on. */
export const sqliteDialect = (file: SqliteFile): Dialect => ({
  createDriver: () => new SqliteDriver(file),
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
  readonly #file: SqliteFile;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  async init(): Promise<void> {}

  async acquireConnection(): Promise<SqliteConnection> {
    return new SqliteConnection(this.#file);
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

class SqliteConnection implements DatabaseConnection {
  readonly #file: SqliteFile;
  inTransaction = false;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  async begin(): Promise<void> {
    await this.#file.begin();
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
