import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes, randomUUID } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hashed, type Store } from '@keyledger/sdk';
import { fileStore } from '@keyledger/sdk/node';
import { lifted, type Counted, type Metered } from './by-file.ts';

/** `state` names the file with the state of the license. */
export interface ByKey {
  readonly kind: 'key';
  readonly key: string;
  readonly state: string;
}

/** A license by key that is not in use: it was replaced, or not taken. `since`: milliseconds since 1970. */
export interface Leaving extends ByKey {
  readonly since: number;
}

/** The agent's own state; that of the license is in a separate file. */
export interface Kept {
  readonly installationId: string;
  /** `text` is the license file, for when the state is lost. */
  readonly source: ByKey | { readonly kind: 'file'; readonly text: string; readonly state: string } | null;
  /** In the order in which they left, until the server has what was used and the seat. */
  readonly leaving: readonly Leaving[];
  /** The time when this was written, in milliseconds since 1970: without the state of a license, time does not go back behind it either. */
  readonly at: number;
  /** Hashes of the configured key and file already processed: they count again when they change, not with every start. */
  readonly seen: { readonly key?: string; readonly file?: string };
  /** When each license was first installed here, by its id: a trial by file counts from then on, however often it is installed. */
  readonly firstSeen: Readonly<Record<string, string>>;
  /** For a license by file: the use of its quotas, and its counters, by meter. */
  readonly metered: Readonly<Record<string, Metered>>;
  readonly counted: Readonly<Record<string, Counted>>;
  /** Hashes of the ids of the last readings, so that a repeated one counts once. */
  readonly readings: readonly string[];
  readonly messages: readonly { readonly id: string; readonly text: string; readonly at: string }[];
}

export const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex');

/** The state of a candidate: not stored until it replaces the license. */
export class Pending implements Store {
  #text: string | null = null;
  #behind: Store | undefined;

  read(): string | null {
    return this.#text;
  }

  async write(text: string): Promise<void> {
    this.#text = text;
    await this.#behind?.write(text);
  }

  async settle(store: Store): Promise<void> {
    if (this.#text !== null) await store.write(this.#text);
    this.#behind = store;
  }
}

/** What was found: nothing, our own state, an unreadable one, or only the state of another machine. */
export type Found = 'new' | 'restored' | 'damaged' | 'foreign';

/**
 * The folder that outlives the process. License data in it is sealed under the machine's identity and named after it: on another machine, a copy
 * of the folder is of no use, and neither machine overwrites the other's data.
 */
export class DataDir {
  readonly #folder: string;
  readonly #tag: string;
  readonly #secret: Buffer;

  constructor(folder: string, fingerprint: string) {
    this.#folder = folder;
    this.#tag = createHash('sha256').update(`keyledger-agent ${fingerprint}`).digest('hex').slice(0, 12);
    this.#secret = Buffer.from(hkdfSync('sha256', fingerprint, '', 'keyledger-agent-state-1', 32));
  }

  async open(): Promise<{ readonly found: Found; readonly kept: Kept }> {
    const nothing: Kept = { installationId: randomUUID(), source: null, leaving: [], at: 0, seen: {}, firstSeen: {}, metered: {}, counted: {}, readings: [], messages: [] };
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const text = await this.#file().read();
    if (text === null) return { found: this.#hasOthers() ? 'foreign' : 'new', kept: nothing };
    const kept = this.#opened(text);
    if (kept) {
      const known = { ...nothing, ...kept };
      return { found: 'restored', kept: { ...known, metered: Object.fromEntries(Object.entries(known.metered).map(([meter, one]) => [meter, lifted(one)])) } };
    }
    // Kept for examining the cause.
    await rename(this.#path('agent', 'json'), this.#path('agent', 'damaged'));
    return { found: 'damaged', kept: nothing };
  }

  /** Removes leftovers of a crash, and states of licenses no longer in use. */
  async tidy({ source, leaving }: Pick<Kept, 'source' | 'leaving'>): Promise<void> {
    const own = readdirSync(this.#folder).filter((name) => name.includes(`.${this.#tag}.`));
    const known = new Set([source, ...leaving].map((one) => `license-${one?.state}.${this.#tag}.state`));
    const isLeft = (name: string) => name.endsWith('.tmp') || (name.startsWith('license-') && !known.has(name));
    await Promise.all(own.filter(isLeft).map((name) => rm(join(this.#folder, name), { force: true })));
  }

  async write(kept: Kept): Promise<void> {
    const nonce = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', this.#secret, nonce);
    const sealed = Buffer.concat([cipher.update(JSON.stringify(kept)), cipher.final()]);
    await this.#file().write(Buffer.concat([nonce, cipher.getAuthTag(), sealed]).toString('base64'));
  }

  /** Of the state of one license. */
  store(name: string): Store {
    return fileStore(this.#path(`license-${name}`, 'state'));
  }

  remove(name: string): Promise<void> {
    return rm(this.#path(`license-${name}`, 'state'), { force: true });
  }

  #file(): Store {
    return fileStore(this.#path('agent', 'json'));
  }

  #path(name: string, extension: string): string {
    return join(this.#folder, `${name}.${this.#tag}.${extension}`);
  }

  #hasOthers(): boolean {
    return readdirSync(this.#folder).some((name) => /^agent\.[0-9a-f]{12}\.json$/.test(name));
  }

  #opened(text: string): Kept | undefined {
    try {
      const bytes = Buffer.from(text, 'base64');
      const decipher = createDecipheriv('aes-256-gcm', this.#secret, bytes.subarray(0, 12));
      decipher.setAuthTag(bytes.subarray(12, 28));
      return JSON.parse(Buffer.concat([decipher.update(bytes.subarray(28)), decipher.final()]).toString()) as Kept;
    } catch {
      return undefined;
    }
  }
}

/** A secret of this installation, made the first time; readable for its owner only. */
export async function keptSecret(folder: string, name: string): Promise<{ readonly value: string; readonly isNew: boolean }> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, name);
  const found = (await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? '' : Promise.reject(error)))).trim();
  if (found) return { value: found, isNew: false };
  const value = randomBytes(32).toString('base64url');
  await fileStore(path).write(`${value}\n`);
  return { value, isNew: true };
}

/** If the machine has no identity of its own, the folder has one. A copy of it is then told apart by its heartbeats alone. */
export const fingerprintIn = async (folder: string): Promise<string> => hashed('installation', (await keptSecret(folder, 'machine-id')).value);
