import { context, Refusal, runIn, type Aggregate, type PerEnvironment, type Sealing } from '@keyledger/kernel';
import type { Log } from '@keyledger/observability';
import { LRUCache } from 'lru-cache';
import { NO_STREAM, type EventStore } from './port.ts';
import type { SnapshotStore } from './snapshots.ts';
import { Rules, Stream, type Shelf } from './stream.ts';
import type { View, Written } from './task.ts';

export interface AggregatesOptions {
  /** Folds kept per environment; one of more than 20 events counts once per 20, but never for more than half of all. Default 25,000. */
  readonly maxFolds?: number;
  readonly snapshots?: PerEnvironment<SnapshotStore>;
}

const MAX_FOLDS = 25_000;
/** A revision that no stream has: with it as `ifRevision`, a command is answered if an earlier run did it, and else decides nothing. */
export const NOWHERE = NO_STREAM - 1;

/** The one load–decide–append: runs commands on the streams of one aggregate, in the environment of the current message. */
export class Aggregates<State, Command extends { type: string }, Event extends { type: string }> {
  readonly #rules: Rules<State, Command, Event>;
  readonly #stores: PerEnvironment<EventStore>;
  readonly #sealings: PerEnvironment<Sealing>;
  readonly #options: AggregatesOptions;
  readonly #shelves = new Map<string, Shelf<State, Command, Event>>();

  constructor(
    aggregate: Aggregate<State, Command, Event>, stores: PerEnvironment<EventStore>, sealings: PerEnvironment<Sealing>, options: AggregatesOptions = {},
  ) {
    this.#rules = new Rules(aggregate);
    this.#stores = stores;
    this.#sealings = sealings;
    this.#options = options;
  }

  /**
   * Decides the command on the current state and makes the outcome durable before it resolves. Throws the aggregate's refusals,
   * VERSION_CONFLICT when the message's `ifRevision` is not the stream's, and TRY_AGAIN after too many lost races.
   */
  run(id: string, command: Command): Promise<Written<State, Event>>;
  run<Answer>(id: string, command: Command, view: View<State, Event, Answer>): Promise<Answer>;
  async run<Answer>(id: string, command: Command, view?: View<State, Event, Answer>): Promise<Written<State, Event> | Answer> {
    return this.#stream(id).enqueue(command, context(), view);
  }

  /** The same for a stream that should not exist yet: nothing is read first, and if the stream exists after all, the append detects it. */
  create(id: string, command: Command): Promise<Written<State, Event>>;
  create<Answer>(id: string, command: Command, view: View<State, Event, Answer>): Promise<Answer>;
  async create<Answer>(id: string, command: Command, view?: View<State, Event, Answer>): Promise<Written<State, Event> | Answer> {
    const stream = this.#stream(id);
    stream.presumeNew();
    return stream.enqueue(command, context(), view);
  }

  /**
   * The answer if an earlier run of this message did such a command. Call it before checking what the command refers to, which may have
   * changed since: that is no reason to refuse a command already done. For a message that is no retry the store is not asked.
   */
  async done<Answer>(id: string, type: Command['type'], view: View<State, Event, Answer>): Promise<Answer | undefined> {
    const message = context();
    if (!message.retry) return undefined;
    try {
      return await runIn({ ...message, ifRevision: NOWHERE }, () => this.run(id, { type } as Command, view));
    } catch (error) {
      if (error instanceof Refusal && error.code === 'VERSION_CONFLICT') return undefined;
      throw error;
    }
  }

  /** The state as of now or later: no event answered before this call is missing. */
  load(id: string): Promise<Written<State, Event>>;
  load<Answer>(id: string, view: View<State, Event, Answer>): Promise<Answer>;
  async load<Answer>(id: string, view?: View<State, Event, Answer>): Promise<Written<State, Event> | Answer> {
    return this.#stream(id).enqueue(undefined, context(), view);
  }

  /** For lists: the views that are not undefined. A stream that cannot be read is logged and left out; the others are still listed. */
  async loadAll<Answer>(ids: readonly string[], view: View<State, Event, Answer | undefined>, log: Pick<Log, 'error'>): Promise<Answer[]> {
    const found = await Promise.all(ids.map((id) => this.load(id, view).catch((error: unknown) => {
      if (error instanceof Refusal) throw error;
      log.error({ err: error, id }, 'it cannot be read, and a list is without it');
    })));
    return found.filter((answer) => answer !== undefined);
  }

  /** Drops the fold, which holds sealed fields in clear: call it when its data key has been destroyed. */
  forget(id: string): void {
    this.#shelf().streams.delete(id);
  }

  #stream(id: string): Stream<State, Command, Event> {
    const shelf = this.#shelf();
    let stream = shelf.streams.get(id);
    if (!stream) {
      stream = new Stream(id, this.#rules, shelf);
      shelf.streams.set(id, stream);
    }
    return stream;
  }

  #shelf(): Shelf<State, Command, Event> {
    const { environment } = context();
    let shelf = this.#shelves.get(environment);
    if (!shelf) {
      const streams = new LRUCache<string, Stream<State, Command, Event>>({
        maxSize: this.#options.maxFolds ?? MAX_FOLDS, sizeCalculation: (stream) => stream.weight,
      });
      const snapshots = this.#options.snapshots?.of(environment);
      shelf = { store: this.#stores.of(environment), sealing: this.#sealings.of(environment), snapshots, streams };
      this.#shelves.set(environment, shelf);
    }
    return shelf;
  }
}
