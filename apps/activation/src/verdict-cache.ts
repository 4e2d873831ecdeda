import { ResolveKey } from '@keyledger/contracts';
import { normaliseKey, type LicenseState } from '@keyledger/domain';
import type { EventStore, Position, RecordedEvent, Subscription } from '@keyledger/event-store';
import type { LicenseId } from '@keyledger/kernel';
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
  /** None has it, but one had it before. */
  readonly retired: boolean;
  /** False when the log could not be asked just now: the rest is the last known. */
  readonly conclusive: boolean;
}

interface Entry {
  readonly licenseId: LicenseId;
  known: KnownLicense | undefined;
  /** Events that the log has shown of this license, and how many of them `known` was read after. */
  marked: number;
  read: number;
}

/** Licenses kept ready; at some 3 KB each this is what the hot path may take of the memory. Given as a size, because `max` would take memory for all of them at once. */
const maxLicenses = 200_000;

type LoadLicense = (licenseId: LicenseId) => Promise<KnownLicense>;

/**
 * Folded licenses by key, in one environment. The log's subscription marks what has changed; before an answer, the read index makes sure that
 * everything answered so far has been marked. Nothing is loaded before it is asked for: start and memory do not grow with the licenses.
 */
export class VerdictCache implements View {
  /** By key as typed, to spare the hash. */
  readonly #typed = new LRUCache<string, { readonly keyHash: string; readonly entry: Entry }>({ maxSize: maxLicenses, sizeCalculation: () => 1 });
  /** An entry that falls out is no longer marked, so what it knew must not be found any more. */
  readonly #entries = new LRUCache<LicenseId, Entry>({ maxSize: maxLicenses, sizeCalculation: () => 1, dispose: (entry) => { entry.known = undefined; } });
  readonly #subscription: Subscription;
  readonly #index: ReadIndex;
  readonly #listeners: (() => void)[] = [];
  /** Everything up to here is marked. */
  position: Position;

  /** `head`: where the log ends now; what was before it will be read, not marked. */
  constructor(private readonly keyring: Keyring, private readonly messages: MessageClient, store: EventStore, private readonly load: LoadLicense, head: Position) {
    this.position = head;
    this.#subscription = store.subscribe(head, (events) => this.#mark(events));
    this.#index = new ReadIndex(store, this);
  }

  /** An answer at once when nothing has changed since the last one. */
  find(typed: string): Found | Promise<Found> {
    if (this.#index.isCurrent()) {
      const name = this.#typed.get(typed);
      const known = name?.entry.read === name?.entry.marked ? name?.entry.known : undefined;
      if (known && hasKey(known, name?.keyHash)) return { license: known, retired: false, conclusive: true };
    }
    return this.#look(typed);
  }

  onAdvance(listener: () => void): void {
    this.#listeners.push(listener);
  }

  close(): Promise<void> {
    return this.#subscription.close();
  }

  #mark(events: readonly RecordedEvent[]): void {
    for (const { stream } of events) {
      const entry = stream.startsWith('license-') ? this.#entries.peek(stream.slice('license-'.length) as LicenseId) : undefined;
      if (entry) entry.marked++;
    }
    this.position = events.at(-1)?.position ?? this.position;
    for (const listener of this.#listeners) listener();
  }

  async #look(typed: string): Promise<Found> {
    try {
      await this.#index.current();
      return await this.#read(typed);
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

const hasKey = ({ state }: KnownLicense, keyHash: string | undefined): boolean => state.existence === 'issued' && state.keyHash === keyHash;
