import { Injectable } from '@nestjs/common';
import { EventStores, subjectOf } from '@keyledger/event-store';
import { Clock, type LicenseId } from '@keyledger/kernel';
import { Reaction, StateDatabases } from '@keyledger/read-models';
import { UsageLedger } from './ledger.ts';
import { Licenses } from './licenses.ts';

/** What was read of a license goes with it. */
@Injectable()
export class UsageErasure {
  readonly #reaction: Reaction;

  private constructor(reaction: Reaction) {
    this.#reaction = reaction;
  }

  static async start(events: EventStores, databases: StateDatabases, clock: Clock, ledger: UsageLedger, licenses: Licenses): Promise<UsageErasure> {
    return new UsageErasure(await Reaction.start({
      name: 'usage-erasure', events, databases, clock,
      isFor: ({ type }) => type === 'LicenseErased', reads: [],
      async react(erased) {
        for (const { stream } of erased) {
          const licenseId = subjectOf(stream) as LicenseId;
          licenses.forget(licenseId);
          await ledger.forget(licenseId);
        }
      },
    }));
  }

  /** Resolves when every erasure up to now is complete. */
  done(): Promise<void> {
    return this.#reaction.current();
  }

  close(): Promise<void> {
    return this.#reaction.close();
  }
}
