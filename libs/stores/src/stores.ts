import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { INestApplicationContext, Provider } from '@nestjs/common';
import {
  EventStoreDbEventStores, EventStores, SnapshotStores, SqliteEventStores, SqliteSnapshots, subjectOf, type EventStore, type SnapshotStore,
} from '@keyledger/event-store';
import { Clock, controlEnvironment, environments, type PerEnvironment } from '@keyledger/kernel';
import { dataKeysMigration, Keyring, Keyrings, loadMasterKey, overwrittenKeys, StoredDataKeys } from '@keyledger/keyring';
import { projectionsKeepUp, type Health, type Log, type Metrics, type ProjectionLag } from '@keyledger/observability';
import { migrationsOf, openDatabases, Projectors, ReadDatabases, reactionsTable, StateDatabases, tablesOf, type Databases, type Migration } from '@keyledger/read-models';
import { EnvironmentClocks } from './clocks.ts';
import type { StoresConfig } from './config.ts';
import { mustBeComplete } from './import.ts';

/** The tables of one service, which touches no other's. */
export interface Schema {
  readonly state?: readonly Migration[];
  readonly read?: Parameters<typeof openDatabases>[0]['entities'];
}

/** What the stores need from the process they are opened in. */
interface Host {
  readonly log: Log;
  readonly metrics: Metrics;
  readonly health: Health;
}

export interface Stores {
  /** All of them under the tokens by which services inject them. */
  readonly providers: readonly Provider[];
  /** Metrics and readiness follow the read models of these services. Call once. */
  watch(services: readonly INestApplicationContext[]): void;
  close(): Promise<void>;
}

/** The log of every environment, whichever store keeps it. */
type Logs = PerEnvironment<EventStore> & { close(): Promise<void> };
type Snapshots = PerEnvironment<SnapshotStore> & { close(): void | Promise<void> };

const names = [controlEnvironment, ...environments];
/** A read model further behind than this sends requests elsewhere for a while. In time, because positions are bytes in some logs. */
const mostBehindSeconds = 10;

/** Opens the stores of all environments, creating missing ones: files of this process, or servers shared by many. */
export async function openStores(config: StoresConfig, { log, metrics, health }: Host, schemas: readonly Schema[]): Promise<Stores> {
  const { dataDir, masterKey, databaseUrl, connections } = config;
  const at = placeOf(config);
  // A new master key would open nothing of what is already stored here.
  const existing = databaseUrl === undefined && existsSync(join(dataDir, controlEnvironment, 'state.db'));
  const key = loadMasterKey({ dataDir, existing, ...(masterKey.value && { value: masterKey.value }), ...(masterKey.file && { file: masterKey.file }) });
  // Before any migration: an older export can be finished only in the tables its import was started with. Checked again below, for one that starts meanwhile.
  const control = await openDatabases({ kind: 'state', environments: [controlEnvironment], at, connections, entities: [] });
  const migrations = stateMigrations(schemas);
  const [{ events, snapshots }, state, read] = await mustBeComplete(control).then(() => mustNotBeNewer(control, migrations)).then(() => Promise.all([
    openLogs(config, log, metrics),
    openDatabases({ kind: 'state', environments: names, at, connections, entities: [], migrations }),
    openDatabases({ kind: 'read', environments: names, at, connections, entities: schemas.flatMap((schema) => schema.read ?? []) }),
  ])).finally(() => control.of(controlEnvironment).close());
  const close = async () => {
    await events.close();
    await snapshots.close();
    for (const [, database] of [...read.entries(), ...state.entries()]) await database.close();
  };
  const keyrings = await openKeyrings(state, events, key).catch(async (error: unknown) => {
    await close();
    throw error;
  });
  const clocks = await EnvironmentClocks.open(events.of(controlEnvironment), environments);
  const forgetting = databaseUrl === undefined ? [] : await Promise.all(names.map((name) => forgetErased(events.of(name), keyrings.of(name))));
  return {
    providers: [
      { provide: EventStores, useValue: new EventStores(events.entries()) },
      { provide: SnapshotStores, useValue: new SnapshotStores(snapshots.entries()) },
      { provide: StateDatabases, useValue: new StateDatabases(state.entries()) },
      { provide: ReadDatabases, useValue: new ReadDatabases(read.entries()) },
      { provide: Keyrings, useValue: keyrings },
      // Instead of the process's own clock, which knows only real time.
      { provide: Clock, useValue: clocks },
    ],
    watch: (services) => watchReadModels(services.map((service) => service.get(Projectors)), metrics, health),
    async close() {
      await Promise.all([clocks, ...forgetting].map((subscription) => subscription.close()));
      await close();
    },
  };
}

/** This release could misread them. It knows all migrations of the services it has; other services share the database and know their own. */
async function mustNotBeNewer(state: Databases, known: readonly Migration[]): Promise<void> {
  const services = new Set(known.map(({ name }) => serviceOf(name)));
  const unknown = (await migrationsOf(state.of(controlEnvironment))).find((name) => services.has(serviceOf(name)) && known.every((own) => own.name !== name));
  if (unknown) throw new Error(`These stores were written by a newer release: this release does not know ${unknown}`);
}

const serviceOf = (migration: string): string => migration.replace(/-\d+-.*$/, '');

/** Not where only a part of an installation is, or parts of two. */
async function openKeyrings(state: Databases, events: Logs, masterKey: Uint8Array): Promise<Keyrings> {
  await mustBeComplete(state);
  return new Keyrings(await Promise.all(names.map(async (environment) => {
    const dataKeys = new StoredDataKeys(state.of(environment));
    await mustBelongTogether(environment, events.of(environment), dataKeys);
    return [environment, await Keyring.open({ masterKey, environment, dataKeys })] as const;
  })));
}

/** New keys open nothing that a log already holds. Its head is read first: a process that has written by then had made the keys before. */
async function mustBelongTogether(environment: string, store: EventStore, dataKeys: StoredDataKeys): Promise<void> {
  if ((await store.head()) === 0 || (await Keyring.probe(dataKeys)) !== undefined) return;
  throw new Error(`The log of ${environment} has events, but the state tables are new: the keys to the log are lost, or it is the log of another installation`);
}

/** What cannot be rebuilt: the log and the state tables of all environments. */
export interface Records {
  readonly events: PerEnvironment<EventStore>;
  readonly state: Databases;
  /** Names something that is already here; undefined when the stores are empty. */
  contents(): Promise<string | undefined>;
  close(): Promise<void>;
}

/** Opens only these records, for export and import. Without migrations: it uses the tables that exist and creates none. */
export async function openRecords(config: StoresConfig, { log, metrics }: Pick<Host, 'log' | 'metrics'>, migrations: readonly Migration[] = []): Promise<Records> {
  const at = placeOf(config);
  // First the files that only one process may open.
  const { events, snapshots } = await openLogs(config, log, metrics);
  // A large table takes time, and no caller waits for an answer.
  const state = await openDatabases({ kind: 'state', environments: names, at, answerWithinMs: null, entities: [], migrations });
  return {
    events, state,
    async contents() {
      for (const [environment, store] of events.entries()) if ((await store.head()) > 0) return `events of ${environment}`;
      for (const [environment, database] of state.entries()) {
        for (const { name } of await tablesOf(database)) if ((await database.run(`select 1 from ${name} limit 1`)).rows.length > 0) return `rows of ${environment} in ${name}`;
      }
      const read = await openDatabases({ kind: 'read', environments: names, at, entities: [] });
      const kept = await Promise.all([...read.entries()].map(async ([environment, database]) => {
        const tables = await tablesOf(database).finally(() => database.close());
        return tables.length > 0 ? `read models of ${environment}` : undefined;
      }));
      return kept.find((found) => found !== undefined);
    },
    async close() {
      await events.close();
      await snapshots.close();
      for (const [, database] of state.entries()) await database.close();
    },
  };
}

/** All migrations of the state tables of these services, and of those that every installation has. */
export const stateMigrations = (schemas: readonly Schema[]): readonly Migration[] => [dataKeysMigration, overwrittenKeys, reactionsTable, ...schemas.flatMap((schema) => schema.state ?? [])];

/** Where the databases are; creates missing folders. */
function placeOf({ dataDir, databaseUrl }: StoresConfig): { directory: string } | { postgresUrl: string } {
  if (databaseUrl !== undefined) return { postgresUrl: databaseUrl };
  for (const name of names) mkdirSync(join(dataDir, name), { recursive: true, mode: 0o700 });
  return { directory: dataDir };
}

async function openLogs({ dataDir, databaseUrl, eventStoreUrl, eventStorePrefix: prefix, connections }: StoresConfig, log: Log, metrics: Metrics): Promise<{ events: Logs; snapshots: Snapshots }> {
  const options = {
    observe: (seconds: number) => metrics.append(seconds),
    handlerFailed: (error: unknown) => log.error({ err: error }, 'a subscriber failed; it will get the same events again'),
    failed: (error: Error) => {
      log.fatal({ err: error }, 'the event store failed and cannot continue; this process ends');
      process.exitCode = 1;
      process.kill(process.pid, 'SIGTERM');
    },
  };
  if (databaseUrl === undefined) {
    const [events, snapshots] = await Promise.all([
      SqliteEventStores.open(Object.fromEntries(names.map((name) => [name, join(dataDir, name, 'events.db')])), options),
      Promise.all(names.map(async (name) => [name, new SqliteSnapshots(join(dataDir, name, 'snapshots.db'))] as const)),
    ]);
    return { events, snapshots: Object.assign(new SnapshotStores(snapshots), { close: () => { for (const [, store] of snapshots) store.close(); } }) };
  }
  const { mustBeDurablePostgres, PostgresEventStores, PostgresSnapshotStores } = await import('@keyledger/event-store/postgres');
  const lost = (error: unknown) => log.warn({ err: error }, 'the event store does not answer; it will be tried again');
  // At once: an orderly end would save a read position in a log that is gone.
  const gone = (error: Error) => {
    log.fatal({ err: error }, 'the event store failed and cannot continue; this process ends');
    process.exit(1);
  };
  if (eventStoreUrl !== undefined) await mustBeDurablePostgres(databaseUrl);
  const [events, snapshots] = await Promise.all([
    eventStoreUrl === undefined
      ? PostgresEventStores.open({ url: databaseUrl, environments: names, connections, ...options, failed: gone, lost })
      : EventStoreDbEventStores.open({ url: eventStoreUrl, environments: names, ...(prefix !== undefined && { prefix }), ...options, disconnected: lost }),
    PostgresSnapshotStores.open({ url: databaseUrl, environments: names }),
  ]);
  return { events, snapshots };
}

/** Another process may have destroyed the key of an erased license; this one must not go on using the copy in its memory. */
async function forgetErased(store: EventStore, keyring: Keyring) {
  return store.subscribe(await store.head(), (events) => {
    for (const { stream } of events) keyring.forget(subjectOf(stream));
  }, [{ category: 'license', types: ['LicenseErased'], bare: true }]);
}

function watchReadModels(readModels: readonly Projectors[], metrics: Metrics, health: Health): void {
  const lags = async (): Promise<readonly ProjectionLag[]> => (await Promise.all(readModels.map((projectors) => projectors.lags()))).flat();
  metrics.watchProjections(lags);
  health.add('ready', 'read models', projectionsKeepUp(lags, mostBehindSeconds));
  health.add('ready', 'parked streams', async () => {
    const parked = (await lags()).reduce((sum, lag) => sum + lag.parked, 0);
    return parked > 0 ? `${parked} streams could not be applied and are set aside; the log names them` : undefined;
  });
}
