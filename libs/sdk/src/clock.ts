import type { Reading } from './time.ts';

/** Time and timers. A test may replace them. */
export interface Clock {
  /** `boot` names the period within which `mono` can be compared. */
  read(): Reading;
  /** Resolves early when the signal is aborted. Keeps no process alive. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

const longestMs = 2 ** 31 - 1;

export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, Math.min(ms, longestMs)) as unknown as { unref?: () => void } & ReturnType<typeof setTimeout>;
    timer.unref?.();
    signal?.addEventListener('abort', done);
  });
}

/** Keeps the process alive until the answer is there: no timer of the SDK does, and `fetch` only while a request or a stream is open. */
export function held<T>(answer: Promise<T>): Promise<T> {
  const hold = setInterval(() => undefined, longestMs);
  return answer.finally(() => clearInterval(hold));
}

/** Counts the time of this process only. The clock of `@keyledger/sdk/node` goes on between processes. */
export function processClock(): Clock {
  const boot = crypto.randomUUID();
  return { read: () => ({ wall: Date.now(), mono: performance.now(), boot }), sleep };
}

const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
/** Milliseconds, or `30s`, `5m`, `1h`, `1d`. */
export function msOf(age: number | string): number {
  const [, value, unit] = /^(\d+)(ms|s|m|h|d)$/.exec(String(age)) ?? [];
  const ms = typeof age === 'number' ? age : Number(value) * (units[unit ?? ''] ?? NaN);
  if (Number.isNaN(ms)) throw new TypeError(`Not a duration: ${age}`);
  return ms;
}
