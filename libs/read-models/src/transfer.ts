import { sql, type ControlledTransaction } from 'kysely';
import type { Database, Dialect, Row, Tables } from './database.ts';

/** A table as the database itself describes it. */
export interface Table {
  readonly name: string;
  /** Columns of the primary key, in its order. */
  readonly key: readonly string[];
}

const PAGE = 500;
const catalogue: Readonly<Record<Dialect, string>> = {
  sqlite: `select t.name, c.name as "column", c.pk as place from sqlite_schema t join pragma_table_info(t.name) c
    where t.type = 'table' and t.name not like 'sqlite@_%' escape '@' order by t.name, c.cid`,
  postgres: `select t.relname as name, c.attname as "column", coalesce(array_position(i.indkey::int2[], c.attnum) + 1, 0) as place
    from pg_class t join pg_attribute c on c.attrelid = t.oid and c.attnum > 0 and not c.attisdropped left join pg_index i on i.indrelid = t.oid and i.indisprimary
    where t.relnamespace = current_schema()::regnamespace and t.relkind = 'r' order by t.relname, c.attnum`,
};

/** All tables of a database, except the list of its migrations. */
export async function tablesOf(database: Pick<Database, 'run' | 'dialect'>): Promise<readonly Table[]> {
  const { rows } = await database.run<{ name: string; column: string; place: number }>(catalogue[database.dialect]);
  return [...Map.groupBy(rows, ({ name }) => name)].filter(([name]) => name !== 'migrations').map(([name, columns]) => ({
    name, key: columns.filter(({ place }) => place > 0).sort((a, b) => a.place - b.place).map(({ column }) => column),
  }));
}

/** Names of the migrations applied to a database. */
export async function migrationsOf(database: Pick<Database, 'run'>): Promise<readonly string[]> {
  return (await database.run<{ name: string }>('select name from migrations')).rows.map(({ name }) => name).sort();
}

/** All rows of a database as of its opening, however long reading takes and whatever other clients write (to SQLite none can). */
export class Dump {
  readonly #transaction: ControlledTransaction<Tables>;
  readonly tables: readonly Table[];

  static async open(database: Database): Promise<Dump> {
    const tables = await tablesOf(database);
    const keyless = tables.find(({ key }) => key.length === 0);
    if (keyless) throw new Error(`${keyless.name} has no primary key: its rows cannot be read page by page`);
    const transaction = await database.sql().startTransaction().setIsolationLevel('repeatable read').setAccessMode('read only').execute();
    try {
      // The reader may pause for minutes before the next page.
      if (database.dialect === 'postgres') await sql`set local idle_in_transaction_session_timeout = 0`.execute(transaction);
      // PostgreSQL's snapshot is taken by the first query.
      await sql`select count(*) from migrations`.execute(transaction);
      return new Dump(transaction, tables);
    } catch (error) {
      await transaction.rollback().execute();
      throw error;
    }
  }

  private constructor(transaction: ControlledTransaction<Tables>, tables: readonly Table[]) {
    this.#transaction = transaction;
    this.tables = tables;
  }

  async count(table: string): Promise<number> {
    const { rows: [row] } = await sql<{ n: number }>`select count(*) as n from ${sql.table(table)}`.execute(this.#transaction);
    return Number(row?.n);
  }

  /** Page by page. Rejects at a value that the other dialect would return changed: only texts, numbers and null travel. */
  async *rows({ name, key }: Table): AsyncGenerator<readonly Row[]> {
    for (let last: Row | undefined; ;) {
      const page: readonly Row[] = await this.#page(name, key, last);
      for (const row of page) mustTravel(name, row);
      if (page.length > 0) yield page;
      if (page.length < PAGE) return;
      last = page.at(-1);
    }
  }

  async close(): Promise<void> {
    await this.#transaction.rollback().execute();
  }

  async #page(name: string, key: readonly string[], last: Row | undefined): Promise<readonly Row[]> {
    const columns = sql.join(key.map((column) => sql.ref(column)));
    const beyond = last ? sql`where (${columns}) > (${sql.join(key.map((column) => last[column]))})` : sql``;
    return (await sql<Row>`select * from ${sql.table(name)} ${beyond} order by ${columns} limit ${PAGE}`.execute(this.#transaction)).rows;
  }
}

function mustTravel(table: string, row: Row): void {
  for (const [column, value] of Object.entries(row)) {
    if (value !== null && typeof value !== 'string' && typeof value !== 'number') throw new Error(`${table}.${column} holds values other than texts and numbers and cannot be copied`);
  }
}

/** Replaces all rows of some tables. No change is visible before `commit`. */
export class Refill {
  readonly #transaction: ControlledTransaction<Tables>;

  static async open(database: Database, tables: readonly string[]): Promise<Refill> {
    const transaction = await database.sql().startTransaction().execute();
    try {
      for (const table of tables) await transaction.deleteFrom(table).execute();
      return new Refill(transaction);
    } catch (error) {
      await transaction.rollback().execute();
      throw error;
    }
  }

  private constructor(transaction: ControlledTransaction<Tables>) {
    this.#transaction = transaction;
  }

  async insert(table: string, rows: readonly Row[]): Promise<void> {
    for (let from = 0; from < rows.length; from += PAGE) await this.#transaction.insertInto(table).values(rows.slice(from, from + PAGE)).execute();
  }

  async commit(): Promise<void> {
    await this.#transaction.commit().execute();
  }

  async rollback(): Promise<void> {
    await this.#transaction.rollback().execute();
  }
}
