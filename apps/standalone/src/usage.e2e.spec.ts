import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { LicenseEventView, LicenseView, UsageRecord } from '@keyledger/contracts';
import { offer, Product, sell, validate, type Client, type Listed, type Sold } from '@keyledger/testing/process';

let product: Product;
let api: Client;
let app: Client;
beforeAll(async () => {
  product = await Product.start();
  api = product.root.in('staging');
  app = product.app.in('staging');
});
afterAll(() => product.stop());

const meter = 'max_dp_cores';
interface Recorded { readonly accepted: number; readonly duplicates: number; readonly quotas: LicenseView['quotas'] }
interface Series { readonly data: readonly { readonly from: string; readonly to: string; readonly peak: number; readonly sum: number }[] }

let made = 0;
const record = (value: number, at: string, fields: Partial<UsageRecord> = {}): UsageRecord => ({ id: `record-${made++}`, meter, value, at, ...fields });
const setClock = (now: string) => api.put('/environments/staging/clock', { now });
const advance = (seconds: number) => api.post('/environments/staging/clock/advance', { seconds });
const day = 86_400;
const report = (client: Client, { key: licenseKey }: Sold, instanceId: string, ...records: UsageRecord[]) => client.post<Recorded>('/license/usage', { licenseKey, instanceId, records });
async function instances(client: Client, { key: licenseKey }: Sold, count: number): Promise<string[]> {
  const seats: string[] = [];
  for (let n = 0; n < count; n++) {
    const { instance } = await client.post<{ instance: { id: string } }>('/license/activate', { licenseKey, instanceName: `gateway-${n}`, fingerprint: `fp ${n}` });
    seats.push(instance.id);
  }
  return seats;
}
const events = async ({ id }: Sold) => (await api.all<LicenseEventView>(`/licenses/${id}/events`)).map(({ type, data }) => ({ type, data })).filter(({ type }) => /Quota|Restricted/.test(type));
const quotas = async ({ id }: Sold) => (await api.get<LicenseView>(`/licenses/${id}`)).quotas;

describe('Cores of three gateways', () => {
  let license: Sold;
  let seats: string[];

  it('are counted at the same moment, and once', async () => {
    await setClock('2027-03-12T20:00:00.000Z');
    const { plan } = await offer(api, { quotas: [{ meter, limit: 64 }] });
    license = await sell(api, plan.id);
    seats = await instances(app, license, 3);
    const batches = seats.map((seat, n) => [seat, [record(20 + n, `2027-03-12T10:0${n}:00.000Z`), record(24 - 2 * n, `2027-03-12T14:3${n}:00.000Z`), record(2, '2027-03-12T16:00:00.000Z')]] as const);
    expect(await report(app, license, seats[0] as string, ...batches[0]?.[1] ?? [])).toEqual({ accepted: 3, duplicates: 0, quotas: [{ meter, limit: 64, state: 'normal', lastPeak: null, graceEndsAt: null }] });
    const answers = await Promise.all(Array.from({ length: 24 }, (_, n) => batches[n % 3]).map((batch) => report(app, license, batch?.[0] as string, ...batch?.[1] ?? [])));
    expect(answers.reduce((sum, { accepted }) => sum + accepted, 0)).toBe(6);
    expect((await api.get<Series>(`/licenses/${license.id}/usage?meter=${meter}&from=2027-03-12T10:00:00Z&to=2027-03-12T17:00:00Z&bucket=hour`)).data.map(({ peak, sum }) => [peak, sum]))
      .toEqual([[63, 63], [43, 0], [0, 0], [0, 0], [66, 66], [66, 0], [6, 6]]);
  });

  it('over the quota warn from midnight on, and everything still works', async () => {
    expect(await validate(app, license.key)).toMatchObject({ code: 'VALID', enforcement: 'FULL' });
    await advance(4 * 3600);
    expect(await validate(app, license.key)).toMatchObject({ valid: true, code: 'QUOTA_EXCEEDED', enforcement: 'WARN', graceEndsAt: '2027-03-20T00:00:00.000Z' });
    expect(await quotas(license)).toEqual([{ meter, limit: 64, state: 'exceeded', lastPeak: 66, graceEndsAt: '2027-03-20T00:00:00.000Z' }]);
  });

  it('are explained: which instances read what, and when', async () => {
    const why = await api.get<{ peak: number; instances: { instanceId: string; name: string; value: number; readings: { at: string }[] }[] }>(`/licenses/${license.id}/usage/explain?meter=${meter}&day=2027-03-12`);
    expect(why).toMatchObject({ kind: 'gauge', peak: 66, peakAt: '2027-03-12T14:32:00.000Z', complete: true });
    expect(why.instances.map(({ instanceId, name, value, readings }) => [instanceId, name, value, readings.map(({ at }) => at)]))
      .toEqual([0, 1, 2].map((n) => [seats[n], `gateway-${n}`, 24 - 2 * n, [`2027-03-12T14:3${n}:00.000Z`]]));
    expect(await events(license)).toMatchObject([{ type: 'QuotaExceeded', data: { meter, peak: 66, limit: 64, readings: { at: '2027-03-12T14:32:00.000Z', instances: [{ value: 24 }, { value: 22 }, { value: 20 }] } } }]);
  });

  it('block writes when the grace is over, and not before', async () => {
    await advance(7 * day - 60);
    expect(await validate(app, license.key)).toMatchObject({ code: 'QUOTA_EXCEEDED', enforcement: 'WARN' });
    await advance(60);
    expect(await validate(app, license.key)).toMatchObject({ valid: true, code: 'RESTRICTED', enforcement: 'READ_ONLY' });
    expect((await events(license)).map(({ type }) => type)).toEqual(['QuotaExceeded', 'LicenseRestricted']);
  });

  it('are good again at once with a bigger license', async () => {
    await api.patch(`/licenses/${license.id}`, { quotas: [{ meter, limit: 66 }] });
    expect(await validate(app, license.key)).toMatchObject({ code: 'VALID', enforcement: 'FULL' });
    expect((await events(license)).map(({ type }) => type)).toEqual(['QuotaExceeded', 'LicenseRestricted', 'QuotaChanged', 'QuotaRestored']);
    expect(await api.post('/licenses/health/sweep', {})).toMatchObject({ transitions: {} });
  });

  it('that were fewer clear it at the next midnight', async () => {
    await report(app, license, seats[0] as string, record(80, '2027-03-20T00:00:00.000Z'));
    await advance(day);
    expect(await quotas(license)).toMatchObject([{ state: 'exceeded', lastPeak: 80 }]);
    await report(app, license, seats[0] as string, record(40, '2027-03-21T00:00:00.000Z'));
    await advance(3600);
    expect(await quotas(license)).toMatchObject([{ state: 'exceeded' }]);
    await advance(day - 3600);
    expect(await quotas(license)).toMatchObject([{ state: 'normal', lastPeak: 40, graceEndsAt: null }]);
    expect(await validate(app, license.key)).toMatchObject({ code: 'VALID', license: { quotas: [{ state: 'normal', lastPeak: 40 }] } });
  });

  it('over the quota long ago, with nobody looking, end where they would have with somebody looking every minute', async () => {
    await report(app, license, seats[0] as string, record(80, '2027-03-22T00:00:00.000Z'));
    await advance(30 * day);
    expect((await events(license)).slice(-2)).toMatchObject([{ type: 'QuotaExceeded', data: { graceEndsAt: '2027-03-30T00:00:00.000Z' } }, { type: 'LicenseRestricted' }]);
  });
});

describe('A cap per day or month', () => {
  it('says how much is left, in every answer', async () => {
    await setClock('2027-05-04T10:00:00.000Z');
    const { plan } = await offer(api, { features: { calls: { limit: 100, per: 'day' }, pages: { limit: 10, per: 'month' }, export: true } });
    const license = await sell(api, plan.id);
    expect(license.features).toEqual({ calls: { limit: 100, per: 'day', used: 0, remaining: 100 }, pages: { limit: 10, per: 'month', used: 0, remaining: 10 }, export: true });
    const [seat = ''] = await instances(app, license, 1);
    await report(app, license, seat, record(30, '2027-05-04T09:00:00.000Z', { meter: 'calls' }), record(12.5, '2027-05-04T09:30:00.000Z', { meter: 'calls' }), record(11, '2027-05-01T09:00:00.000Z', { meter: 'pages' }));
    const features = { calls: { limit: 100, per: 'day', used: 42.5, remaining: 57.5 }, pages: { limit: 10, per: 'month', used: 11, remaining: 0 }, export: true };
    expect((await api.get<LicenseView>(`/licenses/${license.id}`)).features).toEqual(features);
    expect((await api.get<Listed<LicenseView>>(`/licenses?planId=${plan.id}`)).data[0]?.features).toEqual(features);
    expect((await api.patch<LicenseView>(`/licenses/${license.id}`, { activationLimit: 9 })).features).toEqual(features);
    // Up to here every question was about the instance's seat: another process may know what was used a moment ago.
    await advance(day);
    expect((await validate(app, license.key, { features: ['calls'] })).license?.features).toEqual({ ...features, calls: { limit: 100, per: 'day', used: 0, remaining: 100 } });
  });
});

it('A meter is what its product says', async () => {
  const meters = [{ meter: 'api_calls', per: 'month', unit: 'calls' }, { meter: 'cores' }];
  const { id: productId } = await api.post<{ id: string }>('/products', { name: 'API', meters });
  expect(await api.get(`/products/${productId}`)).toMatchObject({ meters });
  const counted = [{ meter: 'api_calls', limit: 1000 }, { meter: 'cores', limit: 8 }];
  const plan = await api.post<{ id: string }>(`/products/${productId}/plans`, { name: 'Plan', licensing: { enabled: true, quotas: counted } });
  const sold = await sell(api, plan.id);
  const issued = await api.post<LicenseView>('/licenses', { productId, quotas: counted });
  for (const { quotas: own } of [sold, issued]) expect(own).toMatchObject([{ meter: 'api_calls', limit: 1000, per: 'month' }, { meter: 'cores', limit: 8 }]);
  expect((await api.patch<LicenseView>(`/licenses/${sold.id}`, { quotas: [{ meter: 'api_calls', limit: 2000 }] })).quotas).toMatchObject([{ meter: 'api_calls', limit: 2000, per: 'month' }]);
  const bare = await api.post<LicenseView>('/licenses', { productId });
  expect((await api.patch<LicenseView>(`/licenses/${bare.id}`, { quotas: [{ meter: 'api_calls', limit: 5 }] })).quotas).toMatchObject([{ meter: 'api_calls', limit: 5, per: 'month' }]);
});

describe('Usage', () => {
  it('that was answered is there after a kill -9, and still counts once', async () => {
    const { plan } = await offer(product.root, { quotas: [{ meter, limit: 64 }] });
    const license = await sell(product.root, plan.id);
    const [seat = ''] = await instances(product.app, license, 1);
    const at = new Date(Date.now() - 600_000).toISOString();
    const batches = Array.from({ length: 40 }, () => Array.from({ length: 50 }, () => record(1, at)));
    const answered: UsageRecord[][] = [];
    const sending = batches.map((batch) => report(product.app, license, seat, ...batch).then(() => void answered.push(batch), () => undefined));
    await Promise.race(sending);
    await product.kill9();
    await Promise.all(sending);
    await product.restart();
    for (const batch of answered) expect(await report(product.app, license, seat, ...batch)).toMatchObject({ accepted: 0, duplicates: 50 });
    for (const batch of batches) await report(product.app, license, seat, ...batch);
    expect((await product.root.get<Series>(`/licenses/${license.id}/usage?meter=${meter}`)).data.reduce((sum, one) => sum + one.sum, 0)).toBe(2000);
    expect(answered.length).toBeGreaterThan(0);
  }, 180_000);

  it('that is none is refused as a whole', async () => {
    const { plan } = await offer(product.root);
    const license = await sell(product.root, plan.id);
    const other = await sell(product.root, plan.id);
    const [seat = ''] = await instances(product.app, license, 1);
    const [stranger = ''] = await instances(product.app, other, 1);
    const now = new Date().toISOString();
    const refused = (records: unknown[], fields: object = {}) => product.app.refused('POST', '/license/usage', { licenseKey: license.key, instanceId: seat, records, ...fields });
    expect(await refused([record(1, now)], { licenseKey: 'nobody' })).toMatchObject({ status: 404, code: 'LICENSE_NOT_FOUND' });
    expect(await refused([record(1, now)], { instanceId: stranger })).toMatchObject({ status: 404, code: 'INSTANCE_NOT_FOUND' });
    expect(await refused([record(1, now), record(1, new Date(Date.now() + 600_000).toISOString())])).toMatchObject({ status: 422, code: 'USAGE_OUT_OF_RANGE', errors: [{ pointer: '/records/1/at' }] });
    expect(await refused([record(1, '2020-01-01T00:00:00.000Z')])).toMatchObject({ status: 422, code: 'USAGE_OUT_OF_RANGE' });
    for (const records of [[], [record(-1, now)], [{ ...record(1, now), value: '1' }], [{ ...record(1, now), unit: 'cores' }], [record(1, 'now')], [record(1, now, { id: '' })], Array.from({ length: 1001 }, () => record(1, now))]) {
      expect(await refused(records)).toMatchObject({ status: 400, code: 'VALIDATION_FAILED' });
    }
    expect((await product.root.get<Series>(`/licenses/${license.id}/usage?meter=${meter}`)).data.every(({ sum }) => sum === 0)).toBe(true);
  });

  it('goes with its license', async () => {
    const { plan } = await offer(product.root);
    const license = await sell(product.root, plan.id);
    const [seat = ''] = await instances(product.app, license, 1);
    await report(product.app, license, seat, record(1, new Date().toISOString()));
    await product.root.delete(`/licenses/${license.id}`, { reason: 'asked for', force: true });
    for (const path of [`usage?meter=${meter}`, `usage/explain?meter=${meter}&day=2026-03-12`]) expect(await product.root.refused('GET', `/licenses/${license.id}/${path}`)).toMatchObject({ status: 404, code: 'LICENSE_NOT_FOUND' });
    expect(await product.app.refused('POST', '/license/usage', { licenseKey: license.key, instanceId: seat, records: [record(1, new Date().toISOString())] })).toMatchObject({ status: 404 });
  });
});
