import type { Instant } from '@keyledger/kernel';

/** Seconds between one try and the next: ten tries within some 75 hours. */
const pauses = [5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600] as const;
export const MAX_ATTEMPTS = pauses.length + 1;
/** Each pause is up to this share longer, so that a thousand tries that failed together are not retried together. */
const JITTER = 0.2;
/** When a delivery is given up, an endpoint that has accepted nothing for so long is given up as well. */
export const GIVE_UP_DAYS = 3;

/**
 * Milliseconds until the next try after `attempts` (1 or more) failed ones; undefined if that was the last. `random` is in [0, 1).
 */
export function pauseAfter(attempts: number, random: number): number | undefined {
  const seconds = pauses[attempts - 1];
  return seconds === undefined ? undefined : Math.round(seconds * 1000 * (1 + JITTER * random));
}

/** How an endpoint answered: an HTTP status, or none. */
export interface Attempt {
  readonly status: number | null;
}
/** `delivered`: done. `retry`: once more, later. `failed`: no more tries. `gone`: no more tries of this or any other delivery. */
export type AttemptOutcome = { readonly is: 'delivered' | 'failed' | 'gone' } | { readonly is: 'retry'; readonly afterMs: number };

/** `attempts` counts this one. A redirection is a failure: a receiver that moves changes its endpoint here, not in each answer. */
export function outcomeOf({ status }: Attempt, attempts: number, random: number): AttemptOutcome {
  if (status !== null && status >= 200 && status < 300) return { is: 'delivered' };
  if (status === 410) return { is: 'gone' };
  const afterMs = pauseAfter(attempts, random);
  return afterMs === undefined ? { is: 'failed' } : { is: 'retry', afterMs };
}

/** Whether to give up an endpoint after a delivery was given up. `failingSince`: its first failure after its last success. */
export const isGivenUp = (failingSince: Instant, now: Instant): boolean => Date.parse(now) - Date.parse(failingSince) >= GIVE_UP_DAYS * 86_400_000;
