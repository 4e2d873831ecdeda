import { deepEqual } from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { NO_STREAM, type NewEvent, type RecordedEvent } from '@keyledger/event-store';
import { serverKind, startServer, type TestServer } from '@keyledger/event-store/eventstoredb-server';
import { Keyring, StoredDataKeys } from '@keyledger/keyring';
import { createLog, Health, Metrics } from '@keyledger/observability';
import { Dump, type Database, type Row } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { schemas } from '@keyledger/standalone/schemas';
import { openRecords, openStores, stateMigrations, type StoresConfig } from '@keyledger/stores';
import pg from 'pg';
import { headerOf, readArchive, writeArchive, type Contents, type Part } from './archive.ts';
import { exportTo } from './export.ts';
import { importFrom } from './import.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'keyledger-transfer-'));
afterAll(() => rmSync(folder, { recursive: true }));

const masterKey = randomBytes(32);
const host = { log: createLog({ level: 'silent', service: 'test' }), metrics: new Metrics('test', { processMetrics: false }), health: new Health() };
let places = 0;
const newFile = () => join(folder, `export-${++places}.gz`);
const configOf = (databaseUrl?: string): StoresConfig =>
  ({ dataDir: join(folder, `place-${++places}`), masterKey: { value: masterKey.toString('hex'), file: undefined }, databaseUrl, eventStoreUrl: undefined, connections: 2 });
const inFiles = async () => configOf();

/** A database of its own on a server. */
async function inDatabase(url: string): Promise<StoresConfig> {
  const name = `place_${++places}`;
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(`create database ${name}`);
  await client.end();
  return configOf(url.replace('/postgres', `/${name}`));
}

const event = (data: NewEvent['data'] = {}): NewEvent => ({ id: randomUUID(), type: 'LicenseIssued', data, metadata: { schema: 1, occurredAt: '2020-01-01T00:00:00.000Z' } });
const requestRow = (n: number) => ({ claim: `claim ${n}`, body_hash: 'x', command_id: randomUUID(), command_at: '2026-11-21T00:00:00.000Z', answer: n % 2 ? `sealed ${n}` : null });
const keyringOf = (database: Database, environment: string) => Keyring.open({ masterKey, environment, dataKeys: new StoredDataKeys(database) });

/** Logs of several streams in every environment, sealed fields, an erased subject, rows of several tables. */
async function fill(config: StoresConfig, perEnvironment = 20): Promise<void> {
  const records = await openRecords(config, host, stateMigrations(schemas));
  for (const [environment, store] of records.events.entries()) {
    const database = records.state.of(environment);
    const keyring = await keyringOf(database, environment);
    const sealer = await keyring.prepare(['lic_kept', 'lic_erased'], true);
    for (const id of ['lic_kept', 'lic_erased']) {
      await store.append(`license-${id}`, NO_STREAM, [event({ sealed: sealer.seal(id, { secret: `${id} in ${environment}` }) }), event({ text: 'Grüße \u2028 \u0000 \ud800', n: 1e-7 })]);
    }
    await Promise.all(Array.from({ length: perEnvironment / 5 }, (_, n) => store.append(`license-lic_${n}`, NO_STREAM, Array.from({ length: 5 }, (_, seat) => event({ seat })))));
    await store.append('license-lic_kept', 1, [event()]);
    await keyring.shred('lic_erased');
    const insert = 'insert into access_requests (claim, body_hash, command_id, command_at, answer) values (?, ?, ?, ?, ?)';
    await database.batch([{ sql: insert, many: Array.from({ length: 1_200 }, (_, n) => Object.values(requestRow(n))) }]);
    await database.run('insert into reactions (name, position) values (?, ?)', ['authority-erasure', await store.head()]);
    await database.run('insert into activation_last_seen (activation_id, last_seen_at) values (?, ?)', [`act in ${environment}`, '2026-11-21T00:00:00.000Z']);
  }
  await records.close();
}

/** Everything, to the letter. */
async function contentOf(config: StoresConfig): Promise<Record<string, { events: RecordedEvent[]; head: number; rows: Record<string, Row[]> }>> {
  const records = await openRecords(config, host);
  const content: Awaited<ReturnType<typeof contentOf>> = {};
  for (const [environment, store] of records.events.entries()) {
    const events: RecordedEvent[] = [];
    for (let page; (page = await store.readAll(events.at(-1)?.position ?? 0)).length > 0;) events.push(...page);
    const dump = await Dump.open(records.state.of(environment));
    const rows: Record<string, Row[]> = {};
    for (const table of dump.tables) {
      const own: Row[] = [];
      for await (const page of dump.rows(table)) own.push(...page);
      const [column] = table.key as [string];
      rows[table.name] = own.sort((a, b) => (String(a[column]) < String(b[column]) ? -1 : 1));
    }
    await dump.close();
    content[environment] = { events, head: await store.head(), rows };
  }
  await records.close();
  return content;
}

const partsIn = async (file: string): Promise<Part[]> => {
  const parts: Part[] = [];
  await readArchive(Readable.from([readFileSync(file)]), async (part) => void parts.push(part));
  return parts;
};

/** What it holds, in an order that does not depend on where it was. */
const linesOf = async (file: string) => (await partsIn(file)).map((part) => JSON.stringify(part)).sort();

/** As the product would find it. */
async function openable(config: StoresConfig): Promise<void> {
  await (await openStores(config, host, schemas)).close();
}

const directions = (title: string, from: () => Promise<StoresConfig>, to: () => Promise<StoresConfig>) => describe(title, () => {
  const file = newFile();
  let source: StoresConfig;
  let before: Awaited<ReturnType<typeof contentOf>>;
  beforeAll(async () => {
    source = await from();
    await fill(source);
    before = await contentOf(source);
    expect(await exportTo(file, source)).toBe('Exported 75 events and 3,615 rows');
  });

  it('has the same log and the same tables afterwards, to the letter', async () => {
    const [target, again] = [await to(), newFile()];
    expect(await importFrom(file, target)).toBe('Imported 75 events and 3,615 rows');
    deepEqual(await contentOf(target), before);
    deepEqual(await contentOf(source), before);

    await exportTo(again, target);
    deepEqual(await linesOf(again), await linesOf(file));
    await openable(target);
  });

  it('opens what was sealed, and nothing of who was erased', async () => {
    const target = await to();
    await importFrom(file, target);
    const records = await openRecords(target, host);
    for (const [environment, store] of records.events.entries()) {
      const sealer = await (await keyringOf(records.state.of(environment), environment)).prepare(['lic_kept', 'lic_erased']);
      const sealedOf = async (id: string) => String((await store.readStream(`license-${id}`))[0]?.data['sealed']);
      expect(sealer.open('lic_kept', await sealedOf('lic_kept'))).toEqual({ secret: `lic_kept in ${environment}` });
      expect(sealer.open('lic_erased', await sealedOf('lic_erased'))).toBeNull();
      const { position } = await store.append('license-lic_kept', 2, [event()]);
      expect(position).toBeGreaterThan(25);
    }
    await records.close();
  });

  it('is refused as long as there is anything in the target, which stays as it is', async () => {
    const target = await to();
    await openable(target); // a first start leaves its keys
    await expect(importFrom(file, target)).rejects.toThrow(/must be empty, but there are rows of control in keyring_data_keys/);
    await fill(target, 5);
    const filled = await contentOf(target);
    await expect(importFrom(file, target)).rejects.toThrow(/must be empty, but there are events of control/);
    deepEqual(await contentOf(target), filled);
    await openable(target);
  });
});

/** In a process of its own, at three points on the way. */
const interruptions = (title: string, to: () => Promise<StoresConfig>) => describe(title, () => {
  const file = newFile();
  let content: Awaited<ReturnType<typeof contentOf>>;
  beforeAll(async () => {
    const source = await inFiles();
    await fill(source, 1_250);
    await exportTo(file, source);
    content = await contentOf(source);
  });

  it.each([['restore', 2], ['insert', 6], ['commit', 3]] as const)('are taken for complete by nobody when that was killed after %s number %i, and filled by the same file again', async (step, nth) => {
    const [target, other] = [await to(), newFile()];
    await killedAt(step, nth, file, target);

    await expect(openable(target)).rejects.toThrow('An import into these stores was started but not finished');
    await expect(exportTo(newFile(), target)).rejects.toThrow('An import into these stores was started but not finished');
    await writeArchive(headerOf('2020-01-01T00:00:00.000Z', headersOf(file)), Readable.from([]), toFile(other));
    await expect(importFrom(other, target)).rejects.toThrow('An import of another file was started here but not finished');

    await importFrom(file, target);
    deepEqual(await contentOf(target), content);
    await openable(target);
  }, 60_000);
});

const headersOf = (file: string) => (JSON.parse(gunzipSync(readFileSync(file)).toString().split('\n', 1)[0] as string) as ReturnType<typeof headerOf>).environments;

/** The same events and rows under another header. */
async function rewritten(file: string, to: string, edit: (contents: Contents) => Contents): Promise<void> {
  const environments = Object.fromEntries(Object.entries(headersOf(file)).map(([name, contents]) => [name, edit(contents)]));
  await writeArchive(headerOf('2026-11-21T00:00:00.000Z', environments), Readable.from(await partsIn(file)), toFile(to));
}

function toFile(file: string): Writable {
  const chunks: Buffer[] = [];
  return new Writable({
    write: (chunk: Buffer, _, done) => (chunks.push(chunk), done()),
    final: (done) => (writeFileSync(file, Buffer.concat(chunks)), done()),
  });
}

const on = { restore: 'events.SqliteEventStore, postgres.PostgresEventStore', append: 'events.EventStoreDbEventStore', insert: 'models.Refill', commit: 'models.Refill' } as const;

/** Runs an import in a process that is killed at once when a step has been taken so often. */
async function killedAt(step: keyof typeof on, nth: number, file: string, target: StoresConfig): Promise<void> {
  const script = `
    const [events, postgres, models, { importFrom }] = await Promise.all([import('@keyledger/event-store'), import('@keyledger/event-store/postgres'), import('@keyledger/read-models'), import(${JSON.stringify(new URL('./import.ts', import.meta.url).href)})]);
    let count = 0;
    for (const { prototype } of [${on[step]}]) {
      const original = prototype.${step};
      prototype.${step} = async function (...args) {
        await original.apply(this, args);
        if (++count === ${nth}) process.kill(process.pid, 'SIGKILL');
      };
    }
    await importFrom(${JSON.stringify(file)}, ${JSON.stringify(target)});`;
  const child = spawn(process.execPath, ['--conditions=@keyledger/source', '--import', './tools/swc-register.mjs', '--input-type=module', '--eval', script], { cwd: root, stdio: ['ignore', 'inherit', 'pipe'] });
  const [said, [, signal]] = await Promise.all([text(child.stderr), once(child, 'close')]);
  expect({ signal, said }).toEqual({ signal: 'SIGKILL', said: '' });
}

describe('An export and its import', () => {
  directions('from files to files', inFiles, inFiles);
  interruptions('files that were being filled', inFiles);
  describeWith('postgres', 'with servers', (server) => {
    const onServer = () => inDatabase(server().url);
    directions('from files to PostgreSQL', inFiles, onServer);
    directions('from PostgreSQL to files', onServer, inFiles);
    interruptions('databases that were being filled', onServer);

    it('has every key of its events and no answer beyond them, whatever is written around the moment that it is of', async () => {
      const [source, target, file] = [await onServer(), await inFiles(), newFile()];
      await fill(source);
      const records = await openRecords(source, host);
      const [store, database] = [records.events.of('production'), records.state.of('production')];
      const keyring = await keyringOf(database, 'production');
      /** As the product does it: the key, the event under it, the answer. */
      const sell = async (id: string) => {
        const sealer = await keyring.prepare([id], true);
        await store.append(`license-${id}`, NO_STREAM, [event({ sealed: sealer.seal(id, { id }) })]);
        await database.run('insert into authority_retired_keys (key_hash, license_id) values (?, ?)', [`answer ${id}`, id]);
      };
      const open = Dump.open.bind(Dump);
      let moments = 0;
      const spy = jest.spyOn(Dump, 'open').mockImplementation(async (own) => {
        const moment = own.environment === 'production' && ++moments <= 2 ? moments : 0;
        if (moment) await sell(`before-${moment}`);
        const dump = await open(own);
        if (moment) await sell(`after-${moment}`);
        return dump;
      });
      await exportTo(file, source);
      spy.mockRestore();
      await sell('late');
      await records.close();
      await importFrom(file, target);
      const production = (await contentOf(target))['production'] as Awaited<ReturnType<typeof contentOf>>[string];
      const sold = ['before-1', 'after-1', 'before-2', 'after-2'].sort();
      expect(production.events.flatMap(({ stream }) => /^license-((?:before|after|late).*)/.exec(stream)?.[1] ?? []).sort()).toEqual(sold);
      expect(production.rows['authority_retired_keys']?.map((row) => row['license_id']).sort()).toEqual(sold);
      expect(production.rows['keyring_data_keys']?.map((row) => row['subject'])).toEqual(expect.arrayContaining(sold));
    });
  }, { durable: true });
});

describe('An export', () => {
  it('is of files that nobody is writing to', async () => {
    const source = await inFiles();
    await fill(source);
    const product = await openStores(source, host, schemas);
    const file = newFile();
    await expect(exportTo(file, source)).rejects.toThrow(/^The product is running on these files; stop it first: .*events\.db is already open for writing$/);
    expect(existsSync(file)).toBe(false);
    await product.close();
    await expect(exportTo(join(folder, 'nowhere', 'export.gz'), source)).rejects.toThrow(/ENOENT/);
    await exportTo(file, source);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readdirSync(folder).filter((name) => name.endsWith('.unfinished'))).toEqual([]);
  });

  it('is written to a file of its own, whatever lies where it was begun before', async () => {
    const source = await inFiles();
    await fill(source);
    const [file, linked, others] = [newFile(), newFile(), newFile()];
    for (const path of [`${file}.unfinished`, others]) writeFileSync(path, 'another\'s', { mode: 0o666 });
    symlinkSync(others, `${linked}.unfinished`);
    for (const path of [file, linked]) {
      await exportTo(path, source);
      expect([lstatSync(path).isFile(), statSync(path).mode & 0o777]).toEqual([true, 0o600]);
    }
    for (const path of [`${file}.unfinished`, others]) expect(readFileSync(path, 'utf8')).toBe('another\'s');
    for (const path of [file, linked]) rmSync(`${path}.unfinished`);
  });

  it('removes what killed exports to the same file have left, a day later', async () => {
    const source = await inFiles();
    await fill(source);
    const file = newFile();
    const [old, recent, ...others] = [`${file}.${randomUUID()}`, `${file}.${randomUUID()}`, `${newFile()}.${randomUUID()}`, `${file}.mine`, file].map((path) => `${path}.unfinished`) as [string, string, ...string[]];
    for (const path of [old, recent, ...others]) {
      writeFileSync(path, 'a draft');
      const at = Date.now() / 1000 - 86_400 + (path === recent ? 60 : -1);
      utimesSync(path, at, at);
    }
    await exportTo(file, source);
    expect([old, recent, ...others].map((path) => existsSync(path))).toEqual([false, true, true, true, true]);
    for (const path of [recent, ...others]) rmSync(path);
  });

  it('names what older releases cannot read, which refuse it for that: destroyed keys are overwritten', async () => {
    const [source, file] = [await inFiles(), newFile()];
    await fill(source);
    await exportTo(file, source);
    const { header: { environments } } = await readArchive(Readable.from([readFileSync(file)]));
    const keys = (await partsIn(file)).flatMap((part) => ('table' in part && part.table === 'keyring_data_keys' ? part.rows : []));
    expect(keys.filter(({ wrapped }) => /^0+$/.test(String(wrapped)))).toHaveLength(Object.keys(environments).length);
    for (const { migrations } of Object.values(environments)) expect(migrations).toContain('keyring-2-overwritten');
  });

  it('does not take the place of another file, nor come out of nothing', async () => {
    const source = await inFiles();
    await expect(exportTo(newFile(), source)).rejects.toThrow(/nothing to export/);
    expect(existsSync(source.dataDir)).toBe(false);
    await fill(source);
    const file = newFile();
    writeFileSync(file, 'precious');
    await expect(exportTo(file, source)).rejects.toThrow('already exists');
    expect(readFileSync(file, 'utf8')).toBe('precious');
  });
});

describe('An import writes nothing', () => {
  const given = async () => {
    const [source, file] = [await inFiles(), newFile()];
    await fill(source);
    await exportTo(file, source);
    return { file, target: await inFiles() };
  };
  const refused = async (file: string, target: StoresConfig, why: RegExp | string) => {
    await expect(importFrom(file, target)).rejects.toThrow(why);
    expect(existsSync(join(target.dataDir, 'control', 'events.db'))).toBe(false);
  };

  it('of a file that is cut off, or that is not there', async () => {
    const { file, target } = await given();
    const bytes = readFileSync(file);
    writeFileSync(file, bytes.subarray(0, -1));
    await refused(file, target, /cannot be used; nothing was written: it is damaged or incomplete/);
    await refused(join(folder, 'nowhere'), target, 'ENOENT');
    writeFileSync(file, bytes);
    await importFrom(file, target);
  });

  it('without the master key that the file was made under, and makes none', async () => {
    const { file, target } = await given();
    await refused(file, { ...target, masterKey: { value: randomBytes(32).toString('hex'), file: undefined } }, /made under another master key; nothing was written\. Set KEYLEDGER_MASTER_KEY_FILE/);
    const none = { ...target, masterKey: { value: undefined, file: undefined } };
    await refused(file, none, /There is no master key: /);
    mkdirSync(target.dataDir, { recursive: true });
    writeFileSync(join(target.dataDir, 'master.key'), masterKey);
    await importFrom(file, none);
  });

  it('of a newer release, whose tables it does not know', async () => {
    const { file, target } = await given();
    const newer = newFile();
    await rewritten(file, newer, ({ migrations, ...contents }) => ({ ...contents, migrations: [...migrations, 'access-99-future'] }));
    await refused(newer, target, 'made by a newer release; nothing was written: this release does not know access-99-future');
  });
});

const beforeRetiredKeys = ({ migrations, rows: { authority_retired_keys: _, ...rows }, ...contents }: Contents): Contents =>
  ({ ...contents, rows, migrations: migrations.filter((name) => name !== 'authority-1-retired-keys') });

it('An export of an older release is brought to the present at the next start', async () => {
  const [source, target, file, older] = [await inFiles(), await inFiles(), newFile(), newFile()];
  await fill(source);
  await exportTo(file, source);
  await rewritten(file, older, beforeRetiredKeys);
  await importFrom(older, target);
  expect(Object.keys((await contentOf(target))['production']?.rows ?? {})).not.toContain('authority_retired_keys');
  await openable(target);
  deepEqual(await contentOf(target), await contentOf(source));
});

it('An export of an older release can be finished although somebody has tried to start on the half of it', async () => {
  const [source, target, file, older] = [await inFiles(), await inFiles(), newFile(), newFile()];
  await fill(source);
  await exportTo(file, source);
  await rewritten(file, older, beforeRetiredKeys);
  await killedAt('insert', 2, older, target);
  const tables = async () => Object.keys((await contentOf(target))['production']?.rows ?? {});
  const before = await tables();
  await expect(openable(target)).rejects.toThrow('An import into these stores was started but not finished');
  expect(await tables()).toEqual(before);
  await importFrom(older, target);
  await openable(target);
  deepEqual(await contentOf(target), await contentOf(source));
});

it('An import is taken for complete by nobody when its file became another on the way, or the log does not end where the file does', async () => {
  const [source, target, other, ...files] = [await inFiles(), await inFiles(), await inFiles(), newFile(), newFile(), newFile()];
  const [file, later, shorter] = files as [string, string, string];
  await fill(source);
  await exportTo(file, source);
  await exportTo(later, source);
  await rewritten(file, shorter, (contents) => ({ ...contents, head: contents.head - 1 }));
  /** Who asks where to write has read the file once. */
  const onTheWay = { ...target, get databaseUrl(): undefined { return void writeFileSync(file, readFileSync(later)); } };
  await expect(importFrom(file, onTheWay)).rejects.toThrow(`${file} was changed while it was being read`);
  await expect(importFrom(shorter, other)).rejects.toThrow('The log of control ends at 25 instead of 24: another process is writing to it');
  for (const config of [target, other]) await expect(openable(config)).rejects.toThrow('An import into these stores was started but not finished');
});

/** What a store that gives out positions and times itself can keep of a log. */
const facts = ({ events }: { events: readonly RecordedEvent[] } = { events: [] }) =>
  events.map(({ stream, revision, id, type, data, metadata }) => ({ stream, revision, id, type, data, metadata }));

describeWith('postgres', 'An installation whose log EventStoreDB keeps', (server) => {
  let eventStore: TestServer;
  beforeAll(async () => { eventStore = await startServer(); });
  afterAll(() => eventStore.stop());

  it('has the same events in the same order, once, even when its import was killed; its reactions begin anew; and it moves on from there', async () => {
    if (serverKind === undefined) console.warn('NO REAL EVENTSTOREDB WAS TESTED, only a double of it');
    const [source, target, onward, file, next] = [await inFiles(), { ...await inDatabase(server().url), eventStoreUrl: eventStore.url, eventStorePrefix: `t-${randomUUID()}` }, await inFiles(), newFile(), newFile()];
    await fill(source);
    await exportTo(file, source);
    await killedAt('append', 12, file, target);
    await expect(openable(target)).rejects.toThrow('An import into these stores was started but not finished');
    await importFrom(file, target);
    const [before, after] = [await contentOf(source), await contentOf(target)];
    for (const environment of Object.keys(before)) {
      expect(facts(after[environment])).toEqual(facts(before[environment]));
      deepEqual(after[environment]?.rows, { ...before[environment]?.rows, reactions: [] });
    }
    await openable(target);

    await exportTo(next, target);
    await importFrom(next, onward);
    const positionsIn = (content: typeof after) => Object.values(content).map(({ events, head }) => [...events.map(({ position }) => position), head]);
    expect(positionsIn(await contentOf(onward))).toEqual(positionsIn(after));
    const records = await openRecords(onward, host);
    expect(await records.events.of('production').append('license-lic_kept', 2, [event()])).toMatchObject({ revision: 3 });
    await records.close();
  }, 60_000);
}, { durable: true });
