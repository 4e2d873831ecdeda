import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { EventStoreDbEventStores } from '@keyledger/event-store';
import { controlEnvironment, environments } from '@keyledger/kernel';
import pg from 'pg';
import { mode, type Product } from './process.ts';

const isOnFiles = ({ stores }: Product): boolean => mode === 'standalone' && stores['DATABASE_URL'] === undefined;

export type Kind = 'events' | 'state' | 'read' | 'snapshots';
/** A file, or the contents of a table. */
export interface Place {
  /** `production/state.db-wal`, or `production/state/access_requests`. */
  readonly path: string;
  readonly kind: Kind | undefined;
  readonly bytes: Buffer;
}

/**
 * All data that the product keeps, or those of one environment. Files are read byte by byte, so that deleted data left in them are found;
 * of a PostgreSQL only the tables' contents: its own files and its write-ahead log age out by themselves.
 */
export async function placesOf(product: Product, environment?: string): Promise<readonly Place[]> {
  if (isOnFiles(product)) {
    return product.files(environment).map((file) => ({ ...file, kind: /(events|state|read|snapshots)\.db/.exec(file.path)?.[1] as Kind | undefined }));
  }
  const log = await eventsOf(product, environment === undefined ? [controlEnvironment, ...environments] : [environment]);
  return connected(product, async (client) => {
    const tables = (await client.query<{ schema: string; name: string }>('select schemaname as schema, tablename as name from pg_tables where schemaname ~ $1', [`^${environment ?? '[a-z]+'}_[a-z]+$`])).rows;
    const places = [...log];
    for (const { schema, name } of tables) {
      const { rows } = await client.query<unknown[]>({ text: `select * from "${schema}"."${name}"`, rowMode: 'array', types: { getTypeParser: () => String } });
      const [, world = '', kind] = /^(\w+)_([a-z]+)$/.exec(schema) ?? [];
      places.push({ path: `${world}/${kind}/${name}`, kind: (name === 'snapshots' ? name : kind) as Kind, bytes: Buffer.from(rows.map((row) => row.join('\n')).join('\n')) });
    }
    return places;
  });
}

/** A log on EventStoreDB, which is in no table. */
async function eventsOf({ stores: { EVENTSTORE_URL: url, EVENTSTORE_PREFIX: prefix } }: Product, names: readonly string[]): Promise<Place[]> {
  if (url === undefined) return [];
  const logs = await EventStoreDbEventStores.open({ url, environments: names, ...(prefix !== undefined && { prefix }) });
  const places: Place[] = [];
  for (const [environment, store] of logs.entries()) {
    const lines: string[] = [];
    for (let after = 0, page; (page = await store.readAll(after)).length > 0; after = page.at(-1)?.position ?? 0) lines.push(...page.map((event) => JSON.stringify(event)));
    places.push({ path: `${environment}/events`, kind: 'events', bytes: Buffer.from(lines.join('\n')) });
  }
  await logs.close();
  return places;
}

/** Rows of a statement, in the dialect-free part of SQL; `?` for a parameter. */
export async function rowsIn<R extends object>(product: Product, environment: string, kind: Kind, sql: string, params: readonly (string | number)[] = []): Promise<readonly R[]> {
  if (isOnFiles(product)) {
    // The services keep writing: a statement waits for its turn like theirs.
    const database = new DatabaseSync(join(product.dataDir, environment, `${kind}.db`), { timeout: 10_000 });
    try {
      return database.prepare(sql).all(...params) as unknown as R[];
    } finally {
      database.close();
    }
  }
  return connected(product, async (client) => {
    await client.query(`set search_path to "${environment}_${kind}"`);
    let n = 0;
    return (await client.query<R>(sql.replaceAll('?', () => `$${++n}`), [...params])).rows;
  });
}

async function connected<T>(product: Product, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: product.databaseUrl });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
