import { runService } from '@keyledger/process';
import { openStores, storesConfig } from '@keyledger/stores';
import { authoritySchema, LicenseAuthorityModule } from './index.ts';

await runService('license-authority', async (host) => {
  const stores = await openStores(storesConfig(), host, [authoritySchema]);
  stores.watch([await host.start('license-authority', LicenseAuthorityModule.with([...host.providers, ...stores.providers]))]);
  return stores;
});
