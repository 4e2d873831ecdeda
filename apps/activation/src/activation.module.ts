import { Module, type DynamicModule, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { License } from '@keyledger/domain';
import { EventStores, SnapshotStores, subjectOf } from '@keyledger/event-store';
import { Clock, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { Reaction, StateDatabases } from '@keyledger/read-models';
import { ApplianceActivation, ApplianceTokens, Heartbeats, LeaseContinuation } from './appliance.handlers.ts';
import { LapseCommand, LapseQueries, LeaseOpening } from './lapses.ts';
import { LastSeenLedger } from './last-seen.ts';
import { LeaseLedger } from './leases.ts';
import { RevokedKeys } from './revoked-keys.ts';
import { AcknowledgeCommand, Acknowledgements, NextChangesQuery } from './stream.handlers.ts';
import { UseInView } from './usage.ts';
import { LastSeenQuery, LeasesQuery, Revalidation, Sighting, Validation } from './validation.handlers.ts';
import { VerdictCaches } from './verdict-caches.ts';
import { VerdictTokens } from './verdict-tokens.ts';

/** Nothing is kept of the appliances of an erased license. */
class Erasure {
  private constructor(private readonly reaction: Reaction) {}

  static async start(events: EventStores, databases: StateDatabases, clock: Clock, leases: LeaseLedger, acks: Acknowledgements): Promise<Erasure> {
    return new Erasure(await Reaction.start({
      name: 'activation-erasure', events, databases, clock,
      follows: [{ category: License.category, types: ['LicenseErased'], bare: true }],
      async react(erased) {
        for (const { stream } of erased) {
          const licenseId = subjectOf(stream) as LicenseId;
          await leases.forget(licenseId);
          await acks.forget(licenseId);
        }
      },
    }));
  }

  close(): Promise<void> {
    return this.reaction.close();
  }
}

/** The hot path: validations, heartbeats and their leases, and clients that follow a license. It reads license streams and writes none. */
@Module({})
export class ActivationModule implements OnModuleDestroy {
  constructor(private readonly caches: VerdictCaches, private readonly lastSeen: LastSeenLedger, private readonly erasure: Erasure, private readonly opening: LeaseOpening) {}

  static with(platform: readonly Provider[]): DynamicModule {
    return {
      module: ActivationModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        Validation, Revalidation, VerdictTokens, UseInView, LastSeenQuery, Sighting,
        LeaseLedger, LeasesQuery, RevokedKeys, ApplianceTokens, ApplianceActivation, LeaseContinuation, Heartbeats,
        Acknowledgements, NextChangesQuery, AcknowledgeCommand, LapseQueries, LapseCommand,
        { provide: VerdictCaches, useFactory: VerdictCaches.open, inject: [EventStores, Keyrings, MessageClient, SnapshotStores] },
        {
          provide: LastSeenLedger,
          useFactory: (databases: StateDatabases, clock: Clock, log: Log) => new LastSeenLedger(databases, clock, (error) => log.error({ err: error }, 'last-seen times could not be written; they are kept and tried again')),
          inject: [StateDatabases, Clock, Log],
        },
        { provide: LeaseOpening, useFactory: LeaseOpening.start, inject: [EventStores, StateDatabases, Clock, VerdictCaches, LeaseLedger, Log] },
        { provide: Erasure, useFactory: Erasure.start, inject: [EventStores, StateDatabases, Clock, LeaseLedger, Acknowledgements] },
      ],
    };
  }

  async onModuleDestroy(): Promise<void> {
    await Promise.all([this.erasure.close(), this.opening.close()]);
    await this.caches.close();
    await this.lastSeen.close();
  }
}
