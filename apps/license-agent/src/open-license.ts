import { License, type Clock, type Fetch, type Store } from '@keyledger/sdk';
import type { AgentConfig } from './config.ts';
import type { Kept } from './data-dir.ts';

export const agentVersion = '0.1.0';

export interface Logger {
  info(details: object, message: string): void;
  warn(details: object, message: string): void;
}

export interface AgentOptions {
  readonly config: Pick<AgentConfig, 'dataDir' | 'server' | 'environment' | 'roots' | 'licenseKey' | 'licenseFile' | 'deploymentId' | 'deploymentMode' | 'product' | 'mode' | 'heartbeatMs' | 'filePollMs' | 'offlineGraceDays' | 'proxy'>;
  /** Of the machine, hashed. */
  readonly fingerprint: string;
  readonly clock: Clock;
  readonly fetch?: Fetch;
  readonly log: Logger;
}

/** `after`: a time that is past, in milliseconds since 1970. */
export function openLicense({ config, fingerprint, clock, fetch, log }: AgentOptions, source: Kept['source'], store: Store, after: number): Promise<License> {
  const { roots, environment, server, deploymentId, deploymentMode, product, offlineGraceDays } = config;
  return License.open({
    roots, environment, product, offlineGraceDays, fingerprint, clock, fetch, store, after, version: agentVersion, attempts: 2, logger: { warn: (message, details) => log.warn(details ?? {}, message) },
    ...(source?.kind === 'key' && { key: source.key, server, deploymentId, deploymentMode }),
  });
}
