import { Module, type DynamicModule, type OnApplicationBootstrap, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { EventStores, SnapshotStores } from '@keyledger/event-store';
import { Clock } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { MessageClient } from '@keyledger/messaging';
import { Log, Metrics } from '@keyledger/observability';
import { Stopping } from '@keyledger/process';
import type { SweeperConfig } from './config.ts';
import { passesOver, patiently } from './passes.ts';
import { Runs } from './runs.ts';
import { Schedule } from './schedule.ts';
import { SweepCommand, SweepList } from './sweep.handlers.ts';
import { Sweeper } from './sweeper.ts';

/** Records what falls due with time. */
@Module({})
export class SweeperModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(private readonly schedule: Schedule) {}

  static with(platform: readonly Provider[], config: SweeperConfig): DynamicModule {
    return {
      module: SweeperModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        SweepCommand, SweepList,
        { provide: Runs, useFactory: (events: EventStores, keyrings: Keyrings, snapshots: SnapshotStores) => new Runs(events, keyrings, snapshots), inject: [EventStores, Keyrings, SnapshotStores] },
        {
          provide: Sweeper,
          useFactory: (messages: MessageClient, runs: Runs, clock: Clock, metrics: Metrics, { signal }: Stopping) => new Sweeper(passesOver(patiently(messages, signal)), runs, clock, metrics, signal),
          inject: [MessageClient, Runs, Clock, Metrics, Stopping],
        },
        {
          provide: Schedule,
          useFactory: (sweeper: Sweeper, clock: Clock, metrics: Metrics, log: Log) => new Schedule(sweeper, clock, metrics, log, config.intervalMs),
          inject: [Sweeper, Clock, Metrics, Log],
        },
      ],
    };
  }

  onApplicationBootstrap(): void {
    this.schedule.begin();
  }

  onModuleDestroy(): Promise<void> {
    return this.schedule.end();
  }
}
