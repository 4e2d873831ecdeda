import { once } from 'node:events';
import type { RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Clock, Fetch } from '@keyledger/sdk';
import { machineFingerprint, nodeClock } from '@keyledger/sdk/node';
import { Agent } from './agent.ts';
import type { AgentConfig } from './config.ts';
import { fingerprintIn, keptSecret } from './data-dir.ts';
import type { Logger } from './open-license.ts';
import { handlerOf } from './server.ts';

// An import of it would cost every start 40 ms (tools/house-rules.mjs).
const { createServer } = process.getBuiltinModule('node:http');

export interface RunningAgent {
  readonly url: string;
  readonly token: string;
  /** The token was made just now: the operator does not know it yet. */
  readonly isNewToken: boolean;
  close(): Promise<void>;
}

/** Tests bring a clock and a machine of their own. */
export interface Surroundings {
  readonly clock?: Clock;
  readonly fingerprint?: string;
  readonly fetch?: Fetch;
  readonly log: Logger;
}

/** Resolves when the agent is ready. */
export async function startAgent(config: AgentConfig, { clock = nodeClock(), fingerprint, fetch, log }: Surroundings): Promise<RunningAgent> {
  const { value: token, isNew: isNewToken } = config.token === undefined ? await keptSecret(config.dataDir, 'token') : { value: config.token, isNew: false };
  const machine = fingerprint ?? (await machineFingerprint({ override: config.machineId })) ?? (await fingerprintIn(config.dataDir));
  // First, so that a second agent ends here, before it touches what the first one has.
  const server = config.tls ? createTlsServer({ ...config.tls, minVersion: 'TLSv1.2' }) : createServer();
  const early: RequestListener = (_request, response) => void response.writeHead(503, { 'retry-after': '1' }).end();
  server.on('request', early).listen(config.port, config.host);
  await once(server, 'listening');
  const agent = await Agent.open({ config, fingerprint: machine, clock, log, fetch: fetch ?? (await fetchThrough(config.proxy)) }).catch((error: unknown) => {
    server.close();
    throw error;
  });
  server.off('request', early).on('request', handlerOf({ agent, token, viewerToken: config.viewerToken, page: config, failed: (error, path) => log.warn({ err: error, path }, 'a request failed') }));
  agent.start();
  const { address, port, family } = server.address() as AddressInfo;
  return {
    url: `${config.tls ? 'https' : 'http'}://${family === 'IPv6' ? `[${address}]` : address}:${port}`, token, isNewToken,
    close: async () => {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
      await agent.close();
    },
  };
}

/** Loads undici only if there is a proxy. */
async function fetchThrough(proxy: AgentConfig['proxy']): Promise<Fetch> {
  if (!proxy) return (url, init) => fetch(url, init);
  const { EnvHttpProxyAgent, fetch: fetchBy } = await import('undici');
  const dispatcher = new EnvHttpProxyAgent({ httpProxy: proxy.url, httpsProxy: proxy.url, noProxy: proxy.except });
  return (url, init) => fetchBy(url, { ...(init as object), dispatcher }) as unknown as Promise<Response>;
}
