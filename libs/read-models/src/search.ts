import { sql, type RawBuilder, type SqlBool } from 'kysely';
import type { Database } from './database.ts';
import { ftsOf, viewOf, type Projection } from './projection.ts';

/** `  Société   GÉNÉRALE ` → `societe generale`: unifies compatible characters, ignores marks, control characters and case. */
export function normalise(text: string): string {
  const plain = /^[\x20-\x7e]*$/.test(text) ? text : text.normalize('NFKD').replace(/\p{M}+/gu, '').replace(/[\p{C}\s]+/gu, ' ');
  return plain.toLowerCase().replace(/ +/g, ' ').trim();
}

/** As stored: two spaces before every word, so that even one letter makes a trigram with them. A change of the result raises `SEARCH_TEXTS`. */
export const searchTextOf = (text: string): string => `  ${spaced(normalise(text))}`;

/**
 * The condition that a row's search text contains `q`; with fewer than three characters, that one of its words begins with it (see `spaced`).
 * An index answers it in both dialects, and no part of `q` is an operator or a wildcard. Undefined when `q` has no text.
 * Of several `q` one must match: that is one search, where as many conditions would each be checked for every row.
 * `column` holds ids of the projection's rows: `id` of its own table, or a reference to it in another one.
 * `byRow`, for many matches: tests the text (of its own table, the column `search_text`) of each row it comes by, instead of collecting the matches first. PostgreSQL, too, goes through all it has collected for each row, once that is too much to be hashed.
 */
export function matching(database: Database, projection: Projection, q: string | readonly string[], column = 'id', byRow = false): RawBuilder<SqlBool> | undefined {
  const texts = textsOf(projection, q);
  if (texts.length === 0) return undefined;
  const view = sql.table(viewOf(projection));
  const isPostgres = database.dialect === 'postgres';
  if (!byRow) return sql`${sql.ref(column)} in (select id from ${view} where ${isPostgres ? likeAny(texts) : sql`_row in (${indexed(projection, texts)})`})`;
  const hasText = sql<SqlBool>`(${isPostgres ? likeAny(texts) : sql.join(texts.map((text) => sql`instr(search_text, ${text}) > 0`), sql` or `)})`;
  return column === 'id' ? hasText : sql`exists (select 1 from ${view} as named where named.id = ${sql.ref(column)} and ${hasText})`;
}

/** How many rows of the projection match `q`, or one more than `most`, for the price of finding that many. */
export async function matches(database: Database, projection: Projection, q: string | readonly string[], most: number): Promise<number> {
  const texts = textsOf(projection, q);
  if (texts.length === 0) return 0;
  return countOf(database, most, database.dialect === 'postgres' ? sql`select 1 from ${sql.table(viewOf(projection))} where ${likeAny(texts)}` : indexed(projection, texts));
}

/** How many rows `rows`, a query without a limit, has, or one more than `most`. */
export async function countOf(database: Database, most: number, rows: RawBuilder<unknown>): Promise<number> {
  const { rows: [counted] } = await sql<{ n: number }>`select count(*) as n from (${rows} limit ${most + 1}) as found`.execute(database.sql());
  return Number(counted?.n);
}

function textsOf(projection: Projection, q: string | readonly string[]): readonly string[] {
  if (!projection.search) throw new Error(`${projection.name} has no search text`);
  return [...new Set([q].flat().map(normalise))].filter((wanted) => wanted !== '').map(spaced).map((wanted) => ([...wanted].length < 3 ? `  ${wanted}` : wanted));
}

const likeAny = (texts: readonly string[]) => sql.join(texts.map((text) => sql`search_text like ${`%${text.replace(/[\\%_]/g, '\\$&')}%`}`), sql` or `);

function indexed(projection: Projection, texts: readonly string[]) {
  const fts = sql.table(ftsOf(projection));
  return sql`select rowid from ${fts} where ${fts} match ${texts.map((text) => `"${text.replaceAll('"', '""')}"`).join(' OR ')}`;
}

/** Where a script has no spaces between words, each character counts as one: names in it are searched by two characters, from anywhere in the name. */
const spaced = (text: string): string => text.replace(unspaced, ' $& ').trim().replace(/ +/g, '  ');
const unspaced = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/gu;
