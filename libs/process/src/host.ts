import type { DynamicModule, INestApplicationContext, Provider } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Clock, systemClock } from '@keyledger/kernel';
import { MessageClient, serveMessages, type Transport } from '@keyledger/messaging';
import { createLog, Health, Log, Metrics, startTracing } from '@keyledger/observability';
import type { ProcessConfig } from './config.ts';

/** For work that only waits: aborted as soon as the process is to end, so that the end is not delayed. */
export class Stopping {
  readonly #controller = new AbortController();

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  begin(): void {
    this.#controller.abort();
  }
}

/** What every process consists of, whatever runs in it. */
export interface Host {
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly health: Health;
  readonly messages: MessageClient;
  /** All of these under the tokens by which services inject them. */
  readonly providers: readonly Provider[];
  /** Starts a service in a container of its own; it answers its messages when this resolves. */
  start(queue: string, module: DynamicModule): Promise<INestApplicationContext>;
  /** Finishes the work in flight, then ends the services, the last started first. */
  close(): Promise<void>;
}

export async function openHost(service: string, { logLevel, tracing }: Pick<ProcessConfig, 'logLevel' | 'tracing'>, transport: Transport): Promise<Host> {
  const log = createLog({ level: logLevel, service });
  const traces = await startTracing({ service: service === 'standalone' ? 'keyledger' : `keyledger-${service}`, ...tracing });
  const clock = systemClock;
  const metrics = new Metrics(service);
  const messages = new MessageClient(transport);
  const stopping = new Stopping();
  const services: INestApplicationContext[] = [];
  return {
    clock, log, metrics, messages, health: new Health(),
    providers: [
      { provide: MessageClient, useValue: messages },
      { provide: Clock, useValue: clock },
      { provide: Metrics, useValue: metrics },
      { provide: Log, useValue: log },
      { provide: Stopping, useValue: stopping },
    ],
    async start(queue, module) {
      const app = await NestFactory.createApplicationContext(module, { logger: false, abortOnError: false });
      services.push(app);
      await serveMessages(app, transport, {
        // The stores may have replaced the process's own clock by one that knows each environment's time.
        queue, clock: app.get(Clock, { strict: false }),
        onError: (error, subject) => log.error({ err: error, subject }, 'message failed'),
        onHandled: (subject, outcome) => metrics.message(subject, outcome),
      });
      return app;
    },
    async close() {
      stopping.begin();
      await transport.close();
      for (const app of services.reverse()) await app.close();
      // Only those traces are lost; the stores must still be closed.
      await traces.stop().catch((error: unknown) => log.warn({ err: error }, 'the last traces could not be sent'));
    },
  };
}
