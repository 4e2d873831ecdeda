import { runService } from '@keyledger/process';
import { openStores, storesConfig } from '@keyledger/stores';
import { notifierConfig, NotifierModule, notifierSchema } from './index.ts';

await runService('notifier', async (host) => {
  const stores = await openStores(storesConfig(), host, [notifierSchema]);
  stores.watch([await host.start('notifier', NotifierModule.with([...host.providers, ...stores.providers], notifierConfig()))]);
  return stores;
});
