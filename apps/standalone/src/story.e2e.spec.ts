import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { CustomerView, GeneratorView, InstanceView, LicenseEventView, LicenseView, OrderView, PlanView, Verdict } from '@keyledger/contracts';
import { mode, offer, Product, sell, validate as validateBy, type Client, type Listed, type Method, type Sold } from '@keyledger/testing/process';

let product: Product;
let root: Client;
let app: Client;
beforeAll(async () => {
  product = await Product.start();
  ({ root, app } = product);
});
afterAll(() => product.stop());

interface Activated {
  readonly activated: true;
  readonly instance: Pick<InstanceView, 'id' | 'name' | 'fingerprint' | 'createdAt' | 'lastSeenAt' | 'metadata'>;
  readonly license: Verdict['license'];
}

const activate = (licenseKey: string, instance: Readonly<Record<string, unknown>> = {}) => app.post<Activated>('/license/activate', { licenseKey, ...instance });
const validate = (licenseKey: string, question: Readonly<Record<string, unknown>> = {}) => validateBy(app, licenseKey, question);
const act = (id: string, action: string, body: unknown = {}) => root.post<Sold>(`/licenses/${id}/${action}`, body);
const view = (id: string) => root.get<Sold>(`/licenses/${id}`);
const events = (id: string) => root.all<LicenseEventView>(`/licenses/${id}/events`);
const inDays = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString();

/** A license that is nobody's yet, or that of a new customer. */
async function issue(fields: Readonly<Record<string, unknown>> = {}, held = true): Promise<Sold> {
  const { product: { id: productId } } = await offer(root);
  const customer = held ? { customerId: (await newCustomer()).id } : {};
  return root.post<Sold>('/licenses', { productId, ...customer, ...fields });
}
const newCustomer = () => root.post<CustomerView>('/customers', { name: 'Ada Lovelace', email: `${crypto.randomUUID()}@example.com` });

describe('From the purchase on', () => {
  it('a customer gets a key with the order, activates with it, and the order card shows it all', async () => {
    const { plan } = await offer(root, { activationLimit: 5, expiry: { value: 1, unit: 'years' }, features: { export: true, seats: 10 }, featureFlags: { theme: 'dark' } });
    const order = await root.post<OrderView>('/orders', { planId: plan.id, customer: { name: 'Ada Lovelace', email: 'ada@lovelace.example' }, quantity: 2 });
    expect(order.licenses).toHaveLength(2);
    const [license, other] = order.licenses as unknown as [Sold, Sold];
    expect(license.key).not.toBe(other.key);
    expect(license).toMatchObject({
      status: 'assigned', planId: plan.id, orderId: order.id, customerId: order.customerId, environment: 'production', activationLimit: 5, activationCount: 0,
      keyPrefix: license.key.replace('-', '').slice(0, 8), features: { export: true, seats: 10 }, featureFlags: { theme: 'dark' }, holds: [], metadata: {}, revision: 0,
    });
    const bought = new Date(order.purchasedAt);
    bought.setUTCFullYear(bought.getUTCFullYear() + 1);
    expect(license.expiresAt).toBe(bought.toISOString());

    const first = await app.ask<Activated>('POST', '/license/activate', { licenseKey: license.key, instanceName: 'laptop', fingerprint: 'fp-laptop', metadata: { os: 'linux' } });
    expect(first).toMatchObject({ status: 201, body: { activated: true, instance: { name: 'laptop', fingerprint: 'fp-laptop', metadata: { os: 'linux' } }, license: { status: 'active', activationCount: 1, activationLimit: 5 } } });
    const again = await app.ask<Activated>('POST', '/license/activate', { licenseKey: license.key, fingerprint: 'fp-laptop' });
    expect(again).toMatchObject({ status: 200, body: { instance: { id: first.body.instance.id, name: 'laptop' }, license: { activationCount: 1 } } });
    expect(await root.get<OrderView>(`/orders/${order.id}`)).toMatchObject({ licenses: [{ id: license.id, key: license.key, activationCount: 1, status: 'active' }, { id: other.id, status: 'assigned' }] });
    // A known address is the same customer.
    expect(await root.post<OrderView>('/orders', { planId: plan.id, customer: { name: 'A. L.', email: 'ADA@lovelace.example' } })).toMatchObject({ customerId: order.customerId });
  });

  it('a key is read however somebody types it', async () => {
    const { key } = await issue();
    const { instance } = await activate(key.toLowerCase().replaceAll('-', ' '));
    for (const typed of [key, key.toLowerCase(), key.replaceAll('-', ''), `  ${key}\t`, key.replaceAll('0', 'o').replaceAll('1', 'l')]) {
      expect(await validate(typed, { instanceId: instance.id })).toMatchObject({ valid: true, code: 'VALID' });
    }
  });

  it('a customer moves to another device', async () => {
    const { key } = await issue({ activationLimit: 1 });
    const old = await activate(key, { fingerprint: 'old', instanceName: 'old device' });
    expect(await app.refused('POST', '/license/activate', { licenseKey: key, fingerprint: 'new' })).toMatchObject({ status: 409, code: 'ACTIVATION_LIMIT_EXCEEDED', title: 'Limit Exceeded', limit: 1, used: 1 });
    const gone = { deactivated: true, activationCount: 0, activationLimit: 1 };
    for (let twice = 0; twice < 2; twice++) expect(await app.post('/license/deactivate', { licenseKey: key, instanceId: old.instance.id })).toEqual(gone);
    const { instance } = await activate(key, { fingerprint: 'new', instanceName: 'new device' });
    expect(await validate(key, { instanceId: old.instance.id })).toMatchObject({ valid: false, code: 'INSTANCE_NOT_FOUND' });
    expect(await validate(key, { instanceId: instance.id, fingerprint: 'new' })).toMatchObject({ valid: true });
  });

  it('the software validates when it starts, and moves its last-seen time', async () => {
    const { id, key } = await issue({ features: { export: true, api: { limit: 5, per: 'day' } }, quotas: [{ meter: 'max_dp_cores', limit: 8 }] });
    const { instance } = await activate(key, { instanceName: 'laptop', fingerprint: 'fp' });
    const verdict = await validate(key, { instanceId: instance.id, fingerprint: 'fp', features: ['export'] });
    expect(verdict).toMatchObject({
      valid: true, code: 'VALID', detail: 'License valid', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null, seq: 1,
      license: {
        id, status: 'active', expiresAt: null, effectiveAt: null, activationLimit: -1, activationCount: 1, metadata: {}, featureFlags: {},
        features: { export: true, api: { limit: 5, per: 'day', used: 0, remaining: 5 } }, quotas: [{ meter: 'max_dp_cores', limit: 8, state: 'normal', lastPeak: null, graceEndsAt: null }],
      },
      instance: { id: instance.id, name: 'laptop' },
    });
    expect(Object.keys(verdict.license ?? {})).not.toContain('key');
    expect(Object.keys(verdict.license ?? {})).not.toContain('customerId');
    // At once from the process that has heard of it; from another when it has been written down, which happens once a second.
    const lastSeen = async () => (await root.all<InstanceView>(`/licenses/${id}/activations`))[0]?.lastSeenAt;
    let seen = await lastSeen();
    for (const until = Date.now() + 5_000; mode === 'distributed' && seen !== verdict.instance?.lastSeenAt && Date.now() < until; seen = await lastSeen()) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(seen).toBe(verdict.instance?.lastSeenAt);
    expect(await validate(key, { features: ['export', 'missing'] })).toMatchObject({ valid: false, code: 'FEATURE_MISSING', enforcement: 'FULL' });
    expect(await validate(key, { instanceId: instance.id, fingerprint: 'another machine' })).toMatchObject({ valid: false, code: 'FINGERPRINT_MISMATCH', enforcement: 'LOCKED' });
    expect(await validate(key, { productId: `prd_${crypto.randomUUID()}` })).toMatchObject({ valid: false, code: 'PRODUCT_MISMATCH' });
    expect(await validate('NO-SUCH-KEY')).toMatchObject({ valid: false, code: 'NOT_FOUND', detail: 'License not found', license: null, instance: null, enforcement: 'LOCKED', conclusive: true });
  });

  it('an administrator extends a license and the next validation shows it; shortens it, and that too', async () => {
    const { id, key, expiresAt } = await issue({ expiry: { value: 30, unit: 'days' } });
    expect((await validate(key)).license?.expiresAt).toBe(expiresAt);
    for (const wanted of [inDays(365), inDays(2), null]) {
      await root.patch(`/licenses/${id}`, { expiresAt: wanted });
      expect(await validate(key)).toMatchObject({ valid: true, license: { expiresAt: wanted } });
    }
    expect(await root.refused('PATCH', `/licenses/${id}`, { expiresAt: inDays(-1) })).toMatchObject({ status: 422, code: 'EXPIRY_IN_PAST' });
  });

  it('a compromised key is stopped: its instances are revoked, the key made anew, and the old one is dead at once', async () => {
    const { id, key } = await issue({ activationLimit: 3 });
    const seats = [await activate(key, { fingerprint: 'mine' }), await activate(key, { fingerprint: 'thief 1' }), await activate(key, { fingerprint: 'thief 2' })];
    for (const { instance } of seats.slice(1)) {
      await root.delete(`/licenses/${id}/activations/${instance.id}`);
      expect(await validate(key, { instanceId: instance.id })).toMatchObject({ valid: false, code: 'INSTANCE_NOT_FOUND' });
    }
    const renewed = await act(id, 'regenerate-key', { reason: 'leaked on a forum' });
    expect(renewed).toMatchObject({ id, status: 'active', activationCount: 0 });
    expect(renewed.key).not.toBe(key);
    expect(await validate(key)).toMatchObject({ valid: false, code: 'NOT_FOUND', license: null });
    expect(await app.refused('POST', '/license/activate', { licenseKey: key, fingerprint: 'thief 3' })).toMatchObject({ status: 404, code: 'LICENSE_NOT_FOUND' });
    expect(await app.refused('POST', '/license/deactivate', { licenseKey: key, instanceId: seats[0]?.instance.id })).toMatchObject({ status: 404, code: 'LICENSE_NOT_FOUND' });
    expect((await activate(renewed.key, { fingerprint: 'mine' })).instance.id).not.toBe(seats[0]?.instance.id);
    const ended = await root.all<InstanceView>(`/licenses/${id}/activations?include=ended`);
    expect(ended.map(({ endedBy }) => endedBy)).toEqual([null, 'admin', 'admin', 'regenerated']);
  });

  it('a plan changes future orders only; a plan without license keys gives none', async () => {
    const { product: made, plan } = await offer(root, { activationLimit: 2 });
    const before = await sell(root, plan.id);
    await root.patch(`/plans/${plan.id}`, { licensing: { activationLimit: 7 } });
    expect(await sell(root, plan.id)).toMatchObject({ activationLimit: 7 });
    expect(await view(before.id)).toMatchObject({ activationLimit: 2 });
    const without = await root.post<PlanView>(`/products/${made.id}/plans`, { name: 'No keys', licensing: { enabled: false } });
    expect(await root.post<OrderView>('/orders', { planId: without.id, customer: { name: 'A', email: 'a@example.com' }, quantity: 2 })).toMatchObject({ licenses: [], quantity: 2 });
    await root.post(`/products/${made.id}/archive`);
    expect(await root.refused('POST', '/orders', { planId: plan.id, customer: { name: 'A', email: 'a@example.com' } })).toMatchObject({ status: 409, code: 'PRODUCT_ARCHIVED' });
    expect(await validate(before.key)).toMatchObject({ valid: true });
  });
});

describe('A term', () => {
  it.each([
    ['2027-01-31T10:00:00Z', 1, 'months', '2027-02-28T10:00:00.000Z'],
    ['2028-01-31T23:59:59.999Z', 1, 'months', '2028-02-29T23:59:59.999Z'],
    ['2028-02-29T00:00:00Z', 1, 'years', '2029-02-28T00:00:00.000Z'],
    ['2027-03-31T02:00:00+02:00', 1, 'months', '2027-04-30T00:00:00.000Z'],
    ['2027-12-31T00:00:00Z', 14, 'months', '2029-02-28T00:00:00.000Z'],
    ['2027-01-31T00:00:00Z', 31, 'days', '2027-03-03T00:00:00.000Z'],
  ])('that starts on %s and lasts %i %s ends on %s', async (purchasedAt, value, unit, expiresAt) => {
    const { plan } = await offer(root, { expiry: { value, unit } });
    expect(await sell(root, plan.id, { purchasedAt })).toMatchObject({ expiresAt });
  });

  it('of a purchase long ago is over: the license is expired, and says so to everybody', async () => {
    const { plan } = await offer(root, { expiry: { value: 1, unit: 'months' } });
    const { id, key, ...license } = await sell(root, plan.id, { purchasedAt: '2020-01-31T00:00:00Z' });
    expect(license).toMatchObject({ status: 'expired', expiresAt: '2020-02-29T00:00:00.000Z' });
    expect(await validate(key)).toMatchObject({ valid: false, code: 'EXPIRED', detail: 'License Expired', enforcement: 'READ_ONLY', license: { status: 'expired' } });
    expect(await app.refused('POST', '/license/activate', { licenseKey: key })).toMatchObject({ status: 403, code: 'LICENSE_EXPIRED', title: 'License Expired' });
    expect(await root.get(`/licenses?planId=${plan.id}&status=expired`)).toMatchObject({ data: [{ id }] });
    expect(await root.get(`/licenses/totals?planId=${plan.id}`)).toMatchObject({ byStatus: { expired: 1, assigned: 0 } });
    expect(await root.refused('PATCH', `/licenses/${id}`, { expiresAt: inDays(30) })).toMatchObject({ status: 409, code: 'INVALID_TRANSITION', from: 'expired', requested: 'edit' });
    expect(await root.refused('POST', `/licenses/${id}/renew`, { expiresAt: '2020-03-31T00:00:00Z', reason: 'paid' })).toMatchObject({ status: 422, code: 'EXPIRY_IN_PAST' });
    expect(await root.refused('POST', `/licenses/${id}/renew`, { expiresAt: '2020-02-01T00:00:00Z', reason: 'paid' })).toMatchObject({ status: 422, code: 'EXPIRY_NOT_LATER' });
    expect(await act(id, 'renew', { expiresAt: inDays(30), reason: 'paid' })).toMatchObject({ status: 'assigned' });
    expect(await validate(key)).toMatchObject({ valid: true });
  });

  it('may have a grace: valid with a warning, until it ends', async () => {
    const license = async (expiryGraceDays: number) => sell(root, (await offer(root, { expiry: { value: 10, unit: 'days' }, expiryGraceDays })).plan.id, { purchasedAt: inDays(-15) });
    const graceful = await license(7);
    expect(graceful).toMatchObject({ status: 'assigned', graceEndsAt: new Date(Date.parse(graceful.expiresAt as string) + 7 * 86_400_000).toISOString() });
    expect(await validate(graceful.key)).toMatchObject({ valid: true, code: 'IN_EXPIRY_GRACE', reasons: ['IN_EXPIRY_GRACE'], enforcement: 'WARN', graceEndsAt: graceful.graceEndsAt });
    expect((await activate(graceful.key)).license?.status).toBe('active');
    const late = await license(4);
    expect(await validate(late.key)).toMatchObject({ valid: false, code: 'EXPIRED' });
  });

  it('may count from the first activation, or be a trial of 90 days at most', async () => {
    const later = await sell(root, (await offer(root, { expiry: { value: 1, unit: 'months' }, expiryBasis: 'firstActivation' })).plan.id, { purchasedAt: '2020-01-01T00:00:00Z' });
    expect(later).toMatchObject({ expiresAt: null, status: 'assigned' });
    const { license, instance } = await activate(later.key, { fingerprint: 'first' });
    const end = new Date(instance.createdAt);
    end.setUTCDate(1);
    end.setUTCMonth(end.getUTCMonth() + 2, 0); // the last day of the month after
    expect(Date.parse(license?.expiresAt as string)).toBeGreaterThan(Date.now() + 27 * 86_400_000);
    expect(Date.parse(license?.expiresAt as string)).toBeLessThanOrEqual(Date.now() + 31 * 86_400_000);
    await activate(later.key, { fingerprint: 'second' });
    expect((await view(later.id)).expiresAt).toBe(license?.expiresAt);

    const trial = await issue({ trial: { days: 14 } });
    expect(trial.expiresAt).toBeNull();
    const started = await activate(trial.key);
    expect(Date.parse(started.license?.expiresAt as string) - Date.parse(started.instance.createdAt)).toBe(14 * 86_400_000);
    expect(await root.refused('PATCH', `/licenses/${trial.id}`, { expiresAt: inDays(91) })).toMatchObject({ status: 422, code: 'TRIAL_TOO_LONG' });
    expect(await root.refused('PATCH', `/licenses/${trial.id}`, { expiresAt: null })).toMatchObject({ status: 422, code: 'TRIAL_TOO_LONG' });
    await root.patch(`/licenses/${trial.id}`, { expiresAt: inDays(80) });
    expect(await root.refused('POST', '/licenses', { productId: trial.productId, trial: { days: 91 } })).toMatchObject({ status: 422, code: 'TRIAL_TOO_LONG' });
  });

  it('may start later', async () => {
    const { key } = await issue({ effectiveAt: inDays(5) });
    expect(await validate(key)).toMatchObject({ valid: false, code: 'NOT_YET_EFFECTIVE' });
    expect(await app.refused('POST', '/license/activate', { licenseKey: key })).toMatchObject({ status: 403, code: 'LICENSE_NOT_YET_EFFECTIVE' });
  });
});

describe('The life of a license', () => {
  const actions = ['assign', 'edit', 'inactivate', 'reactivate', 'suspend', 'unsuspend', 'renew', 'regenerateKey', 'revoke', 'erase'] as const;
  type Action = (typeof actions)[number];
  const requests: Readonly<Record<Exclude<Action, 'erase'>, (license: Sold, customerId: string) => readonly [Method, string, unknown]>> = {
    assign: (_, customerId) => ['POST', '/assign', { customerId }],
    edit: () => ['PATCH', '', { metadata: { edited: crypto.randomUUID() } }],
    inactivate: () => ['POST', '/inactivate', {}], reactivate: () => ['POST', '/reactivate', {}],
    suspend: () => ['POST', '/suspend', {}], unsuspend: () => ['POST', '/unsuspend', {}],
    renew: () => ['POST', '/renew', { expiresAt: inDays(4000), reason: 'paid' }],
    regenerateKey: () => ['POST', '/regenerate-key', {}], revoke: () => ['POST', '/revoke', {}],
  };
  /** How to get there; and what is refused there, out of all actions (what is not there to lift is "already so"). */
  const expiring = { expiry: { value: 30, unit: 'days' } };
  const states: Readonly<Record<string, { make: () => Promise<Sold>; refused: readonly Action[]; offered: readonly Action[] }>> = {
    available: { make: () => issue(expiring, false), refused: ['inactivate', 'suspend'], offered: ['assign', 'edit', 'renew', 'regenerateKey', 'revoke', 'erase'] },
    assigned: { make: () => issue(expiring), refused: [], offered: ['assign', 'edit', 'inactivate', 'suspend', 'renew', 'regenerateKey', 'revoke', 'erase'] },
    active: {
      make: async () => {
        const license = await issue(expiring);
        await activate(license.key);
        return license;
      },
      refused: [], offered: ['assign', 'edit', 'inactivate', 'suspend', 'renew', 'regenerateKey', 'revoke', 'erase'],
    },
    inactive: {
      make: async () => act((await issue(expiring)).id, 'inactivate', { cause: 'abuse' }),
      refused: [], offered: ['assign', 'edit', 'inactivate', 'reactivate', 'suspend', 'renew', 'regenerateKey', 'revoke', 'erase'],
    },
    suspended: {
      make: async () => act((await issue(expiring)).id, 'suspend', { cause: 'abuse' }),
      refused: [], offered: ['assign', 'edit', 'inactivate', 'suspend', 'unsuspend', 'renew', 'regenerateKey', 'revoke', 'erase'],
    },
    expired: {
      make: async () => sell(root, (await offer(root, expiring)).plan.id, { purchasedAt: '2020-01-01T00:00:00Z' }),
      refused: ['assign', 'inactivate', 'suspend'], offered: ['edit', 'renew', 'regenerateKey', 'revoke', 'erase'],
    },
    revoked: {
      make: async () => act((await issue(expiring)).id, 'revoke'),
      refused: ['assign', 'edit', 'inactivate', 'reactivate', 'suspend', 'unsuspend', 'renew', 'regenerateKey'], offered: ['erase'],
    },
  };

  /** Without what a sweep may say at any moment. */
  const happened = async (id: string) => (await events(id)).map(({ type }) => type).filter((type) => type !== 'LicenseExpired');

  it.each(Object.entries(states))('allows while %s what it should, and refuses everything else by name', async (status, { make, refused, offered }) => {
    const license = await make();
    expect(await view(license.id)).toMatchObject({ status, allowedActions: offered });
    const { id: other } = await newCustomer();
    for (const action of actions) {
      if (action === 'erase') continue;
      const { id } = await make();
      const before = await happened(id);
      const [method, path, body] = requests[action](license, other);
      const answer = await root.ask<Record<string, unknown>>(method, `/licenses/${id}${path}`, body);
      const facts = { action, status: answer.status, ...(answer.status >= 400 && { code: answer.body['code'], from: answer.body['from'], allowed: answer.body['allowed'] }) };
      if (refused.includes(action)) expect(facts).toEqual({ action, status: 409, code: status === 'revoked' ? 'TERMINAL_STATE' : 'INVALID_TRANSITION', from: status, allowed: offered });
      else expect(facts).toEqual({ action, status: 200 });
      // A refusal has changed nothing.
      if (refused.includes(action)) expect(await happened(id)).toEqual(before);
    }
    await root.delete(`/licenses/${license.id}`, { reason: 'the end', force: true });
    expect(await root.refused('GET', `/licenses/${license.id}`)).toMatchObject({ status: 404, code: 'LICENSE_NOT_FOUND' });
  });

  it('takes no second event for what is already so', async () => {
    const { id, customerId, expiresAt } = await issue(expiring);
    await root.patch(`/licenses/${id}`, { expiresAt, activationLimit: -1, metadata: {} });
    await act(id, 'assign', { customerId });
    expect((await view(id)).revision).toBe(0);
    for (const [action, revision] of [['suspend', 1], ['suspend', 1], ['unsuspend', 2], ['unsuspend', 2], ['inactivate', 3], ['inactivate', 3], ['reactivate', 4], ['reactivate', 4], ['revoke', 5], ['revoke', 5]] as const) {
      expect(await act(id, action)).toMatchObject({ revision });
    }
  });

  it('knows holds by their cause: each is lifted by itself, and the strictest shows', async () => {
    const { id, key } = await issue();
    await activate(key);
    await act(id, 'suspend', { cause: 'payment', reason: 'unpaid' });
    await act(id, 'suspend', { cause: 'abuse' });
    const held = await act(id, 'inactivate', { reason: 'holiday' });
    expect(held.status).toBe('suspended');
    expect(held.holds).toMatchObject([{ kind: 'suspended', cause: 'payment', reason: 'unpaid' }, { kind: 'suspended', cause: 'abuse', reason: null }, { kind: 'inactive', cause: 'manual', reason: 'holiday' }]);
    expect(held.holds[0]?.actor).toMatchObject({ type: 'api-key', role: 'super_admin' });
    expect(await validate(key)).toMatchObject({ valid: false, code: 'SUSPENDED', detail: 'License Suspended', reasons: ['SUSPENDED', 'INACTIVE'], enforcement: 'LOCKED' });
    expect(await app.refused('POST', '/license/activate', { licenseKey: key })).toMatchObject({ status: 403, code: 'LICENSE_SUSPENDED' });
    expect(await act(id, 'unsuspend')).toMatchObject({ status: 'suspended' }); // there is no manual one
    expect(await act(id, 'unsuspend', { cause: 'payment' })).toMatchObject({ status: 'suspended' });
    expect(await act(id, 'unsuspend', { cause: 'abuse' })).toMatchObject({ status: 'inactive' });
    expect(await validate(key)).toMatchObject({ valid: false, code: 'INACTIVE', detail: 'License Inactive' });
    expect(await app.refused('POST', '/license/activate', { licenseKey: key })).toMatchObject({ status: 403, code: 'LICENSE_INACTIVE' });
    expect(await act(id, 'reactivate')).toMatchObject({ status: 'active', activationCount: 1 });
    expect(await validate(key)).toMatchObject({ valid: true });
  });

  it('ends with a revocation: every instance is out at once, for good', async () => {
    const { id, key } = await issue();
    const { instance } = await activate(key);
    expect(await act(id, 'revoke', { reason: 'charged back' })).toMatchObject({ status: 'revoked', activationCount: 0, allowedActions: ['erase'] });
    expect(await validate(key, { instanceId: instance.id })).toMatchObject({ valid: false, code: 'REVOKED', detail: 'License Revoked' });
    expect(await app.refused('POST', '/license/activate', { licenseKey: key })).toMatchObject({ status: 403, code: 'LICENSE_REVOKED', title: 'License Revoked' });
  });

  it('may be nobody\'s at first', async () => {
    const { id, key } = await issue({}, false);
    expect(await validate(key)).toMatchObject({ valid: false, code: 'NOT_ASSIGNED' });
    expect(await app.refused('POST', '/license/activate', { licenseKey: key })).toMatchObject({ status: 403, code: 'LICENSE_NOT_ASSIGNED' });
    const { id: customerId } = await newCustomer();
    expect(await act(id, 'assign', { customerId })).toMatchObject({ status: 'assigned', customerId });
    expect((await activate(key)).license?.status).toBe('active');
    expect(await root.refused('POST', `/licenses/${id}/assign`, { customerId: `cus_01938000-0000-7000-8000-000000000000` })).toMatchObject({ status: 422, code: 'REFERENCE_NOT_FOUND' });
  });

  it('is deleted with a word when it was used, and without when it never was', async () => {
    const { id, key } = await issue();
    await activate(key);
    expect(await root.refused('DELETE', `/licenses/${id}`, { reason: 'tidy' })).toMatchObject({ status: 409, code: 'LICENSE_EVER_ACTIVATED' });
    const { secret } = await root.post<{ secret: string }>('/api-keys', { name: 'manager', role: 'license_manager' });
    const manager = product.as(secret);
    expect(await manager.refused('DELETE', `/licenses/${id}`, { reason: 'tidy', force: true })).toMatchObject({ status: 403, code: 'PERMISSION_DENIED', permission: 'license.erase' });
    expect(await validate(key)).toMatchObject({ valid: true });
    await root.delete(`/licenses/${id}`, { reason: 'asked for', force: true });
    expect(await validate(key)).toMatchObject({ valid: false, code: 'NOT_FOUND' });
    const unused = await issue();
    expect(await root.refused('DELETE', `/licenses/${unused.id}`, {})).toMatchObject({ status: 400, code: 'VALIDATION_FAILED', errors: [{ pointer: '/reason' }] });
    await manager.delete(`/licenses/${unused.id}`, { reason: 'a mistake' });
    expect(await manager.refused('GET', `/licenses/${unused.id}/events`)).toMatchObject({ status: 404 });
  });

  it('keeps what cannot change, and says what is out of range', async () => {
    const license = await issue({ activationLimit: 2 });
    const path = `/licenses/${license.id}`;
    for (const field of ['id', 'key', 'productId', 'environment']) expect(await root.refused('PATCH', path, { [field]: 'other' })).toMatchObject({ status: 422, code: 'IMMUTABLE_FIELD', field });
    for (const activationLimit of [0, -2, 10_001]) expect(await root.refused('PATCH', path, { activationLimit })).toMatchObject({ status: 422, code: 'LIMIT_OUT_OF_RANGE' });
    expect(await root.refused('PATCH', path, { metadata: { a: 'x'.repeat(10_240) } })).toMatchObject({ status: 422, code: 'METADATA_TOO_LARGE' });
    expect(await root.refused('PATCH', path, { activationLimit: 'many', unknown: 1 })).toMatchObject({ status: 400, code: 'VALIDATION_FAILED', errors: expect.arrayContaining([expect.objectContaining({ pointer: '/activationLimit' }), expect.objectContaining({ pointer: '/unknown' })]) });
    expect(await view(license.id)).toEqual(license);
    for (const activationLimit of [1, 10_000, -1]) expect(await root.patch(path, { activationLimit })).toMatchObject({ activationLimit });
  });

  it('with a limit below the live instances evicts nobody and lets nobody new in', async () => {
    const { id, key } = await issue({ activationLimit: 3 });
    const seats = await Promise.all(['a', 'b', 'c'].map((fingerprint) => activate(key, { fingerprint })));
    await root.patch(`/licenses/${id}`, { activationLimit: 1 });
    for (const { instance } of seats) expect(await validate(key, { instanceId: instance.id })).toMatchObject({ valid: true });
    expect((await activate(key, { fingerprint: 'a' })).instance.id).toBe(seats[0]?.instance.id);
    expect(await app.refused('POST', '/license/activate', { licenseKey: key, fingerprint: 'd' })).toMatchObject({ code: 'ACTIVATION_LIMIT_EXCEEDED', limit: 1, used: 3 });
  });
});

describe('What is written down', () => {
  it('is a timeline of everything that happened, with who did it, and no secret in it', async () => {
    const { id, key } = await issue({ metadata: { note: 'private words' } });
    const { instance } = await activate(key, { fingerprint: 'fp-private', instanceName: 'name-private', metadata: { x: 'instance-private' } });
    await root.patch(`/licenses/${id}`, { activationLimit: 4, metadata: { note: 'other private words' } });
    await act(id, 'suspend', { cause: 'payment', reason: 'unpaid' });
    await act(id, 'unsuspend', { cause: 'payment' });
    await root.delete(`/licenses/${id}/activations/${instance.id}`);
    const { key: newKey } = await act(id, 'regenerate-key', { reason: 'leaked' });
    await act(id, 'revoke', { reason: 'charged back' });
    const timeline = await events(id);
    expect(timeline.map(({ type }) => type)).toEqual([
      'LicenseIssued', 'InstanceActivated', 'ActivationLimitChanged', 'MetadataChanged', 'LicenseSuspended', 'LicenseUnsuspended', 'InstanceDeactivated', 'KeyRegenerated', 'LicenseRevoked',
    ]);
    expect(timeline.map(({ revision }) => revision)).toEqual(timeline.map((_, n) => n));
    expect(timeline[4]).toMatchObject({ data: { cause: 'payment', reason: 'unpaid' }, actor: { type: 'api-key', role: 'super_admin' } });
    expect(timeline[1]).toMatchObject({ actor: { type: 'client' } });
    expect(timeline[6]).toMatchObject({ data: { activationId: instance.id, by: 'admin' } });
    const text = JSON.stringify(timeline);
    for (const secret of [key, newKey, key.slice(10), newKey.slice(10), 'private', 'sealed', 'keyHash']) expect({ secret, found: text.includes(secret) }).toEqual({ secret, found: false });
    const first = await root.get<Listed<LicenseEventView>>(`/licenses/${id}/events?limit=4`);
    const second = await root.get<Listed<LicenseEventView>>(`/licenses/${id}/events?limit=5&cursor=${first.page.next}`);
    expect([...first.data, ...second.data]).toEqual(timeline);
    expect(second.page).toEqual({ next: null, total: 9 });
    const ids = new Set(timeline.map(({ correlationId }) => correlationId));
    expect(ids.size).toBe(8); // the edit of two facts was one request
  });

  it('lists instances newest first, page by page, the ended ones on request', async () => {
    const { id, key } = await issue();
    const seats: string[] = [];
    for (let n = 0; n < 7; n++) seats.unshift((await activate(key, { instanceName: `machine ${n}` })).instance.id);
    await root.delete(`/licenses/${id}/activations/${seats[3]}`);
    const page = (query: string) => root.get<Listed<InstanceView>>(`/licenses/${id}/activations?${query}`);
    const first = await page('limit=4');
    expect(first.data.map((instance) => instance.id)).toEqual([seats[0], seats[1], seats[2], seats[4]]);
    expect(first.page.total).toBe(6);
    const rest = await page(`limit=4&cursor=${first.page.next}`);
    expect(rest.data.map((instance) => instance.id)).toEqual(seats.slice(5));
    expect(rest.page.next).toBeNull();
    const all = await page('include=ended');
    expect(all.data.map((instance) => instance.id)).toEqual(seats);
    expect(all.data[3]).toMatchObject({ endedBy: 'admin', name: 'machine 3', fingerprint: null });
  });

  it('has a revision, and a change that rests on an old one is refused', async () => {
    const { id } = await issue();
    const { headers } = await root.ask('GET', `/licenses/${id}`);
    expect(headers['etag']).toBe('"0"');
    const edited = await root.ask('PATCH', `/licenses/${id}`, { activationLimit: 2 }, { 'if-match': '"0"' });
    expect(edited).toMatchObject({ status: 200, headers: { etag: '"1"' }, body: { revision: 1 } });
    expect(await root.refused('PATCH', `/licenses/${id}`, { activationLimit: 3 }, { 'if-match': '"0"' })).toMatchObject({ status: 412, code: 'VERSION_CONFLICT' });
    expect(await root.refused('POST', `/licenses/${id}/revoke`, {}, { 'if-match': 'W/"0"' })).toMatchObject({ status: 412 });
    expect(await root.refused('DELETE', `/licenses/${id}`, { reason: 'x' }, { 'if-match': '"7"' })).toMatchObject({ status: 412 });
    expect(await root.patch(`/licenses/${id}`, { activationLimit: 3 }, { 'if-match': '*' })).toMatchObject({ revision: 2 });
    const { plan, product: made } = await offer(root);
    for (const [path, body] of [[`/plans/${plan.id}`, { name: 'New' }], [`/products/${made.id}`, { name: 'New' }], [`/customers/${(await newCustomer()).id}`, { name: 'New' }]] as const) {
      const tag = (await root.ask('GET', path)).headers['etag'] as string;
      await root.patch(path, body, { 'if-match': tag });
      expect(await root.refused('PATCH', path, { name: 'Newer' }, { 'if-match': tag })).toMatchObject({ status: 412, code: 'VERSION_CONFLICT' });
    }
    const racing = await Promise.all([1, 2, 3, 4].map((activationLimit) => root.ask('PATCH', `/licenses/${id}`, { activationLimit: activationLimit + 10 }, { 'if-match': '"2"' })));
    expect(racing.map(({ status }) => status).sort()).toEqual([200, 412, 412, 412]);
  });
});

describe('A generator', () => {
  it.each([
    [{ kind: 'crockford' }, /^[0-9A-HJKMNP-TV-Z]{7}(-[0-9A-HJKMNP-TV-Z]{7}){3}$/],
    [{ kind: 'crockford', prefix: 'paint' }, /^PAINT(-[0-9A-HJKMNP-TV-Z]{7}){4}$/],
    [{ kind: 'uuid' }, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/],
    [{ kind: 'uuid', prefix: 'X1' }, /^X1-[0-9a-f]{8}-/],
    [{ kind: 'chunks', chunks: 6, chunkLength: 4 }, /^[0-9A-HJKMNP-TV-Z]{4}(-[0-9A-HJKMNP-TV-Z]{4}){5}$/],
    [{ kind: 'chunks' }, /^[0-9A-HJKMNP-TV-Z]{5}(-[0-9A-HJKMNP-TV-Z]{5}){4}$/],
    [{ kind: 'pattern', pattern: 'KL-????-****-****-****-****-####' }, /^KL-[A-HJKMNP-TV-Z]{4}(-[0-9A-HJKMNP-TV-Z]{4}){4}-\d{4}$/],
  ])('of %j makes keys of that form, which work however they are typed', async (keyFormat, form) => {
    const { product: made, plan } = await offer(root, { activationLimit: 3 });
    const generator = await root.post<GeneratorView>('/generators', { name: 'Keys', productId: made.id, planId: plan.id, keyFormat, terms: { featureFlags: { from: 'generator' } } });
    const { id: customerId } = await newCustomer();
    const licenses = await Promise.all(Array.from({ length: 5 }, () => root.post<Sold>('/licenses', { productId: made.id, generatorId: generator.id, customerId })));
    expect(new Set(licenses.map(({ key }) => key)).size).toBe(5);
    for (const { key, keyPrefix, ...license } of licenses) {
      expect(key).toMatch(form);
      expect(license).toMatchObject({ planId: plan.id, activationLimit: 3, featureFlags: { from: 'generator' } });
      expect(keyPrefix).toHaveLength(8);
      expect(await validate(key.toLowerCase().replaceAll('-', ''))).toMatchObject({ valid: true });
      expect(await root.get(`/licenses?q=${encodeURIComponent(key.slice(-9))}`)).toMatchObject({ data: [{ id: license.id }] });
    }
    const [regenerated] = [await act((licenses[0] as Sold).id, 'regenerate-key')];
    expect(regenerated.key).not.toBe(licenses[0]?.key);
    expect(await validate(regenerated.key)).toMatchObject({ valid: true });
  });

  it.each([
    [{ kind: 'chunks', chunks: 3, chunkLength: 5 }, 422, 'KEY_FORMAT_TOO_WEAK'],
    [{ kind: 'pattern', pattern: 'ABC-####-####' }, 422, 'KEY_FORMAT_TOO_WEAK'],
    [{ kind: 'pattern', pattern: 'no specials!{}' }, 400, 'VALIDATION_FAILED'],
    [{ kind: 'crockford', prefix: 'not-a-prefix' }, 400, 'VALIDATION_FAILED'],
    [{ kind: 'md5' }, 400, 'VALIDATION_FAILED'],
  ])('of %j is refused', async (keyFormat, status, code) => {
    const { product: made } = await offer(root);
    expect(await root.refused('POST', '/generators', { name: 'Keys', productId: made.id, keyFormat })).toMatchObject({ status, code });
  });
});

describe('The table of licenses', () => {
  it('finds by key, holder, e-mail address, domain and product, filters, sorts and sums up', async () => {
    const made = await root.post<{ id: string }>('/products', { name: 'Zeichenprogramm Größe' });
    const customers = await Promise.all(['Xaver Quince', 'Yvonne Quince'].map((name, n) => root.post<CustomerView>('/customers', { name, email: `quince${n}@orchard.example` })));
    const of = (n: number, fields: object) => root.post<Sold>('/licenses', { productId: made.id, customerId: customers[n]?.id, ...fields });
    const [x, y, z] = [
      await of(0, { activationLimit: 2, expiresAt: '2098-01-01T00:00:00Z' }), await of(1, { activationLimit: 10, expiresAt: '2097-01-01T00:00:00Z' }), await of(1, { activationLimit: -1 }),
    ];
    await act(y.id, 'suspend');
    const ids = async (query: string) => (await root.get<Listed<LicenseView>>(`/licenses?${query}`)).data.map(({ id }) => id);
    for (const q of ['xaver', 'Xaver Qu', 'QUINCE0@orch']) expect({ q, ids: await ids(`q=${encodeURIComponent(q)}`) }).toEqual({ q, ids: [x.id] });
    for (const q of ['orchard.example', 'zeichen', 'größe']) expect({ q, ids: await ids(`q=${encodeURIComponent(q)}`) }).toEqual({ q, ids: [z.id, y.id, x.id] });
    expect(await ids(`q=${x.key.slice(2, 8)}`)).toEqual([x.id]);
    const mine = `productId=${made.id}`;
    expect(await ids(`${mine}&status=suspended`)).toEqual([y.id]);
    expect(await ids(`${mine}&status=suspended&status=assigned`)).toEqual([z.id, y.id, x.id]);
    expect(await ids(`${mine}&expiresBefore=2097-06-01T00:00:00Z`)).toEqual([y.id]);
    expect(await ids(`${mine}&sort=expiresAt`)).toEqual([y.id, x.id, z.id]);
    expect(await ids(`${mine}&sort=activations`)).toEqual([x.id, y.id, z.id]);
    expect(await ids(`${mine}&sort=-activations`)).toEqual([z.id, y.id, x.id]);
    expect((await ids(`${mine}&sort=customer`))[0]).toBe(x.id);
    expect((await ids(`${mine}&sort=-status`))[0]).toBe(y.id);
    const { page } = await root.get<Listed<LicenseView>>(`/licenses?${mine}&sort=createdAt&limit=2`);
    expect(page.total).toBe(3);
    expect(await ids(`${mine}&sort=createdAt&limit=2&cursor=${page.next}`)).toEqual([z.id]);
    expect(await root.get(`/licenses/totals?${mine}`)).toEqual({
      licenses: 3, byStatus: { available: 0, assigned: 2, active: 0, inactive: 0, suspended: 1, expired: 0, revoked: 0 }, averageLimit: 6, maximumActivations: null,
    });
    expect(await root.get('/licenses/suggest?q=quince')).toEqual({ data: expect.arrayContaining([{ kind: 'customer', text: 'Xaver Quince' }, { kind: 'customer', text: 'Yvonne Quince' }]) });
    expect(await root.get(`/licenses/suggest?q=${x.key.slice(0, 6)}`)).toEqual({ data: [{ kind: 'key', text: x.key, licenseId: x.id }] });
  });
});
