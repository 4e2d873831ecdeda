const TICK_MS = 10;
/** A tick that comes later than this has not been late by itself: something else had the processor. */
const LATE_MS = 30;

let ticker: NodeJS.Timeout | undefined;
let lastTick = 0;
let lost = 0;

/** How long this process has had no turn, since its last tick. */
const standing = (now: number): number => (now - lastTick > LATE_MS ? now - lastTick - TICK_MS : 0);

function tick(): void {
  const now = performance.now();
  lost += standing(now);
  lastTick = now;
}

/**
 * Started now; tells the milliseconds since then, without those in which this process got no turn. A limit of time is the product's: that other
 * tests keep the machine busy is no breach of it. Work that itself keeps the event loop busy is not counted either; for that, look at the CPU time.
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

/** What the work came to, and how long it took by the stopwatch. */
export async function timed<T>(work: Promise<T>): Promise<readonly [T, number]> {
  const took = stopwatch();
  return [await work, took()];
}
