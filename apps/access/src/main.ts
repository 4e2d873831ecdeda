import { runService, say } from '@keyledger/process';
import { openStores, storesConfig } from '@keyledger/stores';
import { accessConfig } from './config.ts';
import { AccessModule, accessSchema } from './index.ts';

await runService('access', async (host) => {
  const stores = await openStores(storesConfig(), host, [accessSchema]);
  const service = await host.start('access', AccessModule.with([...host.providers, ...stores.providers], accessConfig(), (secret) => say(`Root API key, shown once: ${secret}`)));
  stores.watch([service]);
  return stores;
});
