import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { errors } from '@keyledger/kernel';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { openApi } from './openapi.ts';
import type { Operation } from './operation.ts';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };

/** Built at the first request, because most processes never get one; and serialised once, because that takes longer than any other public route. */
export class ApiDocument {
  #json: Buffer | undefined;

  constructor(readonly operations: readonly Operation[]) {}

  json(): Buffer {
    return (this.#json ??= Buffer.from(JSON.stringify(openApi(this.operations, version))));
  }
}

const policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const page = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Keyledger API</title><link rel="stylesheet" href="/docs/assets/swagger-ui.css"><link rel="icon" href="data:,"></head>
<body><div id="swagger-ui"></div><script src="/docs/assets/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>
`;
const start = "SwaggerUIBundle({ url: '/openapi.json', dom_id: '#swagger-ui', deepLinking: true, showExtensions: true, validatorUrl: null });\n";

const errorsPage = () => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Keyledger errors</title></head><body><h1>Errors</h1><table><thead><tr><th>Code</th><th>Status</th><th>Meaning</th></tr></thead><tbody>
${Object.entries(errors).map(([code, { status, title }]) => `<tr id="${code}"><td><code>${code}</code></td><td>${status}</td><td>${title}</td></tr>`).join('\n')}
</tbody></table></body></html>
`;

/** `/docs`, from the server's own origin: nothing is fetched from anywhere else. */
export function serveDocs(fastify: FastifyInstance): void {
  fastify.get('/docs', (_request, reply) => text(reply, 'html', page));
  fastify.get('/docs/errors', (_request, reply) => text(reply, 'html', errorsPage()));
  fastify.get('/docs/start.js', (_request, reply) => text(reply, 'javascript', start));
  const { resolve } = createRequire(import.meta.url);
  for (const [file, type] of [['swagger-ui.css', 'css'], ['swagger-ui-bundle.js', 'javascript']] as const) {
    const path = resolve(`swagger-ui-dist/${file}`);
    fastify.get(`/docs/assets/${file}`, async (_request, reply) => text(reply.header('Cache-Control', 'max-age=3600'), type, await readFile(path)));
  }
}

const text = (reply: FastifyReply, type: 'html' | 'javascript' | 'css', body: string | Buffer) =>
  reply.headers({ 'Content-Type': `text/${type}; charset=utf-8`, 'Content-Security-Policy': policy, 'X-Content-Type-Options': 'nosniff' }).send(body);
