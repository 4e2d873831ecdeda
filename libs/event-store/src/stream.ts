import { setTimeout as sleep } from 'node:timers/promises';
import { Refusal, refuse, type Aggregate, type MessageContext, type Sealer, type Sealing } from '@keyledger/kernel';
import { traced, withRemoteParent } from '@keyledger/observability';
import type { LRUCache } from 'lru-cache';
import { encode, fold, isSealed, metadataIn, sealedSubjects } from './codec.ts';
import { NO_STREAM, WrongExpectedRevision, type Appended, type EventStore, type NewEvent, type Position, type RecordedEvent } from './port.ts';
import { openState, packState, unsealed, versionOf, type SnapshotStore } from './snapshots.ts';
import { Task, type View } from './task.ts';

const EVENTS_PER_WEIGHT = 20;
const MAX_LOST_RACES = 20;
const COMMANDS_PER_APPEND = 500;
/** The first snapshot comes after this many events, the next each time the stream has doubled: the work stays proportional. */
const EVENTS_PER_SNAPSHOT = 500;
const PAGE = 1_000;

/** What the streams of one environment need. */
export interface Shelf<State, Command extends { type: string }, Event extends { type: string }> {
  readonly store: EventStore;
  readonly sealing: Sealing;
  readonly snapshots: SnapshotStore | undefined;
  readonly streams: LRUCache<string, Stream<State, Command, Event>>;
}

/** The aggregate and what is derived from it, once. */
export class Rules<State, Command extends { type: string }, Event extends { type: string }> {
  readonly aggregate: Aggregate<State, Command, Event>;
  readonly version: string;
  readonly keepsSecrets: boolean;

  constructor(aggregate: Aggregate<State, Command, Event>) {
    this.aggregate = aggregate;
    this.version = versionOf(aggregate);
    const shapes: Readonly<Record<string, { sealed?: readonly string[] }>> = aggregate.shapes;
    this.keepsSecrets = Object.values(shapes).some(({ sealed }) => sealed?.length);
  }
}

interface Fold<State> {
  state: State;
  revision: number;
  position: Position;
  /** Of the last event. */
  eventId: string;
  snapshotRevision: number;
  /** The fold has events that are not stored (yet): valid only if the append under way succeeds. */
  ahead: boolean;
}

/** The tasks that made events; `last`: the batch's last task if it made some, which are not in the fold yet. */
interface Decided<State, Command extends { type: string }, Event extends { type: string }> {
  readonly authors: readonly Task<State, Command, Event>[];
  readonly last: Task<State, Command, Event> | undefined;
}

/**
 * One stream: its fold, and the commands that wait for it. While an append is under way they queue; then all of them are decided one after
 * another on the moving state and appended together, so that a rush on one stream costs neither lost races nor an fsync each.
 *
 * No command is answered from a cached fold alone. An append at the expected revision proves that the fold was current, for the refusals
 * in the same batch too; a batch that appends nothing reads on from the fold's revision first.
 */
export class Stream<State, Command extends { type: string }, Event extends { type: string }> {
  readonly #id: string;
  readonly #name: string;
  readonly #rules: Rules<State, Command, Event>;
  readonly #shelf: Shelf<State, Command, Event>;
  readonly #queue: Task<State, Command, Event>[] = [];
  #busy = false;
  #fold: Fold<State> | undefined;
  weight = 1;

  constructor(id: string, rules: Rules<State, Command, Event>, shelf: Shelf<State, Command, Event>) {
    this.#id = id;
    this.#name = `${rules.aggregate.category}-${id}`;
    this.#rules = rules;
    this.#shelf = shelf;
  }

  enqueue<Answer>(command: Command | undefined, message: MessageContext, view: View<State, Event, Answer> | undefined): Promise<Answer> {
    return new Promise<Answer>((resolve, reject) => {
      this.#queue.push(new Task(command, message, this.#name, view, resolve as (answer: unknown) => void, reject));
      if (!this.#busy) void this.#work();
    });
  }

  presumeNew(): void {
    if (!this.#busy) this.#fold ??= this.#empty();
  }

  async #work(): Promise<void> {
    this.#busy = true;
    while (this.#queue.length > 0) await this.#handle(this.#nextBatch());
    this.#busy = false;
    this.#reweigh();
  }

  /** A retry runs alone. The second of two runs of a command waits for a later batch: its answer is the first one's. */
  #nextBatch(): Task<State, Command, Event>[] {
    const claims = new Set<string>();
    let size = 0;
    for (const { command, message, claim, isRetry } of this.#queue) {
      const key = `${message.commandId}/${claim}`;
      if (size === COMMANDS_PER_APPEND || (size > 0 && (isRetry || claims.has(key)))) break;
      size++;
      if (isRetry) break;
      if (command) claims.add(key);
    }
    return this.#queue.splice(0, size);
  }

  async #handle(batch: readonly Task<State, Command, Event>[]): Promise<void> {
    try {
      const retry = batch[0]?.isRetry ? batch[0] : undefined;
      if (retry && (await this.#has(retry.eventId(0)))) return await this.#answerDone(retry);
      await this.#settle(batch);
    } catch (error) {
      // It is unknown whether the events are stored, and the fold is void: the next command reads.
      this.#fold = undefined;
      // Queued commands would wait as long again for the same refusal.
      const others = error instanceof Refusal && error.code === 'UNAVAILABLE' ? this.#queue.splice(0) : [];
      for (const { reject } of [...batch, ...others]) reject(error);
    }
  }

  async #settle(batch: readonly Task<State, Command, Event>[]): Promise<void> {
    let confirmed = false;
    for (let lostRaces = 0; lostRaces < MAX_LOST_RACES; lostRaces++) {
      if (!this.#fold) {
        this.#fold = await this.#read();
        confirmed = true;
      }
      const fold = this.#fold;
      let decided = this.#decide(fold, batch);
      if (decided.authors.length === 0 && !confirmed && (await this.#catchUp(fold)) > 0) decided = this.#decide(fold, batch);
      if (decided.authors.length === 0) return this.#answer(batch, fold);
      const written = await this.#append(fold, decided, confirmed);
      if (written === 'duplicate') return this.#answerSingly(batch);
      if (written) return this.#answer(batch, fold);
      confirmed = true;
      await sleep(Math.random() * lostRaces);
    }
    throw refuse('TRY_AGAIN');
  }

  /** Decides the tasks in order, each on the state that the one before leaves. */
  #decide(fold: Fold<State>, batch: readonly Task<State, Command, Event>[]): Decided<State, Command, Event> {
    const authors: Task<State, Command, Event>[] = [];
    let { revision } = fold;
    let last: Task<State, Command, Event> | undefined;
    for (const task of batch) {
      if (last) {
        this.#evolve(fold, last);
        fold.ahead = true;
        last = undefined;
      }
      task.decide(this.#rules.aggregate, fold.state, revision, authors.length === 0 ? fold.eventId : undefined);
      if (task.events.length > 0) authors.push((last = task));
      else if (task.error === undefined) task.see(fold.state);
      revision = task.revision;
    }
    return { authors, last };
  }

  #evolve(fold: Fold<State>, task: Task<State, Command, Event>): void {
    for (const event of task.events) fold.state = this.#rules.aggregate.evolve(fold.state, event, task.origin);
    task.see(fold.state);
  }

  /** false after a lost race; the fold is then current again, or gone. */
  async #append(fold: Fold<State>, { authors, last }: Decided<State, Command, Event>, confirmed: boolean): Promise<boolean | 'duplicate'> {
    let events: NewEvent[];
    let appended: Appended;
    try {
      events = await this.#encode(authors);
    } catch (error) {
      // Another process has erased the subject since this fold was made: the stream says so.
      if (confirmed || !(error instanceof Refusal && error.code === 'NOT_FOUND')) throw error;
      this.#fold = undefined;
      return false;
    }
    try {
      appended = await traceAppend(this.#name, authors, () => this.#shelf.store.append(this.#name, fold.revision, events));
    } catch (error) {
      if (!(error instanceof WrongExpectedRevision)) throw error;
      if (fold.ahead) this.#fold = undefined;
      else await this.#catchUp(fold);
      return false;
    }
    if (appended.duplicate) return 'duplicate';
    if (last) this.#evolve(fold, last);
    fold.ahead = false;
    fold.revision = appended.revision;
    fold.position = appended.position;
    fold.eventId = (events.at(-1) as NewEvent).id;
    this.#snapshot(fold);
    return true;
  }

  async #encode(authors: readonly Task<State, Command, Event>[]): Promise<NewEvent[]> {
    const { shapes } = this.#rules.aggregate;
    let sealer: Sealer | undefined;
    if (this.#rules.keepsSecrets && authors.some(({ events }) => events.some((event) => isSealed(shapes, event)))) {
      sealer = await this.#shelf.sealing.prepare([this.#id], true);
    }
    return authors.flatMap((author) => author.events.map((event, index) => ({
      id: author.eventId(index),
      type: event.type,
      data: encode(shapes, this.#name, event, sealer),
      metadata: metadataIn(author.message, author.origin, shapes[event.type as Event['type']].schema),
    })));
  }

  #answer(batch: readonly Task<State, Command, Event>[], { state, position }: Fold<State>): void {
    for (const task of batch) task.answer(state, position);
  }

  /** One of the tasks was stored before; run alone, each finds out whether it was. */
  async #answerSingly(batch: readonly Task<State, Command, Event>[]): Promise<void> {
    if (this.#fold?.ahead) this.#fold = undefined;
    const [only] = batch;
    if (batch.length === 1 && only) return this.#answerDone(only);
    for (const task of batch) await this.#handle([task]);
  }

  async #answerDone(task: Task<State, Command, Event>): Promise<void> {
    if (this.#fold) await this.#catchUp(this.#fold);
    else this.#fold = await this.#read();
    task.wasDone(this.#fold.revision);
    task.see(this.#fold.state);
    task.answer(this.#fold.state, this.#fold.position);
  }

  async #has(id: string): Promise<boolean> {
    for await (const page of this.#pages(0)) if (page.some((event) => event.id === id)) return true;
    return false;
  }

  async #read(): Promise<Fold<State>> {
    const start = await this.#shelf.store.readStream(this.#name, { limit: EVENTS_PER_SNAPSHOT });
    const isLong = start.length === EVENTS_PER_SNAPSHOT;
    const restored = isLong ? await this.#restore() : undefined;
    if (restored) return restored;
    const fold = this.#empty();
    await this.#take(fold, start);
    if (isLong) await this.#catchUp(fold);
    return fold;
  }

  #empty(): Fold<State> {
    return { state: this.#rules.aggregate.initial(), revision: NO_STREAM, position: 0, eventId: '', snapshotRevision: NO_STREAM, ahead: false };
  }

  /** Returns the number of new events. */
  async #catchUp(fold: Fold<State>): Promise<number> {
    const before = fold.revision;
    for await (const page of this.#pages(fold.revision + 1)) await this.#take(fold, page);
    if (fold.revision > before) this.#snapshot(fold);
    return fold.revision - before;
  }

  async #take(target: Fold<State>, events: readonly RecordedEvent[]): Promise<void> {
    const last = events.at(-1);
    if (!last) return;
    const subjects = sealedSubjects(events);
    const sealer = subjects.length > 0 ? await this.#shelf.sealing.prepare(subjects) : undefined;
    target.state = fold(this.#rules.aggregate, events, sealer, target.state);
    target.revision = last.revision;
    target.position = last.position;
    target.eventId = last.id;
  }

  async *#pages(from: number): AsyncGenerator<readonly RecordedEvent[]> {
    for (let next = from; ;) {
      const page = await this.#shelf.store.readStream(this.#name, { from: next, limit: PAGE });
      if (page.length > 0) yield page;
      if (page.length < PAGE) return;
      next += page.length;
    }
  }

  async #restore(): Promise<Fold<State> | undefined> {
    const snapshot = await this.#shelf.snapshots?.get(this.#name);
    if (!snapshot || snapshot.version !== this.#rules.version) return undefined;
    const { revision, eventId } = snapshot;
    const [last] = await this.#shelf.store.readStream(this.#name, { from: revision, limit: 1 });
    const opened = openState<State>(await this.#snapshotSealer(), this.#id, snapshot);
    if (!opened || last?.id !== eventId) return undefined;
    const fold: Fold<State> = { state: opened.state, revision, position: last.position, eventId, snapshotRevision: revision, ahead: false };
    await this.#catchUp(fold);
    return fold;
  }

  /** No command waits for it. */
  #snapshot(fold: Fold<State>): void {
    const { snapshots } = this.#shelf;
    if (!snapshots || fold.revision - fold.snapshotRevision < Math.max(EVENTS_PER_SNAPSHOT, fold.snapshotRevision)) return;
    const { state, revision, eventId } = fold;
    fold.snapshotRevision = revision;
    const packed = packState(state);
    const put = async () => {
      const sealed = (await this.#snapshotSealer()).seal(this.#id, packed);
      await snapshots.put(this.#name, { revision, eventId, version: this.#rules.version, sealed });
    };
    put().catch((error: unknown) => process.emitWarning(`No snapshot of ${this.#name}: ${String(error)}`));
  }

  /** Never makes a key: a missing one was destroyed on purpose. */
  async #snapshotSealer(): Promise<Sealer> {
    return this.#rules.keepsSecrets ? this.#shelf.sealing.prepare([this.#id]) : unsealed;
  }

  #reweigh(): void {
    const { streams } = this.#shelf;
    // A stream heavier than all that may be kept would be folded anew for each command, and one just as heavy would drive out all others.
    const weight = Math.min(1 + Math.floor(((this.#fold?.revision ?? NO_STREAM) + 1) / EVENTS_PER_WEIGHT), Math.ceil(streams.maxSize / 2));
    if (weight === this.weight || streams.peek(this.#id) !== this) return;
    streams.delete(this.#id);
    this.weight = weight;
    streams.set(this.#id, this);
  }
}

/** In the trace of the first command that made events; the others' are linked. */
function traceAppend<T>(stream: string, [first, ...others]: readonly { readonly message: MessageContext }[], append: () => Promise<T>): Promise<T> {
  return withRemoteParent(first?.message.traceparent, () =>
    traced('append', { 'keyledger.stream': stream }, append, others.map(({ message }) => message.traceparent)));
}
