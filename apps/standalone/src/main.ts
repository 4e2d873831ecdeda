import { ENDS_WITHIN_MS, runUntilStopped, say } from '@keyledger/process';
import { standaloneConfig } from './config.ts';
import { startStandalone } from './standalone.ts';

await runUntilStopped('Keyledger', async () => {
  const keyledger = await startStandalone(standaloneConfig(), say);
  say(`Keyledger is ready at ${keyledger.url}  (API reference: ${keyledger.url}/docs)`);
  return keyledger;
}, ENDS_WITHIN_MS);
