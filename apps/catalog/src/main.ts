import { runService } from '@keyledger/process';
import { openStores, storesConfig } from '@keyledger/stores';
import { CatalogModule, catalogSchema } from './index.ts';

await runService('catalog', async (host) => {
  const stores = await openStores(storesConfig(), host, [catalogSchema]);
  stores.watch([await host.start('catalog', CatalogModule.with([...host.providers, ...stores.providers]))]);
  return stores;
});
