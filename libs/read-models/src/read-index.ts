import type { EventStore, Position } from '@keyledger/event-store';
import { refuse } from '@keyledger/kernel';

/** Anything that follows a log: a projector, a view in memory. */
export interface View {
  /** The view shows every event up to here. */
  readonly position: Position;
  /** Calls it after each change of the position. */
  onAdvance(listener: () => void): void;
  /** A reader waits for this position: apply events without gathering more. */
  hurry?(position: Position): void;
}

/** Throws when the log ends before a position already read: events are lost, and the next ones would be taken for read. */
export async function mustReach(store: Pick<EventStore, 'head'>, position: Position, environment: string): Promise<void> {
  const head = await store.head();
  if (position > head) throw new Error(`The event log of ${environment} ends at ${head} but has been read up to ${position}: events are missing. Was an older backup restored?`);
}

interface Waiting {
  position: Position;
  readonly done: () => void;
}

const TIMEOUT_MS = 1_000;
const atOnce = Promise.resolve();

/**
 * Lets a reader wait until its view shows every write answered, to any caller, before it asked: `await index.current()`, or
 * `if (!index.isCurrent()) await index.current()` where every microsecond counts.
 */
export class ReadIndex {
  readonly #store: Pick<EventStore, 'head'>;
  readonly #view: View;
  readonly #timeout: number;
  readonly #waiting = new Set<Waiting>();
  #isRemote = false;
  #asking: Promise<Position> | undefined;
  /** Shared by all callers that wait for the next question. */
  #next: Promise<void> | undefined;

  /** `timeout` in milliseconds. */
  constructor(store: Pick<EventStore, 'head'>, view: View, timeout = TIMEOUT_MS) {
    this.#store = store;
    this.#view = view;
    this.#timeout = timeout;
    view.onAdvance(() => this.#advanced());
  }

  /** Also false when that takes a question over the network. */
  isCurrent(): boolean {
    if (this.#isRemote) return false;
    const head = this.#store.head();
    if (typeof head === 'number') return this.#view.position >= head;
    this.#ask(head);
    return false;
  }

  /** Undefined when no wait is needed. Refuses with READ_MODEL_BEHIND when the view is late, or the store does not answer. */
  current(): Promise<void> | undefined {
    // A question under way may have been answered before the new caller's write: all new callers share the next one, and so do all callers of one turn.
    if (this.#isRemote) return (this.#next ??= this.#reached((this.#asking ?? atOnce).then(() => this.#askNext(), () => this.#askNext())));
    const head = this.#store.head();
    if (typeof head !== 'number') return this.#reached(this.#ask(head));
    return this.#view.position >= head ? undefined : this.#reached(head);
  }

  #askNext(): Promise<Position> {
    this.#next = undefined;
    return this.#ask(Promise.resolve(this.#store.head()));
  }

  #ask(head: Promise<Position>): Promise<Position> {
    this.#isRemote = true;
    const asking = head.finally(() => {
      if (this.#asking === asking) this.#asking = undefined;
    });
    asking.catch(() => undefined);
    this.#asking = asking;
    return asking;
  }

  #reached(head: Position | Promise<Position>): Promise<void> {
    return new Promise((resolve, reject) => {
      const behind = (cause?: unknown) => {
        clearTimeout(timer);
        this.#waiting.delete(waiting);
        reject(Object.assign(refuse('READ_MODEL_BEHIND'), { cause }));
      };
      const timer = setTimeout(behind, this.#timeout);
      const waiting: Waiting = {
        position: Infinity,
        done: () => {
          clearTimeout(timer);
          resolve();
        },
      };
      this.#waiting.add(waiting);
      const known = (position: Position) => {
        waiting.position = position;
        this.#view.hurry?.(position);
        this.#advanced();
      };
      if (typeof head === 'number') known(head);
      else head.then(known, behind);
    });
  }

  #advanced(): void {
    for (const waiting of this.#waiting) {
      if (waiting.position > this.#view.position) continue;
      this.#waiting.delete(waiting);
      waiting.done();
    }
  }
}
