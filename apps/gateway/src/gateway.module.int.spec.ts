import { once } from 'node:events';
import { connect, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, jest } from '@jest/globals';
import { ListEnvironments } from '@keyledger/contracts';
import { systemClock } from '@keyledger/kernel';
import { handlerOf, InProcessTransport, MessageClient } from '@keyledger/messaging';
import { createLog, Health, Metrics } from '@keyledger/observability';
import { until } from '@keyledger/testing';
import { gatewayWithFakes, sampleId } from './fakes.contract.ts';
import { createGateway } from './gateway.module.ts';

it('A gateway waits for access, and says so, but not at every try', async () => {
  const said: string[] = [];
  const transport = new InProcessTransport();
  const starting = createGateway({
    messages: new MessageClient(transport), clock: systemClock, metrics: new Metrics('test', { processMetrics: false }), health: new Health(),
    log: createLog({ level: 'warn', service: 'test', destination: { write: (line) => void said.push(line) } }),
    config: { host: '127.0.0.1', port: 0, stopDelayMs: 0, trustProxy: false, rateLimits: { perLicenseKey: 0, unknownKeysPerAddress: 0, perApiKey: 0 } },
  });
  await until(() => said.length > 0);
  await sleep(500);
  transport.serve('environment.list', 'access', handlerOf(ListEnvironments, () => ({ data: [] }) as never, { clock: systemClock, onError: () => undefined }));
  await (await starting).close();
  expect(said).toEqual([expect.stringContaining('Waiting for the access service to list the environments: No service answers environment.list at the moment')]);
});

it('A gateway that is to close answers what is under way, and does not wait for whoever has sent nothing, half a head or half a body', async () => {
  const gateway = await gatewayWithFakes();
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<object>();
  gateway.fakes['environment.list'] = () => (asked.resolve(), answer.promise);
  await gateway.app.listen(0, '127.0.0.1');
  const server = gateway.app.getHttpServer();
  const send = async (text: string) => {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1').setEncoding('utf8').on('error', () => undefined);
    await once(socket, 'connect');
    socket.write(text);
    return socket;
  };
  const head = 'Host: here\r\nAuthorization: Bearer super_admin@root\r\n';
  for (const part of ['', `GET /environments HTTP/1.1\r\n${head}X-Half`, `POST /products HTTP/1.1\r\n${head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"na`]) await send(part);
  const underWay = await send(`GET /environments HTTP/1.1\r\n${head}\r\n`);
  await asked.promise;

  const closed = gateway.close().then(() => 'closed');
  setTimeout(answer.resolve, 1_000, { data: [] });
  expect((await once(underWay, 'data'))[0]).toMatch(/^HTTP\/1\.1 200 /);
  expect(await Promise.race([closed, sleep(10_000, 'waiting', { ref: false })])).toBe('closed');
}, 20_000);

it('A gateway that is to stop answers on for a while, says that it is not ready, and ends each connection with an answer', async () => {
  const gateway = await gatewayWithFakes({}, {}, false, 1_500);
  await gateway.app.listen(0, '127.0.0.1');
  const url = `http://127.0.0.1:${(gateway.app.getHttpServer().address() as AddressInfo).port}`;
  const get = async (path: string) => {
    const { status, headers } = await fetch(url + path, { headers: { authorization: 'Bearer super_admin@root' } });
    return [status, headers.get('connection')];
  };
  expect([await get('/health/ready'), await get('/environments')]).toEqual([[200, 'keep-alive'], [200, 'keep-alive']]);
  const closed = gateway.close();
  await until(async () => (await get('/health/ready'))[0] === 503);
  expect([await get('/health/ready'), await get('/environments')]).toEqual([[503, 'close'], [200, 'close']]);
  await closed;
  await expect(get('/environments')).rejects.toThrow('fetch failed');
});

it('A gateway that is to close answers a request whose head it has half of already', async () => {
  const gateway = await gatewayWithFakes();
  await gateway.app.listen(0, '127.0.0.1');
  const socket = connect((gateway.app.getHttpServer().address() as AddressInfo).port, '127.0.0.1').setEncoding('utf8');
  socket.write('GET /environments HTTP/1.1\r\nHost: here\r\n');
  await until(async () => new Promise<number>((resolve) => gateway.app.getHttpServer().getConnections((_: unknown, count: number) => resolve(count))), (count) => count === 1);
  const closed = gateway.close();
  socket.write('Authorization: Bearer super_admin@root\r\n\r\n');
  const [answer] = await once(socket, 'data');
  expect(answer).toMatch(/^HTTP\/1\.1 200 OK\r\n(.+\r\n)*connection: close\r\n/i);
  await closed;
});

it('A gateway waits for an erasure as long as a large file takes to be written anew', async () => {
  const [asked, erased] = [Promise.withResolvers<void>(), Promise.withResolvers<null>()];
  const gateway = await gatewayWithFakes({ 'license.erase': () => (asked.resolve(), erased.promise) });
  jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick'] });
  try {
    const answer = gateway.call('DELETE', `/licenses/${sampleId('lic')}`, { body: { reason: 'asked for' } });
    await asked.promise;
    jest.advanceTimersByTime(59_000);
    erased.resolve(null);
    expect((await answer).status).toBe(204);
  } finally {
    jest.useRealTimers();
    await gateway.close();
  }
});
