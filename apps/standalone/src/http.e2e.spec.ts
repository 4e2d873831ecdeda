import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Conformance } from '@keyledger/gateway/contract';
import { errors, roles, type ErrorCode } from '@keyledger/kernel';
import { Product } from '@keyledger/testing/process';

type Json = Record<string, never> & { code?: string };
interface Answer {
  status: number;
  headers: Record<string, string>;
  text: string;
  json: Json;
}
interface Ask {
  as?: string;
  body?: unknown;
  headers?: Record<string, string>;
  /** Called when the answer begins; it may take its time to end. */
  begun?: () => void;
}

const root = 'root-key-of-the-http-specification-0001';
const id = (prefix: string) => `${prefix}_01937c2e-0b5a-7c1d-8a53-2f1d9c7be001`;
let keyledger: Product;
let conformance: Conformance;

/** Every answer of this file is held against the OpenAPI document. */
async function call(method: string, path: string, { as = root, headers = {}, ...rest }: Ask = {}): Promise<Answer> {
  const answer = await send(method, path, { as, headers, ...rest });
  expect(conformance.faults(method, path, answer)).toEqual([]);
  return answer;
}

async function send(method: string, path: string, { as, body, headers, begun }: Ask): Promise<Answer> {
  const given = { ...(body !== undefined && { 'content-type': 'application/json' }), ...(as && { authorization: `Bearer ${as}` }), ...headers };
  const response = await fetch(keyledger.url + path, { method, headers: given, ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }) });
  begun?.();
  const text = await response.text();
  const isJson = /json/.test(response.headers.get('content-type') ?? '');
  return { status: response.status, headers: Object.fromEntries(response.headers), text, json: (isJson && text ? JSON.parse(text) : {}) as Json };
}

/** `await done(201, 'POST', '/products', { name })` → the answer's body. */
const done = async (status: number, method: string, path: string, body?: unknown, ask: Ask = {}): Promise<Json> => {
  const { status: answered, json, text } = await call(method, path, { ...ask, body });
  expect({ method, path, status: answered, ...(answered !== status && { text }) }).toEqual({ method, path, status });
  return json;
};
const refused = async (code: ErrorCode, method: string, path: string, body?: unknown, ask: Ask = {}): Promise<Json> => {
  const { status, json } = await call(method, path, { ...ask, body });
  expect({ method, path, code: json.code, status }).toEqual({ method, path, code, status: errors[code].status });
  return json;
};

beforeAll(async () => {
  keyledger = await Product.start({ KEYLEDGER_ROOT_API_KEY: root, KEYLEDGER_RATE_LIMIT_PER_KEY: '600', KEYLEDGER_RATE_LIMIT_PER_API_KEY: '6000' });
  conformance = new Conformance(JSON.parse((await send('GET', '/openapi.json', {})).text));
}, 60_000);
afterAll(() => keyledger?.stop());

/** A product, a plan and a license of it. */
async function aLicense(fields: object = {}, licensing: object = {}) {
  const product = await done(201, 'POST', '/products', { name: 'Paint Pro' });
  const plan = await done(201, 'POST', `/products/${product.id}/plans`, { name: 'Pro', licensing: { enabled: true, activationLimit: 2, expiry: { value: 1, unit: 'years' }, ...licensing } });
  const customer = await done(201, 'POST', '/customers', { name: 'Ada', email: `${product.id}@example.com` });
  const license = await done(201, 'POST', '/licenses', { productId: product.id, planId: plan.id, customerId: customer.id, ...fields });
  return { product, plan, customer, license, path: `/licenses/${license.id}` };
}

describe('The API as it is described', () => {
  it('is valid OpenAPI, and its examples are valid', () => {
    expect(conformance.documentFaults()).toEqual([]);
  });

  it('answers about the installation', async () => {
    expect(await done(200, 'GET', '/me')).toMatchObject({ environment: 'production', role: 'super_admin', permissions: roles.super_admin });
    expect(await done(200, 'GET', '/environments')).toMatchObject({ data: [{ name: 'production' }, { name: 'staging' }] });
    for (const path of ['/health/live', '/health/ready']) expect(await done(200, 'GET', path, undefined, { as: '' })).toMatchObject({ status: 'ok' });
    expect((await call('GET', '/metrics', { as: '' })).headers['content-type']).toMatch('text/plain');
    expect((await call('GET', '/openapi.json', { as: '' })).json).toMatchObject({ openapi: '3.1.0' });
  });

  it('takes a product through its life', async () => {
    const code = 'paint-pro';
    const product = await done(201, 'POST', '/products', { name: 'Paint Pro', code, metadata: { team: 'a' } });
    expect(product).toMatchObject({ name: 'Paint Pro', code, status: 'active', metadata: { team: 'a' }, revision: 0 });
    const path = `/products/${product.id}`;
    await refused('PRODUCT_CODE_TAKEN', 'POST', '/products', { name: 'Other', code });
    await refused('METADATA_TOO_LARGE', 'POST', '/products', { name: 'Other', metadata: { a: 'x'.repeat(11_000) } });
    expect(await done(200, 'GET', path)).toEqual(product);
    expect(await done(200, 'PATCH', path, { name: 'Paint' })).toMatchObject({ name: 'Paint', revision: 1 });
    expect(await done(200, 'GET', '/products?q=pain&sort=-name&limit=5')).toMatchObject({ data: [{ name: 'Paint' }], page: { next: null, total: 1 } });
    await refused('PRODUCT_NOT_FOUND', 'GET', `/products/${id('prd')}`);
    await refused('PRODUCT_NOT_FOUND', 'PATCH', `/products/${id('prd')}`, { name: 'x' });
    expect(await done(200, 'POST', `${path}/archive`)).toMatchObject({ status: 'archived' });
    expect(await done(200, 'POST', `${path}/archive`)).toMatchObject({ status: 'archived' });
    await refused('PRODUCT_NOT_FOUND', 'POST', `/products/${id('prd')}/archive`);
    await refused('PRODUCT_ARCHIVED', 'POST', `${path}/plans`, { name: 'Pro' });
    await refused('PRODUCT_ARCHIVED', 'POST', '/licenses', { productId: product.id });
    expect(await done(200, 'GET', '/products?status=archived')).toMatchObject({ page: { total: 1 } });
  });

  it('takes a plan through its life', async () => {
    const { product, plan } = await aLicense();
    const path = `/plans/${plan.id}`;
    expect(plan).toMatchObject({ productId: product.id, name: 'Pro', licensing: { enabled: true, activationLimit: 2, expiry: { value: 1, unit: 'years' } } });
    expect(await done(200, 'GET', path)).toEqual(plan);
    expect(await done(200, 'PATCH', path, { licensing: { activationLimit: 5 } })).toMatchObject({ licensing: { activationLimit: 5, expiry: { value: 1 } } });
    expect(await done(200, 'GET', `/products/${product.id}/plans?sort=name`)).toMatchObject({ data: [{ id: plan.id }], page: { total: 1 } });
    await refused('LIMIT_OUT_OF_RANGE', 'PATCH', path, { licensing: { activationLimit: 0 } });
    await refused('TRIAL_TOO_LONG', 'POST', `/products/${product.id}/plans`, { name: 'Trial', licensing: { enabled: true, trial: { days: 91 } } });
    const tooLarge = { featureFlags: { a: 'x'.repeat(11_000) } };
    await refused('METADATA_TOO_LARGE', 'POST', `/products/${product.id}/plans`, { name: 'Large', licensing: { enabled: true, ...tooLarge } });
    await refused('METADATA_TOO_LARGE', 'PATCH', path, { licensing: tooLarge });
    await refused('PLAN_NOT_FOUND', 'GET', `/plans/${id('pln')}`);
    await refused('PLAN_NOT_FOUND', 'PATCH', `/plans/${id('pln')}`, { name: 'x' });
    await refused('PRODUCT_NOT_FOUND', 'GET', `/products/${id('prd')}/plans`);
    await refused('PRODUCT_NOT_FOUND', 'POST', `/products/${id('prd')}/plans`, { name: 'x' });
  });

  it('takes a customer, an order and a generator through their lives', async () => {
    const { product, plan } = await aLicense();
    const customer = await done(201, 'POST', '/customers', { name: 'Grace', email: 'grace@example.com' });
    expect(await done(200, 'GET', `/customers/${customer.id}`)).toEqual(customer);
    expect(await refused('CUSTOMER_EXISTS', 'POST', '/customers', { name: 'G', email: 'Grace@Example.com' })).toMatchObject({ id: customer.id });
    expect(await done(200, 'PATCH', `/customers/${customer.id}`, { name: 'Grace Hopper' })).toMatchObject({ name: 'Grace Hopper' });
    expect(await done(200, 'GET', '/customers?q=hopp')).toMatchObject({ data: [{ id: customer.id }] });
    await refused('CUSTOMER_NOT_FOUND', 'GET', `/customers/${id('cus')}`);
    await refused('CUSTOMER_NOT_FOUND', 'PATCH', `/customers/${id('cus')}`, { name: 'x' });

    const order = await done(201, 'POST', '/orders', { planId: plan.id, customer: { name: 'G', email: 'grace@example.com' }, quantity: 2 });
    expect(order).toMatchObject({ planId: plan.id, customerId: customer.id, quantity: 2, licenses: [{ status: 'assigned', orderId: order.id }, {}] });
    expect(await done(200, 'GET', `/orders/${order.id}`)).toMatchObject({ id: order.id, licenses: [{}, {}] });
    expect(await done(200, 'GET', `/orders?customerId=${customer.id}&sort=-purchasedAt`)).toMatchObject({ data: [{ id: order.id, licenseIds: [expect.any(String), expect.any(String)] }] });
    await refused('ORDER_NOT_FOUND', 'GET', `/orders/${id('ord')}`);
    await refused('REFERENCE_NOT_FOUND', 'POST', '/orders', { planId: id('pln'), customerId: customer.id });
    await refused('REFERENCE_NOT_FOUND', 'POST', '/orders', { planId: plan.id, customerId: id('cus') });
    await done(200, 'PATCH', `/plans/${plan.id}`, { licensing: { expiresAt: new Date(Date.now() + 1_000).toISOString() } });
    await sleep(1_100);
    await refused('EXPIRY_IN_PAST', 'POST', '/orders', { planId: plan.id, customerId: customer.id });
    await done(200, 'PATCH', `/plans/${plan.id}`, { licensing: { expiresAt: null } });

    const generator = await done(201, 'POST', '/generators', { name: 'Bulk', productId: product.id, planId: plan.id, keyFormat: { kind: 'chunks', prefix: 'PP', chunks: 5, chunkLength: 5 } });
    expect(await done(200, 'GET', `/generators/${generator.id}`)).toEqual(generator);
    expect(await done(200, 'PATCH', `/generators/${generator.id}`, { name: 'Bulk 2', terms: { activationLimit: 7 } })).toMatchObject({ name: 'Bulk 2' });
    expect(await done(200, 'GET', `/generators?productId=${product.id}`)).toMatchObject({ page: { total: 1 } });
    expect(await done(201, 'POST', '/licenses', { productId: product.id, generatorId: generator.id })).toMatchObject({ key: expect.stringMatching(/^PP-/), activationLimit: 7 });
    await refused('KEY_FORMAT_TOO_WEAK', 'POST', '/generators', { name: 'Weak', productId: product.id, keyFormat: { kind: 'chunks', chunks: 2, chunkLength: 4 } });
    const tooLarge = { featureFlags: { a: 'x'.repeat(11_000) } };
    await refused('METADATA_TOO_LARGE', 'POST', '/generators', { name: 'Large', productId: product.id, keyFormat: { kind: 'uuid' }, terms: tooLarge });
    await refused('METADATA_TOO_LARGE', 'PATCH', `/generators/${generator.id}`, { terms: tooLarge });
    await refused('GENERATOR_NOT_FOUND', 'GET', `/generators/${id('gen')}`);
    await refused('GENERATOR_NOT_FOUND', 'PATCH', `/generators/${id('gen')}`, { name: 'x' });
    await refused('REFERENCE_NOT_FOUND', 'POST', '/generators', { name: 'x', productId: id('prd'), keyFormat: { kind: 'uuid' } });
  });

  it('takes a license through its life', async () => {
    const { product, customer, license, path } = await aLicense({ metadata: { seat: 1 }, features: { export: true, api: 10, render: { limit: 5, per: 'day' } }, quotas: [{ meter: 'max_dp_cores', limit: 4 }] });
    expect(license).toMatchObject({ productId: product.id, customerId: customer.id, status: 'assigned', environment: 'production', activationLimit: 2, activationCount: 0, orderId: null, holds: [], metadata: { seat: 1 } });
    expect(await done(200, 'GET', path)).toEqual(license);
    expect(await done(200, 'PATCH', path, { activationLimit: 3, featureFlags: { beta: true } })).toMatchObject({ activationLimit: 3, featureFlags: { beta: true } });
    for (const field of ['id', 'key', 'productId', 'environment']) await refused('IMMUTABLE_FIELD', 'PATCH', path, { [field]: 'x' });
    await refused('LIMIT_OUT_OF_RANGE', 'PATCH', path, { activationLimit: 10_001 });
    await refused('EXPIRY_IN_PAST', 'PATCH', path, { expiresAt: '2001-01-01T00:00:00Z' });
    await refused('METADATA_TOO_LARGE', 'PATCH', path, { metadata: { a: 'x'.repeat(11_000) } });
    await refused('REFERENCE_NOT_FOUND', 'PATCH', path, { customerId: id('cus') });

    const { instance } = await done(201, 'POST', '/license/activate', { licenseKey: license.key, instanceName: 'laptop', fingerprint: 'fp-1', metadata: { os: 'linux' } });
    const { id: instanceId } = instance as unknown as Json;
    expect(await done(200, 'POST', '/license/activate', { licenseKey: license.key, instanceName: 'laptop', fingerprint: 'fp-1' })).toMatchObject({ activated: true, instance: { id: instanceId } });
    expect(await done(200, 'POST', '/license/validate', { licenseKey: license.key, instanceId, features: ['export'] })).toMatchObject({ valid: true, code: 'VALID', license: { activationCount: 1 }, instance: { id: instanceId } });
    expect(await done(200, 'GET', `${path}/activations`)).toMatchObject({ data: [{ id: instanceId, name: 'laptop', lastSeenAt: expect.any(String) }], page: { next: null, total: 1 } });
    expect(await done(200, 'GET', `${path}/events?limit=2`)).toMatchObject({ data: [{ type: 'LicenseIssued' }, {}], page: { next: expect.any(String) } });

    expect(await done(200, 'POST', `${path}/suspend`, { reason: 'payment', cause: 'payment' })).toMatchObject({ status: 'suspended', holds: [{ kind: 'suspended', cause: 'payment' }] });
    await refused('LICENSE_SUSPENDED', 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp-2' });
    expect(await done(200, 'POST', '/license/validate', { licenseKey: license.key })).toMatchObject({ valid: false, code: 'SUSPENDED', enforcement: 'LOCKED' });
    expect(await done(200, 'POST', `${path}/unsuspend`, { cause: 'payment' })).toMatchObject({ status: 'active' });
    expect(await done(200, 'POST', `/subscriptions/${license.id}/invalidate`, { reason: 'card declined' })).toMatchObject({ status: 'suspended', holds: [{ cause: 'subscription', reason: 'card declined' }] });
    expect(await done(200, 'POST', `/subscriptions/${license.id}/restore`)).toMatchObject({ status: 'active' });
    await refused('EXPIRY_IN_PAST', 'POST', `${path}/suspend`, { until: '2026-01-01T00:00:00Z' });
    expect(await done(200, 'POST', `${path}/inactivate`, { until: '2099-01-01T00:00:00Z' })).toMatchObject({ status: 'inactive', holds: [{ until: '2099-01-01T00:00:00.000Z' }] });
    await refused('LICENSE_INACTIVE', 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp-2' });
    expect(await done(200, 'POST', `${path}/reactivate`)).toMatchObject({ status: 'active' });
    expect(await done(200, 'POST', `${path}/renew`, { expiresAt: '2040-01-01T00:00:00Z', reason: 'paid' })).toMatchObject({ expiresAt: '2040-01-01T00:00:00.000Z' });
    await refused('EXPIRY_NOT_LATER', 'POST', `${path}/renew`, { expiresAt: '2039-01-01T00:00:00Z', reason: 'paid' });
    const other = await done(201, 'POST', '/customers', { name: 'Joan', email: `${product.id}-2@example.com` });
    expect(await done(200, 'POST', `${path}/assign`, { customerId: other.id })).toMatchObject({ customerId: other.id });
    await refused('REFERENCE_NOT_FOUND', 'POST', `${path}/assign`, { customerId: id('cus') });

    await done(201, 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp-2' });
    await done(201, 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp-3' });
    expect(await refused('ACTIVATION_LIMIT_EXCEEDED', 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp-4' })).toMatchObject({ title: 'Limit Exceeded', limit: 3, used: 3 });
    expect(await done(200, 'POST', '/license/deactivate', { licenseKey: license.key, instanceId })).toEqual({ deactivated: true, activationCount: 2, activationLimit: 3 });
    await done(200, 'POST', '/license/deactivate', { licenseKey: license.key, instanceId });
    await refused('INSTANCE_NOT_FOUND', 'POST', '/license/deactivate', { licenseKey: license.key, instanceId: id('act') });
    await refused('INSTANCE_NOT_FOUND', 'DELETE', `${path}/activations/${id('act')}`);
    const { data } = await done(200, 'GET', `${path}/activations?limit=1`);
    await done(204, 'DELETE', `${path}/activations/${(data as unknown as Json[])[0]?.id}`);
    expect(await done(200, 'GET', `${path}/activations?include=ended`)).toMatchObject({ page: { total: 3 } });

    const regenerated = await done(200, 'POST', `${path}/regenerate-key`, { reason: 'leaked' });
    expect(regenerated).toMatchObject({ id: license.id, activationCount: 0 });
    expect(regenerated.key).not.toBe(license.key);
    expect(await done(200, 'POST', '/license/validate', { licenseKey: license.key })).toMatchObject({ valid: false, code: 'NOT_FOUND', license: null });
    await refused('LICENSE_NOT_FOUND', 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp-1' });

    expect(await done(200, 'POST', `${path}/revoke`, { reason: 'fraud' })).toMatchObject({ status: 'revoked' });
    for (const action of ['suspend', 'inactivate', 'reactivate', 'unsuspend']) await refused('TERMINAL_STATE', 'POST', `${path}/${action}`);
    await refused('LICENSE_REVOKED', 'POST', '/license/activate', { licenseKey: regenerated.key, fingerprint: 'fp-1' });
    await refused('LICENSE_EVER_ACTIVATED', 'DELETE', path, { reason: 'gdpr' });
    await done(204, 'DELETE', path, { reason: 'gdpr', force: true });
    for (const [method, at, body] of [['GET', ''], ['PATCH', '', {}], ['DELETE', '', { reason: 'x' }], ['POST', '/suspend'], ['POST', '/unsuspend'], ['POST', '/inactivate'], ['POST', '/reactivate'], ['POST', '/revoke'],
      ['POST', '/regenerate-key'], ['POST', '/renew', { expiresAt: '2041-01-01T00:00:00Z', reason: 'x' }], ['POST', '/assign', { customerId: customer.id }],
      ['GET', '/activations'], ['GET', '/events'], ['DELETE', `/activations/${instanceId}`]] as const) await refused('LICENSE_NOT_FOUND', method, path + at, body);
    expect(await done(200, 'POST', '/license/validate', { licenseKey: regenerated.key })).toMatchObject({ valid: false, code: 'NOT_FOUND', seq: expect.any(Number) });
  });

  it('lets no trial become long, and nothing be done that the caller did not mean', async () => {
    const { license, path } = await aLicense({}, { expiry: null, trial: { days: 14 } });
    await done(201, 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp-1' });
    await refused('TRIAL_TOO_LONG', 'PATCH', path, { expiresAt: '2099-01-01T00:00:00Z' });
    await refused('TRIAL_TOO_LONG', 'POST', `${path}/renew`, { expiresAt: '2099-01-01T00:00:00Z', reason: 'asked for' });
    await refused('VALIDATION_FAILED', 'POST', `${path}/revoke?dryRun=true`);
    await refused('VALIDATION_FAILED', 'POST', '/license/validate?dryRun=true', { licenseKey: license.key }, { as: '' });
    expect(await done(200, 'GET', path)).toMatchObject({ status: 'active', revision: 2 });
  });

  it('takes an appliance through its life', async () => {
    const { license, path } = await aLicense({ activationLimit: 1 });
    const by = (key: unknown) => ({ as: '', headers: { authorization: `License ${String(key)}` } });
    const box = by(license.key);
    await refused('LICENSE_NOT_FOUND', 'POST', `${path}/activate`, { fingerprint: 'fp' }, by('AAAAAAA-AAAAAAA'));
    await refused('UNAUTHENTICATED', 'POST', `${path}/activate`, { fingerprint: 'fp' }, { as: '' });
    await refused('VALIDATION_FAILED', 'POST', `${path}/activate`, {}, box);
    const first = { fingerprint: 'fp', hostname: 'box', version: '1.0' };
    const { activationId } = await done(201, 'POST', `${path}/activate`, first, box);
    expect(await done(200, 'POST', `${path}/activate`, first)).toMatchObject({ activationId, deployment: { state: 'active' }, offlineGraceSeconds: 14 * 86_400, lastSeq: null });
    await refused('FINGERPRINT_MISMATCH', 'POST', `${path}/activate`, { fingerprint: 'other' }, box);
    const directive = await done(201, 'POST', `${path}/directives`, { kind: 'message', payload: { text: 'hello' } });
    await refused('METADATA_TOO_LARGE', 'POST', `${path}/directives`, { kind: 'message', payload: { text: 'x'.repeat(11_000) } });
    await refused('VALIDATION_FAILED', 'POST', `${path}/directives`, { kind: 'dance' });
    const beat = { activationId, fingerprint: 'fp', seq: 5 };
    const answer = await done(200, 'POST', `${path}/heartbeat`, beat, box);
    expect(answer).toMatchObject({ state: 'active', enforcement: 'FULL', token: expect.any(String), directives: [{ id: directive.id }] });
    expect(await done(200, 'POST', `${path}/heartbeat`, beat, box)).toEqual(answer);
    await refused('STALE_SEQUENCE', 'POST', `${path}/heartbeat`, { ...beat, seq: 4 }, box);
    await refused('STALE_SEQUENCE', 'POST', `${path}/heartbeat`, { ...beat, nonce: 'another' }, box);
    await refused('INSTANCE_NOT_FOUND', 'POST', `${path}/heartbeat`, { ...beat, activationId: id('act') }, box);
    await refused('INSTANCE_NOT_FOUND', 'POST', `${path}/heartbeat`, { ...beat, activationId: 'x' }, box);
    await refused('FINGERPRINT_MISMATCH', 'POST', `${path}/heartbeat`, { ...beat, fingerprint: 'other', seq: 6 }, box);
    expect(await done(200, 'GET', `${path}/activations`)).toMatchObject({ data: [{ id: activationId, name: 'box', lease: { seq: 5, version: '1.0', acknowledgedSeq: 2 } }] });
    expect(await done(200, 'POST', `${path}/stream/ack`, { seq: 2, activationId }, box)).toEqual({ acknowledged: 2 });
    await refused('INSTANCE_NOT_FOUND', 'POST', `${path}/stream/ack`, { seq: 2, activationId: id('act') }, box);
    await refused('INSTANCE_NOT_FOUND', 'GET', `${path}/stream?activationId=${id('act')}`, undefined, box);

    expect(await done(200, 'POST', `${path}/rebind`, { fingerprint: 'new', reason: 'a new mainboard' })).toMatchObject({ id: license.id, activationCount: 1 });
    await refused('INSTANCE_NOT_FOUND', 'POST', `${path}/rebind`, { activationId: id('act'), fingerprint: 'x', reason: 'x' });
    expect(await done(200, 'POST', `${path}/heartbeat`, { ...beat, seq: 6 }, box)).toMatchObject({ state: 'rebound', enforcement: 'LOCKED', token: expect.any(String) });
    expect(await done(200, 'POST', `${path}/activate`, { fingerprint: 'new' }, box)).toMatchObject({ activationId });
    await done(200, 'POST', `${path}/suspend`, { cause: 'subscription' });
    await refused('LICENSE_SUSPENDED', 'POST', `${path}/activate`, { fingerprint: 'new' }, box);
    expect(await done(200, 'POST', `${path}/heartbeat`, { activationId, fingerprint: 'new', seq: 1 }, box)).toMatchObject({ state: 'suspended', enforcement: 'LOCKED' });
    await done(200, 'POST', `${path}/revoke`);
    await refused('LICENSE_REVOKED', 'POST', `${path}/activate`, { fingerprint: 'new' }, box);
    await refused('TERMINAL_STATE', 'POST', `${path}/directives`, { kind: 'refresh' });
    await refused('TERMINAL_STATE', 'POST', `${path}/rebind`, { fingerprint: 'x', reason: 'x' });

    const begun = Promise.withResolvers<void>();
    const stream = call('GET', `${path}/stream`, { ...box, begun: begun.resolve });
    await Promise.race([begun.promise, stream]);
    await done(204, 'DELETE', path, { reason: 'gone', force: true });
    const { status, text } = await stream;
    expect({ status, text }).toEqual({ status: 200, text: expect.stringMatching(/^event: state\ndata: .*"status":"revoked".*\n\n[^]*event: end\ndata: {}\n\n$/) });
    for (const [method, at, body] of [['POST', '/activate', first], ['POST', '/heartbeat', beat], ['GET', '/stream'], ['POST', '/stream/ack', { seq: 1 }], ['POST', '/rebind', { fingerprint: 'x', reason: 'x' }], ['POST', '/directives', { kind: 'refresh' }]] as const) {
      await refused('LICENSE_NOT_FOUND', method, path + at, body);
    }
  });

  it('refuses what the terms forbid', async () => {
    const { product, license } = await aLicense({ customerId: undefined, planId: undefined });
    await refused('LICENSE_NOT_ASSIGNED', 'POST', '/license/activate', { licenseKey: license.key });
    expect(await refused('INVALID_TRANSITION', 'POST', `/licenses/${license.id}/suspend`)).toMatchObject({ from: 'available', requested: 'suspend', allowed: expect.any(Array) });
    const issue = async (fields: object) => (await aLicense(fields)).license.key;
    await refused('LICENSE_NOT_YET_EFFECTIVE', 'POST', '/license/activate', { licenseKey: await issue({ effectiveAt: '2099-01-01T00:00:00Z' }) });
    await refused('FINGERPRINT_REQUIRED', 'POST', '/license/activate', { licenseKey: await issue({ binding: 'fingerprint' }) });
    await refused('PRODUCT_MISMATCH', 'POST', '/license/activate', { licenseKey: await issue({}), productId: product.id });
    await refused('DEPLOYMENT_MISMATCH', 'POST', '/license/activate', { licenseKey: await issue({ deploymentId: 'd1' }), deploymentId: 'd2' });
    await refused('DEPLOYMENT_MODE_MISMATCH', 'POST', '/license/activate', { licenseKey: await issue({ deploymentMode: 'cloud' }), deploymentMode: 'on-premises' });
    await refused('METADATA_TOO_LARGE', 'POST', '/license/activate', { licenseKey: await issue({}), metadata: { a: 'x'.repeat(11_000) } });
    await refused('LIMIT_OUT_OF_RANGE', 'POST', '/licenses', { productId: product.id, activationLimit: 0 });
    await refused('EXPIRY_IN_PAST', 'POST', '/licenses', { productId: product.id, expiresAt: '2001-01-01T00:00:00Z' });
    await refused('REFERENCE_NOT_FOUND', 'POST', '/licenses', { productId: id('prd') });
    await refused('LICENSE_NOT_FOUND', 'POST', '/license/deactivate', { licenseKey: 'AAAAAAA-AAAAAAA', instanceId: id('act') });
    expect(await done(200, 'POST', '/license/validate', { licenseKey: 'AAAAAAA-AAAAAAA', nonce: 'n' })).toMatchObject({ valid: false, code: 'NOT_FOUND', license: null, instance: null });
  });

  it('searches licenses', async () => {
    const { product, plan, customer, license } = await aLicense();
    const page = { next: null, total: 1 };
    for (const filter of [`q=${String(license.key).slice(3, 12)}`, `productId=${product.id}`, `planId=${plan.id}`, `customerId=${customer.id}`, `customerId=${customer.id}&status=assigned&status=active`,
      `customerId=${customer.id}&createdAfter=2001-01-01T00:00:00Z&createdBefore=2099-01-01T00:00:00Z&expiresAfter=2001-01-01T00:00:00Z&expiresBefore=2099-01-01T00:00:00Z`]) {
      expect(await done(200, 'GET', `/licenses?${filter}`)).toMatchObject({ data: [{ id: license.id }], page });
      expect(await done(200, 'GET', `/licenses/totals?${filter}`)).toMatchObject({ licenses: 1, byStatus: { assigned: 1 }, averageLimit: 2, maximumActivations: 2 });
    }
    for (const field of ['key', 'product', 'customer', 'status', 'activations', 'expiresAt', 'createdAt']) for (const sort of [field, `-${field}`]) await done(200, 'GET', `/licenses?sort=${sort}&limit=2`);
    expect(await done(200, 'GET', '/licenses/suggest?q=paint')).toMatchObject({ data: expect.arrayContaining([{ kind: 'product', text: 'Paint Pro' }]) });
    await refused('VALIDATION_FAILED', 'GET', '/licenses/suggest');
  });

  it('takes an API key through its life, and it can do what its role can', async () => {
    for (const [role, permissions] of Object.entries(roles)) {
      const key = await done(201, 'POST', '/api-keys', { name: role, role, environment: 'staging' });
      const as = String(key.secret);
      expect(await done(200, 'GET', '/me', undefined, { as })).toEqual({ id: key.id, environment: 'staging', role, permissions });
      await refused('ENVIRONMENT_FORBIDDEN', 'GET', '/me', undefined, { as, headers: { 'x-environment': 'production' } });
      for (const { method, path, operation } of conformance.operations) {
        const permission = operation['x-permission'] as string | undefined;
        if (!permission) continue;
        const { status, json } = await call(method, path.replaceAll(/\{\w+\}/g, 'x'), { as, ...(method !== 'GET' && { body: {} }) });
        expect({ role, method, path, denied: status === 403 ? json['permission'] : false }).toEqual({ role, method, path, denied: (permissions as readonly string[]).includes(permission) ? false : permission });
      }
    }
    const key = await done(201, 'POST', '/api-keys', { name: 'CI', permissions: ['license.read'], environment: 'production', expiresAt: '2099-01-01T00:00:00Z' });
    const { secret: _, ...shown } = key;
    const path = `/api-keys/${key.id}`;
    expect(await done(200, 'GET', path)).toEqual(shown);
    expect(await done(200, 'GET', '/api-keys?limit=1')).toMatchObject({ data: [{ name: 'CI' }] });
    const { secret } = await done(200, 'POST', `${path}/rotate`);
    await refused('UNAUTHENTICATED', 'GET', '/me', undefined, { as: String(key.secret) });
    await done(200, 'GET', '/me', undefined, { as: String(secret) });
    const keeper = String((await done(201, 'POST', '/api-keys', { name: 'Keeper', permissions: ['access.manage'], environment: 'production' })).secret);
    expect(await refused('PERMISSION_DENIED', 'POST', `${path}/rotate`, undefined, { as: keeper })).toMatchObject({ permission: 'license.read' });
    await done(200, 'GET', '/me', undefined, { as: String(secret) });
    await refused('VALIDATION_FAILED', 'POST', '/api-keys', { name: 'x', permissions: [] });
    await done(204, 'DELETE', path);
    await refused('UNAUTHENTICATED', 'GET', '/me', undefined, { as: String(secret) });
    await refused('API_KEY_NOT_FOUND', 'GET', path);
    await refused('API_KEY_NOT_FOUND', 'POST', `${path}/rotate`);
    await refused('API_KEY_NOT_FOUND', 'DELETE', `/api-keys/${id('key')}`);
    await refused('EXPIRY_IN_PAST', 'POST', '/api-keys', { name: 'x', role: 'viewer', expiresAt: '2001-01-01T00:00:00Z' });
    await refused('ENVIRONMENT_NOT_FOUND', 'POST', '/api-keys', { name: 'x', role: 'viewer', environment: 'nowhere' });
    await refused('VALIDATION_FAILED', 'POST', '/api-keys', { name: 'x' });
  });

  it('takes a signing key through its life', async () => {
    const { data, page } = await done(200, 'GET', '/signing-keys?limit=2');
    expect(data).toHaveLength(2);
    await done(200, 'GET', `/signing-keys?limit=2&cursor=${String((page as unknown as { next: string }).next)}`);
    await refused('VALIDATION_FAILED', 'GET', '/signing-keys?cursor=nonsense');
    await refused('VALIDATION_FAILED', 'POST', '/signing-keys', { purpose: 'everything' });
    const key = await done(201, 'POST', '/signing-keys', { purpose: 'webhook' });
    const path = `/signing-keys/${String(key.kid)}`;
    expect(key).toMatchObject({ state: 'staged', purpose: 'webhook', alg: 'Ed25519', publicJwk: { kty: 'OKP', crv: 'Ed25519' }, certificate: { environment: 'production' } });
    expect(await refused('INVALID_TRANSITION', 'POST', `${path}/retire`)).toMatchObject({ from: 'staged', requested: 'retire', allowed: ['activate', 'revoke'] });
    for (let twice = 0; twice < 2; twice++) expect(await done(200, 'POST', `${path}/activate`, twice ? { certificate: key.certificate } : undefined)).toMatchObject({ state: 'active' });
    await refused('VALIDATION_FAILED', 'POST', `${path}/activate`, { certificate: { kid: 'x' } });
    expect(await done(200, 'POST', `${path}/retire`)).toMatchObject({ state: 'retired' });
    expect(await done(200, 'POST', `${path}/revoke`)).toMatchObject({ state: 'revoked' });
    await refused('INVALID_TRANSITION', 'POST', `${path}/activate`);
    for (const step of ['activate', 'retire', 'revoke']) await refused('SIGNING_KEY_NOT_FOUND', 'POST', `/signing-keys/${'A'.repeat(43)}/${step}`);
    expect(await done(200, 'GET', '/.well-known/jwks.json', undefined, { as: '' })).toMatchObject({ revoked: expect.arrayContaining([key.kid]) });
    expect(await done(200, 'GET', '/.well-known/keyledger-root.json', undefined, { as: '', headers: { 'x-environment': 'staging' } })).toMatchObject({ environment: 'staging' });
    await refused('ENVIRONMENT_NOT_FOUND', 'GET', '/.well-known/keyledger-root.json', undefined, { as: '', headers: { 'x-environment': 'nowhere' } });
    const { secret } = await done(201, 'POST', '/api-keys', { name: 'license manager', role: 'license_manager' });
    expect(await refused('PERMISSION_DENIED', 'GET', '/signing-keys', undefined, { as: String(secret) })).toMatchObject({ permission: 'signing.manage' });
  });

  it('signs what a license is outside of the house', async () => {
    const { license, path } = await aLicense();
    const { token, instance } = await done(201, 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp' });
    expect(token).toMatch(/^[\w-]+\.[\w-]+\.[\w-]{86}$/);
    expect(await done(200, 'POST', '/license/validate', { licenseKey: license.key, nonce: 'n' }, { as: '' })).toMatchObject({ token: expect.any(String) });
    expect(await done(201, 'POST', `${path}/license-file`)).toMatchObject({ content: expect.stringContaining('BEGIN KEYLEDGER LICENSE'), expiresAt: license.expiresAt });
    expect(await done(201, 'POST', `${path}/offline-file`, { activationId: (instance as unknown as { id: string }).id })).toMatchObject({ content: expect.stringContaining('offline-validation') });
    await done(201, 'POST', `${path}/offline-file`);
    await refused('INSTANCE_NOT_FOUND', 'POST', `${path}/offline-file`, { activationId: 'act_1' });
    for (const file of ['license-file', 'offline-file']) await refused('LICENSE_NOT_FOUND', 'POST', `/licenses/${id('lic')}/${file}`);
    await done(200, 'POST', `${path}/suspend`, {});
    await refused('INVALID_TRANSITION', 'POST', `${path}/license-file`);
    await done(200, 'POST', `${path}/revoke`, {});
    await refused('TERMINAL_STATE', 'POST', `${path}/license-file`);
    expect(await done(201, 'POST', `${path}/offline-file`)).toMatchObject({ content: expect.any(String) });
  });

  it('only lets a super_admin erase a license that was ever activated', async () => {
    const { license, path } = await aLicense();
    await done(201, 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp' });
    const { secret } = await done(201, 'POST', '/api-keys', { name: 'support', role: 'support' });
    expect(await refused('PERMISSION_DENIED', 'DELETE', path, { reason: 'gdpr', force: true }, { as: String(secret) })).toMatchObject({ permission: 'license.erase' });
    await done(204, 'DELETE', path, { reason: 'gdpr', force: true });
  });

  it('shows one environment nothing of another', async () => {
    const { product, plan, customer, license, path } = await aLicense();
    const staging = { headers: { 'x-environment': 'staging' } };
    for (const [code, at] of [['LICENSE_NOT_FOUND', path], ['PRODUCT_NOT_FOUND', `/products/${product.id}`], ['PLAN_NOT_FOUND', `/plans/${plan.id}`], ['CUSTOMER_NOT_FOUND', `/customers/${customer.id}`]] as const) {
      await refused(code, 'GET', at, undefined, staging);
    }
    expect(await done(200, 'POST', '/license/validate', { licenseKey: license.key }, { as: '', ...staging })).toMatchObject({ code: 'NOT_FOUND' });
    await refused('LICENSE_NOT_FOUND', 'POST', '/license/activate', { licenseKey: license.key }, { as: '', ...staging });
    await refused('REFERENCE_NOT_FOUND', 'POST', '/licenses', { productId: product.id }, staging);
    expect(await done(200, 'GET', `/licenses?customerId=${customer.id}`, undefined, staging)).toMatchObject({ data: [], page: { total: 0 } });
    for (const name of ['nowhere', 'control', 'Production', '']) await refused('ENVIRONMENT_NOT_FOUND', 'GET', '/me', undefined, { headers: { 'x-environment': name } });
    await refused('ENVIRONMENT_NOT_FOUND', 'POST', '/license/validate', { licenseKey: license.key }, { as: '', headers: { 'x-environment': 'control' } });
  });

  it('honours If-Match wherever something changes', async () => {
    const { product, plan, customer, license, path } = await aLicense();
    const etag = async (at: string) => String((await call('GET', at)).headers['etag']);
    const stale = { headers: { 'if-match': '"77"' } };
    for (const at of [`/products/${product.id}`, `/plans/${plan.id}`, `/customers/${customer.id}`, path]) {
      const body = at === path ? { activationLimit: 4 } : { name: 'New' };
      await refused('VERSION_CONFLICT', 'PATCH', at, body, stale);
      await refused('VERSION_CONFLICT', 'PATCH', at, body, { headers: { 'if-match': 'nonsense' } });
      const before = await etag(at);
      const { headers: { etag: after } } = await call('PATCH', at, { body, headers: { 'if-match': before } });
      expect(after).toBe(await etag(at));
      expect(after).not.toBe(before);
      await refused('VERSION_CONFLICT', 'PATCH', at, body, { headers: { 'if-match': before } });
      await done(200, 'PATCH', at, body, { headers: { 'if-match': '*' } });
    }
    for (const action of ['inactivate', 'suspend', 'revoke', 'regenerate-key']) await refused('VERSION_CONFLICT', 'POST', `${path}/${action}`, {}, stale);
    await refused('VERSION_CONFLICT', 'POST', `/products/${product.id}/archive`, undefined, stale);
    await refused('VERSION_CONFLICT', 'DELETE', path, { reason: 'x' }, stale);
    const key = await done(201, 'POST', '/api-keys', { name: 'k', role: 'viewer' });
    await refused('VERSION_CONFLICT', 'DELETE', `/api-keys/${key.id}`, undefined, stale);
    await refused('VERSION_CONFLICT', 'POST', `/api-keys/${key.id}/rotate`, undefined, stale);
    expect(await done(200, 'GET', path)).toMatchObject({ status: 'assigned', key: license.key });
  });

  it('pages through a list without gap or repetition, and knows its own cursors', async () => {
    const { product, license, path } = await aLicense();
    for (const fingerprint of ['a', 'b']) await done(201, 'POST', '/license/activate', { licenseKey: license.key, fingerprint });
    for (let n = 0; n < 4; n++) await done(201, 'POST', '/licenses', { productId: product.id });
    for (const at of [`/licenses?productId=${product.id}&sort=expiresAt&limit=2`, '/products?limit=3', '/customers?limit=2', '/api-keys?limit=4', `${path}/activations?limit=1`, `${path}/events?limit=2`]) {
      const ids: unknown[] = [];
      let total = 0;
      for (let cursor: string | null = ''; cursor !== null;) {
        const { data, page } = await done(200, 'GET', at + (cursor && `&cursor=${cursor}`)) as unknown as { data: { id?: string; revision: number }[]; page: { next: string | null; total: number } };
        ids.push(...data.map((one) => one.id ?? one.revision));
        ({ next: cursor, total } = page);
      }
      expect(new Set(ids).size).toBe(ids.length);
      expect(ids).toHaveLength(total);
    }
    for (const cursor of ['x', '0', '-1', 'W10', 'bnVsbA', 'a'.repeat(1000), '%00', '%F0%9F%94%91']) {
      for (const list of ['/licenses', '/products', '/customers', '/orders', '/generators', '/api-keys', `/products/${product.id}/plans`, `${path}/activations`, `${path}/events`]) {
        expect((await refused('VALIDATION_FAILED', 'GET', `${list}?cursor=${cursor}`))['errors']).toMatchObject([{ pointer: '/cursor' }]);
      }
    }
    for (const limit of ['0', '101', '-1', '1.5', 'x', '', '1e9', '25&limit=25']) await refused('VALIDATION_FAILED', 'GET', `/licenses?limit=${limit}`);
  });

  it('counts what instances use', async () => {
    const { license, path } = await aLicense({ quotas: [{ meter: 'cores', limit: 8 }, { meter: 'mails', limit: 99, per: 'day' }], features: { calls: { limit: 10, per: 'month' } } });
    const { instance } = await done(201, 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'a', instanceName: 'gateway' }, { as: '' }) as unknown as { instance: { id: string } };
    const at = new Date().toISOString();
    const batch = { licenseKey: license.key, instanceId: instance.id, records: [{ id: '1', meter: 'cores', value: 7.5, at }, { id: '2', meter: 'calls', value: 3, at }] };
    const quotas = [{ meter: 'cores', limit: 8, state: 'normal', lastPeak: null, graceEndsAt: null }, { meter: 'mails', limit: 99, per: 'day', state: 'normal', lastPeak: null, graceEndsAt: null }];
    expect(await done(200, 'POST', '/license/usage', batch, { as: '' })).toEqual({ accepted: 2, duplicates: 0, quotas });
    expect(await done(200, 'POST', '/license/usage', batch, { as: '' })).toMatchObject({ accepted: 0, duplicates: 2 });
    expect(await done(200, 'GET', path)).toMatchObject({ features: { calls: { limit: 10, per: 'month', used: 3, remaining: 7 } }, quotas });
    await refused('LICENSE_NOT_FOUND', 'POST', '/license/usage', { ...batch, licenseKey: 'x' }, { as: '' });
    await refused('INSTANCE_NOT_FOUND', 'POST', '/license/usage', { ...batch, instanceId: 'x' }, { as: '' });
    await refused('USAGE_OUT_OF_RANGE', 'POST', '/license/usage', { ...batch, records: [{ ...batch.records[0], at: '2020-01-01T00:00:00Z' }] }, { as: '' });
    await refused('VALIDATION_FAILED', 'POST', '/license/usage', { ...batch, records: [] }, { as: '' });
    const justAfter = new Date(Date.parse(at) + 1).toISOString();
    for (const bucket of ['hour', 'day', 'month']) {
      const { data } = await done(200, 'GET', `${path}/usage?meter=cores&bucket=${bucket}&to=${justAfter}`) as unknown as { data: { peak: number; sum: number }[] };
      expect(data.at(-1)).toMatchObject({ peak: 7.5, sum: 7.5 });
    }
    const today = at.slice(0, 10);
    expect(await done(200, 'GET', `${path}/usage/explain?meter=cores&day=${today}`)).toMatchObject({ kind: 'gauge', peak: 7.5, peakAt: at, instances: [{ instanceId: instance.id, name: 'gateway', value: 7.5, readings: [{ id: '1', value: 7.5, at }] }] });
    expect(await done(200, 'GET', `${path}/usage/explain?meter=calls&day=${today}`)).toMatchObject({ kind: 'counter', sum: 3, instances: [{ value: 3 }] });
    for (const query of ['', '?meter=', '?meter=cores&bucket=week', '?meter=cores&from=then', '?meter=cores&bucket=hour&from=2020-01-01T00:00:00Z']) await refused('VALIDATION_FAILED', 'GET', `${path}/usage${query}`);
    for (const query of ['?meter=cores', '?meter=cores&day=today', '?meter=cores&day=2026-02-30']) await refused('VALIDATION_FAILED', 'GET', `${path}/usage/explain${query}`);
    for (const what of ['usage?meter=cores', `usage/explain?meter=cores&day=${today}`]) await refused('LICENSE_NOT_FOUND', 'GET', `/licenses/${id('lic')}/${what}`);
  });

  it('lets the time of a test environment be put forward, and says what time has brought about', async () => {
    const clock = '/environments/staging/clock';
    const { now } = await done(200, 'GET', clock) as unknown as { now: string };
    const tomorrow = new Date(Date.parse(now) + 86_400_000).toISOString();
    expect(await done(200, 'PUT', clock, { now: tomorrow })).toEqual({ now: tomorrow, controlled: true });
    expect(await done(200, 'PUT', clock, { now: tomorrow })).toMatchObject({ controlled: true });
    expect(await done(200, 'POST', `${clock}/advance`, { seconds: 0.5 })).toMatchObject({ controlled: true });
    await refused('CLOCK_BACKWARDS', 'PUT', clock, { now });
    for (const instant of ['tomorrow', '2026-13-01T00:00:00Z', '9999-12-31T00:00:00Z', null, 5]) await refused('VALIDATION_FAILED', 'PUT', clock, { now: instant });
    for (const seconds of [-1, '1', 1e15, null]) await refused('VALIDATION_FAILED', 'POST', `${clock}/advance`, { seconds });
    await refused('VALIDATION_FAILED', 'PUT', clock, {});
    await refused('PRODUCTION_CLOCK', 'PUT', '/environments/production/clock', { now: tomorrow });
    await refused('PRODUCTION_CLOCK', 'POST', '/environments/production/clock/advance', { seconds: 1 });
    for (const name of ['control', 'nowhere', '..%2Fproduction', '%20']) await refused('ENVIRONMENT_NOT_FOUND', 'GET', `/environments/${name}/clock`);
    expect(await done(200, 'GET', '/environments/production/clock')).toMatchObject({ controlled: false });

    expect(await done(200, 'POST', '/licenses/health/sweep', { dryRun: true })).toMatchObject({ number: null, dryRun: true });
    expect(await done(200, 'POST', '/licenses/health/sweep')).toMatchObject({ dryRun: false });
    expect(await done(200, 'POST', '/licenses/health/sweep')).toMatchObject({ examined: 0, transitions: {} });
    expect(await done(200, 'GET', '/sweeps?limit=1')).toMatchObject({ data: [{ trigger: 'request', state: 'finished', transitions: {} }] });
    await refused('VALIDATION_FAILED', 'GET', '/sweeps?cursor=nonsense');
  });

  it('does bulk work in the background, and tells what has come of it', async () => {
    const { product, customer, license, path } = await aLicense();
    const generator = await done(201, 'POST', '/generators', { name: 'Many', productId: product.id, keyFormat: { kind: 'uuid' } });
    const batch = await done(202, 'POST', `/generators/${generator.id}/batches`, { count: 3 });
    const file = { as: root, headers: { 'content-type': 'text/csv' }, body: `licenseKey,customerEmail\n${String(license.key)},${product.id}@example.com\nx,y@example.com` };
    const imported = await call('POST', '/imports?dryRun=true', file);
    expect({ status: imported.status, location: imported.headers['location'] }).toEqual({ status: 202, location: `/jobs/${imported.json.id}` });
    for (const { id: jobId } of [batch, imported.json]) expect((await call('GET', `/jobs/${jobId}/events`)).text).toMatch('event: end\n');
    expect(await done(200, 'GET', `/jobs/${batch.id}`)).toMatchObject({ kind: 'batch', state: 'completed', done: 3, total: 3, failed: 0 });
    expect(await done(200, 'GET', `/jobs/${imported.json.id}/result`)).toMatchObject({ data: [{ outcome: 'unchanged', licenseId: license.id, customerId: customer.id }, { outcome: 'failed', code: 'LICENSE_NOT_FOUND' }] });
    expect(await done(200, 'GET', '/jobs?state=completed&kind=batch&sort=-createdAt&limit=1')).toMatchObject({ data: [{ id: batch.id }] });
    const asCsv = { headers: { accept: 'text/csv' } };
    expect((await call('GET', `/jobs/${batch.id}/result`, asCsv)).text.split('\r\n')).toHaveLength(5);
    await refused('KEYS_ALREADY_DOWNLOADED', 'GET', `/jobs/${batch.id}/result`, undefined, asCsv);
    await refused('INVALID_TRANSITION', 'POST', `/jobs/${batch.id}/cancel`);
    const long = await done(202, 'POST', `/generators/${generator.id}/batches`, { count: 5_000 });
    await refused('JOB_NOT_FINISHED', 'GET', `/jobs/${long.id}/result`);
    expect(await done(200, 'POST', `/jobs/${long.id}/cancel`)).toMatchObject({ state: 'cancelled' });
    for (const [method, what] of [['GET', ''], ['GET', '/events'], ['GET', '/result'], ['POST', '/cancel']] as const) await refused('JOB_NOT_FOUND', method, `/jobs/${id('job')}${what}`);
    await refused('GENERATOR_NOT_FOUND', 'POST', `/generators/${id('gen')}/batches`, { count: 1 });
    await refused('VALIDATION_FAILED', 'GET', '/jobs?state=over');
    await refused('UNSUPPORTED_MEDIA_TYPE', 'POST', '/imports', {});
    expect(JSON.parse((await call('GET', `/licenses/export?q=${String(license.key)}`)).text)).toEqual([await done(200, 'GET', path)]);
    expect((await call('GET', `/licenses/export?format=csv&customerId=${customer.id}`)).text.split('\r\n')).toHaveLength(3);
  });

  it('tells webhook endpoints, if their address may be reached', async () => {
    const body = { url: 'https://webhooks.invalid/keyledger', events: ['license.*'], description: 'CRM' };
    const { id: endpointId, secret: _, ...endpoint } = await done(201, 'POST', '/webhook-endpoints', body);
    const path = `/webhook-endpoints/${endpointId}`;
    expect(await done(200, 'GET', path)).toEqual({ id: endpointId, ...endpoint });
    expect(await done(200, 'GET', '/webhook-endpoints')).toMatchObject({ data: [{ id: endpointId, url: body.url, enabled: true, disabledBy: null }], page: { total: 1 } });
    expect(await done(200, 'PATCH', path, { events: ['*'] })).toMatchObject({ events: ['*'], revision: 1 });
    await refused('VERSION_CONFLICT', 'PATCH', path, { events: ['job.*'] }, { headers: { 'if-match': '"0"' } });
    for (const url of ['http://example.com/', 'https://127.0.0.1/', 'https://localhost:3000/', 'https://user:secret@example.com/', 'https://0x7f.1/']) {
      await refused('WEBHOOK_URL_REFUSED', 'POST', '/webhook-endpoints', { ...body, url });
      await refused('WEBHOOK_URL_REFUSED', 'PATCH', path, { url });
    }
    for (const wrong of [{}, { ...body, url: 'example.com' }, { ...body, events: [] }, { ...body, events: ['license.sold'] }, { ...body, enabled: true }]) await refused('VALIDATION_FAILED', 'POST', '/webhook-endpoints', wrong);
    expect(await done(200, 'POST', `${path}/rotate-secret`)).toMatchObject({ secret: expect.stringMatching(/^whsec_/), oldSecretValidUntil: expect.any(String) });
    const { id: deliveryId } = await done(200, 'POST', `${path}/test`);
    expect(await done(200, 'GET', `/webhook-deliveries/${deliveryId}`)).toMatchObject({ endpointId, type: 'webhook.test', payload: { type: 'webhook.test', data: { endpointId } } });
    expect(await done(200, 'GET', `/webhook-deliveries?endpointId=${endpointId}&status=pending`)).toMatchObject({ data: [{ id: deliveryId }] });
    expect(await done(200, 'POST', `/webhook-deliveries/${deliveryId}/resend`)).toMatchObject({ id: deliveryId });
    expect(await done(200, 'POST', `${path}/recover`, { since: '2020-01-01T00:00:00Z' })).toMatchObject({ requeued: 0 });
    await refused('VALIDATION_FAILED', 'POST', `${path}/recover`, { since: 'yesterday' });
    for (const query of ['?status=lost', '?endpointId=all', '?cursor=nonsense']) await refused('VALIDATION_FAILED', 'GET', `/webhook-deliveries${query}`);
    expect(await done(200, 'PATCH', path, { enabled: false })).toMatchObject({ enabled: false, disabledBy: 'manual' });
    for (const [what, sent] of [['test'], ['recover', { since: '2020-01-01T00:00:00Z' }]] as const) await refused('WEBHOOK_ENDPOINT_DISABLED', 'POST', `${path}/${what}`, sent);
    await refused('WEBHOOK_ENDPOINT_DISABLED', 'POST', `/webhook-deliveries/${deliveryId}/resend`);
    await done(204, 'DELETE', path);
    for (const [method, under, sent] of [['GET', ''], ['PATCH', '', { events: ['*'] }], ['DELETE', ''], ['POST', '/rotate-secret'], ['POST', '/test'], ['POST', '/recover', { since: '2020-01-01T00:00:00Z' }]] as const) {
      await refused('WEBHOOK_ENDPOINT_NOT_FOUND', method, `${path}${under}`, sent);
      await refused('WEBHOOK_ENDPOINT_NOT_FOUND', method, `/webhook-endpoints/${id('whk')}${under}`, sent);
    }
    await refused('WEBHOOK_DELIVERY_NOT_FOUND', 'GET', `/webhook-deliveries/${id('whd')}`);
    await refused('WEBHOOK_DELIVERY_NOT_FOUND', 'POST', `/webhook-deliveries/${id('whd')}/resend`);
  });

  it('answers a repeated Idempotency-Key with the first answer', async () => {
    const headers = { 'idempotency-key': 'order-1' };
    const first = await call('POST', '/products', { body: { name: 'Once' }, headers });
    const again = await call('POST', '/products', { body: { name: 'Once' }, headers });
    expect(again).toMatchObject({ status: 201, text: first.text, headers: { 'idempotency-replayed': 'true', etag: first.headers['etag'], 'content-type': first.headers['content-type'] } });
    await refused('IDEMPOTENCY_KEY_REUSED', 'POST', '/products', { name: 'Twice' }, { headers });
    for (const key of ['', 'x'.repeat(256)]) await refused('VALIDATION_FAILED', 'POST', '/products', { name: 'x' }, { headers: { 'idempotency-key': key } });
    await done(201, 'POST', '/products', { name: 'x' }, { headers: { 'idempotency-key': 'x'.repeat(255) } });
    const { license, path } = await aLicense();
    const refusal = await call('DELETE', path, { body: { reason: 'x' }, headers: { 'idempotency-key': 'd' } });
    expect(refusal.status).toBe(204);
    expect(await call('DELETE', path, { body: { reason: 'x' }, headers: { 'idempotency-key': 'd' } })).toMatchObject({ status: 204, text: '', headers: { 'idempotency-replayed': 'true' } });
    const unknown = await call('POST', '/license/activate', { body: { licenseKey: license.key }, headers: { 'idempotency-key': 'a' } });
    expect(unknown.json.code).toBe('LICENSE_NOT_FOUND');
    expect(await call('POST', '/license/activate', { body: { licenseKey: license.key }, headers: { 'idempotency-key': 'a' } })).toMatchObject({ status: 404, headers: { 'idempotency-replayed': 'true', 'content-type': unknown.headers['content-type'] } });
  });

  it('counts who could not get a seat, and takes rules against abuse', async () => {
    const { license } = await aLicense({}, { activationLimit: 1 }) as unknown as { license: { id: string; key: string } };
    await done(201, 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'one' });
    await refused('ACTIVATION_LIMIT_EXCEEDED', 'POST', '/license/activate', { licenseKey: license.key, fingerprint: 'two' });
    const path = `/licenses/${license.id}/denials?from=2026-01-01T00:00:00Z`;
    // What another process has seen is there after a second.
    for (const until = Date.now() + 10_000; Date.now() < until && (await done(200, 'GET', path) as unknown as { data: object[] }).data.length === 0;) await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await done(200, 'GET', path)).toMatchObject({ data: [{ denials: 1, machines: 1, retries: 0 }] });
    expect(await done(200, 'GET', '/denials?limit=1')).toMatchObject({ data: [{ licenseId: license.id }], unknownKeys: {} });
    for (const query of ['?to=2026-12-31T23:59:60Z', '?from=yesterday']) await refused('VALIDATION_FAILED', 'GET', `/licenses/${license.id}/denials${query}`);
    await refused('LICENSE_NOT_FOUND', 'GET', `/licenses/${id('lic')}/denials`);
    const rules = [{ pattern: 'activationsPerHour', limit: 100, action: 'alert' }];
    expect(await done(200, 'PUT', '/abuse-rules', { rules })).toEqual({ rules });
    expect(await done(200, 'GET', '/abuse-rules')).toEqual({ rules });
    await refused('VALIDATION_FAILED', 'PUT', '/abuse-rules', { rules: [{ pattern: 'activationsPerHour', limit: 0, action: 'alert' }] });
  });

  it('is covered by this file, all of it', () => {
    const succeeded = new Set([...conformance.seen].filter((entry) => /\d$/.test(entry)).map((entry) => entry.split(' ')[0]));
    expect(conformance.operations.map((operation) => operation.id).filter((name) => !succeeded.has(name))).toEqual([]);
  });
});
