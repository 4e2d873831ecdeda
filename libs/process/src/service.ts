import { createLog, nowAndThen } from '@keyledger/observability';
import { processConfig } from './config.ts';
import { serveHealth } from './health-server.ts';
import { openHost, type Host } from './host.ts';
import { ENDS_WITHIN_MS, fail, runUntilStopped, say } from './run.ts';

/** A part of the product as a process of its own: on NATS, with health and metrics; says when it is ready. */
export function runService(name: string, begin: (host: Host) => Promise<Part>): Promise<void> {
  return runUntilStopped(name, async () => {
    const config = processConfig();
    if (!config.natsUrl) throw new Error('NATS_URL is not set. Without NATS, run everything in one process: npm start');
    const { NatsTransport } = await import('@keyledger/messaging/nats');
    const log = createLog({ level: config.logLevel, service: name });
    let host: Host | undefined;
    const transport = await NatsTransport.connect({
      url: config.natsUrl, name,
      onStatus: (status) => {
        if (status === 'refused') fail(`${name} is refused by the NATS server, and ends: it can be let in when it is started again`);
        host?.log[status === 'connected' ? 'info' : 'warn'](`NATS ${status}`);
      },
      onWaiting: nowAndThen((hosts, error) => log.warn(`${name} waits for NATS at ${hosts}: ${error instanceof Error ? error.message : String(error)}`)),
      onDenied: (operation, subject) => {
        const what = `The NATS server does not let ${name} ${operation === 'publish' ? 'send to' : 'listen on'} ${subject}`;
        // Deaf, it would only keep others waiting.
        if (operation === 'subscription') fail(what);
        host?.log.error({ subject }, what);
      },
    });
    host = await openHost(name, config, transport);
    if (transport.tooLowALimit) host.log.warn(`The NATS server takes messages of ${transport.tooLowALimit} bytes at most: long lists will fail. Set its max_payload to 8MB`);
    host.health.add('ready', 'NATS', () => {
      if (!transport.isConnected) throw new Error('The NATS server does not answer');
    });
    const part = await begin(host);
    const url = part.url ?? (part.door = await serveHealth(host.health, host.metrics, config)).url;
    say(`${name} is ready at ${url}, ${process.uptime().toFixed(1)} s after its start`);
    return {
      async close() {
        await part.stopListening?.();
        await host.close();
        await part.close?.();
        await part.door?.close();
      },
    };
  }, ENDS_WITHIN_MS);
}

/** What the process was started for. */
export interface Part {
  /** Where it answers requests and for its own health; without it there is a door for health alone. */
  readonly url?: string;
  door?: { readonly url: string; close(): Promise<void> };
  /** Takes no more from outside; what is under way still needs the other services. */
  stopListening?(): Promise<void>;
  /** When nothing is under way any more. */
  close?(): Promise<void>;
}
