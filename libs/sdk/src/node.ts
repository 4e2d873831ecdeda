import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, mkdir, open, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { homedir, uptime } from 'node:os';
import { basename, dirname, isAbsolute } from 'node:path';
import { processClock, sleep, type Clock } from './clock.ts';
import type { Leader, Shared } from './shared.ts';
import { hashed, type Store } from './store.ts';

/**
 * A file that only its owner can read. Replaced as a whole: a crash leaves the one before. `~/` is the home folder. Processes that see the same
 * folder may share it, also from several containers; a leader that gave no sign of life for `takeOverMs` is replaced.
 */
export function fileStore(path: string, { takeOverMs = 10_000 }: { readonly takeOverMs?: number } = {}): Store {
  const file = placeOf(path);
  return { read: () => textIn(file), write: (text) => placed(file, text, rename), shared: sharedFile(file, takeOverMs) };
}

/** Found once: a program may change its working directory later. The system resolves `..`, which after a link is not the folder before. Without a home or working directory, a path that no file can have. */
function placeOf(path: string): string {
  const isInHome = path.startsWith('~/');
  try {
    const whole = isInHome ? `${isAbsolute(homedir()) ? homedir() : '.'}/${path.slice(2)}` : path;
    return (isAbsolute(whole) ? whole : `${process.cwd()}/${whole}`).replace(/(?<=[^/])\/+$/, '');
  } catch {
    return `\0${path}`;
  }
}

/** Null where there is none. */
async function textIn(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (isCode(error, 'ENOENT')) return null;
    throw error;
  }
}

/** Whole or not at all, also after a power cut. */
async function placed(file: string, text: string, place: (from: string, to: string) => Promise<void>): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const next = `${file}.${randomUUID()}.tmp`;
  try {
    const handle = await open(next, 'wx', 0o600);
    await handle.writeFile(text).then(() => handle.sync()).finally(() => handle.close());
    await place(next, file);
    // Some systems cannot flush a folder, and need not.
    await open(dirname(file)).then((folder) => folder.sync().finally(() => folder.close())).catch(() => undefined);
  } catch (error) {
    await rm(next, { force: true });
    throw error;
  }
}

/** When the file was changed, by the clock of the file system; -1 if it does not exist. */
const changedAt = (file: string): Promise<number> => stat(file).then(({ mtimeMs }) => mtimeMs, () => -1);

/** Writes into the file, which even a full disk allows; to set its time would use this machine's clock. Returns whether it could. */
async function touch(file: string): Promise<boolean> {
  try {
    const handle = await open(file, 'r+');
    await handle.write('1', 0).finally(() => handle.close());
    return true;
  } catch {
    return utimes(file, new Date(), new Date()).then(() => true, () => false);
  }
}

const isCode = (error: unknown, ...codes: readonly string[]): boolean => codes.includes(String((error as NodeJS.ErrnoException).code));

/** No process takes so long to write a file, nor do the clocks of two machines differ by so much. */
const unfinishedMs = 3_600_000;

/**
 * The leader has made the file with the highest number, which only one process can make, and touches it. Whether it was not touched for long each
 * process sees by its own clock, at first sight by that of the file system, so the clocks of two machines need not agree. A leader that was held up,
 * and replaced, finds a higher number when it goes on.
 */
function sharedFile(file: string, takeOverMs: number): Shared {
  const [folder, name, id] = [dirname(file), basename(file), randomUUID()];
  const at = (name: string) => `${folder}/${name}`;
  const leadOf = (n: number) => at(`${name}.lead-${n}`);
  const own = at(`${name}.${id}.told`);
  const given = 'given back';
  /** The number of this process; Infinity if it can make no file: then it leads beside all others that cannot either. */
  let mine = 0;
  /** The others can see that this process still leads. Otherwise they take its place, or lead beside it. */
  let isSeen = true;
  let seen = { n: 0, touched: 0, at: 0 };

  const names = () => readdir(folder).catch((error: unknown) => (isCode(error, 'ENOENT') ? [] : Promise.reject(error)));
  const numbers = async () => (await names()).filter((one) => one.startsWith(`${name}.lead-`)).map((one) => Number(one.slice(name.length + 6))).filter(Number.isSafeInteger);
  const highest = async () => Math.max(0, ...(await numbers()));

  const leader = async () => (await look()).who;

  /** The leader, and the number that says so. */
  async function look(): Promise<{ readonly who: Leader; readonly n: number }> {
    // In a folder that cannot even be listed no file can be made. For a moment that changes nothing about the leader that was last seen.
    const n = await highest().catch((error: unknown) => {
      if (mine === 0 || mine === Infinity) return seen.n;
      isSeen = false;
      throw error;
    });
    return { who: await whoIs(n), n };
  }

  async function whoIs(n: number): Promise<Leader> {
    if (n > 0 && n === mine) return 'self';
    const whoElse = mine === Infinity ? 'self' : 'nobody';
    if (n === 0 || (await textIn(leadOf(n)).catch(() => null)) === given) return whoElse;
    const touched = await changedAt(leadOf(n));
    // A process that ends within seconds would otherwise never see the file untouched for long.
    const age = seen.n === 0 && touched >= 0 ? (await timeOfFiles()) - touched : 0;
    if (n !== seen.n || touched !== seen.touched) seen = { n, touched, at: performance.now() - Math.max(0, age) };
    return wasSeen() ? 'other' : whoElse;
  }

  /** Another process led not long ago, and may lead still. */
  const wasSeen = () => seen.n > 0 && performance.now() - seen.at <= takeOverMs;

  /** The time by the clock of this folder; -1 if no file can be made there. */
  async function timeOfFiles(): Promise<number> {
    const file = at(`${name}.${randomUUID()}.tmp`);
    return writeFile(file, '', { flag: 'wx', mode: 0o600 }).then(() => changedAt(file)).finally(() => rm(file, { force: true })).catch(() => -1);
  }

  async function take(): Promise<boolean> {
    const { who, n: last } = await look();
    if (who === 'other') {
      mine = 0;
      return false;
    }
    if (who === 'self' && mine !== Infinity) {
      isSeen = await touch(leadOf(mine));
      return true;
    }
    // The number after the one just looked at: the number after the highest by now would take the lead from a faster process.
    const n = last + 1;
    try {
      // If the folder cannot be made, the file cannot either.
      await mkdir(folder, { recursive: true, mode: 0o700 }).catch(() => undefined);
      await (await open(leadOf(n), 'wx', 0o600)).close();
    } catch (error) {
      if (isCode(error, 'EEXIST') || (mine === 0 && wasSeen())) return false;
      mine = Infinity;
      return true;
    }
    // A process that was held up before it made its file may come after others that have made theirs since.
    const all = await numbers();
    const isHighest = Math.max(...all) === n;
    await Promise.all((isHighest ? all.filter((one) => one < n) : [n]).map((one) => rm(leadOf(one), { force: true })));
    [mine, isSeen] = [isHighest ? n : 0, true];
    if (isHighest) await forgetUnfinished();
    return isHighest;
  }

  /** Removes files of processes that were killed while they wrote. */
  async function forgetUnfinished(): Promise<void> {
    const unfinished = (await names()).filter((one) => one.startsWith(`${name}.`) && one.endsWith('.tmp')).map(at);
    await Promise.all(unfinished.map(async (one) => {
      const changed = await changedAt(one);
      if (changed >= 0 && Date.now() - changed > unfinishedMs) await rm(one, { force: true });
    }));
  }

  return {
    lookMs: takeOverMs / 5,
    leader,
    take,
    isAssumed: () => mine === Infinity || (mine > 0 && !isSeen),
    create: (text) => placed(file, text, (from, to) => link(from, to).then(() => rm(from))).then(() => true, (error: unknown) => (isCode(error, 'EEXIST') ? false : Promise.reject(error))),
    release: async () => {
      if (mine > 0 && mine !== Infinity && mine === (await highest())) await writeFile(leadOf(mine), given);
      mine = 0;
    },
    tell: (text) => (text === null ? rm(own, { force: true }) : placed(own, text, rename)),
    told: async () => {
      const others = (await names()).filter((one) => one.startsWith(`${name}.`) && one.endsWith('.told') && one !== basename(own));
      // The leader has touched its own file just now.
      const now = await changedAt(leadOf(mine));
      return Promise.all(others.map(async (one) => ({ name: one, text: (await textIn(at(one))) ?? '', ageMs: Math.max(0, now - (await changedAt(at(one)))) })));
    },
    forget: (one) => rm(at(basename(one)), { force: true }),
  };
}

/** The clock of the machine: goes on while no process runs, until the machine is rebooted. Without a boot id, the clock of the process. */
export function nodeClock(): Clock {
  const boot = firstLineOf('/proc/sys/kernel/random/boot_id');
  return boot === undefined ? processClock() : { read: () => ({ wall: Date.now(), mono: uptime() * 1000, boot }), sleep };
}

export type FingerprintSource = 'k8s-cluster-uid' | 'cloud-instance' | 'machine-id';

export interface FingerprintOptions {
  /** Your own identity for the machine, for example `env.LICENSE_MACHINE_ID`. It has precedence. */
  readonly override?: string | undefined;
  /** Your environment variables. `K8S_CLUSTER_UID` and `CLOUD_INSTANCE_ID` are read; only you set them. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** The first source that has a value wins. */
  readonly prefer?: readonly FingerprintSource[];
}

/**
 * Identifies this machine: 43 letters, hashed. Undefined if no source has a value; an id that the store keeps then takes its place.
 * A container has the machine-id of its image, if any: all containers of one image would be one machine. Give `override` or an id there.
 */
export async function machineFingerprint({ override, env = {}, prefer = ['k8s-cluster-uid', 'cloud-instance', 'machine-id'] }: FingerprintOptions = {}): Promise<string | undefined> {
  if (override) return hashed('override', override);
  const sources: Readonly<Record<FingerprintSource, () => string | undefined>> = {
    'k8s-cluster-uid': () => env['K8S_CLUSTER_UID'],
    'cloud-instance': () => env['CLOUD_INSTANCE_ID'],
    'machine-id': () => firstLineOf('/etc/machine-id') ?? firstLineOf('/var/lib/dbus/machine-id'),
  };
  for (const source of prefer) {
    const id = sources[source]()?.trim();
    if (id) return hashed(source, id);
  }
  return undefined;
}

function firstLineOf(path: string): string | undefined {
  try {
    const line = readFileSync(path, 'utf8').split('\n', 1)[0]?.trim();
    return line === '' || line === 'uninitialized' ? undefined : line;
  } catch {
    return undefined;
  }
}
