import { setTimeout as sleep } from 'node:timers/promises';
import { wants, WebhookEndpoint, type WebhookEndpointEvent, type WebhookFilter, type WebhookType } from '@keyledger/domain';
import { categoryOf, originOf, subjectOf, type EventStore, type Position, type RecordedEvent, type Subscription } from '@keyledger/event-store';
import { addSeconds, derivedId, environments, eventId, PerEnvironment, Refusal, runIn, systemContext, type Clock, type Instant, type LicenseId, type WebhookEndpointId } from '@keyledger/kernel';
import type { Log } from '@keyledger/observability';
import { distance, mustReach, ReadIndex, type Database, type Statement, type StateDatabases, type View } from '@keyledger/read-models';
import type { Announcement } from './announcements.ts';
import { giveUpSome, KEPT_DAYS, MAIL, putting, type Parcel } from './outbox.ts';
import { opened, type Sources } from './sources.ts';

/** What must be known of an endpoint to queue something for it. */
interface Listener {
  readonly id: WebhookEndpointId;
  readonly revision: number;
  readonly enabled: boolean;
  readonly events: readonly WebhookFilter[];
  readonly createdAt: Instant;
  /** Events from before are no news for it. */
  readonly since: Instant;
}

/** An event, how it is told, and the endpoints it is news for. */
interface News {
  readonly event: RecordedEvent;
  readonly tell: () => Promise<readonly Announcement[]>;
  readonly endpoints: readonly Listener[];
}

/** The mails: event type → what a mail about it needs, or nothing. It holds no personal data. */
export type MailsOf = (event: RecordedEvent) => { readonly type: string; readonly body: string } | undefined;

const EVENTS_PER_SAVE = 5_000;
const REPLAY_PAGE = 500;
/** Together they take a store hardly longer than one; more would keep other readers waiting. */
const READ_AT_ONCE = 100;
/** Some three seconds, with longer and longer pauses. */
const TRIES = 6;
const TIMEOUT_MS = 3_000;
const SKEW_SECONDS = 60;
/** A thousand endpoints make a thousand rows of each event, and with files all environments' writes wait for the one under way: some 15 ms. */
const ROWS_PER_WRITE = 250;
/** As long as a write took, it leaves the store to others, but no longer than this. */
const LONGEST_REST_MS = 50;
/** Both in `reactions`: the read position in the log, and where the log ended when it was first followed. */
const CHECKPOINT = 'notifier';
const MAILS_AFTER = 'notifier-mails-after';

interface AnnouncerOptions {
  readonly environment: string;
  readonly store: EventStore;
  readonly database: Database;
  readonly sources: Sources;
  readonly clock: Clock;
  readonly mailsOf: MailsOf;
  /** A license's data key has been destroyed: nothing of it may stay in memory. */
  readonly forget: (licenseId: LicenseId) => void;
  /** Called when something has been put into the outbox. */
  readonly wake: () => void;
  readonly log: Log;
}

/**
 * Follows the log of one environment and puts what its endpoints and mails need into the outbox, the last of it in one transaction with the read position:
 * nothing is left out, and since a parcel's id derives from event and target, nothing is put there twice, by however many processes. Without a subscriber,
 * events pass by without being decoded.
 */
class Announcer implements View {
  readonly #at: AnnouncerOptions;
  readonly #subscription: Subscription;
  readonly #listeners: (() => void)[] = [];
  readonly #endpoints: Map<WebhookEndpointId, Listener>;
  readonly #mailsAfter: Position;
  #passed = 0;
  #hour = '';
  #replaying: Promise<void> | undefined;
  #isClosing = false;
  /** Streams that could not be read, and how often that was tried. */
  readonly #unread = new Map<string, number>();
  position: Position;

  static async start(at: AnnouncerOptions): Promise<Announcer> {
    // One statement, so that the endpoints are those of that position in the log.
    const { rows } = await at.database.run<{ position: number | null; mails_after: number | null; id: WebhookEndpointId | null; revision: number; enabled: number; events: string; created_at: Instant }>(
      `select c.position, c.mails_after, e.id, e.revision, e.enabled, e.events, e.created_at
        from (select max(case name when '${CHECKPOINT}' then position end) as position, max(case name when '${MAILS_AFTER}' then position end) as mails_after from reactions) as c
        left join notifier_endpoints e on e.deleted = 0 order by e.id`);
    const position = Number(rows[0]?.position ?? 0);
    await mustReach(at.store, position, at.environment);
    // A customer cannot tell that a mail is one of last week: mail begins when the log is first followed. Where that was not noted yet, it began long ago.
    const mailsAfter = position === 0 ? await beginAnew(at) : Number(rows[0]?.mails_after ?? 0);
    const endpoints = rows.flatMap(({ id, revision, enabled, events, created_at: createdAt }) =>
      (id === null ? [] : [{ id, revision: Number(revision), enabled: Number(enabled) === 1, events: JSON.parse(events) as WebhookFilter[], createdAt, since: sinceOf(createdAt) }]));
    return new Announcer(at, position, endpoints, mailsAfter);
  }

  private constructor(at: AnnouncerOptions, position: Position, endpoints: readonly Listener[], mailsAfter: Position) {
    this.#at = at;
    this.#mailsAfter = mailsAfter;
    this.position = position;
    this.#endpoints = new Map(endpoints.map((endpoint) => [endpoint.id, endpoint]));
    this.#subscription = at.store.subscribe(position, (events, upTo, passed) => this.#follow(events, upTo, passed), categories(at.sources).map((category) => ({ category })));
    this.replay();
  }

  onAdvance(listener: () => void): void {
    this.#listeners.push(listener);
  }

  hurry(position: Position): void {
    this.#subscription.hurry?.(position);
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#subscription.close();
    await this.#replaying;
    if (this.#passed > 0) await this.#at.database.batch([reached(this.position)]);
  }

  /** Queues past events that endpoints are to be sent once more, and gives up pending deliveries of endpoints that are deleted or disabled. */
  replay(): void {
    const before = this.#replaying ?? Promise.resolve();
    this.#replaying = before.then(() => this.#replay()).catch((error: unknown) => this.#at.log.warn({ err: error, environment: this.#at.environment }, 'missed events could not be queued for endpoints; it will be tried again'));
  }

  #follow(events: readonly RecordedEvent[], position: Position, passed: number): void | Promise<void> {
    const hours = this.#newHours(events);
    const endpoints = [...this.#endpoints.values()];
    let isOfInterest = false;
    for (const event of events) {
      isOfInterest ||= isOfEndpoint(event) || this.#newsIn(event, endpoints).length > 0 || this.#at.mailsOf(event) !== undefined;
      if (event.type === 'LicenseErased') this.#at.forget(subjectOf(event.stream) as LicenseId);
    }
    this.#passed += passed;
    if (!isOfInterest && hours.length === 0 && this.#passed < EVENTS_PER_SAVE) return this.#advance(position);
    return this.#take(isOfInterest ? events : [], hours, position);
  }

  async #take(events: readonly RecordedEvent[], hours: readonly Statement[], position: Position): Promise<void> {
    const statements: Statement[] = [...hours];
    const before = new Map(this.#endpoints);
    const enabled = new Set(events.filter(({ type }) => type === 'WebhookEndpointEnabled').map(({ stream }) => subjectOf(stream)));
    try {
      const news: News[] = [];
      const mails: Parcel[] = [];
      for (const event of events) {
        if (isOfEndpoint(event)) statements.push(...this.#hear(event));
        else {
          news.push(...this.#newsIn(event, [...this.#endpoints.values()]));
          mails.push(...this.#mailOf(event));
        }
      }
      // What has been put into the outbox meanwhile is there again, once, when the same events are read after the next start.
      if (!await this.#put(news, mails, enabled, [...statements, reached(position)])) return;
    } catch (error) {
      // The same events come again, and have to meet the same endpoints.
      this.#endpoints.clear();
      for (const [id, endpoint] of before) this.#endpoints.set(id, endpoint);
      this.#hour = '';
      throw error;
    }
    this.#passed = 0;
    this.#advance(position);
    if (events.length > 0) this.#at.wake();
    if (events.some(isOfEndpoint)) this.replay();
  }

  /**
   * A page of the log may be a million parcels, and with files the writes of all environments wait for a transaction: only the last of them are in that of `rest`.
   * The others stay as they are, sent or not, when the same events are read again or another process is ahead. What is for an endpoint that `rest`
   * enables is among the last: until then the tables may call it disabled, and it would be given up. Another process may have read only as far as its being disabled. False where it was closed before all of them were there.
   */
  async #put(news: readonly News[], mails: readonly Parcel[], enabled: ReadonlySet<string>, rest: readonly Statement[]): Promise<boolean> {
    const { database, wake } = this.#at;
    const [back, others]: [Parcel[], Parcel[]] = [[], [...mails]];
    for await (const parcels of this.#parcelsOf(news)) {
      for (const parcel of parcels) (enabled.has(parcel.target) ? back : others).push(parcel);
      while (others.length > ROWS_PER_WRITE) {
        if (this.#isClosing) return false;
        const startedMs = performance.now();
        await database.batch(putting(others.splice(0, ROWS_PER_WRITE)));
        wake();
        await sleep(Math.min(performance.now() - startedMs, LONGEST_REST_MS));
      }
    }
    await database.batch([...rest, ...putting([...others, ...back])]);
    return true;
  }

  #advance(position: Position): void {
    this.position = position;
    for (const listener of this.#listeners) listener();
  }

  /**
   * For when all of a log is read again, as after it was moved: events from before an endpoint existed are not sent to it, and old ones may have been
   * sent and forgotten. An environment's own time is never behind real time.
   */
  #newsIn(event: RecordedEvent, listeners: readonly Listener[]): News[] {
    if (listeners.length === 0) return [];
    const source = this.#at.sources.byCategory[categoryOf(event.stream)];
    const how = source?.table[event.type];
    if (!source || !how) return [];
    const { at } = originOf(event);
    if (Date.parse(at) < Date.now() - KEPT_DAYS * 86_400_000) return [];
    const endpoints = listeners.filter((endpoint) => at >= endpoint.since && how.types.some((type) => hears(endpoint, type)));
    return endpoints.length > 0 ? [{ event, tell: () => source.tell(event, how), endpoints }] : [];
  }

  /** Of one event after the other. Read one after another, the licenses of a batch would take longer than the batch itself. */
  async *#parcelsOf(news: readonly News[]): AsyncGenerator<readonly Parcel[]> {
    const unread = new Set<string>();
    for (let from = 0; from < news.length; from += READ_AT_ONCE) {
      const some = news.slice(from, from + READ_AT_ONCE);
      const errors = new Map<RecordedEvent, unknown>();
      const told = await Promise.all(some.map((one) => this.#tell(one).catch((error: unknown) => {
        errors.set(one.event, error);
        return [];
      })));
      for (const [n, one] of some.entries()) yield this.#addressed(one, told[n] ?? []);
      for (const { event } of some) {
        if (!errors.has(event)) continue;
        this.#cannotTell(event, errors.get(event));
        unread.add(event.stream);
      }
    }
    for (const { event: { stream } } of news) if (!unread.has(stream)) this.#unread.delete(stream);
  }

  async #tell({ tell }: News): Promise<readonly Announcement[]> {
    const { environment, clock } = this.#at;
    return runIn(systemContext(environment, clock.now(environment)), tell);
  }

  #addressed({ event, endpoints }: News, announcements: readonly Announcement[]): readonly Parcel[] {
    const { environment } = this.#at;
    const { at: timestamp } = originOf(event);
    return announcements.flatMap(({ type, data }) => {
      const body = JSON.stringify({ type, timestamp, data: { environment, ...data } });
      return endpoints.filter((endpoint) => hears(endpoint, type)).map(({ id: target }) => ({ id: derivedId('whd', `${event.id}/${type}/${target}`, timestamp), target, type, timestamp, body }));
    });
  }

  /** After some tries an event that cannot be read is skipped, so that the rest is sent. A store that is unavailable is different: it is waited for. */
  #cannotTell(event: RecordedEvent, error: unknown): readonly never[] {
    if (error instanceof Refusal) throw error;
    const tries = (this.#unread.get(event.stream) ?? 0) + 1;
    this.#unread.set(event.stream, tries);
    if (tries < TRIES) throw error;
    const { environment, log } = this.#at;
    log.error({ err: error, environment, stream: event.stream, position: event.position }, 'an event cannot be read, so no notification was sent');
    return [];
  }

  #mailOf(event: RecordedEvent): readonly Parcel[] {
    const mail = this.#at.mailsOf(event);
    return mail && event.position > this.#mailsAfter ? [{ id: `mail_${eventId(event.id, MAIL)}`, target: MAIL, timestamp: originOf(event).at, ...mail }] : [];
  }

  /** An endpoint itself has changed. The same event again, or an older one, changes nothing any more; nor does one that cannot be read. */
  #hear(event: RecordedEvent): readonly Statement[] {
    const id = subjectOf(event.stream) as WebhookEndpointId;
    const { revision } = event;
    const known = this.#endpoints.get(id);
    if (known && known.revision >= revision) return [];
    let change: WebhookEndpointEvent;
    try {
      change = opened(WebhookEndpoint.shapes, event) as WebhookEndpointEvent;
    } catch (error) {
      return this.#cannotTell(event, error);
    }
    const endpoint: Listener | undefined = change.type === 'WebhookEndpointCreated' ? { id, revision, enabled: true, events: change.events, createdAt: originOf(event).at, since: sinceOf(originOf(event).at) } : known && {
      ...known, revision,
      ...(change.type === 'WebhookEndpointChanged' && change.events && { events: change.events }),
      ...(change.type === 'WebhookEndpointEnabled' && { enabled: true }),
      ...(change.type === 'WebhookEndpointDisabled' && { enabled: false }),
    };
    if (!endpoint) return [];
    const isDeleted = change.type === 'WebhookEndpointDeleted';
    if (isDeleted) this.#endpoints.delete(id);
    else this.#endpoints.set(id, endpoint);
    return [{
      sql: `insert into notifier_endpoints (id, revision, enabled, deleted, events, created_at) values (?, ?, ?, ?, ?, ?)
        on conflict (id) do update set revision = excluded.revision, enabled = excluded.enabled, deleted = excluded.deleted, events = excluded.events${change.type === 'WebhookEndpointEnabled' ? ', failing_since = null' : ''}
        where excluded.revision > notifier_endpoints.revision`,
      params: [id, revision, endpoint.enabled ? 1 : 0, isDeleted ? 1 : 0, JSON.stringify(endpoint.events), endpoint.createdAt],
    }];
  }

  /** The position before the first event of each hour, to find the past again. */
  #newHours(events: readonly RecordedEvent[]): Statement[] {
    const found: [string, Position][] = [];
    let before = this.position;
    for (const event of events) {
      const hour = hourOf(originOf(event).at);
      if (hour !== this.#hour) found.push([(this.#hour = hour), before]);
      before = event.position;
    }
    return found.length === 0 ? [] : [{ sql: 'insert into notifier_hours (hour, position) values (?, ?) on conflict (hour) do nothing', many: found }];
  }

  /** Not in the transaction that reads the log: after days of failures a million deliveries may wait, and PostgreSQL would be cut off in the same statement for ever. */
  async #giveUp(): Promise<void> {
    while (!this.#isClosing && await giveUpSome(this.#at.database));
  }

  async #replay(): Promise<void> {
    const { database, store } = this.#at;
    for (;;) {
      await this.#giveUp();
      // The shortest first, so that it does not wait for one that reads years. What another process was asked for and this one has not read up to is left to that one: here the endpoint may still be disabled.
      const { rows: [row] } = await database.run<{ endpoint_id: WebhookEndpointId; since: Instant; position: number; until: number }>(
        'select * from notifier_replays where until <= ? order by position desc, endpoint_id limit 1', [this.position]);
      if (!row || this.#isClosing) return;
      const endpoint = this.#endpoints.get(row.endpoint_id);
      const page = endpoint?.enabled ? await store.readAll(Number(row.position), REPLAY_PAGE) : [];
      const events = page.filter(({ position }) => position <= Number(row.until));
      const news = endpoint ? events.filter((event) => originOf(event).at >= row.since).flatMap((event) => this.#newsIn(event, [endpoint])) : [];
      const parcels: Parcel[] = [];
      for await (const some of this.#parcelsOf(news)) parcels.push(...some);
      const last = events.at(-1)?.position;
      const isDone = last === undefined || events.length < page.length || last >= Number(row.until);
      await database.batch([
        ...putting(parcels),
        isDone ? { sql: 'delete from notifier_replays where endpoint_id = ? and since = ? and until = ?', params: [row.endpoint_id, row.since, row.until] }
          : { sql: 'update notifier_replays set position = ? where endpoint_id = ? and since = ? and position < ?', params: [last, row.endpoint_id, row.since, last] },
      ]);
      if (parcels.length > 0) this.#at.wake();
    }
  }
}

const categories = ({ byCategory }: Sources): readonly string[] => [...Object.keys(byCategory), WebhookEndpoint.category];
const isOfEndpoint = ({ stream }: RecordedEvent): boolean => stream.startsWith(`${WebhookEndpoint.category}-`);
const hears = ({ enabled, events }: Listener, type: WebhookType): boolean => enabled && wants(events, type);
/** Clocks of several machines may differ a little. */
const sinceOf = (createdAt: Instant): Instant => addSeconds(createdAt, -SKEW_SECONDS);
const hourOf = (instant: Instant): string => instant.slice(0, 13);
const reached = (position: Position): Statement => ({
  sql: 'insert into reactions (name, position) values (?, ?) on conflict (name) do update set position = excluded.position where excluded.position > reactions.position', params: [CHECKPOINT, position],
});

/** Without a checkpoint the log may be a different one, with the same events at other positions, so stored positions are void. Resolves with MAILS_AFTER, as the first notifier noted it. */
async function beginAnew({ database, store }: Pick<AnnouncerOptions, 'database' | 'store'>): Promise<Position> {
  const head = await store.head();
  const answers = await database.batch([
    { sql: 'delete from notifier_hours' }, { sql: 'update notifier_replays set position = 0, until = ?', params: [head] },
    { sql: 'insert into reactions (name, position) values (?, ?) on conflict (name) do nothing', params: [MAILS_AFTER, head] }, { sql: 'select position from reactions where name = ?', params: [MAILS_AFTER] },
  ]);
  return Number(answers.at(-1)?.rows[0]?.['position'] ?? head);
}

type Kept = { readonly announcer: Announcer; readonly index: ReadIndex; readonly store: EventStore; readonly database: Database };

/** Every environment's announcer. */
export class Announcers {
  readonly #kept: PerEnvironment<Kept>;

  private constructor(kept: PerEnvironment<Kept>) {
    this.#kept = kept;
  }

  static async start({ events, databases, wake, forget, mailsOf, ...rest }: Pick<AnnouncerOptions, 'sources' | 'clock' | 'forget' | 'log'> & {
    readonly mailsOf: (environment: string) => MailsOf;
    readonly events: PerEnvironment<EventStore>; readonly databases: StateDatabases; readonly wake: (environment: string) => void;
  }): Promise<Announcers> {
    return new Announcers(new PerEnvironment(await Promise.all(environments.map(async (environment) => {
      const [store, database] = [events.of(environment), databases.of(environment)];
      const own = systemContext(environment, rest.clock.now(environment));
      const announcer = await Announcer.start({ ...rest, mailsOf: mailsOf(environment), environment, store, database, wake: () => wake(environment), forget: (licenseId) => runIn(own, () => forget(licenseId)) });
      return [environment, { announcer, store, database, index: new ReadIndex(store, announcer, TIMEOUT_MS) }] as const;
    }))));
  }

  /** The tables of the message's environment, once they show what follows of every write that was answered before this call. */
  async current(): Promise<Database> {
    const { index, database } = this.#kept.here();
    if (!index.isCurrent()) await index.current();
    return database;
  }

  /** For how many seconds the oldest event has been waiting to be read, in the message's environment. */
  async secondsBehind(): Promise<number> {
    const { store, announcer } = this.#kept.here();
    return (await distance(store, announcer.position)).seconds;
  }

  /** Puts into the endpoint's way what has happened since then and was not put there yet. Durable when it resolves; the log is read afterwards. */
  async recover(endpointId: WebhookEndpointId, since: Instant): Promise<void> {
    const database = await this.current();
    const { announcer } = this.#kept.here();
    const { rows: [row] } = await database.run<{ position: number | null }>('select max(position) as position from notifier_hours where hour <= ?', [hourOf(since)]);
    await database.run(
      `insert into notifier_replays (endpoint_id, since, position, until) values (?, ?, ?, ?)
        on conflict (endpoint_id) do update set until = excluded.until,
          since = case when excluded.since < notifier_replays.since then excluded.since else notifier_replays.since end,
          position = case when excluded.position < notifier_replays.position then excluded.position else notifier_replays.position end`,
      [endpointId, since, Number(row?.position ?? 0), announcer.position]);
    announcer.replay();
  }

  /** Resumes replays that were cut short. */
  replay(): void {
    for (const [, { announcer }] of this.#kept.entries()) announcer.replay();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#kept.entries()].map(([, { announcer }]) => announcer.close()));
  }
}
