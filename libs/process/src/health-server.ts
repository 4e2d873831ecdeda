import type { ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { Health, Metrics } from '@keyledger/observability';

// An import of it would cost every start 40 ms (tools/house-rules.mjs).
const { createServer } = process.getBuiltinModule('node:http');

/** `GET /health/live`, `/health/ready` and `/metrics` of a process that has no other HTTP server. */
export async function serveHealth(health: Health, metrics: Metrics, { host, port }: { host: string; port: number }): Promise<{ url: string; close(): Promise<void> }> {
  const answers: Record<string, (response: ServerResponse) => Promise<void>> = {
    '/health/live': async (response) => json(response, await health.live()),
    '/health/ready': async (response) => json(response, await health.ready()),
    '/metrics': async (response) => void response.setHeader('Content-Type', metrics.contentType).end(await metrics.expose()),
  };
  const server = createServer((request, response) => {
    const answer = answers[request.url?.split('?', 1)[0] ?? ''];
    if (!answer) response.writeHead(404).end();
    else if (request.method !== 'GET') response.writeHead(405, { Allow: 'GET' }).end();
    else answer(response).catch(() => response.writeHead(500).end());
  });
  server.listen(port, host);
  await once(server, 'listening');
  const { port: actual } = server.address() as AddressInfo;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${actual}`,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function json(response: ServerResponse, answer: { status: string }): void {
  response.writeHead(answer.status === 'ok' ? 200 : 503, { 'Content-Type': 'application/json; charset=utf-8' }).end(JSON.stringify(answer));
}
