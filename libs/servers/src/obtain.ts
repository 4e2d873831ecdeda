import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync, readdirSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** Chromium is for the pages' specs. */
export type Server = 'nats' | 'postgres' | 'chromium';
/** How to run a server here: a program (PostgreSQL: the folder of its programs), or an image for Docker. */
export type Launch = { readonly path: string } | { readonly image: string };

const debianPostgres = '/usr/lib/postgresql';
const images: Partial<Record<Server, string>> = { nats: 'nats:2.11-alpine', postgres: 'postgres:17-alpine' };
const packages: Record<Server, string> = { nats: 'nats-server', postgres: 'postgresql', chromium: 'chromium' };
const MINUTE = 60_000;

/** Folder with `postgres` and `initdb`: on the PATH, or the newest that Debian keeps outside of it. */
function findPostgres(): string | undefined {
  const onPath = onThePath('initdb');
  const versions = existsSync(debianPostgres) ? readdirSync(debianPostgres).sort((a, b) => Number(b) - Number(a)) : [];
  return [...(onPath ? [dirname(realpathSync(onPath))] : []), ...versions.map((version) => join(debianPostgres, version, 'bin'))]
    .find((bin) => existsSync(join(bin, 'postgres')) && existsSync(join(bin, 'initdb')));
}

const findNats = (): string | undefined => onThePath('nats-server');
const findChromium = (): string | undefined => onThePath('chromium');

const known = new Map<Server, Launch | undefined>();

/**
 * Installed already, else through Docker, else installed with apt if this process may; undefined if none works.
 * It may take minutes the first time, and blocks: a test file must know synchronously which tests it has.
 */
export function obtain(server: Server): Launch | undefined {
  if (!known.has(server)) known.set(server, installed(server) ?? oneAtATime(() => installed(server) ?? withDocker(server) ?? withApt(server)));
  return known.get(server);
}

function installed(server: Server): Launch | undefined {
  const path = { nats: findNats, postgres: findPostgres, chromium: findChromium }[server]();
  return path === undefined ? undefined : { path };
}

/** Debian's nats-server is in /usr/sbin, which not every PATH contains. */
function onThePath(program: string): string | undefined {
  const { status, stdout } = spawnSync('sh', ['-c', `PATH="$PATH:/usr/sbin:/usr/local/sbin"; command -v ${program}`], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

const succeeds = (timeout: number, command: string, ...args: string[]): boolean => spawnSync(command, args, { stdio: 'ignore', timeout }).status === 0;

function withDocker(server: Server): Launch | undefined {
  const image = images[server];
  if (!image || !succeeds(5_000, 'docker', 'info')) return undefined;
  const here = () => succeeds(5_000, 'docker', 'image', 'inspect', image);
  return here() || succeeds(5 * MINUTE, 'docker', 'pull', image) ? { image } : undefined;
}

function withApt(server: Server): Launch | undefined {
  if (process.getuid?.() !== 0 || !onThePath('apt-get')) return undefined;
  const install = () => succeeds(5 * MINUTE, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', 'install', '-y', '--no-install-recommends', packages[server]);
  process.stderr.write(`Installing ${packages[server]} with apt-get …\n`);
  return withoutServices(() => {
    if (!install() && succeeds(2 * MINUTE, 'apt-get', 'update')) install();
    return installed(server);
  });
}

/** Debian starts services it installs, unless this file forbids it. */
function withoutServices<T>(work: () => T): T {
  const policy = '/usr/sbin/policy-rc.d';
  if (existsSync(policy)) return work();
  writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    return work();
  } finally {
    rmSync(policy, { force: true });
  }
}

/** Test workers run in parallel; apt does not. A lock older than any installation takes is that of a killed process. */
function oneAtATime<T>(work: () => T): T {
  const lock = join(tmpdir(), 'keyledger-servers.lock');
  for (;;) {
    try {
      closeSync(openSync(lock, 'wx'));
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      const since = statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
      if (Date.now() - since > 15 * MINUTE) rmSync(lock, { force: true });
      else execFileSync('sleep', ['0.2']);
    }
  }
  try {
    return work();
  } finally {
    rmSync(lock, { force: true });
  }
}
