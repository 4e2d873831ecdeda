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
        const licenseIds = erased.map(({ stream }) => subjectOf(stream) as LicenseId);
        for (const licenseId of licenseIds) licenses.forget(licenseId);
        await ledger.forget(licenseIds);
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
