import { connect, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { errors, refuse, type ErrorCode } from '@keyledger/kernel';
import { gatewayConfig } from './config.ts';
import { Conformance } from './conformance.contract.ts';
import { gatewayWithFakes, refusing, sampleId, type Call, type FakedGateway } from './fakes.contract.ts';
import { refuseBytes } from './problems.ts';

let gateway: FakedGateway;
let conformance: Conformance;
beforeAll(async () => {
  gateway = await gatewayWithFakes();
  conformance = new Conformance((await gateway.call('GET', '/openapi.json')).json);
});
afterAll(() => gateway.close());
afterEach(() => {
  gateway.sent.length = 0;
  gateway.bugs.length = 0;
});

async function call(method: string, url: string, ask?: Call) {
  const answer = await gateway.call(method, url, ask);
  expect(conformance.faults(method, url, answer)).toEqual([]);
  return answer;
}
async function refused(code: ErrorCode, method: string, url: string, ask?: Call) {
  const answer = await call(method, url, ask);
  expect({ url, code: answer.json.code, status: answer.status }).toEqual({ url, code, status: errors[code].status });
  return answer;
}
const license = `/licenses/${sampleId('lic')}`;
const errorsOf = async (method: string, url: string, ask?: Call) => (await refused('VALIDATION_FAILED', method, url, ask)).json['errors'] as unknown as { pointer: string; detail: string; in?: string }[];

describe('A body', () => {
  it('is refused with one entry for each field that is wrong', async () => {
    const body = { name: 1, email: 'no', 'a/b~c': 1, metadata: [] };
    expect(await errorsOf('POST', '/customers', { body })).toEqual([
      { pointer: '/a~1b~0c', detail: 'is not a known field' }, { pointer: '/name', detail: 'must be string' }, { pointer: '/email', detail: 'must match format "email"' }, { pointer: '/metadata', detail: 'must be object' },
    ]);
    expect(await errorsOf('POST', '/customers', { body: {} })).toEqual([{ pointer: '/name', detail: 'is required' }, { pointer: '/email', detail: 'is required' }]);
    expect(await errorsOf('POST', '/orders', { body: { planId: 'x', customer: { name: 'Ada', mail: 'x' } } })).toEqual(expect.arrayContaining([
      { pointer: '/planId', detail: expect.stringMatching('must match pattern') }, { pointer: '/customer/email', detail: 'is required' }, { pointer: '/customer/mail', detail: 'is not a known field' },
    ]));
  });

  it('says of alternatives what would do, or what is wrong inside', async () => {
    const plan = `/products/${sampleId('prd')}/plans`;
    const faults = (licensing: object) => errorsOf('POST', plan, { body: { name: 'Pro', licensing: { enabled: true, ...licensing } } });
    expect(await faults({ expiry: 5 })).toEqual([{ pointer: '/licensing/expiry', detail: 'must be object or must be null' }]);
    expect(await faults({ expiry: { value: 0, unit: 'weeks' } })).toEqual([
      { pointer: '/licensing/expiry/value', detail: 'must be >= 1' }, { pointer: '/licensing/expiry/unit', detail: 'must be one of days, months, years' },
    ]);
    expect(await faults({ features: { x: 'yes' } })).toEqual([{ pointer: '/licensing/features/x', detail: expect.stringMatching('must be true or must be number or must be object') }]);
  });

  it('may not be there where nothing is to be said, and says nothing there', async () => {
    expect((await call('POST', `/products/${sampleId('prd')}/archive`)).status).toBe(200);
    expect((await call('POST', `${license}/revoke`)).status).toBe(200);
    expect((await call('POST', `${license}/revoke`, { body: '' })).status).toBe(200);
    expect(await errorsOf('POST', `/products/${sampleId('prd')}/archive`, { body: { now: true } })).toEqual([{ pointer: '/now', detail: 'is not a known field' }]);
    for (const body of ['null', '[]', '1', '"x"']) expect(await errorsOf('POST', `${license}/revoke`, { body })).toEqual([{ pointer: '', detail: 'must be object' }]);
    expect(await errorsOf('POST', '/products')).toEqual([{ pointer: '', detail: 'must be object' }]);
  });

  it('is JSON in UTF-8, as it is', async () => {
    for (const body of ['{', '{"a":}', '{"name":"x"} x', '\ufeff{"name":"x"}', ' ', "{'name':'x'}"]) await refused('MALFORMED_JSON', 'POST', '/products', { body });
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/json; charset=utf-16', 'application/json; charset=latin1', 'application/jsonx', 'json']) {
      await refused('UNSUPPORTED_MEDIA_TYPE', 'POST', '/products', { body: '{"name":"x"}', headers: { 'content-type': type } });
    }
    for (const type of ['application/json', 'application/json; charset=utf-8', 'Application/JSON;charset="UTF-8"', 'application/json; profile=x']) {
      expect((await call('POST', '/products', { body: '{"name":"x"}', headers: { 'content-type': type } })).status).toBe(201);
    }
    for (const encoding of ['gzip', 'br', 'deflate', 'x']) await refused('UNSUPPORTED_MEDIA_TYPE', 'POST', '/products', { body: '{"name":"x"}', headers: { 'content-encoding': encoding } });
    await refused('BODY_TOO_LARGE', 'POST', '/products', { body: `{"name":"${'x'.repeat(256 * 1024)}"}` });
    expect((await call('POST', '/products', { body: `{"name":"x","metadata":{"a":"${'x'.repeat(256 * 1024 - 40)}"}}` })).status).toBe(201);
  });

  it('holds nothing that could not be kept as it is', async () => {
    const at = async (metadata: string) => errorsOf('POST', '/products', { body: `{"name":"x","metadata":${metadata}}` });
    expect(await at('{"a":{"__proto__":1}}')).toEqual([{ pointer: '/metadata/a/__proto__', detail: 'is no name for a field' }]);
    expect(await at('{"\\u005f\\u005fproto__":1}')).toEqual([{ pointer: '/metadata/__proto__', detail: 'is no name for a field' }]);
    expect(await at('{"a":["\\u0000"]}')).toEqual([{ pointer: '/metadata/a/0', detail: 'contains NUL' }]);
    expect(await at('{"\\ud800":1}')).toMatchObject([{ detail: 'contains half of a surrogate pair' }]);
    expect(await at('{"a":1e400}')).toEqual([{ pointer: '/metadata/a', detail: 'is too large a number' }]);
    expect(await at(`{"a":${'9'.repeat(400)}}`)).toMatchObject([{ pointer: '/metadata/a' }]);
    const nested = (depth: number) => '{"a":'.repeat(depth) + '1' + '}'.repeat(depth);
    expect(await at(nested(32))).toMatchObject([{ detail: 'is nested deeper than 32 levels' }]);
    expect(await at(nested(10_000))).toMatchObject([{ detail: 'is nested deeper than 32 levels' }]);
    for (const kept of [nested(31), '{"constructor":{"prototype":1}}', '{"toString":1,"é🔑":"\\ud83d\\udd11","big":1e300}']) {
      expect((await call('POST', '/products', { body: `{"name":"x","metadata":${kept}}` })).status).toBe(201);
      expect(gateway.sent.at(-1)?.message['metadata']).toEqual(JSON.parse(kept));
    }
  });

  it('cannot name what comes from the path or from the server', async () => {
    for (const field of ['licenseId', 'type', 'actor', 'commandId']) expect(await errorsOf('POST', `${license}/suspend`, { body: { [field]: 'x' } })).toEqual([{ pointer: `/${field}`, detail: 'is not a known field' }]);
  });

  it('is answered shortly, however much is wrong with it', async () => {
    const body = JSON.stringify(Object.fromEntries(Array.from({ length: 20_000 }, (_, n) => [`k${n}`, 0])));
    const begun = performance.now();
    expect(await errorsOf('POST', '/license/validate', { body })).toHaveLength(100);
    expect(performance.now() - begun).toBeLessThan(1000);
    const [{ pointer } = { pointer: '' }] = await errorsOf('POST', '/products', { body: { name: 'x', ['y'.repeat(100_000)]: 1 } });
    expect(pointer.length).toBeLessThan(300);
  });
});

describe('A query', () => {
  it('is text, and says what is wrong with it', async () => {
    expect((await call('GET', '/licenses?limit=5&status=active&q=a%20b')).status).toBe(200);
    expect(gateway.sent.at(-1)?.message).toEqual({ limit: 5, status: ['active'], q: 'a b' });
    await call('GET', '/licenses?status=active&status=expired');
    expect(gateway.sent.at(-1)?.message).toEqual({ status: ['active', 'expired'] });
    expect(await errorsOf('GET', '/licenses?limit=101&sort=x&who=me')).toEqual([
      { in: 'query', pointer: '/who', detail: 'is not a known field' }, { in: 'query', pointer: '/sort', detail: expect.stringMatching(/^must be one of key, /) }, { in: 'query', pointer: '/limit', detail: 'must be <= 100' },
    ]);
    for (const query of ['limit=0', 'limit=', 'limit=1.5', 'limit=1&limit=2', '__proto__=1', 'constructor=1', 'q[]=1', 'status=', 'productId=x', 'createdAfter=yesterday']) await refused('VALIDATION_FAILED', 'GET', `/licenses?${query}`);
  });

  it('that an operation does not know is refused by all of them, and nothing is done', async () => {
    const places: [method: string, url: string, body?: object][] = [
      ['DELETE', license, { reason: 'x' }], ['POST', `${license}/revoke`], ['GET', license], ['HEAD', license], ['GET', `/jobs/${sampleId('job')}/events`], ['POST', '/license/validate', { licenseKey: 'x' }],
      ['POST', '/license/deactivate', { licenseKey: 'x', instanceId: sampleId('act') }], ['GET', '/.well-known/jwks.json'],
    ];
    for (const [method, url, body] of places) {
      const { status, json } = await call(method, `${url}?dryRun=true`, { body });
      expect({ method, url, status, ...(method !== 'HEAD' && { errors: json['errors'] }) }).toEqual({ method, url, status: 400, ...(method !== 'HEAD' && { errors: [{ in: 'query', pointer: '/dryRun', detail: 'is not a known field' }] }) });
    }
    expect(gateway.sent.filter(({ subject }) => subject !== 'access.authenticate')).toEqual([]);
  });

  it('is nothing to a probe, to Prometheus and to a page', async () => {
    for (const url of ['/health/live', '/health/ready', '/metrics', '/openapi.json', '/docs', '/docs/errors']) expect({ url, status: (await gateway.call('GET', `${url}?t=1`, { as: '' })).status }).toEqual({ url, status: 200 });
  });
});

describe('The environment', () => {
  it.each([
    ['super_admin@root', undefined, 'production'], ['super_admin@root', 'staging', 'staging'], ['viewer@staging', undefined, 'staging'], ['viewer@staging', 'staging', 'staging'],
  ])('of %s with X-Environment %s is %s', async (as, chosen, environment) => {
    await call('GET', license, { as, headers: chosen ? { 'x-environment': chosen } : {} });
    expect(gateway.sent.at(-1)?.context.environment).toBe(environment);
  });

  it('of the client license API is chosen by the header', async () => {
    for (const [headers, environment] of [[{}, 'production'], [{ 'x-environment': 'staging' }, 'staging']] as const) {
      await call('POST', '/license/validate', { as: '', body: { licenseKey: 'x' }, headers });
      expect(gateway.sent.at(-1)?.context).toMatchObject({ environment, actor: { type: 'client', permissions: [] } });
    }
  });

  it('must be one that there is, and the key\'s own', async () => {
    for (const name of ['nowhere', 'control', 'PRODUCTION', ' ', 'production,staging', '__proto__']) {
      await refused('ENVIRONMENT_NOT_FOUND', 'GET', license, { headers: { 'x-environment': name } });
      await refused('ENVIRONMENT_NOT_FOUND', 'POST', '/license/validate', { as: '', body: { licenseKey: 'x' }, headers: { 'x-environment': name } });
    }
    await refused('ENVIRONMENT_FORBIDDEN', 'GET', license, { as: 'viewer@staging', headers: { 'x-environment': 'production' } });
    expect(gateway.sent.filter(({ subject }) => subject !== 'access.authenticate')).toEqual([]);
    expect((await call('GET', '/health/live', { headers: { 'x-environment': 'nowhere' } })).status).toBe(200);
  });
});

describe('Authorization', () => {
  it.each(['Bearer viewer@staging', 'bearer viewer@staging', 'BEARER   viewer@staging', 'Bearer viewer@staging  '])('may be written %j', async (authorization) => {
    expect((await call('GET', license, { as: '', headers: { authorization } })).status).toBe(200);
  });

  it.each(['', 'Bearer', 'Bearer ', 'viewer@staging', 'Basic dmlld2VyQHN0YWdpbmc=', 'Bearer wrong', 'Bearer viewer@staging x', 'Bearerviewer@staging', 'License viewer@staging', 'Bearer viewer@staging, Bearer viewer@staging'])('is none when it is %j', async (authorization) => {
    const { headers } = await refused('UNAUTHENTICATED', 'GET', license, { as: '', headers: { authorization } });
    expect(headers['www-authenticate']).toBe('Bearer');
  });

  it('costs no more than its length to be read', async () => {
    const authorization = `License x${' '.repeat(15_000)}x`;
    const start = process.cpuUsage().user;
    for (let time = 0; time < 200; time++) await gateway.call('GET', `${license}/stream`, { as: '', headers: { authorization } });
    expect((process.cpuUsage().user - start) / 1000).toBeLessThan(1000);
  });

  it('comes before everything else, so that a stranger learns nothing', async () => {
    for (const [method, url, body] of [['GET', license, undefined], ['GET', '/licenses?limit=x', undefined], ['POST', '/products', '{'], ['POST', '/products', 'x'.repeat(300_000)], ['PATCH', '/licenses/x', '{}']] as const) {
      await refused('UNAUTHENTICATED', method, url, { as: '', body });
    }
  });

  it('is asked for anew with each request, under the name of the system', async () => {
    await call('GET', license);
    expect(gateway.sent[0]).toMatchObject({ subject: 'access.authenticate', context: { environment: 'control', actor: { type: 'system' } } });
    expect(gateway.sent[1]).toMatchObject({ subject: 'license.get', context: { actor: { type: 'api-key', id: sampleId('key'), role: 'super_admin' } } });
  });

  it('lets no answer be stored on the way', async () => {
    expect((await call('GET', license)).headers['cache-control']).toBe('no-store');
  });
});

describe('A Request-Id', () => {
  it('is the caller\'s own when it is harmless, on every answer and in every message', async () => {
    const headers = { 'request-id': 'mine-1:2.3' };
    for (const [method, url] of [['GET', license], ['GET', '/nothing'], ['PUT', license], ['OPTIONS', license], ['HEAD', license], ['GET', '/docs'], ['GET', '/docs/assets/swagger-ui.css'], ['GET', '/docs/assets/none.css'], ['GET', '/%zz'], ['POST', '/products'], ['GET', '/health/live']] as const) {
      expect({ url, id: (await gateway.call(method, url, { headers })).headers['request-id'] }).toEqual({ url, id: 'mine-1:2.3' });
    }
    await call('GET', license, { headers });
    expect(gateway.sent.at(-1)?.context.correlationId).toBe('mine-1:2.3');
  });

  it('names no command: what is asked for twice under one is done twice', async () => {
    for (const name of ['x', 'y']) await call('POST', '/products', { body: { name }, headers: { 'request-id': 'mine' } });
    const ids = gateway.sent.filter(({ subject }) => subject === 'product.create').map(({ context }) => context.commandId);
    expect(new Set([...ids, 'mine']).size).toBe(3);
  });

  it('is a new one otherwise', async () => {
    const seen = new Set<unknown>();
    for (const given of [undefined, '', 'a b', 'x'.repeat(129), '<script>', 'ä', '{}']) seen.add((await call('GET', license, { headers: given === undefined ? {} : { 'request-id': given } })).headers['request-id']);
    expect(seen.size).toBe(7);
    for (const id of seen) expect(id).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe('A place', () => {
  it('where nothing is answers 404, whatever is sent there', async () => {
    for (const url of ['/', '/nothing', '/licenses/x/y/z', '/Licenses', '/docs/assets/../../package.json', '/openapi.json/x', '//', '/api/products']) {
      await refused('NOT_FOUND', 'GET', url, { as: '' });
      await refused('NOT_FOUND', 'POST', url, { as: '', body: '{', headers: { 'content-type': 'text/plain' } });
    }
    for (const file of ['index.html', 'package.json', 'swagger-ui.css.map', '', '%2e%2e/package.json', '.env']) await refused('NOT_FOUND', 'GET', `/docs/assets/${file}`);
    await refused('VALIDATION_FAILED', 'GET', '/%zz');
    await refused('VALIDATION_FAILED', 'GET', '/licenses/%ff');
    expect((await refused('LICENSE_NOT_FOUND', 'GET', `/licenses/${'x'.repeat(5000)}`)).text.length).toBeLessThan(500);
  });

  it('costs no more than its length to be missed, however it is spelled', async () => {
    const start = process.cpuUsage().user;
    for (let time = 0; time < 100; time++) await gateway.call('GET', `/${'/'.repeat(15_000)}`, { as: '', headers: { origin: 'https://shop.example' } });
    expect((process.cpuUsage().user - start) / 1000).toBeLessThan(1000);
  });

  it('answers what is possible there', async () => {
    const { headers } = await refused('METHOD_NOT_ALLOWED', 'PUT', license);
    expect(headers['allow']).toBe('DELETE, GET, HEAD, OPTIONS, PATCH');
    expect((await call('OPTIONS', '/licenses/suggest', { as: '' }))).toMatchObject({ status: 204, text: '', headers: { allow: 'DELETE, GET, HEAD, OPTIONS, PATCH' } });
    expect((await call('OPTIONS', '/license/validate', { as: '' })).headers['allow']).toBe('OPTIONS, POST');
    for (const method of ['GET', 'PUT', 'PATCH', 'DELETE', 'HEAD']) expect((await gateway.call(method, '/license/validate', { as: '' })).status).toBe(405);
    for (const url of ['/docs', '/docs/assets/swagger-ui.css', '/metrics']) await refused('METHOD_NOT_ALLOWED', 'POST', url);
  });

  it('lets a page of another origin ask what customers\' software asks, and nothing else', async () => {
    const origin = { origin: 'https://shop.example' };
    const stream = `${license}/stream`;
    for (const [method, url] of [['POST', '/license/validate'], ['POST', '/license/usage'], ['POST', `${license}/heartbeat`], ['GET', stream], ['GET', '/.well-known/jwks.json']] as const) {
      const asked = await call('OPTIONS', url, { as: '', headers: { ...origin, 'access-control-request-method': method, 'access-control-request-headers': 'x-environment' } });
      expect({ url, ...asked }).toMatchObject({ url, status: 204, headers: { 'access-control-allow-origin': '*', 'access-control-allow-methods': expect.stringContaining(method), 'access-control-allow-headers': expect.stringMatching(/Authorization.*X-Environment/) } });
      // Refusals too, or the page would not know why.
      const { headers } = await gateway.call(method, url, { as: '', headers: origin, ...(method === 'POST' && { body: {} }) });
      expect({ url, allowed: headers['access-control-allow-origin'] }).toEqual({ url, allowed: '*' });
    }
    for (const [method, url] of [['GET', license], ['GET', '/licenses'], ['POST', '/orders'], ['GET', '/metrics'], ['GET', '/nothing']] as const) {
      for (const each of ['OPTIONS', method]) expect((await gateway.call(each, url, { headers: origin })).headers['access-control-allow-origin']).toBeUndefined();
    }
    expect((await call('POST', '/license/validate', { as: '', body: { licenseKey: 'K' } })).headers['access-control-allow-origin']).toBeUndefined();
  });

  it('answers HEAD as GET, without the body', async () => {
    for (const accept of ['text/csv', 'application/json']) expect(await call('HEAD', '/licenses/export', { headers: { accept } })).toMatchObject({ status: 200, text: '', headers: { 'content-type': expect.stringContaining(accept) } });
    for (const url of [license, '/licenses?limit=1', '/health/live', '/openapi.json']) {
      const [head, get] = [await call('HEAD', url), await call('GET', url)];
      expect(head).toMatchObject({ status: 200, text: '', headers: { 'content-type': get.headers['content-type'], 'content-length': get.headers['content-length'] } });
      expect(head.headers['etag']).toEqual(get.headers['etag']);
    }
    expect((await gateway.call('HEAD', license, { as: '' })).status).toBe(401);
    expect((await gateway.call('HEAD', license, { as: 'stranger' })).status).toBe(401);
  });

  it('for an id of another kind has nothing', async () => {
    for (const [code, path] of [['LICENSE_NOT_FOUND', '/licenses/'], ['PRODUCT_NOT_FOUND', '/products/'], ['PLAN_NOT_FOUND', '/plans/'], ['CUSTOMER_NOT_FOUND', '/customers/'], ['ORDER_NOT_FOUND', '/orders/'], ['GENERATOR_NOT_FOUND', '/generators/'], ['API_KEY_NOT_FOUND', '/api-keys/']] as const) {
      for (const id of ['x', sampleId('act'), '%00', 'lic_%E2%80%AE', '__proto__', 'constructor', '..%2f', '*', '>', 'license-x.y']) await refused(code, 'GET', path + id);
    }
    expect(gateway.sent.filter(({ subject }) => subject !== 'access.authenticate')).toEqual([]);
  });
});

describe('A revision', () => {
  it('is the ETag of a single resource', async () => {
    for (const [method, url] of [['GET', license], ['PATCH', license], ['POST', `${license}/suspend`], ['GET', `/products/${sampleId('prd')}`], ['POST', `/api-keys/${sampleId('key')}/rotate`]] as const) {
      expect((await call(method, url, { body: method === 'GET' ? undefined : {} })).headers['etag']).toBe('"1"');
    }
    expect((await call('GET', '/licenses')).headers).not.toHaveProperty('etag');
  });

  it.each([['"7"', 7], ['W/"7"', 7], [' "7" ', 7], ['*', undefined], ['7', -1], ['"x"', -1], ['"1", "7"', -1], ['', -1], ['"9999999999999999"', -1]])('in If-Match %j goes along as %s', async (header, revision) => {
    for (const [method, url, body] of [['PATCH', license, {}], ['DELETE', license, { reason: 'x' }], ['POST', `${license}/revoke`, {}], ['DELETE', `/api-keys/${sampleId('key')}`, undefined]] as const) {
      await call(method, url, { body, headers: { 'if-match': header } });
      expect({ method, revision: gateway.sent.at(-1)?.context.ifRevision }).toEqual({ method, revision });
    }
  });

  it('in If-Match is nothing to reading and creating', async () => {
    await call('GET', license, { headers: { 'if-match': '"7"' } });
    expect(gateway.sent.at(-1)?.context.ifRevision).toBeUndefined();
    await call('POST', '/products', { body: { name: 'x' }, headers: { 'if-match': '"7"' } });
    expect(gateway.sent.at(-1)?.context.ifRevision).toBeUndefined();
  });
});

describe('A refusal', () => {
  const answering = async (answer: () => unknown, ask: Call = {}) => {
    gateway.fakes['license.get'] = answer;
    try {
      return await gateway.call('GET', license, ask);
    } finally {
      delete gateway.fakes['license.get'];
    }
  };

  it('of every code has its status, its title, a type that explains it, and its members', async () => {
    const { text: page } = await gateway.call('GET', '/docs/errors');
    for (const [code, { status, title }] of Object.entries(errors) as [ErrorCode, { status: number; title: string }][]) {
      const answer = await answering(refusing(code, code === 'INTERNAL' ? 'secret' : 'Because', code === 'INTERNAL' ? {} : { limit: 3, status: 1, type: 'x', retired: true }));
      expect(answer.status).toBe(status);
      expect(answer.json).toEqual({
        type: `/docs/errors#${code}`, title, status, detail: code === 'INTERNAL' ? title : 'Because', instance: license, code, requestId: answer.headers['request-id'], ...(code !== 'INTERNAL' && { limit: 3 }),
      });
      expect(answer.headers['content-type']).toBe('application/problem+json; charset=utf-8');
      expect(answer.headers['retry-after']).toBe(status === 503 || status === 429 ? '1' : undefined);
      expect(page).toMatch(`id="${code}"`);
    }
  });

  it('says when to come back', async () => {
    expect((await answering(refusing('UNAVAILABLE', undefined, { retryAfter: 7 }))).headers['retry-after']).toBe('7');
  });

  it('says to customers\' software, too, that a key cannot be looked up yet', async () => {
    gateway.fakes['license.activate'] = refusing('READ_MODEL_BEHIND');
    await refused('READ_MODEL_BEHIND', 'POST', '/license/activate', { as: '', body: { licenseKey: 'K' } });
    delete gateway.fakes['license.activate'];
  });

  it('of something that went wrong tells the caller nothing, and us everything', async () => {
    const answer = await answering(() => { throw new TypeError('select * from secrets at /srv/x.ts:1'); });
    expect(answer.json).toMatchObject({ code: 'INTERNAL', status: 500, detail: 'Something went wrong here' });
    expect(answer.text).not.toMatch(/select|srv|TypeError/);
    expect(gateway.bugs.join()).toMatch('select * from secrets');
  });

  it('does not repeat a license key or a secret out of the path', async () => {
    const { text } = await refused('LICENSE_NOT_FOUND', 'GET', '/licenses/7XXC90C-V60HD1W-Z53PM9S-T96AD8S');
    expect(text).toMatch('/licenses/7XXC90C-…');
    expect((await refused('NOT_FOUND', 'GET', '/lk_production_01a1fbf9_abcdefghijklmnopqrstuvwxyz0123456789')).text).not.toMatch('uvwxyz');
  });

  it('has no ETag of the answer that it took the place of', async () => {
    gateway.fakes['access.complete-request'] = () => { throw refuse('UNAVAILABLE'); };
    const { status, headers, json } = await call('PATCH', license, { body: {}, headers: { 'idempotency-key': 'k' } });
    gateway.fakes['access.complete-request'] = ({ status: given, body, headers: kept }) => ({ status: given, body, headers: kept });
    expect({ status, code: json.code, etag: headers['etag'] }).toEqual({ status: 503, code: 'UNAVAILABLE', etag: undefined });
  });
});

describe('An Idempotency-Key', () => {
  const once = { body: { name: 'x' }, headers: { 'idempotency-key': 'k' } };
  const withFakes = async (fakes: FakedGateway['fakes'], work: () => Promise<void>) => {
    const before = { ...gateway.fakes };
    Object.assign(gateway.fakes, fakes);
    try {
      await work();
    } finally {
      for (const name of Object.keys(gateway.fakes)) delete gateway.fakes[name];
      Object.assign(gateway.fakes, before);
    }
  };

  it('has 1 to 255 characters, and is nothing to what changes nothing', async () => {
    await refused('VALIDATION_FAILED', 'POST', '/products', { ...once, headers: { 'idempotency-key': '' } });
    await refused('VALIDATION_FAILED', 'POST', '/products', { ...once, headers: { 'idempotency-key': 'x'.repeat(256) } });
    await call('GET', license, { headers: { 'idempotency-key': '' } });
    await call('POST', '/license/validate', { body: { licenseKey: 'x' }, headers: { 'idempotency-key': 'k' } });
    expect(gateway.sent.map(({ subject }) => subject)).not.toContain('access.claim-request');
  });

  it('claims the request, runs it under the claim\'s command id and stores the answer', async () => {
    const { text } = await call('POST', '/products', once);
    const [, claim, create, complete] = gateway.sent;
    expect(claim).toMatchObject({ subject: 'access.claim-request', message: { caller: sampleId('key'), route: 'POST /products', key: 'k', bodyHash: expect.any(String) } });
    expect(create?.context).toMatchObject({ commandId: '0b8a3c0e-6f0e-4f0a-9d3e-2b1c5a7d9e01', commandAt: '2026-12-01T00:00:00.000Z' });
    expect(complete).toMatchObject({ subject: 'access.complete-request', message: { status: 201, body: text, headers: { etag: '"1"', 'content-type': 'application/json; charset=utf-8' } } });
  });

  it('stands for its body, JSON or a file', async () => {
    const csv = (row: string) => ({ body: `licenseKey,customerEmail\n${row}\n`, headers: { 'content-type': 'text/csv', 'idempotency-key': 'k' } });
    for (const name of ['x', 'y']) await call('POST', '/products', { ...once, body: { name } });
    for (const row of ['A-1,ada@example.com', 'A-2,ada@example.com']) await call('POST', '/imports', csv(row));
    const hashes = gateway.sent.filter(({ subject }) => subject === 'access.claim-request').map(({ message }) => message['bodyHash']);
    expect([hashes.length, new Set(hashes).size]).toEqual([4, 4]);
  });

  it('says of a second run that it is one, so that it is not done twice', async () => {
    const claimed = { state: 'run', commandId: '0b8a3c0e-6f0e-4f0a-9d3e-2b1c5a7d9e01', commandAt: '2026-12-01T00:00:00.000Z', retry: true };
    await withFakes({ 'access.claim-request': () => claimed }, async () => void await call('POST', '/products', once));
    expect(gateway.sent.find(({ subject }) => subject === 'product.create')?.context.retry).toBe(true);
  });

  it('gives the stored answer again, headers and all, and does nothing', async () => {
    const headers = { 'content-type': 'application/json; charset=utf-8', etag: '"5"' };
    await withFakes({ 'access.claim-request': () => ({ state: 'done', status: 201, body: '{"first":true}', headers }) }, async () => {
      const answer = await gateway.call('POST', '/products', once);
      expect(answer).toMatchObject({ status: 201, text: '{"first":true}', headers: { ...headers, 'idempotency-replayed': 'true' } });
      expect(gateway.sent.map(({ subject }) => subject)).not.toContain('product.create');
    });
    await withFakes({ 'access.claim-request': () => ({ state: 'done', status: 204, body: '', headers: {} }) }, async () => {
      expect(await call('DELETE', license, { ...once, body: { reason: 'x' } })).toMatchObject({ status: 204, text: '' });
    });
  });

  it('gives the claim up when the answer is none: a 5xx, a 429', async () => {
    for (const code of ['UNAVAILABLE', 'TRY_AGAIN', 'RATE_LIMITED', 'INTERNAL'] as const) {
      await withFakes({ 'product.create': refusing(code) }, async () => void await call('POST', '/products', once));
      expect(gateway.sent.at(-1)).toMatchObject({ subject: 'access.complete-request', message: { status: 0 } });
    }
    await withFakes({ 'product.create': refusing('PRODUCT_CODE_TAKEN') }, async () => void await call('POST', '/products', once));
    expect(gateway.sent.at(-1)).toMatchObject({ message: { status: 409 } });
  });

  it('lets the answer that was stored first win', async () => {
    await withFakes({ 'access.complete-request': () => ({ status: 409, body: '{"other":1}', headers: { 'content-type': 'application/problem+json; charset=utf-8' } }) }, async () => {
      expect(await gateway.call('POST', '/products', once)).toMatchObject({ status: 409, text: '{"other":1}', headers: { 'content-type': 'application/problem+json; charset=utf-8', 'content-length': '11' } });
    });
  });

  it('belongs to the license key where that is the credential', async () => {
    const callers = [];
    for (const licenseKey of ['KN0WN-1', 'KN0WN-2', 'KN0WN-1']) {
      await call('POST', '/license/activate', { as: '', body: { licenseKey }, headers: { 'idempotency-key': 'k' } });
      callers.push(gateway.sent.find(({ subject }) => subject === 'access.claim-request')?.message['caller']);
      gateway.sent.length = 0;
    }
    expect(callers[0]).toMatch(/^client:/);
    expect(callers[0]).toBe(callers[2]);
    expect(callers[0]).not.toBe(callers[1]);
  });
});

describe('The documentation', () => {
  it('shows the permission that a route needs', async () => {
    expect((await gateway.call('GET', '/docs/start.js', { as: '' })).text).toContain('showExtensions: true');
  });

  it('comes from our own origin, under a policy that allows no other', async () => {
    const { text, headers } = await gateway.call('GET', '/docs', { as: '' });
    expect(headers['content-type']).toBe('text/html; charset=utf-8');
    expect(headers['content-security-policy']).toMatch(/^default-src 'self'; /);
    expect(headers['content-security-policy']).not.toMatch(/https?:|\*|unsafe-eval|script-src/);
    const assets = [...text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, url = '']) => url).filter((url) => !url.startsWith('data:'));
    expect(assets).toHaveLength(3);
    for (const url of assets) {
      const asset = await gateway.call('GET', url, { as: '' });
      expect({ url, status: asset.status, type: asset.headers['content-type'] }).toEqual({ url, status: 200, type: expect.stringMatching(url.endsWith('css') ? 'text/css' : 'javascript') });
    }
    expect(text).not.toMatch(/<script>|onload=/);
  });

  it('describes itself truly', () => expect(conformance.documentFaults()).toEqual([]));

  it('is written out once, and not for everybody who asks', async () => {
    const { text, headers, json } = await gateway.call('GET', '/openapi.json', { as: '' });
    expect(headers).toMatchObject({ 'content-type': 'application/json; charset=utf-8', 'content-length': String(Buffer.byteLength(text)) });
    expect(json).toMatchObject({ openapi: expect.stringMatching(/^3\.1/) });
    const writing = jest.spyOn(JSON, 'stringify');
    expect((await gateway.call('GET', '/openapi.json', { as: '' })).text).toBe(text);
    expect(writing).not.toHaveBeenCalled();
    writing.mockRestore();
  });

  it('notices what is wrong with a description, and with an answer', async () => {
    const { json } = await gateway.call('GET', '/openapi.json');
    interface Described { operationId: string; parameters: unknown[]; security?: unknown; requestBody: { content: Record<string, { example: unknown }> } }
    const broken = structuredClone(json) as unknown as { paths: Record<string, Record<'get' | 'post', Described>>; components: { schemas: { Order?: unknown } } };
    const operation = (path: string, method: 'get' | 'post') => broken.paths[path]?.[method] as Described;
    operation('/me', 'get').operationId = 'getLicense';
    operation('/licenses/{id}', 'get').parameters.shift();
    delete operation('/orders', 'get').security;
    Object.assign(operation('/license/deactivate', 'post').requestBody.content['application/json'] ?? {}, { example: { licenseKey: 1 } });
    delete broken.components.schemas.Order;
    const faults = new Conformance(broken as never).documentFaults().join('\n');
    for (const fault of ['"getLicense" is not a name or not unique', 'path parameters are not those', 'nothing is said about security', 'the example of request', 'schemas/Order leads nowhere']) expect(faults).toMatch(fault);

    const answer = await gateway.call('GET', '/me');
    const withText = (body: object) => conformance.faults('GET', '/me', { ...answer, text: JSON.stringify(body) });
    expect(withText(answer.json)).toEqual([]);
    expect(withText({ ...answer.json, extra: 1 })).toHaveLength(1);
    expect(withText({})).toHaveLength(1);
    expect(conformance.faults('GET', '/me', { ...answer, status: 418 })).not.toEqual([]);
    expect(conformance.faults('GET', '/me', { ...answer, headers: {} })).not.toEqual([]);
  });
});

describe('The server', () => {
  let url: string;
  beforeAll(async () => {
    await gateway.app.listen(0, '127.0.0.1');
    url = await gateway.app.getUrl();
  });

  it('reads what is too large to its end, so that whoever sends it hears why', async () => {
    const body = Buffer.alloc(32 * 1024 * 1024, 'x');
    for (const type of ['application/json', 'text/csv']) {
      for (let time = 0; time < 3; time++) {
        const answer = await fetch(`${url}/products`, { method: 'POST', headers: { 'content-type': type, authorization: 'Bearer super_admin@root' }, body });
        expect(await answer.json()).toMatchObject({ code: type === 'text/csv' ? 'UNSUPPORTED_MEDIA_TYPE' : 'BODY_TOO_LARGE' });
        expect(answer.headers.get('connection')).not.toBe('close');
      }
    }
  });

  it('answers what is no request with a problem, and closes', async () => {
    const { port } = new URL(url);
    const answer = await new Promise<string>((resolve) => {
      let text = '';
      const socket = connect(Number(port), '127.0.0.1', () => void socket.write('GARBAGE\r\n\r\n'));
      socket.on('data', (chunk) => { text += chunk.toString(); }).on('close', () => resolve(text));
    });
    const [head = '', body = ''] = answer.split('\r\n\r\n');
    expect(head).toMatch(/^HTTP\/1.1 400 Bad Request\r\n/);
    expect(JSON.parse(body)).toMatchObject({ code: 'VALIDATION_FAILED', requestId: /Request-Id: (\S+)/.exec(head)?.[1] });
  });

  it.each([['ERR_HTTP_REQUEST_TIMEOUT', 408, 'REQUEST_TIMEOUT'], ['HPE_HEADER_OVERFLOW', 431, 'HEADERS_TOO_LARGE'], ['HPE_INVALID_CONSTANT', 400, 'VALIDATION_FAILED']])('says of %s what it was', (code, status, expected) => {
    let answer = '';
    refuseBytes(Object.assign(new Error(), { code }), { writable: true, end: (text: string) => { answer = text; } } as unknown as Socket);
    const [head = '', body = ''] = answer.split('\r\n\r\n');
    expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} [A-Z][\\w ]+\r\n`));
    expect(head).toMatch(`Content-Length: ${body.length}`);
    expect(JSON.parse(body)).toMatchObject({ code: expected, status });
  });
});

describe('The configuration', () => {
  it('has a default for everything', () => {
    expect(gatewayConfig({})).toEqual({ host: '127.0.0.1', port: 3000, stopDelayMs: 0, trustProxy: false, rateLimits: { perLicenseKey: 600, unknownKeysPerAddress: 30, perApiKey: 6000 } });
    expect(gatewayConfig({ KEYLEDGER_TRUST_PROXY: 'true' }).trustProxy).toBe('loopback,linklocal,uniquelocal');
    expect(gatewayConfig({ KEYLEDGER_TRUST_PROXY: '192.0.2.0/24' }).trustProxy).toBe('192.0.2.0/24');
    expect(gatewayConfig({ KEYLEDGER_RATE_LIMIT_PER_KEY: '0', PORT: '' })).toMatchObject({ port: 3000, rateLimits: { perLicenseKey: 0 } });
  });

  it.each(['-1', '1.5', 'many', '1e99'])('names the variable that is %s', (text) => expect(() => gatewayConfig({ KEYLEDGER_RATE_LIMIT_PER_API_KEY: text })).toThrow('KEYLEDGER_RATE_LIMIT_PER_API_KEY must be a whole number'));
});
