import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from '@jest/globals';
import { PostgresEventStores } from '@keyledger/event-store/postgres';
import { describeWith } from '@keyledger/servers/contract';
import { Database } from './database.ts';
import { moved, ParcelLog, ParcelRow, parcels, rowsIn, sent } from './parcels.contract.ts';
import { Projector } from './projector.ts';
import { ReadIndex } from './read-index.ts';

describeWith('postgres', 'A projector whose server is killed', (server) => {
  it('goes on by itself when it is there again, with the log on the same server', async () => {
    const stores = await PostgresEventStores.open({ url: server().url, environments: ['test'], handlerFailed: () => undefined, lost: () => undefined });
    const log = new ParcelLog(stores.of('test'));
    const open = () => Database.open({ kind: 'read', environment: 'test', entities: [ParcelRow], at: { postgresUrl: server().url } });
    const start = (own: Database) => Projector.start({ store: log.store, database: own, projections: [parcels()], sealing: log.sealing, failed: () => undefined });
    const [database, another] = [await open(), await open()];
    const projectors = [await start(database), await start(another)];
    const indexes = projectors.map((projector) => new ReadIndex(log.store, projector));

    let written = 0;
    let refused = 0;
    let enough = false;
    const writers = Array.from({ length: 8 }, async (_, writer) => {
      for (let n = 0; !enough; n++) {
        try {
          await log.write(`p${writer}-${n % 20}`, sent(`Ada ${n}`), moved(`Bonn ${n}`));
          written++;
        } catch {
          refused++;
          await sleep(20);
        }
      }
    });
    for (let round = 0; round < 2; round++) {
      const before = written;
      while (written < before + 200) await sleep(5);
      await server().kill();
      const refusedBefore = refused;
      while (refused < refusedBefore + 100) await sleep(5);
      await server().restart();
    }
    const before = written;
    while (written < before + 100) await sleep(5);
    enough = true;
    await Promise.all(writers);

    // Who reads is told to come back, but not for ever.
    for (const index of indexes) while (!(await Promise.resolve(index.current()).then(() => true, () => false)));
    const expected = await log.expected();
    expect(expected.length).toBeGreaterThan(100);
    for (const own of [database, another]) expect(await rowsIn(own)).toEqual(expected);

    await Promise.all(projectors.map((projector) => projector.close()));
    await Promise.all([database.close(), another.close()]);
    await stores.close();
  }, 60_000);
}, { durable: true });
