import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import { Database } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { dataKeyStoreContract } from './data-keys.contract.ts';
import { dataKeysMigration, StoredDataKeys } from './data-keys.ts';
import { Keyring } from './keyring.ts';

const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'data-keys-'));
  ends.push(() => rmSync(directory, { recursive: true }));
  return directory;
}

async function open(directory: string): Promise<Database> {
  const database = await Database.open({
    kind: 'state', environment: 'production', entities: [], migrations: [dataKeysMigration], at: { sqliteFile: join(directory, 'state.db') },
  });
  ends.push(() => database.close());
  return database;
}

dataKeyStoreContract('StoredDataKeys on SQLite', async () => new StoredDataKeys(await open(temporaryDirectory())));

describeWith('postgres', 'A data key store', (server) => {
  let schemas = 0;
  const openSchema = async (schema: string): Promise<StoredDataKeys> => {
    const database = await Database.open({ kind: 'state', environment: 'production', entities: [], migrations: [dataKeysMigration], at: { postgresUrl: server().url, schema } });
    ends.push(() => database.close());
    return new StoredDataKeys(database);
  };
  dataKeyStoreContract('StoredDataKeys on PostgreSQL', () => openSchema(`keys_${++schemas}`));

  it('gives two processes that race the same key, and neither one that the other has destroyed', async () => {
    const [one, other] = await Promise.all([openSchema('shared'), openSchema('shared')]) as [StoredDataKeys, StoredDataKeys];
    for (let n = 0; n < 20; n++) {
      const [mine, theirs] = await Promise.all([one.insert(new Map([[`lic_${n}`, 'mine']])), other.insert(new Map([[`lic_${n}`, 'theirs']]))]);
      expect(mine).toEqual(theirs);
    }
    await one.destroy('lic_1');
    expect(await other.get(['lic_1'])).toEqual(new Map([['lic_1', null]]));
  });

  it('lets two processes make and destroy the same keys in any order without waiting for each other for ever', async () => {
    const [one, other] = await Promise.all([openSchema('crossed'), openSchema('crossed')]) as [StoredDataKeys, StoredDataKeys];
    for (let n = 0; n < 10; n++) {
      const subjects = Array.from({ length: 500 }, (_, m) => `lic_${n}_${m}`);
      const keys = subjects.map((subject) => [subject, 'key'] as const);
      await Promise.all([one.insert(new Map(keys)), other.insert(new Map(keys.toReversed())), other.destroy(...subjects.slice(250).reverse(), ...subjects.slice(0, 250))]);
      expect(new Set((await one.get(subjects)).values())).toEqual(new Set([null]));
    }
  });
});

describe('A keyring on SQLite', () => {
  const masterKey = Buffer.alloc(32, 3);
  const start = async (directory: string) => {
    const database = await open(directory);
    return { database, keyring: await Keyring.open({ masterKey, environment: 'production', dataKeys: new StoredDataKeys(database) }) };
  };

  it('opens after a restart what was sealed before, and nothing of what was shredded', async () => {
    const directory = temporaryDirectory();
    const { database, keyring } = await start(directory);
    const sealer = await keyring.prepare(['cus_1', 'cus_2'], true);
    const [one, two] = [sealer.seal('cus_1', { name: 'Ada' }), sealer.seal('cus_2', { name: 'Grace' })];
    await keyring.shred('cus_2');
    await database.close();
    ends.pop();
    const again = await (await start(directory)).keyring.prepare(['cus_1', 'cus_2'], true);
    expect(again.open('cus_1', one)).toEqual({ name: 'Ada' });
    expect(again.open('cus_2', two)).toBeNull();
  });

  it('leaves no trace of a destroyed key in any file', async () => {
    const directory = temporaryDirectory();
    const { database, keyring } = await start(directory);
    await keyring.prepare(['cus_1'], true);
    const { rows: [row] } = await database.run<{ wrapped: string }>('select wrapped from keyring_data_keys where subject = ?', ['cus_1']);
    const inFiles = () => readdirSync(directory).some((file) => readFileSync(join(directory, file)).includes(row?.wrapped ?? 'no row'));
    expect(inFiles()).toBe(true);
    await keyring.shred('cus_1');
    expect(inFiles()).toBe(false);
  });

  it('leaves no piece of any of thousands that came and went, without writing anew the file of which they are the least part', async () => {
    const directory = temporaryDirectory();
    const database = await open(directory);
    const store = new StoredDataKeys(database);
    await database.run('create table large (n integer primary key, filler text)');
    await database.run('insert into large with recursive s(n) as (select 1 union all select n + 1 from s where n < 400) select n, hex(zeroblob(2000)) from s');
    await database.run('delete from large where n > 200');
    const [kept, destroyed] = [new Map<string, string>(), new Map<string, string>()];
    for (let round = 0; round < 25; round++) {
      const come = new Map(Array.from({ length: 120 }, () => [`lic_${randomUUID()}`, randomBytes(61).toString('base64url')]));
      await store.insert(come);
      for (const [subject, wrapped] of come) kept.set(subject, wrapped);
      const go = [...kept.keys()].filter((_, n) => n % 3 === round % 3).slice(0, 105);
      await store.destroy(...go);
      for (const subject of go) {
        destroyed.set(subject, kept.get(subject) ?? '');
        kept.delete(subject);
      }
    }
    const bytes = Buffer.concat(readdirSync(directory).map((file) => readFileSync(join(directory, file)))).toString('latin1');
    const pieces = new Set(Array.from({ length: bytes.length - 7 }, (_, at) => bytes.slice(at, at + 8)));
    const piecesOf = (wrapped: string) => Array.from({ length: wrapped.length - 7 }, (_, at) => wrapped.slice(at, at + 8));
    expect([...destroyed.values()].filter((wrapped) => piecesOf(wrapped).some((piece) => pieces.has(piece)))).toEqual([]);
    expect([...kept.values()].filter((wrapped) => !bytes.includes(wrapped))).toEqual([]);
    expect(await store.get([...destroyed.keys()])).toEqual(new Map([...destroyed.keys()].map((subject) => [subject, null])));
    // 200 rows of 4 KB are gone, and some of their room is still free.
    expect((await database.run<{ free: number }>('select freelist_count as free from pragma_freelist_count')).rows[0]?.free).toBeGreaterThan(0);
  });
});
