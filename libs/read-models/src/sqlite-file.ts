import { mkdirSync } from 'node:fs';
import { dirname, extname, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { refuse, Slots, type Refusal } from '@keyledger/kernel';
import type { Failure, Reply, Request, Result, Statement } from './sqlite-file.worker.ts';

/** `state` is fsynced with every commit; `read` can be rebuilt and is not. */
export type DatabaseKind = 'state' | 'read';
/** `lists`: a further connection to a file, which only reads. */
export type ConnectionKind = DatabaseKind | 'lists';

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
/** An erasure waits for up to a minute, and begins anew if its scrub fails: better behind some long lists. */
const SCRUB_TURN_MS = 20_000;

type Question = Request extends infer R ? (R extends Request ? Omit<R, 'call'> : never) : never;
interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** One thread for all connections of a kind, so that one environment's fsync never holds up the event loop, nor rebuilding a read model a lease, nor a search a look-up. */
class SqliteThread {
  static readonly #threads = new Map<ConnectionKind, SqliteThread>();
  readonly #kind: ConnectionKind;
  readonly #worker: Worker;
  readonly #pending = new Slots<Pending>();
  readonly files = new Map<string, SqliteFile>();
  #openFiles = 0;
  #dead: Error | undefined;

  static running(kind: ConnectionKind): SqliteThread | undefined {
    return SqliteThread.#threads.get(kind);
  }

  static of(kind: ConnectionKind): SqliteThread {
    const running = SqliteThread.running(kind);
    if (running) return running;
    const thread = new SqliteThread(kind);
    SqliteThread.#threads.set(kind, thread);
    return thread;
  }

  private constructor(kind: ConnectionKind) {
    this.#kind = kind;
    // No execArgv: a loader for the sources is not needed there (Node strips the worker's types), and would cost its start-up.
    this.#worker = new Worker(new URL(`./sqlite-file.worker${extname(import.meta.url)}`, import.meta.url), { execArgv: [], name: `sqlite-${kind}` });
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
      const call = this.#pending.add({ resolve: resolve as (result: unknown) => void, reject });
      try {
        this.#worker.postMessage({ ...question, call });
      } catch (error) {
        this.#pending.take(call);
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
    const pending = this.#pending.take(reply.call);
    if ('error' in reply) pending?.reject(failureOf(reply.error));
    else pending?.resolve(reply.result);
  }

  #died(error: Error): void {
    this.#dead ??= error;
    if (SqliteThread.#threads.get(this.#kind) === this) SqliteThread.#threads.delete(this.#kind);
    for (const { reject } of this.#pending.takeAll()) reject(this.#dead);
  }
}

interface Waiting {
  readonly exclusive: boolean;
  readonly go: () => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/**
 * One open database file. There is one connection of a kind per file and process, however many ask for it: services that share a file share
 * its turn-taking. Statements outside of transactions go out at once and are committed together; a transaction has the connection for itself.
 */
export class SqliteFile {
  readonly path: string;
  readonly #kind: ConnectionKind;
  readonly #thread: SqliteThread;
  readonly #opened: Promise<unknown>;
  #users = 0;
  #held = false;
  #waiting: Waiting[] = [];

  /** Opens the file, creating it and its folder; every `open` needs its `close`. */
  static async open(path: string, kind: ConnectionKind): Promise<SqliteFile> {
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

  private constructor(path: string, kind: ConnectionKind, thread: SqliteThread) {
    this.path = path;
    this.#kind = kind;
    this.#thread = thread;
    thread.retain();
    mkdirSync(dirname(path), { recursive: true });
    this.#opened = thread.ask({ op: 'open', file: path, kind });
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

  async begin(withinMs?: number): Promise<void> {
    await this.#hold(withinMs);
    try {
      // The first read notices what other connections have changed in the schema; preparing a statement does not.
      if (this.#kind === 'lists') await Promise.all([this.within({ sql: 'begin' }), this.within({ sql: 'select 1 from sqlite_schema limit 1' })]);
      else await this.within({ sql: 'begin immediate' });
    } catch (error) {
      await this.rollback().catch(() => undefined);
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

  /** Between two lists, because a reader would keep the log from being emptied, and the thread busy with waiting for it. */
  async scrub(overwritten: boolean): Promise<void> {
    // Opened for it, because the first list of all may begin meanwhile. State files are scrubbed in no time.
    const opened = this.#kind === 'read' ? await SqliteFile.open(this.path, 'lists') : undefined;
    const lists = opened ?? SqliteThread.running('lists')?.files.get(this.path);
    try {
      if (lists) await lists.#hold(SCRUB_TURN_MS);
      try {
        if (this.#held) await this.#turn(false);
        await this.#thread.ask({ op: 'scrub', file: this.path, overwritten });
      } finally {
        if (lists) lists.#release();
      }
    } finally {
      await opened?.close();
    }
  }

  async close(): Promise<void> {
    if (--this.#users > 0) return;
    for (const { timer, reject } of this.#waiting.splice(0)) {
      clearTimeout(timer);
      reject(unavailable('it is being closed', new Error(`${this.path} (${this.#kind}) was closed before others were done with it`)));
    }
    this.#thread.files.delete(this.path);
    await this.#thread.ask({ op: 'close', file: this.path });
    await this.#thread.release();
  }

  async #hold(withinMs?: number): Promise<void> {
    if (this.#held) await this.#turn(true, withinMs);
    this.#held = true;
  }

  #turn(exclusive: boolean, withinMs = BUSY_TIMEOUT_MS): Promise<void> {
    return new Promise((go, reject) => {
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((waiting) => waiting.go !== go);
        reject(unavailable(this.#kind === 'lists' ? 'too many lists are being asked for' : 'database is locked', new Error(`Others have held ${this.path} (${this.#kind}) for ${withinMs} ms`)));
      }, withinMs);
      this.#waiting.push({ exclusive, go, reject, timer });
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
