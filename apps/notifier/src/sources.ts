import { Denials, Job, License, SigningKeys, type LicenseCommand, type LicenseEvent, type LicenseState, type SigningKeysCommand, type SigningKeysEvent, type SigningKeysState } from '@keyledger/domain';
import { Aggregates, decode, subjectOf, type EventStores, type RecordedEvent } from '@keyledger/event-store';
import type { EventShape, LicenseId, Sealer } from '@keyledger/kernel';
import type { Keyrings } from '@keyledger/keyring';
import { factsOf, ofDenials, ofJobs, ofLicenses, ofSigningKeys, type Announced, type Announcement } from './announcements.ts';

/** What is read of other services' streams to make announcements of. */
export class Sources {
  readonly #licenses: Aggregates<LicenseState, LicenseCommand, LicenseEvent>;
  readonly #signingKeys: Aggregates<SigningKeysState, SigningKeysCommand, SigningKeysEvent>;

  constructor(events: EventStores, keyrings: Keyrings) {
    this.#licenses = new Aggregates(License, events, keyrings, { maxFolds: 5_000 });
    this.#signingKeys = new Aggregates(SigningKeys, events, keyrings);
  }

  /** What is announced of an event whose type an endpoint listens for. The endpoint wants the event itself, so what is known of its subject may be newer. */
  readonly byCategory: Readonly<Record<string, { readonly table: Readonly<Record<string, Announced<never, never> | undefined>>; tell(event: RecordedEvent, how: Announced<never, never>): Promise<readonly Announcement[]> }>> = {
    [License.category]: {
      table: ofLicenses as never,
      tell: (event, how) => this.#aboutLicense(License.shapes, event, how),
    },
    [Denials.category]: {
      table: ofDenials as never,
      tell: (event, how) => this.#aboutLicense(Denials.shapes, event, how),
    },
    [SigningKeys.category]: {
      table: ofSigningKeys as never,
      tell: (event, how) => this.#signingKeys.load(subjectOf(event.stream), (keys) => how.tell(opened(SigningKeys.shapes, event) as never, keys as never)),
    },
    [Job.category]: {
      table: ofJobs as never,
      tell: async (event, how) => how.tell(opened(Job.shapes, event) as never, subjectOf(event.stream) as never),
    },
  };

  forget(licenseId: LicenseId): void {
    this.#licenses.forget(licenseId);
  }

  async #aboutLicense(shapes: Readonly<Record<string, EventShape>>, event: RecordedEvent, how: Announced<never, never>): Promise<readonly Announcement[]> {
    const facts = await this.#licenses.load(subjectOf(event.stream), factsOf);
    return facts ? how.tell(opened(shapes, event) as never, facts as never) : [];
  }
}

/** Sealed fields are never sent to receivers, so they are not opened. */
const closed: Sealer = { seal: (subject) => { throw new Error(`The notifier seals nothing for ${subject}`); }, open: () => null };
export const opened = (shapes: Readonly<Record<string, EventShape>>, event: RecordedEvent) => decode(shapes, event, closed);
