import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { InstanceView, LicenseView, OrderView, ProductView, Verdict } from '@keyledger/contracts';
import { until } from '@keyledger/testing';
import { mode, offer, Product, sell, validate, type Client, type Listed, type Offer, type Sold } from '@keyledger/testing/process';

/** Over a network everything takes longer, and every process more than one of it. */
const [buyers, purchases, rounds, renewals] = mode === 'standalone' ? [16, 12, 3, 30] as const : [8, 3, 1, 10] as const;

let product: Product;
let root: Client;
let sold: Offer;
beforeAll(async () => {
  product = await Product.start();
  root = product.root;
  sold = await offer(root);
});
afterAll(() => product.stop());

const ids = ({ data }: Listed<{ id: string }>) => data.map(({ id }) => id);

describe('What was answered', () => {
  it('is seen by the very next request, in every list, search and verdict, with many at work', async () => {
    const buyer = async (who: number) => {
      for (let n = 0; n < purchases; n++) await buyAndLook(`${who}x${n}x${crypto.randomUUID().slice(0, 8)}`);
    };
    await Promise.all(Array.from({ length: buyers }, (_, who) => buyer(who)));
  });

  async function buyAndLook(mark: string): Promise<void> {
    const email = `${mark}@example.com`;
    const order = await root.post<OrderView>('/orders', { planId: sold.plan.id, customer: { name: `Buyer ${mark}`, email } });
    const [license] = order.licenses as unknown as [Sold];
    expect(await validate(product.app, license.key)).toMatchObject({ valid: true, code: 'VALID', license: { id: license.id, status: 'assigned' } });
    // Each of these is the first request after one change, so none can rest on another one's waiting.
    const found = [license.id];
    await afterEdit(license, 1, async () => expect(ids(await root.get(`/licenses?q=${license.key.slice(10, 20)}`))).toEqual(found));
    await afterEdit(license, 2, async () => expect(ids(await root.get(`/licenses?customerId=${order.customerId}&sort=-activations`))).toEqual(found));
    await afterEdit(license, 3, async () => {
      expect(await root.get(`/licenses/totals?customerId=${order.customerId}`)).toMatchObject({ licenses: 1, byStatus: { assigned: 1 }, averageLimit: 3, maximumActivations: 3 });
    });
    const { instance } = await product.app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: license.key });
    expect(ids(await root.get(`/licenses?status=active&q=${email}`))).toEqual(found);
    await product.app.post('/license/deactivate', { licenseKey: license.key, instanceId: instance.id });
    expect(await validate(product.app, license.key, { instanceId: instance.id })).toMatchObject({ valid: false, code: 'INSTANCE_NOT_FOUND' });
    await root.post(`/licenses/${license.id}/suspend`, {});
    expect(ids(await root.get(`/licenses?status=suspended&customerId=${order.customerId}`))).toEqual(found);

    const made = await root.post<ProductView>('/products', { name: `Product ${mark}` });
    expect(ids(await root.get(`/products?q=${mark}`))).toEqual([made.id]);
    await root.patch(`/products/${made.id}`, { name: `Another name ${mark}` });
    expect(await root.get(`/licenses/suggest?q=name%20${mark}`)).toEqual({ data: [{ kind: 'product', text: `Another name ${mark}` }] });
    await root.post(`/products/${made.id}/archive`);
    expect(ids(await root.get(`/products?status=archived&q=${mark}`))).toEqual([made.id]);

    await root.patch(`/customers/${order.customerId}`, { name: `Renamed ${mark}` });
    expect(ids(await root.get(`/customers?q=Renamed%20${mark}`))).toEqual([order.customerId]);
    await root.patch(`/customers/${order.customerId}`, { name: `Holder ${mark}` });
    expect(ids(await root.get(`/licenses?q=Holder%20${mark}`))).toEqual(found);
    const second = await root.post<OrderView>('/orders', { planId: sold.plan.id, customerId: order.customerId });
    expect(ids(await root.get(`/orders?customerId=${order.customerId}`))).toEqual([second.id, order.id]);
    const { secret, id } = await root.post<{ secret: string; id: string }>('/api-keys', { name: mark, role: 'viewer' });
    expect(await product.as(secret).get('/me')).toMatchObject({ id });
    const rotated = await root.post<{ secret: string }>(`/api-keys/${id}/rotate`);
    expect((await product.as(secret).refused('GET', '/me')).code).toBe('UNAUTHENTICATED');
    expect(await product.as(rotated.secret).get('/me')).toMatchObject({ id });
    await root.delete(`/api-keys/${id}`);
    expect((await product.as(rotated.secret).refused('GET', '/me')).code).toBe('UNAUTHENTICATED');
  }

  async function afterEdit({ id }: Sold, activationLimit: number, look: () => Promise<void>): Promise<void> {
    await root.patch(`/licenses/${id}`, { activationLimit });
    await look();
  }
});

interface Look {
  readonly startedAt: number;
  readonly verdict: Verdict;
}

/** Asks about one license all the time, by many at once and in several spellings of its key. */
class Hammer {
  readonly looks: Look[] = [];
  readonly #askers: Promise<void>[];
  readonly #rounds: (() => void)[] = [];
  #stop = false;

  constructor(key: string, question: Readonly<Record<string, unknown>>) {
    const keys = [key, key.toLowerCase(), key.replaceAll('-', ''), ` ${key.replaceAll('-', ' ')} `];
    this.#askers = Array.from({ length: 32 }, (_, n) => this.#ask(keys[n % keys.length] as string, question));
  }

  async #ask(key: string, question: Readonly<Record<string, unknown>>): Promise<void> {
    while (!this.#stop) {
      const startedAt = performance.now();
      const verdict = await validate(product.app, key, question);
      this.looks.push({ startedAt, verdict });
      this.#rounds.shift()?.();
    }
  }

  /** Resolves when so many more answers have come; rejects when one of the askers failed. */
  async more(looks: number): Promise<void> {
    const answered = Promise.all(Array.from({ length: looks }, () => new Promise<void>((resolve) => this.#rounds.push(resolve))));
    await Promise.race([answered, Promise.all(this.#askers)]);
  }

  async end(): Promise<readonly Look[]> {
    this.#stop = true;
    await Promise.all(this.#askers);
    return this.looks;
  }
}

/** Changes the license while it is being hammered: the verdicts whose question began after the change had been answered. */
async function verdictsAfter(key: string, change: () => Promise<unknown>, question: Readonly<Record<string, unknown>> = {}): Promise<readonly Verdict[]> {
  const hammer = new Hammer(key, question);
  await hammer.more(64);
  await change();
  const answeredAt = performance.now();
  await hammer.more(256);
  const looks = await hammer.end();
  const [before, after] = [looks.filter(({ startedAt }) => startedAt < answeredAt), looks.filter(({ startedAt }) => startedAt >= answeredAt)];
  expect(before.length).toBeGreaterThan(32);
  expect(after.length).toBeGreaterThan(128);
  expect(looks.every(({ verdict }) => verdict.conclusive)).toBe(true);
  return after.map(({ verdict }) => verdict);
}

const codes = (verdicts: readonly Verdict[]) => [...new Set(verdicts.map(({ valid, code }) => `${valid ? 'valid' : 'invalid'} ${code}`))];

describe('No validation that begins after the answer to', () => {
  const ends: Readonly<Record<string, readonly [action: string, code: string]>> = {
    'a revocation': ['revoke', 'REVOKED'],
    'a suspension': ['suspend', 'SUSPENDED'],
    'an inactivation': ['inactivate', 'INACTIVE'],
    'a new key': ['regenerate-key', 'NOT_FOUND'],
    'an erasure': ['erase', 'NOT_FOUND'],
  };
  it.each(Object.entries(ends))('%s says valid, though it is asked by 32 all the time', async (_, [action, code]) => {
    for (let round = 0; round < rounds; round++) {
      const { id, key } = await sell(root, sold.plan.id);
      const change = () => (action === 'erase' ? root.delete(`/licenses/${id}`, { reason: 'asked for' }) : root.post(`/licenses/${id}/${action}`, {}));
      expect(codes(await verdictsAfter(key, change))).toEqual([`invalid ${code}`]);
    }
  });

  it('the end of its instance finds it', async () => {
    const { id, key } = await sell(root, sold.plan.id);
    const seat = async () => (await product.app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: key })).instance.id;
    const [one, two] = [await seat(), await seat()];
    expect(codes(await verdictsAfter(key, () => root.delete(`/licenses/${id}/activations/${one}`), { instanceId: one }))).toEqual(['invalid INSTANCE_NOT_FOUND']);
    const giveBack = () => product.app.post('/license/deactivate', { licenseKey: key, instanceId: two });
    expect(codes(await verdictsAfter(key, giveBack, { instanceId: two }))).toEqual(['invalid INSTANCE_NOT_FOUND']);
  });

  it.each([['suspend', 'unsuspend'], ['inactivate', 'reactivate']])('the lifting of a hold (%s, %s) says invalid', async (hold, lift) => {
    for (let round = 0; round < rounds; round++) {
      const { id, key } = await sell(root, sold.plan.id);
      await root.post(`/licenses/${id}/${hold}`, {});
      expect(codes(await verdictsAfter(key, () => root.post(`/licenses/${id}/${lift}`, {})))).toEqual(['valid VALID']);
    }
  });

  it('an edit shows what was before it', async () => {
    const { id, key } = await sell(root, sold.plan.id);
    let answered: LicenseView | undefined;
    const verdicts = await verdictsAfter(key, async () => {
      answered = await root.patch<LicenseView>(`/licenses/${id}`, { activationLimit: 42, expiresAt: '2099-01-01T00:00:00Z', featureFlags: { beta: true } });
    });
    for (const { license, seq } of verdicts) {
      expect(seq).toBe(answered?.revision);
      expect(license).toMatchObject({ activationLimit: 42, expiresAt: '2099-01-01T00:00:00.000Z', featureFlags: { beta: true } });
    }
  });

  it('a new key, or a revocation, leaves a seat to anybody who asked with the old one just then', async () => {
    for (const action of ['regenerate-key', 'revoke']) {
      for (let round = 0; round < rounds + 2; round++) {
        const { id, key } = await sell(root, sold.plan.id);
        let changed = false;
        let seats = 0;
        const takeSeats = async (who: number) => {
          for (let turn = 0, tail = 0; tail < 5; turn++, tail += Number(changed)) {
            const { status } = await product.app.ask('POST', '/license/activate', { licenseKey: key, fingerprint: `machine ${who}, turn ${turn}` });
            if (status === 201) seats++;
          }
        };
        const takers = Array.from({ length: 16 }, (_, who) => takeSeats(who));
        await validate(product.app, key);
        await until(() => seats > 0);
        await root.post(`/licenses/${id}/${action}`, {});
        changed = true;
        await Promise.all(takers);
        expect(await root.get(`/licenses/${id}`)).toMatchObject({ activationCount: 0 });
        expect(await root.get(`/licenses/${id}/activations`)).toMatchObject({ data: [] });
      }
    }
  });

  it('a new key says that the new one is invalid', async () => {
    const { id } = await sell(root, sold.plan.id);
    for (let round = 0; round < renewals; round++) {
      const { key } = await root.post<Sold>(`/licenses/${id}/regenerate-key`, {});
      const verdicts = await Promise.all(Array.from({ length: 8 }, () => validate(product.app, key)));
      expect(codes(verdicts)).toEqual(['valid VALID']);
    }
  });
});
