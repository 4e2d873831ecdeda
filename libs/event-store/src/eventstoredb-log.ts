import type { AllStreamResolvedEvent, AllStreamSubscription, EventStoreDBClient, ResolvedEvent } from '@eventstore/db-client';
import { refuse, type JsonObject } from '@keyledger/kernel';
import { failureOf, kindOf, placeOf, positionOf, read, stop, within, type Connection } from './eventstoredb-client.ts';
import type { Position, RecordedEvent } from './port.ts';
import { RecentEvents } from './recent-events.ts';
import { wholeSection, type Section } from './subscription.ts';

/** Follows the environment in a stream's name on the server. */
export const SEPARATOR = '.';
/** Most reads of the log's end find only events that the subscription has delivered already. */
const FIRST_LOOK = 4;
const PAGE = 1_000;
const EVENTS_PER_NOTE = 10_000;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
const PATIENCES_OF_SILENCE = 5;

type Event = NonNullable<ResolvedEvent['event']>;

/** What the adapter adds to an event: see EventStoreDbEventStore for why its id on the server differs. */
export interface Envelope {
  readonly id: string;
  readonly metadata: JsonObject;
}

/** An event that another application wrote into one of our streams has no envelope; it is passed on as it is. */
export function recorded(event: Event): RecordedEvent {
  const { streamId, revision, type, position, created } = event;
  const { id = event.id, metadata = {} } = (event.metadata ?? {}) as Partial<Envelope>;
  const stream = streamId.slice(streamId.indexOf(SEPARATOR) + 1);
  return { id, type, data: event.data as JsonObject, metadata, stream, revision: Number(revision), position: positionOf(position), recordedAt: created.toISOString() };
}

/**
 * The log that all environments of an installation share, followed by this process with one subscription to all of them, which fans out here.
 *
 * An environment's head is the position of its own last event, because that is what its subscribers reach. The server can only be asked for the end
 * of the whole log, whose event may be any environment's, another application's or the server's own. So each process knows every environment's head
 * up to some position, `#seen`, which the subscription moves on; asking for a head reads from the end of the log backwards down to `#seen`. Mostly
 * that is one small read. The subscription delivers every event found there too.
 */
export class SharedLog {
  readonly connection: Connection;
  #patience: number;
  readonly #disconnected: (error: unknown) => void;
  readonly #heads = new Map<string, Position>();
  readonly #recent = new Map<string, RecentEvents>();
  readonly #listeners = new Map<string, () => void>();
  readonly #grown = new Set<string>();
  #seen: Position = 0;
  /** The subscription has delivered everything up to here. */
  #followed: Position = 0;
  #subscription: AllStreamSubscription | undefined;
  #failures = 0;
  #again: NodeJS.Timeout | undefined;
  #silence: NodeJS.Timeout | undefined;
  #asking: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #unnoted = 0;
  #closed = false;

  /** `patience`: milliseconds to wait for the next sign of life from the server; `first`: the same for the first one. */
  static async open(connection: Connection, environments: readonly string[], { patience, first }: { patience: number; first: number }, disconnected: (error: unknown) => void): Promise<SharedLog> {
    const log = new SharedLog(connection, environments, first, disconnected);
    try {
      await log.#readNotes();
      await log.#look();
    } catch (error) {
      await log.close();
      throw failureOf(error);
    }
    log.#patience = patience;
    log.#followed = log.#seen;
    for (const environment of environments) log.#recent.set(environment, new RecentEvents(log.#followed));
    log.#follow();
    return log;
  }

  private constructor(connection: Connection, environments: readonly string[], patience: number, disconnected: (error: unknown) => void) {
    this.connection = connection;
    this.#patience = patience;
    this.#disconnected = disconnected;
    for (const environment of environments) this.#heads.set(environment, 0);
  }

  /** Calls the listener after new events of an environment. */
  listen(environment: string, listener: () => void): void {
    this.#listeners.set(environment, listener);
  }

  /** Covers every append, by any process, answered before the call. */
  async head(environment: string): Promise<Position> {
    await within(this.#patience, this.#ask());
    return this.#headOf(environment);
  }

  /** Events a subscriber at that position has not had yet, up to the newest that this process knows of. */
  next(environment: string, after: Position): Section | Promise<Section> {
    const recent = this.#recent.get(environment);
    // The subscription delivers what comes then.
    if (recent && after > recent.end) return wholeSection([], after);
    const known = recent?.after(after, PAGE);
    return known ? wholeSection(known.events, after) : this.#page(environment, after, this.#headOf(environment), PAGE).then((events) => wholeSection(events, after));
  }

  /** The same, as of now. */
  async after(environment: string, position: Position, limit: number): Promise<readonly RecordedEvent[]> {
    const head = await this.head(environment);
    const recent = this.#recent.get(environment)?.after(position, limit);
    return recent && (recent.events.length === limit || recent.upTo >= head) ? recent.events : this.#page(environment, position, head, limit);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#again);
    clearTimeout(this.#silence);
    if (this.#subscription) stop(this.#subscription);
    // A call to a server that hangs may never end.
    await within(this.#patience, this.connection.close()).catch(() => undefined);
  }

  /** A read under way may be too early for a new caller: all new callers share the next one. */
  #ask(): Promise<void> {
    if (!this.#asking) return (this.#asking = this.#look().finally(() => { this.#asking = undefined; }));
    return (this.#next ??= this.#asking.catch(() => undefined).then(() => {
      this.#next = undefined;
      return this.#ask();
    }));
  }

  async #look(): Promise<void> {
    const known = this.#seen;
    const found = new Map<string, Position>();
    let newest: Position | undefined;
    let oldest: Position | undefined;
    let isDone = false;
    for (let size = FIRST_LOOK; !isDone; size = Math.min(8 * size, PAGE)) {
      let left = size;
      const fromPosition = oldest === undefined ? 'end' : placeOf(oldest);
      await read<AllStreamResolvedEvent>(this.connection, this.#patience, (client) => client.readAll({ direction: 'backwards', fromPosition, maxCount: size, requiresLeader: true }), ({ event }) => {
        const position = positionOf(event?.position);
        left--;
        newest ??= position;
        oldest = position;
        if (position <= known) return (isDone = true);
        const environment = this.#environmentOf(event?.streamId);
        if (environment !== undefined && !found.has(environment)) found.set(environment, position);
        return (isDone = found.size === this.#heads.size);
      });
      this.#unnoted += size - left;
      isDone ||= left > 0;
    }
    this.#seen = Math.max(this.#seen, newest ?? 0);
    for (const [environment, position] of found) this.#moveHead(environment, position);
    this.#expect(Math.max(0, ...found.values()));
    this.#note();
  }

  #follow(): void {
    const { client, library } = this.connection;
    const filter = library.streamNameFilter({ prefixes: [...this.#heads.keys()].map(prefixOf) });
    const subscription = client.subscribeToAll({ fromPosition: placeOf(this.#followed), filter });
    const lost = (error: unknown = new Error('The subscription to EventStoreDB has ended')) => {
      if (this.#subscription === subscription) this.#followAgain(error);
    };
    this.#subscription = subscription;
    subscription.on('confirmation', () => {
      this.connection.heard();
      this.#failures = 0;
    });
    subscription.on('data', ({ event }) => {
      this.connection.heard();
      try {
        if (event) this.#take(event);
      } catch (error) {
        lost(error);
      }
    });
    subscription.on('error', lost).on('end', lost).on('close', lost);
  }

  /** Resumes where the subscription was lost, and retries. */
  #followAgain(error: unknown): void {
    if (this.#subscription) stop(this.#subscription);
    this.#subscription = undefined;
    if (this.#closed) return;
    this.#disconnected(error);
    this.#again = setTimeout(() => this.#follow(), Math.min(FIRST_PAUSE_MS * 2 ** this.#failures++, LONGEST_PAUSE_MS));
  }

  #take(event: Event): void {
    const position = positionOf(event.position);
    const environment = this.#environmentOf(event.streamId);
    if (environment === undefined || position <= this.#followed) return;
    this.#recent.get(environment)?.extend([recorded(event)], position);
    this.#followed = position;
    this.#seen = Math.max(this.#seen, position);
    this.#moveHead(environment, position);
    this.#unnoted++;
    // Events that arrive together are passed on together.
    if (this.#grown.size === 0) setImmediate(() => this.#tell());
    this.#grown.add(environment);
  }

  #tell(): void {
    const grown = [...this.#grown];
    this.#grown.clear();
    for (const environment of grown) this.#listeners.get(environment)?.();
    this.#note();
  }

  /** A subscription that owes an event and delivers nothing at all is dead, whatever the connection says. */
  #expect(position: Position): void {
    if (position <= this.#followed || this.#silence || !this.#subscription) return;
    const since = this.#followed;
    this.#silence = setTimeout(() => {
      this.#silence = undefined;
      if (this.#followed === since && this.#subscription) this.#followAgain(new Error('The subscription to EventStoreDB has gone silent'));
    }, PATIENCES_OF_SILENCE * this.#patience).unref();
  }

  /** Up to an event known to exist. The server filters out other environments' events, which this client's readAll cannot request. */
  async #page(environment: string, after: Position, until: Position, limit: number): Promise<readonly RecordedEvent[]> {
    const { library } = this.connection;
    const events: RecordedEvent[] = [];
    let reached = after;
    if (reached >= until) return events;
    const open = (client: EventStoreDBClient, alive: () => void) => client.subscribeToAll({
      fromPosition: placeOf(after),
      filter: library.streamNameFilter({ prefixes: [prefixOf(environment)], maxSearchWindow: PAGE, checkpointReached: alive }),
    });
    await read<AllStreamResolvedEvent>(this.connection, this.#patience, open, ({ event }) => {
      if (!event) return false;
      events.push(recorded(event));
      reached = positionOf(event.position);
      return events.length === limit || reached >= until;
    }).catch((error: unknown) => { throw failureOf(error); });
    if (events.length < limit && reached < until) throw refuse('UNAVAILABLE', 'The event store has broken off');
    return events;
  }

  #headOf(environment: string): Position {
    return this.#heads.get(environment) ?? 0;
  }

  #moveHead(environment: string, position: Position): void {
    this.#heads.set(environment, Math.max(this.#headOf(environment), position));
  }

  #environmentOf(stream = ''): string | undefined {
    const environment = stream.slice(0, Math.max(0, stream.indexOf(SEPARATOR)));
    return this.#heads.has(environment) ? environment : undefined;
  }

  // ---- notes: without them a starting process would read back to the last event of each environment, perhaps past millions of others -----------------

  /** A process writes down the heads each time it has counted that many events. Only the time that a start takes depends on this. */
  #note(): void {
    if (this.#unnoted < EVENTS_PER_NOTE) return;
    this.#unnoted = 0;
    const { client, library } = this.connection;
    for (const [environment, head] of this.#heads) {
      const note = library.jsonEvent({ type: 'HeadNoted', data: { head, seen: this.#seen } });
      client.appendToStream(notesOf(environment), note, { deadline: this.#patience }).catch(() => undefined);
    }
  }

  async #readNotes(): Promise<void> {
    const seen = await Promise.all([...this.#heads.keys()].map(async (environment) => {
      let note = { head: 0, seen: 0 };
      const last = { direction: 'backwards', fromRevision: 'end', maxCount: 1 } as const;
      await read<ResolvedEvent>(this.connection, this.#patience, (client) => client.readStream(notesOf(environment), last), ({ event }) => {
        note = event?.data as typeof note;
        return true;
      }).catch((error: unknown) => {
        if (kindOf(error) !== 'stream-not-found') throw error;
      });
      this.#moveHead(environment, note.head);
      return note.seen;
    }));
    this.#seen = Math.min(...seen);
  }
}

const prefixOf = (environment: string): string => `${environment}${SEPARATOR}`;
/** Belongs to no environment, because it has no separator. */
const notesOf = (environment: string): string => `${environment}:heads`;
