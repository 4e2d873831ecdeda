import { randomUUID } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { EventStores, NO_STREAM } from '@keyledger/event-store';
import { startServer, type TestServer } from '@keyledger/event-store/eventstoredb-server';
import { Keyrings } from '@keyledger/keyring';
import { createLog, Health, Metrics } from '@keyledger/observability';
import { StateDatabases } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { until } from '@keyledger/testing';
import { storesConfig, type StoresConfig } from './config.ts';
import { openStores, type Stores } from './stores.ts';

const host = { log: createLog({ level: 'silent', service: 'test' }), metrics: new Metrics('test', { processMetrics: false }), health: new Health() };
const open = (config: StoresConfig) => openStores(config, host, []);
const partOf = <T>({ providers }: Stores, type: abstract new (...args: never[]) => T): T => (providers.find((provider) => 'provide' in provider && provider.provide === type) as { useValue: T }).useValue;
const logsOf = (stores: Stores) => partOf(stores, EventStores);
const write = (stores: Stores, type = 'LicenseIssued') => logsOf(stores).of('production').append('license-a', NO_STREAM, [{ id: randomUUID(), type, data: {}, metadata: {} }]);

let dataDir: string;
beforeEach(() => { dataDir = mkdtempSync(join(tmpdir(), 'keyledger-')); });
afterEach(() => rmSync(dataDir, { recursive: true }));
const configOf = (env: NodeJS.ProcessEnv = {}) => storesConfig({ KEYLEDGER_DATA_DIR: dataDir, ...env });

describe('Stores', () => {
  it('are refused when the log has events and the tables beside it are new: those are lost, or somebody else\'s log is there', async () => {
    const stores = await open(configOf());
    await write(stores);
    await stores.close();
    await (await open(configOf())).close();
    for (const suffix of ['', '-wal', '-shm']) rmSync(join(dataDir, 'production', `state.db${suffix}`), { force: true });
    await expect(open(configOf())).rejects.toThrow(/^The log of production has events, but the state tables are new/);
  });

  it('are refused without the master key that they were made with, and no other is made', async () => {
    await (await open(configOf())).close();
    rmSync(join(dataDir, 'master.key'));
    await expect(open(configOf())).rejects.toThrow(/^There is no master key: .*master\.key does not exist/);
    expect(readdirSync(dataDir)).not.toContain('master.key');
  });

  it('are refused when a newer release has written to them, but not for the tables of services that are not opened here', async () => {
    const config = configOf();
    const migrated = async (name: string) => {
      const stores = await open(config);
      await partOf(stores, StateDatabases).of('control').run('insert into migrations (name) values (?)', [name]);
      await stores.close();
    };
    await migrated('usage-99-future');
    await migrated('keyring-99-future');
    await expect(open(config)).rejects.toThrow(/^These stores were written by a newer release: this release does not know keyring-99-future/);
  });
});

describeWith('postgres', 'Stores that another process uses as well', (postgres) => {
  it('open nothing of a license that was erased there, though they had its key in memory', async () => {
    const config = configOf({ DATABASE_URL: postgres().url });
    const [here, there] = [await open(config), await open(config)];
    const [own, other] = [partOf(here, Keyrings).of('production'), partOf(there, Keyrings).of('production')];
    const sealed = (await other.prepare(['a'], true)).seal('a', { name: 'Ada' });
    const opened = async () => (await own.prepare(['a'])).open('a', sealed);
    expect(await opened()).toEqual({ name: 'Ada' });
    await other.shred('a');
    await write(there, 'LicenseErased');
    await until(opened, (name) => name === null);
    await Promise.all([here.close(), there.close()]);
  });
}, { durable: true });

describeWith('postgres', 'Stores whose log has lost events that were confirmed', (postgres) => {
  it('end their process without an orderly end, which would save how far it has read', async () => {
    const [exit, kill] = [jest.spyOn(process, 'exit').mockImplementation((() => undefined) as never), jest.spyOn(process, 'kill').mockReturnValue(true)];
    const stores = await open(configOf({ DATABASE_URL: postgres().url }));
    await write(stores);
    await partOf(stores, StateDatabases).of('production').run('update production_events.head set position = 0');
    await logsOf(stores).of('production').head();
    expect([exit.mock.calls, kill.mock.calls]).toEqual([[[1]], []]);
    await stores.close();
    jest.restoreAllMocks();
  });
}, { durable: true });

describeWith('postgres', 'Stores with a log on EventStoreDB', (postgres) => {
  let eventStore: TestServer;
  beforeAll(async () => { eventStore = await startServer(); }, 360_000);
  afterAll(() => eventStore.stop());

  it('are refused when the PostgreSQL beside it forgets what it has confirmed: it has the keys to the events', async () => {
    await expect(open(configOf({ DATABASE_URL: postgres().url, EVENTSTORE_URL: eventStore.url, EVENTSTORE_PREFIX: randomUUID() }))).rejects.toThrow(/fsync=off/);
  });
});
