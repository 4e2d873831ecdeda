import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { EventStore, RecordedEvent } from '@keyledger/event-store';
import { PerEnvironment, systemClock } from '@keyledger/kernel';
import { Database, type DatabaseOptions } from './database.ts';
import { ParcelLog, ParcelRow, parcels, rowsIn, sent } from './parcels.contract.ts';
import { Projector } from './projector.ts';
import { Reaction, reactionsTable } from './reaction.ts';
import { ReadIndex } from './read-index.ts';

const BYTES = 700;
const far = (events: readonly RecordedEvent[]) => events.map((event) => ({ ...event, position: event.position * BYTES }));

/** The store, with positions as EventStoreDB gives them: each event is hundreds of them. */
const inBytes = (store: EventStore): EventStore => ({
  append: async (...all) => {
    const appended = await store.append(...all);
    return { ...appended, position: appended.position * BYTES };
  },
  readStream: async (...all) => far(await store.readStream(...all)),
  readAll: async (after, limit) => far(await store.readAll(after / BYTES, limit)),
  subscribe: (after, handler, follows) => store.subscribe(after / BYTES, (events, upTo, passed) => handler(far(events), upTo * BYTES, passed), follows),
  head: async () => (await store.head()) * BYTES,
  close: () => store.close(),
});

describe('On a log whose positions are bytes', () => {
  let directory: string;
  let log: ParcelLog;
  let store: EventStore;
  let database: Database;
  const open = async (options: Pick<DatabaseOptions, 'kind' | 'entities' | 'migrations'>) => {
    database = await Database.open({ environment: 'test', at: { sqliteFile: join(directory, 'test.db') }, ...options });
    return database;
  };
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'keyledger-'));
    log = await ParcelLog.open();
    store = inBytes(log.store);
  });
  afterEach(async () => {
    await database.close();
    await log.close();
    rmSync(directory, { recursive: true });
  });

  it('a projector writes down how far it is when rows have changed, not for every few events of others', async () => {
    const database = await open({ kind: 'read', entities: [ParcelRow] });
    const projector = await Projector.start({ store, database, projections: [parcels()], sealing: log.sealing });
    const index = new ReadIndex(store, projector, 10_000);
    const saves = async () => (await database.run<{ fence: number }>('select fence from projections')).rows[0]?.fence;
    await log.write('a', sent('Ada'));
    await index.current();
    const before = await saves();
    for (let n = 0; n < 50; n++) {
      await log.writeOther();
      await index.current();
    }
    expect(await saves()).toBe(before);
    await log.write('b', sent('Grace'));
    await index.current();
    expect(await rowsIn(database)).toHaveLength(2);
    await projector.close();
  });

  it('a reaction does so once a second, not for every few events that are none of its business', async () => {
    const database = await open({ kind: 'state', entities: [], migrations: [reactionsTable] });
    const run = jest.spyOn(database as Pick<Database, 'run'>, 'run');
    const reaction = await Reaction.start({
      name: 'test', events: new PerEnvironment([['production', store]]), databases: new PerEnvironment([['production', database]]), clock: systemClock,
      follows: [{ category: 'parcel' }], react: async () => undefined,
    });
    const saves = () => run.mock.calls.filter(([sql]) => sql.startsWith('insert')).length;
    for (let n = 0; n < 50; n++) await log.writeOther();
    await reaction.close();
    // The last one is when it ends.
    expect(saves()).toBe(1);
  });
});
