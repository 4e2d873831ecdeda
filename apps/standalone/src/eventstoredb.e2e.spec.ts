import { randomInt } from 'node:crypto';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { InstanceView, LicenseEventView, LicenseView, OrderView } from '@keyledger/contracts';
import { obtain } from '@keyledger/servers';
import { timed, until } from '@keyledger/testing';
import { onEventStoreDb, startStores, type EventStoreDbStores } from '@keyledger/testing/eventstoredb';
import { FaultProxy } from '@keyledger/testing/fault-proxy';
import { Crowd } from '@keyledger/testing/history';
import { placesOf, rowsIn } from '@keyledger/testing/kept';
import { offer, Product, roundsOf, sell, validate, type Answer, type Offer, type Problem } from '@keyledger/testing/process';
import { dumps } from './dumps.contract.ts';

/*
 * The product in one process with its log on EventStoreDB and all else on PostgreSQL, the shortest way through what it promises. The
 * specifications of the other stores run on this one, too, and so does the distributed system: KEYLEDGER_E2E=all.
 */
const seed = Number(process.env['KEYLEDGER_E2E_SEED'] ?? randomInt(2 ** 31));
const awayMs = 1_500;
const failsWithinMs = 2_000;
const backWithinMs = 10_000;
const cli = fileURLToPath(new URL('../../../dist/cli.js', import.meta.url));

const here = obtain('postgres');
if (!here) describe('The product on EventStoreDB', () => it.skip('PostgreSQL is not here: NOTHING of this was tested', () => undefined));

(here ? describe : describe.skip)(`The product ${onEventStoreDb}`, () => {
  let stores: EventStoreDbStores;
  let proxy: FaultProxy;
  let product: Product;
  let sold: Offer;
  beforeAll(async () => {
    process.stdout.write(`the product ${onEventStoreDb}: KEYLEDGER_E2E_SEED=${seed}\n`);
    stores = await startStores();
    proxy = await FaultProxy.open(stores.env['EVENTSTORE_URL'] as string);
    product = await Product.start({ ...stores.env, EVENTSTORE_URL: proxy.url });
    sold = await offer(product.root, { activationLimit: 5 });
  }, 120_000);
  afterAll(async () => {
    await product?.stop();
    await proxy?.close();
    await stores?.stop();
  }, 60_000);

  const parallel = <T>(count: number, work: (n: number) => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: count }, (_, n) => work(n)));
  const activate = (licenseKey: string, n: number | string) => product.app.ask<{ instance: InstanceView } & Problem>('POST', '/license/activate', { licenseKey, fingerprint: `machine ${n}` });

  it('shows in the very next answer what was sold, taken and revoked, and to nobody in another environment', async () => {
    await parallel(8, async () => {
      for (let round = 0; round < roundsOf(1); round++) {
        const { id, key } = await sell(product.root, sold.plan.id);
        expect(await validate(product.app, key)).toMatchObject({ valid: true, code: 'VALID', conclusive: true, license: { status: 'assigned' } });
        expect((await activate(key, 1)).status).toBe(201);
        expect((await product.root.get<{ data: LicenseView[] }>(`/licenses?status=active&q=${key.slice(10, 20)}`)).data.map((found) => found.id)).toEqual([id]);
        await product.root.post(`/licenses/${id}/revoke`, {});
        expect(await validate(product.app, key)).toMatchObject({ valid: false, code: 'REVOKED', conclusive: true });
        expect(await validate(product.app.in('staging'), key)).toMatchObject({ valid: false, code: 'NOT_FOUND' });
        expect((await product.root.in('staging').ask('GET', `/licenses/${id}`)).status).toBe(404);
      }
    });
  });

  it('sells five seats five times to a hundred who want one', async () => {
    for (let round = 0; round < roundsOf(1); round++) {
      const { id, key } = await sell(product.root, sold.plan.id);
      const answers = await parallel(100, (n) => activate(key, n));
      expect(Object.fromEntries([...Map.groupBy(answers, ({ status }) => status)].map(([status, all]) => [status, all.length]))).toEqual({ 201: 5, 409: 95 });
      expect(await product.root.get(`/licenses/${id}`)).toMatchObject({ activationCount: 5, status: 'active' });
    }
  });

  it('has lost and doubled nothing when it is killed under load, and does once what is asked for twice', async () => {
    const order = { planId: sold.plan.id, customer: { name: 'Ada', email: 'ada@example.com' } };
    const ask = () => product.root.ask<OrderView>('POST', '/orders', order, { 'idempotency-key': 'once' });
    const atOnce = await parallel(4, ask);
    const [{ body: ordered }] = atOnce as [Answer<OrderView>];
    const { customerId, licenses: [license] } = ordered;
    const { body: { instance } } = await activate(license?.key as string, 'the same');

    const crowd = await Crowd.gather(product, { seed, size: 8 });
    for (let round = 0; round < roundsOf(1); round++) {
      let answers = 0;
      let killed: Promise<void> | undefined;
      await crowd.work({ onAnswer: () => { if (++answers === 150) killed = product.kill9(); } });
      await killed;
      await product.restart();
      await until(() => product.app.ask('GET', '/health/ready'), ({ status }) => status === 200, backWithinMs);
      await crowd.verify({ nothingIsUnderWay: true });
    }

    for (const { status, body } of [...atOnce, await ask()]) expect({ status, body }).toEqual({ status: 201, body: ordered });
    expect((await activate(license?.key as string, 'the same')).body.instance.id).toBe(instance.id);
    expect((await product.root.get<{ data: unknown[] }>(`/orders?customerId=${customerId}`)).data).toHaveLength(1);
  }, 120_000);

  it('counts usage, and sweeps what has fallen due', async () => {
    const [api, app] = [product.root.in('staging'), product.app.in('staging')];
    await api.put('/environments/staging/clock', { now: '2027-03-12T20:00:00.000Z' });
    const { plan } = await offer(api, { quotas: [{ meter: 'cores', limit: 4 }], expiry: { value: 1, unit: 'months' } });
    const { id, key: licenseKey } = await sell(api, plan.id);
    const { instance } = await app.post<{ instance: InstanceView }>('/license/activate', { licenseKey });
    const records = [{ id: 'one', meter: 'cores', value: 6, at: '2027-03-12T10:00:00.000Z' }];
    for (const accepted of [1, 0]) expect(await app.post('/license/usage', { licenseKey, instanceId: instance.id, records })).toMatchObject({ accepted, duplicates: 1 - accepted });
    await api.post('/environments/staging/clock/advance', { seconds: 5 * 3_600 });
    expect(await validate(app, licenseKey)).toMatchObject({ valid: true, code: 'QUOTA_EXCEEDED', enforcement: 'WARN' });
    await api.post('/environments/staging/clock/advance', { seconds: 40 * 86_400 });
    expect(await validate(app, licenseKey)).toMatchObject({ valid: false, code: 'EXPIRED' });
    expect((await api.all<LicenseEventView>(`/licenses/${id}/events`)).map(({ type }) => type)).toEqual(expect.arrayContaining(['QuotaExceeded', 'LicenseRestricted', 'LicenseExpired']));
    expect(await api.post('/licenses/health/sweep', {})).toMatchObject({ transitions: {} });
  });

  it('forgets an erased license: its data key is gone, and all that the log has of it is sealed', async () => {
    const { id, key } = await sell(product.root, sold.plan.id);
    const instanceName = `Machine of somebody, ${crypto.randomUUID()}`;
    await product.app.post('/license/activate', { licenseKey: key, instanceName });
    const events = async () => (await placesOf(product, 'production')).find(({ kind }) => kind === 'events')?.bytes as Buffer;
    const before = await events();
    await product.root.delete(`/licenses/${id}`, { reason: 'asked for', force: true });
    const after = await events();
    expect(before.includes(id)).toBe(true);
    for (const secret of [key, instanceName]) for (const bytes of [before, after]) expect(bytes.includes(secret)).toBe(false);
    // Nothing is removed from the log, nor rewritten.
    expect(after.subarray(0, before.length).equals(before)).toBe(true);
    expect(await rowsIn(product, 'production', 'state', 'select wrapped from keyring_data_keys where subject = ?', [id])).toEqual([{ wrapped: expect.stringMatching(/^0+$/) }]);
    expect(await validate(product.app, key)).toMatchObject({ valid: false, code: 'NOT_FOUND' });
    expect((await product.root.ask('GET', `/licenses/${id}`)).status).toBe(404);
  });

  describe('while EventStoreDB is away', () => {
    it.each(['cut', 'silence'] as const)('refuses commands soon and says when to come again, answers verdicts as last known, and is well by itself (%s)', async (how) => {
      const { key } = await sell(product.root, sold.plan.id);
      await parallel(10, () => validate(product.app, key));
      proxy[how]();
      try {
        for (const end = Date.now() + awayMs; Date.now() < end;) {
          const [{ status, headers, body }, commandMs] = await timed(activate(key, 'never'));
          expect({ status, code: body.code }).toEqual({ status: 503, code: expect.stringMatching(/^(UNAVAILABLE|READ_MODEL_BEHIND)$/) });
          expect(Number(headers['retry-after'])).toBeGreaterThan(0);
          const [verdict, verdictMs] = await timed(validate(product.app, key));
          expect(verdict).toMatchObject({ valid: true, code: 'VALID', conclusive: false });
          expect((await product.root.ask('GET', '/licenses?limit=1')).status).toBe(503);
          expect((await product.app.ask('GET', '/health/live')).status).toBe(200);
          expect((await product.app.ask('GET', '/health/ready')).status).toBe(503);
          expect(Math.max(commandMs, verdictMs)).toBeLessThan(failsWithinMs);
        }
      } finally {
        await proxy.pass();
      }
      await until(async () => {
        expect([200, 201]).toContain((await activate(key, 'afterwards')).status);
        expect(await validate(product.app, key)).toMatchObject({ valid: true, conclusive: true });
        const later = await sell(product.root, sold.plan.id);
        expect(await validate(product.app, later.key)).toMatchObject({ valid: true, conclusive: true });
        expect((await product.app.ask('GET', '/health/ready')).status).toBe(200);
      }, () => true, backWithinMs);
    }, 60_000);
  });

  it('has read models that are the fold of its log, also of the same log carried to files', async () => {
    await product.terminate();
    const asItWas = await dumps(product.stores);
    expect(asItWas.get('production authority-license')?.length).toBeGreaterThan(30);
    expect(await dumps(product.stores, { on: join(product.dataDir, 'from-nothing') })).toEqual(asItWas);

    const [file, files] = [join(product.dataDir, 'moved.gz'), { KEYLEDGER_DATA_DIR: join(product.dataDir, 'moved'), KEYLEDGER_MASTER_KEY_FILE: join(product.dataDir, 'master.key') }];
    // The proxy is in this process: whoever waits must let it work.
    const keyledger = async (args: readonly string[], env: NodeJS.ProcessEnv) => {
      expect((await promisify(execFile)(process.execPath, [cli, ...args], { env: { PATH: process.env['PATH'], ...env } })).stderr).toMatch(/^(Exported|Imported) [\d,]+ events and [\d,]+ rows\n$/);
    };
    await keyledger(['export', '--to', file], product.stores);
    await keyledger(['import', '--from', file], files);
    expect(await dumps(files)).toEqual(asItWas);
  }, 120_000);

  it('does not start when nobody is there, and says why in one line', async () => {
    proxy.cut();
    await expect(product.restart()).rejects.toThrow(/^The product did not start \(1\):\n(?:\{.*\n)*Keyledger cannot start: The event store cannot be reached: .*\n$/);
  }, 60_000);
});
