import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from '@jest/globals';
import { stopwatch } from './stopwatch.ts';

const busy = (ms: number) => {
  for (const until = performance.now() + ms; performance.now() < until;);
};

it('counts what is waited for, and not what the processor was away, even when that is not over yet', async () => {
  const took = stopwatch();
  while (took() < 100) await sleep(5);
  const waited = took();
  busy(500);
  expect(took() - waited).toBeLessThan(200);
  await sleep(20);
  busy(500);
  await sleep(20);
  expect(took() - waited).toBeLessThan(400);
});
