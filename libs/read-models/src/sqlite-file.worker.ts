// Runs as source in its own thread (Node strips the types): only node: modules and types may be imported here.
import { statSync } from 'node:fs';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import type { ConnectionKind } from './sqlite-file.ts';

export type SqlValue = SQLInputValue;

export interface Statement {
  readonly sql: string;
  readonly params?: readonly SqlValue[];
  /** The statement is run once for each of these instead. */
  readonly many?: readonly (readonly SqlValue[])[];
  /** Number of rows that must change, in all; else the batch is undone. */
  readonly expect?: number;
}

/** Rows travel as arrays: names are sent once, not with every row. */
export interface Result {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly unknown[])[];
  readonly changes: number;
  readonly lastId: number | bigint;
}

type Work =
  | { readonly op: 'open'; readonly file: string; readonly kind: ConnectionKind }
  /** `alone` statements are part of a transaction, or must not be inside one. */
  | { readonly op: 'run'; readonly file: string; readonly statement: Statement; readonly alone: boolean }
  | { readonly op: 'batch'; readonly file: string; readonly statements: readonly Statement[] }
  | { readonly op: 'rollback'; readonly file: string }
  | { readonly op: 'scrub'; readonly file: string; readonly overwritten: boolean }
  | { readonly op: 'close'; readonly file: string };
export type Request = Work & { readonly call: number };
/** `code` is SQLite's extended result code, or Node's for a value it cannot bind. */
export interface Failure {
  readonly message: string;
  readonly code?: number | string;
  readonly unexpected?: boolean;
}
export type Reply = { readonly call: number } & ({ readonly result: unknown } | { readonly error: Failure });

type Write = Extract<Request, { op: 'run' }>;
interface Prepared {
  readonly statement: StatementSync;
  readonly columns: readonly string[];
}

const STATEMENTS_KEPT = 200;
const WRITES_PER_COMMIT = 500;
const LOG_BYTES = 67_108_864;
const NOTHING: Result = { columns: [], rows: [], changes: 0, lastId: 0 };

class Unexpected extends Error {}

class File {
  readonly #db: DatabaseSync;
  readonly #prepared = new Map<string, Prepared>();
  readonly #path: string;
  readonly #isForLists: boolean;

  constructor(path: string, kind: ConnectionKind) {
    this.#path = path;
    this.#isForLists = kind === 'lists';
    const durable = kind === 'state';
    this.#db = new DatabaseSync(path);
    this.#db.exec(`PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = ${durable ? 'FULL' : 'NORMAL'}; PRAGMA query_only = ${this.#isForLists ? 'ON' : 'OFF'};
      PRAGMA fullfsync = ON; PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;
      PRAGMA cache_size = -16384; PRAGMA journal_size_limit = ${LOG_BYTES};`);
    const pragma = (name: string) => Object.values(this.#db.prepare(`PRAGMA ${name}`).get() ?? {})[0];
    const [journal, synchronous] = [pragma('journal_mode'), pragma('synchronous')];
    if (journal !== 'wal' || synchronous !== (durable ? 2 : 1)) throw new Error(`${path}: journal_mode ${journal}, synchronous ${synchronous}`);
    if (kind === 'read') this.#switchOffSecureDelete();
  }

  run({ sql, params, many }: Statement): Result {
    if (this.#isForLists && sql === 'begin') this.#letLogStartAnew();
    const { statement, columns } = this.#prepare(sql, params !== undefined && params.length > 0 || many !== undefined);
    if (many) {
      let changes = 0;
      for (const row of many) changes += Number(statement.run(...row).changes);
      return { ...NOTHING, changes };
    }
    if (columns.length > 0) {
      const rows = statement.all(...(params ?? [])) as unknown as unknown[][];
      return { columns, rows, changes: rows.length, lastId: 0 };
    }
    const { changes, lastInsertRowid } = statement.run(...(params ?? []));
    return { ...NOTHING, changes: Number(changes), lastId: lastInsertRowid };
  }

  /** All or nothing. */
  batch(statements: readonly Statement[]): Result[] {
    return this.#transaction(() => statements.map((statement) => {
      const result = this.run(statement);
      const { expect } = statement;
      if (expect !== undefined && result.changes !== expect) throw new Unexpected(`${result.changes} rows changed instead of ${expect}: ${statement.sql}`);
      return result;
    }));
  }

  /** Each statement succeeds or fails by itself, with one fsync for all of them. */
  group(writes: readonly Write[]): Reply[] {
    if (writes.length === 1) return writes.map(({ call, statement }) => attempt(call, () => this.run(statement)));
    try {
      return this.#transaction(() => writes.map(({ call, statement }) => {
        this.#db.exec('SAVEPOINT one');
        const reply = attempt(call, () => this.run(statement));
        if ('error' in reply) {
          // Some failures (a full disk) undo the whole transaction: then no transaction is left to continue.
          if (!this.#db.isTransaction) throw Object.assign(new Error(reply.error.message), { errcode: reply.error.code });
          this.#db.exec('ROLLBACK TO one');
        }
        this.#db.exec('RELEASE one');
        return reply;
      }));
    } catch (cause) {
      return writes.map(({ call }) => ({ call, error: failureOf(cause) }));
    }
  }

  /** Some failures have undone the transaction already. */
  rollback(): void {
    if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
  }

  /**
   * Deleted data is overwritten, but where SQLite had moved rows between pages, a copy may lie in the gaps between present rows:
   * only writing the file anew removes it. Not where no row ever moved. The write-ahead log still holds the old pages either way.
   * A full-text index drops deleted text with a merge.
   */
  scrub(overwritten: boolean): void {
    if (!overwritten) {
      for (const fts of this.#searches()) this.#db.exec(`insert into "${fts}" ("${fts}") values ('optimize')`);
      // The copy would otherwise be in memory as a whole.
      this.#db.exec('PRAGMA temp_store = FILE; VACUUM; PRAGMA temp_store = MEMORY');
    }
    const [busy] = Object.values(this.#db.prepare('PRAGMA wal_checkpoint(TRUNCATE)').get() ?? {});
    if (busy !== 0) throw new Error('Another process is reading the database; its log cannot be emptied now');
  }

  /**
   * While one list follows the other, the log always has a reader, and SQLite would append to it without end.
   * The first checkpoint does most of the work, and blocks no write. The second gives up soon on a write that takes long, because
   * the lists of all environments wait in this thread; the next list tries again.
   */
  #letLogStartAnew(): void {
    const { size = 0 } = statSync(`${this.#path}-wal`, { throwIfNoEntry: false }) ?? {};
    if (size <= LOG_BYTES) return;
    try {
      this.#db.exec('PRAGMA wal_checkpoint; PRAGMA busy_timeout = 100; PRAGMA wal_checkpoint(RESTART)');
    } finally {
      this.#db.exec('PRAGMA busy_timeout = 5000');
    }
  }

  close(): void {
    this.#prepared.clear();
    this.#db.close();
  }

  /** Older releases had switched it on. With it a changed text of a large index took fifty times as long (2 ms among 100,000). */
  #switchOffSecureDelete(): void {
    for (const fts of this.#searches()) {
      const isOn = this.#db.prepare(`select 1 from "${fts}_config" where k = 'secure-delete' and v <> 0`).get();
      try {
        if (isOn) this.#db.exec(`insert into "${fts}" ("${fts}", rank) values ('secure-delete', 0)`);
      } catch {
        // The disk may be full; the next start tries again.
      }
    }
  }

  #searches(): readonly string[] {
    return this.#db.prepare("select name from sqlite_master where sql like 'create virtual table%using fts5%'").all().map(({ name }) => String(name));
  }

  #transaction<T>(work: () => T): T {
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      const result = work();
      this.#db.exec('COMMIT');
      return result;
    } catch (error) {
      this.rollback();
      throw error;
    }
  }

  #prepare(sql: string, keep: boolean): Prepared {
    const known = this.#prepared.get(sql);
    if (known) {
      this.#prepared.delete(sql);
      this.#prepared.set(sql, known);
      return known;
    }
    const statement = this.#db.prepare(sql);
    statement.setReturnArrays(true);
    const prepared = { statement, columns: statement.columns().map(({ name }) => name) };
    // After a change of the schema the columns of `select *` may be others.
    if (/^\s*(create|alter|drop)\b/i.test(sql)) this.#prepared.clear();
    // Lists are told of none that another connection makes.
    else if (keep && !this.#isForLists) {
      this.#prepared.set(sql, prepared);
      if (this.#prepared.size > STATEMENTS_KEPT) this.#prepared.delete(this.#prepared.keys().next().value as string);
    }
    return prepared;
  }
}

const files = new Map<string, File>();

function fileOf(path: string): File {
  const file = files.get(path);
  if (!file) throw new Error(`${path} is not open`);
  return file;
}

function failureOf(cause: unknown): Failure {
  const { message, errcode, code } = cause as { message: string; errcode?: number; code?: string };
  return { message, code: errcode ?? code, unexpected: cause instanceof Unexpected };
}

function attempt(call: number, work: () => unknown): Reply {
  try {
    return { call, result: work() };
  } catch (cause) {
    return { call, error: failureOf(cause) };
  }
}

function answer(request: Request): unknown {
  switch (request.op) {
    case 'open': {
      files.set(request.file, new File(request.file, request.kind));
      return null;
    }
    case 'run': return fileOf(request.file).run(request.statement);
    case 'batch': return fileOf(request.file).batch(request.statements);
    case 'rollback': return fileOf(request.file).rollback();
    case 'scrub': return fileOf(request.file).scrub(request.overwritten);
    case 'close': {
      fileOf(request.file).close();
      files.delete(request.file);
      return null;
    }
  }
}

const isGroupable = (request: Request): request is Write =>
  request.op === 'run' && !request.alone && /^\s*(insert|update|delete|replace)\b/i.test(request.statement.sql);

function commit(writes: readonly Write[]): void {
  for (const [path, own] of Map.groupBy(writes, ({ file }) => file)) {
    const file = files.get(path);
    const replies = file ? file.group(own) : own.map(({ call }) => ({ call, error: { message: `${path} is not open` } }));
    parentPort?.postMessage(replies);
  }
}

/** All requests that arrived during the last commit are there by now: consecutive writes among them share the next commit. */
function work(first: Request): void {
  const writes: Write[] = [];
  for (let request: Request | undefined = first; request; request = next()) {
    if (isGroupable(request)) writes.push(request);
    if (!isGroupable(request) || writes.length === WRITES_PER_COMMIT) commit(writes.splice(0));
    if (!isGroupable(request)) reply(request);
  }
  commit(writes);
}

function reply(request: Request): void {
  parentPort?.postMessage([attempt(request.call, () => answer(request))]);
}

const next = (): Request | undefined => (parentPort ? receiveMessageOnPort(parentPort)?.message as Request | undefined : undefined);

parentPort?.on('message', work);
