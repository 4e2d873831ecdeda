import { setTimeout as sleep } from 'node:timers/promises';
import type { Position, RecordedEvent, Subscription } from './port.ts';

type Events = readonly RecordedEvent[];
/** Events after a position, oldest first; none when there are none yet. Not a promise when they are at hand. */
export type Source = (after: Position) => Events | Promise<Events>;
export type Handler = (events: Events) => void | Promise<void>;

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;

/**
 * A subscription over a source that is asked for more each time the adapter calls `wake()`.
 * As long as neither source nor handler makes it wait, everything happens within that call: views fed by it are current when it returns.
 */
export class Follower implements Subscription {
  readonly #source: Source;
  readonly #handler: Handler;
  readonly #failed: (error: unknown) => void;
  readonly #confirm: (() => Promise<unknown>) | undefined;
  readonly #closed = new AbortController();
  #position: Position;
  /** The batch that the handler has not finished yet. */
  #batch: Events = [];
  #woken = false;
  #busy = false;
  #running: Promise<void> = Promise.resolve();
  #pause = new AbortController();

  /** `confirm` runs before a batch is handed over again: what made the handler fail may have changed the log, too. */
  constructor(after: Position, source: Source, handler: Handler, failed: (error: unknown) => void, confirm?: () => Promise<unknown>) {
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
        if (this.#batch.length > 0) {
          await this.#confirm?.();
        } else {
          const found = this.#source(this.#position);
          this.#batch = isHere(found) ? found : await found;
        }
        const last = this.#batch.at(-1);
        if (!last || this.#closed.signal.aborted) continue;
        this.#woken = true;
        const handled = this.#handler(this.#batch);
        if (handled) await handled;
        this.#position = last.position;
        this.#batch = [];
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

const isHere = (found: Events | Promise<Events>): found is Events => Array.isArray(found);
