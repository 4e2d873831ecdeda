import { Injectable } from '@nestjs/common';
import { ResolveKey } from '@keyledger/contracts';
import { issued, License, normaliseKey, type IssuedLicense, type LicenseCommand, type LicenseEvent, type LicenseState, type SeatEnds } from '@keyledger/domain';
import { Aggregates, EventStores, SnapshotStores } from '@keyledger/event-store';
import { context, refuse, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { MessageClient } from '@keyledger/messaging';
import { LRUCache } from 'lru-cache';

/** Licenses folded from their streams, which only the license-authority writes. */
@Injectable()
export class Licenses {
  readonly #streams: Aggregates<LicenseState, LicenseCommand, LicenseEvent>;
  readonly #byKey = new LRUCache<string, LicenseId>({ maxSize: 50_000, sizeCalculation: () => 1 });

  constructor(events: EventStores, private readonly keyrings: Keyrings, snapshots: SnapshotStores, private readonly messages: MessageClient) {
    this.#streams = new Aggregates(License, events, keyrings, { snapshots });
  }

  /** Returns the view of the license; the view must not keep the license. LICENSE_NOT_FOUND if it does not exist (any more). */
  load<Answer>(licenseId: LicenseId, view: (license: IssuedLicense) => Answer): Promise<Answer> {
    return this.#streams.load(licenseId, (state) => view(issued(state)));
  }

  /** The same by its present key. A client that uses a former key is not guessing, and the refusal says so. */
  async loadByKey<Answer>(licenseKey: string, view: (license: IssuedLicense) => Answer): Promise<Answer> {
    const keyHash = this.keyrings.here().keyHash(normaliseKey(licenseKey));
    const name = `${context().environment} ${keyHash}`;
    const known = this.#byKey.get(name);
    const found = known === undefined ? undefined : await this.#ifStillThere(known, keyHash, view);
    if (found) return found.answer;
    const { licenseId, retired } = await this.messages.send(ResolveKey, { keyHash });
    const resolved = licenseId === null ? undefined : await this.#ifStillThere(licenseId, keyHash, view);
    if (!licenseId || !resolved) throw refuse('LICENSE_NOT_FOUND', undefined, retired || licenseId ? { retired: true } : {});
    this.#byKey.set(name, licenseId);
    return resolved.answer;
  }

  forget(licenseId: LicenseId): void {
    this.#streams.forget(licenseId);
  }

  #ifStillThere<Answer>(licenseId: LicenseId, keyHash: string, view: (license: IssuedLicense) => Answer): Promise<{ readonly answer: Answer } | undefined> {
    return this.#streams.load(licenseId, (state) => (state.existence === 'issued' && state.keyHash === keyHash ? { answer: view(state) } : undefined));
  }
}

/** When seats have ended. */
export const seatEnds = ({ activations }: IssuedLicense): SeatEnds =>
  new Map([...activations].flatMap(([id, { endedAt }]) => (endedAt === null ? [] : [[id, Date.parse(endedAt)] as const])));
