import type { LicenseEvents, Logger } from './api.ts';

type Listener<E extends keyof LicenseEvents> = (event: LicenseEvents[E]) => void;

/** Listeners of the licensed software. One that throws does not stop the others. */
export class Listeners {
  readonly #logger: Logger | undefined;
  readonly #listeners = new Map<keyof LicenseEvents, Set<(event: never) => void>>();

  constructor(logger: Logger | undefined) {
    this.#logger = logger;
  }

  /** Returns how to stop listening. */
  on<E extends keyof LicenseEvents>(event: E, listener: Listener<E>): () => void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener as (event: never) => void));
    return () => void listeners.delete(listener as (event: never) => void);
  }

  emit<E extends keyof LicenseEvents>(event: E, value: LicenseEvents[E]): void {
    for (const listener of this.#listeners.get(event) ?? []) {
      try {
        (listener as Listener<E>)(value);
      } catch (error) {
        this.#logger?.warn('a listener failed', { event, error });
      }
    }
  }
}
