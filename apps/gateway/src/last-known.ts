import type { ValidateLicense, Verdict } from '@keyledger/contracts';
import { LRUCache } from 'lru-cache';

/** Some 20,000 answers of the usual size. */
const bytesKept = 25_000_000;
/** In characters of requests. */
const namesKept = 5_000_000;
const keptMs = 24 * 3_600_000;

interface Kept {
  /** How many bytes had ever been written before it. */
  from: number;
  /** In bytes. */
  room: number;
  length: number;
  at: number;
}

/**
 * The last answer to the same request, for when the activation service is unavailable: a server that does not answer is no reason to lock a
 * customer out. Such an answer keeps its `checkedAt` and is not conclusive.
 *
 * The texts are written into a ring of bytes: kept as strings, each would live just long enough to cost the garbage collector the most.
 */
export class LastKnownVerdicts {
  readonly #kept = new LRUCache<string, Kept>({ maxSize: namesKept, sizeCalculation: (_, name) => name.length });
  readonly #texts = Buffer.allocUnsafeSlow(bytesKept);
  #written = 0;

  /** When the same question was answered last, if that answer is still there. */
  keptAt(name: string): number | undefined {
    const kept = this.#kept.peek(name);
    return kept && this.#isIntact(kept) ? kept.at : undefined;
  }

  /** `name`: see `questionOf`. */
  keep(name: string, text: string, now: number): void {
    const length = Buffer.byteLength(text);
    const last = this.#kept.get(name);
    // In the place of the last one, if it may: a question that is often asked must not drive out all others.
    if (last && length <= last.room && this.#isIntact(last)) {
      this.#texts.write(text, last.from % bytesKept);
      last.length = length;
      last.at = now;
      return;
    }
    if (length > bytesKept) return void this.#kept.delete(name);
    // What does not fit before the end goes to the beginning.
    const left = bytesKept - (this.#written % bytesKept);
    if (length > left) this.#written += left;
    const from = this.#written;
    this.#texts.write(text, from % bytesKept);
    this.#written += length;
    this.#kept.set(name, { from, room: length, length, at: now });
  }

  /** "There is no such license" counts as a last answer as well. */
  forget(name: string): void {
    this.#kept.delete(name);
  }

  /** Undefined when there is none or newer answers have taken its place, or when an instant named in it has passed since: then it may no longer be true. */
  find(name: string, now: number): string | undefined {
    const kept = this.#kept.get(name);
    if (kept === undefined || !this.#isIntact(kept)) return undefined;
    const { token: _, ...verdict } = JSON.parse(this.#texts.toString('utf8', kept.from % bytesKept, (kept.from % bytesKept) + kept.length)) as Verdict & { token?: string };
    return stands(verdict, now - kept.at) ? JSON.stringify({ ...verdict, conclusive: false }) : undefined;
  }

  /** Whether nothing newer has been written over it. */
  #isIntact({ from }: Kept): boolean {
    return this.#written - from <= bytesKept;
  }
}

/** Names a question. A nonce makes every request a different one, and its answer has a token, which must be fresh. */
export const questionOf = (environment: string, { nonce: _, ...question }: ValidateLicense & { nonce?: string }): string => `${environment} ${JSON.stringify(question)}`;

/** By the time of the answer plus what has passed since: a test environment may be years ahead of this process. */
function stands({ checkedAt, graceEndsAt, license }: Verdict, elapsedMs: number): boolean {
  const from = Date.parse(checkedAt);
  const hasPassed = (instant: string | null | undefined) => typeof instant === 'string' && Date.parse(instant) > from && Date.parse(instant) <= from + elapsedMs;
  return elapsedMs < keptMs && ![graceEndsAt, license?.expiresAt, license?.effectiveAt].some(hasPassed);
}
