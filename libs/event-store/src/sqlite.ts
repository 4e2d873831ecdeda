import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { PerEnvironment, refuse, Slots, type JsonObject } from '@keyledger/kernel';
import {
  WrongExpectedRevision,
  type Appended, type EventStore, type ExpectedRevision, type Follows, type Handler, type NewEvent, type Position, type RecordedEvent, type Subscription,
} from './port.ts';
import { RecentEvents } from './recent-events.ts';
import type { AppendRequest, Committed, Failure, Opened, Outcome, Reply, Request, Row } from './sqlite.worker.ts';
import { Follower, wholeSection, type Section } from './subscription.ts';

export interface SqliteOptions {
  /** Called for every answered append: seconds from call to durable answer, number of events. */
  readonly observe?: (seconds: number, events: number) => void;
  /** A subscription's handler threw; it gets the same batch again. Default: a process warning. */
  readonly handlerFailed?: (error: unknown) => void;
  /** The store takes no more writes after a failure of the disk: end this process; a new one finds out what is on disk. Default: a process warning. */
  readonly failed?: (error: Error) => void;
}

const CLOSED = 'The event store is closed';
const READ_LIMIT = 1_000;
/** Streams per database whose last revision is known without asking. */
const KNOWN_STREAMS = 50_000;
/** One message is being committed while the next waits at the worker; all later appends go together. That is the group commit. */
const MESSAGES_UNDER_WAY = 2;
const APPENDS_PER_MESSAGE = 500;

interface PendingAppend {
  readonly log: OpenLog;
  readonly request: AppendRequest;
  readonly events: readonly NewEvent[];
  readonly startedAt: number;
  readonly resolve: (appended: Appended) => void;
  readonly reject: (error: Error) => void;
}

type Question = Request extends infer R ? (R extends { op: 'append' } ? never : R extends Request ? Omit<R, 'call'> : never) : never;
interface PendingQuestion {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** The main thread's side of the worker: questions go out at once, appends in groups. */
class SqliteWorker {
  readonly #worker: Worker;
  readonly #underWay = new Slots<PendingQuestion | readonly PendingAppend[]>();
  #groups = 0;
  #waiting: PendingAppend[] = [];
  #flushing = false;
  readonly #answeredNext: (() => void)[] = [];
  #users = 0;
  #dead: Error | undefined;

  constructor() {
    // No execArgv: a loader for the sources is not needed there (Node strips the worker's types), and would cost its start-up.
    this.#worker = new Worker(new URL(`./sqlite.worker${extname(import.meta.url)}`, import.meta.url), { execArgv: [], name: 'event-store' });
    // `node --watch` reports the thread's imports on the same channel.
    this.#worker.on('message', (reply: Partial<Reply>) => {
      if (reply.call !== undefined) this.#answered(reply as Reply);
    });
    this.#worker.on('error', (error) => this.#died(error as Error));
    this.#worker.on('exit', () => this.#died(new Error(CLOSED)));
  }

  async open(file: string): Promise<Opened> {
    this.#users++;
    try {
      return await this.ask<Opened>({ op: 'open', file });
    } catch (error) {
      await this.release();
      throw error;
    }
  }

  /** Ends the thread with the last store that uses it. */
  async release(): Promise<void> {
    if (--this.#users === 0) await this.#worker.terminate();
  }

  /** Resolves when every append to this log has been answered. */
  async drained(log: OpenLog): Promise<void> {
    while ([...this.#underWay.all.filter(isGroup), this.#waiting].some((appends) => appends.some((append) => append.log === log))) {
      await new Promise<void>((resolve) => this.#answeredNext.push(resolve));
    }
  }

  ask<T>(question: Question): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#dead) return reject(this.#dead);
      const call = this.#underWay.add({ resolve: resolve as (result: unknown) => void, reject });
      this.#worker.postMessage({ ...question, call });
    });
  }

  append(append: PendingAppend): void {
    if (this.#dead) return append.reject(this.#dead);
    this.#waiting.push(append);
    if (this.#flushing || this.#groups >= MESSAGES_UNDER_WAY) return;
    this.#flushing = true;
    // Runs after all code that is ready now: appends of one turn are sent together.
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    this.#flushing = false;
    while (this.#waiting.length > 0 && this.#groups < MESSAGES_UNDER_WAY) {
      const group = this.#waiting.length <= APPENDS_PER_MESSAGE ? this.#waiting : this.#waiting.slice(0, APPENDS_PER_MESSAGE);
      this.#waiting = this.#waiting.slice(group.length);
      const call = this.#underWay.add(group);
      this.#groups++;
      this.#worker.postMessage({ op: 'append', call, appends: group.map(({ request }) => request) } satisfies Request);
    }
  }

  #answered(reply: Reply): void {
    const asked = this.#underWay.take(reply.call);
    if (!asked) return;
    if (!isGroup(asked)) return 'error' in reply ? asked.reject(new Error(reply.error)) : asked.resolve(reply.result);
    this.#groups--;
    this.#flush();
    if ('error' in reply) for (const { reject } of asked) reject(new Error(reply.error));
    else settle(asked, reply.result as Committed);
    for (const resolve of this.#answeredNext.splice(0)) resolve();
  }

  #died(error: Error): void {
    this.#dead ??= error;
    const pending = [...this.#underWay.takeAll().flat(), ...this.#waiting];
    this.#waiting = [];
    for (const { reject } of pending) reject(this.#dead);
    for (const resolve of this.#answeredNext.splice(0)) resolve();
  }
}

const isGroup = (asked: PendingQuestion | readonly PendingAppend[]): asked is readonly PendingAppend[] => Array.isArray(asked);

/** First the whole group's events are recorded and shown to subscribers, then the callers are answered: their reads find current views. */
function settle(group: readonly PendingAppend[], { recordedAt, outcomes, failures }: Committed): void {
  const grown = new Set<OpenLog>();
  group.forEach(({ log, request, events }, place) => {
    const [what, revision, position] = outcomes[place] as Outcome;
    if (what !== 'appended') return;
    log.grow(request[1], events, revision, position, recordedAt);
    grown.add(log);
  });
  for (const failure of failures) group.find(({ log }) => log.db === failure.db)?.log.failed(failure);
  for (const log of grown) log.wakeFollowers();
  group.forEach((append, place) => answer(append, outcomes[place] as Outcome, failures));
}

function answer({ log, request, events, startedAt, resolve, reject }: PendingAppend, [what, revision, position]: Outcome, failures: readonly Failure[]): void {
  log.options.observe?.((performance.now() - startedAt) / 1000, events.length);
  if (what === 'failed') reject(log.failure ?? couldNotWrite(request[1], failures.find(({ db }) => db === log.db)));
  else if (what === 'conflict') reject(new WrongExpectedRevision(request[1], Number(request[2]), revision));
  else resolve({ revision, position, duplicate: what === 'duplicate' });
}

/** A failure of the whole group is temporary (the disk was full); without one, SQLite refused these events. */
const couldNotWrite = (stream: string, failure: Failure | undefined): Error =>
  failure ? refuse('UNAVAILABLE', `The event store could not write: ${failure.message}`) : new RangeError(`${stream}: events too large or malformed`);

/** What the main thread knows of one database. */
class OpenLog {
  readonly db: number;
  readonly synchronous: number;
  readonly options: SqliteOptions;
  readonly followers = new Set<Follower>();
  #recent: RecentEvents;
  /** Last revisions of the streams written or read lately. Never out of date, because every writer is in this process. */
  readonly #revisions = new Map<string, number>();
  head: Position;
  failure: Error | undefined;

  constructor({ db, head, synchronous }: Opened, options: SqliteOptions) {
    this.db = db;
    this.synchronous = synchronous;
    this.options = options;
    this.head = head;
    this.#recent = new RecentEvents(head);
  }

  /** These events, the last of them at this revision and position, have become durable. */
  grow(stream: string, events: readonly NewEvent[], lastRevision: number, lastPosition: Position, recordedAt: string): void {
    this.#recent.extend(events.map(({ id, type, data, metadata }, index) => {
      const back = events.length - 1 - index;
      return { id, type, data, metadata, stream, revision: lastRevision - back, position: lastPosition - back, recordedAt };
    }), lastPosition);
    this.head = lastPosition;
    this.learn(stream, lastRevision);
  }

  /** These events come from another log, with their positions. */
  restored(events: readonly RecordedEvent[]): void {
    for (const { stream, revision } of events) this.learn(stream, revision);
    this.head = (events.at(-1) as RecordedEvent).position;
    this.#recent = new RecentEvents(this.head);
    this.wakeFollowers();
  }

  wakeFollowers(): void {
    for (const follower of this.followers) follower.wake();
  }

  recentAfter(position: Position, limit: number): Section | undefined {
    return this.#recent.after(position, limit);
  }

  revisionOf(stream: string): number | undefined {
    return this.#revisions.get(stream);
  }

  learn(stream: string, revision: number): void {
    if (revision < (this.#revisions.get(stream) ?? -1)) return;
    // The first learnt is forgotten first: to keep them by their last use would be to delete and add all the time (see Slots).
    this.#revisions.set(stream, revision);
    if (this.#revisions.size > KNOWN_STREAMS) this.#revisions.delete(this.#revisions.keys().next().value as string);
  }

  failed({ message, final }: Failure): void {
    if (!final || this.failure) return;
    this.failure = refuse('UNAVAILABLE', `The event store takes no more writes until a restart: ${message}`);
    (this.options.failed ?? warn)(this.failure);
  }
}

/**
 * The embedded event store: a database file of its own, written by this process alone (a second one is refused).
 * The objects it returns are shared by all readers: never change them.
 */
export class SqliteEventStore implements EventStore {
  readonly #worker: SqliteWorker;
  readonly #log: OpenLog;
  #closing: Promise<void> | undefined;

  private constructor(worker: SqliteWorker, log: OpenLog) {
    this.#worker = worker;
    this.#log = log;
  }

  /** With a worker thread of its own, or a shared one. The file is created if missing; its folder must exist. */
  static async open(file: string, options: SqliteOptions = {}, worker = new SqliteWorker()): Promise<SqliteEventStore> {
    return new SqliteEventStore(worker, new OpenLog(await worker.open(file), options));
  }

  async append(stream: string, expected: ExpectedRevision, events: readonly NewEvent[]): Promise<Appended> {
    if (events.length === 0) throw new RangeError(`${stream}: an append needs at least one event`);
    if (this.#closing) throw new Error(CLOSED);
    if (this.#log.failure) throw this.#log.failure;
    const fields: string[] = [];
    for (const { id, type, data, metadata } of events) fields.push(id, type, JSON.stringify(data), JSON.stringify(metadata));
    const request: AppendRequest = [this.#log.db, stream, expected, ...fields];
    const startedAt = performance.now();
    return new Promise((resolve, reject) => this.#worker.append({ log: this.#log, request, events, startedAt, resolve, reject }));
  }

  async restore(events: readonly RecordedEvent[]): Promise<void> {
    if (events.length === 0) return;
    if (this.#closing) throw new Error(CLOSED);
    if (this.#log.failure) throw this.#log.failure;
    await this.#worker.ask({ op: 'restore', db: this.#log.db, rows: events.map(rowOf) });
    this.#log.restored(events);
  }

  async readStream(stream: string, { from = 0, limit = READ_LIMIT }: { from?: number; limit?: number } = {}): Promise<readonly RecordedEvent[]> {
    const last = this.#log.revisionOf(stream);
    if (last !== undefined && from > last) return [];
    const rows = await this.#worker.ask<readonly Row[]>({ op: 'stream', db: this.#log.db, stream, from, limit });
    const events = rows.map(eventOf);
    if (events.length < limit && (events.length > 0 || from === 0)) this.#log.learn(stream, events.at(-1)?.revision ?? -1);
    return events;
  }

  async readByStream(category: string, after?: Pick<RecordedEvent, 'stream' | 'revision'>, limit = READ_LIMIT): Promise<readonly RecordedEvent[]> {
    // The names of a category's streams start with `<category>-`; `.` is the character after `-`.
    const { stream, revision } = after ?? { stream: `${category}-`, revision: -1 };
    return (await this.#worker.ask<readonly Row[]>({ op: 'between', db: this.#log.db, stream, revision, end: `${category}.`, limit })).map(eventOf);
  }

  async readAll(after: Position, limit = READ_LIMIT): Promise<readonly RecordedEvent[]> {
    return (await this.#after(after, limit)).events;
  }

  subscribe(after: Position, handler: Handler, follows?: readonly Follows[]): Subscription {
    const { followers, options } = this.#log;
    const follower = new Follower(after, (position) => this.#after(position, READ_LIMIT), handler, follows, options.handlerFailed ?? warn);
    followers.add(follower);
    queueMicrotask(() => follower.wake());
    return {
      get position() { return follower.position; },
      close: () => {
        followers.delete(follower);
        return follower.close();
      },
    };
  }

  head(): Position {
    return this.#log.head;
  }

  /** The file's `PRAGMA synchronous` as read back: 2 (FULL), or it would not have opened. */
  get synchronous(): number {
    return this.#log.synchronous;
  }

  /** Waits for the appends and handlers under way, then releases the file. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    await this.#worker.drained(this.#log);
    await Promise.all([...this.#log.followers].map((follower) => follower.close()));
    await this.#worker.ask({ op: 'close', db: this.#log.db });
    await this.#worker.release();
  }

  #after(position: Position, limit: number): Section | Promise<Section> {
    return this.#log.recentAfter(position, limit)
      ?? this.#worker.ask<readonly Row[]>({ op: 'all', db: this.#log.db, after: position, limit }).then((rows) => wholeSection(rows.map(eventOf), position));
  }
}

/** The event stores of several environments, each in its own file, all served by one worker thread. */
export class SqliteEventStores extends PerEnvironment<SqliteEventStore> {
  static async open(files: Readonly<Record<string, string>>, options: SqliteOptions = {}): Promise<SqliteEventStores> {
    const worker = new SqliteWorker();
    const opening = Object.entries(files).map(async ([environment, file]) => [environment, await SqliteEventStore.open(file, options, worker)] as const);
    const outcomes = await Promise.allSettled(opening);
    const stores = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (!failure) return new SqliteEventStores(stores);
    await Promise.all(stores.map(([, store]) => store.close()));
    throw failure.reason;
  }

  async close(): Promise<void> {
    await Promise.all([...this.entries()].map(([, store]) => store.close()));
  }
}

function eventOf([position, stream, revision, id, type, data, metadata, recordedAt]: Row): RecordedEvent {
  return { id, type, data: JSON.parse(data) as JsonObject, metadata: JSON.parse(metadata) as JsonObject, stream, revision, position, recordedAt };
}

const rowOf = ({ position, stream, revision, id, type, data, metadata, recordedAt }: RecordedEvent): Row =>
  [position, stream, revision, id, type, JSON.stringify(data), JSON.stringify(metadata), recordedAt];

const warn = (error: unknown): void => process.emitWarning(error instanceof Error ? (error.stack ?? error.message) : String(error));
