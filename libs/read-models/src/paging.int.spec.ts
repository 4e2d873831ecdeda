import { afterAll, beforeAll, beforeEach, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { sql } from 'kysely';
import type { Database } from './database.ts';
import { onEveryDialect } from './dialects.contract.ts';
import { page, type Sort } from './paging.ts';

const sorts = { name: { column: 'name', kind: 'text' }, size: { column: 'size', kind: 'integer' } } as const satisfies Record<string, Sort>;
const table = {
  name: 'test-1-things',
  up: async ({ run, dialect }: { dialect: string; run(text: string): Promise<void> }) => {
    const text = dialect === 'sqlite' ? 'text' : 'text collate "C"';
    await run(`create table things (id ${text} primary key, name ${text}, size ${dialect === 'sqlite' ? 'integer' : 'bigint'})`);
    await run('create index things_name_id_index on things (name, id)');
  },
};
interface Thing {
  readonly id: string;
  readonly name: string | null;
  readonly size: number | null;
}

onEveryDialect('A paged list', ({ dialect, open }) => {
  let database: Database;
  beforeAll(async () => {
    database = await open({ migrations: [table] });
  });
  beforeEach(async () => {
    await database.run('delete from things');
  });
  afterAll(() => database.close());

  const query = () => database.sql<{ things: Thing }>().selectFrom('things').selectAll();
  const insert = (...things: readonly Thing[]) => database.batch([{ sql: 'insert into things (id, name, size) values (?, ?, ?) on conflict do nothing', many: things.map(({ id, name, size }) => [id, name, size]) }]);
  const three = () => insert({ id: 'a', name: 'x', size: 1 }, { id: 'b', name: null, size: 2 }, { id: 'c', name: 'x', size: null });

  it('comes in pages, with the total, until there is no next', async () => {
    await three();
    const first = await page(query(), sorts, { sort: 'name', limit: 2 });
    expect(first).toEqual({ data: [{ id: 'a', name: 'x', size: 1 }, { id: 'c', name: 'x', size: null }], page: { next: expect.any(String), total: 3 } });
    const second = await page(query(), sorts, { sort: 'name', limit: 2, cursor: first.page.next, total: false });
    expect(second).toEqual({ data: [{ id: 'b', name: null, size: 2 }], page: { next: null, total: null } });
  });

  it('has the rows without a value last, descending first', async () => {
    await three();
    const ids = async (sort: string) => (await page(query(), sorts, { sort, limit: 10 })).data.map(({ id }) => id).join('');
    expect([await ids('name'), await ids('-name'), await ids('size'), await ids('-size')]).toEqual(['acb', 'bca', 'abc', 'cba']);
  });

  it('shows every row that is there all the time exactly once, whatever comes and goes between the pages', async () => {
    const name = fc.option(fc.constantFrom('', 'a', 'A', 'b', 'ä', 'zz', '\u{1f600}', 'a\'"%'));
    const thing = fc.record({ id: fc.integer({ min: 0, max: 999 }).map((n) => `t${n}`), name, size: fc.option(fc.integer({ min: -3, max: 3 })) });
    const things = fc.uniqueArray(thing, { maxLength: 25, selector: ({ id }) => id });
    await fc.assert(fc.asyncProperty(things, fc.array(things, { maxLength: 6 }), fc.constantFrom('name', '-name', 'size', '-size'), fc.integer({ min: 1, max: 5 }),
      async (initial, between, sort, limit) => {
        await database.run('delete from things');
        await insert(...initial);
        const seen: Thing[] = [];
        let cursor: string | null = null;
        let n = 0;
        do {
          const { data, page: { next } }: { data: Thing[]; page: { next: string | null } } = await page(query(), sorts, { sort, limit, cursor });
          expect(data.length).toBeLessThanOrEqual(limit);
          seen.push(...data);
          cursor = next;
          await insert(...(between[n] ?? []).map((thing) => ({ ...thing, id: `${thing.id}-${n}` })));
          // What has been shown may go: the next page does not look for it.
          if (n++ % 2 === 0 && data.length > 0) await database.run('delete from things where id = ?', [data.at(-1)?.id]);
        } while (cursor);
        const ids = seen.map(({ id }) => id);
        expect(new Set(ids).size).toBe(ids.length);
        expect(initial.filter(({ id }) => !ids.includes(id))).toEqual([]);
        expect(ids).toEqual(ordered(seen, sort));
      }), { numRuns: dialect === 'sqlite' ? 300 : 60 });
  });

  it('refuses a cursor from elsewhere, and one that somebody has touched', async () => {
    await three();
    const { page: { next } } = await page(query(), sorts, { sort: 'name', limit: 1 });
    const cursor = (content: unknown) => Buffer.from(JSON.stringify(content)).toString('base64url');
    const foreign = ['x', '%%%', cursor(null), cursor({}), cursor(['name']), cursor(['size', 1, 'a']), cursor(['-name', 'x', 'a']), cursor(['name', 1, 'a']), cursor(['name', 'x', 1]),
      cursor(['name', 'x', 'a', 'b']), cursor(['name', 'x\0', 'a']), cursor(['name', { toString: 1 }, 'a']), next?.slice(0, -3) as string];
    for (const each of foreign) await expect(page(query(), sorts, { sort: 'name', limit: 1, cursor: each })).rejects.toMatchObject({ code: 'VALIDATION_FAILED', status: 400 });
    await expect(page(query(), sorts, { sort: '-name', limit: 1, cursor: next })).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  });

  it('never fails in another way, whatever the cursor says', async () => {
    await three();
    const value = fc.oneof(fc.string({ unit: 'binary' }), fc.double(), fc.integer(), fc.constant(null), fc.jsonValue() as fc.Arbitrary<unknown>);
    await fc.assert(fc.asyncProperty(fc.constantFrom('name', 'size', '-size'), value, fc.oneof(fc.string({ unit: 'binary' }), value), async (sort, at, id) => {
      const cursor = Buffer.from(JSON.stringify([sort, at, id])).toString('base64url');
      const outcome = await page(query(), sorts, { sort, limit: 2, cursor }).catch((error) => error);
      expect('data' in outcome || outcome.code === 'VALIDATION_FAILED').toBe(true);
    }), { numRuns: dialect === 'sqlite' ? 300 : 100 });
  });

  it.each(['nonsense', '', '-', '--name', 'constructor', '__proto__', 'id'])('refuses to be sorted by %j', async (sort) => {
    await expect(page(query(), sorts, { sort, limit: 1 })).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  });

  it('has the names of another table in the order of their index', async () => {
    if (dialect !== 'sqlite') return;
    await database.run('create table if not exists owned (id text primary key, thing text)');
    await database.run('create index if not exists owned_thing_index on owned (thing)');
    const { rows } = await database.run(`explain query plan select * from (select o.*, n.name from owned o left join things n on n.id = o.thing) where name >= '' order by name, id limit 26`);
    expect(JSON.stringify(rows)).toMatch(/SEARCH n USING COVERING INDEX things_name_id_index.*LAST TERM OF ORDER BY/);
    const asked: string[] = [];
    const watched = database.sql<{ things: Thing }>().withPlugin({ transformQuery: ({ node }) => (asked.push(JSON.stringify(node)), node), transformResult: async ({ result }) => result });
    await page(watched.selectFrom('things').selectAll(), sorts, { sort: 'name', limit: 1, total: false });
    expect(asked[0]).toContain(">= ''");
  });

  it('is counted last: on one connection the rows would wait for it, and fail with it', async () => {
    await three();
    const asked: string[] = [];
    const watched = query().withPlugin({ transformQuery: ({ node }) => (asked.push(/count\(\*\)/.test(JSON.stringify(node)) ? 'total' : 'rows'), node), transformResult: async ({ result }) => result });
    await page(watched, sorts, { sort: 'name', limit: 3 });
    expect(asked).toEqual(['rows', 'rows', 'total']);
    if (dialect === 'sqlite') return;
    const cancelled = database.listing((lists) => page(lists.sql<{ things: Thing }>().selectFrom('things').selectAll().where(sql<boolean>`pg_cancel_backend(pg_backend_pid())`), sorts, { sort: 'name', limit: 2 }));
    await expect(cancelled).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  it.each([['sorts', 10_000], ['does not sort', 10_001]] as const)('%s %i rows without a reference to the other table', async (how, n) => {
    await insert({ id: 'named', name: 'x', size: 1 }, ...Array.from({ length: n }, (_, k) => ({ id: `t${String(k).padStart(5, '0')}`, name: null, size: 1 })));
    const asked: string[] = [];
    const watched = database.sql<{ things: Thing }>().withPlugin({ transformQuery: ({ node }) => (asked.push(JSON.stringify(node)), node), transformResult: async ({ result }) => result });
    const joined = watched.selectFrom(sql<Thing & { ref: string | null; called: string }>`(select t.*, t.name as ref, n.name as called from things t left join things n on n.id = t.name)`.as('t')).select('id');
    const { data } = await page(joined, { called: { column: 'called', kind: 'text', reference: 'ref' } }, { sort: '-called', limit: 2, total: false });
    expect(data.map(({ id }) => id)).toEqual([`t${String(n - 1).padStart(5, '0')}`, `t${String(n - 2).padStart(5, '0')}`]);
    expect(asked.at(-1)?.includes(" || ''")).toBe(how === 'sorts');
  });

  it('reads a page from an index, from its beginning', async () => {
    await insert(...Array.from({ length: 3_000 }, (_, n) => ({ id: `t${n}`, name: n % 5 ? `n${n % 100}` : null, size: n })));
    const statements: string[] = [];
    await database.run('analyze');
    for (const [condition, order] of [['(name, id) > (?, ?)', 'name asc, id asc'], ['(name, id) < (?, ?)', 'name desc, id desc'], ["name >= ''", 'name desc, id desc'], ['name is null', 'id asc']] as const) {
      const params = condition.includes('?') ? ['n50', 't1'] : [];
      const { rows } = await database.run(`explain ${dialect === 'sqlite' ? 'query plan ' : ''}select * from things where ${condition} order by ${order} limit 26`, params);
      statements.push(JSON.stringify(rows));
    }
    for (const plan of statements) {
      expect(plan).toMatch(/USING (COVERING )?INDEX things_name_id_index|(Index|Index Only) Scan/);
      expect(plan).not.toMatch(/TEMP B-TREE|Sort/);
    }
  });
});

function ordered(things: readonly Thing[], sort: string): string[] {
  const by = sort.replace('-', '') as 'name' | 'size';
  const bytes = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b));
  const values = (a: Thing, b: Thing) => {
    if (a[by] === null || b[by] === null) return Number(a[by] === null) - Number(b[by] === null);
    return by === 'size' ? (a.size ?? 0) - (b.size ?? 0) : bytes(a.name ?? '', b.name ?? '');
  };
  const ascending = [...things].sort((a, b) => values(a, b) || bytes(a.id, b.id)).map(({ id }) => id);
  return sort.startsWith('-') ? ascending.reverse() : ascending;
}
