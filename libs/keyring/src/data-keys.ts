import type { Database, Migration } from '@keyledger/read-models';

/** subject → its wrapped data key, or null when the key has been destroyed. */
export type WrappedKeys = ReadonlyMap<string, string | null>;

/**
 * Where the wrapped data keys of one environment live. A row lost is data lost, and a row kept in a backup is data not erased,
 * so this is neither in the event log nor in a read model that could be built again.
 */
export interface DataKeyStore {
  /** Existing and destroyed keys; a subject that never had a key is not in the answer. */
  get(subjects: readonly string[]): Promise<WrappedKeys>;
  /** Adds missing keys, durably and in one write; answers what is then stored for every subject asked about: the first writer wins. */
  insert(keys: ReadonlyMap<string, string>): Promise<WrappedKeys>;
  /** Durably replaces the keys by a mark that there must never be one again, also where there was none. Clearing away their remains takes time, so all at once. */
  destroy(...subjects: readonly string[]): Promise<void>;
}

/** For specs: everything is gone with the process. */
export class MemoryDataKeys implements DataKeyStore {
  readonly rows = new Map<string, string | null>();

  async get(subjects: readonly string[]): Promise<WrappedKeys> {
    return new Map(subjects.flatMap((subject) => (this.rows.has(subject) ? [[subject, this.rows.get(subject) ?? null] as const] : [])));
  }

  async insert(keys: ReadonlyMap<string, string>): Promise<WrappedKeys> {
    for (const [subject, wrapped] of keys) if (!this.rows.has(subject)) this.rows.set(subject, wrapped);
    return this.get([...keys.keys()]);
  }

  async destroy(...subjects: readonly string[]): Promise<void> {
    for (const subject of subjects) this.rows.set(subject, null);
  }
}

/** For the state database of each environment: SQLite or PostgreSQL. */
export const dataKeysMigration: Migration = {
  name: 'keyring-1-data-keys',
  up: ({ run }) => run('create table keyring_data_keys (subject text primary key, wrapped text)'),
};

/** Changes nothing. Its name stops older releases, which would take an overwritten key for one that the master key does not open. */
export const overwrittenKeys: Migration = { name: 'keyring-2-overwritten', up: async () => {} };

/**
 * A destroyed key is overwritten by as many zeros. On SQLite rows are added at the end of the table, never change their size and are never deleted:
 * no row is ever moved, so no copy is left in the gaps of pages, and the file need not be rewritten, which would block all access meanwhile.
 */
const overwritten = {
  sqlite: "substr(hex(zeroblob(length(keyring_data_keys.wrapped))), 1, length(keyring_data_keys.wrapped))",
  postgres: "repeat('0', length(keyring_data_keys.wrapped))",
} as const;
/** A sealed text never looks like this. Null where there never was a key, or an earlier release destroyed it. */
const isDestroyed = (wrapped: string | null): boolean => wrapped === null || /^0+$/.test(wrapped);

/** Well below the number of parameters that either database accepts in one statement. */
const ROWS_PER_STATEMENT = 500;

export class StoredDataKeys implements DataKeyStore {
  readonly #database: Pick<Database, 'dialect' | 'run' | 'scrub'>;

  constructor(database: Pick<Database, 'dialect' | 'run' | 'scrub'>) {
    this.#database = database;
  }

  async get(subjects: readonly string[]): Promise<WrappedKeys> {
    const found = new Map<string, string | null>();
    for (const some of inParts(subjects)) {
      const { rows } = await this.#database.run<{ subject: string; wrapped: string | null }>(
        `select subject, wrapped from keyring_data_keys where subject in (${some.map(() => '?').join(', ')})`, some);
      for (const { subject, wrapped } of rows) found.set(subject, isDestroyed(wrapped) ? null : wrapped);
    }
    return found;
  }

  async insert(keys: ReadonlyMap<string, string>): Promise<WrappedKeys> {
    // Sorted, like in every other process, so that two processes cannot deadlock.
    const subjects = [...keys.keys()].sort();
    for (const some of inParts(subjects)) {
      await this.#database.run(
        `insert into keyring_data_keys (subject, wrapped) values ${some.map(() => '(?, ?)').join(', ')} on conflict (subject) do nothing`,
        some.flatMap((subject) => [subject, keys.get(subject)]));
    }
    return this.get(subjects);
  }

  async destroy(...subjects: readonly string[]): Promise<void> {
    // As above.
    for (const some of inParts([...subjects].sort())) {
      await this.#database.run(
        `insert into keyring_data_keys (subject, wrapped) values ${some.map(() => '(?, null)').join(', ')} on conflict (subject) do update set wrapped = ${overwritten[this.#database.dialect]}`, some);
    }
    await this.#database.scrub({ overwritten: true });
  }
}

function inParts<T>(all: readonly T[]): T[][] {
  return Array.from({ length: Math.ceil(all.length / ROWS_PER_STATEMENT) }, (_, i) => all.slice(i * ROWS_PER_STATEMENT, (i + 1) * ROWS_PER_STATEMENT));
}
