import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { GeneratorView, JobResult, JobView, LicenseEventView, LicenseView, ProductView } from '@keyledger/contracts';
import { until } from '@keyledger/testing';
import { mode, Product, type Client, type Listed } from '@keyledger/testing/process';
import { parse } from 'csv-parse/sync';

let product: Product;
let api: Client;
beforeAll(async () => {
  product = await Product.start();
  api = product.root;
});
afterAll(() => product.stop());

type Cells = Readonly<Record<string, string>>;
const cellsOf = (csv: string) => parse(csv, { columns: true }) as Cells[];
const csv = { accept: 'text/csv' };
let made = 0;

async function generator(terms: object = {}) {
  const { id: productId } = await api.post<ProductView>('/products', { name: `Bulk ${made++}` });
  const { id } = await api.post<GeneratorView>('/generators', { name: 'Resellers', productId, keyFormat: { kind: 'crockford', prefix: 'BULK' }, terms });
  return { productId, id };
}
const batch = (generatorId: string, count: number) => api.post<JobView>(`/generators/${generatorId}/batches`, { count });
const job = (id: string) => api.get<JobView>(`/jobs/${id}`);
const ended = (id: string) => until(() => job(id), ({ finishedAt }) => finishedAt !== null);
/** Everything a stream says until it ends by itself. */
async function follow(id: string, lastEventId?: string) {
  const { body, headers } = await api.ask<string>('GET', `/jobs/${id}/events`, undefined, lastEventId === undefined ? {} : { 'last-event-id': lastEventId });
  expect(headers['content-type']).toBe('text/event-stream');
  return [...body.matchAll(/^id: (.*)\nevent: (.*)\ndata: (.*)$/gm)].map(([, place, event, data]) => ({ place, event, job: JSON.parse(data as string) as JobView }));
}
const licensesOf = (productId: string, query = '') => api.get<readonly LicenseView[]>(`/licenses/export?format=json&productId=${productId}${query}`);
async function keysOf({ resultUrl }: JobView): Promise<string[]> {
  const { status, body } = await api.ask<string>('GET', resultUrl ?? '', undefined, csv);
  expect(status).toBe(200);
  const keys = cellsOf(body).map(({ licenseKey = '' }) => licenseKey);
  product.secrets.add(...keys);
  return keys;
}
const results = async ({ resultUrl }: JobView) => (await api.get<{ data: readonly JobResult[] }>(resultUrl ?? '')).data;

describe('A batch', () => {
  let keys: string[];
  let done: JobView;
  let productId: string;

  it('issues so many licenses like its generator, and says how far it is', async () => {
    const made = await generator({ activationLimit: 3, expiry: { value: 1, unit: 'years' }, featureFlags: { beta: true } });
    ({ productId } = made);
    const { status, headers, body } = await api.ask<JobView>('POST', `/generators/${made.id}/batches`, { count: 500 });
    expect({ status, location: headers['location'] }).toEqual({ status: 202, location: `/jobs/${body.id}` });
    expect(body).toMatchObject({ kind: 'batch', total: 500, failed: 0, finishedAt: null, generatorId: made.id });
    const told = await follow(body.id);
    expect(told.at(-1)).toMatchObject({ event: 'end', job: { state: 'completed', done: 500, total: 500, failed: 0, resultUrl: `/jobs/${body.id}/result` } });
    const progress = told.map((event) => event.job.done);
    expect(progress).toEqual(progress.toSorted((a, b) => a - b));
    expect(progress.some((n) => n < 500)).toBe(true);
    done = await job(body.id);
    expect(told.at(-1)?.job).toEqual(done);
    expect((await follow(body.id, told.at(-1)?.place)).map(({ event }) => event)).toEqual(['end']);

    const licenses = await licensesOf(productId);
    expect(new Set(licenses.map(({ key }) => key)).size).toBe(500);
    expect(new Set(licenses.map((license) => JSON.stringify([license.status, license.activationLimit, license.expiry, license.featureFlags, license.generatorId, license.revision, license.key?.slice(0, 5)]))))
      .toEqual(new Set([JSON.stringify(['available', 3, { value: 1, unit: 'years' }, { beta: true }, made.id, 0, 'BULK-'])]));
  });

  it('gives its keys once, and what has come of its rows whenever it is asked', async () => {
    const rows = await results(done);
    expect(rows.map(({ row, outcome }) => [row, outcome])).toEqual(Array.from({ length: 500 }, (_, n) => [n + 1, 'issued']));
    expect(JSON.stringify(rows)).not.toMatch('BULK-');
    expect((await api.ask('GET', done.resultUrl ?? '', undefined, csv).then(({ status }) => status))).toBe(200);
    expect(await api.refused('GET', done.resultUrl ?? '', undefined, csv)).toMatchObject({ status: 410, code: 'KEYS_ALREADY_DOWNLOADED' });
    expect(await job(done.id)).toMatchObject({ keysDownloadedAt: expect.any(String) });
    expect(await results(done)).toEqual(rows);
    keys = (await licensesOf(productId)).map(({ key }) => key ?? '');
    expect((await api.get<Listed<LicenseView>>(`/licenses?q=${keys[7]}`)).data).toMatchObject([{ key: keys[7] }]);
  });

  it('gives the very keys that were issued', async () => {
    const made = await generator();
    const own = await keysOf(await ended((await batch(made.id, 3)).id));
    expect(own.toSorted()).toEqual((await licensesOf(made.productId)).map(({ key }) => key).toSorted());
  });

  it('is the doing of who asked for it', async () => {
    const [license] = await licensesOf(productId);
    const [event] = await api.all<LicenseEventView>(`/licenses/${license?.id}/events`);
    expect(event).toMatchObject({ type: 'LicenseIssued', actor: { type: 'api-key', role: 'super_admin' }, correlationId: done.id });
  });

  it('that was cut short by kill -9 goes on, and has lost and doubled nothing', async () => {
    const made = await generator();
    const { id } = await batch(made.id, 4_000);
    expect(await until(() => job(id), (seen) => seen.done > 0)).toMatchObject({ kind: 'batch', finishedAt: null });
    await product.kill9();
    await product.restart();
    expect(await ended(id)).toMatchObject({ state: 'completed', done: 4_000, failed: 0 });
    const licenses = await licensesOf(made.productId);
    expect([licenses.length, new Set(licenses.map((license) => license.key)).size, licenses.every(({ revision }) => revision === 0)]).toEqual([4_000, 4_000, true]);
    expect(new Set((await results(await job(id))).map(({ licenseId }) => licenseId))).toEqual(new Set(licenses.map((license) => license.id)));
  }, 90_000);

  it('can be cancelled; what is done is done', async () => {
    const made = await generator();
    const { id } = await batch(made.id, 100_000);
    await until(() => job(id), (seen) => seen.done > 0);
    const cancelled = await api.post<JobView>(`/jobs/${id}/cancel`);
    expect(cancelled).toMatchObject({ state: 'cancelled' });
    const { done: count } = await ended(id);
    expect(count).toBeLessThan(100_000);
    expect((await licensesOf(made.productId)).length).toBe(count);
    expect(await results(await job(id))).toHaveLength(count);
    expect(await api.post<JobView>(`/jobs/${id}/cancel`)).toMatchObject({ state: 'cancelled', done: count });
    expect(await api.refused('POST', `/jobs/${done.id}/cancel`, {})).toMatchObject({ status: 409, code: 'INVALID_TRANSITION', from: 'completed' });
  });

  it('is listed, and refused where it makes no sense', async () => {
    const all = await api.all<JobView>('/jobs?kind=batch');
    expect(all.map(({ createdAt }) => createdAt)).toEqual(all.map(({ createdAt }) => createdAt).toSorted().toReversed());
    expect((await api.all<JobView>('/jobs?state=cancelled')).map(({ state, kind }) => [state, kind])).toEqual([['cancelled', 'batch']]);
    expect(await api.all<JobView>('/jobs?state=failed&state=queued&kind=import')).toEqual([]);
    const made = await generator();
    for (const count of [0, 100_001, 1.5, '5']) expect(await api.refused('POST', `/generators/${made.id}/batches`, { count })).toMatchObject({ status: 400 });
    await api.post(`/products/${made.productId}/archive`);
    expect(await api.refused('POST', `/generators/${made.id}/batches`, { count: 1 })).toMatchObject({ code: 'PRODUCT_ARCHIVED' });
    for (const path of ['', '/result', '/events']) expect(await api.refused('GET', `/jobs/job_01a1fd36-4987-7861-a687-47edcc6a564a${path}`)).toMatchObject({ status: 404, code: 'JOB_NOT_FOUND' });
  });

  it('comes once for one Idempotency-Key', async () => {
    const made = await generator();
    const once = { 'idempotency-key': 'a batch' };
    const [first, second] = [await api.post<JobView>(`/generators/${made.id}/batches`, { count: 2 }, once), await api.ask<JobView>('POST', `/generators/${made.id}/batches`, { count: 2 }, once)];
    expect(second).toMatchObject({ status: 202, body: { id: first.id }, headers: { location: `/jobs/${first.id}`, 'idempotency-replayed': 'true' } });
    await ended(first.id);
    expect(await licensesOf(made.productId)).toHaveLength(2);
  });
});

describe('An import', () => {
  const send = (file: string, query = '', headers = {}) => api.ask<JobView>('POST', `/imports${query}`, file, { 'content-type': 'text/csv', ...headers });
  let licenses: readonly LicenseView[];
  let productId: string;
  let ada: string;
  let file: string;
  beforeAll(async () => {
    const made = await generator();
    ({ productId } = made);
    await ended((await batch(made.id, 130)).id);
    licenses = await licensesOf(productId, '&sort=createdAt');
    ({ id: ada } = await api.post<{ id: string }>('/customers', { name: '=HYPERLINK("http://evil.example")', email: 'ada@import.example' }));
    await api.post('/licenses/' + licenses[2]?.id + '/assign', { customerId: ada });
    await api.post('/licenses/' + licenses[3]?.id + '/revoke', {});
    const key = (n: number) => licenses[n]?.key ?? '';
    const many = licenses.slice(10, 120).map((license) => `${license.key};ADA@import.example`);
    file = ['\ufefflicenseKey;customerEmail', `${key(0)};ada@import.example`, `"${key(1).toLowerCase()}";Ada@Import.Example`, `${key(2)};ada@import.example`, `${key(3)};ada@import.example`,
      `${key(4)};nobody@import.example`, 'BULK-0000000;ada@import.example', `${key(0)};ada@import.example`, `;ada@import.example`, ...many].join('\r\n');
  });
  const expected = [
    ['assigned', null], ['assigned', null], ['unchanged', null], ['failed', 'TERMINAL_STATE'], ['failed', 'CUSTOMER_NOT_FOUND'], ['failed', 'LICENSE_NOT_FOUND'],
    ['failed', 'VALIDATION_FAILED'], ['failed', 'VALIDATION_FAILED'], ...Array.from({ length: 110 }, () => ['assigned', null]),
  ];

  it('says what would happen, and changes nothing', async () => {
    const { status, headers, body } = await send(file, '?dryRun=true');
    expect({ status, location: headers['location'] }).toEqual({ status: 202, location: `/jobs/${body.id}` });
    const over = await ended(body.id);
    expect(over).toMatchObject({ kind: 'import', dryRun: true, state: 'completed', done: 118, total: 118, failed: 5 });
    expect((await results(over)).map(({ outcome, code }) => [outcome, code])).toEqual(expected);
    expect((await licensesOf(productId)).filter(({ status: now }) => now === 'assigned')).toHaveLength(1);
  });

  it('gives licenses to whom they are for, row by row', async () => {
    const over = await ended((await send(file)).body.id);
    expect(over).toMatchObject({ dryRun: false, state: 'completed', done: 118, failed: 5 });
    expect((await results(over)).map(({ outcome, code }) => [outcome, code])).toEqual(expected);
    const { body } = await api.ask<string>('GET', over.resultUrl ?? '', undefined, csv);
    expect(cellsOf(body)[0]).toEqual({ row: '1', outcome: 'assigned', code: '', detail: '', licenseId: licenses[0]?.id, customerId: ada });
    expect((await api.get<Listed<LicenseView>>(`/licenses?customerId=${ada}&productId=${productId}`)).page.total).toBe(113);
    const again = await results(await ended((await send(file)).body.id));
    expect(again.filter(({ outcome }) => outcome === 'unchanged')).toHaveLength(113);
  });

  it('comes once for one Idempotency-Key', async () => {
    const once = { 'idempotency-key': 'a file' };
    const { body: first } = await send(file, '?dryRun=true', once);
    expect(await send(file, '?dryRun=true', once)).toMatchObject({ status: 202, body: { id: first.id }, headers: { 'idempotency-replayed': 'true' } });
    expect(await send(`${file}\r\nx;y@example.com`, '?dryRun=true', once)).toMatchObject({ status: 422, body: { code: 'IDEMPOTENCY_KEY_REUSED' } });
    await ended(first.id);
  });

  it('is refused as a whole where it is no such file', async () => {
    expect(await send('licenseKey,mail\nA,b@example.com')).toMatchObject({ status: 400, body: { code: 'VALIDATION_FAILED', errors: [{ pointer: '/customerEmail' }, { pointer: '/mail' }] } });
    for (const wrong of ['', 'licenseKey,customerEmail\n', 'licenseKey,customerEmail\n"A,b']) expect((await send(wrong)).status).toBe(400);
    expect((await send('{}', '', { 'content-type': 'application/json' })).status).toBe(415);
    expect((await api.ask('POST', '/products', 'name\nx', { 'content-type': 'text/csv' })).status).toBe(415);
    expect((await send(`licenseKey,customerEmail\n${'x'.repeat(16 * 1024 * 1024)}`)).status).toBe(413);
  });

  it('and its export tell the same as the list', async () => {
    const query = `status=assigned&status=revoked&productId=${productId}&sort=-expiresAt`;
    const [listed, exported] = [await api.all<LicenseView>(`/licenses?${query}`), await api.get<LicenseView[]>(`/licenses/export?format=json&${query}`)];
    expect(listed).toHaveLength(114);
    expect(exported).toEqual(listed);
    const { body, headers } = await api.ask<string>('GET', `/licenses/export?format=csv&${query}`);
    expect(headers).toMatchObject({ 'content-type': 'text/csv; charset=utf-8; header=present', 'content-disposition': 'attachment; filename="licenses.csv"' });
    const rows = cellsOf(body);
    expect(rows.map(({ id, key, status }) => ({ id, key, status }))).toEqual(listed.map(({ id, key, status }) => ({ id, key, status })));
    expect(rows[0]).toMatchObject({ customerName: '\'=HYPERLINK("http://evil.example")', customerEmail: 'ada@import.example', activationLimit: 'unlimited' });
    expect(rows.flatMap((row) => Object.values(row)).filter((cell) => /^[=+\-@\t\r]/.test(cell))).toEqual([]);
    expect(await api.get<LicenseView[]>(`/licenses/export?productId=${productId}&q=nothing`)).toEqual([]);
  });
});

describe('A pool', () => {
  const poolOf = async (id: string) => (await api.get<ProductView>(`/products/${id}`)).pool;
  /** Said a moment after: nobody waits for it. */
  const lowPools = async (count: number) => {
    for (;;) {
      const { body } = await product.app.ask<string>('GET', '/metrics');
      if (body.includes(`keyledger_pools_low{environment="production",service="standalone"} ${count}\n`)) return;
      await sleep(25);
    }
  };

  it('of licenses that are nobody\'s yet is low when there are fewer than wanted', async () => {
    const made = await generator();
    expect(await poolOf(made.productId)).toBeNull();
    await ended((await batch(made.id, 4)).id);
    const patched = await api.patch<ProductView>(`/products/${made.productId}`, { pool: { buffer: 5 } });
    expect(patched.pool).toEqual({ buffer: 5, available: 4, low: true });
    if (mode === 'standalone') await lowPools(1);
    await ended((await batch(made.id, 1)).id);
    expect(await poolOf(made.productId)).toEqual({ buffer: 5, available: 5, low: false });
    const [license] = await licensesOf(made.productId);
    await api.post(`/licenses/${license?.id}/revoke`, {});
    const { data: [listed] } = await api.get<Listed<ProductView>>('/products?sort=-createdAt&limit=1');
    expect(listed).toEqual(await api.get(`/products/${made.productId}`));
    expect(listed?.pool).toEqual({ buffer: 5, available: 4, low: true });
    expect((await api.patch<ProductView>(`/products/${made.productId}`, { pool: { buffer: 4 } })).pool).toMatchObject({ low: false });
    if (mode === 'standalone') await lowPools(0);
    for (const pool of [{}, { buffer: 0 }, { buffer: 5, available: 5 }]) expect(await api.refused('PATCH', `/products/${made.productId}`, { pool })).toMatchObject({ status: 400 });
  });
});

describe('Bulk work', () => {
  it('is for who may: jobs.manage, and license.export for the file of all licenses', async () => {
    const as = async (body: object) => product.as((await api.post<{ secret: string }>('/api-keys', { name: 'bulk', environment: 'production', ...body })).secret);
    const [support, viewer, worker] = [await as({ role: 'support' }), await as({ role: 'viewer' }), await as({ permissions: ['jobs.manage'] })];
    expect((await support.ask('GET', '/licenses/export?format=csv&limit=1')).status).toBe(400);
    expect((await support.ask('GET', '/licenses/export?format=csv&customerId=cus_01a1fd36-4987-7861-a687-47edcc6a564a')).status).toBe(200);
    expect(await viewer.refused('GET', '/licenses/export')).toMatchObject({ status: 403, permission: 'license.export' });
    const [exporter, revoked] = [await as({ permissions: ['license.export'] }), '/licenses/export?format=json&status=revoked'];
    expect((await exporter.get<LicenseView[]>(revoked)).map(({ id, key }) => [id, key])).toEqual((await support.get<LicenseView[]>(revoked)).map(({ id }) => [id, null]));
    expect((await support.get<LicenseView[]>(revoked)).every(({ key }) => key?.startsWith('BULK-'))).toBe(true);
    expect(await support.refused('GET', '/jobs')).toMatchObject({ status: 403, permission: 'jobs.manage' });
    expect(await support.refused('POST', '/imports', 'x', { 'content-type': 'text/csv' })).toMatchObject({ status: 403, permission: 'jobs.manage' });
    expect((await worker.get<Listed<JobView>>('/jobs?limit=2')).data).toHaveLength(2);
    expect((await product.root.in('staging').get<Listed<JobView>>('/jobs')).data).toEqual([]);
  });
});
