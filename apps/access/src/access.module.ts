import { Module, type DynamicModule, type OnApplicationBootstrap, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { EventStores } from '@keyledger/event-store';
import { Clock, environments, runIn, systemClock, systemContext } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Log } from '@keyledger/observability';
import { Projectors, ReadDatabases } from '@keyledger/read-models';
import { ApiKeyCommands, ApiKeyQuery, Authentication } from './api-keys.handlers.ts';
import { ApiKeyList, apiKeys, ApiKeyTable } from './api-keys.queries.ts';
import type { AccessConfig } from './config.ts';
import { ClockCommands, EnvironmentQueries } from './environments.handlers.ts';
import { firstStart } from './first-start.ts';
import { RequestCommands, Requests } from './idempotency.handlers.ts';
import { AccessStreams } from './streams.ts';

/** Often, so that little is to be forgotten at a time. */
const tidyEveryMs = 300_000;

/** Environments, API keys and idempotency records. */
@Module({})
export class AccessModule implements OnApplicationBootstrap, OnModuleDestroy {
  #tidying: NodeJS.Timeout | undefined;

  constructor(private readonly projectors: Projectors, private readonly requests: Requests, private readonly log: Log) {}

  /** `print` shows a new root key to the operator, once. */
  static with(platform: readonly Provider[], config: AccessConfig, print: (secret: string) => void): DynamicModule {
    return {
      module: AccessModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        ApiKeyCommands, ApiKeyQuery, ApiKeyList, ApiKeyTable, Authentication, EnvironmentQueries, ClockCommands, Requests, RequestCommands,
        {
          provide: AccessStreams,
          useFactory: async (events: EventStores, keyrings: Keyrings, clock: Clock) => {
            const streams = new AccessStreams(events, keyrings);
            await firstStart(streams, clock, config, print);
            return streams;
          },
          inject: [EventStores, Keyrings, Clock],
        },
        {
          provide: Projectors,
          useFactory: (events: EventStores, databases: ReadDatabases, sealings: Keyrings, log: Log) =>
            Projectors.start({ name: 'access', projections: [apiKeys], events, databases, sealings, parked: (parked) => log.error(parked, 'stream parked') }),
          inject: [EventStores, ReadDatabases, Keyrings, Log],
        },
      ],
    };
  }

  onApplicationBootstrap(): void {
    this.#tidying = setInterval(() => void this.#tidy(), tidyEveryMs).unref();
  }

  async onModuleDestroy(): Promise<void> {
    clearInterval(this.#tidying);
    await this.projectors.close();
  }

  async #tidy(): Promise<void> {
    for (const environment of environments) {
      const now = systemClock.now(environment);
      try {
        await runIn(systemContext(environment, now), () => this.requests.forgetOld(now));
      } catch (error) {
        this.log.error({ err: error, environment }, 'old idempotency records could not be removed');
      }
    }
  }
}
