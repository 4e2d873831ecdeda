import { runService } from '@keyledger/process';
import { openStores, storesConfig } from '@keyledger/stores';
import { UsageMeteringModule, usageSchema } from './index.ts';

await runService('usage-metering', async (host) => {
  const stores = await openStores(storesConfig(), host, [usageSchema]);
  await host.start('usage-metering', UsageMeteringModule.with([...host.providers, ...stores.providers]));
  return stores;
});
