import type { Logger } from './api.ts';
import { quietly } from './opening.ts';

/** Writes one after another. Calls that come before a write has begun share it: it has what is new by then. */
export class Writing {
  readonly #write: () => Promise<void>;
  readonly #logger: Logger | undefined;
  #last: Promise<boolean> = Promise.resolve(true);
  #isDue = false;
  #isStored = true;
  #isOver = false;

  constructor(write: () => Promise<void>, logger: Logger | undefined) {
    this.#write = write;
    this.#logger = logger;
  }

  /** The last attempt has succeeded. */
  get isStored(): boolean {
    return this.#isStored;
  }

  /** Ends with the last write that was asked for. */
  get last(): Promise<boolean> {
    return this.#last;
  }

  /** Resolves when all that is known at the call is in the store (true), or could not be written. */
  now(): Promise<boolean> {
    if (this.#isOver) return Promise.resolve(false);
    if (this.#isDue) return this.#last;
    this.#isDue = true;
    this.#last = this.#last.then(async () => {
      this.#isDue = false;
      // Told once, until a write has succeeded.
      this.#isStored = (await quietly(() => this.#write().then(() => true), 'the license state could not be written', this.#isStored ? this.#logger : undefined)) ?? false;
      return this.#isStored;
    });
    return this.#last;
  }

  /** Writes a last time; later calls write nothing, because another process may have the store by then. */
  end(): Promise<boolean> {
    const written = this.now();
    this.#isOver = true;
    return written;
  }
}
