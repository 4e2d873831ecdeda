import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { LicenseEventView, LicenseView } from '@keyledger/contracts';
import { until } from '@keyledger/testing';
import { offer, Product, sell, type Client, type Sold } from '@keyledger/testing/process';

let product: Product;
let api: Client;
let app: Client;
beforeAll(async () => {
  product = await Product.start();
  api = product.root.in('staging');
  app = product.app.in('staging');
});
afterAll(() => product.stop());

type Happened = { type: string; data: Record<string, unknown>; revision: number };
const activate = ({ key: licenseKey }: Sold, fingerprint: string) => app.ask<{ instance: { id: string } }>('POST', '/license/activate', { licenseKey, fingerprint });
/** Takes a seat and gives it back, as people do who share a key. */
async function borrow(license: Sold, fingerprint: string): Promise<void> {
  const { body } = await activate(license, fingerprint);
  await app.post('/license/deactivate', { licenseKey: license.key, instanceId: body.instance.id });
}
const events = async ({ id }: Sold, ...types: string[]) => (await api.all<LicenseEventView>(`/licenses/${id}/events`)).filter(({ type }) => types.includes(type)) as unknown as Happened[];
const statusOf = async ({ id }: Sold) => (await api.get<LicenseView>(`/licenses/${id}`)).status;
describe('Somebody who cannot get a seat', () => {
  it('is counted, each machine once and its retries apart, and nothing of the license changes', async () => {
    const { plan } = await offer(api, { activationLimit: 1 });
    const license = await sell(api, plan.id);
    await activate(license, 'the first');
    for (const fingerprint of ['second', 'second', 'third', 'second']) expect(await activate(license, fingerprint)).toMatchObject({ status: 409, body: { code: 'ACTIVATION_LIMIT_EXCEEDED' } });
    const day = new Date().toISOString().slice(0, 10);
    await until(async () => (await api.get<{ data: { denials: number }[] }>(`/licenses/${license.id}/denials`)).data[0]?.denials === 4);
    expect(await api.get(`/licenses/${license.id}/denials`)).toEqual({ data: [{ day, denials: 4, machines: 2, retries: 2 }] });
    expect(await api.get('/denials')).toMatchObject({ data: [{ licenseId: license.id, denials: 4, machines: 2, retries: 2 }] });
    expect(await api.get(`/licenses/${license.id}`)).toMatchObject({ revision: 1 });
  });

  it('for a box is counted too', async () => {
    const { plan } = await offer(api, { activationLimit: 1 });
    const license = await sell(api, plan.id);
    const bind = (fingerprint: string) => api.ask('POST', `/licenses/${license.id}/activate`, { fingerprint });
    expect(await bind('box 1')).toMatchObject({ status: 201 });
    for (const box of ['box 2', 'box 3', 'box 3']) expect(await bind(box)).toMatchObject({ status: 409, body: { code: 'FINGERPRINT_MISMATCH' } });
    const counted = await until(async () => (await api.get<{ data: { denials: number }[] }>(`/licenses/${license.id}/denials`)).data[0], (day) => day?.denials === 3);
    expect(counted).toMatchObject({ machines: 2, retries: 1 });
  });

  it('with a key that nobody has is counted as well', async () => {
    for (let n = 0; n < 3; n++) await app.post('/license/validate', { licenseKey: `KL-NOBODY${n}` });
    await until(async () => (await api.get<{ unknownKeys: { requests: number } }>('/denials')).unknownKeys.requests >= 3);
    expect(await api.get('/denials')).toMatchObject({ unknownKeys: { requests: 3, addresses: 1, hours: expect.arrayContaining([expect.objectContaining({ from: expect.stringMatching(/T\d\d:00:00\.000Z$/), addresses: 1 })]) } });
  });
});

describe('A license that is handed around', () => {
  let license: Sold;

  it('is nobody’s business until there are rules', async () => {
    expect(await api.get('/abuse-rules')).toEqual({ rules: [] });
    const { plan } = await offer(api, { activationLimit: 1 });
    license = await sell(api, plan.id);
    const rules = [{ pattern: 'machinesPerDay', limit: 3, action: 'suspend' }, { pattern: 'activationsPerHour', limit: 2, action: 'alert' }];
    expect(await api.put('/abuse-rules', { rules })).toEqual({ rules: [rules[1], rules[0]] });
    expect(await api.ask('PUT', '/abuse-rules', { rules: [rules[0], rules[0]] })).toMatchObject({ status: 400, body: { code: 'VALIDATION_FAILED' } });
    expect(await api.ask('PUT', '/abuse-rules', { rules: [{ pattern: 'moonPhase', limit: 1, action: 'alert' }] })).toMatchObject({ status: 400 });
  });

  it('is suspected first and suspended then, with the events that are the evidence', async () => {
    for (const machine of ['one', 'two', 'three']) await borrow(license, machine);
    const suspected = await until(async () => (await events(license, 'AbuseSuspected'))[0]);
    expect(suspected.data).toMatchObject({ pattern: 'activationsPerHour', limit: 2, action: 'alert', observed: 3 });
    expect(await statusOf(license)).toBe('active');
    await borrow(license, 'four');
    await until(async () => (await statusOf(license)) === 'suspended');
    const [suspended] = await events(license, 'LicenseSuspended');
    expect(suspended?.data).toEqual({ cause: 'abuse', reason: '4 different machines within a day, 3 are allowed' });
    const evidence = (await events(license, 'AbuseSuspected')).find(({ data }) => data['pattern'] === 'machinesPerDay')?.data['evidence'] as number[];
    const seats = await events(license, 'InstanceActivated');
    expect(evidence.toSorted((a, b) => a - b)).toEqual(seats.map(({ revision }) => revision).toSorted((a, b) => a - b));
    expect(await activate(license, 'five')).toMatchObject({ status: 403, body: { code: 'LICENSE_SUSPENDED' } });
  });

  it('goes on when somebody lifts the hold, until there is new evidence', async () => {
    await api.post(`/licenses/${license.id}/unsuspend`, { cause: 'abuse' });
    expect(await activate(license, 'one')).toMatchObject({ status: 201 });
    expect(await statusOf(license)).toBe('active');
    expect(await events(license, 'LicenseSuspended')).toHaveLength(1);
  });

  it('leaves nothing behind when it is erased', async () => {
    await api.delete(`/licenses/${license.id}`, { reason: 'asked for', force: true });
    expect(await api.ask('GET', `/licenses/${license.id}/denials`)).toMatchObject({ status: 404 });
    expect((await api.get<{ data: { licenseId: string }[] }>('/denials')).data.map(({ licenseId }) => licenseId)).not.toContain(license.id);
  });
});
