import { runService } from '@keyledger/process';
import { openStores, storesConfig } from '@keyledger/stores';
import { sweeperConfig, SweeperModule, watchSweeps } from './index.ts';

await runService('sweeper', async (host) => {
  const stores = await openStores(storesConfig(), host, []);
  watchSweeps(await host.start('sweeper', SweeperModule.with([...host.providers, ...stores.providers], sweeperConfig())), host.health);
  return stores;
});
