import type { Instant } from '@keyledger/kernel';

/** Seconds between one try and the next: ten tries within some 75 hours. */
const pauses = [5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600] as const;
export const MAX_ATTEMPTS = pauses.length + 1;
/** So that a thousand tries that failed together do not come again together: up to so much later. */
const JITTER = 0.2;
/** An endpoint that has taken nothing for so long, when a delivery is given up, is given up as well. */
export const GIVE_UP_DAYS = 3;

/**
 * Milliseconds until the next try after so many (1 or more) have failed; undefined when that was the last one. `random` is in [0, 1).
 */
export function pauseAfter(attempts: number, random: number): number | undefined {
  const seconds = pauses[attempts - 1];
  return seconds === undefined ? undefined : Math.round(seconds * 1000 * (1 + JITTER * random));
}

/** How an endpoint answered: an HTTP status, or none. */
export interface Attempt {
  readonly status: number | null;
}
/** `delivered`: done. `retry`: once more, later. `failed`: no more. `gone`: neither this nor anything else any more. */
export type AttemptOutcome = { readonly is: 'delivered' | 'failed' | 'gone' } | { readonly is: 'retry'; readonly afterMs: number };

/** `attempts` counts this one. A redirection is a failure: whoever moves says so to us, not to the sender of each message. */
export function outcomeOf({ status }: Attempt, attempts: number, random: number): AttemptOutcome {
  if (status !== null && status >= 200 && status < 300) return { is: 'delivered' };
  if (status === 410) return { is: 'gone' };
  const afterMs = pauseAfter(attempts, random);
  return afterMs === undefined ? { is: 'failed' } : { is: 'retry', afterMs };
}

/** Whether an endpoint is to be given up, when a delivery has just been. `failingSince`: its first failure after its last success. */
export const isGivenUp = (failingSince: Instant, now: Instant): boolean => Date.parse(now) - Date.parse(failingSince) >= GIVE_UP_DAYS * 86_400_000;
