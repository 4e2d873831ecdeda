import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import fastifyStatic from '@fastify/static';
import { errors } from '@keyledger/kernel';
import type { FastifyInstance } from 'fastify';
import { openApi } from './openapi.ts';
import type { Operation } from './operation.ts';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };

/** Made at the first request: most processes are never asked. */
export class ApiDocument {
  #json: object | undefined;

  constructor(readonly operations: readonly Operation[]) {}

  json(): object {
    return (this.#json ??= openApi(this.operations, version));
  }
}

const policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

const page = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Keyledger API</title><link rel="stylesheet" href="/docs/assets/swagger-ui.css"><link rel="icon" href="data:,"></head>
<body><div id="swagger-ui"></div><script src="/docs/assets/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>
`;
const start = "SwaggerUIBundle({ url: '/openapi.json', dom_id: '#swagger-ui', deepLinking: true, validatorUrl: null });\n";

const errorsPage = () => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Keyledger errors</title></head><body><h1>Errors</h1><table><thead><tr><th>Code</th><th>Status</th><th>Meaning</th></tr></thead><tbody>
${Object.entries(errors).map(([code, { status, title }]) => `<tr id="${code}"><td><code>${code}</code></td><td>${status}</td><td>${title}</td></tr>`).join('\n')}
</tbody></table></body></html>
`;

/** `/docs`, from our own origin: nothing is fetched from anywhere else. */
export async function serveDocs(fastify: FastifyInstance): Promise<void> {
  const assets = createRequire(import.meta.url).resolve('swagger-ui-dist/package.json');
  await fastify.register(fastifyStatic, { root: join(assets, '..'), prefix: '/docs/assets/', index: false, decorateReply: false, allowedPath: (path) => /^\/swagger-ui(-bundle)?\.(css|js)$/.test(path) });
  const html = (body: () => string) => (_request: unknown, reply: { header(name: string, value: string): { header(name: string, value: string): { send(body: string): unknown } } }) =>
    reply.header('Content-Type', 'text/html; charset=utf-8').header('Content-Security-Policy', policy).send(body());
  fastify.get('/docs', html(() => page));
  fastify.get('/docs/errors', html(errorsPage));
  fastify.get('/docs/start.js', (_request, reply) => reply.header('Content-Type', 'text/javascript; charset=utf-8').send(start));
}
