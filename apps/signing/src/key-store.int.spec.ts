import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, jest } from '@jest/globals';
import { runIn, systemContext } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { Database, StateDatabases, type DatabaseOptions } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { SealedKeys, sealedKeysTable } from './key-store.ts';
import { keyStoreContract } from './key-store.contract.ts';
import { open as openSealed, placeOf, seal } from './sealing.ts';

const names = ['production', 'staging'];
const masterKey = Buffer.alloc(32, 5);
const passphrase = 'correct horse battery staple';

const onSqlite = (directory: string, options: { key?: Buffer; phrase?: string } = {}) => opened((environment) => ({ sqliteFile: join(directory, `${environment}.db`) }), options);

async function opened(at: (environment: string) => DatabaseOptions['at'], { key = masterKey, phrase }: { key?: Buffer; phrase?: string }) {
  const databases = new StateDatabases(await Promise.all(names.map(async (environment) =>
    [environment, await Database.open({ kind: 'state', environment, entities: [], migrations: [sealedKeysTable], at: at(environment) })] as const)));
  const keyrings = new Keyrings(await Promise.all(names.map(async (environment) =>
    [environment, await Keyring.open({ masterKey: key, environment, dataKeys: new MemoryDataKeys() })] as const)));
  const close = async () => {
    for (const [, database] of databases.entries()) await database.close();
  };
  return { databases, close, store: new SealedKeys(databases, keyrings, phrase), again: new SealedKeys(databases, keyrings, phrase) };
}

const directories: string[] = [];
function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'signing-keys-'));
  directories.push(made);
  return made;
}
const tidy = () => {
  for (const made of directories.splice(0)) rmSync(made, { recursive: true });
};

for (const [name, phrase] of [['SealedKeys under the master key', undefined], ['SealedKeys under a passphrase', passphrase]] as const) {
  keyStoreContract(name, async () => {
    const { store, again, close } = await onSqlite(folder(), phrase === undefined ? {} : { phrase });
    return {
      stores: [store, again],
      async close() {
        await close();
        tidy();
      },
    };
  });
}

describeWith('postgres', 'SealedKeys', (server) => keyStoreContract('SealedKeys', async () => {
  const { store, again, close } = await opened(() => ({ postgresUrl: server().url }), {});
  return { stores: [store, again], close };
}));

describe('Sealed keys', () => {
  afterEach(tidy);
  const inProduction = <T>(work: () => Promise<T>): Promise<T> => runIn(systemContext('production', '2026-11-21T12:00:00.000Z'), work);
  const sealedIn = async (databases: StateDatabases): Promise<string> =>
    (await databases.of('production').run<{ sealed: string }>('select sealed from signing_sealed_keys')).rows[0]?.sealed ?? '';

  it('are not opened by another master key, passphrase, environment or name, nor with a bit changed', async () => {
    const directory = folder();
    const { databases, store, close } = await onSqlite(directory);
    const { kid } = await inProduction(() => store.generate());
    const sealed = await sealedIn(databases);
    await close();
    const another = await onSqlite(directory, { key: Buffer.alloc(32, 6) });
    await expect(inProduction(() => another.store.exported(kid, passphrase))).rejects.toThrow();
    await another.close();

    const key = (await Keyring.open({ masterKey, environment: 'production', dataKeys: new MemoryDataKeys() })).signingKeys;
    const stagingKey = (await Keyring.open({ masterKey, environment: 'staging', dataKeys: new MemoryDataKeys() })).signingKeys;
    expect((await openSealed({ key }, placeOf('production', kid), sealed)).length).toBe(48);
    for (const [lock, place] of [[{ key: stagingKey }, placeOf('production', kid)], [{ key }, placeOf('staging', kid)], [{ key }, placeOf('production', 'another')]] as const) {
      await expect(openSealed(lock, place, sealed)).rejects.toThrow();
    }
    for (const at of [3, 20, sealed.length - 3]) await expect(openSealed({ key }, placeOf('production', kid), sealed.slice(0, at) + (sealed[at] === 'A' ? 'B' : 'A') + sealed.slice(at + 1))).rejects.toThrow();
  });

  it('need the passphrase that they were sealed under, and open without one that was not asked for then', async () => {
    const directory = folder();
    const first = await onSqlite(directory);
    const old = await inProduction(() => first.store.generate());
    await first.close();
    const second = await onSqlite(directory, { phrase: passphrase });
    const young = await inProduction(() => second.store.generate());
    await inProduction(() => second.store.exported(old.kid, passphrase));
    await second.close();
    const third = await onSqlite(directory);
    await expect(inProduction(() => third.store.exported(young.kid, passphrase))).rejects.toThrow('KEYLEDGER_SIGNING_PASSPHRASE');
    expect(await inProduction(() => Promise.all([old, young].map(({ kid }) => third.store.tried(kid))))).toEqual([{ setting: 'KEYLEDGER_MASTER_KEY', opens: true }, { setting: 'KEYLEDGER_SIGNING_PASSPHRASE', opens: false }]);
    await third.close();
    const fourth = await onSqlite(directory, { phrase: `${passphrase}!` });
    await expect(inProduction(() => fourth.store.exported(young.kid, passphrase))).rejects.toThrow();
    expect(await inProduction(() => fourth.store.tried(young.kid))).toEqual({ setting: 'KEYLEDGER_SIGNING_PASSPHRASE', opens: false });
    await fourth.close();
  });

  it('share a salt, so that a start pays for the passphrase once, however many they are', async () => {
    const directory = folder();
    const saltsIn = async (databases: StateDatabases) => new Set((await databases.of('production').run<{ sealed: string }>('select sealed from signing_sealed_keys')).rows.map(({ sealed }) => sealed.split('.')[1]));
    const first = await onSqlite(directory, { phrase: passphrase });
    const keys = await inProduction(() => Promise.all(Array.from({ length: 5 }, () => first.store.generate())));
    await first.close();
    const second = await onSqlite(directory, { phrase: passphrase });
    for (const { kid } of keys) expect(await inProduction(() => second.store.tried(kid))).toMatchObject({ opens: true });
    await inProduction(() => second.store.generate());
    expect((await saltsIn(second.databases)).size).toBe(1);
    await second.close();
  });

  it('are in no file in clear, and gone from all of them when they are destroyed', async () => {
    const directory = folder();
    const { databases, store, close } = await onSqlite(directory);
    const { kid } = await inProduction(() => store.generate());
    const sealed = await sealedIn(databases);
    const key = (await Keyring.open({ masterKey, environment: 'production', dataKeys: new MemoryDataKeys() })).signingKeys;
    const seed = (await openSealed({ key }, placeOf('production', kid), sealed)).subarray(16);
    const inFiles = (what: Buffer | string) => readdirSync(directory).some((file) => readFileSync(join(directory, file)).includes(what));
    expect(inFiles(sealed)).toBe(true);
    for (const form of [seed, seed.toString('hex'), seed.toString('base64'), seed.toString('base64url')]) expect(inFiles(form)).toBe(false);
    await inProduction(() => store.destroy(kid));
    expect(inFiles(sealed)).toBe(false);
    await close();
  });

  it('are still there to be destroyed, and signed with no more, when the files could not be rid of them', async () => {
    const directory = folder();
    const { databases, store, again, close } = await onSqlite(directory);
    const { kid } = await inProduction(() => store.generate());
    const sealed = await sealedIn(databases);
    jest.spyOn(databases.of('production'), 'scrub').mockRejectedValueOnce(new Error('the disk is full'));
    await expect(inProduction(() => store.destroy(kid))).rejects.toThrow('the disk is full');
    expect(await inProduction(() => again.has(kid))).toBe(true);
    for (const each of [store, again]) await expect(inProduction(() => each.exported(kid, passphrase))).rejects.toThrow('There is no private key');
    await inProduction(() => again.destroy(kid));
    expect(await inProduction(() => store.has(kid))).toBe(false);
    expect(readdirSync(directory).some((file) => readFileSync(join(directory, file)).includes(sealed))).toBe(false);
    await close();
  });

  it('are gone from the files likewise where an earlier release had left off', async () => {
    const directory = folder();
    const { databases, store, close } = await onSqlite(directory);
    const { kid } = await inProduction(() => store.generate());
    const database = databases.of('production');
    await database.run("update signing_sealed_keys set sealed = '' where kid = ?", [kid]);
    const scrub = jest.spyOn(database, 'scrub');
    expect(await inProduction(() => store.has(kid))).toBe(true);
    await inProduction(() => store.destroy(kid));
    expect(await inProduction(() => store.has(kid))).toBe(false);
    expect(scrub.mock.calls).toEqual([[{ overwritten: false }]]);
    await close();
  });

  it('come under a passphrase that is new, and the file is rid of how they lay before, though somebody died on the way; but not with every start', async () => {
    const directory = folder();
    const first = await onSqlite(directory);
    const [good, damaged] = [await inProduction(() => first.store.generate()), await inProduction(() => first.store.generate())];
    await first.databases.of('production').run("update signing_sealed_keys set sealed = sealed || 'AAAA' where kid = ?", [damaged.kid]);
    await first.close();
    const second = await onSqlite(directory, { phrase: passphrase });
    const scrub = jest.spyOn(second.databases.of('production'), 'scrub').mockRejectedValueOnce(new Error('the disk is full'));
    await expect(inProduction(() => second.store.sealAnew())).rejects.toThrow('the disk is full');
    expect(await inProduction(() => second.store.tried(good.kid))).toEqual({ setting: 'KEYLEDGER_SIGNING_PASSPHRASE', opens: true });
    for (let n = 0; n < 3; n++) await inProduction(() => second.store.sealAnew());
    expect(scrub).toHaveBeenCalledTimes(2);
    await second.close();
  });

  it('are opened by nobody any more who wanted to sign with one while it was destroyed', async () => {
    const { databases, store, close } = await onSqlite(folder());
    const { kid, publicJwk } = await inProduction(() => store.generate());
    const sign = () => store.sign(kid, { type: 'key-certificate', payload: { kid, purpose: 'lease', environment: 'production', publicJwk, notBefore: '2026-11-21T12:00:00.000Z', notAfter: '2027-11-21T12:00:00.000Z' } });
    const database = databases.of('production');
    const run = database.run.bind(database);
    jest.spyOn(database, 'run').mockImplementation(async (...statement: Parameters<typeof run>) => {
      if (String(statement[0]).startsWith('update') && await store.tried(kid)) await sign();
      return run(...statement);
    });
    await inProduction(() => store.destroy(kid));
    await expect(inProduction(sign)).rejects.toThrow('There is no private key');
    await close();
  });

  it('are never sealed the same way twice', async () => {
    const secret = Buffer.alloc(48, 1);
    const texts = await Promise.all(Array.from({ length: 3 }, () => seal({ passphrase }, placeOf('production', 'k'), secret)));
    expect(new Set(texts).size).toBe(3);
    expect(await openSealed({ passphrase }, placeOf('production', 'k'), texts[0] ?? '')).toEqual(secret);
  });
});
