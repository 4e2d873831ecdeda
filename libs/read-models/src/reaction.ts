import type { EventStore, Follows, Position, RecordedEvent, Subscription } from '@keyledger/event-store';
import { PerEnvironment, runIn, systemContext, type Clock } from '@keyledger/kernel';
import type { Database, Migration } from './database.ts';
import { mustReach, ReadIndex, type View } from './read-index.ts';

export const reactionsTable: Migration = {
  name: 'read-models-1-reactions',
  up: ({ run }) => run('create table reactions (name text primary key, position bigint not null)'),
};

/** The checkpoint is a durable write, and reacting again is harmless: it is saved once a second, or after this many events. */
const SAVE_EVERY_MS = 1_000;
const UNSAVED_EVENTS = 5_000;
/** A reaction may take longer than writing a row; most callers that wait for it give up after 5 s. */
const TIMEOUT_MS = 4_000;

export interface ReactionOptions {
  /** Names the checkpoint. Fixed once released. */
  readonly name: string;
  readonly events: PerEnvironment<EventStore>;
  /** State tables: the checkpoint must outlive the read models. */
  readonly databases: PerEnvironment<Database>;
  readonly clock: Clock;
  /** What it reacts to. */
  readonly follows: readonly Follows[];
  /** Of these. Default: to all. */
  readonly isFor?: (event: RecordedEvent) => boolean;
  /** Reacts to events that arrive together. It may be called again for the same events; when it throws, they come again. */
  readonly react: (events: readonly RecordedEvent[]) => Promise<void>;
  /** How long `current` waits for it, in milliseconds. Default: 4 s. */
  readonly timeoutMs?: number;
}

/** Follows one log from its checkpoint. */
class Follower implements View {
  readonly #options: ReactionOptions;
  readonly #environment: string;
  readonly #database: Database;
  readonly #subscription: Subscription;
  readonly #listeners: (() => void)[] = [];
  #saved: Position;
  #savedAt = Date.now();
  /** Events of the log since then, counted: positions may be bytes. */
  #unsaved = 0;
  position: Position;

  constructor(options: ReactionOptions, environment: string, store: EventStore, database: Database, position: Position) {
    this.#options = options;
    this.#environment = environment;
    this.#database = database;
    this.position = this.#saved = position;
    this.#subscription = store.subscribe(position, (events, upTo, passed) => this.#follow(events, upTo, passed), options.follows);
  }

  onAdvance(listener: () => void): void {
    this.#listeners.push(listener);
  }

  hurry(position: Position): void {
    this.#subscription.hurry?.(position);
  }

  async close(): Promise<void> {
    await this.#subscription.close();
    if (this.position > this.#saved) await this.#save(this.position);
  }

  #follow(events: readonly RecordedEvent[], upTo: Position, passed: number): void | Promise<void> {
    const { isFor } = this.#options;
    const due = isFor ? events.filter(isFor) : events;
    this.#unsaved += passed;
    if (due.length === 0 && this.#unsaved < UNSAVED_EVENTS) return this.#advance(upTo);
    return this.#react(due, upTo);
  }

  async #react(due: readonly RecordedEvent[], position: Position): Promise<void> {
    const { clock, react } = this.#options;
    if (due.length > 0) {
      await clock.current?.(this.#environment);
      await runIn(systemContext(this.#environment, clock.now(this.#environment)), () => react(due));
    }
    if (this.#unsaved >= UNSAVED_EVENTS || Date.now() - this.#savedAt >= SAVE_EVERY_MS) await this.#save(position);
    this.#advance(position);
  }

  async #save(position: Position): Promise<void> {
    await this.#database.run(
      'insert into reactions (name, position) values (?, ?) on conflict (name) do update set position = excluded.position', [this.#options.name, position]);
    this.#saved = position;
    this.#unsaved = 0;
    this.#savedAt = Date.now();
  }

  #advance(position: Position): void {
    this.position = position;
    for (const listener of this.#listeners) listener();
  }
}

type Followers = PerEnvironment<{ readonly follower: Follower; readonly index: ReadIndex }>;

/** A service's reaction to events, at least once for every event, in every environment. */
export class Reaction {
  readonly #followers: Followers;

  private constructor(followers: Followers) {
    this.#followers = followers;
  }

  static async start(options: ReactionOptions): Promise<Reaction> {
    const followers = await Promise.all([...options.events.entries()].map(async ([environment, store]) => {
      const database = options.databases.of(environment);
      const { rows: [row] } = await database.run<{ position: number }>('select position from reactions where name = ?', [options.name]);
      const position = Number(row?.position ?? 0);
      await mustReach(store, position, environment);
      const follower = new Follower(options, environment, store, database, position);
      return [environment, { follower, index: new ReadIndex(store, follower, options.timeoutMs ?? TIMEOUT_MS) }] as const;
    }));
    return new Reaction(new PerEnvironment(followers));
  }

  /** Resolves when everything appended before this call, in the current environment, has been reacted to. */
  async current(): Promise<void> {
    const { index } = this.#followers.here();
    if (!index.isCurrent()) await index.current();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#followers.entries()].map(([, { follower }]) => follower.close()));
  }
}
