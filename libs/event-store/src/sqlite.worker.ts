/**
 * The thread that owns the database files of the embedded event store (see sqlite.ts), so that an fsync never holds up a request.
 * Node itself strips the types of this file when the workspace runs from source, also under Jest: erasable TypeScript, `node:` imports only.
 */
import { DatabaseSync } from 'node:sqlite';
import { parentPort } from 'node:worker_threads';

/** Database number, stream, expected revision, then id, type, data and metadata (JSON) of each event. Flat, because strings in one array cross threads cheapest. */
export type AppendRequest = readonly [db: number, stream: string, expected: number | 'any', ...events: string[]];
export const FIELDS_BEFORE_EVENTS = 3;
export const FIELDS_PER_EVENT = 4;

export type Request = { readonly call: number } & (
  | { readonly op: 'open'; readonly file: string }
  | { readonly op: 'append'; readonly appends: readonly AppendRequest[] }
  | { readonly op: 'restore'; readonly db: number; readonly rows: readonly Row[] }
  | { readonly op: 'stream'; readonly db: number; readonly stream: string; readonly from: number; readonly limit: number }
  | { readonly op: 'between'; readonly db: number; readonly stream: string; readonly revision: number; readonly end: string; readonly limit: number }
  | { readonly op: 'all'; readonly db: number; readonly after: number; readonly limit: number }
  | { readonly op: 'close'; readonly db: number }
);

/** `revision` and `position` are those of the append's last event; for 'conflict' `revision` is the stream's own and `position` means nothing. */
export type Outcome = readonly [what: 'appended' | 'duplicate' | 'conflict' | 'failed', revision: number, position: number];
export type Row = readonly [position: number, stream: string, revision: number, id: string, type: string, data: string, metadata: string, recordedAt: string];
/** `final`: the disk's contents are no longer certain, so this process must not write to the file again. */
export interface Failure {
  readonly db: number;
  readonly message: string;
  readonly final: boolean;
}

/** `synchronous` as SQLite reports it back: 2 is FULL, an fsync before every answer. */
export interface Opened { readonly db: number; readonly head: number; readonly synchronous: number }
export interface Committed { readonly recordedAt: string; readonly outcomes: readonly Outcome[]; readonly failures: readonly Failure[] }
export type Reply =
  | { readonly call: number; readonly result: Opened | Committed | readonly Row[] | null }
  | { readonly call: number; readonly error: string };

const SCHEMA_VERSION = 1;
const schema = `
  CREATE TABLE events (
    position INTEGER PRIMARY KEY, stream TEXT NOT NULL, revision INTEGER NOT NULL, id TEXT NOT NULL,
    type TEXT NOT NULL, data TEXT NOT NULL, metadata TEXT NOT NULL, recorded_at TEXT NOT NULL,
    UNIQUE (stream, revision)
  ) STRICT;
  CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
  CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
  PRAGMA user_version = ${SCHEMA_VERSION};`;

/** SQLite's primary result codes, from `errcode & 0xff`. */
const BUSY = 5, FULL = 13, TOO_BIG = 18, CONSTRAINT = 19;
const codeOf = (error: unknown): number => (error instanceof Error && 'errcode' in error ? Number(error.errcode) & 0xff : -1);
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** What the writer remembers of a stream it has written to lately. */
interface Tail {
  revision: number;
  readonly ids: Set<string>;
}

/**
 * Last revision and event ids of the streams written to lately. It stands in for a unique index on the ids, which would dirty one more page
 * for every append (measured: 25,000 appends a second without, 14,000 with). A stream that is not here costs one read along (stream, revision).
 */
class Tails {
  static readonly #maxIds = 200_000;
  readonly #tails = new Map<string, Tail>();
  #ids = 0;

  /** The first put is dropped first: to keep them by their last use would be to delete and add at every append, which leaves V8 much garbage. */
  get(stream: string): Tail | undefined {
    return this.#tails.get(stream);
  }

  put(stream: string, tail: Tail): void {
    this.#tails.set(stream, tail);
    this.#ids += tail.ids.size + 1;
    for (const [oldest, { ids }] of this.#tails) {
      if (this.#ids <= Tails.#maxIds || oldest === stream) break;
      this.#tails.delete(oldest);
      this.#ids -= ids.size + 1;
    }
  }

  grow(tail: Tail, id: string): void {
    tail.revision++;
    tail.ids.add(id);
    this.#ids++;
  }

  /** After a rollback no entry is certain. */
  clear(): void {
    this.#tails.clear();
    this.#ids = 0;
  }
}

/** One database file. */
class Log {
  readonly #db: DatabaseSync;
  readonly #lock: DatabaseSync;
  readonly #sql;
  readonly #tails = new Tails();
  #failed: string | undefined;

  constructor(file: string) {
    this.#lock = lockFor(file);
    this.#db = new DatabaseSync(file);
    try {
      this.#prepareFile(file);
    } catch (error) {
      this.close();
      throw error;
    }
    const prepare = (sql: string, arrays = false) => {
      const statement = this.#db.prepare(sql);
      statement.setReturnArrays(arrays);
      return statement;
    };
    const columns = 'position, stream, revision, id, type, data, metadata, recorded_at';
    this.#sql = {
      begin: prepare('BEGIN IMMEDIATE'),
      commit: prepare('COMMIT'),
      rollback: prepare('ROLLBACK'),
      savepoint: prepare('SAVEPOINT append'),
      release: prepare('RELEASE append'),
      rollbackAppend: prepare('ROLLBACK TO append'),
      insert: prepare('INSERT INTO events (stream, revision, id, type, data, metadata, recorded_at) VALUES (?, ?, ?, ?, ?, ?, ?)'),
      insertAt: prepare(`INSERT INTO events (${columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`),
      ids: prepare('SELECT id FROM events WHERE stream = ? ORDER BY revision', true),
      byId: prepare('SELECT revision FROM events WHERE stream = ? AND id = ?', true),
      positionOf: prepare('SELECT position FROM events WHERE stream = ? AND revision = ?', true),
      stream: prepare(`SELECT ${columns} FROM events WHERE stream = ? AND revision >= ? ORDER BY revision LIMIT ?`, true),
      between: prepare(`SELECT ${columns} FROM events WHERE (stream, revision) > (?, ?) AND stream < ? ORDER BY stream, revision LIMIT ?`, true),
      all: prepare(`SELECT ${columns} FROM events WHERE position > ? ORDER BY position LIMIT ?`, true),
      head: prepare('SELECT coalesce(max(position), 0) FROM events', true),
    };
  }

  head(): number {
    return Number((this.#sql.head.get() as unknown as [number])[0]);
  }

  synchronous(): number {
    return Number(this.#pragma('synchronous'));
  }

  stream(stream: string, from: number, limit: number): readonly Row[] {
    return this.#sql.stream.all(stream, from, limit) as unknown as Row[];
  }

  /** Stream by stream, up to a name. */
  between(stream: string, revision: number, end: string, limit: number): readonly Row[] {
    return this.#sql.between.all(stream, revision, end, limit) as unknown as Row[];
  }

  all(after: number, limit: number): readonly Row[] {
    return this.#sql.all.all(after, limit) as unknown as Row[];
  }

  /** One transaction, one fsync; each append in it succeeds or fails alone. Throws `Failed` when the whole transaction failed. */
  commit(appends: readonly AppendRequest[], recordedAt: string): Outcome[] {
    if (this.#failed) throw new Failed(this.#failed, true);
    try {
      this.#sql.begin.run();
      const outcomes = appends.map((append) => this.#append(append, recordedAt));
      this.#sql.commit.run();
      return outcomes;
    } catch (error) {
      this.#tails.clear();
      throw this.#rolledBack(error);
    }
  }

  /** Events as another log has recorded them. */
  restore(rows: readonly Row[]): void {
    if (this.#failed) throw new Failed(this.#failed, true);
    this.#mustFollow(rows);
    try {
      this.#sql.begin.run();
      for (const row of rows) {
        this.#sql.insertAt.run(...row);
        this.#tails.grow(this.#tail(row[1]), row[3]);
      }
      this.#sql.commit.run();
    } catch (error) {
      this.#tails.clear();
      throw this.#rolledBack(error);
    }
  }

  close(): void {
    this.#db.close();
    this.#lock.close();
  }

  /** No other process writes: a check before the transaction holds in it. */
  #mustFollow(rows: readonly Row[]): void {
    let head = this.head();
    const revisions = new Map<string, number>();
    const ids = new Set<string>();
    for (const [position, stream, revision, id] of rows) {
      const tail = this.#tail(stream);
      const last = revisions.get(stream) ?? tail.revision;
      if (position <= head) throw new RangeError(`${stream}: position ${position} comes after ${head}`);
      if (revision !== last + 1) throw new RangeError(`${stream}: revision ${revision} comes after ${last}`);
      if (tail.ids.has(id) || ids.has(`${stream} ${id}`)) throw new RangeError(`${stream} has the event ${id} already`);
      head = position;
      revisions.set(stream, revision);
      ids.add(`${stream} ${id}`);
    }
  }

  #append(append: AppendRequest, recordedAt: string): Outcome {
    const [, stream, expected] = append;
    const tail = this.#tail(stream);
    for (let at = FIELDS_BEFORE_EVENTS; at < append.length; at += FIELDS_PER_EVENT) {
      if (tail.ids.has(append[at] as string)) return this.#duplicate(append, at, tail.revision);
    }
    if (expected !== 'any' && expected !== tail.revision) return ['conflict', tail.revision, 0];
    // A single insert is all or nothing by itself.
    const several = append.length > FIELDS_BEFORE_EVENTS + FIELDS_PER_EVENT;
    if (several) this.#sql.savepoint.run();
    try {
      let position = 0;
      for (let at = FIELDS_BEFORE_EVENTS; at < append.length; at += FIELDS_PER_EVENT) {
        const [id, type, data, metadata] = append.slice(at, at + FIELDS_PER_EVENT) as [string, string, string, string];
        position = Number(this.#sql.insert.run(stream, tail.revision + 1, id, type, data, metadata, recordedAt).lastInsertRowid);
        this.#tails.grow(tail, id);
      }
      if (several) this.#sql.release.run();
      return ['appended', tail.revision, position];
    } catch (error) {
      this.#tails.clear();
      const onlyThis = codeOf(error) === CONSTRAINT || codeOf(error) === TOO_BIG;
      if (!onlyThis) throw error;
      if (several) {
        this.#sql.rollbackAppend.run();
        this.#sql.release.run();
      }
      return ['failed', -1, 0];
    }
  }

  #tail(stream: string): Tail {
    const known = this.#tails.get(stream);
    if (known) return known;
    const ids = (this.#sql.ids.all(stream) as unknown as [string][]).map(([id]) => id);
    const tail = { revision: ids.length - 1, ids: new Set(ids) };
    this.#tails.put(stream, tail);
    return tail;
  }

  #duplicate(append: AppendRequest, at: number, revision: number): Outcome {
    const [stream, id] = [append[1], append[at] as string];
    const [there] = this.#sql.byId.get(stream, id) as unknown as [number];
    const eventsFromHere = Math.floor((append.length - at) / FIELDS_PER_EVENT);
    const last = Math.min(there + eventsFromHere - 1, revision);
    const [position] = this.#sql.positionOf.get(stream, last) as unknown as [number];
    return ['duplicate', last, position];
  }

  /**
   * A full disk or a lock is temporary: nothing was written. Any other failure of a commit (above all of its fsync) leaves it unknown
   * what the disk holds, and a second attempt would only report success: the kernel forgets the lost pages.
   */
  #rolledBack(cause: unknown): Failed {
    let final = codeOf(cause) !== FULL && codeOf(cause) !== BUSY;
    try {
      if (this.#db.isTransaction) this.#sql.rollback.run();
    } catch {
      final = true;
    }
    if (final) this.#failed = messageOf(cause);
    return new Failed(messageOf(cause), final);
  }

  #prepareFile(file: string): void {
    this.#db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;
      PRAGMA busy_timeout = 5000; PRAGMA cache_size = -16384; PRAGMA journal_size_limit = 67108864;`);
    const [journal, synchronous] = [this.#pragma('journal_mode'), this.synchronous()];
    if (journal !== 'wal' || synchronous !== 2) throw new Error(`${file}: journal_mode ${journal}, synchronous ${synchronous}; only WAL and FULL (2) are durable`);
    const version = this.#pragma('user_version');
    if (version === 0) this.#db.exec(`BEGIN; ${schema} COMMIT;`);
    else if (version !== SCHEMA_VERSION) throw new Error(`${file} has schema version ${version}; this release knows ${SCHEMA_VERSION}`);
  }

  #pragma(name: string) {
    return Object.values(this.#db.prepare(`PRAGMA ${name}`).get() ?? {})[0];
  }
}

/** The failure of a whole transaction. */
class Failed extends Error {
  readonly final: boolean;

  constructor(message: string, final: boolean) {
    super(message);
    this.final = final;
  }
}

/**
 * A second writer must not open the log. The lock is an SQLite lock on an empty file beside it, held as long as this process lives:
 * the kernel drops it however the process ends, no stale pid needs a check, and other processes may read the log (verify, back up).
 */
function lockFor(file: string): DatabaseSync {
  const lock = new DatabaseSync(`${file}.lock`);
  try {
    lock.exec('BEGIN EXCLUSIVE');
    return lock;
  } catch (cause) {
    lock.close();
    throw codeOf(cause) === BUSY ? new Error(`${file} is already open for writing`) : cause;
  }
}

const logs: (Log | undefined)[] = [];

function logOf(db: number): Log {
  const log = logs[db];
  if (!log) throw new Error('The event store is closed');
  return log;
}

function append(appends: readonly AppendRequest[]): Committed {
  const recordedAt = new Date().toISOString();
  const outcomes: Outcome[] = appends.map(() => ['failed', -1, 0]);
  const failures: Failure[] = [];
  for (const [db, places] of Map.groupBy(appends.keys(), (place) => (appends[place] as AppendRequest)[0])) {
    try {
      const own = logOf(db).commit(places.map((place) => appends[place] as AppendRequest), recordedAt);
      own.forEach((outcome, n) => (outcomes[places[n] as number] = outcome));
    } catch (error) {
      failures.push({ db, message: messageOf(error), final: error instanceof Failed && error.final });
    }
  }
  return { recordedAt, outcomes, failures };
}

function answer(request: Request) {
  switch (request.op) {
    case 'open': {
      const log = new Log(request.file);
      return { db: logs.push(log) - 1, head: log.head(), synchronous: log.synchronous() };
    }
    case 'append': return append(request.appends);
    case 'restore': {
      logOf(request.db).restore(request.rows);
      return null;
    }
    case 'stream': return logOf(request.db).stream(request.stream, request.from, request.limit);
    case 'between': return logOf(request.db).between(request.stream, request.revision, request.end, request.limit);
    case 'all': return logOf(request.db).all(request.after, request.limit);
    case 'close': {
      logOf(request.db).close();
      logs[request.db] = undefined;
      return null;
    }
  }
}

parentPort?.on('message', (request: Request) => {
  let reply: Reply;
  try {
    reply = { call: request.call, result: answer(request) };
  } catch (error) {
    reply = { call: request.call, error: messageOf(error) };
  }
  parentPort?.postMessage(reply);
});
