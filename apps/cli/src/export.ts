import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { lstat, open, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { EventStore, Position, RecordedEvent } from '@keyledger/event-store';
import { Keyring, StoredDataKeys } from '@keyledger/keyring';
import { Dump, migrationsOf, tablesOf, type Database } from '@keyledger/read-models';
import { mustBeComplete, type Records, type StoresConfig } from '@keyledger/stores';
import { headerOf, writeArchive, type Contents, type Header, type Part } from './archive.ts';
import { withoutLeftovers } from './leftovers.ts';
import { openFor, sumOf } from './records.ts';

const PAGE = 1_000;
const ATTEMPTS = 200;

/** One environment as it was at one moment. */
interface Moment {
  readonly environment: string;
  readonly store: EventStore;
  readonly head: Position;
  readonly dump: Dump;
  readonly contents: Contents;
}

/** Writes all that cannot be made again to a file (`-`: standard output), and says what that was. */
export async function exportTo(file: string, config: StoresConfig): Promise<string> {
  const { dataDir, databaseUrl } = config;
  if (databaseUrl === undefined && !existsSync(join(dataDir, 'control', 'events.db'))) throw new Error(`There is nothing to export in ${dataDir} (KEYLEDGER_DATA_DIR)`);
  if (file !== '-' && existsSync(file)) throw new Error(`${file} already exists`);
  if (file === '-' && process.stdout.isTTY) throw new Error('Standard output is a terminal: redirect it, or name a file');
  const records = await openFor('export', config);
  const moments: Moment[] = [];
  try {
    await mustBeComplete(records.state);
    for (const [environment, store] of records.events.entries()) moments.push(await momentOf(environment, store, records));
    const header = headerOf(new Date().toISOString(), Object.fromEntries(moments.map(({ environment, contents }) => [environment, contents])));
    await (file === '-' ? writeArchive(header, partsOf(moments), process.stdout) : writeFile(file, header, partsOf(moments)));
    return `Exported ${sumOf(header)}`;
  } finally {
    for (const { dump } of moments) await dump.close();
    await records.close();
  }
}

/** The file has its name when all of it is on the disk. Nobody else may read it: free texts and metadata in it are not sealed. */
async function writeFile(file: string, header: Header, parts: AsyncIterable<Part>): Promise<void> {
  await forgetUnfinished(file);
  const draft = `${file}.${randomUUID()}.unfinished`;
  const target = await open(draft, 'wx', 0o600);
  await withoutLeftovers(draft, async () => {
    await writeArchive(header, parts, target.createWriteStream({ flush: true }));
    await rename(draft, file);
  });
}

/** No export goes without writing for so long. */
const unfinishedMs = 86_400_000;

/** Of exports to the same file that were killed. What cannot be removed is in nobody's way. */
async function forgetUnfinished(file: string): Promise<void> {
  const isDraft = (name: string) => name.startsWith(basename(file)) && /^\.[\da-f-]{36}\.unfinished$/.test(name.slice(basename(file).length));
  const drafts = (await readdir(dirname(file)).catch(() => [])).filter(isDraft).map((name) => join(dirname(file), name));
  await Promise.all(drafts.map(async (draft) => {
    const at = await lstat(draft).then(({ mtimeMs }) => mtimeMs, () => Infinity);
    if (Date.now() - at > unfinishedMs) await rm(draft, { force: true }).catch(() => undefined);
  }));
}

/**
 * The tables as they are while the log ends where it ends: with the key of every event up to there and no answer to a request after it,
 * and with every key destroyed, or still to be destroyed by a reaction whose checkpoint says so. Who writes meanwhile does no harm.
 */
async function momentOf(environment: string, store: EventStore, { state }: Records): Promise<Moment> {
  const database = state.of(environment);
  const isNew = (await tablesOf(database)).length === 0;
  const probe = isNew ? undefined : await Keyring.probe(new StoredDataKeys(database));
  if (probe === undefined) throw new Error(`There is nothing to export: ${environment} has never been used`);
  const migrations = await migrationsOf(database);
  const { head, dump } = await quietMoment(environment, store, database);
  try {
    const rows: Record<string, number> = {};
    for (const { name } of dump.tables) rows[name] = await dump.count(name);
    let events = 0;
    for await (const page of eventsUpTo(store, head)) events += page.length;
    return { environment, store, head, dump, contents: { head, events, rows, migrations, probe } };
  } catch (error) {
    await dump.close();
    throw error;
  }
}

async function quietMoment(environment: string, store: EventStore, database: Database): Promise<Pick<Moment, 'head' | 'dump'>> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const head = await store.head();
    const dump = await Dump.open(database);
    if ((await store.head()) === head) return { head, dump };
    await dump.close();
  }
  throw new Error(`${environment} is being written to without a pause. Try again when there is less load, or stop the services`);
}

async function* partsOf(moments: readonly Moment[]): AsyncGenerator<Part> {
  for (const { environment, store, head, dump } of moments) {
    for await (const events of eventsUpTo(store, head)) yield { environment, events };
    for (const table of dump.tables) for await (const rows of dump.rows(table)) yield { environment, table: table.name, rows };
  }
}

async function* eventsUpTo(store: EventStore, head: Position): AsyncGenerator<readonly RecordedEvent[]> {
  for (let after: Position = 0; after < head;) {
    const page = (await store.readAll(after, PAGE)).filter(({ position }) => position <= head);
    const last = page.at(-1);
    if (!last) return;
    yield page;
    after = last.position;
  }
}
