import { randomUUID } from 'node:crypto';
import type { AppendResult, ResolvedEvent } from '@eventstore/db-client';
import { PerEnvironment, refuse } from '@keyledger/kernel';
import { Connection, doesNotAnswer, failureOf, isUnanswered, kindOf, positionOf, read, within } from './eventstoredb-client.ts';
import { recorded, SEPARATOR, SharedLog, type Envelope } from './eventstoredb-log.ts';
import {
  NO_STREAM, WrongExpectedRevision,
  type Appended, type EventStore, type ExpectedRevision, type Follows, type Handler, type NewEvent, type Position, type RecordedEvent, type Subscription,
} from './port.ts';
import { Follower } from './subscription.ts';

export interface EventStoreDbOptions {
  /** `esdb://user:password@host:2113?tls=true`, as in the server's documentation; several hosts are a cluster. */
  readonly url: string;
  /** Each name is a prefix of its streams' names: letters, digits, - and _. */
  readonly environments: readonly string[];
  /** Prefix of all stream names where several installations share a server: letters, digits, - and _. */
  readonly prefix?: string;
  /** Milliseconds after which an unanswered operation rejects. Default 1,500. */
  readonly deadline?: number;
  /** The same while opening, when no client waits for an answer. Default 10,000. */
  readonly openWithin?: number;
  /** Called for every answered append: seconds from call to durable answer, number of events. */
  readonly observe?: (seconds: number, events: number) => void;
  /** A subscription's handler threw, or its next events could not be read; it gets the same batch again. Default: a process warning. */
  readonly handlerFailed?: (error: unknown) => void;
  /** The connection is lost; the store reconnects by itself. Default: a process warning. */
  readonly disconnected?: (error: unknown) => void;
}

const CLOSED = 'The event store is closed';
const READ_LIMIT = 1_000;
const DEADLINE_MS = 1_500;
const OPEN_WITHIN_MS = 10_000;
const MAX_LOST_RACES = 100;
/** Per environment; some ten megabytes. */
const KNOWN_IDS = 100_000;

/** Ids of a stream's events, from the first one, in order. The size is the revision of the next event. */
type Ids = Set<string>;

/** For streams read or written lately. */
class KnownIds {
  readonly #streams = new Map<string, Ids>();
  #count = 0;

  of(stream: string): Ids {
    return this.#streams.get(stream) ?? new Set();
  }

  /** Events from a revision on. Several reads of a stream may overlap: ids already known are skipped. The latest stream stays, however long it is. */
  learn(stream: string, ids: Ids, from: number, events: readonly Pick<NewEvent, 'id'>[]): void {
    this.#count -= this.#weight(stream);
    for (const { id } of events.slice(ids.size - from)) ids.add(id);
    this.#streams.delete(stream);
    this.#streams.set(stream, ids);
    this.#count += this.#weight(stream);
    for (const oldest of this.#streams.keys()) {
      if (this.#count <= KNOWN_IDS || oldest === stream) break;
      this.#count -= this.#weight(oldest);
      this.#streams.delete(oldest);
    }
  }

  #weight(stream: string): number {
    const ids = this.#streams.get(stream);
    return ids ? ids.size + 1 : 0;
  }
}

/**
 * The log of one environment on an EventStoreDB, which other environments and processes share.
 *
 * An id already in its stream is never written again, whatever revision is expected. The server would ensure that only for the same ids at the same
 * expected revision, and would not say whether it wrote or remembered; with the current revision expected, it would write the same events twice. So
 * - the server gets a new id for each attempt, and ours with the metadata: an append that succeeds has written, one that fails has not;
 * - every append expects a revision, "any" the one believed to be the last: it succeeds only if all earlier events are known;
 * - the ids of the streams in use are kept. A writer has read the stream, or expects that there is none, so an append is one round trip. A stream
 *   known only in part (it was loaded from a snapshot) is read before the first append to it.
 */
export class EventStoreDbEventStore implements EventStore {
  readonly #log: SharedLog;
  readonly #environment: string;
  readonly #options: EventStoreDbOptions;
  readonly #deadline: number;
  readonly #release: () => Promise<void>;
  readonly #followers = new Set<Follower>();
  readonly #appends = new Set<Promise<unknown>>();
  readonly #known = new KnownIds();
  #appendsHere = false;
  #closing: Promise<void> | undefined;

  constructor(log: SharedLog, environment: string, options: EventStoreDbOptions, release: () => Promise<void>) {
    this.#log = log;
    this.#environment = environment;
    this.#options = options;
    this.#deadline = options.deadline ?? DEADLINE_MS;
    this.#release = release;
    log.listen(environment, () => {
      for (const follower of this.#followers) follower.wake();
    });
  }

  async append(stream: string, expected: ExpectedRevision, events: readonly NewEvent[]): Promise<Appended> {
    if (events.length === 0) throw new RangeError(`${stream}: an append needs at least one event`);
    if (new Set(events.map(({ id }) => id)).size < events.length) throw new RangeError(`${stream}: two events have the same id`);
    this.#mustBeOpen();
    this.#appendsHere = true;
    const startedAt = performance.now();
    const work = within(this.#deadline, this.#append(stream, expected, events, startedAt + this.#deadline));
    this.#appends.add(work);
    try {
      return await work;
    } catch (error) {
      throw failureOf(error);
    } finally {
      this.#appends.delete(work);
      this.#options.observe?.((performance.now() - startedAt) / 1000, events.length);
    }
  }

  async readStream(stream: string, { from = 0, limit = READ_LIMIT }: { from?: number; limit?: number } = {}): Promise<readonly RecordedEvent[]> {
    this.#mustBeOpen();
    const events = await this.#read(stream, from, limit);
    const ids = this.#known.of(stream);
    if (this.#appendsHere && from <= ids.size && events.length > 0) this.#known.learn(stream, ids, from, events);
    return events;
  }

  async readAll(after: Position, limit = READ_LIMIT): Promise<readonly RecordedEvent[]> {
    this.#mustBeOpen();
    return this.#log.after(this.#environment, after, limit).catch((error: unknown) => { throw failureOf(error); });
  }

  subscribe(after: Position, handler: Handler, follows?: readonly Follows[]): Subscription {
    this.#mustBeOpen();
    const follower = new Follower(after, (position) => this.#log.next(this.#environment, position), handler, follows, this.#options.handlerFailed ?? warn);
    this.#followers.add(follower);
    queueMicrotask(() => follower.wake());
    return {
      get position() { return follower.position; },
      close: () => {
        this.#followers.delete(follower);
        return follower.close();
      },
    };
  }

  async head(): Promise<Position> {
    this.#mustBeOpen();
    return this.#log.head(this.#environment).catch((error: unknown) => { throw failureOf(error); });
  }

  /** Waits for the appends and handlers under way. The connection ends with the last environment's store. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#appends);
    await Promise.all([...this.#followers].map((follower) => follower.close()));
    await this.#release();
  }

  async #append(stream: string, expected: ExpectedRevision, events: readonly NewEvent[], until: number): Promise<Appended> {
    let ids = this.#known.of(stream);
    for (let lostRaces = 0, isRead = false; lostRaces < MAX_LOST_RACES; lostRaces++, isRead = true) {
      const there = events.findIndex(({ id }) => ids.has(id));
      if (there >= 0) return this.#remembered(stream, [...ids].indexOf((events[there] as NewEvent).id), events.length - there);
      const last = ids.size - 1;
      const at = expected === 'any' ? last : expected;
      if (at === last) {
        const { success, nextExpectedRevision, position } = await this.#write(stream, at, events, until - performance.now());
        if (success) {
          this.#known.learn(stream, ids, at + 1, events);
          return { revision: Number(nextExpectedRevision), position: positionOf(position), duplicate: false };
        }
      } else if (isRead) throw new WrongExpectedRevision(stream, at, last);
      ids = await this.#catchUp(stream, ids, until);
    }
    throw refuse('TRY_AGAIN');
  }

  async #write(stream: string, at: number, events: readonly NewEvent[], deadline: number): Promise<Pick<AppendResult, 'success' | 'nextExpectedRevision' | 'position'>> {
    // An append reported as failed must not succeed long after.
    if (deadline <= 0) throw doesNotAnswer();
    const { connection } = this.#log;
    const { client, library } = connection;
    const written = events.map(({ id, type, data, metadata }) =>
      library.jsonEvent({ id: randomUUID(), type, data, metadata: { id, metadata } satisfies Envelope }));
    const expectedRevision = at === NO_STREAM ? 'no_stream' : BigInt(at);
    const askedAt = performance.now();
    try {
      const result = await client.appendToStream(this.#nameOf(stream), written, { expectedRevision, requiresLeader: true, deadline });
      connection.heard();
      return result;
    } catch (error) {
      if (isUnanswered(error)) connection.unanswered(client, askedAt);
      else connection.heard();
      if (kindOf(error) === 'wrong-expected-version') return { success: false, nextExpectedRevision: -1n };
      throw error;
    }
  }

  /** The answer to the first append of these events. */
  async #remembered(stream: string, revision: number, count: number): Promise<Appended> {
    const last = (await this.#read(stream, revision, count)).at(-1);
    if (!last) throw refuse('UNAVAILABLE', `${stream} has lost its events from revision ${revision} on`);
    return { revision: last.revision, position: last.position, duplicate: true };
  }

  /** The ids of all events the stream has now. Ids read in time are kept, so that the next attempt gets further. */
  async #catchUp(stream: string, ids: Ids, until: number): Promise<Ids> {
    while (performance.now() < until) {
      const from = ids.size;
      const page = await this.#read(stream, from, READ_LIMIT);
      this.#known.learn(stream, ids, from, page);
      if (page.length < READ_LIMIT) return ids;
    }
    throw doesNotAnswer();
  }

  async #read(stream: string, from: number, limit: number): Promise<RecordedEvent[]> {
    const events: RecordedEvent[] = [];
    const options = { fromRevision: BigInt(from), maxCount: limit, requiresLeader: true };
    try {
      await read<ResolvedEvent>(this.#log.connection, this.#deadline, (client) => client.readStream(this.#nameOf(stream), options), ({ event }) => {
        if (event) events.push(recorded(event));
        return events.length === limit;
      });
    } catch (error) {
      if (kindOf(error) !== 'stream-not-found') throw failureOf(error);
    }
    return events;
  }

  #nameOf(stream: string): string {
    return `${this.#environment}${SEPARATOR}${stream}`;
  }

  #mustBeOpen(): void {
    if (this.#closing) throw new Error(CLOSED);
  }
}

/** The event stores of several environments on one server, over one connection. Rejects when the server cannot be reached. */
export class EventStoreDbEventStores extends PerEnvironment<EventStoreDbEventStore> {
  static async open(options: EventStoreDbOptions): Promise<EventStoreDbEventStores> {
    const { url, environments, prefix, deadline = DEADLINE_MS, openWithin = OPEN_WITHIN_MS, disconnected = warn } = options;
    for (const name of [...environments, ...(prefix === undefined ? [] : [prefix])]) if (!/^[\w-]+$/.test(name)) throw new RangeError(`${name}: the name of an environment, or before it, has letters, digits, - and _ only`);
    const log = await SharedLog.open(await Connection.open(url), environments.map((name) => placeIn(prefix, name)), { patience: deadline, first: openWithin }, disconnected);
    const openStores = new Set(environments);
    return new EventStoreDbEventStores(environments.map((environment) => [environment, new EventStoreDbEventStore(log, placeIn(prefix, environment), options, async () => {
      openStores.delete(environment);
      if (openStores.size === 0) await log.close();
    })] as const));
  }

  async close(): Promise<void> {
    await Promise.all([...this.entries()].map(([, store]) => store.close()));
  }
}

/** An environment's name on the server. The colon is in neither part, so no two installations can share a name. */
const placeIn = (prefix: string | undefined, environment: string): string => (prefix === undefined ? environment : `${prefix}:${environment}`);

const warn = (error: unknown): void => process.emitWarning(error instanceof Error ? (error.stack ?? error.message) : String(error));
