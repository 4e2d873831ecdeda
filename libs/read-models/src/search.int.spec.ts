import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type { Database } from './database.ts';
import { onEveryDialect } from './dialects.contract.ts';
import { ParcelLog, ParcelRow, parcels, sent } from './parcels.contract.ts';
import { rowsOf, SEARCH_TEXTS } from './projection.ts';
import { Projector } from './projector.ts';
import { ReadIndex } from './read-index.ts';
import { matches, matching, normalise, searchTextOf } from './search.ts';

describe('Text is compared', () => {
  it.each([
    ['  Société   GÉNÉRALE ', 'societe generale'], ['ﬁle №5', 'file no5'], ['Straße', 'straße'], ['İstanbul', 'istanbul'],
    ['a\u0000b\tc\nd', 'a b c d'], ['１２３', '123'], ['e\u0301', 'e'], ['', ''], ['\u0301', ''], ['東京', '東京'],
  ])('%j as %j', (text, plain) => expect(normalise(text)).toBe(plain));

  it('the same however often it has been made plain', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 12 }), (text) => expect(normalise(normalise(text))).toBe(normalise(text))), { numRuns: 2_000 });
  });
});

describe('Text is stored', () => {
  it('in a form of its own number, so that tables with another one are built anew', () => {
    expect([SEARCH_TEXTS, searchTextOf(' Ada  Lovelace'), searchTextOf('株式会社ABC 田中')]).toEqual([2, '  ada  lovelace', '  株  式  会  社  abc  田  中']);
  });
});

const names = [
  'Ada Lovelace', 'Grace Hopper', 'Société Générale', '100% Wool_Ltd', 'back\\slash', `O'Neill "Quote"`, 'AND OR NOT NEAR(a b)', 'col:umn ^caret* -minus',
  'ada@example.com', 'KL26-7XYZ-ABCD-0001', 'Zażółć gęślą', '東京 タワー', 'a', 'ab cd', 'x%y', 'x_y', 'xay', '{curly} [square] (round)', 'semi; drop table', '😀 smile',
  '株式会社田中商事', 'ร้านกาแฟ abc',
];

onEveryDialect('A search', ({ dialect, open }) => {
  let log: ParcelLog;
  let database: Database;
  let projector: Projector;
  const projection = parcels();

  beforeAll(async () => {
    log = await ParcelLog.open();
    database = await open({ entities: [ParcelRow] });
    projector = await Projector.start({ store: log.store, database, projections: [projection], sealing: log.sealing });
    await Promise.all(names.map((name, n) => log.write(`p${n}`, sent(name))));
    await new ReadIndex(log.store, projector, 10_000).current();
  });
  afterAll(async () => {
    await projector.close();
    await log.close();
  });

  const found = async (q: string | readonly string[]): Promise<string[]> => {
    const condition = matching(database, projection, q);
    const rows = rowsOf(database, projection).orderBy('id');
    return (await (condition ? rows.where(condition) : rows).execute()).map(({ to }) => String(to));
  };
  const foundOneByOne = async (q: string): Promise<string[]> => {
    const condition = matching(database, projection, q, 'id', true);
    const rows = database.sql<{ test_parcels: { id: string } }>().selectFrom('test_parcels').select('id').orderBy('id');
    return (await (condition ? rows.where(condition) : rows).execute()).map(({ id }) => names[Number(id.slice(1))] as string);
  };
  /** What it means, without an index: the text somewhere, and less than three characters at the beginning of a word, which each character of a script without spaces is. */
  const meant = (q: string): string[] => {
    const worded = (text: string) => normalise(text).replace(/[\p{Script=Han}\p{Script=Katakana}\p{Script=Thai}]/gu, ' $& ').replace(/ +/g, ' ').trim();
    const wanted = worded(q);
    const matches = (name: string) => ([...wanted].length < 3 ? ` ${worded(name)}`.includes(` ${wanted}`) : worded(name).includes(wanted));
    return names.map((name, n) => [`p${n}`, name] as const).sort(([a], [b]) => (a < b ? -1 : 1)).map(([, name]) => name).filter(matches);
  };

  it.each([
    ['lovel', ['Ada Lovelace']], ['SOCIETE GEN', ['Société Générale']], ['e g', ['Société Générale']], ['7xyz-ab', ['KL26-7XYZ-ABCD-0001']],
    ['%', []], ['100%', ['100% Wool_Ltd']], ['_', []], ['x_y', ['x_y']], ['x%y', ['x%y']], ['\\', []], ['k\\s', ['back\\slash']], [`o'n`, [`O'Neill "Quote"`]], ['"quo', [`O'Neill "Quote"`]],
    ['ad', ['Ada Lovelace', 'ada@example.com']], ['東京', ['東京 タワー']], ['タワー', ['東京 タワー']], ['ワー', ['東京 タワー']], ['京タ', ['東京 タワー']], ['田中', ['株式会社田中商事']], ['事', ['株式会社田中商事']], ['社田中', ['株式会社田中商事']], ['กา', ['ร้านกาแฟ abc']], ['zazo', ['Zażółć gęślą']], ['l', ['Ada Lovelace', '100% Wool_Ltd'].slice(0, 1)],
  ])('for %j finds %j', async (q, expected) => expect(await found(q)).toEqual(expected));

  it('finds what has any of several texts', async () => {
    expect(await found(['lovel', 'nothing" OR "grace', '', 'e g'])).toEqual(['Ada Lovelace', 'Société Générale']);
    expect(await found(['', ' '])).toEqual(await found(''));
  });

  it('finds what it means, and only that, for anything that anybody may type', async () => {
    const piece = fc.oneof(
      fc.constantFrom(...names).chain((name) => fc.tuple(fc.nat(name.length), fc.nat(name.length)).map(([a, b]) => name.slice(Math.min(a, b), Math.max(a, b)))),
      fc.constantFrom('%', '_', '\\', '\'', '"', '*', '^', ':', '(', ')', ' OR ', ' NOT ', '-', '+', 'NEAR(', '{', '}', ';', '--', '\0', '\u0301', '$1', '?', ' '),
      fc.string({ unit: 'binary', maxLength: 5 }),
    );
    await fc.assert(fc.asyncProperty(fc.array(piece, { maxLength: 3 }), async (pieces) => {
      const q = pieces.join('');
      expect(await found(q)).toEqual(meant(q));
      expect(await foundOneByOne(q)).toEqual(meant(q));
    }), { numRuns: dialect === 'sqlite' ? 600 : 200 });
  });

  it('counts no further than it is asked to', async () => {
    const many = async (q: string | readonly string[], most: number) => (await matches(database, projection, q, most)) > most;
    expect([await many('ad', 1), await many('ad', 2), await many(['lovel', 'e g'], 1), await many('', 0), await many('nothing', 0)]).toEqual([true, false, true, false, false]);
  });

  it('looks at the rows it is shown, instead of collecting all matches, when they are many', () => {
    const { sql } = rowsOf(database, projection).where(matching(database, projection, 'ada', 'id', true) as NonNullable<ReturnType<typeof matching>>).compile();
    expect(sql).toMatch(dialect === 'sqlite' ? /where \(instr\(search_text, \?\) > 0\)$/ : /where \(search_text like \$1\)$/);
  });

  it('uses its index', async () => {
    const condition = matching(database, projection, 'lovelace');
    const { sql, parameters } = rowsOf(database, projection).where(condition as NonNullable<typeof condition>).compile();
    if (dialect === 'sqlite') {
      const { rows } = await database.run<{ detail: string }>(`explain query plan ${sql}`, parameters);
      expect(rows.map(({ detail }) => detail).join()).toMatch(/SCAN test_parcels_fts VIRTUAL TABLE INDEX 0:M/);
      expect(rows.map(({ detail }) => detail).join()).not.toMatch(/SCAN test_parcels_v1/);
    } else {
      const filler = Array.from({ length: 5_000 }, (_, n) => [`f${n}`, 0, `  filler  ${n * 7919}`]);
      await database.batch([{ sql: 'insert into test_parcels_v1 (id, revision, search_text) values (?, ?, ?)', many: filler }, { sql: 'analyze test_parcels_v1' }]);
      // Moves what a GIN index has put off to where the planner counts it.
      await database.scrub();
      const [, explained] = await database.batch([{ sql: 'set local enable_seqscan = off' }, { sql: `explain ${sql.replaceAll(/\$\d+/g, '?')}`, params: parameters as string[] }]);
      const rows = explained?.rows as readonly { 'QUERY PLAN': string }[];
      expect(rows.map((row) => row['QUERY PLAN']).join()).toMatch(/Bitmap Index Scan on test_parcels_v1_search_index/);
    }
  });
});
