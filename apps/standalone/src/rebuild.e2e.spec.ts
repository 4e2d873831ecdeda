import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { CustomerView, InstanceView, OrderView } from '@keyledger/contracts';
import { describeWith } from '@keyledger/servers/contract';
import { mode, offer, Product, sell, type Client, type Sold } from '@keyledger/testing/process';
import { dumps, everywhere, services, type Dumps } from './dumps.contract.ts';

/** Over a network everything takes longer. */
const [licenses, atOnce] = mode === 'standalone' ? [40, 40] as const : [20, 4] as const;

/** Something of everything, at once and in no particular order; it leaves every kind of row that there is, and rows that went again. */
async function live(api: Client, app: Client, mark: string): Promise<void> {
  const { plan, product: made } = await offer(api, { activationLimit: 3, expiry: { value: 1, unit: 'months' } });
  const lifetime = await offer(api);
  await api.post('/generators', { name: `${mark} – generator`, productId: made.id, keyFormat: { kind: 'chunks', prefix: 'gen' } });
  const { id: customerId } = await api.post<CustomerView>('/customers', { name: `Ünïcödé "${mark}"`, email: `${mark}@example.com` });
  const work = async (n: number) => {
    const { id, key } = await sell(api, n % 2 ? plan.id : lifetime.plan.id, n % 3 ? { customerId } : {});
    const { instance } = await app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: key, fingerprint: `${n}`, instanceName: `machine ${n}` });
    const steps = [
      () => api.post(`/licenses/${id}/suspend`, { cause: 'payment', reason: 'unpaid' }),
      () => api.post(`/licenses/${id}/regenerate-key`, {}),
      () => api.patch(`/licenses/${id}`, { activationLimit: n + 1, metadata: { n }, customerId }),
      () => api.post(`/licenses/${id}/inactivate`, {}),
      () => app.post('/license/deactivate', { licenseKey: key, instanceId: instance.id }),
      () => api.post(`/licenses/${id}/revoke`, {}),
      () => api.delete(`/licenses/${id}`, { reason: 'asked for', force: true }),
      () => api.patch(`/licenses/${id}`, { expiresAt: n % 2 ? null : '2090-01-01T00:00:00Z' }),
    ];
    await steps[n % steps.length]?.();
    if (n % 5 === 0) await steps[(n + 3) % steps.length]?.().catch(() => undefined);
  };
  const queue = Array.from({ length: licenses }, (_, n) => n);
  const worker = async () => {
    for (let n = queue.shift(); n !== undefined; n = queue.shift()) await work(n);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  await api.post<OrderView>('/orders', { planId: plan.id, customerId, quantity: 20, purchasedAt: '2020-01-31T00:00:00Z' });
  await api.patch(`/customers/${customerId}`, { name: 'Renamed', email: `renamed-${mark}@example.com` });
  await api.patch(`/products/${made.id}`, { name: `Renamed ${mark}` });
  await api.post(`/products/${made.id}/archive`);
  const { id } = await api.post<{ id: string }>('/api-keys', { name: mark, role: 'viewer' });
  await api.post(`/api-keys/${id}/rotate`);
  const gone = await api.post<{ id: string }>('/api-keys', { name: mark, role: 'viewer' });
  await api.delete(`/api-keys/${gone.id}`);
}

/** What the product answers from its read models; nothing in it depends on the moment. */
async function reads(api: Client, key: string): Promise<unknown> {
  const paths = [
    ...['key', 'product', 'customer', 'status', 'activations', 'expiresAt', 'createdAt'].flatMap((sort) => [`/licenses?sort=${sort}&limit=100`, `/licenses?sort=-${sort}&limit=100`]),
    '/licenses?status=suspended&status=revoked', '/licenses?q=renamed', `/licenses?q=${key.slice(2, 12)}`, '/licenses/totals', '/licenses/totals?q=Renamed',
    `/licenses/suggest?q=${key.slice(0, 6)}`, '/licenses/suggest?q=Renamed', '/products?sort=name', '/customers?q=example.com&sort=-name', '/orders', '/generators', '/api-keys',
  ];
  return Object.fromEntries(await Promise.all(paths.map(async (path) => [path, await api.get(path)])));
}

/** On files, or on a server of its own, which is there when the product is not. */
function onItsStores(title: string, suite: (place: () => NodeJS.ProcessEnv) => void): void {
  if (mode === 'standalone') describe(title, () => suite(() => ({})));
  else describeWith('postgres', title, (server) => suite(() => ({ DATABASE_URL: server().url })), { durable: true, settings: { max_connections: 400 } });
}

onItsStores('A read model that is built anew from the log', (place) => {
  let product: Product;
  beforeAll(async () => {
    product = await Product.start(place());
  });
  afterAll(() => product.stop());

  it('is the live one, byte by byte, in its place and on SQLite from nothing, and the product answers as before', async () => {
    const key = await sell(product.root, (await offer(product.root)).plan.id).then((license: Sold) => license.key);
    await Promise.all([live(product.root, product.app, 'one'), live(product.root, product.app, 'two'), live(product.root.in('staging'), product.app.in('staging'), 'three')]);
    await product.kill9(); // in the middle of a batch, perhaps: what the next process goes on with must be right as well
    await product.restart();
    await live(product.root, product.app, 'four');
    const before = await reads(product.root, key);
    await product.terminate();

    const env = product.stores;
    const asItWas = await dumps(env);
    expect([...asItWas.keys()]).toHaveLength(everywhere.length * services.flat().length);
    expect(asItWas.get('production authority-license')?.length).toBeGreaterThan(3 * licenses - 20);
    expect(asItWas.get('staging authority-license')?.length).toBeGreaterThan(licenses);
    const isTheSame = (others: Dumps) => {
      for (const [name, rows] of asItWas) expect({ name, rows: others.get(name) }).toEqual({ name, rows });
    };
    isTheSame(await dumps(env, { on: join(product.dataDir, 'from-nothing') }));
    isTheSame(await dumps(env, { anew: true }));

    await product.restart();
    expect(await reads(product.root, key)).toEqual(before);
  }, 240_000);
});
