import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe } from '@jest/globals';
import { describeWith } from '@keyledger/servers/contract';
import type { EntityName } from '@mikro-orm/sql';
import { Database, type DatabaseKind, type Dialect, type Migration } from './database.ts';

export interface OpenOptions {
  readonly entities?: readonly EntityName[];
  readonly migrations?: readonly Migration[];
  readonly kind?: DatabaseKind;
  /** The same place gives the same database again. Default: a new one. */
  readonly place?: string;
}
export interface Bench {
  readonly dialect: Dialect;
  open(options?: OpenOptions): Promise<Database>;
  /** A new place for `open`. */
  place(): string;
}

/** Runs a suite on SQLite, and on its own PostgreSQL where one can run; otherwise a skipped test says so. */
export function onEveryDialect(title: string, suite: (bench: Bench) => void): void {
  describe(`${title} (SQLite)`, () => {
    const directory = mkdtempSync(join(tmpdir(), 'keyledger-'));
    const open: Database[] = [];
    afterAll(async () => {
      await Promise.all(open.map((database) => database.close().catch(() => undefined)));
      rmSync(directory, { recursive: true });
    });
    const place = () => join(directory, `${randomUUID()}.db`);
    suite({
      dialect: 'sqlite', place,
      open: (options = {}) => openAt(open, options, { sqliteFile: options.place ?? place() }),
    });
  });
  describeWith('postgres', title, (server) => {
    const open: Database[] = [];
    afterAll(() => Promise.all(open.map((database) => database.close().catch(() => undefined))));
    const place = () => `at_${randomUUID().replaceAll('-', '')}`;
    suite({
      dialect: 'postgres', place,
      open: (options = {}) => openAt(open, options, { postgresUrl: server().url, schema: options.place ?? place() }),
    });
  });
}

async function openAt(open: Database[], { entities = [], migrations = [], kind = 'read' }: OpenOptions, at: Parameters<typeof Database.open>[0]['at']): Promise<Database> {
  const database = await Database.open({ kind, environment: 'test', entities, migrations, at });
  open.push(database);
  return database;
}
