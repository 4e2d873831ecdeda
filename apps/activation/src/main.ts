import { runService } from '@keyledger/process';
import { openStores, storesConfig } from '@keyledger/stores';
import { ActivationModule, activationSchema } from './index.ts';

await runService('activation', async (host) => {
  const stores = await openStores(storesConfig(), host, [activationSchema]);
  await host.start('activation', ActivationModule.with([...host.providers, ...stores.providers]));
  return stores;
});
