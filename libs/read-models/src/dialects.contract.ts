import { spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { chmod, chown } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, it } from '@jest/globals';
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

/** Runs a suite on SQLite, and on a PostgreSQL of its own where one is installed; where not, it says so as a skipped test. */
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
  const binaries = postgresBinaries();
  if (!binaries) return describe(`${title} (PostgreSQL)`, () => it.skip('PostgreSQL is not installed here: NOTHING of this was tested on it', () => undefined));
  describe(`${title} (PostgreSQL)`, () => {
    let server: PostgresServer | undefined;
    const open: Database[] = [];
    beforeAll(async () => {
      server = await PostgresServer.start(binaries);
    }, 30_000);
    afterAll(async () => {
      await Promise.all(open.map((database) => database.close().catch(() => undefined)));
      await server?.stop();
    });
    const place = () => `at_${randomUUID().replaceAll('-', '')}`;
    suite({
      dialect: 'postgres', place,
      open: (options = {}) => openAt(open, options, { postgresUrl: server?.url ?? '', schema: options.place ?? place() }),
    });
  });
}

async function openAt(open: Database[], { entities = [], migrations = [], kind = 'read' }: OpenOptions, at: Parameters<typeof Database.open>[0]['at']): Promise<Database> {
  const database = await Database.open({ kind, environment: 'test', entities, migrations, at });
  open.push(database);
  return database;
}

function postgresBinaries(): string | undefined {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root).sort((a, b) => Number(b) - Number(a)) : [];
  return versions.map((version) => join(root, version, 'bin')).find((bin) => existsSync(join(bin, 'initdb')));
}

/** A throw-away cluster behind a unix socket. It does not run as root, so root becomes somebody else for it. */
class PostgresServer {
  readonly #directory: string;
  readonly #process: ReturnType<typeof spawn>;

  static async start(bin: string): Promise<PostgresServer> {
    const directory = mkdtempSync(join(tmpdir(), 'keyledger-pg-'));
    const id = process.getuid?.() === 0 ? 65_534 : undefined;
    if (id !== undefined) await chown(directory, id, id);
    await chmod(directory, 0o700);
    const as = { uid: id, gid: id, cwd: directory, env: { PATH: process.env.PATH ?? '', LC_ALL: 'C.UTF-8' } };
    const data = join(directory, 'data');
    // An order of text other than that of its bytes, as most installations have.
    const locale = Number(bin.split('/').at(-2)) >= 15 ? ['--locale-provider=icu', '--icu-locale=en'] : [];
    const made = spawnSync(join(bin, 'initdb'), [...locale, '-D', data, '-U', 'keyledger', '-A', 'trust', '-E', 'UTF8', '--no-sync'], { ...as, encoding: 'utf8' });
    if (made.status !== 0) throw new Error(`initdb: ${made.stderr || made.error?.message}`);
    const options = ['-D', data, '-k', directory, '-c', 'listen_addresses=', '-c', 'fsync=off', '-c', 'autovacuum=off'];
    const server = new PostgresServer(directory, spawn(join(bin, 'postgres'), options, { ...as, stdio: 'ignore' }));
    while (spawnSync(join(bin, 'pg_isready'), ['-h', directory], as).status !== 0) await sleep(30);
    return server;
  }

  private constructor(directory: string, process: ReturnType<typeof spawn>) {
    this.#directory = directory;
    this.#process = process;
  }

  get url(): string {
    return `postgresql://keyledger@localhost/postgres?host=${encodeURIComponent(this.#directory)}`;
  }

  async stop(): Promise<void> {
    const stopped = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.kill('SIGQUIT');
    await stopped;
    rmSync(this.#directory, { recursive: true });
  }
}
