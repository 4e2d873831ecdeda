import { runUntilStopped, say } from '@keyledger/process';
import { distributedConfig } from './config.ts';
import { startDistributed } from './distributed.ts';

await runUntilStopped('Keyledger', async () => {
  const keyledger = await startDistributed(distributedConfig(), say);
  const [first, ...others] = keyledger.urls;
  say(`Keyledger is ready at ${first}${others.map((url) => ` and ${url}`).join('')}  (API reference: ${first}/docs)`);
  return keyledger;
});
