import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { NextChanges } from '@keyledger/contracts';
import { refuse, runIn, systemContext } from '@keyledger/kernel';
import { Conformance } from './conformance.contract.ts';
import { gatewayWithFakes, refusing, sampleId, sampleOf, type FakedGateway } from './fakes.contract.ts';
import { LicenseStreams } from './license-streams.ts';

const path = `/licenses/${sampleId('lic')}`;
const key = '7XXC90C-V60HD1W-Z53PM9S-T96AD8S';
const beat = { activationId: sampleId('act'), fingerprint: 'fp', seq: 1 };
const byKey = (licenseKey = key) => ({ as: '', headers: { authorization: `License ${licenseKey}` } });

let gateway: FakedGateway;
/** What activation answers when nothing happens: nothing, until the test is over. */
let silence: PromiseWithResolvers<object>;
beforeEach(async () => {
  silence = Promise.withResolvers();
  gateway = await gatewayWithFakes();
});
afterEach(async () => {
  silence.resolve({ ...(sampleOf(NextChanges.answer) as object), ended: true });
  await gateway.close();
});

describe('A license key in Authorization', () => {
  it('goes along with what the box says, and nothing of a body can take its place', async () => {
    expect((await gateway.call('POST', `${path}/heartbeat`, { ...byKey(), body: beat })).status).toBe(200);
    expect(gateway.sent.filter(({ subject }) => subject !== 'environment.list')).toMatchObject([{ subject: 'activation.heartbeat', message: { ...beat, licenseId: sampleId('lic'), licenseKey: key }, context: { environment: 'production', actor: { type: 'client', permissions: [] } } }]);
    for (const field of ['licenseKey', 'licenseId']) expect((await gateway.call('POST', `${path}/heartbeat`, { ...byKey(), body: { ...beat, [field]: 'x' } })).json.code).toBe('VALIDATION_FAILED');
    await gateway.call('POST', `${path}/heartbeat`, { body: beat });
    expect(gateway.sent.at(-1)?.message).toEqual({ ...beat, licenseId: sampleId('lic') });
  });

  it('comes from a network that the gateway names, and no body', async () => {
    await gateway.call('POST', `${path}/activate`, { ...byKey(), body: { fingerprint: 'fp' }, address: '198.51.100.7' });
    expect(gateway.sent.at(-1)).toMatchObject({ subject: 'activation.activate-appliance', message: { fingerprint: 'fp', address: '198.51.100.7' } });
    expect((await gateway.call('POST', `${path}/activate`, { ...byKey(), body: { fingerprint: 'fp', address: '203.0.113.1' } })).json.code).toBe('VALIDATION_FAILED');
  });

  it.each(['License', 'License ', 'Licence ABC', `Basic ${key}`, key])('is none when it is %j', async (authorization) => {
    expect(await gateway.call('POST', `${path}/heartbeat`, { as: '', headers: { authorization }, body: beat })).toMatchObject({ status: 401, json: { code: 'UNAUTHENTICATED' }, headers: { 'www-authenticate': 'Bearer, License' } });
  });

  it('belongs to the environment that is chosen', async () => {
    const { headers } = byKey();
    await gateway.call('POST', `${path}/heartbeat`, { as: '', headers: { ...headers, 'x-environment': 'staging' }, body: beat });
    expect(gateway.sent.at(-1)?.context.environment).toBe('staging');
    expect(await gateway.call('POST', `${path}/heartbeat`, { as: '', headers: { ...headers, 'x-environment': 'nowhere' }, body: beat })).toMatchObject({ status: 404, json: { code: 'ENVIRONMENT_NOT_FOUND' } });
  });

  it('owns its Idempotency-Keys', async () => {
    const callers = [];
    for (const licenseKey of [key, 'ANOTHER-KEY', key]) {
      await gateway.call('POST', `${path}/heartbeat`, { as: '', headers: { authorization: `License ${licenseKey}`, 'idempotency-key': 'k' }, body: beat });
      callers.push(gateway.sent.findLast(({ subject }) => subject === 'access.claim-request')?.message['caller']);
    }
    expect(callers[0]).toBe(callers[2]);
    expect(callers[0]).not.toBe(callers[1]);
  });

  it('is one key to the limit, however it is spelled and whatever it is used for; and guessing shows', async () => {
    await gateway.close();
    gateway = await gatewayWithFakes({ 'activation.heartbeat': refusing('LICENSE_NOT_FOUND'), 'activation.activate-appliance': refusing('LICENSE_NOT_FOUND', undefined, { retired: true }) }, { perLicenseKey: 3, unknownKeysPerAddress: 4 });
    const send = (action: string, licenseKey: string, body: object) => gateway.call('POST', `${path}/${action}`, { ...byKey(licenseKey), body });
    for (const spelling of [key, key.toLowerCase(), key.replaceAll('-', '')]) expect((await send('activate', spelling, { fingerprint: 'fp' })).status).toBe(404);
    expect(await gateway.call('POST', '/license/validate', { as: '', body: { licenseKey: key } })).toMatchObject({ status: 429, headers: { 'ratelimit-policy': '"license-key";q=3;w=60' } });
    for (let n = 0; n < 4; n++) expect((await send('heartbeat', `GUESS-${n}`, beat)).status).toBe(404);
    expect(await send('heartbeat', 'GUESS-5', beat)).toMatchObject({ status: 429, headers: { 'ratelimit-policy': '"unknown-license-keys";q=4;w=60' } });
  });
});

/** What activation answers, one after the other; then it keeps silent. */
function changes(...answers: readonly (object | (() => never))[]) {
  const sample = { ...(sampleOf(NextChanges.answer) as object), status: 'active', code: 'VALID', enforcement: 'FULL', changes: [], ended: false };
  const asked: Record<string, unknown>[] = [];
  return {
    asked,
    fake: (message: Record<string, unknown>) => {
      asked.push(message);
      const answer = answers[asked.length - 1];
      if (!answer) return silence.promise;
      return typeof answer === 'function' ? answer() : { ...sample, ...answer };
    },
  };
}

async function listening(fake: (message: Record<string, unknown>) => unknown, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  gateway.fakes['activation.next-changes'] = fake;
  if (!gateway.app.getHttpServer().listening) await gateway.app.listen(0, '127.0.0.1');
  const request = get(`${await gateway.app.getUrl()}${path}/stream`, { headers: { authorization: `License ${key}`, ...headers } });
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return response.setEncoding('utf8');
}
const textOf = async (response: IncomingMessage): Promise<string> => {
  let text = '';
  for await (const chunk of response) text += chunk as string;
  return text;
};

describe('A stream', () => {
  const change = (seq: number) => ({ seq, type: 'LicenseSuspended', at: '2026-12-01T00:00:00.000Z' });

  it('tells where it begins, then each change, and that it is over', async () => {
    const { fake, asked } = changes({ seq: 4, after: 4 }, { seq: 6, after: 6, status: 'suspended', code: 'SUSPENDED', enforcement: 'LOCKED', changes: [change(5), change(6)] }, { after: 6, ended: true });
    const response = await listening(fake);
    expect(response.headers).toMatchObject({ 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'request-id': expect.any(String) });
    const told = JSON.stringify({ ...change(5), status: 'suspended', code: 'SUSPENDED', enforcement: 'LOCKED' });
    expect(await textOf(response)).toBe([
      'event: state\ndata: {"seq":4,"status":"active","code":"VALID","enforcement":"FULL"}\n\n',
      `id: 5\nevent: change\ndata: ${told}\n\n`, `id: 6\nevent: change\ndata: ${told.replace('"seq":5', '"seq":6')}\n\n`, ': all is as it was\n\n', 'event: end\ndata: {}\n\n',
    ].join(''));
    expect(asked.map(({ after }) => after)).toEqual([undefined, 4, 6]);
    expect(asked[1]).toMatchObject({ licenseId: sampleId('lic'), licenseKey: key, waitMs: expect.any(Number) });
  });

  it('goes on after the last event that the client has seen', async () => {
    const { fake, asked } = changes({ seq: 9, after: 9 }, { ended: true });
    await textOf(await listening(fake, { 'last-event-id': '3' }));
    expect(asked[1]).toMatchObject({ after: 3 });
    const other = changes({ seq: 9, after: 9 }, { ended: true });
    await textOf(await listening(other.fake, { 'last-event-id': 'nonsense' }));
    expect(other.asked[1]).toMatchObject({ after: 9 });
  });

  it('outlives that nobody can be asked for a while, and ends with what is refused for good', async () => {
    const { fake } = changes({ seq: 1, after: 1 }, refusing('UNAVAILABLE'), { after: 2, seq: 2, changes: [change(2)] }, refusing('INSTANCE_NOT_FOUND'));
    const text = await textOf(await listening(fake));
    expect(text).toMatch(/: nobody can be asked just now\n\nid: 2\n[^]*event: end/);
  });

  it('is refused like any other request before it begins', async () => {
    gateway.fakes['activation.next-changes'] = refusing('LICENSE_NOT_FOUND');
    expect(await gateway.call('GET', `${path}/stream`, byKey())).toMatchObject({ status: 404, json: { code: 'LICENSE_NOT_FOUND' } });
    expect(await gateway.call('GET', `${path}/stream?activationId=`, byKey())).toMatchObject({ status: 400 });
  });

  it('ends when the gateway does', async () => {
    const response = await listening(changes({ seq: 1, after: 1 }).fake);
    await once(response, 'data');
    await Promise.all([textOf(response), gateway.close()]);
  });

  it('is described as it is', async () => {
    const conformance = new Conformance((await gateway.call('GET', '/openapi.json')).json);
    const answer = await gateway.call('GET', `${path}/stream`, byKey());
    expect(conformance.faults('GET', `${path}/stream`, answer)).toEqual([]);
    expect(await gateway.call('HEAD', `${path}/stream`, byKey())).toMatchObject({ status: 200, text: '', headers: { 'content-type': 'text/event-stream' } });
  });
});

describe('Streams', () => {
  const open = (limits: object) => {
    const silent = { send: async (_: unknown, { after }: { after?: number }) => (after === undefined ? { seq: 1, after: 1, status: 'active', code: 'VALID', enforcement: 'FULL', changes: [], ended: false } : silence.promise) };
    const streams = new LicenseStreams(silent as never, limits);
    const listen = (n: number, ip: string) =>
      runIn(systemContext('production', '2026-12-01T00:00:00.000Z'), () => streams.open({ licenseId: sampleId('lic').replace(/1$/, String(n)) as never }, undefined, { ip, method: 'GET' }));
    return { streams, listen };
  };

  it('are so many to a license, to an address and in all; who leaves makes room', async () => {
    const { streams, listen } = open({ perLicense: 2, perAddress: 3, inAll: 5 });
    const [a, b, c, d, e] = ['2001:db8::1', '10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.5'] as const;
    const [first] = [await listen(1, a), await listen(1, b)];
    await expect(listen(1, c)).rejects.toMatchObject({ code: 'RATE_LIMITED' });
    for (const n of [2, 3]) await listen(n, a);
    // One address of its own for each stream would be no limit: a /64 is one.
    for (const own of [a, '2001:db8::2']) await expect(listen(4, own)).rejects.toMatchObject({ code: 'RATE_LIMITED' });
    await listen(4, d);
    await expect(listen(5, e)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    first?.destroy();
    await once(first as never, 'close');
    expect(streams.size).toBe(4);
    await listen(1, a);
    streams.close();
    await expect(listen(6, e)).rejects.toEqual(refuse('UNAVAILABLE'));
  });

  it('are open for a while and not for ever', async () => {
    const { listen } = open({ openForMs: 0 });
    const stream = await listen(1, '10.0.0.1');
    let text = '';
    for await (const chunk of stream) text += String(chunk);
    expect(text).toMatch(/^event: state\n[^\n]+\n\n$/);
  });
});
