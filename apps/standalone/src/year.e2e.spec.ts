import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { HeartbeatAnswer, LicenseEventView, LicenseView, SweepReport, Verdict } from '@keyledger/contracts';
import { offer, Product, sell, validate, type Client, type Sold } from '@keyledger/testing/process';

/** A year in the life of two licenses, on the clock of a test environment: what time and usage bring about, and what the vendor's own systems hear of it. */

interface Told { readonly type: string; readonly timestamp: string; readonly data: { readonly licenseId?: string } }
const told = new Map<string, Told>();
let heard: () => void = () => undefined;
const receiver = createServer((request, response) => {
  let text = '';
  request.on('data', (chunk) => (text += chunk)).on('end', () => {
    told.set(String(request.headers['webhook-id']), JSON.parse(text) as Told);
    response.writeHead(204).end();
    heard();
  });
});

let product: Product;
let api: Client;
let app: Client;
beforeAll(async () => {
  await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve));
  product = await Product.start({ KEYLEDGER_WEBHOOK_ALLOW_PRIVATE: 'true' });
  api = product.root.in('staging');
  app = product.app.in('staging');
}, 90_000);
afterAll(async () => {
  await product?.stop();
  receiver.closeAllConnections();
  receiver.close();
});

const clock = (now: string) => api.put('/environments/staging/clock', { now });
const verdict = async ({ key }: Sold, question = {}) => {
  const { valid, code, enforcement } = await validate(app, key, question) as Verdict;
  return { valid, code, enforcement };
};
const good = { valid: true, code: 'VALID', enforcement: 'FULL' };
const types = async ({ id }: Sold) => (await api.all<LicenseEventView>(`/licenses/${id}/events`)).map(({ type, data }) => ('days' in data ? `${type} ${String(data['days'])}` : type));
const effectiveAt = async ({ id }: Sold, type: string) => {
  const { data } = (await api.all<LicenseEventView>(`/licenses/${id}/events`)).find((event) => event.type === type) as LicenseEventView;
  return data['dueAt'] ?? data['graceEndedAt'] ?? data['graceEndsAt'];
};
/** Resolves when the receiver has heard so many webhooks about the license. */
async function webhooksOf({ id }: Sold, count: number): Promise<string[]> {
  const until = performance.now() + 30_000;
  for (;;) {
    const found = [...told.values()].filter(({ data }) => data.licenseId === id);
    if (found.length >= count || performance.now() > until) return found.map(({ type }) => type).sort();
    await new Promise<void>((resolve) => {
      heard = resolve;
      setTimeout(resolve, 1_000).unref();
    });
  }
}

const meter = 'max_dp_cores';
let license: Sold;
let box: Sold;
let seat: string;
let activationId: string;
let [seq, readings] = [0, 0];
const cores = (value: number, at: string) => app.post('/license/usage', { licenseKey: license.key, instanceId: seat, records: [{ id: `r${readings++}`, meter, value, at }] });
const beat = () => product.app.with({ authorization: `License ${box.key}`, 'x-environment': 'staging' })
  .post<HeartbeatAnswer>(`/licenses/${box.id}/heartbeat`, { activationId, fingerprint: 'board 1', seq: ++seq });

describe('A year', () => {
  it('begins in January: two licenses are sold and put to use', async () => {
    await clock('2031-01-01T00:00:00.000Z');
    await api.post('/webhook-endpoints', { url: `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`, events: ['*'] });
    const year = { value: 1, unit: 'years' };
    license = await sell(api, (await offer(api, { activationLimit: 1, expiry: year, expiryGraceDays: 7, overageGraceDays: 7, quotas: [{ meter, limit: 64 }] })).plan.id);
    box = await sell(api, (await offer(api, { activationLimit: 1, expiry: { value: 1, unit: 'years' }, validationMode: 'heartbeat', offlineGraceDays: 14, binding: 'fingerprint' })).plan.id);
    ({ instance: { id: seat } } = await app.post<{ instance: { id: string } }>('/license/activate', { licenseKey: license.key, fingerprint: 'rack 1' }));
    ({ activationId } = await product.app.with({ authorization: `License ${box.key}`, 'x-environment': 'staging' }).post<{ activationId: string }>(`/licenses/${box.id}/activate`, { fingerprint: 'board 1' }));
    expect(license.expiresAt?.slice(0, 16)).toBe('2032-01-01T00:00');
    expect([await verdict(license), (await beat()).state]).toEqual([good, 'active']);
  });

  it('has a cut line in February: the box lives through 13 days and 23 hours, and not through 14 days', async () => {
    const last = '2031-02-01T00:00:00.000Z';
    await clock('2031-01-14T00:00:00.000Z');
    await beat();
    await clock('2031-01-20T00:00:00.000Z');
    await beat();
    await clock(last);
    await beat();
    await clock('2031-02-14T23:00:00.000Z');
    expect((await verdict(box, { fingerprint: 'board 1' })).code).toBe('VALID');
    await clock('2031-02-15T00:01:00.000Z');
    expect((await types(box)).slice(-2)).toEqual(['HeartbeatMissed', 'HeartbeatLost']);
    expect((await beat()).state).toBe('active');
    expect((await types(box)).slice(-2)).toEqual(['HeartbeatLost', 'HeartbeatRecovered']);
  });

  it('has too many cores in March: a warning for a week, then writes are blocked, then it is good again', async () => {
    await clock('2031-03-12T10:00:00.000Z');
    await cores(70, '2031-03-12T09:30:00.000Z');
    expect(await verdict(license)).toEqual(good);
    await clock('2031-03-13T00:00:00.000Z');
    expect(await verdict(license)).toEqual({ valid: true, code: 'QUOTA_EXCEEDED', enforcement: 'WARN' });
    expect(await effectiveAt(license, 'QuotaExceeded')).toBe('2031-03-20T00:00:00.000Z');
    await clock('2031-03-19T10:00:00.000Z');
    await cores(71, '2031-03-19T09:59:00.000Z');
    await clock('2031-03-20T00:00:00.000Z');
    expect(await verdict(license)).toEqual({ valid: true, code: 'RESTRICTED', enforcement: 'READ_ONLY' });
    await cores(64, '2031-03-20T00:00:00.000Z');
    await clock('2031-03-21T00:00:00.000Z');
    expect(await verdict(license)).toEqual(good);
  });

  it('has an unpaid bill in June', async () => {
    await clock('2031-06-01T00:00:00.000Z');
    expect(await api.post<LicenseView>(`/subscriptions/${license.id}/invalidate`, { reason: 'card declined' })).toMatchObject({ status: 'suspended', holds: [{ cause: 'subscription', reason: 'card declined' }] });
    await api.post(`/licenses/${license.id}/suspend`, {});
    expect((await verdict(license)).code).toBe('SUSPENDED');
    expect(await api.post<LicenseView>(`/subscriptions/${license.id}/restore`, { reason: 'paid' })).toMatchObject({ status: 'suspended', holds: [{ cause: 'manual' }] });
    await api.post(`/licenses/${license.id}/unsuspend`, {});
    expect(await verdict(license)).toEqual(good);
  });

  it('is paused for a week in July, and goes on by itself', async () => {
    await clock('2031-07-01T00:00:00.000Z');
    expect(await api.post<LicenseView>(`/licenses/${license.id}/inactivate`, { reason: 'works holiday', until: '2031-07-08T00:00:00.000Z' })).toMatchObject({ status: 'inactive', holds: [{ until: '2031-07-08T00:00:00.000Z' }] });
    await clock('2031-07-07T23:00:00.000Z');
    expect((await verdict(license)).code).toBe('INACTIVE');
    await clock('2031-07-08T00:00:00.000Z');
    expect(await verdict(license)).toEqual(good);
    expect(await effectiveAt(license, 'LicenseReactivated')).toBe('2031-07-08T00:00:00.000Z');
  });

  it('ends with three reminders, a grace of a week, and the end', async () => {
    await clock('2031-12-31T23:00:00.000Z');
    expect((await types(license)).filter((type) => type.startsWith('ExpiryReminderDue'))).toEqual(['ExpiryReminderDue 30', 'ExpiryReminderDue 14', 'ExpiryReminderDue 7']);
    expect(await verdict(license)).toEqual(good);
    await clock('2032-01-01T00:01:00.000Z');
    expect(await verdict(license)).toEqual({ valid: true, code: 'IN_EXPIRY_GRACE', enforcement: 'WARN' });
    await clock('2032-01-08T00:01:00.000Z');
    expect(await verdict(license)).toEqual({ valid: false, code: 'EXPIRED', enforcement: 'READ_ONLY' });
    expect(await api.get<LicenseView>(`/licenses/${license.id}`)).toMatchObject({ status: 'expired' });
    expect(String(await effectiveAt(license, 'LicenseExpired')).slice(0, 16)).toBe('2032-01-08T00:00');
    await api.post(`/licenses/${license.id}/renew`, { expiresAt: '2033-01-01T00:00:00.000Z', reason: 'paid for another year' });
    expect(await verdict(license)).toEqual(good);
  });

  it('is told in the history, each thing once', async () => {
    expect(await types(license)).toEqual([
      'LicenseIssued', 'InstanceActivated', 'QuotaExceeded', 'QuotaExceeded', 'LicenseRestricted', 'QuotaRestored', 'LicenseSuspended', 'LicenseSuspended', 'LicenseUnsuspended', 'LicenseUnsuspended',
      'LicenseInactivated', 'LicenseReactivated',
      'ExpiryReminderDue 30', 'ExpiryReminderDue 14', 'ExpiryReminderDue 7', 'LicenseExpired', 'LicenseRenewed',
    ]);
    expect(await api.post<SweepReport>('/licenses/health/sweep', {})).toMatchObject({ transitions: {} });
  });

  it('and to the vendor’s systems', async () => {
    expect(await webhooksOf(license, 17)).toEqual([
      'license.activated', 'license.expired', 'license.expiring', 'license.expiring', 'license.expiring', 'license.inactivated', 'license.issued', 'license.reactivated', 'license.renewed', 'license.suspended', 'license.suspended',
      'license.unsuspended', 'license.unsuspended', 'quota.exceeded', 'quota.exceeded', 'quota.restored', 'quota.restricted',
    ]);
    expect(await webhooksOf(box, (await types(box)).length)).toEqual(expect.arrayContaining(['deployment.late', 'deployment.locked', 'deployment.recovered', 'license.expired']));
  });
});
