import { AccessModule } from '@keyledger/access';
import { ActivationModule } from '@keyledger/activation';
import { CatalogModule } from '@keyledger/catalog';
import { createGateway } from '@keyledger/gateway';
import { LicenseAuthorityModule } from '@keyledger/license-authority';
import { InProcessTransport } from '@keyledger/messaging';
import { NotifierModule } from '@keyledger/notifier';
import { openHost } from '@keyledger/process';
import { SigningModule } from '@keyledger/signing';
import { openStores } from '@keyledger/stores';
import { SweeperModule, watchSweeps } from '@keyledger/sweeper';
import { UsageMeteringModule } from '@keyledger/usage-metering';
import type { StandaloneConfig } from './config.ts';
import { schemas } from './schemas.ts';

export interface Standalone {
  /** Where it listens, `http://127.0.0.1:3000`. */
  readonly url: string;
  close(): Promise<void>;
}

/** The whole product in one process: every service in a container of its own, on stores that they share, joined by direct calls. */
export async function startStandalone(config: StandaloneConfig, say: (line: string) => void): Promise<Standalone> {
  const host = await openHost('standalone', config.process, new InProcessTransport());
  const stores = await openStores(config.stores, host, schemas);
  const platform = [...host.providers, ...stores.providers];

  const access = await host.start('access', AccessModule.with(platform, config.access, (secret) => say(`Root API key, shown once: ${secret}`)));
  await host.start('signing', SigningModule.with(platform, config.signing));
  const authority = await host.start('license-authority', LicenseAuthorityModule.with(platform));
  await host.start('usage-metering', UsageMeteringModule.with(platform));
  // After the authority: orders that were cut short ask for their licenses at once.
  const catalog = await host.start('catalog', CatalogModule.with(platform));
  await host.start('activation', ActivationModule.with(platform));
  const notifier = await host.start('notifier', NotifierModule.with(platform, config.notifier));
  watchSweeps(await host.start('sweeper', SweeperModule.with(platform, config.sweeper)), host.health);
  stores.watch([access, catalog, authority, notifier]);

  const gateway = await createGateway({ ...host, config: config.gateway });
  await gateway.listen(config.gateway.port, config.gateway.host);
  return {
    url: await gateway.getUrl(),
    async close() {
      await gateway.close();
      await host.close();
      await stores.close();
    },
  };
}
