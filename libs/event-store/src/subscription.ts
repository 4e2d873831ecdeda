import { setTimeout as sleep } from 'node:timers/promises';
import { matcher, type Interest } from './follows.ts';
import type { Handler, Position, RecordedEvent, Subscription } from './port.ts';

/** What a process sees of the log after some position: up to `upTo` at least the events that it follows, oldest first, out of `passed`. */
export interface Section {
  readonly events: readonly RecordedEvent[];
  readonly upTo: Position;
  readonly passed: number;
}
/** The log after a position; up to that position when there is no more yet. Not a promise when it is at hand. */
export type Source = (after: Position) => Section | Promise<Section>;

/** All events of the log after a position. */
export const wholeSection = (events: readonly RecordedEvent[], after: Position): Section => ({ events, upTo: events.at(-1)?.position ?? after, passed: events.length });

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;

/**
 * A subscription over a source that is asked for more each time the adapter calls `wake()`.
 * As long as neither source nor handler makes it wait, everything happens within that call: views fed by it are current when it returns.
 */
export class Follower implements Subscription {
  readonly #source: Source;
  readonly #handler: Handler;
  readonly #follows: (event: RecordedEvent) => boolean;
  readonly #failed: (error: unknown) => void;
  readonly #confirm: (() => Promise<unknown>) | undefined;
  readonly #closed = new AbortController();
  #position: Position;
  /** What the handler has not finished yet. */
  #batch: Section | undefined;
  #woken = false;
  #busy = false;
  #running: Promise<void> = Promise.resolve();
  #pause = new AbortController();

  /** `confirm` runs before a batch is handed over again: what made the handler fail may have changed the log, too. */
  constructor(after: Position, source: Source, handler: Handler, interest: Interest, failed: (error: unknown) => void, confirm?: () => Promise<unknown>) {
    this.#follows = matcher(interest);
    this.#position = after;
    this.#source = source;
    this.#handler = handler;
    this.#failed = failed;
    this.#confirm = confirm;
  }

  get position(): Position {
    return this.#position;
  }

  wake(): void {
    this.#woken = true;
    if (!this.#busy && !this.#closed.signal.aborted) this.#running = this.#follow();
  }

  /** Ends the pause after a failure: its cause may be gone. */
  retry(): void {
    this.#pause.abort();
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#running;
  }

  async #follow(): Promise<void> {
    this.#busy = true;
    let failures = 0;
    while (this.#woken && !this.#closed.signal.aborted) {
      try {
        this.#woken = false;
        if (this.#batch) {
          await this.#confirm?.();
        } else {
          const found = this.#source(this.#position);
          const section = found instanceof Promise ? await found : found;
          if (section.upTo > this.#position) this.#batch = { ...section, events: section.events.filter(this.#follows) };
        }
        if (!this.#batch || this.#closed.signal.aborted) continue;
        this.#woken = true;
        const { events, upTo, passed } = this.#batch;
        const handled = this.#handler(events, upTo, passed);
        if (handled) await handled;
        this.#position = upTo;
        this.#batch = undefined;
        failures = 0;
      } catch (error) {
        this.#woken = true;
        this.#failed(error);
        const pause = Math.min(FIRST_PAUSE_MS * 2 ** failures++, LONGEST_PAUSE_MS);
        this.#pause = new AbortController();
        await sleep(pause, undefined, { signal: AbortSignal.any([this.#closed.signal, this.#pause.signal]) }).catch(() => undefined);
      }
    }
    this.#busy = false;
  }
}
