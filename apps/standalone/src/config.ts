import { accessConfig, type AccessConfig } from '@keyledger/access';
import { gatewayConfig, type GatewayConfig } from '@keyledger/gateway';
import { notifierConfig, type NotifierConfig } from '@keyledger/notifier';
import { processConfig, type ProcessConfig } from '@keyledger/process';
import { signingConfig, type SigningConfig } from '@keyledger/signing';
import { storesConfig, type StoresConfig } from '@keyledger/stores';
import { sweeperConfig, type SweeperConfig } from '@keyledger/sweeper';

/** Everything that can be said from outside. */
export interface StandaloneConfig {
  process: ProcessConfig;
  stores: StoresConfig;
  gateway: GatewayConfig;
  access: AccessConfig;
  signing: SigningConfig;
  sweeper: SweeperConfig;
  notifier: NotifierConfig;
}

export const standaloneConfig = (env: NodeJS.ProcessEnv = process.env): StandaloneConfig =>
  ({
  process: processConfig(env), stores: storesConfig(env), gateway: gatewayConfig(env), access: accessConfig(env), signing: signingConfig(env), sweeper: sweeperConfig(env), notifier: notifierConfig(env),
});
