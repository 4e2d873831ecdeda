// Many licenses in a data folder of the product's, straight into the log of staging: product, catalog and HTTP would take ten times as long.
//   node licenses.mjs <folder> <licenses> <due>   of which so many expire within a day, and the others in years; prints one line of JSON
import { mkdirSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { DEFAULT_KEY_FORMAT, generateKey, keyPrefix, License, normaliseKey } from '@keyledger/domain';
import { Aggregates, EventStores, SqliteEventStores } from '@keyledger/event-store';
import { addSeconds, newId, runIn, systemClock, systemContext } from '@keyledger/kernel';
import { dataKeysMigration, Keyring, Keyrings, loadMasterKey, StoredDataKeys } from '@keyledger/keyring';
import { Database } from '@keyledger/read-models';

const [folder, licenses, due] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const environment = 'staging';
const atOnce = 1_000;
const asked = 20_000;
const year = 365 * 86_400;

mkdirSync(join(folder, environment), { recursive: true });
const file = (name) => join(folder, environment, `${name}.db`);
const events = await SqliteEventStores.open({ [environment]: file('events') });
const state = await Database.open({ kind: 'state', environment, entities: [], migrations: [dataKeysMigration], at: { sqliteFile: file('state') } });
const keyring = await Keyring.open({ masterKey: loadMasterKey({ dataDir: folder }), environment, dataKeys: new StoredDataKeys(state) });
const streams = new Aggregates(License, new EventStores([...events.entries()]), new Keyrings([[environment, keyring]]), { maxFolds: atOnce });
const now = systemClock.now(environment);
const inMessage = (work) => runIn(systemContext(environment, now), work);
const [productId, customerId] = [inMessage(() => newId('prd')), inMessage(() => newId('cus'))];

const startedAt = performance.now();
const keys = [];
for (let from = 0; from < licenses; from += atOnce) {
  const ids = Array.from({ length: Math.min(atOnce, licenses - from) }, () => inMessage(() => newId('lic')));
  await keyring.prepare(ids, true);
  await Promise.all(ids.map((licenseId, n) => inMessage(() => {
    const value = generateKey(DEFAULT_KEY_FORMAT, randomBytes);
    const key = { value, hash: keyring.keyHash(normaliseKey(value)), prefix: keyPrefix(value, DEFAULT_KEY_FORMAT.prefix) };
    // Those that are due lie scattered in the log, as they do after years of selling.
    const isDue = Math.floor((from + n) * due / licenses) < Math.floor((from + n + 1) * due / licenses);
    if (!isDue && keys.length < asked) keys.push(value);
    const expiresAt = addSeconds(now, isDue ? 3_600 + Math.floor(Math.random() * 80_000) : year + Math.floor(Math.random() * 5 * year));
    return streams.create(licenseId, { type: 'Issue', licenseId, productId, customerId, environment, terms: { activationLimit: 5, expiresAt }, key }, () => undefined);
  })));
}
await events.close();
await state.close();
console.log(JSON.stringify({ seconds: (performance.now() - startedAt) / 1000, keys }));
