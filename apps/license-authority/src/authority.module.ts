import { Module, type DynamicModule, type OnApplicationBootstrap, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { EventStores } from '@keyledger/event-store';
import { Clock } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Log } from '@keyledger/observability';
import { Projectors, ReadDatabases, StateDatabases } from '@keyledger/read-models';
import { AbuseRuleCommands, DenialQueries, UnknownKeyReports } from './abuse.handlers.ts';
import { BindCommand, QueueDirectiveCommand, RecoverHeartbeatCommand } from './appliance.handlers.ts';
import { JobCommands, JobList, JobQueries, JobResults, JobViews, StartCommands } from './job.handlers.ts';
import { JobLedger } from './job.ledger.ts';
import { JobRows } from './job.rows.ts';
import { Jobs, JobWorker } from './job.worker.ts';
import { LicenseKeys } from './keys.ts';
import {
  ActivateCommand, DeactivateCommand, EraseCommand, IssueCommands, LicenseCommands, LicenseQuery, PrepareCommand, RegenerateKeyCommand, ResolveKeyQuery, RevokeActivationCommand,
} from './license.handlers.ts';
import { ActivationList, AvailableLicenses, LicenseEvents, LicenseExport, LicenseList, LicenseSuggestions, LicenseTable, LicenseTotals, LicenseViews } from './license.queries.ts';
import { licenseProjections } from './license.tables.ts';
import { Erasure } from './reactions.ts';
import { LeaseTokens, LicenseFileCommand, OfflineFileCommand } from './signed.handlers.ts';
import { AbuseStreams, Sightings } from './sightings.ts';
import { Licenses } from './streams.ts';
import { QuotaCommands, Usage } from './usage.handlers.ts';
import { DueQueries, SweepCommands } from './sweep.handlers.ts';

/** Decides about licenses: the only writer of their streams, and where they are searched. */
@Module({})
export class LicenseAuthorityModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(private readonly projectors: Projectors, private readonly erasure: Erasure, private readonly jobs: JobWorker, private readonly sightings: Sightings) {}

  static with(platform: readonly Provider[]): DynamicModule {
    return {
      module: LicenseAuthorityModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        AbuseStreams, Jobs, Licenses,
        LicenseKeys, LicenseTable, LicenseViews, LeaseTokens, Usage, JobLedger, JobRows, JobViews, JobWorker,
        QuotaCommands, IssueCommands, PrepareCommand, LicenseCommands, RegenerateKeyCommand, EraseCommand, ActivateCommand, DeactivateCommand, RevokeActivationCommand,
        BindCommand, QueueDirectiveCommand, RecoverHeartbeatCommand,
        LicenseFileCommand, OfflineFileCommand, LicenseQuery, ResolveKeyQuery, LicenseList, LicenseSuggestions, LicenseTotals, ActivationList, LicenseEvents, DueQueries, SweepCommands,
        AvailableLicenses, LicenseExport, StartCommands, JobCommands, JobQueries, JobList, JobResults,
        AbuseRuleCommands, UnknownKeyReports, DenialQueries, Sightings,
        {
          provide: Projectors,
          useFactory: (events: EventStores, databases: ReadDatabases, sealings: Keyrings, log: Log) =>
            Projectors.start({ name: 'license-authority', projections: licenseProjections, events, databases, sealings, parked: (parked) => log.error(parked, 'stream parked') }),
          inject: [EventStores, ReadDatabases, Keyrings, Log],
        },
        { provide: Erasure, useFactory: Erasure.start, inject: [EventStores, StateDatabases, ReadDatabases, Keyrings, Clock, Licenses, Projectors] },
      ],
    };
  }

  onApplicationBootstrap(): Promise<void> {
    this.sightings.begin();
    return this.jobs.begin();
  }

  async onModuleDestroy(): Promise<void> {
    await this.jobs.end();
    await this.sightings.end();
    await this.erasure.close();
    await this.projectors.close();
  }
}
