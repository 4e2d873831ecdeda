import { refuse } from '@keyledger/kernel';

/** Clients give up after 5 s and ask again: a list that began any later would be worked on in vain, and the next ones would wait for it. */
export const LIST_TURN_MS = 2_000;
/** How much longer than a list may wait for its turn its client waits for the answer: after that the server gives it up. */
export const LIST_ANSWER_MS = 3_000;

/** Lists on a server: so many at a time, first come, first served. */
export class Turns {
  #free: number;
  #waiting: { readonly go: () => void; readonly reject: (detail: string) => void }[] = [];

  constructor(atOnce: number) {
    this.#free = atOnce;
  }

  async take<T>(work: () => Promise<T>, withinMs: number): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await this.#turn(withinMs);
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next.go();
      else this.#free++;
    }
  }

  /** Nobody's turn comes any more. */
  close(): void {
    for (const { reject } of this.#waiting.splice(0)) reject('it is being closed');
  }

  #turn(withinMs: number): Promise<void> {
    return new Promise((resolve, fail) => {
      const next = {
        go: () => (clearTimeout(timer), resolve()),
        reject: (detail: string) => (clearTimeout(timer), fail(refuse('UNAVAILABLE', `The database does not answer: ${detail}`))),
      };
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((waiting) => waiting !== next);
        next.reject('too many lists are being asked for');
      }, withinMs);
      this.#waiting.push(next);
    });
  }
}
