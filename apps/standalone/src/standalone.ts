import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { DynamicModule, INestApplicationContext, Provider } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { accessEntities, AccessModule, controlEnvironment, environments, requestsTable } from '@keyledger/access';
import { ActivationModule, lastSeenTable } from '@keyledger/activation';
import { CatalogModule, catalogEntities } from '@keyledger/catalog';
import { EventStores, SnapshotStores, SqliteEventStores, SqliteSnapshots } from '@keyledger/event-store';
import { createGateway } from '@keyledger/gateway';
import { Clock, systemClock } from '@keyledger/kernel';
import { dataKeysMigration, Keyring, Keyrings, loadMasterKey, StoredDataKeys } from '@keyledger/keyring';
import { authorityEntities, authorityTables, LicenseAuthorityModule } from '@keyledger/license-authority';
import { InProcessTransport, MessageClient, serveMessages } from '@keyledger/messaging';
import { createLog, Health, Log, Metrics, projectionsKeepUp, startTracing, type ProjectionLag } from '@keyledger/observability';
import { openDatabases, Projectors, reactionsTable, ReadDatabases, StateDatabases } from '@keyledger/read-models';
import type { StandaloneConfig } from './config.ts';

export interface Standalone {
  /** Where it listens, `http://127.0.0.1:3000`. */
  readonly url: string;
  close(): Promise<void>;
}

/** A read model further behind than this sends requests elsewhere for a while. */
const lagLimits = { positions: 20_000, seconds: 10 };

/** The whole product in one process: every service in a container of its own, on stores that they share, joined by direct calls. */
export async function startStandalone(config: StandaloneConfig, say: (line: string) => void): Promise<Standalone> {
  const log = createLog({ level: config.logLevel, service: 'standalone' });
  const tracing = await startTracing({ service: 'keyledger', ...config.tracing });
  const metrics = new Metrics('standalone');
  const health = new Health();
  const stores = await openStores(config, metrics, log);
  const transport = new InProcessTransport();
  const messages = new MessageClient(transport);

  const platform: Provider[] = [
    { provide: EventStores, useValue: stores.events },
    { provide: StateDatabases, useValue: stores.state },
    { provide: ReadDatabases, useValue: stores.read },
    { provide: Keyrings, useValue: stores.keyrings },
    { provide: SnapshotStores, useValue: new SnapshotStores(stores.snapshots) },
    { provide: MessageClient, useValue: messages },
    { provide: Clock, useValue: systemClock },
    { provide: Metrics, useValue: metrics },
    { provide: Log, useValue: log },
  ];
  const services: INestApplicationContext[] = [];
  const start = async (queue: string, module: DynamicModule): Promise<INestApplicationContext> => {
    const service = await NestFactory.createApplicationContext(module, { logger: false, abortOnError: false });
    await serveMessages(service, transport, {
      queue, clock: systemClock,
      onError: (error, subject) => log.error({ err: error, subject }, 'message failed'),
      onHandled: (subject, outcome) => metrics.message(subject, outcome),
    });
    services.push(service);
    return service;
  };
  const access = await start('access', AccessModule.with(platform, config.access, (secret) => say(`Root API key, shown once: ${secret}`)));
  const authority = await start('license-authority', LicenseAuthorityModule.with(platform));
  // After the authority: orders that were cut short ask for their licenses at once.
  const catalog = await start('catalog', CatalogModule.with(platform));
  await start('activation', ActivationModule.with(platform));

  const readModels = [access, catalog, authority].map((service) => service.get(Projectors));
  const lags = async (): Promise<readonly ProjectionLag[]> => {
    return (await Promise.all(readModels.map((projectors) => projectors.lags()))).flat();
  };
  metrics.watchProjections(lags);
  health.add('ready', 'read models', projectionsKeepUp(lags, lagLimits));
  health.add('ready', 'parked streams', async () => {
    const parked = (await lags()).reduce((sum, lag) => sum + lag.parked, 0);
    return parked > 0 ? `${parked} streams could not be applied and are set aside; the log names them` : undefined;
  });

  const gateway = await createGateway({ messages, clock: systemClock, metrics, health, log, config: config.gateway });
  await gateway.listen(config.gateway.port, config.gateway.host);

  return {
    url: await gateway.getUrl(),
    async close() {
      await gateway.close();
      await transport.close();
      for (const service of services.reverse()) await service.close();
      await stores.close();
      await tracing.stop();
    },
  };
}

async function openStores({ dataDir, masterKey }: StandaloneConfig, metrics: Metrics, log: Log) {
  const names = [controlEnvironment, ...environments];
  for (const name of names) mkdirSync(join(dataDir, name), { recursive: true, mode: 0o700 });
  const key = loadMasterKey({ dataDir, ...(masterKey.value && { value: masterKey.value }), ...(masterKey.file && { file: masterKey.file }) });
  const at = { directory: dataDir };
  const [events, state, read] = await Promise.all([
    SqliteEventStores.open(Object.fromEntries(names.map((name) => [name, join(dataDir, name, 'events.db')])), {
      observe: (seconds) => metrics.append(seconds),
      handlerFailed: (error) => log.error({ err: error }, 'a subscriber failed; it gets the same events again'),
      failed: (error) => {
        log.fatal({ err: error }, 'the event store cannot write any more');
        process.exitCode = 1;
        process.kill(process.pid, 'SIGTERM');
      },
    }),
    openDatabases({ kind: 'state', environments: names, at, entities: [], migrations: [dataKeysMigration, requestsTable, lastSeenTable, ...authorityTables, reactionsTable] }),
    openDatabases({ kind: 'read', environments: names, at, entities: [...accessEntities, ...catalogEntities, ...authorityEntities] }),
  ]);
  const keyrings = new Keyrings(await Promise.all(names.map(async (environment) =>
    [environment, await Keyring.open({ masterKey: key, environment, dataKeys: new StoredDataKeys(state.of(environment)) })] as const)));
  const snapshots = names.map((name) => [name, new SqliteSnapshots(join(dataDir, name, 'snapshots.db'))] as const);
  return {
    snapshots, events: new EventStores(events.entries()), state: new StateDatabases(state.entries()), read: new ReadDatabases(read.entries()), keyrings,
    async close() {
      await events.close();
      for (const [, store] of snapshots) store.close();
      for (const [, database] of [...read.entries(), ...state.entries()]) await database.close();
    },
  };
}
