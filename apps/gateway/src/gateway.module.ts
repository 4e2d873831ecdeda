import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { Module, type DynamicModule } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { ListEnvironments } from '@keyledger/contracts';
import { isTransient, Refusal, runIn, systemContext, type Clock } from '@keyledger/kernel';
import { MessageClient } from '@keyledger/messaging';
import { Health, Metrics, nowAndThen, type Log } from '@keyledger/observability';
import type { FastifyInstance } from 'fastify';
import { AbuseController } from './abuse.controller.ts';
import { AccessController } from './access.controller.ts';
import { Admission, requestIdOf } from './admission.ts';
import { AppliancesController } from './appliances.controller.ts';
import { acceptBodies } from './bodies.ts';
import { BulkController } from './bulk.controller.ts';
import { CatalogController } from './catalog.controller.ts';
import type { GatewayConfig } from './config.ts';
import { ApiDocument, serveDocs } from './docs.ts';
import { Edge } from './edge.ts';
import { Idempotency } from './idempotency.ts';
import { JobStreams } from './job-streams.ts';
import type { LastKnownVerdicts } from './last-known.ts';
import { LicenseStreams } from './license-streams.ts';
import { LicenseController } from './license.controller.ts';
import { LicensesController } from './licenses.controller.ts';
import type { Operation } from './operation.ts';
import { assemblePipeline } from './pipeline.ts';
import { ProblemFilter, refuseBytes, refuseUrl, validationRefusal } from './problems.ts';
import { RateLimits } from './rate-limits.ts';
import { TogetherResponse } from './responses.ts';
import { UnknownKeys } from './unknown-keys.ts';
import { SigningController } from './signing.controller.ts';
import { StoredVerdicts } from './stored-verdicts.ts';
import { SystemController } from './system.controller.ts';
import { UsageController } from './usage.controller.ts';
import { TimeController } from './time.controller.ts';
import { serveValidation } from './validate.route.ts';
import { validatorCompiler } from './validation.ts';
import { WebhooksController } from './webhooks.controller.ts';

/** What the gateway needs from the process it runs in. */
export interface GatewayPlatform {
  messages: MessageClient;
  clock: Clock;
  metrics: Metrics;
  health: Health;
  log: Log;
  config: GatewayConfig;
  /** Set where the services may be out of reach while this process keeps running. */
  lastKnown?: LastKnownVerdicts;
}

@Module({})
class GatewayModule {
  static with({ messages, metrics, health }: GatewayPlatform, limits: RateLimits, document: ApiDocument): DynamicModule {
    return {
      module: GatewayModule,
      controllers: [
        LicenseController, LicensesController, UsageController, AppliancesController, CatalogController, BulkController, AccessController, SigningController, WebhooksController, TimeController,
        AbuseController, SystemController,
      ],
      providers: [
        Edge,
        { provide: LicenseStreams, useFactory: (edge: Edge) => new LicenseStreams(edge), inject: [Edge] },
        JobStreams,
        { provide: MessageClient, useValue: messages },
        { provide: RateLimits, useValue: limits },
        { provide: Metrics, useValue: metrics },
        { provide: Health, useValue: health },
        { provide: ApiDocument, useValue: document },
      ],
    };
  }
}

/** The REST edge, not yet listening. The services it calls must be running. */
export async function createGateway(platform: GatewayPlatform): Promise<NestFastifyApplication> {
  const { messages, clock, metrics, health, log, config, lastKnown } = platform;
  const operations: Operation[] = [];
  const unknownKeys = new UnknownKeys(messages, clock);
  const limits = new RateLimits(config.rateLimits, (address) => unknownKeys.saw(address));
  const environments = await environmentNames(messages, clock, log);
  const adapter = fastifyAdapter(config);
  const app = await NestFactory.create<NestFastifyApplication>(GatewayModule.with(platform, limits, new ApiDocument(operations)), adapter, { bodyParser: false, logger: false, abortOnError: false });
  const fastify = adapter.getInstance() as unknown as FastifyInstance;
  acceptBodies(fastify);
  assemblePipeline(fastify, { admission: new Admission(messages, clock, limits, environments), idempotency: new Idempotency(messages), metrics, operations });
  const problems = new ProblemFilter(
    (error, request) => log.error({ err: error, requestId: request.id, method: request.method, route: request.routeOptions.url }, 'request failed'),
    (code) => metrics.decision(code),
  );
  app.useGlobalFilters(problems);
  serveValidation(fastify, messages, limits, problems, lastKnown && { last: lastKnown, stored: new StoredVerdicts(messages, metrics, lastKnown) });
  serveDocs(fastify);
  fastify.addHook('preClose', async () => {
    // From here on each answer ends its connection, so that nobody sends a request on one that is about to be closed.
    health.add('ready', 'stop', () => {
      throw new Error('This process is about to stop');
    });
    await sleep(config.stopDelayMs);
    app.get(LicenseStreams).close();
    app.get(JobStreams).close();
    setTimeout(() => fastify.server.closeAllConnections(), drainLimitMs).unref();
  });
  await app.init();
  return app;
}

const askAgainAfterMs = 200;

/** Environments are created at the first start and never again, so asking once is enough; it may take a while until access answers. */
async function environmentNames(messages: MessageClient, clock: Clock, log: Log): Promise<ReadonlySet<string>> {
  const waiting = nowAndThen((error: Refusal) => log.warn(`Waiting for the access service to list the environments: ${error.message}`));
  for (;;) {
    try {
      const { data } = await runIn(systemContext('control', clock.now('control')), () => messages.send(ListEnvironments, {}));
      return new Set(data.map(({ name }) => name));
    } catch (error) {
      if (!isTransient(error)) throw error;
      waiting(error);
      await sleep(askAgainAfterMs);
    }
  }
}

const bodyLimit = 256 * 1024;
/**
 * Time for requests in flight to be answered when the server closes: a little more than most messages are given. To Node, a client that has sent
 * nothing or half a request is not idle, and its own limits no longer apply by then: such a client would keep the server open for ever.
 */
const drainLimitMs = 6_000;
/** Time for a whole request to arrive, and for its headers: a slower client holds a connection open for nothing. */
const slowest = { request: 60_000, headers: 15_000, checkedEvery: 5_000 };

function fastifyAdapter({ trustProxy }: GatewayConfig): FastifyAdapter {
  const adapter = new FastifyAdapter({
    bodyLimit, trustProxy, skipMiddie: true, return503OnClosing: false, requestIdHeader: false, genReqId: ({ headers }: IncomingMessage) => requestIdOf(headers), routerOptions: { maxParamLength: 16_384 },
    requestTimeout: slowest.request, http: { ServerResponse: TogetherResponse, headersTimeout: slowest.headers, connectionsCheckingInterval: slowest.checkedEvery, requireHostHeader: false },
    schemaErrorFormatter: validationRefusal, frameworkErrors: refuseUrl, clientErrorHandler: refuseBytes,
  });
  adapter.getInstance().setValidatorCompiler(validatorCompiler());
  return adapter;
}
