// How fast the license list is built anew from the log: the product's own projector, projection, stores and sealing.
//   node rebuild.mjs write <folder> <licenses>   writes a log of five events a license
//   node rebuild.mjs read <folder>               builds the list from it, three times, and prints one line of JSON
// The log is the unkind one: the events of a license are as far apart as they can be, as after years of use.
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { Aggregates, EventStores, SqliteEventStores } from '@keyledger/event-store';
import { DEFAULT_KEY_FORMAT, generateKey, keyPrefix, License, normaliseKey } from '@keyledger/domain';
import { newId, runIn, systemClock, systemContext } from '@keyledger/kernel';
import { dataKeysMigration, Keyring, Keyrings, StoredDataKeys } from '@keyledger/keyring';
import { Database, Projector } from '@keyledger/read-models';
import { LicenseEntity, licenseTable } from '../../apps/license-authority/dist/license.tables.js';

const [task, folder, count] = process.argv.slice(2);
const environment = 'production';
const file = (name) => join(folder, `${name}.db`);

const events = await SqliteEventStores.open({ [environment]: file('events') });
const state = await Database.open({ kind: 'state', environment, entities: [], migrations: [dataKeysMigration], at: { sqliteFile: file('state') } });
const keyring = await Keyring.open({ masterKey: Buffer.alloc(32, 'bench'), environment, dataKeys: new StoredDataKeys(state) });
await (task === 'write' ? write(Number(count)) : read());
await events.close();
await state.close();

async function write(licenses) {
  const streams = new Aggregates(License, new EventStores([...events.entries()]), new Keyrings([[environment, keyring]]));
  const inMessage = (work) => runIn(systemContext(environment, systemClock.now(environment)), work);
  const [productId, customerId] = [inMessage(() => newId('prd')), inMessage(() => newId('cus'))];
  const issue = (licenseId) => {
    const value = generateKey(DEFAULT_KEY_FORMAT, randomBytes);
    const key = { value, hash: keyring.keyHash(normaliseKey(value)), prefix: keyPrefix(value, DEFAULT_KEY_FORMAT.prefix) };
    return { type: 'Issue', licenseId, productId, environment, terms: { activationLimit: 5 }, key };
  };
  const activate = (n) => (id) => ({ type: 'Activate', activationId: newId('act'), fingerprint: `${id}/${n}`, instanceName: `machine ${n}` });
  const waves = [issue, () => ({ type: 'Assign', customerId }), activate(1), activate(2), () => ({ type: 'Suspend', reason: 'the payment is late' })];
  const ids = Array.from({ length: licenses }, () => inMessage(() => newId('lic')));
  for (const commandFor of waves) {
    for (let from = 0; from < licenses; from += 1000) {
      await Promise.all(ids.slice(from, from + 1000).map((id) => inMessage(() => streams.run(id, commandFor(id), () => undefined))));
    }
  }
}

async function read() {
  const store = events.of(environment);
  const database = await Database.open({ kind: 'read', environment, entities: [LicenseEntity], at: { sqliteFile: file('read') } });
  const projector = await Projector.start({ store, database, projections: [licenseTable], sealing: keyring });
  const seconds = [];
  for (let round = 0; round < 3; round++) {
    const startedAt = performance.now();
    await projector.rebuild(licenseTable.name);
    seconds.push((performance.now() - startedAt) / 1000);
  }
  const { rows: [{ licenses }] } = await database.run(`select count(*) as licenses from ${LicenseEntity.meta.tableName} where status = 'suspended'`);
  if (licenses * 5 !== store.head()) throw new Error(`${store.head()} events made ${licenses} licenses`);
  await projector.close();
  await database.close();
  console.log(JSON.stringify({ events: store.head(), seconds, memory: process.memoryUsage.rss() / 2 ** 20 }));
}
