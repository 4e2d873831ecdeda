import { runService } from '@keyledger/process';
import { openStores, storesConfig } from '@keyledger/stores';
import { signingConfig } from './config.ts';
import { SigningModule, signingSchema } from './index.ts';

await runService('signing', async (host) => {
  const stores = await openStores(storesConfig(), host, [signingSchema]);
  await host.start('signing', SigningModule.with([...host.providers, ...stores.providers], signingConfig()));
  return stores;
});
