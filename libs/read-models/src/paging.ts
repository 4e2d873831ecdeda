import { malformedQuery } from '@keyledger/kernel';
import { sql, type SelectQueryBuilder } from 'kysely';

/** A column to sort by, and its type (on PostgreSQL an integer is a bigint). An index on (column, id) makes every page cost the same. */
export interface Sort {
  readonly column: string;
  readonly kind: 'text' | 'integer' | 'double';
  /** The column is another table's, and this one refers to its row. Few rows refer to one without a value; any number to none. */
  readonly reference?: string;
}

export interface PageRequest {
  /** Name of a sort, descending with `-` before it. Rows without a value come last, descending first. */
  readonly sort: string;
  /** Rows per page, 1 or more. */
  readonly limit: number;
  /** `next` of the page before. */
  readonly cursor?: string | null;
  /** Count all rows of the query as well. Default true. */
  readonly total?: boolean;
}

export interface Page<Row> {
  readonly data: Row[];
  readonly page: { readonly next: string | null; readonly total: number | null };
}

interface Place {
  readonly value: string | number | null;
  readonly id: string;
}

/**
 * One page of a query that has a column `id`. A page starts behind the last row of the page before, wherever that is by now: rows that
 * come or go in between shift nothing. Refuses an unknown sort, and a cursor that is not from a page of this sort, with VALIDATION_FAILED.
 */
export async function page<DB, TB extends keyof DB, Row extends { readonly id: string }>(
  query: SelectQueryBuilder<DB, TB, Row>, sorts: Readonly<Record<string, Sort>>, { sort, limit, cursor, total = true }: PageRequest,
): Promise<Page<Row>> {
  const descending = sort.startsWith('-');
  const name = descending ? sort.slice(1) : sort;
  const by = Object.hasOwn(sorts, name) ? sorts[name] : undefined;
  if (!by) throw malformedQuery('sort', `must be one of ${Object.keys(sorts).join(', ')}, or one of them after a -`);
  const after = cursor ? placeOf(cursor, sort, by) : undefined;
  // Two ranges of one index, instead of an order with empty values at one end, which no index has.
  const filled = (rows: number) => range(query, by, descending, rows, after?.value === null ? undefined : after);
  const empty = (rows: number) => emptyRange(query, by, descending, rows, after?.value === null ? after.id : undefined);
  const parts = descending ? [empty, filled] : [filled, empty];
  // A cursor in the second range is past the first one.
  const isInEmpty = after && after.value === null;
  const left = after && isInEmpty !== descending ? parts.slice(1) : parts;
  const data: (Row & Named)[] = [];
  for (const part of left) {
    if (data.length <= limit) data.push(...await part(limit + 1 - data.length));
  }
  const more = data.length > limit;
  const rows = data.slice(0, limit);
  const last = rows.at(-1);
  return {
    data: rows.map(({ _sort, ...row }) => row as unknown as Row),
    // Last, because lists are one transaction: its statements wait for each other, and if one fails, those behind it do, for no reason of their own.
    page: { next: more && last ? cursorOf(sort, { value: last._sort, id: last.id }) : null, total: total ? await count(query) : null },
  };
}

type Named = { readonly _sort: string | number | null };

function range<DB, TB extends keyof DB, Row>(query: SelectQueryBuilder<DB, TB, Row>, { column, kind }: Sort, descending: boolean, rows: number, after?: Place) {
  const [ref, id] = [sql.ref(column), sql.ref('id')];
  const direction = sql.raw(descending ? 'desc' : 'asc');
  // For a name of a joined table SQLite takes only this as a reason to read the table's index, and not to sort all rows.
  const isFilled = kind === 'text' ? sql<boolean>`${ref} >= ''` : sql<boolean>`${ref} is not null`;
  const filled = query.select(sql<Named['_sort']>`${ref}`.as('_sort')).where(isFilled);
  return (after ? filled.where(sql<boolean>`(${ref}, ${id}) ${sql.raw(descending ? '<' : '>')} (${after.value}, ${after.id})`) : filled)
    .orderBy(sql`${ref} ${direction}, ${id} ${direction}`).limit(rows).execute() as Promise<(Row & Named)[]>;
}

/** More rows than that are soon come by in any order. */
const FEW = 10_000;

async function emptyRange<DB, TB extends keyof DB, Row>(query: SelectQueryBuilder<DB, TB, Row>, { column, reference }: Sort, descending: boolean, rows: number, after?: string) {
  const id = sql.ref('id');
  const direction = sql.raw(descending ? 'desc' : 'asc');
  const beyond = after === undefined ? query : query.where(sql<boolean>`${id} ${sql.raw(descending ? '<' : '>')} ${after}`);
  // To look for few rows in the order of ids, which is that of no table, takes longer than to sort them.
  const areFew = reference !== undefined && (await beyond.clearSelect().select(sql`1`.as('n')).where(sql<boolean>`${sql.ref(reference)} is null`).limit(1).offset(FEW).execute()).length === 0;
  return beyond.select(sql<null>`null`.as('_sort')).where(sql<boolean>`${sql.ref(column)} is null`)
    .orderBy(areFew ? sql`${id} || '' ${direction}` : sql`${id} ${direction}`).limit(rows).execute() as Promise<(Row & Named)[]>;
}

async function count<DB, TB extends keyof DB, Row>(query: SelectQueryBuilder<DB, TB, Row>): Promise<number> {
  const [counted] = await query.clearSelect().select(sql<number>`count(*)`.as('n')).execute() as unknown as [{ n: number }];
  return counted.n;
}

const cursorOf = (sort: string, { value, id }: Place): string => Buffer.from(JSON.stringify([sort, value, id])).toString('base64url');

function placeOf(cursor: string, sort: string, { kind }: Sort): Place {
  const [of, value, id, ...rest] = parsed(cursor);
  const fits = value === null || (kind === 'text' ? isText(value) : kind === 'integer' ? Number.isSafeInteger(value) : Number.isFinite(value));
  if (of !== sort || !fits || !isText(id) || rest.length > 0) throw malformedQuery('cursor', `is not from a page sorted by ${sort}`);
  return { value: value as Place['value'], id };
}

const isText = (value: unknown): value is string => typeof value === 'string' && !value.includes('\0');

function parsed(cursor: string): readonly unknown[] {
  try {
    const content: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    return Array.isArray(content) ? content : [];
  } catch {
    return [];
  }
}
