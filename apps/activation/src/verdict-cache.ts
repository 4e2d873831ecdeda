import { ResolveKey } from '@keyledger/contracts';
import { License, normaliseKey, SigningKeys, type LicenseState } from '@keyledger/domain';
import { subjectOf, type EventStore, type Position, type RecordedEvent, type Subscription } from '@keyledger/event-store';
import { RecentChanges, refuse, type LicenseId } from '@keyledger/kernel';
import type { Keyring } from '@keyledger/keyring';
import type { MessageClient } from '@keyledger/messaging';
import { ReadIndex, type View } from '@keyledger/read-models';
import { LRUCache } from 'lru-cache';

/** A license as it was last read. */
export interface KnownLicense {
  readonly state: LicenseState;
  readonly revision: number;
}

export interface Found {
  /** The license that has this key now. */
  readonly license: KnownLicense | undefined;
  /** No license has it now, but one had it before. */
  readonly retired: boolean;
  /** False if the log could not be asked just now: the rest is the last known. */
  readonly conclusive: boolean;
}

interface Entry {
  readonly licenseId: LicenseId;
  known: KnownLicense | undefined;
  /** Events that the log has shown of this license, and how many of them `known` was read after. */
  marked: number;
  read: number;
}

/** Licenses kept ready, some 3 KB each: the memory the hot path may take. Given as a size, because `max` would allocate for all of them at once. */
const maxLicenses = 200_000;

type LoadLicense = (licenseId: LicenseId) => Promise<KnownLicense>;

/**
 * Folded licenses by key, in one environment. The log's subscription marks changed licenses; before an answer, the read index makes sure that
 * every change answered so far has been marked. Licenses are loaded on demand: start and memory do not grow with their number.
 */
export class VerdictCache implements View {
  /** By key as typed, to spare the hash. */
  readonly #typed = new LRUCache<string, { readonly keyHash: string; readonly entry: Entry }>({ maxSize: maxLicenses, sizeCalculation: () => 1 });
  /** An evicted entry no longer receives marks, so its state is dropped: it must not be found by its key any more. */
  readonly #entries = new LRUCache<LicenseId, Entry>({ maxSize: maxLicenses, sizeCalculation: () => 1, dispose: (entry) => { entry.known = undefined; } });
  readonly #subscription: Subscription;
  readonly #index: ReadIndex;
  readonly #changes: RecentChanges<LicenseId>;
  readonly #listeners: (() => void)[] = [];
  readonly #watched = new Map<LicenseId, Set<() => void>>();
  /** Events up to here are marked. */
  position: Position;
  /** How many signing keys the log has shown to be revoked since this process began. */
  revocations = 0;

  /** `head`: where the log ends now; events before it will be read, not marked. */
  constructor(private readonly keyring: Keyring, private readonly messages: MessageClient, store: EventStore, private readonly load: LoadLicense, head: Position) {
    this.position = head;
    this.#changes = new RecentChanges(head);
    this.#subscription = store.subscribe(head, (events, upTo) => this.#mark(events, upTo), [{ category: License.category, bare: true }, { category: SigningKeys.category, types: ['SigningKeyRevoked'], bare: true }]);
    this.#index = new ReadIndex(store, this);
  }

  /** Answers at once if nothing has changed since the last answer. */
  find(typed: string): Found | Promise<Found> {
    return (this.#index.isCurrent() && this.#unchanged(typed)) || this.#look(typed);
  }

  /**
   * The license with this id, and with this key when one is given; as of now. Refuses with LICENSE_NOT_FOUND, and with READ_MODEL_BEHIND when the
   * log cannot be asked.
   */
  get(licenseId: LicenseId, typed?: string): KnownLicense | Promise<KnownLicense> {
    if (typed !== undefined) {
      const found = this.find(typed);
      return found instanceof Promise ? found.then((later) => namedBy(later, licenseId)) : namedBy(found, licenseId);
    }
    return (this.#index.isCurrent() && knownBy(this.#entries.get(licenseId))) || this.#byId(licenseId);
  }

  /**
   * Where the log ends, and which licenses have events after `since`; null if that is not known. Refuses with READ_MODEL_BEHIND when the log cannot be
   * asked.
   */
  async changedSince(since: Position | null): Promise<{ readonly position: Position; readonly changed: ReadonlySet<LicenseId> | null }> {
    if (!this.#index.isCurrent()) await this.#index.current();
    const { position } = this;
    // Who knows more than there is knows another log.
    const isKnown = since !== null && since <= position;
    return { position, changed: (isKnown && this.#changes.since(since)) || null };
  }

  /** Calls `listener` on new events of the license, until the returned function is called. */
  onChange(licenseId: LicenseId, listener: () => void): () => void {
    const listeners = this.#watched.get(licenseId) ?? new Set();
    this.#watched.set(licenseId, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0 && this.#watched.get(licenseId) === listeners) this.#watched.delete(licenseId);
    };
  }

  onAdvance(listener: () => void): void {
    this.#listeners.push(listener);
  }

  hurry(position: Position): void {
    this.#subscription.hurry?.(position);
  }

  close(): Promise<void> {
    return this.#subscription.close();
  }

  #mark(events: readonly RecordedEvent[], upTo: Position): void {
    const changed = new Set<LicenseId>();
    for (const { stream, type, position } of events) {
      if (type === 'SigningKeyRevoked') {
        this.revocations++;
        continue;
      }
      const licenseId = subjectOf(stream) as LicenseId;
      this.#changes.add(licenseId, position);
      const entry = this.#entries.peek(licenseId);
      if (entry) entry.marked++;
      if (this.#watched.has(licenseId)) changed.add(licenseId);
    }
    this.position = upTo;
    for (const listener of this.#listeners) listener();
    for (const licenseId of changed) for (const listener of this.#watched.get(licenseId) ?? []) listener();
  }

  /** The license known by the key, if all its marked events were read. */
  #unchanged(typed: string): Found | undefined {
    const name = this.#typed.get(typed);
    const known = knownBy(name?.entry);
    return known && hasKey(known, name?.keyHash) ? { license: known, retired: false, conclusive: true } : undefined;
  }

  async #byId(licenseId: LicenseId): Promise<KnownLicense> {
    await this.#index.current();
    return knownBy(this.#entries.get(licenseId)) ?? (await this.#readLicense(licenseId)).known;
  }

  async #look(typed: string): Promise<Found> {
    try {
      await this.#index.current();
      return this.#unchanged(typed) ?? (await this.#read(typed));
    } catch (error) {
      const lastKnown = this.#lastKnown(typed);
      if (!lastKnown) throw error;
      return { license: lastKnown, retired: false, conclusive: false };
    }
  }

  async #read(typed: string): Promise<Found> {
    const name = this.#typed.get(typed);
    const keyHash = name?.keyHash ?? this.keyring.keyHash(normaliseKey(typed));
    const { licenseId, retired } = name ? { licenseId: name.entry.licenseId, retired: true } : await this.messages.send(ResolveKey, { keyHash });
    if (!licenseId) return { license: undefined, retired, conclusive: true };
    const { entry, known } = await this.#readLicense(licenseId);
    if (!hasKey(known, keyHash)) {
      this.#typed.delete(typed);
      return { license: undefined, retired: true, conclusive: true };
    }
    this.#typed.set(typed, { keyHash, entry });
    return { license: known, retired: false, conclusive: true };
  }

  async #readLicense(licenseId: LicenseId): Promise<{ entry: Entry; known: KnownLicense }> {
    const entry = this.#entries.get(licenseId) ?? { licenseId, known: undefined, marked: 0, read: -1 };
    this.#entries.set(licenseId, entry);
    const { marked } = entry;
    const known = await this.load(licenseId);
    if (marked >= entry.read && this.#entries.peek(licenseId) === entry) Object.assign(entry, { known, read: marked });
    return { entry, known };
  }

  #lastKnown(typed: string): KnownLicense | undefined {
    const name = this.#typed.get(typed);
    const known = name?.entry.known;
    return known && hasKey(known, name?.keyHash) ? known : undefined;
  }
}

const knownBy = (entry: Entry | undefined): KnownLicense | undefined => (entry?.read === entry?.marked ? entry?.known : undefined);

/** A client with the key of another license, or a former key, is not guessing. */
function namedBy({ license, retired, conclusive }: Found, licenseId: LicenseId): KnownLicense {
  if (!conclusive) throw refuse('READ_MODEL_BEHIND');
  if (!license) throw refuse('LICENSE_NOT_FOUND', undefined, retired ? { retired } : {});
  if (license.state.existence !== 'issued' || license.state.id !== licenseId) throw refuse('LICENSE_NOT_FOUND', undefined, { retired: true });
  return license;
}

const hasKey = ({ state }: KnownLicense, keyHash: string | undefined): boolean => state.existence === 'issued' && state.keyHash === keyHash;
