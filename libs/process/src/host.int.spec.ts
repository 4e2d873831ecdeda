import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, it } from '@jest/globals';
import { InProcessTransport } from '@keyledger/messaging';
import { traced } from '@keyledger/observability';
import { openHost } from './host.ts';

it('A process ends in order when its last traces cannot be sent', async () => {
  const asked: (string | undefined)[] = [];
  const collector = createServer(({ url }, response) => void (asked.push(url), response.writeHead(400, { connection: 'close' }).end())).listen(0, '127.0.0.1');
  await once(collector, 'listening');
  const tracing = { endpoint: `http://127.0.0.1:${(collector.address() as AddressInfo).port}`, disabled: false, sampleRatio: 1 };
  const host = await openHost('test', { logLevel: 'silent', tracing }, new InProcessTransport());
  traced('something', {}, () => undefined);
  await host.close();
  expect(asked).toEqual(['/v1/traces']);
  collector.close();
});
