import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { accessProjections, accessSchema } from '@keyledger/access';
import { catalogProjections, catalogSchema } from '@keyledger/catalog';
import type { CustomerView, InstanceView, OrderView } from '@keyledger/contracts';
import { SqliteEventStores } from '@keyledger/event-store';
import { controlEnvironment, environments } from '@keyledger/kernel';
import { dataKeysMigration, Keyring, loadMasterKey, StoredDataKeys } from '@keyledger/keyring';
import { authorityProjections, authoritySchema } from '@keyledger/license-authority';
import { openDatabases, Projector, ReadIndex } from '@keyledger/read-models';
import { offer, Product, sell, type Client, type Sold } from '@keyledger/testing/process';

const everywhere = [controlEnvironment, ...environments];
const services = [accessProjections, catalogProjections, authorityProjections];

let product: Product;
beforeAll(async () => {
  product = await Product.start();
});
afterAll(() => product.stop());

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
  await Promise.all(Array.from({ length: 40 }, (_, n) => work(n)));
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

/** Every row of every projection in every environment, as the projector writes it out; the product must not be running. */
async function dumpAll(dataDir: string): Promise<Map<string, string[]>> {
  const masterKey = loadMasterKey({ dataDir });
  const at = { directory: dataDir };
  const events = await SqliteEventStores.open(Object.fromEntries(everywhere.map((name) => [name, join(dataDir, name, 'events.db')])));
  const state = await openDatabases({ kind: 'state', environments: everywhere, at, entities: [], migrations: [dataKeysMigration] });
  const read = await openDatabases({ kind: 'read', environments: everywhere, at, entities: [...accessSchema.read, ...catalogSchema.read, ...authoritySchema.read] });
  const dumps = new Map<string, string[]>();
  for (const environment of everywhere) {
    const [store, database] = [events.of(environment), read.of(environment)];
    const sealing = await Keyring.open({ masterKey, environment, dataKeys: new StoredDataKeys(state.of(environment)) });
    for (const projections of services) {
      const projector = await Projector.start({ store, database, projections, sealing });
      await new ReadIndex(store, projector, 30_000).current();
      expect(await projector.parked()).toEqual([]);
      for (const { name } of projections) {
        const rows: string[] = [];
        for await (const row of projector.dump(name)) rows.push(row);
        dumps.set(`${environment} ${name}`, rows);
      }
      await projector.close();
    }
    await Promise.all([database.close(), state.of(environment).close()]);
  }
  await events.close();
  return dumps;
}

describe('A read model that is built anew from the log', () => {
  it('is the live one, byte by byte, and the product answers as before', async () => {
    const key = await sell(product.root, (await offer(product.root)).plan.id).then((license: Sold) => license.key);
    await Promise.all([live(product.root, product.app, 'one'), live(product.root, product.app, 'two'), live(product.root.in('staging'), product.app.in('staging'), 'three')]);
    await product.kill9(); // in the middle of a batch, perhaps: what the next process goes on with must be right as well
    await product.restart();
    await live(product.root, product.app, 'four');
    const before = await reads(product.root, key);
    await product.terminate();

    const live1 = await dumpAll(product.dataDir);
    for (const environment of everywhere) for (const suffix of ['', '-wal', '-shm']) rmSync(join(product.dataDir, environment, `read.db${suffix}`), { force: true });
    const rebuilt = await dumpAll(product.dataDir);
    expect([...live1.keys()]).toHaveLength(everywhere.length * services.flat().length);
    expect(live1.get('production authority-license')?.length).toBeGreaterThan(100);
    expect(live1.get('staging authority-license')?.length).toBeGreaterThan(40);
    for (const [name, rows] of live1) expect({ name, rows: rebuilt.get(name) }).toEqual({ name, rows });

    await product.restart();
    expect(await reads(product.root, key)).toEqual(before);
  }, 120_000);
});
