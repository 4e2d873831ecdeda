import { Inject, Module, type DynamicModule, type OnApplicationBootstrap, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { EventStores } from '@keyledger/event-store';
import { Clock, environments, runIn, systemContext, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Log, Metrics } from '@keyledger/observability';
import { Projectors, ReadDatabases, StateDatabases } from '@keyledger/read-models';
import { Announcers } from './announcer.ts';
import { Sources } from './sources.ts';
import type { NotifierConfig } from './config.ts';
import { Courier } from './courier.ts';
import { Egress } from './egress.ts';
import { DeliveryCommands, DeliveryQueries, EndpointCommands, EndpointQueries } from './handlers.ts';
import { MailChannel, mailsOf } from './mail.ts';
import { Outbox } from './outbox.ts';
import { endpointList } from './tables.ts';
import { Endpoints, WebhookChannel } from './webhooks.ts';

const COUNT_EVERY_MS = 15_000;
const TIDY_EVERY_MS = 3_600_000;
const MAILS = Symbol('mail, where there is a server for it');
const START = Symbol('what is done before anything else');

/** Sends notifications: to vendors' software by webhook, to customers by mail. */
@Module({})
export class NotifierModule implements OnApplicationBootstrap, OnModuleDestroy {
  readonly #timers: NodeJS.Timeout[] = [];

  constructor(
    private readonly projectors: Projectors, private readonly announcers: Announcers, private readonly courier: Courier, private readonly outbox: Outbox, private readonly egress: Egress,
    @Inject(MAILS) private readonly mails: MailChannel | undefined, private readonly clock: Clock, private readonly metrics: Metrics, private readonly log: Log,
  ) {}

  static with(platform: readonly Provider[], { allowPrivate, mail }: NotifierConfig): DynamicModule {
    return {
      module: NotifierModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        EndpointCommands, EndpointQueries, DeliveryCommands, DeliveryQueries, Endpoints, Outbox,
        { provide: Egress, useFactory: () => new Egress({ allowPrivate }) },
        { provide: MAILS, useFactory: (events: EventStores, keyrings: Keyrings) => mail && MailChannel.open(mail, events, keyrings), inject: [EventStores, Keyrings] },
        {
          provide: Courier,
          useFactory: (outbox: Outbox, endpoints: Endpoints, egress: Egress, mails: MailChannel | undefined, clock: Clock, metrics: Metrics, log: Log) =>
            new Courier(outbox, new WebhookChannel(endpoints, egress), mails, clock, metrics, log),
          inject: [Outbox, Endpoints, Egress, MAILS, Clock, Metrics, Log],
        },
        {
          provide: Announcers,
          useFactory: (events: EventStores, databases: StateDatabases, keyrings: Keyrings, clock: Clock, courier: Courier, mails: MailChannel | undefined, log: Log) => {
            const sources = new Sources(events, keyrings);
            const forget = (licenseId: LicenseId) => [sources, mails].forEach((reader) => reader?.forget(licenseId));
            return Announcers.start({ events, databases, sources, clock, log, forget, mailsOf: (environment) => (mail ? mailsOf(mail, environment) : () => undefined), wake: (environment) => courier.wake(environment) });
          },
          inject: [EventStores, StateDatabases, Keyrings, Clock, Courier, MAILS, Log],
        },
        {
          provide: Projectors,
          useFactory: (events: EventStores, databases: ReadDatabases, sealings: Keyrings, log: Log) =>
            Projectors.start({ name: 'notifier', projections: [endpointList], events, databases, sealings, parked: (parked) => log.error(parked, 'stream parked') }),
          inject: [EventStores, ReadDatabases, Keyrings, Log],
        },
        { provide: START, useFactory: releaseAll, inject: [StateDatabases, Outbox, Clock] },
      ],
    };
  }

  onApplicationBootstrap(): void {
    this.courier.begin();
    this.#timers.push(setInterval(() => {
      this.announcers.replay();
      void this.#inEach('the outbox was not counted', (environment) => this.#count(environment));
    }, COUNT_EVERY_MS).unref());
    this.#timers.push(setInterval(() => void this.#inEach('old deliveries were not removed', (environment) => this.outbox.forgetOld(this.clock.now(environment))), TIDY_EVERY_MS).unref());
  }

  async onModuleDestroy(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.announcers.close();
    await this.courier.close();
    await this.egress.close();
    await this.projectors.close();
    this.mails?.close();
  }

  async #count(environment: string): Promise<void> {
    const { pending, lateMs } = await this.outbox.waiting(this.clock.now(environment));
    // What is not even queued is not sent either.
    this.metrics.outbox(environment, pending, Math.max(lateMs / 1000, await this.announcers.secondsBehind()));
  }

  async #inEach(otherwise: string, work: (environment: string) => Promise<void>): Promise<void> {
    for (const environment of environments) {
      await runIn(systemContext(environment, this.clock.now(environment)), () => work(environment)).catch((error: unknown) => this.log.warn({ err: error, environment }, otherwise));
    }
  }
}

/** Files belong to one process: claims left by the previous one when it died are released at once. */
async function releaseAll(databases: StateDatabases, outbox: Outbox, clock: Clock): Promise<void> {
  for (const environment of environments) {
    if (databases.of(environment).dialect === 'sqlite') await runIn(systemContext(environment, clock.now(environment)), () => outbox.releaseAll());
  }
}
