import { PerEnvironment, type JsonObject } from '@keyledger/kernel';
import {
  WrongExpectedRevision,
  type Appended, type EventStore, type ExpectedRevision, type Follows, type Handler, type NewEvent, type Position, type RecordedEvent, type Subscription,
} from './port.ts';
import type { Interest } from './follows.ts';
import { GroupCommit, type Group, type Outcome, type PendingAppend } from './postgres-commits.ts';
import { ANSWER_WITHIN_MS, isOwnFault, Listener, PostgresPool, prepare, schemaOf, unreachable, type Cells, type Known, type Log } from './postgres-pool.ts';
import { mustBeDurable, prepareLog } from './postgres-schema.ts';
import { FILTERED_AT_ONCE, READ_LIMIT, Tail, Telling } from './postgres-tail.ts';
import { Follower, wholeSection, type Section } from './subscription.ts';

export { PostgresSnapshotStores } from './postgres-snapshots.ts';

export interface PostgresOptions {
  /** `postgresql://user:password@host:port/database` */
  readonly url: string;
  /** Each has a schema `<environment>_events`, created if missing. */
  readonly environments: readonly string[];
  /** The most at a time for reading and writing in all environments; one more listens. Default: 4. */
  readonly connections?: number;
  /** Accept a server that may lose confirmed events in a power cut. For tests. */
  readonly allowUnsafe?: boolean;
  /** Called for every answered append: seconds from call to durable answer, number of events. */
  readonly observe?: (seconds: number, events: number) => void;
  /** A subscription's handler threw, or its events could not be read; it gets the same batch again. Default: a process warning. */
  readonly handlerFailed?: (error: unknown) => void;
  /** The connection on which the server announces new events is lost; the store reconnects. Default: a process warning. */
  readonly lost?: (error: unknown) => void;
  /**
   * The server lacks confirmed events: a standby that had not received them has taken over. This process remembers a log that no longer
   * exists; it should end. Subscribers get nothing more. Called once. Default: a process warning.
   */
  readonly failed?: (error: Error) => void;
}

const CLOSED = 'The event store is closed';
const RESTORE_WITHIN_MS = 30_000;

/** What the stores of one server share. */
interface Shared {
  readonly pool: PostgresPool;
  release(): Promise<void>;
}

/** The log of one environment in a schema of its own, for any number of processes. The objects it returns are shared by all readers: never change them. */
export class PostgresEventStore implements EventStore, Log {
  readonly schema: string;
  readonly #shared: Shared;
  readonly #options: PostgresOptions;
  readonly #commits = new GroupCommit((group, withinMs) => this.#send(group, withinMs), (group, outcomes) => this.#settle(group, outcomes));
  readonly #tail: Tail;
  readonly #telling = new Telling(() => this.#ask('tell', `select pg_notify('${this.schema}', position::text) from "${this.schema}".head`, []));
  #closing: Promise<void> | undefined;
  #hasFailed = false;

  constructor(schema: string, shared: Shared, options: PostgresOptions) {
    this.schema = schema;
    this.#shared = shared;
    this.#options = options;
    this.#tail = new Tail((after, follows) => this.#readOn(after, follows), options.lost ?? warn);
  }

  async append(stream: string, expected: ExpectedRevision, events: readonly NewEvent[]): Promise<Appended> {
    if (events.length === 0) throw new RangeError(`${stream}: an append needs at least one event`);
    if (this.#closing) throw new Error(CLOSED);
    const datas = events.map(({ data }) => JSON.stringify(data));
    const metadatas = events.map(({ metadata }) => JSON.stringify(metadata));
    const characters = [...datas, ...metadatas].reduce((sum, text) => sum + text.length, 0);
    const startedAt = performance.now();
    return new Promise((resolve, reject) => this.#commits.add({ stream, expected, events, datas, metadatas, characters, startedAt, resolve, reject }));
  }

  async readStream(stream: string, { from = 0, limit = READ_LIMIT }: { from?: number; limit?: number } = {}): Promise<readonly RecordedEvent[]> {
    return this.#read('stream', 'where stream = $1 and revision >= $2 order by revision limit $3', [stream, from, limit]);
  }

  async readByStream(category: string, after?: Pick<RecordedEvent, 'stream' | 'revision'>, limit = READ_LIMIT): Promise<readonly RecordedEvent[]> {
    // The names of a category's streams start with `<category>-`; `.` is the character after `-`.
    const { stream, revision } = after ?? { stream: `${category}-`, revision: -1 };
    return this.#read('between', 'where (stream, revision) > ($1, $2) and stream < $3 order by stream, revision limit $4', [stream, revision, `${category}.`, limit]);
  }

  async readAll(after: Position, limit = READ_LIMIT): Promise<readonly RecordedEvent[]> {
    return this.#read('all', 'where position > $1 order by position limit $2', [after, limit]);
  }

  subscribe(after: Position, handler: Handler, follows?: readonly Follows[]): Subscription {
    const follower = new Follower(after, (position) => this.#tail.after(position), handler, follows, this.#options.handlerFailed ?? warn, () => this.head());
    this.#tail.add(follower, follows);
    queueMicrotask(() => {
      follower.wake();
      this.#tail.heard(0);
    });
    return {
      get position() { return follower.position; },
      hurry: (position) => this.#tail.hurry(position),
      close: () => {
        this.#tail.followers.delete(follower);
        return follower.close();
      },
    };
  }

  get known(): Known {
    return { position: this.#tail.known, event: this.#tail.newest };
  }

  found(position: Position, isThere: boolean, known: Known): void {
    if (position < known.position) throw this.#wentBack(`ends at ${position} but has reached to ${known.position}`);
    if (!isThere) throw this.#wentBack(`has another event at ${known.event?.position} than it had`);
    this.heard(position);
  }

  /** The server says that the log reaches this position. */
  heard(position: Position): void {
    this.#tail.heard(position);
  }

  /** The server is back: failed work is tried again now. */
  retry(): void {
    this.#tail.retry();
  }

  async head(): Promise<Position> {
    const { known } = this.#tail;
    const [[position] = []] = await this.#ask('head', `select position from "${this.schema}".head`, []);
    if (Number(position) < known) this.#wentBack(`ends at ${Number(position)} but has reached to ${known}`);
    return Number(position);
  }

  async restore(events: readonly RecordedEvent[]): Promise<void> {
    if (events.length === 0) return;
    if (this.#closing) throw new Error(CLOSED);
    const column = <T>(of: (event: RecordedEvent) => T) => events.map(of);
    try {
      await this.#ask('restore', `select "${this.schema}".restore($1, $2, $3, $4, $5, $6, $7, $8)`, [
        column(({ position }) => position), column(({ stream }) => stream), column(({ revision }) => revision), column(({ id }) => id), column(({ type }) => type),
        column(({ data }) => JSON.stringify(data)), column(({ metadata }) => JSON.stringify(metadata)), column(({ recordedAt }) => recordedAt),
      ], RESTORE_WITHIN_MS);
    } catch (error) {
      throw isOwnFault(error) ? new RangeError((error as Error).message, { cause: error }) : error;
    }
    this.#tail.heard((events.at(-1) as RecordedEvent).position);
  }

  /** Waits for the appends and handlers under way; the connections end with the last store that uses them. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    await this.#commits.drained();
    await Promise.all([...this.#tail.followers].map((follower) => follower.close()));
    this.#tail.close();
    this.#telling.close();
    await this.#shared.release();
  }

  #wentBack(how: string): Error {
    const error = new Error(`The event log in ${this.schema} ${how}: events are missing`);
    if (!this.#hasFailed) (this.#options.failed ?? warn)(error);
    this.#hasFailed = true;
    // Followers may hold some of the missing events, which must not get into a database that lacks them, too.
    for (const follower of this.#tail.followers) void follower.close();
    return error;
  }

  async #send(group: Group, withinMs: number): Promise<readonly Outcome[]> {
    const isTelling = this.#telling.isDue();
    const { known } = this.#tail;
    let outcomes: readonly Outcome[] = [];
    try {
      outcomes = await this.#commit(group, isTelling, withinMs);
      const reused = outcomes.find(([what, , position]) => what === 'appended' && Number(position) <= known);
      if (reused) this.#wentBack(`takes position ${reused[2]} but has reached to ${known}`);
      return outcomes;
    } finally {
      if (isTelling && !outcomes.some(([what]) => what === 'appended')) this.#telling.missed();
    }
  }

  #commit(group: Group, isTelling: boolean, withinMs: number): Promise<readonly Outcome[]> {
    const events = group.flatMap((append) => append.events);
    return this.#ask('append', `select * from "${this.schema}".append($1, $2, $3, $4, $5, $6, $7, $8)`, [
      group.map(({ stream }) => stream), group.map(({ expected }) => (expected === 'any' ? null : expected)), group.map((append) => append.events.length),
      events.map(({ id }) => id), events.map(({ type }) => type), group.flatMap(({ datas }) => datas), group.flatMap(({ metadatas }) => metadatas), isTelling,
    ], withinMs) as Promise<readonly unknown[]> as Promise<readonly Outcome[]>;
  }

  /** First subscribers see the whole group's events, then the callers are answered: their reads find current views, unless other processes write too. */
  #settle(group: Group, outcomes: readonly Outcome[]): void {
    let head = 0;
    group.forEach(({ stream, events }, place) => {
      const [what, lastRevision, position, recordedAt] = outcomes[place] as Outcome;
      if (what !== 'appended') return;
      head = Number(position);
      this.#tail.wrote(events.map(({ id, type, data, metadata }, index) => {
        const back = events.length - 1 - index;
        return { id, type, data, metadata, stream, revision: lastRevision - back, position: head - back, recordedAt };
      }));
    });
    this.#tail.heard(head);
    if (head > 0) this.#tail.wake();
    group.forEach((append, place) => this.#answer(append, outcomes[place] as Outcome));
  }

  #answer({ stream, expected, events, startedAt, resolve, reject }: PendingAppend, [what, revision, position]: Outcome): void {
    this.#options.observe?.((performance.now() - startedAt) / 1000, events.length);
    if (what === 'conflict') reject(new WrongExpectedRevision(stream, Number(expected), revision));
    else resolve({ revision, position: Number(position), duplicate: what === 'duplicate' });
  }

  /** Who is far behind gets every event, because a statement must not look at very many for a few. */
  async #readOn(after: Position, interest: Interest): Promise<Section> {
    const { known } = this.#tail;
    if (!interest || known - after > FILTERED_AT_ONCE) return wholeSection(await this.readAll(after), after);
    const named = (all: number, some: number) => `(split_part(stream, '-', 1) = any ($${all}) or split_part(stream, '-', 1) || '/' || type = any ($${some}))`;
    const full = (column: string) => `case when ${named(6, 7)} then ${column} end`;
    // Also the last of them: that it is there shows that this is still the known log.
    const events = this.#seen(await this.#ask('some', `select position, stream, revision, id, type, ${full('data')}, ${full('metadata')}, recorded_at from "${this.schema}".events
      where position > $1 and position <= $2 and (position = $2 or ${named(4, 5)}) order by position limit $3`,
      [after, known, READ_LIMIT, ...namesOf(interest), ...namesOf(interest.filter(({ bare }) => !bare))]));
    const last = events.at(-1)?.position;
    if (events.length < READ_LIMIT && last !== known) throw this.#wentBack(`has no event at ${known} any more`);
    const upTo = last ?? known;
    return { events, upTo, passed: upTo - after };
  }

  async #read(name: string, where: string, values: readonly unknown[]): Promise<readonly RecordedEvent[]> {
    return this.#seen(await this.#ask(name, `select position, stream, revision, id, type, data, metadata, recorded_at from "${this.schema}".events ${where}`, values));
  }

  #seen(rows: readonly Cells[]): readonly RecordedEvent[] {
    const events = rows.map(eventOf);
    for (const event of events) this.#tail.saw(event);
    return events;
  }

  async #ask(name: string, text: string, values: readonly unknown[], withinMs = ANSWER_WITHIN_MS): Promise<readonly Cells[]> {
    if (withinMs <= 0) throw unreachable(new Error('Waited too long for others'));
    return this.#shared.pool.ask({ name: `${this.schema} ${name}`, text }, values, withinMs);
  }
}

/** For a server that keeps data of a log elsewhere. Rejects as `open` below does. */
export const mustBeDurablePostgres = (url: string): Promise<void> => prepare(url, mustBeDurable);

/** The event stores of several environments on one server. */
export class PostgresEventStores extends PerEnvironment<PostgresEventStore> {
  /** Rejects when the server cannot be reached, or may lose what it has confirmed. */
  static async open(options: PostgresOptions): Promise<PostgresEventStores> {
    const { url, environments, connections = 4, allowUnsafe = false, lost = warn } = options;
    const schemas = environments.map(schemaOf);
    await prepare(url, async (run) => {
      if (!allowUnsafe) await mustBeDurable(run);
      for (const schema of schemas) await prepareLog(run, schema);
    });
    const logs: PostgresEventStore[] = [];
    const pool = new PostgresPool(url, connections, logs);
    let users = environments.length;
    const release = async () => {
      if (--users === 0) await Promise.all([listener.close(), pool.close()]);
    };
    logs.push(...schemas.map((schema) => new PostgresEventStore(schema, { pool, release }, options)));
    const listener = new Listener(url, logs, { restored: () => { for (const log of logs) log.retry(); }, lost });
    try {
      await listener.start();
    } catch (error) {
      await pool.close();
      throw error;
    }
    return new PostgresEventStores(environments.map((environment, n) => [environment, logs[n] as PostgresEventStore]));
  }

  async close(): Promise<void> {
    await Promise.all([...this.entries()].map(([, store]) => store.close()));
  }
}

/** Categories of which all types are followed, and `category/type` where it is that type alone. */
const namesOf = (interest: readonly Follows[]): [string[], string[]] => [
  interest.filter(({ types }) => !types).map(({ category }) => category), interest.flatMap(({ category, types = [] }) => types.map((type) => `${category}/${type}`)),
];

/** Parsed on first use: a process never looks into most events that it follows. */
function eventOf([position, stream, revision, id, type, data, metadata, recordedAt]: Cells): RecordedEvent {
  let parsedData: JsonObject | undefined;
  let parsedMetadata: JsonObject | undefined;
  return {
    id: String(id), type: String(type),
    get data() { return (parsedData ??= parsed(data, stream)); },
    get metadata() { return (parsedMetadata ??= parsed(metadata, stream)); },
    stream: String(stream), revision: Number(revision), position: Number(position), recordedAt: String(recordedAt),
  };
}

function parsed(json: Cells[number], stream: Cells[number]): JsonObject {
  if (json === null) throw new Error(`Nobody here has said that it reads ${String(stream)}`);
  return JSON.parse(String(json)) as JsonObject;
}

const warn = (error: unknown): void => process.emitWarning(error instanceof Error ? (error.stack ?? error.message) : String(error));
