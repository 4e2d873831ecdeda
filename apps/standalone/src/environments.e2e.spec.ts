import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { ApiKeyView, CustomerView, GeneratorView, InstanceView, LicenseView, OrderView, PlanView, ProductView, SigningKeyView } from '@keyledger/contracts';
import { placesOf, rowsIn, type Place } from '@keyledger/testing/kept';
import { onFiles, Product, validate, type Answer, type Client, type Listed, type Method, type Problem, type Sold } from '@keyledger/testing/process';

const nobody = '01938000-0000-7000-8000-000000000000';

/** One of everything, in one environment. */
interface World {
  readonly api: Client;
  readonly product: ProductView;
  readonly plan: PlanView;
  readonly generator: GeneratorView;
  readonly customer: CustomerView;
  readonly order: OrderView;
  readonly license: Sold;
  readonly instance: InstanceView;
  readonly apiKey: ApiKeyView & { readonly secret: string };
  readonly signingKey: { readonly id: string };
  readonly job: { readonly id: string };
  readonly webhook: { readonly id: string };
  readonly delivery: { readonly id: string };
}

async function populate(product: Product, environment: string, mark: string): Promise<World> {
  const root = product.root.in(environment);
  const apiKey = await root.post<World['apiKey']>('/api-keys', { name: `${mark} admin`, role: 'super_admin' });
  const api = product.as(apiKey.secret);
  const made = await api.post<ProductView>('/products', { name: `${mark} product`, code: 'the-same-code' });
  const plan = await api.post<PlanView>(`/products/${made.id}/plans`, { name: `${mark} plan`, licensing: { enabled: true, activationLimit: 5 } });
  const generator = await api.post<GeneratorView>('/generators', { name: `${mark} generator`, productId: made.id, keyFormat: { kind: 'crockford' } });
  const customer = await api.post<CustomerView>('/customers', { name: `${mark} customer`, email: 'the.same@example.com' });
  const order = await api.post<OrderView>('/orders', { planId: plan.id, customerId: customer.id, quantity: 3 });
  const license = order.licenses[0] as Sold;
  const { instance } = await product.app.in(environment).post<{ instance: InstanceView }>('/license/activate', { licenseKey: license.key, instanceName: `${mark} machine`, fingerprint: 'the same machine' });
  const { kid } = await api.post<SigningKeyView>('/signing-keys', { purpose: 'lease' });
  const job = await api.post<{ id: string }>('/imports?dryRun=true', 'licenseKey,customerEmail\nnobody,nobody@example.com\n', { 'content-type': 'text/csv' });
  const webhook = await api.post<{ id: string }>('/webhook-endpoints', { url: 'http://127.0.0.1:9/', events: ['job.*'] });
  const delivery = await api.post<{ id: string }>(`/webhook-endpoints/${webhook.id}/test`);
  return { api, product: made, plan, generator, customer, order, license, instance, apiKey, signingKey: { id: kid }, job, webhook, delivery };
}

/** An answer without what is different in every answer, and without the ids that were asked for, whole or as what the name of a key is masked to. */
function anonymous({ status, body }: Answer<unknown>, ids: readonly string[]): unknown {
  const { requestId: _, ...rest } = (body ?? {}) as Record<string, unknown>;
  return { status, body: JSON.parse(ids.reduce((text, id) => text.replaceAll(id, '…'), JSON.stringify(rest)).replaceAll(/signing-keys\/[^/"]+/g, 'signing-keys/…')) };
}

let product: Product;
let production: World;
let staging: World;
/** The callers of production: its own administrator, and the root key without a header. */
let callers: readonly Client[];
beforeAll(async () => {
  // Where nobody listens: what is sent there goes nowhere.
  product = await Product.start({ KEYLEDGER_WEBHOOK_ALLOW_PRIVATE: 'true' });
  production = await populate(product, 'production', 'Prod');
  staging = await populate(product, 'staging', 'Canary');
  callers = [production.api, product.root];
});
afterAll(() => product.stop());

describe('Nothing of staging', () => {
  /** The id that a path parameter of a route names. */
  const idFor = (path: string, name: string): string => {
    const { product: made, plan, generator, customer, order, license, instance, apiKey, signingKey, job, webhook, delivery } = staging;
    const resource = path.split('/')[1] as string;
    const found = name === 'instanceId' ? instance : { products: made, plans: plan, generators: generator, customers: customer, orders: order, licenses: license, subscriptions: license, 'api-keys': apiKey, 'signing-keys': signingKey, jobs: job, 'webhook-endpoints': webhook, 'webhook-deliveries': delivery }[resource];
    if (!found) throw new Error(`${path}: no staging id for {${name}}: give this test one`);
    return found.id;
  };
  const bodyFor: Readonly<Record<string, () => unknown>> = {
    'POST /products/{id}/plans': () => ({ name: 'x' }), 'PATCH /products/{id}': () => ({ name: 'x' }), 'PATCH /plans/{id}': () => ({ name: 'x' }),
    'PATCH /customers/{id}': () => ({ name: 'x' }), 'PATCH /generators/{id}': () => ({ name: 'x' }), 'PATCH /licenses/{id}': () => ({ activationLimit: 1 }),
    'POST /licenses/{id}/assign': () => ({ customerId: production.customer.id }), 'POST /licenses/{id}/renew': () => ({ expiresAt: '2099-01-01T00:00:00Z', reason: 'x' }),
    'DELETE /licenses/{id}': () => ({ reason: 'x', force: true }),
    'POST /licenses/{id}/activate': () => ({ fingerprint: 'x' }), 'POST /licenses/{id}/heartbeat': () => ({ activationId: staging.instance.id, fingerprint: 'x', seq: 1 }),
    'POST /licenses/{id}/rebind': () => ({ fingerprint: 'x', reason: 'x' }), 'POST /licenses/{id}/directives': () => ({ kind: 'refresh' }), 'POST /licenses/{id}/stream/ack': () => ({ seq: 1 }),
    'POST /generators/{id}/batches': () => ({ count: 1 }), 'PATCH /webhook-endpoints/{id}': () => ({ description: 'x' }), 'POST /webhook-endpoints/{id}/recover': () => ({ since: '2026-01-01T00:00:00Z' }),
  };

  const queryFor: Readonly<Record<string, string>> = { '/licenses/{id}/usage': '?meter=cores', '/licenses/{id}/usage/explain': '?meter=cores&day=2026-03-12' };

  it('is there for production under any path that takes an id, and the answer is that for an id of nothing', async () => {
    const { paths } = await product.app.get<{ paths: Record<string, Record<string, unknown>> }>('/openapi.json');
    const routes = Object.entries(paths).filter(([path]) => path.includes('{') && !path.startsWith('/environments/')).flatMap(([path, methods]) => Object.keys(methods).map((method) => [method.toUpperCase() as Method, path] as const));
    expect(routes.length).toBeGreaterThan(20);
    for (const [method, path] of routes) {
      const ids = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => idFor(path, name as string));
      const at = (own: (id: string) => string) => path.replaceAll(/\{(\w+)\}/g, (_, name: string) => own(idFor(path, name))) + (queryFor[path] ?? '');
      const body = (bodyFor[`${method} ${path}`] ?? (() => (method === 'POST' ? {} : undefined)))();
      for (const caller of callers) {
        const foreign = await caller.ask<unknown>(method, at((id) => id), body);
        const unknown = await caller.ask<unknown>(method, at((id) => `${id.slice(0, 4)}${nobody}`), body);
        expect({ route: `${method} ${path}`, status: foreign.status }).toEqual({ route: `${method} ${path}`, status: 404 });
        expect(anonymous(foreign, ids)).toEqual(anonymous(unknown, ids.map((id) => `${id.slice(0, 4)}${nobody}`)));
      }
    }
    // A license of one's own does not open the instances of another environment either.
    const mixed = await production.api.refused('DELETE', `/licenses/${production.license.id}/activations/${staging.instance.id}`);
    expect(mixed.code).toBe('INSTANCE_NOT_FOUND');
    expect(await staging.api.get(`/licenses/${staging.license.id}`)).toMatchObject({ activationCount: 1, revision: staging.license.revision + 1 });
  });

  it('can be referred to in a body', async () => {
    const { product: made, plan, customer, generator } = production;
    const references: readonly (readonly [Method, string, object])[] = [
      ['POST', '/orders', { planId: staging.plan.id, customerId: customer.id }],
      ['POST', '/orders', { planId: plan.id, customerId: staging.customer.id }],
      ['POST', '/licenses', { productId: staging.product.id }],
      ['POST', '/licenses', { productId: made.id, planId: staging.plan.id }],
      ['POST', '/licenses', { productId: made.id, generatorId: staging.generator.id }],
      ['POST', '/licenses', { productId: made.id, customerId: staging.customer.id }],
      ['POST', '/generators', { name: 'x', productId: staging.product.id, keyFormat: { kind: 'uuid' } }],
      ['POST', '/generators', { name: 'x', productId: made.id, planId: staging.plan.id, keyFormat: { kind: 'uuid' } }],
      ['PATCH', `/generators/${generator.id}`, { planId: staging.plan.id }],
      ['PATCH', `/licenses/${production.license.id}`, { customerId: staging.customer.id }],
      ['POST', `/licenses/${production.license.id}/assign`, { customerId: staging.customer.id }],
    ];
    for (const caller of callers) {
      for (const [method, path, body] of references) {
        expect({ path, body, ...(await caller.refused(method, path, body)) }).toMatchObject({ path, body, status: 422, code: 'REFERENCE_NOT_FOUND' });
      }
    }
  });

  it('is in a list, a search, a suggestion or a total of production', async () => {
    const filters = [`productId=${staging.product.id}`, `planId=${staging.plan.id}`, `customerId=${staging.customer.id}`, 'q=Canary', `q=${staging.license.key.slice(3, 12)}`];
    for (const caller of callers) {
      for (const filter of filters) {
        expect({ filter, ...(await caller.get<Listed<LicenseView>>(`/licenses?${filter}`)) }).toMatchObject({ filter, data: [], page: { total: 0 } });
        expect(await caller.get(`/licenses/totals?${filter}`)).toMatchObject({ licenses: 0 });
      }
      for (const q of ['Canary', staging.license.key.slice(0, 10)]) expect(await caller.get(`/licenses/suggest?q=${q}`)).toEqual({ data: [] });
      for (const list of ['/products', '/customers', '/orders', '/generators', '/licenses', '/api-keys', '/products?q=Canary', '/customers?q=Canary', `/orders?customerId=${staging.customer.id}`, `/orders?planId=${staging.plan.id}`, `/generators?productId=${staging.product.id}`]) {
        expect(JSON.stringify(await caller.all(list))).not.toMatch(new RegExp(`Canary|${staging.product.id}|${staging.license.id}|${staging.apiKey.id}`));
      }
      expect(await caller.get('/licenses/totals')).toMatchObject({ licenses: 3, byStatus: { active: 1, assigned: 2 } });
    }
    expect(await staging.api.get('/licenses?q=Canary')).toMatchObject({ page: { total: 3 } });
  });

  it('comes with a cursor that was taken from there', async () => {
    for (const list of ['/licenses', '/licenses?sort=key', '/orders', `/licenses/LICENSE/activations?include=ended`, '/licenses/LICENSE/events']) {
      const of = (world: World) => `${list.replace('LICENSE', world.license.id)}${list.includes('?') ? '&' : '?'}limit=1`;
      const { page: { next } } = await staging.api.get<Listed<unknown>>(of(staging));
      if (!next) continue;
      const answer = await production.api.ask<Listed<unknown>>('GET', `${of(production)}&cursor=${encodeURIComponent(next)}`);
      expect([200, 400]).toContain(answer.status);
      expect(JSON.stringify(answer.body)).not.toMatch(new RegExp(`Canary|${staging.license.id}|${staging.order.id}|${staging.license.key}`));
    }
  });

  it('is valid with its license key, and the answer is that for a key of nothing', async () => {
    const { app } = product;
    const unknownKey = `${staging.license.key.slice(0, -5)}ZZZZZ`;
    for (const [path, body] of [['validate', {}], ['activate', { fingerprint: 'f' }], ['deactivate', { instanceId: staging.instance.id }]] as const) {
      const [foreign, unknown] = await Promise.all([staging.license.key, unknownKey].map((licenseKey) => app.ask<Problem & { decisionId?: string; checkedAt?: string }>('POST', `/license/${path}`, { licenseKey, ...body })));
      const plain = (answer: typeof foreign) => ({ ...(anonymous(answer as Answer, []) as { body: object }).body, decisionId: '', checkedAt: '' });
      expect(foreign?.body.code).toBe(path === 'validate' ? 'NOT_FOUND' : 'LICENSE_NOT_FOUND');
      expect(plain(foreign)).toEqual(plain(unknown));
    }
    expect(await validate(app.in('staging'), staging.license.key, { instanceId: staging.instance.id })).toMatchObject({ valid: true, license: { activationCount: 1 } });
    expect(await validate(app.in('staging'), production.license.key)).toMatchObject({ valid: false, code: 'NOT_FOUND', license: null });
    // Known now to every cache, in its own environment only.
    expect(await validate(app, staging.license.key)).toMatchObject({ valid: false, code: 'NOT_FOUND', license: null });
    expect(await validate(app, production.license.key, { instanceId: staging.instance.id })).toMatchObject({ code: 'INSTANCE_NOT_FOUND' });
  });
});

describe('An API key', () => {
  it('of one environment is refused in another, and works in its own without a header', async () => {
    for (const [own, other, world] of [['production', 'staging', production], ['staging', 'production', staging]] as const) {
      expect(await world.api.get('/me')).toMatchObject({ environment: own });
      expect(await world.api.in(own).get('/me')).toMatchObject({ environment: own });
      expect(await world.api.in(other).refused('GET', '/me')).toMatchObject({ status: 403, code: 'ENVIRONMENT_FORBIDDEN' });
      expect(await world.api.in(other).refused('GET', `/licenses/${world.license.id}`)).toMatchObject({ status: 403, code: 'ENVIRONMENT_FORBIDDEN' });
      expect(await world.api.in(other).refused('DELETE', `/api-keys/${world.apiKey.id}`)).toMatchObject({ status: 403, code: 'ENVIRONMENT_FORBIDDEN' });
    }
  });

  it('cannot make one for another environment; only the root key can', async () => {
    expect(await staging.api.refused('POST', '/api-keys', { name: 'a way out', role: 'viewer', environment: 'production' })).toMatchObject({ status: 403, code: 'ENVIRONMENT_FORBIDDEN' });
    const { secret } = await product.root.post<{ secret: string }>('/api-keys', { name: 'by root', role: 'viewer', environment: 'staging' });
    expect(await product.as(secret).get('/me')).toMatchObject({ environment: 'staging' });
    expect((await production.api.all<ApiKeyView>('/api-keys')).map(({ name }) => name)).not.toContain('by root');
  });

  it('reaches no environment that is not there, nor the one that holds the others together', async () => {
    for (const name of ['control', 'Production', 'nowhere', '', '../staging', 'production,staging']) {
      expect({ name, ...(await product.root.in(name).refused('GET', '/licenses')) }).toMatchObject({ name, status: 404, code: 'ENVIRONMENT_NOT_FOUND' });
      expect(await product.app.in(name).refused('POST', '/license/validate', { licenseKey: production.license.key })).toMatchObject({ status: 404, code: 'ENVIRONMENT_NOT_FOUND' });
    }
    expect(await product.root.refused('POST', '/api-keys', { name: 'x', role: 'viewer', environment: 'control' })).toMatchObject({ status: 404, code: 'ENVIRONMENT_NOT_FOUND' });
  });
});

describe('Two environments', () => {
  it('may have the same e-mail address and the same product code, each once', async () => {
    expect([production, staging].map(({ customer, product: made }) => [customer.email, made.code])).toEqual(Array(2).fill(['the.same@example.com', 'the-same-code']));
    for (const { api, customer } of [production, staging]) {
      expect(await api.refused('POST', '/customers', { name: 'x', email: 'The.Same@example.com' })).toMatchObject({ code: 'CUSTOMER_EXISTS', id: customer.id });
      expect(await api.refused('POST', '/products', { name: 'x', code: 'the-same-code' })).toMatchObject({ code: 'PRODUCT_CODE_TAKEN' });
    }
  });

  it('do not share an Idempotency-Key', async () => {
    const create = (environment: string, name: string) => product.root.in(environment).ask<ProductView>('POST', '/products', { name }, { 'idempotency-key': 'one key' });
    const [here, there] = [await create('production', 'Here'), await create('staging', 'There')];
    expect([here.status, there.status]).toEqual([201, 201]);
    expect((await create('production', 'Here')).body).toEqual(here.body);
    expect((await create('staging', 'There')).body).toEqual(there.body);
    expect((await product.root.ask('GET', `/products/${there.body.id}`)).status).toBe(404);
  });

  it('have files, or schemas, of their own, and nothing of one is in those of another', async () => {
    const [here, there] = [await placesOf(product, 'production'), await placesOf(product, 'staging')];
    const names = (places: readonly Place[]) => places.map(({ path }) => path.slice(path.indexOf('/') + 1)).filter((name) => !onFiles || name.endsWith('.db')).sort();
    expect([...new Set(here.map(({ kind }) => kind))].filter(Boolean).sort()).toEqual(['events', 'read', 'snapshots', 'state']);
    expect(names(there)).toEqual(names(here));
    const marks = (world: World) => [world.product, world.plan, world.generator, world.customer, world.order, world.license, world.instance, world.apiKey].map(({ id }) => id);
    const found = (places: readonly Place[], texts: readonly string[]) => texts.filter((text) => places.some(({ bytes }) => bytes.includes(text)));
    expect(found(here, marks(staging))).toEqual([]);
    expect(found(there, marks(production))).toEqual([]);
    expect(found(here, marks(production))).toEqual(marks(production));
    expect(found(there, marks(staging))).toEqual(marks(staging));
  });

  it('keep what they have once been asked for to themselves', async () => {
    const kept = () => Promise.all(['production', 'staging'].map(async (environment) => {
      const [row] = await rowsIn<{ n: number | string }>(product, environment, 'state', 'select count(*) as n from access_requests');
      return Number(row?.n);
    }));
    const [here, there] = await kept() as [number, number];
    await staging.api.post('/products', { name: 'Kept' }, { 'idempotency-key': 'kept' });
    await product.app.in('staging').post('/license/activate', { licenseKey: staging.license.key }, { 'idempotency-key': 'kept' });
    expect(await kept()).toEqual([here, there + 2]);
  });
});
