import { createHash, createHmac, createSecretKey, hkdfSync, randomBytes, type KeyObject } from 'node:crypto';
import { refuse, type Json, type JsonObject, type Sealer, type Sealing } from '@keyledger/kernel';
import { LRUCache } from 'lru-cache';
import { decrypt, encrypt } from './cipher.ts';
import { MemoryDataKeys, type DataKeyStore, type WrappedKeys } from './data-keys.ts';

export interface KeyringOptions {
  /** 32 bytes, from `loadMasterKey`. */
  readonly masterKey: Uint8Array;
  readonly environment: string;
  readonly dataKeys: DataKeyStore;
  /** How many unwrapped data keys are kept in memory. */
  readonly cachedKeys?: number;
}

/** A subject's data key, and the context its sealed texts are bound to. */
interface DataKey {
  readonly key: KeyObject;
  readonly context: Uint8Array;
}
type Slot = { readonly dataKey: DataKey | null };
const destroyed: Slot = { dataKey: null };

/** A row like that of a subject, so that a wrong master key is noticed at the start and not with the first customer. */
const PROBE = '#probe';

/**
 * The secrets of one environment: a pepper for keyed hashes, and a key of its own for every subject (a license, a customer), under which
 * that subject's data is sealed in the log. Destroying the key (`shred`) makes all of it unreadable, in every copy of the log.
 *
 * Master key → HKDF-SHA256 per environment and purpose → pepper, key-encryption key, answer key, key of the signing keys. Data keys are random, and stored wrapped
 * with AES-256-GCM under the key-encryption key. Every ciphertext is bound to its environment, purpose and subject.
 */
export class Keyring implements Sealing {
  readonly #environment: string;
  readonly #pepper: KeyObject;
  readonly #wrapping: KeyObject;
  readonly #answers: KeyObject;
  /** For `encrypt` and `decrypt`: what private keys of the signing service are sealed under. */
  readonly signingKeys: KeyObject;
  readonly #store: DataKeyStore;
  readonly #cache: LRUCache<string, Slot>;
  /** Increases with every forgotten key: a key read from the store before that must not get into the cache afterwards. */
  #forgotten = 0;
  #waiting: Request[] = [];
  #busy = false;

  private constructor({ masterKey, environment, dataKeys, cachedKeys = 50_000 }: KeyringOptions) {
    const derived = (purpose: string) => createSecretKey(Buffer.from(hkdfSync('sha256', masterKey, '', `keyledger/1/${purpose}/${environment}`, 32)));
    this.#environment = environment;
    this.#pepper = derived('pepper');
    this.#wrapping = derived('wrapping');
    this.#answers = derived('answers');
    this.signingKeys = derived('signing-keys');
    this.#store = dataKeys;
    this.#cache = new LRUCache({ maxSize: cachedKeys, sizeCalculation: () => 1 });
  }

  /** Rejects when the stored data keys were wrapped under another master key. */
  static async open(options: KeyringOptions): Promise<Keyring> {
    const keyring = new Keyring(options);
    await keyring.prepare([PROBE], true);
    return keyring;
  }

  /** Checks with `fits` which master key an environment's data keys were wrapped under, without opening any of them. Undefined where no keyring was ever opened. */
  static async probe(dataKeys: DataKeyStore): Promise<string | undefined> {
    return (await dataKeys.get([PROBE])).get(PROBE) ?? undefined;
  }

  static fits(probe: string, { masterKey, environment }: Pick<KeyringOptions, 'masterKey' | 'environment'>): boolean {
    try {
      new Keyring({ masterKey, environment, dataKeys: new MemoryDataKeys() }).#unwrap(PROBE, probe);
      return true;
    } catch {
      return false;
    }
  }

  /** Keyed hash of a value, equal for equal values of a kind and of no use without the master key: 43 characters of base64url. */
  hmac(kind: string, value: string): string {
    return createHmac('sha256', this.#pepper).update(`${kind}\0${value}`).digest('base64url');
  }

  /** The hash by which license keys are looked up. Takes the normalised key. */
  keyHash(normalisedKey: string): string {
    return this.hmac('license-key', normalisedKey);
  }

  prepare(subjects: readonly string[], create = false): Sealer | Promise<Sealer> {
    const slots = new Map<string, Slot>();
    const missing = new Set<string>();
    for (const subject of subjects) {
      const slot = this.#cache.get(subject);
      if (slot) slots.set(subject, slot);
      else missing.add(subject);
    }
    return missing.size ? this.#load([...missing], create).then((loaded) => new KeySealer(new Map([...slots, ...loaded]))) : new KeySealer(slots);
  }

  /** Destroys the subjects' data keys for good; everything sealed under them opens to null from now on, and nothing can be sealed for them again. */
  async shred(...subjects: readonly string[]): Promise<void> {
    try {
      await this.#store.destroy(...subjects);
    } finally {
      for (const subject of subjects) this.forget(subject); // also after a failure: the store knows how far it got
    }
  }

  /** For when another process has shredded a subject. The next use asks the store. */
  forget(subject: string): void {
    this.#forgotten++;
    this.#cache.delete(subject);
  }

  /** Seals the stored answer of a request so that only a request with the same Idempotency-Key (never stored in clear) can read it. */
  sealAnswer(idempotencyKey: string, answer: Json): string {
    return encrypt(this.#answerKey(idempotencyKey), this.#context('answer', ''), JSON.stringify(answer));
  }

  /** Throws with another key, in another environment, or when the text was changed. */
  openAnswer(idempotencyKey: string, sealed: string): Json {
    return JSON.parse(decrypt(this.#answerKey(idempotencyKey), this.#context('answer', ''), sealed).toString()) as Json;
  }

  #answerKey(idempotencyKey: string): KeyObject {
    return createSecretKey(Buffer.from(hkdfSync('sha256', this.#answers, '', createHash('sha256').update(idempotencyKey).digest(), 32)));
  }

  #context(purpose: 'data-key' | 'sealed' | 'answer', subject: string): Buffer {
    return Buffer.from(JSON.stringify(['keyledger', purpose, this.#environment, subject]));
  }

  /** Callers that come while the store is busy share the next write, so that five hundred new licenses cost one write and not five hundred. */
  #load(subjects: readonly string[], create: boolean): Promise<Loaded> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ subjects, create, resolve, reject });
      if (!this.#busy) void this.#work();
    });
  }

  async #work(): Promise<void> {
    this.#busy = true;
    while (this.#waiting.length) {
      await Promise.resolve(); // wait for all callers of this turn of the event loop
      const requests = this.#waiting.splice(0);
      const forgotten = this.#forgotten;
      try {
        const wrapped = await this.#fetch(requests);
        for (const request of requests) this.#settle(request, wrapped, forgotten === this.#forgotten);
      } catch (error) {
        for (const { reject } of requests) reject(error);
      }
    }
    this.#busy = false;
  }

  async #fetch(requests: readonly Request[]): Promise<WrappedKeys> {
    const create = new Set(requests.flatMap((request) => (request.create ? request.subjects : [])));
    const look = new Set(requests.flatMap(({ subjects }) => subjects.filter((subject) => !create.has(subject))));
    const none: WrappedKeys = new Map();
    const [made, found] = await Promise.all([
      create.size ? this.#store.insert(new Map([...create].map((subject) => [subject, this.#newWrappedKey(subject)]))) : none,
      look.size ? this.#store.get([...look]) : none,
    ]);
    return new Map([...made, ...found]);
  }

  #settle({ subjects, resolve, reject }: Request, wrapped: WrappedKeys, mayCache: boolean): void {
    try {
      const slots = subjects.flatMap((subject) => {
        const stored = wrapped.get(subject);
        return stored === undefined ? [] : [[subject, this.#cache.get(subject) ?? this.#unwrap(subject, stored)] as const];
      });
      if (mayCache) for (const [subject, slot] of slots) this.#cache.set(subject, slot);
      resolve(slots);
    } catch (error) {
      reject(error);
    }
  }

  #newWrappedKey(subject: string): string {
    return encrypt(this.#wrapping, this.#context('data-key', subject), randomBytes(32));
  }

  #unwrap(subject: string, wrapped: string | null): Slot {
    if (wrapped === null) return destroyed;
    try {
      const key = createSecretKey(decrypt(this.#wrapping, this.#context('data-key', subject), wrapped));
      // A copy: the original is a piece of 64 KB, which it would keep in memory as long as the key.
      return { dataKey: { key, context: new Uint8Array(this.#context('sealed', subject)) } };
    } catch (error) {
      throw new Error(`The data key of ${subject} in ${this.#environment} was wrapped with another master key: check KEYLEDGER_MASTER_KEY`, { cause: error });
    }
  }
}

type Loaded = readonly (readonly [string, Slot])[];
interface Request {
  readonly subjects: readonly string[];
  readonly create: boolean;
  readonly resolve: (loaded: Loaded) => void;
  readonly reject: (reason: unknown) => void;
}

class KeySealer implements Sealer {
  readonly #slots: ReadonlyMap<string, Slot>;

  constructor(slots: ReadonlyMap<string, Slot>) {
    this.#slots = slots;
  }

  /** A subject that was erased in the meantime is not found. */
  seal(subject: string, value: JsonObject): string {
    const { dataKey } = this.#slot(subject);
    if (!dataKey) throw refuse('NOT_FOUND', `${subject} has been erased`);
    return encrypt(dataKey.key, dataKey.context, JSON.stringify(value));
  }

  open(subject: string, sealed: string): JsonObject | null {
    const { dataKey } = this.#slot(subject);
    return dataKey && (JSON.parse(decrypt(dataKey.key, dataKey.context, sealed).toString()) as JsonObject);
  }

  /** A key that is neither stored nor destroyed was lost or never created. Calling its data erased would hide that. */
  #slot(subject: string): Slot {
    const slot = this.#slots.get(subject);
    if (!slot) throw new Error(`There is no data key of ${subject}`);
    return slot;
  }
}
