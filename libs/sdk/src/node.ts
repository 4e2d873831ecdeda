import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { homedir, uptime } from 'node:os';
import { dirname, join } from 'node:path';
import { processClock, sleep, type Clock } from './clock.ts';
import { hashed, type Store } from './store.ts';

/** A file that only its owner can read. Replaced as a whole: a crash leaves the one before. `~/` is the home folder. */
export function fileStore(path: string): Store {
  const file = path.startsWith('~/') ? join(homedir(), path.slice(2)) : path;
  return {
    read: async () => {
      try {
        return await readFile(file, 'utf8');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
        throw error;
      }
    },
    write: async (text) => {
      await mkdir(dirname(file), { recursive: true, mode: 0o700 });
      const next = `${file}.${randomUUID()}.tmp`;
      try {
        const handle = await open(next, 'wx', 0o600);
        await handle.writeFile(text).then(() => handle.sync()).finally(() => handle.close());
        await rename(next, file);
        // Some systems cannot flush a folder, and need not.
        await open(dirname(file)).then((folder) => folder.sync().finally(() => folder.close())).catch(() => undefined);
      } catch (error) {
        await rm(next, { force: true });
        throw error;
      }
    },
  };
}

/** The clock of the machine: goes on while no process runs, until it is started anew. Where that cannot be told, the clock of the process. */
export function nodeClock(): Clock {
  const boot = firstLineOf('/proc/sys/kernel/random/boot_id');
  return boot === undefined ? processClock() : { read: () => ({ wall: Date.now(), mono: uptime() * 1000, boot }), sleep };
}

export type FingerprintSource = 'k8s-cluster-uid' | 'cloud-instance' | 'machine-id';

export interface FingerprintOptions {
  /** What you take for the machine's identity yourself, for example `env.LICENSE_MACHINE_ID`. It has precedence. */
  readonly override?: string | undefined;
  /** Your environment variables. `K8S_CLUSTER_UID` and `CLOUD_INSTANCE_ID` are looked at; nothing sets them but you. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** The first that there is wins. */
  readonly prefer?: readonly FingerprintSource[];
}

/**
 * What this machine is recognised by: 43 letters, hashed. Undefined where nothing can be found; an id that the store keeps takes its place then.
 * A container has the machine-id of its image, if any: all that are made of one image would be one machine. Give `override` or an id there.
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
