import { createHash } from 'node:crypto';
import type { Aggregate, Instant } from '@keyledger/kernel';
import { JsonType, type EntityProperty, type EntitySchema } from '@mikro-orm/sql';
import { sql, type KyselyPlugin, type PluginTransformQueryArgs, type PluginTransformResultArgs, type QueryResult, type RootOperationNode, type SelectQueryBuilder, type UnknownRow } from 'kysely';
import type { Database, Dialect, SqlValue, Statement } from './database.ts';

/** Where a stream stands: its id without the category, and revision and decision time of its last event. */
export interface Projected {
  readonly id: string;
  readonly revision: number;
  readonly at: Instant;
}

export interface ProjectionRow {
  readonly id: string;
  readonly revision: number;
}

type DomainEvent = { readonly type: string };
/** The part of an aggregate that a projection needs: all but its decisions. */
export type Source<State, Event extends DomainEvent> = Pick<Aggregate<State, never, Event>, 'category' | 'shapes' | 'initial' | 'evolve'>;

/** One stream, one row: the row is a function of the stream's state, and of nothing else (no clock, no random, no look-up). */
export interface Projection<Row extends ProjectionRow = ProjectionRow> {
  /** Fixed once released, like the entity's table name. */
  readonly name: string;
  /** Raise it whenever `row` or `search` changes its result for a state: the rows are built anew. A change of columns is detected. */
  readonly version: number;
  readonly source: Source<unknown, DomainEvent>;
  /** Properties are text, integers, doubles, booleans or JSON; a new meaning gets a new name, because rows of two versions share a table for a while. */
  readonly entity: EntitySchema;
  /** null: there is no row, for example because the subject was erased. */
  row(state: unknown, where: Projected): Row | null;
  /** The text to find the row by. */
  search?(row: Row): string;
}

export function projection<State, Event extends DomainEvent, Row extends ProjectionRow>(definition: {
  readonly name: string;
  readonly version: number;
  readonly source: Source<State, Event>;
  readonly entity: EntitySchema<Row>;
  readonly row: (state: State, where: Projected) => Row | null;
  readonly search?: (row: Row) => string;
}): Projection<Row> {
  return definition as unknown as Projection<Row>;
}

/** The tables behind a projection are `<view>_v<build>`; queries use the view, which shows the serving build. */
export const viewOf = ({ entity }: Pick<Projection, 'entity'>): string => entity.meta.tableName;
export const ftsOf = (of: Pick<Projection, 'entity'>): string => `${viewOf(of)}_fts`;

/**
 * A projection's rows as a query: columns are named like the entity's properties and have their types.
 * `rowsOf(database, licenseList).where('status', '=', 'active')`
 */
export function rowsOf<Row extends ProjectionRow>(database: Database, projection: Projection<Row>): SelectQueryBuilder<{ row: Row }, 'row', Row> {
  const table = new RowTable(database, projection);
  const columns = table.columns.map(({ name, property }) => sql`${sql.ref(name)} as ${sql.ref(property)}`);
  const from = sql<Row>`(select ${sql.join(columns)} from ${sql.table(viewOf(projection))})`.as<'row'>(sql.ref('row'));
  return database.sql<{ row: Row }>().withPlugin(new Loading(table)).selectFrom(from).selectAll() as unknown as SelectQueryBuilder<{ row: Row }, 'row', Row>;
}

type ColumnKind = 'text' | 'integer' | 'double' | 'boolean' | 'json';
interface Column {
  readonly name: string;
  readonly property: string;
  readonly kind: ColumnKind;
}

const columnTypes: Readonly<Record<Dialect, Readonly<Record<ColumnKind, string>>>> = {
  sqlite: { text: 'text', integer: 'integer', double: 'real', boolean: 'integer', json: 'text' },
  // Byte order as in SQLite, so that pages and dumps come in the same order.
  postgres: { text: 'text collate "C"', integer: 'bigint', double: 'double precision', boolean: 'boolean', json: 'jsonb' },
};

/** Raised whenever `searchTextOf` changes its result: tables with search texts are then built anew. */
export const SEARCH_TEXTS = 2;

/** A projection's rows in one dialect: from the entity's metadata to columns, statements and values. */
export class RowTable {
  readonly #dialect: Dialect;
  readonly #view: string;
  readonly columns: readonly Column[];
  readonly #indexes: readonly (readonly string[])[];
  readonly #searchable: boolean;
  /** Changes with the columns, the indexes and what is made of a search text. */
  readonly shape: string;

  constructor(database: Database, projection: Projection) {
    const meta = database.orm.getMetadata().get(projection.entity);
    this.#dialect = database.dialect;
    this.#view = viewOf(projection);
    if (!/^[a-z][a-z0-9_]*$/.test(this.#view)) throw new Error(`${projection.name}: the table name ${this.#view} is not snake_case`);
    this.#searchable = projection.search !== undefined;
    this.columns = meta.props.filter(({ persist }) => persist !== false).map((property) => columnOf(projection.name, property));
    const nameOf = (property: string) => this.columns.find((column) => column.property === property)?.name ?? property;
    this.#indexes = [
      ...meta.props.filter(({ index }) => index).map(({ name }) => [nameOf(name)]),
      ...meta.indexes.map(({ properties }) => [properties ?? []].flat().map((property) => nameOf(String(property)))),
    ];
    if (!['id', 'revision'].every((name) => this.columnNames.includes(name))) throw new Error(`${projection.name} needs the columns id and revision`);
    this.shape = createHash('sha256').update(JSON.stringify([this.columns, this.#indexes, this.#searchable && SEARCH_TEXTS])).digest('base64url').slice(0, 12);
  }

  get columnNames(): string[] {
    return [...this.columns.map(({ name }) => name), ...(this.#searchable ? ['search_text'] : [])];
  }

  /** `bare`: without indexes, for a table not read before it is filled; `index` adds them. */
  create(build: number, bare = false): Statement[] {
    const table = this.#table(build);
    const types = columnTypes[this.#dialect];
    const constraint: Partial<Record<string, string>> = { id: this.#dialect === 'sqlite' ? ' not null unique' : ' primary key', revision: ' not null' };
    const columns = this.columns.map(({ name, kind }) => `"${name}" ${types[kind]}${constraint[name] ?? ''}`);
    // The full-text index refers to rows by number, and an implicit number may change.
    if (this.#dialect === 'sqlite') columns.unshift('_row integer primary key');
    if (this.#searchable) columns.push(`search_text ${types.text}`);
    return [
      { sql: `create table ${table} (${columns.join(', ')})` },
      ...(bare ? [] : this.index(build).flat()),
    ];
  }

  /** Each list is a transaction of its own. It may be run again after an interruption, but not for a serving build. */
  index(build: number): Statement[][] {
    const table = this.#table(build);
    return [
      ...this.#indexes.map((names) => [{ sql: `create index if not exists "${this.#view}_v${build}_${names.join('_')}_index" on ${table} (${names.map(quoted).join(', ')})` }]),
      ...(this.#searchable ? [this.#createSearch(build)] : []),
    ];
  }

  /** Adds this release's columns, empty at first, to a table that an older release has built. */
  extend(build: number, there: readonly string[]): Statement[] {
    const types = columnTypes[this.#dialect];
    const missing = this.columns.filter(({ name }) => !there.includes(name));
    const statements = missing.map(({ name, kind }) => ({ sql: `alter table ${this.#table(build)} add column "${name}" ${types[kind]}` }));
    if (this.#searchable && !there.includes('search_text')) statements.push({ sql: `alter table ${this.#table(build)} add column search_text ${types.text}` });
    if (statements.length === 0) return [];
    const search = this.#searchable && !there.includes('search_text') ? [...this.#createSearch(build), ...this.#serveSearch(build)] : [];
    return [...statements, ...search, ...this.#see(build)];
  }

  /** From now on queries see this build. */
  serve(build: number, instead?: number): Statement[] {
    return [
      { sql: `drop view if exists "${this.#view}"` },
      ...(instead === undefined ? [] : this.drop(instead)),
      ...this.#serveSearch(build),
      ...this.#see(build),
    ];
  }

  drop(build: number): Statement[] {
    const search = this.#dialect === 'sqlite' ? [{ sql: `drop table if exists ${this.#fts(build)}` }] : [];
    return [...search, { sql: `drop table if exists ${this.#table(build)}` }];
  }

  /** Inserts rows, or replaces those that are older. */
  upsert(build: number, rows: readonly (readonly SqlValue[])[]): Statement {
    const own = this.columnNames.map(quoted);
    const set = own.filter((name) => name !== '"id"').map((name) => `${name} = excluded.${name}`);
    return {
      sql: `insert into ${this.#table(build)} as old (${own.join(', ')}) values (${own.map(() => '?').join(', ')})
        on conflict (id) do update set ${set.join(', ')} where excluded.revision > old.revision`,
      many: rows,
    };
  }

  /**
   * Before an upsert: where no indexed column changes, sets only the columns without an index. SQLite writes the indexes of every column
   * that is set, changed or not, and most events change few; PostgreSQL compares first.
   */
  touch(build: number, rows: readonly (readonly SqlValue[])[]): Statement[] {
    const indexed = new Set([...this.#indexes.flat(), 'search_text']);
    const at = (names: readonly string[]) => names.map((name) => this.columnNames.indexOf(name));
    const kept = this.columnNames.filter((name) => name !== 'id' && indexed.has(name));
    const set = this.columnNames.filter((name) => name !== 'id' && !indexed.has(name));
    if (this.#dialect !== 'sqlite' || kept.length === 0) return [];
    const order = at([...set, 'id', 'revision', ...kept]);
    return [{
      sql: `update ${this.#table(build)} set ${set.map((name) => `${quoted(name)} = ?`).join(', ')}
        where id = ? and revision < ?${kept.map((name) => ` and ${quoted(name)} is ?`).join('')}`,
      many: rows.map((row) => order.map((n) => row[n] as SqlValue)),
    }];
  }

  delete(build: number, ids: readonly string[]): Statement {
    return { sql: `delete from ${this.#table(build)} where id = ?`, many: ids.map((id) => [id]) };
  }

  revisions(build: number, ids: readonly string[]): Statement {
    return this.#dialect === 'sqlite'
      ? { sql: `select id, revision from ${this.#table(build)} where id in (select value from json_each(?))`, params: [JSON.stringify(ids)] }
      : { sql: `select id, revision from ${this.#table(build)} where id in (select jsonb_array_elements_text(?::jsonb))`, params: [JSON.stringify(ids)] };
  }

  page(after: string, limit: number): Statement {
    const columns = this.columns.map(({ name }) => quoted(name));
    return { sql: `select ${columns.join(', ')} from "${this.#view}" where id > ? order by id limit ${limit}`, params: [after] };
  }

  /** Values in the order of `columnNames`. Throws for values that the column cannot hold, so that both dialects refuse the same. */
  values(row: object, searchText: string | undefined): SqlValue[] {
    const values = this.columns.map(({ property, kind }) => stored(property, kind, (row as Record<string, unknown>)[property]));
    if (this.#searchable) values.push(searchText ?? null);
    return values;
  }

  /** The row as JSON, the same for the same row in both dialects. */
  canonical(row: Readonly<Record<string, unknown>>): string {
    const entries = this.columns.map(({ name, property, kind }) => [property, loaded(kind, row[name])] as const);
    return JSON.stringify(sorted(Object.fromEntries(entries)));
  }

  #table(build: number): string {
    return `"${this.#view}_v${build}"`;
  }

  #fts(build: number): string {
    return `"${this.#view}_v${build}_fts"`;
  }

  #trigger(build: number, name: (typeof TRIGGERS)[number]): string {
    return `"${this.#view}_v${build}_${name}"`;
  }

  #see(build: number): Statement[] {
    return [{ sql: `drop view if exists "${this.#view}"` }, { sql: `create view "${this.#view}" as select * from ${this.#table(build)}` }];
  }

  #createSearch(build: number): Statement[] {
    const table = this.#table(build);
    // Whoever fills the list of what is pending has to empty it: with the default of 4 MB one write in a rush took half a second.
    if (this.#dialect === 'postgres') return [{ sql: `create index if not exists "${this.#view}_v${build}_search_index" on ${table} using gin (search_text gin_trgm_ops) with (gin_pending_list_limit = 256)` }];
    const fts = this.#fts(build);
    return [
      { sql: `drop table if exists ${fts}` },
      ...TRIGGERS.map((name) => ({ sql: `drop trigger if exists ${this.#trigger(build, name)}` })),
      { sql: `create virtual table ${fts} using fts5(search_text, content=${table}, content_rowid='_row', columnsize=0, tokenize='trigram case_sensitive 1')` },
      { sql: `insert into ${fts} (${fts}) values ('rebuild')` },
      ...this.#triggers(build, fts),
    ];
  }

  /** Queries use one name for the full-text index. A rename does not change the commands in its triggers. */
  #serveSearch(build: number): Statement[] {
    if (this.#dialect === 'postgres') return [];
    const fts = `"${this.#view}_fts"`;
    const gone = { sql: `drop table if exists ${fts}` };
    if (!this.#searchable) return [gone];
    const untriggered = TRIGGERS.map((name) => ({ sql: `drop trigger ${this.#trigger(build, name)}` }));
    return [gone, ...untriggered, { sql: `alter table ${this.#fts(build)} rename to ${fts}` }, ...this.#triggers(build, fts)];
  }

  #triggers(build: number, fts: string): Statement[] {
    const table = this.#table(build);
    const add = `insert into ${fts} (rowid, search_text) values (new._row, new.search_text);`;
    const remove = `insert into ${fts} (${fts}, rowid, search_text) values ('delete', old._row, old.search_text);`;
    return [
      { sql: `create trigger ${this.#trigger(build, 'insert')} after insert on ${table} begin ${add} end` },
      { sql: `create trigger ${this.#trigger(build, 'delete')} after delete on ${table} begin ${remove} end` },
      { sql: `create trigger ${this.#trigger(build, 'update')} after update on ${table} when old.search_text is not new.search_text begin ${remove} ${add} end` },
    ];
  }
}

const TRIGGERS = ['insert', 'delete', 'update'] as const;

/** SQLite has neither booleans nor JSON of its own. */
class Loading implements KyselyPlugin {
  readonly #odd: readonly Column[];

  constructor({ columns }: RowTable) {
    this.#odd = columns.filter(({ kind }) => kind === 'boolean' || kind === 'json');
  }

  transformQuery({ node }: PluginTransformQueryArgs): RootOperationNode {
    return node;
  }

  async transformResult({ result }: PluginTransformResultArgs): Promise<QueryResult<UnknownRow>> {
    for (const row of result.rows) for (const { property, kind } of this.#odd) if (property in row) row[property] = loaded(kind, row[property]);
    return result;
  }
}

const quoted = (name: string): string => `"${name}"`;

function columnOf(projection: string, { name, type, runtimeType, fieldNames, customType }: EntityProperty): Column {
  const kinds: Partial<Record<string, ColumnKind>> = { string: 'text', boolean: 'boolean', number: /^(big|small|tiny|medium)?int(eger)?$/i.test(type) ? 'integer' : 'double' };
  const kind = customType instanceof JsonType ? 'json' : kinds[runtimeType];
  if (!kind) throw new Error(`${projection}: ${name} is a ${type}; a row holds text, integers, doubles, booleans and JSON`);
  return { name: fieldNames[0] as string, property: name, kind };
}

function stored(property: string, kind: ColumnKind, value: unknown): SqlValue {
  if (value === null || value === undefined) return null;
  if (kind === 'json') return JSON.stringify(wellFormedJson(value));
  if (kind === 'text' && typeof value === 'string') return wellFormed(value);
  if (kind === 'boolean' && typeof value === 'boolean') return Number(value);
  if (kind === 'integer' && Number.isSafeInteger(value)) return value as number;
  if (kind === 'double' && Number.isFinite(value)) return value as number;
  throw new TypeError(`${property} cannot be stored as ${kind}: it is ${typeof value === 'object' ? 'an object' : `the ${typeof value} ${String(value).slice(0, 40)}`}`);
}

/** Text that PostgreSQL refuses becomes the replacement character in both dialects. */
const wellFormed = (text: string): string => text.replaceAll('\0', '\ufffd').toWellFormed();

function wellFormedJson(value: unknown): unknown {
  if (typeof value === 'string') return wellFormed(value);
  if (Array.isArray(value)) return value.map(wellFormedJson);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [wellFormed(name), wellFormedJson(inner)]));
}

function loaded(kind: ColumnKind, value: unknown): unknown {
  if (kind === 'json' && typeof value === 'string') return JSON.parse(value);
  return kind === 'boolean' && value !== null ? Boolean(value) : value;
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, inner]) => [name, sorted(inner)]));
}
