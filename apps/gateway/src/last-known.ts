import type { ValidateLicense, Verdict } from '@keyledger/contracts';
import { Refusal } from '@keyledger/kernel';
import { LRUCache } from 'lru-cache';

/** Some 25 MB at most. */
const maxVerdicts = 20_000;
const keptMs = 24 * 3_600_000;

/**
 * What the same question was answered last, for the time when nobody can be asked: a machine that does not answer is no reason to lock a
 * customer out. Such an answer keeps its `checkedAt` and is not conclusive.
 */
export class LastKnownVerdicts {
  readonly #texts = new LRUCache<string, string>({ maxSize: maxVerdicts, sizeCalculation: () => 1 });

  keep(environment: string, question: ValidateLicense, text: string): void {
    this.#texts.set(nameOf(environment, question), text);
  }

  /** Undefined when there is none, or when an instant that it names has passed since: then it may not be true any more. */
  find(environment: string, question: ValidateLicense, now: number): string | undefined {
    const text = this.#texts.get(nameOf(environment, question));
    if (text === undefined) return undefined;
    const { token: _, ...verdict } = JSON.parse(text) as Verdict & { token?: string };
    return stands(verdict, now) ? JSON.stringify({ ...verdict, conclusive: false }) : undefined;
  }
}

export const isNobodyThere = (error: unknown): boolean => error instanceof Refusal && error.status === 503;

/** A nonce makes every question another one, and is answered by a token, which is only ever given fresh. */
const nameOf = (environment: string, { nonce: _, ...question }: ValidateLicense & { nonce?: string }): string => `${environment} ${JSON.stringify(question)}`;

function stands({ checkedAt, graceEndsAt, license }: Verdict, now: number): boolean {
  const from = Date.parse(checkedAt);
  const hasPassed = (instant: string | null | undefined) => typeof instant === 'string' && Date.parse(instant) > from && Date.parse(instant) <= now;
  return now - from < keptMs && ![graceEndsAt, license?.expiresAt, license?.effectiveAt].some(hasPassed);
}
