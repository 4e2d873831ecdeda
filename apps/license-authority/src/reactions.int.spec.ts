import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it, jest } from '@jest/globals';
import { EventStores, SnapshotStores, SqliteEventStores, SqliteSnapshots, type EventStore } from '@keyledger/event-store';
import { runIn, systemContext } from '@keyledger/kernel';
import { dataKeysMigration, Keyring, Keyrings, StoredDataKeys } from '@keyledger/keyring';
import { openDatabases, Projectors, ReadDatabases, reactionsTable, StateDatabases, type Projection } from '@keyledger/read-models';
import { erase, idOf, issue, licenseKey, until } from '@keyledger/testing';
import { LicenseEntity, licenseTable, retiredKeys } from './license.tables.ts';
import { Erasure } from './reactions.ts';
import { apartTables, sightingsTable } from './sightings.ts';
import { Licenses } from './streams.ts';

const directory = mkdtempSync(join(tmpdir(), 'keyledger-erasure-'));
const ends: (() => Promise<void>)[] = [];
afterAll(async () => {
  for (const end of ends.toReversed()) await end();
  rmSync(directory, { recursive: true });
});

it('An erased license can be read in no table, though one is still being built and has not come to its end, and the erasure is waited for however long that takes', async () => {
  const now = '2026-11-21T00:00:00.000Z';
  const at = { environments: ['staging'], at: { directory } };
  const logs = await SqliteEventStores.open({ staging: join(directory, 'events.db') });
  const state = new StateDatabases((await openDatabases({ ...at, kind: 'state', entities: [], migrations: [dataKeysMigration, reactionsTable, retiredKeys, sightingsTable, apartTables] })).entries());
  const read = new ReadDatabases((await openDatabases({ ...at, kind: 'read', entities: [LicenseEntity] })).entries());
  const snapshots = new SqliteSnapshots(join(directory, 'snapshots.db'));
  ends.push(() => logs.close(), async () => snapshots.close(), () => state.of('staging').close(), () => read.of('staging').close());
  const keyrings = new Keyrings([['staging', await Keyring.open({ masterKey: new Uint8Array(32), environment: 'staging', dataKeys: new StoredDataKeys(state.of('staging')) })]]);
  const events = new EventStores(logs.entries());
  const licenses = new Licenses(events, keyrings, new SnapshotStores([['staging', snapshots]]));
  const here = <T>(work: () => T): T => runIn(systemContext('staging', now), work);
  const project = (projection: Projection, store: EventStore) =>
    Projectors.start({ name: 'test', projections: [projection], events: new EventStores([['staging', store]]), databases: read, sealings: keyrings, parked: () => undefined });
  const log = logs.of('staging');

  const [kept, erased] = [idOf('lic', 1), idOf('lic', 2)];
  await here(() => licenses.create(kept, issue({ licenseId: kept, key: licenseKey(1), environment: 'staging' })));
  await here(() => licenses.create(erased, issue({ licenseId: erased, key: licenseKey(2), environment: 'staging' })));
  const before = await project(licenseTable as Projection, log);
  await here(() => before.current());
  await before.close();

  // A new release builds its table, and is held up before it reads what is written from now on.
  const held = Promise.withResolvers<void>();
  const projectors = await project({ ...licenseTable, version: licenseTable.version + 1 } as Projection, {
    append: (...all) => log.append(...all), readStream: (...all) => log.readStream(...all), readByStream: (...all) => log.readByStream(...all),
    subscribe: (...all) => log.subscribe(...all), head: () => log.head(), close: () => log.close(),
    readAll: async (...all) => {
      await held.promise;
      return log.readAll(...all);
    },
  });
  ends.push(async () => {
    held.resolve();
    await projectors.close();
  });
  const building = async () => (await read.of('staging').run<{ id: string }>('select id from authority_license_v2 order by id')).rows.map(({ id }) => id);
  await until(async () => (await building()).length === 2);
  const readable = () => readdirSync(join(directory, 'staging')).filter((file) => readFileSync(join(directory, 'staging', file)).includes(licenseKey(2).value));
  expect(readable()).not.toEqual([]);

  const observed = { authority_retired_keys: "'hash of ' || ?, ?", authority_activations: "?, 1, '', '', ?", authority_refusals: "?, '', ?, '', '', 1, 0, 0" };
  for (const [table, values] of Object.entries(observed)) for (const id of [kept, erased]) await state.of('staging').run(`insert into ${table} values (${values})`, [id, id]);
  const erasure = await Erasure.start(events, state, read, keyrings, { now: () => now }, licenses, projectors);
  ends.push(() => erasure.close());
  await here(() => licenses.run(erased, erase()));
  await here(() => erasure.done());
  expect(await building()).toEqual([kept]);
  const sealer = await keyrings.of('staging').prepare([kept, erased]);
  const keys = await Promise.all([kept, erased].map(async (id) => sealer.open(id, String((await log.readStream(`license-${id}`))[0]?.data['sealed']))));
  expect(keys).toEqual([expect.anything(), null]);
  for (const table of Object.keys(observed)) expect((await state.of('staging').run<{ license_id: string }>(`select license_id from ${table}`)).rows).toEqual([{ license_id: kept }]);
  expect(readable()).toEqual([]);

  // A large file takes longer to be written anew than other reactions may.
  const rewriting = Promise.withResolvers<void>();
  jest.spyOn(read.of('staging'), 'scrub').mockReturnValueOnce(rewriting.promise);
  await here(() => licenses.run(kept, erase()));
  jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick'] });
  const done = here(() => erasure.done());
  jest.advanceTimersByTime(50_000);
  jest.useRealTimers();
  rewriting.resolve();
  await done;
});
