import type { Logger } from './open-license.ts';

/** One change at a time. Seats of licenses that leave are given back beside the changes; only a key waits for that. */
export class Turns {
  readonly #leave: () => Promise<void>;
  readonly #log: Logger;
  #last: Promise<unknown> = Promise.resolve();
  #giving: Promise<void> | undefined;

  constructor(leave: () => Promise<void>, log: Logger) {
    this.#leave = leave;
    this.#log = log;
  }

  get isGivingBack(): boolean {
    return this.#giving !== undefined;
  }

  /** Resolves when the changes so far have ended. */
  async changed(): Promise<void> {
    await this.#last;
  }

  async givenBack(): Promise<void> {
    await this.#giving;
  }

  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work, work);
    this.#last = done.catch(() => undefined);
    return done;
  }

  /** For keys: a seat that is just being given back may be the one a key gets again, and the server must first have it back. Other changes go on meanwhile. */
  async onceGivenBack<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      await this.#giving;
      const done = await this.exclusively(async () => (this.#giving ? undefined : { outcome: await work() }));
      if (done) return done.outcome;
    }
  }

  /** Only within a change, because a key must not be tried meanwhile; no change but that of a key waits for it. */
  giveBack(): void {
    this.#giving ??= this.#leave().catch((error: unknown) => this.#log.warn({ err: error }, 'a license that is not in use could not be released')).finally(() => (this.#giving = undefined));
  }
}
