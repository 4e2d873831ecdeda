import { Injectable } from '@nestjs/common';
import { dayOf, License, monthlyMeters, type Quota } from '@keyledger/domain';
import { EventStores, originOf, subjectOf, type RecordedEvent } from '@keyledger/event-store';
import { Clock, type LicenseId } from '@keyledger/kernel';
import { Reaction, StateDatabases } from '@keyledger/read-models';
import { UsageLedger } from './ledger.ts';
import { Licenses } from './licenses.ts';

/** Readings of an erased license are deleted; a quota set later is compared with what was already read. */
@Injectable()
export class UsageReactions {
  readonly #reaction: Reaction;

  private constructor(reaction: Reaction) {
    this.#reaction = reaction;
  }

  static async start(events: EventStores, databases: StateDatabases, clock: Clock, ledger: UsageLedger, licenses: Licenses): Promise<UsageReactions> {
    return new UsageReactions(await Reaction.start({
      name: 'usage-erasure', events, databases, clock,
      follows: [{ category: License.category, types: ['LicenseErased', 'QuotaChanged'] }],
      async react(happened) {
        for (const event of happened) await (event.type === 'QuotaChanged' ? compareAnew(event, ledger) : forget(event, ledger, licenses));
      },
    }));
  }

  /** Resolves when every event up to now is handled. */
  done(): Promise<void> {
    return this.#reaction.current();
  }

  close(): Promise<void> {
    return this.#reaction.close();
  }
}

async function compareAnew(changed: RecordedEvent, ledger: UsageLedger): Promise<void> {
  await ledger.compareAnew(subjectOf(changed.stream) as LicenseId, monthlyMeters(changed.data['quotas'] as readonly Quota[]), dayOf(Date.parse(originOf(changed).at)));
}

async function forget({ stream }: RecordedEvent, ledger: UsageLedger, licenses: Licenses): Promise<void> {
  const licenseId = subjectOf(stream) as LicenseId;
  licenses.forget(licenseId);
  await ledger.forget(licenseId);
}
