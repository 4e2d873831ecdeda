import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Child, freePort, started } from './child.ts';
import { obtain } from './obtain.ts';
import type { Running } from './running.ts';

export interface PostgresOptions {
  /** For the data (its parent must exist; Docker keeps a volume named after it). Default: a temporary one that `stop` removes. */
  readonly directory?: string;
  /** On 127.0.0.1. Default: a unix socket only (in Docker a free port). */
  readonly port?: number;
  /** Whether commits survive a crash, as in production. Default: false, which is fast. */
  readonly durable?: boolean;
  /** Of postgresql.conf, such as max_connections. */
  readonly settings?: Readonly<Record<string, string | number>>;
}

export type RunningPostgres = Running;

const NOBODY = 65_534;
const USER = 'keyledger';
/** Text sorts otherwise than by its bytes, as in most installations. */
const locale = ['--locale-provider=icu', '--icu-locale=en'];
/** After a SIGKILL its child processes may live a moment longer; a new server waits for them. */
const inTheWay = /is still in use|lock file "[^"]*" already exists/;
const waitForOthersMs = 20_000;

/** A PostgreSQL on 127.0.0.1 with the superuser `keyledger`, without a password. Resolves when it answers. */
export async function startPostgres(options: PostgresOptions = {}): Promise<RunningPostgres> {
  const launch = obtain('postgres');
  if (!launch) throw new Error('There is no PostgreSQL on this machine. Install it (Debian: postgresql) or Docker, or set DATABASE_URL to a server elsewhere');
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-pg-'));
  const port = options.port ?? ('image' in launch ? await freePort() : undefined);
  const cluster = 'path' in launch ? new Cluster(launch.path, folder, options) : new Container(launch.image, folder, port as number, options);
  let child: Child;
  try {
    child = await cluster.start();
  } catch (error) {
    rmSync(folder, { recursive: true });
    throw error;
  }
  const end = async () => {
    await child.end(options.durable || options.directory ? 'SIGINT' : 'SIGQUIT');
  };
  return {
    url: port === undefined ? `postgresql://${USER}@localhost/postgres?host=${encodeURIComponent(folder)}` : `postgresql://${USER}@127.0.0.1:${port}/postgres`,
    get pid() { return child.pid; },
    get ended() { return child.ended; },
    kill: () => child.kill(),
    pause: () => child.pause(),
    resume: () => child.resume(),
    async restart() {
      await end();
      child = await cluster.start();
    },
    async stop() {
      await end();
      cluster.remove();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

const settingsOf = ({ durable = false, settings = {} }: PostgresOptions, more: Readonly<Record<string, string | number>>): string[] =>
  Object.entries({ ...(durable ? {} : { fsync: 'off', autovacuum: 'off' }), ...more, ...settings }).flatMap(([name, value]) => ['-c', `${name}=${value}`]);

/**
 * The user that runs its programs, which refuse to run as root: `nobody`, or, in a folder that `nobody` cannot enter (root's home), root
 * itself in a user namespace in which it has another id.
 */
function accountFor(data: string): { readonly uid?: number; readonly prefix: readonly string[] } {
  if (process.getuid?.() !== 0) return { prefix: [] };
  const owner = statSync(data, { throwIfNoEntry: false })?.uid;
  const uid = owner || NOBODY;
  const mayEnter = owner !== 0 && spawnSync('test', ['-x', dirname(data)], { uid, gid: uid, cwd: '/' }).status === 0;
  return mayEnter ? { uid, prefix: [] } : { prefix: ['unshare', '--user', '--map-user=1', '--map-group=1', '--'] };
}

/** With the programs installed here. */
class Cluster {
  readonly #bin: string;
  readonly #folder: string;
  readonly #data: string;
  readonly #options: PostgresOptions;
  readonly #uid: number | undefined;
  readonly #prefix: readonly string[];

  constructor(bin: string, folder: string, options: PostgresOptions) {
    this.#bin = bin;
    this.#folder = folder;
    this.#options = options;
    this.#data = options.directory ?? join(folder, 'data');
    chmodSync(folder, 0o711);
    ({ uid: this.#uid, prefix: this.#prefix } = accountFor(this.#data));
    this.#give(folder);
  }

  async start(): Promise<Child> {
    if (!existsSync(join(this.#data, 'PG_VERSION'))) this.#make();
    this.#endPrevious();
    const deadline = Date.now() + waitForOthersMs;
    for (;;) {
      try {
        return await started('PostgreSQL', () => this.#run(), () => this.#answers());
      } catch (error) {
        if (!inTheWay.test(String(error)) || Date.now() > deadline) throw error;
        await sleep(100);
      }
    }
  }

  /** Its data are in the temporary folder, or stay. */
  remove(): void {}

  #run(): Child {
    const args = ['-D', this.#data, ...settingsOf(this.#options, this.#address)];
    const [command, ...rest] = [...this.#prefix, join(this.#bin, 'postgres'), ...args] as [string, ...string[]];
    return Child.run({ ...this.#as, command, args: rest, log: join(this.#folder, 'log') });
  }

  get #as() {
    return { uid: this.#uid, gid: this.#uid, cwd: this.#folder };
  }

  get #address(): Record<string, string | number> {
    const { port } = this.#options;
    return port === undefined ? { listen_addresses: '', unix_socket_directories: this.#folder } : { listen_addresses: '127.0.0.1', port, unix_socket_directories: '' };
  }

  #answers(): Promise<boolean> {
    const { port } = this.#options;
    const where = port === undefined ? ['-h', this.#folder] : ['-h', '127.0.0.1', '-p', String(port)];
    return new Promise((resolve) => execFile(join(this.#bin, 'pg_isready'), where, this.#as, (error) => resolve(!error)));
  }

  /** Made beside its place and moved there when complete: half a cluster would never start. */
  #make(): void {
    const making = `${this.#data}.making`;
    rmSync(making, { recursive: true, force: true });
    if (this.#options.durable || this.#options.directory) this.#initialise(making);
    else this.#execute(['cp', '-a', this.#template(), making]);
    renameSync(making, this.#data);
  }

  /** Initialising a cluster takes a second, copying one a tenth: temporary clusters are copies of one that stays. */
  #template(): string {
    const owner = this.#uid ?? process.getuid?.();
    const template = join(tmpdir(), `keyledger-pg-template-${this.#version}-${owner}`);
    if (statSync(template, { throwIfNoEntry: false })?.uid === owner) return template;
    const making = join(this.#folder, 'template');
    this.#initialise(making);
    try {
      renameSync(making, template);
    } catch {
      // Another process was faster, or another user owns the place.
      return making;
    }
    return template;
  }

  get #version(): number {
    return Number(/\d+/.exec(execFileSync(join(this.#bin, 'postgres'), ['--version'], { encoding: 'utf8' }))?.[0]);
  }

  #initialise(data: string): void {
    mkdirSync(data);
    this.#give(data);
    const args = ['-D', data, '-U', USER, '-A', 'trust', '-E', 'UTF8', ...(this.#version >= 15 ? locale : []), ...(this.#options.durable ? [] : ['--no-sync'])];
    this.#execute([join(this.#bin, 'initdb'), ...args]);
  }

  #execute(command: readonly string[]): void {
    execFileSync('env', ['LC_ALL=C.UTF-8', ...this.#prefix, ...command], { ...this.#as, stdio: ['ignore', 'ignore', 'pipe'] });
  }

  /** A server on these data, left by an owner that was killed. The recorded id may by now belong to another process. */
  #endPrevious(): void {
    const record = join(this.#data, 'postmaster.pid');
    if (!existsSync(record)) return;
    try {
      const pid = readFileSync(record, 'utf8').split('\n')[0] as string;
      if (!execFileSync('ps', ['-o', 'args=', '-p', pid], { encoding: 'utf8' }).includes(this.#data)) return;
    } catch {
      return;
    }
    this.#execute([join(this.#bin, 'pg_ctl'), '-D', this.#data, '-m', 'fast', '-t', '30', '-w', 'stop']);
  }

  #give(folder: string): void {
    if (this.#uid !== undefined) chownSync(folder, this.#uid, this.#uid);
    chmodSync(folder, 0o700);
  }
}

class Container {
  readonly #image: string;
  readonly #log: string;
  readonly #port: number;
  readonly #options: PostgresOptions;
  readonly #volume: string;

  constructor(image: string, folder: string, port: number, options: PostgresOptions) {
    this.#image = image;
    this.#log = join(folder, 'log');
    this.#port = port;
    this.#options = options;
    this.#volume = `keyledger-${createHash('sha256').update(options.directory ?? folder).digest('hex').slice(0, 16)}`;
  }

  start(): Promise<Child> {
    // The server that makes the cluster at the first start listens on its socket only.
    return started('PostgreSQL', () => this.#run(), async (child) => child?.succeeds('pg_isready', '-h', '127.0.0.1') ?? false);
  }

  #run(): Child {
    const environment = { POSTGRES_USER: USER, POSTGRES_DB: 'postgres', POSTGRES_HOST_AUTH_METHOD: 'trust', POSTGRES_INITDB_ARGS: locale.join(' ') };
    return Child.docker([
      '--publish', `127.0.0.1:${this.#port}:5432`, '--volume', `${this.#volume}:/var/lib/postgresql/data`,
      ...Object.entries(environment).flatMap(([name, value]) => ['--env', `${name}=${value}`]),
      this.#image, 'postgres', ...settingsOf(this.#options, {}),
    ], this.#log);
  }

  remove(): void {
    if (this.#options.directory === undefined) execFileSync('docker', ['volume', 'rm', '--force', this.#volume], { stdio: 'ignore' });
  }
}
