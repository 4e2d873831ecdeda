const TICK_MS = 10;
/** If a tick comes later than this, another process had the processor. */
const LATE_MS = 30;

let ticker: NodeJS.Timeout | undefined;
let lastTick = 0;
let lost = 0;

/** How long this process has had no turn since its last tick. */
const standing = (now: number): number => (now - lastTick > LATE_MS ? now - lastTick - TICK_MS : 0);

function tick(): void {
  const now = performance.now();
  lost += standing(now);
  lastTick = now;
}

/**
 * Started now; returns the milliseconds since then, without those in which this process got no turn: time limits are for the product, and must not
 * fail because other tests keep the machine busy. Work that blocks the event loop is not counted either; for that, measure CPU time.
 */
export function stopwatch(): () => number {
  if (!ticker) {
    lastTick = performance.now();
    ticker = setInterval(tick, TICK_MS).unref();
  }
  const net = () => {
    const now = performance.now();
    return now - lost - standing(now);
  };
  const startedAt = net();
  return () => net() - startedAt;
}

/** The work's result, and its time by the stopwatch. */
export async function timed<T>(work: Promise<T>): Promise<readonly [T, number]> {
  const took = stopwatch();
  return [await work, took()];
}
