import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { ApiKeyView, InstanceView, LicenseEventView, LicenseView } from '@keyledger/contracts';
import { placesOf } from '@keyledger/testing/kept';
import { offer, Product, sell, validate, type Answer, type Client, type Listed, type Method, type Offer, type Sold } from '@keyledger/testing/process';

let product: Product;
let root: Client;
let sold: Offer;
beforeAll(async () => {
  product = await Product.start();
  root = product.root;
  sold = await offer(root, { activationLimit: 3 });
});
afterAll(() => product.stop());

interface Call {
  readonly method: Method;
  readonly path: string;
  readonly body?: unknown;
  readonly by?: Client;
}

const newKey = () => crypto.randomUUID();
const send = ({ method, path, body, by = root }: Call, key: string): Promise<Answer<Record<string, unknown>>> => by.ask(method, path, body, { 'idempotency-key': key });
const essence = ({ status, headers, body }: Answer) => ({ status, body, type: headers['content-type'], etag: headers['etag'] });
const parallel = <T>(count: number, work: () => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: count }, work));

/** Every kind of change, each with a count that shows how often it took effect. `prepare` makes what it needs. */
const changes: Readonly<Record<string, () => Promise<{ call: Call; status: number; effects: () => Promise<number> }>>> = {
  'an order': async () => {
    const customer = await root.post<{ id: string }>('/customers', { name: 'Ada', email: `${newKey()}@example.com` });
    return {
      call: { method: 'POST', path: '/orders', body: { planId: sold.plan.id, customerId: customer.id, quantity: 2 } }, status: 201,
      effects: async () => (await root.get<{ licenses: number }>(`/licenses/totals?customerId=${customer.id}`)).licenses / 2,
    };
  },
  'an order of a new customer': async () => {
    const email = `${newKey()}@example.com`;
    return {
      call: { method: 'POST', path: '/orders', body: { planId: sold.plan.id, customer: { name: 'Grace', email } } }, status: 201,
      effects: async () => {
        const { data } = await root.get<Listed<{ id: string }>>(`/customers?q=${email}`);
        expect(data.length).toBeLessThanOrEqual(1);
        return (await root.get<{ licenses: number }>(`/licenses/totals?q=${email}`)).licenses;
      },
    };
  },
  'a product with a code of its own': async () => {
    const code = `code-${newKey()}`;
    return {
      call: { method: 'POST', path: '/products', body: { name: `Product ${code}`, code } }, status: 201,
      effects: async () => (await root.get<Listed<unknown>>(`/products?q=${code}`)).data.length,
    };
  },
  'a license': async () => {
    const metadata = { n: newKey() };
    const { product: { id: productId } } = await offer(root);
    return {
      call: { method: 'POST', path: '/licenses', body: { productId, metadata } }, status: 201,
      effects: async () => (await root.get<Listed<LicenseView>>(`/licenses?productId=${productId}`)).data.length,
    };
  },
  'an API key': async () => {
    const name = `key ${newKey()}`;
    return {
      call: { method: 'POST', path: '/api-keys', body: { name, role: 'viewer' } }, status: 201,
      effects: async () => (await root.all<ApiKeyView>('/api-keys')).filter((key) => key.name === name).length,
    };
  },
  'the rotation of an API key': async () => {
    const { id } = await root.post<ApiKeyView>('/api-keys', { name: 'rotating', role: 'viewer' });
    return { call: { method: 'POST', path: `/api-keys/${id}/rotate` }, status: 200, effects: async () => (await root.get<ApiKeyView>(`/api-keys/${id}`)).revision };
  },
  'a new license key': async () => {
    const { id } = await sell(root, sold.plan.id);
    return { call: { method: 'POST', path: `/licenses/${id}/regenerate-key`, body: { reason: 'leaked' } }, status: 200, effects: () => eventsOf(id, 'KeyRegenerated') };
  },
  'an edit': async () => {
    const { id } = await sell(root, sold.plan.id);
    return { call: { method: 'PATCH', path: `/licenses/${id}`, body: { activationLimit: 9 } }, status: 200, effects: () => eventsOf(id, 'ActivationLimitChanged') };
  },
  'an activation that nothing identifies': async () => {
    const { id, key } = await sell(root, sold.plan.id);
    return { call: { method: 'POST', path: '/license/activate', body: { licenseKey: key }, by: product.app }, status: 201, effects: () => eventsOf(id, 'InstanceActivated') };
  },
  'a deactivation': async () => {
    const { id, key } = await sell(root, sold.plan.id);
    const { instance } = await product.app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: key });
    const body = { licenseKey: key, instanceId: instance.id };
    return { call: { method: 'POST', path: '/license/deactivate', body, by: product.app }, status: 200, effects: () => eventsOf(id, 'InstanceDeactivated') };
  },
  'the revocation of an instance': async () => {
    const { id, key } = await sell(root, sold.plan.id);
    const { instance } = await product.app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: key });
    return { call: { method: 'DELETE', path: `/licenses/${id}/activations/${instance.id}` }, status: 204, effects: () => eventsOf(id, 'InstanceDeactivated') };
  },
  'an erasure': async () => {
    const { id } = await sell(root, sold.plan.id);
    return {
      call: { method: 'DELETE', path: `/licenses/${id}`, body: { reason: 'asked for' } }, status: 204,
      effects: async () => ((await root.ask('GET', `/licenses/${id}`)).status === 404 ? 1 : 0),
    };
  },
};

async function eventsOf(licenseId: string, wanted: string): Promise<number> {
  return (await root.all<LicenseEventView>(`/licenses/${licenseId}/events`)).filter(({ type }) => type === wanted).length;
}

describe('An Idempotency-Key', () => {
  it.each(Object.keys(changes))('makes %s happen once, whatever is repeated: in a row and twenty at once', async (name) => {
    const { call, status, effects } = await (changes[name] as (typeof changes)[string])();
    const key = newKey();
    expect(await effects()).toBe(0);
    const atOnce = await parallel(20, () => send(call, key));
    const [first] = atOnce as [Answer];
    expect(first.status).toBe(status);
    expect(atOnce.map(essence)).toEqual(atOnce.map(() => essence(first)));
    expect(atOnce.filter(({ headers }) => headers['idempotency-replayed'] === undefined)).toHaveLength(1);
    expect(await effects()).toBe(1);

    const again = await send(call, key);
    expect(again.headers['idempotency-replayed']).toBe('true');
    expect(essence(again)).toEqual(essence(first));
  });

  it('makes all of that happen once when it is repeated after a crash', async () => {
    const made = await Promise.all(Object.entries(changes).map(async ([name, prepare]) => {
      const { call, effects } = await prepare();
      const key = newKey();
      return { name, call, key, effects, first: await send(call, key) };
    }));
    await product.kill9();
    await product.restart();
    for (const { name, call, key, effects, first } of made) {
      const later = await parallel(5, () => send(call, key));
      for (const answer of later) expect({ name, ...essence(answer), replayed: answer.headers['idempotency-replayed'] }).toEqual({ name, ...essence(first), replayed: 'true' });
      expect({ name, effects: await effects() }).toEqual({ name, effects: 1 });
    }
  });

  it('gives a secret again that works, and a license key that is in force', async () => {
    const apiKey = { method: 'POST', path: '/api-keys', body: { name: 'shown twice', role: 'viewer' } } as const;
    const key = newKey();
    const [one, two] = [await send(apiKey, key), await send(apiKey, key)];
    expect(two.body['secret']).toBe(one.body['secret']);
    expect(await product.as(two.body['secret'] as string).get('/me')).toMatchObject({ role: 'viewer' });

    const license = await sell(root, sold.plan.id);
    const regenerate = { method: 'POST', path: `/licenses/${license.id}/regenerate-key`, body: {} } as const;
    await send(regenerate, key);
    const { body } = await send(regenerate, key);
    expect(await validate(product.app, (body as unknown as Sold).key)).toMatchObject({ valid: true });
    expect(await validate(product.app, license.key)).toMatchObject({ code: 'NOT_FOUND' });
  });

  it('with another body is refused, and changes nothing', async () => {
    const { call, effects } = await (changes['an edit'] as (typeof changes)[string])();
    const key = newKey();
    await send(call, key);
    for (const body of [{ activationLimit: 8 }, {}, { activationLimit: 9, metadata: {} }]) {
      expect(await send({ ...call, body }, key)).toMatchObject({ status: 422, body: { code: 'IDEMPOTENCY_KEY_REUSED' } });
    }
    expect(await effects()).toBe(1);
    expect((await send(call, key)).headers['idempotency-replayed']).toBe('true');
  });

  it('of which two bodies race belongs to one of them', async () => {
    const { id } = await sell(root, sold.plan.id);
    const key = newKey();
    const answers = await Promise.all([5, 6, 7, 8].map((activationLimit) => send({ method: 'PATCH', path: `/licenses/${id}`, body: { activationLimit } }, key)));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 422, 422, 422]);
    expect(await eventsOf(id, 'ActivationLimitChanged')).toBe(1);
  });

  it('keeps a refusal of the rules as well: it does not turn into a yes', async () => {
    const license = await sell(root, sold.plan.id);
    await root.patch(`/licenses/${license.id}`, { activationLimit: 1 });
    const { instance } = await product.app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: license.key, fingerprint: 'first' });
    const tooMany: Call = { method: 'POST', path: '/license/activate', body: { licenseKey: license.key, fingerprint: 'second' }, by: product.app };
    const outOfRange: Call = { method: 'PATCH', path: `/licenses/${license.id}`, body: { activationLimit: 0 } };
    const notErased: Call = { method: 'DELETE', path: `/licenses/${license.id}`, body: { reason: 'no force' } };
    const key = newKey();
    const refusals = [[tooMany, 409, 'ACTIVATION_LIMIT_EXCEEDED'], [outOfRange, 422, 'LIMIT_OUT_OF_RANGE'], [notErased, 409, 'LICENSE_EVER_ACTIVATED']] as const;
    for (const [call, status, code] of refusals) expect(await send(call, key)).toMatchObject({ status, body: { code } });

    await product.app.post('/license/deactivate', { licenseKey: license.key, instanceId: instance.id });
    for (const [call, status, code] of refusals) {
      expect(await send(call, key)).toMatchObject({ status, body: { code }, headers: { 'idempotency-replayed': 'true', 'content-type': expect.stringContaining('application/problem+json') } });
    }
    expect(await send(tooMany, newKey())).toMatchObject({ status: 201 });
  });

  it('is one caller\'s, one route\'s and one license\'s own', async () => {
    const key = newKey();
    const { secret } = await root.post<{ secret: string }>('/api-keys', { name: 'another caller', role: 'super_admin' });
    const body = { name: 'The same name' };
    const create = (by: Client, path = '/products') => send({ method: 'POST', path, body, by }, key);
    const [one, two] = [await create(root), await create(product.as(secret))];
    expect([one.status, two.status]).toEqual([201, 201]);
    expect(two.body['id']).not.toBe(one.body['id']);
    expect((await create(root, `/products/${one.body['id'] as string}/plans`)).status).toBe(201);

    const [here, there] = [await sell(root, sold.plan.id), await sell(root, sold.plan.id)];
    for (const { key: licenseKey } of [here, there]) expect((await send({ method: 'POST', path: '/license/activate', body: { licenseKey }, by: product.app }, key)).status).toBe(201);
  });

  it('is needed to see what it was answered: what was kept for it shows no key', async () => {
    const { licenses: [license] } = await send({ method: 'POST', path: '/orders', body: { planId: sold.plan.id, customer: { name: 'Ada', email: 'ada@example.com' } } }, 'the-idempotency-key')
      .then(({ body }) => body as unknown as { licenses: [Sold] });
    const { body: { secret } } = await send({ method: 'POST', path: '/api-keys', body: { name: 'sealed', role: 'viewer' } }, 'the-idempotency-key');
    const kept = (await placesOf(product, 'production')).filter(({ kind }) => kind === 'state' || kind === 'events');
    expect(kept.length).toBeGreaterThan(1);
    for (const { path, bytes } of kept) {
      for (const text of ['the-idempotency-key', license.key, secret as string]) expect({ path, found: bytes.includes(text) }).toEqual({ path, found: false });
    }
  });

  it('that is empty or too long is refused', async () => {
    for (const key of ['', 'x'.repeat(256)]) expect(await send({ method: 'POST', path: '/products', body: { name: 'x' } }, key)).toMatchObject({ status: 400, body: { code: 'VALIDATION_FAILED' } });
    expect(await send({ method: 'POST', path: '/products', body: { name: 'x' } }, 'x'.repeat(255))).toMatchObject({ status: 201 });
  });
});
