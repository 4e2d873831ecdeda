import { Injectable } from '@nestjs/common';
import { dayOf, monthlyMeters, type Quota } from '@keyledger/domain';
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
      isFor: ({ type }) => type === 'LicenseErased' || type === 'QuotaChanged', reads: [],
      async react(happened) {
        for (const event of happened) await (event.type === 'QuotaChanged' ? compareAnew(event, events, ledger) : forget(event, ledger, licenses));
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

/** Reads the event from its stream: the subscription delivers no data. */
async function compareAnew({ stream, revision }: RecordedEvent, events: EventStores, ledger: UsageLedger): Promise<void> {
  const [changed] = await events.here().readStream(stream, { from: revision, limit: 1 });
  if (changed) await ledger.compareAnew(subjectOf(stream) as LicenseId, monthlyMeters(changed.data['quotas'] as readonly Quota[]), dayOf(Date.parse(originOf(changed).at)));
}

async function forget({ stream }: RecordedEvent, ledger: UsageLedger, licenses: Licenses): Promise<void> {
  const licenseId = subjectOf(stream) as LicenseId;
  licenses.forget(licenseId);
  await ledger.forget(licenseId);
}
