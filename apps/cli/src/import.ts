import { createReadStream, createWriteStream } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { EventStore, Position, RecordedEvent } from '@keyledger/event-store';
import { Keyring, loadMasterKey } from '@keyledger/keyring';
import { Refill, type Migration, type Row } from '@keyledger/read-models';
import { schemas } from '@keyledger/standalone/schemas';
import { beginImport, endImport, stateMigrations, unfinishedImport, type Records, type StoresConfig } from '@keyledger/stores';
import { BadArchive, readArchive, type Header, type Part } from './archive.ts';
import { withoutLeftovers } from './leftovers.ts';
import { openFor, sumOf } from './records.ts';

/** How far reactions have come. At the positions of another log it would mean something else; without it they begin anew, which they may. */
const CHECKPOINTS = 'reactions';

/**
 * Fills empty stores from a file (`-`: standard input), and says with what. Before it writes, it has read the file to its end and knows that it
 * is whole. What is cut short can be done again: the stores stay closed to the product until it has been, and only the same file will do.
 */
export async function importFrom(file: string, config: StoresConfig): Promise<string> {
  if (file !== '-') return importFile(file, config);
  const folder = await mkdtemp(join(tmpdir(), 'keyledger-import-'));
  return withoutLeftovers(folder, async () => {
    const copy = join(folder, 'export');
    await pipeline(process.stdin, createWriteStream(copy, { mode: 0o600 }));
    return importFile(copy, config, 'what came in');
  });
}

async function importFile(file: string, config: StoresConfig, name = file): Promise<string> {
  const { header, digest } = await readArchive(createReadStream(file)).catch((error: unknown) => {
    throw error instanceof BadArchive ? new Error(`${name} cannot be used; nothing was written: ${error.message}`) : error;
  });
  mustHaveItsKey(header, config);
  const records = await openFor('import', config, migrationsOf(header));
  try {
    await begin(records, digest);
    const target = new Target(header, records);
    const again = await readArchive(createReadStream(file), (part) => target.take(part));
    if (again.digest !== digest) throw new Error(`${name} was changed while it was being read`);
    await target.end();
    await endImport(records.state);
    return `Imported ${sumOf(header)}`;
  } finally {
    await records.close();
  }
}

function mustHaveItsKey({ environments }: Header, { dataDir, masterKey: { value, file } }: StoresConfig): void {
  const masterKey = loadMasterKey({ dataDir, existing: true, ...(value && { value }), ...(file && { file }) });
  if (!Object.entries(environments).every(([environment, { probe }]) => Keyring.fits(probe, { masterKey, environment }))) {
    throw new Error('The export was made under another master key; nothing was written. Set KEYLEDGER_MASTER_KEY_FILE (or KEYLEDGER_MASTER_KEY) to the key of the installation it comes from: without it the sealed data cannot be read');
  }
}

/** The tables as they were: what is newer in this release is done to them when it starts. */
function migrationsOf({ environments }: Header): readonly Migration[] {
  const known = stateMigrations(schemas);
  const named = new Set(Object.values(environments).flatMap(({ migrations }) => migrations));
  const unknown = [...named].find((name) => !known.some((migration) => migration.name === name));
  if (unknown) throw new Error(`The export was made by a newer release; nothing was written: this release does not know ${unknown}`);
  return known.filter(({ name }) => named.has(name));
}

/** For the first time, or again. */
async function begin(records: Records, digest: string): Promise<void> {
  const begun = await unfinishedImport(records.state);
  if (begun === digest) return;
  if (begun !== undefined) throw new Error('An import of another file was started here but not finished. Run that import again, or empty these stores first');
  const there = await records.contents();
  if (there) throw new Error(`The target must be empty, but there are ${there}`);
  await beginImport(records.state, digest);
}

/** The stores that are being filled, in the order of the file. */
class Target {
  readonly #header: Header;
  readonly #records: Records;
  readonly #startedAt = new Map<string, Position>();
  #filling: { readonly environment: string; readonly tables: Refill } | undefined;

  constructor(header: Header, records: Records) {
    this.#header = header;
    this.#records = records;
  }

  async take(part: Part): Promise<void> {
    try {
      if ('events' in part) await this.#restore(part.environment, part.events);
      else await this.#fill(part.environment, part.table, part.rows);
    } catch (error) {
      await this.#filling?.tables.rollback();
      throw error;
    }
  }

  async end(): Promise<void> {
    await this.#filled();
    for (const [environment, { head }] of Object.entries(this.#header.environments)) {
      const store = this.#records.events.of(environment);
      if (store.restore && (await store.head()) !== head) throw new Error(`The log of ${environment} ends at ${await store.head()} instead of ${head}: another process is writing to it`);
    }
  }

  /** What an earlier attempt has brought is there already. */
  async #restore(environment: string, events: readonly RecordedEvent[]): Promise<void> {
    const store = this.#records.events.of(environment);
    if (!store.restore) return appendAll(store, events);
    let from = this.#startedAt.get(environment);
    if (from === undefined) this.#startedAt.set(environment, (from = await store.head()));
    await store.restore(events.filter(({ position }) => position > (from as Position)));
  }

  async #fill(environment: string, table: string, rows: readonly Row[]): Promise<void> {
    if (this.#filling?.environment !== environment) {
      await this.#filled();
      const tables = Object.keys(this.#header.environments[environment]?.rows ?? {});
      this.#filling = { environment, tables: await Refill.open(this.#records.state.of(environment), tables) };
    }
    if (table === CHECKPOINTS && !this.#records.events.of(environment).restore) return;
    await this.#filling.tables.insert(table, rows);
  }

  async #filled(): Promise<void> {
    await this.#filling?.tables.commit();
    this.#filling = undefined;
  }
}

/** For a store that gives out positions and times itself: the same events under the same ids, at the same revisions, in the same order. Those it has it does not take twice. */
async function appendAll(store: EventStore, events: readonly RecordedEvent[]): Promise<void> {
  for (let from = 0; from < events.length;) {
    const { stream, revision } = events[from] as RecordedEvent;
    const other = events.findIndex((event, at) => at > from && event.stream !== stream);
    const own = events.slice(from, other === -1 ? undefined : other);
    await store.append(stream, revision - 1, own);
    from += own.length;
  }
}
