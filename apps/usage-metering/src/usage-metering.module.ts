import { Module, type DynamicModule, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { EventStores } from '@keyledger/event-store';
import { Clock } from '@keyledger/kernel';
import { StateDatabases } from '@keyledger/read-models';
import { DailyComparison, DueUsageQueries, QuotaEvaluation } from './evaluation.ts';
import { UsageLedger } from './ledger.ts';
import { Licenses } from './licenses.ts';
import { UsageReactions } from './reactions.ts';
import { UsageCommands } from './usage.handlers.ts';
import { ExplainQuery, Meters, MetersQuery, SeriesQuery } from './usage.queries.ts';

/** Counts what instances report, and finds the days above a quota. The license itself decides what follows. */
@Module({})
export class UsageMeteringModule implements OnModuleDestroy {
  constructor(private readonly reactions: UsageReactions) {}

  static with(platform: readonly Provider[]): DynamicModule {
    return {
      module: UsageMeteringModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        UsageLedger, Licenses, Meters, DailyComparison,
        UsageCommands, MetersQuery, SeriesQuery, ExplainQuery, QuotaEvaluation, DueUsageQueries,
        { provide: UsageReactions, useFactory: UsageReactions.start, inject: [EventStores, StateDatabases, Clock, UsageLedger, Licenses] },
      ],
    };
  }

  async onModuleDestroy(): Promise<void> {
    await this.reactions.close();
  }
}
