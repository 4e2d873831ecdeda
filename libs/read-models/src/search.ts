import { sql, type RawBuilder, type SqlBool } from 'kysely';
import type { Database } from './database.ts';
import { ftsOf, viewOf, type Projection } from './projection.ts';

/** `  Société   GÉNÉRALE ` → `societe generale`: compatible characters are one, marks, control characters and case are nothing. */
export function normalise(text: string): string {
  const plain = /^[\x20-\x7e]*$/.test(text) ? text : text.normalize('NFKD').replace(/\p{M}+/gu, '').replace(/[\p{C}\s]+/gu, ' ');
  return plain.toLowerCase().replace(/ +/g, ' ').trim();
}

/** As it is stored: two spaces before every word, so that even one letter makes a trigram with them. */
export const searchTextOf = (text: string): string => spaced(` ${normalise(text)}`);

/**
 * The condition that a row's search text contains `q`; with fewer than three characters, that one of its words begins with it.
 * An index answers it in both dialects, and nothing in `q` is an operator or a wildcard. Undefined when there is nothing to look for.
 * `column` holds ids of the projection's rows: `id` of its own table, or a reference to it in another one.
 */
export function matching(database: Database, projection: Projection, q: string, column = 'id'): RawBuilder<SqlBool> | undefined {
  if (!projection.search) throw new Error(`${projection.name} has no search text`);
  const wanted = normalise(q);
  if (wanted === '') return undefined;
  const text = [...wanted].length < 3 ? searchTextOf(wanted) : spaced(wanted);
  const view = sql.table(viewOf(projection));
  if (database.dialect === 'postgres') {
    return sql`${sql.ref(column)} in (select id from ${view} where search_text like ${`%${text.replace(/[\\%_]/g, '\\$&')}%`})`;
  }
  const fts = sql.table(ftsOf(projection));
  const phrase = `"${text.replaceAll('"', '""')}"`;
  return sql`${sql.ref(column)} in (select id from ${view} where _row in (select rowid from ${fts} where ${fts} match ${phrase}))`;
}

const spaced = (text: string): string => text.replaceAll(' ', '  ');
