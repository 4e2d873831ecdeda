/** The leader writes the text of the store and sends the heartbeats. `nobody`: any process may take the lead. */
export type Leader = 'self' | 'other' | 'nobody';

/** What a store needs for several processes with one state. Each process opens a store of its own on the same place. */
export interface Shared {
  /** How often a process looks after the others, in milliseconds. */
  readonly lookMs: number;
  /** They are tabs of one browser, which has six connections to a host for all of them (HTTP/1.1). */
  readonly areTabs?: true;
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
  request(name: string, options: { readonly ifAvailable?: boolean; readonly steal?: boolean }, work: (lock: unknown) => unknown): Promise<unknown>;
  query(): Promise<{ readonly held?: readonly { readonly name?: string }[] }>;
}

/** The leader writes its text twice as often, and each minute in a hidden tab, whose timers a browser wakes no sooner. A tab that has not for so long hangs. */
const hungMs = 90_000;

/**
 * Tabs of one origin. A browser releases the locks of a closed tab; the lead of one that hangs is taken from it. While `fails` says that this tab could
 * not write its text, the others would live on an old one: it gives up the lead, and leads only by assumption as long as no other tab can write either.
 */
export function sharedByTabs(name: string, storage: WebStorage, locks: WebLocks | undefined, fails: () => boolean): Shared {
  const lead = `${name}.lead`;
  const own = `${name}.${crypto.randomUUID()}.told`;
  let release: (() => void) | undefined;
  let isAssumed = false;
  let heard = { text: undefined as string | null | undefined, at: 0 };
  const giveBack = () => {
    release?.();
    release = undefined;
  };
  const leader = async (): Promise<Leader> => {
    // Asked first also by the leader: a tab that hung has heard by then that it was robbed.
    const held = (await locks?.query())?.held;
    if (release) return 'self';
    if (held?.some((lock) => lock.name === lead)) return 'other';
    return isAssumed ? 'self' : 'nobody';
  };
  const otherHangs = () => {
    const text = storage.getItem(name);
    if (text !== heard.text) heard = { text, at: performance.now() };
    return performance.now() - heard.at >= hungMs;
  };
  const isFirst = (text: string) => storage.getItem(name) === null && (storage.setItem(name, text), true);
  return {
    lookMs: 2_000,
    areTabs: true,
    leader,
    create: async (text) => (await (locks ? locks.request(`${name}.create`, {}, () => isFirst(text)) : isFirst(text))) === true,
    take: async () => {
      const who = await leader();
      if (fails()) giveBack();
      isAssumed = fails() && who !== 'other';
      if (release || isAssumed || !locks) return true;
      const how = who === 'other' && otherHangs() ? { steal: true } : { ifAvailable: true };
      return new Promise((resolve, reject) => {
        locks.request(lead, how, (lock) => {
          resolve(lock !== null);
          return lock === null ? undefined : new Promise<void>((done) => (release = done));
        }).catch((error: unknown) => {
          release = undefined;
          reject(error);
        });
      });
    },
    isAssumed: () => isAssumed || fails(),
    release: async () => {
      giveBack();
      isAssumed = false;
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
    areTabs: true,
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
