import { Module, type DynamicModule, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { EventStores, SnapshotStores } from '@keyledger/event-store';
import { Clock } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { StateDatabases } from '@keyledger/read-models';
import { LastSeenLedger } from './last-seen.ts';
import { LastSeenQuery, Validation } from './validation.handlers.ts';
import { VerdictCaches } from './verdict-caches.ts';

/** The hot path: validate and what instances are last heard of. It reads license streams and writes none. */
@Module({})
export class ActivationModule implements OnModuleDestroy {
  constructor(private readonly caches: VerdictCaches, private readonly lastSeen: LastSeenLedger) {}

  static with(platform: readonly Provider[]): DynamicModule {
    return {
      module: ActivationModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        Validation,
        LastSeenQuery,
        { provide: VerdictCaches, useFactory: VerdictCaches.open, inject: [EventStores, Keyrings, MessageClient, SnapshotStores] },
        {
          provide: LastSeenLedger,
          useFactory: (databases: StateDatabases, clock: Clock, log: Log) => new LastSeenLedger(databases, clock, (error) => log.error({ err: error }, 'last-seen times not written, kept')),
          inject: [StateDatabases, Clock, Log],
        },
      ],
    };
  }

  async onModuleDestroy(): Promise<void> {
    await this.caches.close();
    await this.lastSeen.close();
  }
}
