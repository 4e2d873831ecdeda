import { createLog, nowAndThen } from '@keyledger/observability';
import { processConfig } from './config.ts';
import { serveHealth } from './health-server.ts';
import { openHost, type Host } from './host.ts';
import { ENDS_WITHIN_MS, fail, runUntilStopped, say } from './run.ts';

/** A service as a process of its own: on NATS, with health and metrics; reports when it is ready. */
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
        // A service that cannot hear requests would only keep callers waiting.
        if (operation === 'subscription') fail(what);
        host?.log.error({ subject }, what);
      },
    });
    host = await openHost(name, config, transport);
    if (transport.tooLowALimit) host.log.warn(`The NATS server accepts messages of at most ${transport.tooLowALimit} bytes: long lists will fail. Set its max_payload to 8MB`);
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
  /** The address of its HTTP server, which also answers for its health; without one, a server for health alone is started. */
  readonly url?: string;
  door?: { readonly url: string; close(): Promise<void> };
  /** Accepts no more requests from outside; work in flight still needs the other services. */
  stopListening?(): Promise<void>;
  /** Called when no work is in flight any more. */
  close?(): Promise<void>;
}
