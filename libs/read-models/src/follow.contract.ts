// Run by the specs as a process of its own, to be killed: writes parcels, follows them, and says so after every batch.
import { join } from 'node:path';
import { Database } from './database.ts';
import { erased, moved, ParcelLog, ParcelRow, parcels, sent } from './parcels.contract.ts';
import { Projector } from './projector.ts';

const [, , directory = '.'] = process.argv;
const log = await ParcelLog.open(directory);
const database = await Database.open({ kind: 'read', environment: 'test', entities: [ParcelRow], at: { sqliteFile: join(directory, 'read.db') } });
await Projector.start({ store: log.store, database, projections: [parcels()], sealing: log.sealing, observe: () => process.stdout.write('.') });
for (let n = log.store.head(); ; n++) {
  const id = `p${(n * 7) % 60}`;
  await Promise.all([log.write(id, n % 11 === 0 ? erased : moved(`Bonn ${n}`)), log.write(`q${n}`, sent(`Ada ${n}`), moved('Rome'))]);
}
