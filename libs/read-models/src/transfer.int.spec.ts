import { expect, it } from '@jest/globals';
import type { Database, Migration, Row } from './database.ts';
import { onEveryDialect } from './dialects.contract.ts';
import { Dump, migrationsOf, Refill, tablesOf } from './transfer.ts';

const seats: Migration = {
  name: 'test-1-seats',
  async up({ run }) {
    // The key is neither the first column nor one alone, and its order is not that of the columns.
    await run('create table seats (note text, place bigint not null, house text not null, primary key (house, place))');
    await run('create index seats_note on seats (note)');
  },
};
const names: Migration = { name: 'test-2-names', up: ({ run }) => run('create table names (name text primary key)') };
const options = { kind: 'state', migrations: [names, seats] } as const;
const rowsOf = async (database: Database) => {
  const dump = await Dump.open(database);
  const found: Record<string, Row[]> = {};
  try {
    for (const table of dump.tables) {
      found[table.name] = [];
      for await (const page of dump.rows(table)) found[table.name]?.push(...page);
      expect(await dump.count(table.name)).toBe(found[table.name]?.length);
    }
    return found;
  } finally {
    await dump.close();
  }
};
/** Of three pages, with texts that are ordered one way by their bytes and another by a language. */
const someSeats = Array.from({ length: 1_234 }, (_, n) => ({ note: n % 3 ? `${n}` : null, place: 2 ** 40 + n, house: ['b', 'B', 'a', 'Ä', 'a b', ''][n % 6] as string }));
const insert = (database: Database, rows: readonly Row[]) =>
  database.batch([{ sql: 'insert into seats (note, place, house) values (?, ?, ?)', many: rows.map(({ note, place, house }) => [note, place, house] as [string, number, string]) }]);
const inOrder = (rows: readonly Row[] = []) => rows.map((row) => JSON.stringify(Object.entries(row).sort())).sort();

onEveryDialect('What a database holds', ({ open, dialect }) => {
  it('is known from the database itself', async () => {
    const database = await open(options);
    expect(await tablesOf(database)).toEqual([{ name: 'names', key: ['name'] }, { name: 'seats', key: ['house', 'place'] }]);
    expect(await migrationsOf(database)).toEqual(['test-1-seats', 'test-2-names']);
    expect(await tablesOf(await open())).toEqual([]);
  });

  it('is read to the last row, over all pages', async () => {
    const database = await open(options);
    await insert(database, someSeats);
    const { seats: read, names: none } = await rowsOf(database);
    expect(inOrder(read)).toEqual(inOrder(someSeats));
    expect(none).toEqual([]);
  });

  if (dialect === 'postgres') it('is that of one moment, whatever is written meanwhile', async () => {
    const database = await open(options);
    await insert(database, someSeats.slice(0, 600));
    const dump = await Dump.open(database);
    await insert(database, someSeats.slice(600));
    await database.run('update seats set note = ?', ['changed']);
    await database.run('insert into names (name) values (?)', ['new']);
    const [, table] = dump.tables as [{ name: string; key: string[] }, { name: string; key: string[] }];
    const read: Row[] = [];
    for await (const page of dump.rows(table)) {
      read.push(...page);
      await database.run('delete from seats');
    }
    expect(inOrder(read)).toEqual(inOrder(someSeats.slice(0, 600)));
    expect(await dump.count('names')).toBe(0);
    await dump.close();
  });

  it('is not read where it would come out as something else, or cannot be paged', async () => {
    const database = await open({ migrations: [{ name: 'test-3-bytes', up: ({ run }) => run(`create table files (name text primary key, bytes ${dialect === 'postgres' ? 'bytea' : 'blob'})`) }] });
    await database.run('insert into files (name, bytes) values (?, ?)', ['a', Buffer.from('x')]);
    await expect(rowsOf(database)).rejects.toThrow('files.bytes holds values other than texts and numbers');
    const keyless = await open({ migrations: [{ name: 'test-4-keyless', up: ({ run }) => run('create table keyless (name text)') }] });
    await expect(rowsOf(keyless)).rejects.toThrow('keyless has no primary key');
  });

  it('takes the place of what another held, all at once or not at all', async () => {
    const database = await open(options);
    await insert(database, someSeats.slice(0, 10));
    const given = await Refill.open(database, ['names', 'seats']);
    await given.insert('names', [{ name: 'one' }]);
    await given.rollback();
    expect((await rowsOf(database))['seats']).toHaveLength(10);

    const taken = await Refill.open(database, ['names', 'seats']);
    await taken.insert('seats', someSeats.slice(5));
    await taken.insert('names', [{ name: 'one' }, { name: 'two' }]);
    await taken.commit();
    const { seats: read, names: two } = await rowsOf(database);
    expect(inOrder(read)).toEqual(inOrder(someSeats.slice(5)));
    expect(two).toEqual([{ name: 'one' }, { name: 'two' }]);
    await expect(Refill.open(database, ['none'])).rejects.toThrow(/none/);
    expect(await database.run('delete from names')).toMatchObject({ changes: 2 });
  });
});
