import type { ValidateLicense, Verdict } from '@keyledger/contracts';
import { LRUCache } from 'lru-cache';

/** In characters of requests and answers: some 20,000 pairs of the usual size. */
const mostKept = 25_000_000;
const keptMs = 24 * 3_600_000;

/**
 * The last answer to the same request, for when the activation service is unavailable: a server that does not answer is no reason to lock a
 * customer out. Such an answer keeps its `checkedAt` and is not conclusive.
 */
export class LastKnownVerdicts {
  readonly #kept = new LRUCache<string, { text: string; at: number }>({ maxSize: mostKept, sizeCalculation: ({ text }, name) => text.length + name.length });

  /** Keeps a copy: a text that came in a bundle is a part of the bundle's text, and would keep all of that in memory. */
  keep(environment: string, question: ValidateLicense, text: string, now: number): void {
    const name = nameOf(environment, question);
    const last = this.#kept.get(name);
    const own = Buffer.from(text).toString();
    // Most answers are as long as the last one; the cache would count and compare for a new one.
    if (last?.text.length === text.length) Object.assign(last, { text: own, at: now });
    else this.#kept.set(name, { text: own, at: now });
  }

  /** "There is no such license" counts as a last answer as well. */
  forget(environment: string, question: ValidateLicense): void {
    this.#kept.delete(nameOf(environment, question));
  }

  /** Undefined when there is none, or when an instant named in it has passed since: then it may no longer be true. */
  find(environment: string, question: ValidateLicense, now: number): string | undefined {
    const kept = this.#kept.get(nameOf(environment, question));
    if (kept === undefined) return undefined;
    const { token: _, ...verdict } = JSON.parse(kept.text) as Verdict & { token?: string };
    return stands(verdict, now - kept.at) ? JSON.stringify({ ...verdict, conclusive: false }) : undefined;
  }
}

/** A nonce makes every request a different one, and its answer has a token, which must be fresh. */
const nameOf = (environment: string, { nonce: _, ...question }: ValidateLicense & { nonce?: string }): string => `${environment} ${JSON.stringify(question)}`;

/** By the time of the answer plus what has passed since: a test environment may be years ahead of this process. */
function stands({ checkedAt, graceEndsAt, license }: Verdict, elapsedMs: number): boolean {
  const from = Date.parse(checkedAt);
  const hasPassed = (instant: string | null | undefined) => typeof instant === 'string' && Date.parse(instant) > from && Date.parse(instant) <= from + elapsedMs;
  return elapsedMs < keptMs && ![graceEndsAt, license?.expiresAt, license?.effectiveAt].some(hasPassed);
}
