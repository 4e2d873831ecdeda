/** The leader writes the text of the store and sends the heartbeats. `nobody`: any process may take the lead. */
export type Leader = 'self' | 'other' | 'nobody';

/** What a store needs for several processes with one state. Each process opens a store of its own on the same place. */
export interface Shared {
  /** How often a process looks after the others, in milliseconds. */
  readonly lookMs: number;
  /** Writes the first text; false if there is one by now. */
  create(text: string): Promise<boolean>;
  leader(): Promise<Leader>;
  /** Takes the lead if no other process has it, or says that it is still wanted. Returns whether this process leads. */
  take(): Promise<boolean>;
  /** This process leads only because none can take the lead here, and others may lead as well. */
  isAssumed?(): boolean;
  release(): Promise<void>;
  /** Writes this process's own text beside that of the store; null removes it. */
  tell(text: string | null): Promise<void>;
  /** The texts of other processes, also of ended ones. `ageMs`: time since it was written, if the leader knows. */
  told(): Promise<readonly { readonly name: string; readonly text: string; readonly ageMs?: number }[]>;
  forget(name: string): Promise<void>;
}

export interface WebStorage {
  readonly length?: number;
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
  removeItem?(name: string): void;
  key?(n: number): string | null;
}

/** The part of the Web Locks API that is used. */
export interface WebLocks {
  request(name: string, options: { readonly ifAvailable?: boolean }, work: (lock: unknown) => unknown): Promise<unknown>;
  query(): Promise<{ readonly held?: readonly { readonly name?: string }[] }>;
}

/** Tabs of one origin. A browser releases the locks of a closed tab. */
export function sharedByTabs(name: string, storage: WebStorage, locks: WebLocks): Shared {
  const lead = `${name}.lead`;
  const own = `${name}.${crypto.randomUUID()}.told`;
  let release: (() => void) | undefined;
  const leader = async (): Promise<Leader> => {
    if (release) return 'self';
    return (await locks.query()).held?.some((lock) => lock.name === lead) ? 'other' : 'nobody';
  };
  return {
    lookMs: 2_000,
    leader,
    create: async (text) => (await locks.request(`${name}.create`, {}, () => storage.getItem(name) === null && (storage.setItem(name, text), true))) === true,
    take: () => (release ? Promise.resolve(true) : new Promise((resolve, reject) => {
      locks.request(lead, { ifAvailable: true }, (lock) => {
        resolve(lock !== null);
        return lock === null ? undefined : new Promise<void>((done) => (release = done));
      }).catch((error: unknown) => {
        release = undefined;
        reject(error);
      });
    })),
    release: async () => {
      release?.();
      release = undefined;
    },
    tell: async (text) => (text === null ? storage.removeItem?.(own) : storage.setItem(own, text)),
    told: async () => {
      const names = Array.from({ length: storage.length ?? 0 }, (_, n) => storage.key?.(n) ?? '').filter((key) => key.startsWith(`${name}.`) && key.endsWith('.told') && key !== own);
      return names.map((key) => ({ name: key, text: storage.getItem(key) ?? '' }));
    },
    forget: async (key) => storage.removeItem?.(key),
  };
}

/** Tabs where the browser blocks storage. With one `fingerprint` they have one seat and cannot agree on a leader: all lead, and none is taken for a clone. */
export function sharedByNone(blocked: () => Promise<never>): Shared {
  let leader: Leader = 'nobody';
  return {
    lookMs: 2_000,
    create: blocked,
    leader: async () => leader,
    take: async () => (leader = 'self') === 'self',
    isAssumed: () => true,
    release: async () => void (leader = 'nobody'),
    tell: blocked,
    told: async () => [],
    forget: blocked,
  };
}
