import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from '@jest/globals';
import { Product } from '@keyledger/testing/process';

/** Each takes time at every start and memory for as long as the product runs. */
const onlyForOthers = ['@eventstore/db-client', '@grpc/grpc-js', '@mikro-orm/postgresql', '@nats-io/transport-node', '@opentelemetry/sdk-trace', 'nodemailer', 'pg', 'undici'];

it('one process on files loads nothing of what only servers, mail, webhooks and traces need', async () => {
  const product = await Product.start({ NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(hook)}` }, 'standalone');
  const loaded = readFileSync(join(product.dataDir, 'loaded'), 'utf8');
  await product.stop();
  // Each file says of which modules it was made.
  const modules = loaded.split('\n').filter((url) => url.startsWith('file:')).flatMap((url) => [url, ...(readFileSync(fileURLToPath(url), 'utf8').match(/^\/\/ node_modules\/.*$/gm) ?? [])]);
  const packages = new Set(modules.map((module) => /.*node_modules\/((@[^/]+\/)?[^/]+)/.exec(module)?.[1]));
  expect([...packages]).toContain('fastify');
  expect(onlyForOthers.filter((name) => packages.has(name))).toEqual([]);
}, 60_000);

const hook = `import { appendFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
registerHooks({ load(url, context, next) { appendFileSync(process.env.KEYLEDGER_DATA_DIR + '/loaded', url + '\\n'); return next(url, context); } });`;
