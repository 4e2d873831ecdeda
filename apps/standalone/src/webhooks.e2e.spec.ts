import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { LicenseView, WebhookDeliveryView, WebhookEndpointView } from '@keyledger/contracts';
import { until } from '@keyledger/testing';
import { findTexts, mode, offer, onFiles, Product, sell, spellings, type Client, type Listed } from '@keyledger/testing/process';
import { Webhook } from 'standardwebhooks';

let product: Product;
let api: Client;
beforeAll(async () => {
  product = await Product.start({ KEYLEDGER_WEBHOOK_ALLOW_PRIVATE: 'true' });
  api = product.root.in('staging');
}, 90_000);
afterAll(async () => {
  await product?.stop();
  await Promise.all(receivers.map((receiver) => receiver.close()));
});

interface Body { readonly type: string; readonly timestamp: string; readonly data: Record<string, unknown> }
interface Received { readonly id: string; readonly headers: IncomingHttpHeaders; readonly text: string; readonly body: Body }
type Endpoint = WebhookEndpointView & { readonly secret: string };

const receivers: Receiver[] = [];
/** Somebody else's server. */
class Receiver {
  readonly all: Received[] = [];
  readonly #server: Server;
  readonly #waiting = new Set<() => void>();
  /** What it answers. */
  answer: (received: Received) => number | Promise<number> = () => 204;

  static async start(): Promise<Receiver> {
    const receiver = new Receiver();
    receivers.push(receiver);
    receiver.#server.listen(0, '127.0.0.1');
    await once(receiver.#server, 'listening');
    return receiver;
  }

  private constructor() {
    this.#server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', () => {
        const text = Buffer.concat(chunks).toString();
        const received = { id: String(request.headers['webhook-id']), headers: request.headers, text, body: JSON.parse(text) as Body };
        this.all.push(received);
        for (const wake of this.#waiting) wake();
        void Promise.resolve(this.answer(received)).then((status) => response.writeHead(status).end('seen'));
      });
    });
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/hook`;
  }

  /** Resolves with those that fit when there are so many. */
  async heard(count: number, fits: (received: Received) => boolean = () => true): Promise<readonly Received[]> {
    const timeout = AbortSignal.timeout(40_000);
    for (;;) {
      const found = this.all.filter(fits);
      if (found.length >= count) return found;
      if (timeout.aborted) throw new Error(`${found.length} instead of ${count}; heard: ${this.all.map(({ body }) => body.type).join(', ')}`);
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.add(resolve);
      timeout.addEventListener('abort', () => resolve(), { once: true });
      await promise;
      this.#waiting.delete(resolve);
    }
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

const listen = async (receiver: Receiver, events: readonly string[], client = api): Promise<Endpoint> => client.post<Endpoint>('/webhook-endpoints', { url: receiver.url, events });
const deliveries = (endpoint: Endpoint, query = '') => api.all<WebhookDeliveryView>(`/webhook-deliveries?endpointId=${endpoint.id}${query}`);
const one = async (endpoint: Endpoint, isSo: (delivery: WebhookDeliveryView) => boolean) => (await until(() => deliveries(endpoint), ([first]) => first !== undefined && isSo(first)))[0] as WebhookDeliveryView;
const ofLicense = (id: string) => ({ body }: Received) => body.data['licenseId'] === id;

describe('An order', () => {
  it('is told, signed, to who wants to hear of it, and to nobody else', async () => {
    const [crm, usage, production] = [await Receiver.start(), await Receiver.start(), await Receiver.start()];
    const endpoint = await listen(crm, ['license.*']);
    expect(endpoint).toMatchObject({ id: expect.stringMatching(/^whk_/), secret: expect.stringMatching(/^whsec_[A-Za-z0-9+/]{43}=$/), enabled: true, events: ['license.*'] });
    await listen(usage, ['quota.*', 'deployment.*']);
    await listen(production, ['*'], product.root);

    const { plan } = await offer(api, { activationLimit: 1 });
    const license = await sell(api, plan.id);
    // A read sees what was answered before it.
    const [delivery] = await deliveries(endpoint);
    expect(delivery).toMatchObject({ type: 'license.issued', payload: { data: { licenseId: license.id } } });
    const [issued] = await crm.heard(1);
    expect(new Webhook(endpoint.secret).verify(issued?.text ?? '', issued?.headers as Record<string, string>)).toEqual(issued?.body);
    expect(issued).toMatchObject({
      id: delivery?.id, headers: { 'content-type': 'application/json' },
      body: { type: 'license.issued', data: { environment: 'staging', licenseId: license.id, keyPrefix: license.keyPrefix, productId: plan.productId, planId: plan.id, activationLimit: 1 } },
    });
    expect(issued?.text).not.toContain(license.key);

    await product.app.in('staging').post('/license/activate', { licenseKey: license.key, fingerprint: 'laptop', instanceName: 'Ada at home' });
    await api.post(`/licenses/${license.id}/suspend`, { cause: 'payment', reason: 'unpaid' });
    await api.post(`/licenses/${license.id}/regenerate-key`, {});
    await api.delete(`/licenses/${license.id}`, { reason: 'asked for', force: true });
    const told = (await crm.heard(5, ofLicense(license.id))).map(({ body: { type, data } }) => ({ type, data }));
    expect(told.map(({ type }) => type).sort()).toEqual(['license.activated', 'license.erased', 'license.issued', 'license.key-regenerated', 'license.suspended']);
    expect(told.find(({ type }) => type === 'license.suspended')?.data).toMatchObject({ cause: 'payment', reason: 'unpaid' });
    expect(crm.all.some(({ text }) => text.includes('Ada') || text.includes('laptop'))).toBe(false);
    expect(await one(endpoint, () => true)).toMatchObject({ endpointId: endpoint.id });
    expect((await until(() => deliveries(endpoint, '&status=delivered'), (all) => all.length === 5))[0]).toMatchObject({ attempts: 1, responseStatus: 204, error: null, nextAttemptAt: null });
    expect([usage.all, production.all]).toEqual([[], []]);
    expect((await product.root.get<Listed<unknown>>(`/webhook-deliveries?endpointId=${endpoint.id}`)).data).toEqual([]);
    expect((await product.root.refused('GET', `/webhook-deliveries/${delivery?.id}`)).code).toBe('WEBHOOK_DELIVERY_NOT_FOUND');
    expect((await product.root.refused('GET', `/webhook-endpoints/${endpoint.id}`)).code).toBe('WEBHOOK_ENDPOINT_NOT_FOUND');
  });
});

it('An activation too many is told', async () => {
  const receiver = await Receiver.start();
  await listen(receiver, ['activation.limit-exceeded']);
  const { plan } = await offer(api, { activationLimit: 1 });
  const { id, key: licenseKey, keyPrefix } = await sell(api, plan.id);
  const app = product.app.in('staging');
  await app.post('/license/activate', { licenseKey, fingerprint: 'laptop' });
  for (let n = 0; n < 3; n++) expect((await app.refused('POST', '/license/activate', { licenseKey, fingerprint: `desktop ${n}` })).code).toBe('ACTIVATION_LIMIT_EXCEEDED');
  const [told] = await receiver.heard(1);
  expect(told?.body).toMatchObject({ type: 'activation.limit-exceeded', data: { environment: 'staging', licenseId: id, keyPrefix, planId: plan.id, limit: 1, used: 1, denials: expect.any(Number) } });
});

describe('An endpoint', () => {
  it('that fails is tried again under the same id, in the time of its environment, and keeps no other waiting', async () => {
    const [broken, slow, well] = [await Receiver.start(), await Receiver.start(), await Receiver.start()];
    let status = 500;
    broken.answer = () => status;
    const never = Promise.withResolvers<number>();
    slow.answer = () => never.promise;
    const endpoint = await listen(broken, ['license.issued']);
    await listen(slow, ['license.*']);
    await listen(well, ['license.*']);
    const { plan } = await offer(api);
    const { licenses } = await api.post<{ licenses: LicenseView[] }>('/orders', { planId: plan.id, quantity: 30, customer: { name: 'Ada', email: 'ada@example.com' } });
    await well.heard(30);
    const { id } = licenses[0] as LicenseView;
    const first = await until(async () => (await deliveries(endpoint)).find(({ payload }) => (payload as unknown as Body).data['licenseId'] === id), (delivery) => (delivery?.attempts ?? 0) > 0);
    expect(first).toMatchObject({ status: 'pending', attempts: expect.any(Number), responseStatus: 500, responseBody: 'seen', nextAttemptAt: expect.any(String) });
    status = 200;
    await api.post('/environments/staging/clock/advance', { seconds: 600 });
    await until(() => deliveries(endpoint), (all) => all.length === 30 && all.every((delivery) => delivery.status === 'delivered'));
    const tries = broken.all.filter(ofLicense(id));
    expect(tries.length).toBeGreaterThan(1);
    expect([new Set(tries.map((tried) => tried.id)), new Set(tries.map(({ text }) => text)).size]).toEqual([new Set([first?.id]), 1]);
    never.resolve(204);
  });

  it('that says 410 hears no more, until it is enabled; then what it missed can be recovered', async () => {
    const receiver = await Receiver.start();
    receiver.answer = () => 410;
    const endpoint = await listen(receiver, ['license.issued']);
    const { plan } = await offer(api);
    const since = (await api.get<{ now: string }>('/environments/staging/clock')).now;
    const first = await sell(api, plan.id);
    expect(await until(() => api.get<WebhookEndpointView>(`/webhook-endpoints/${endpoint.id}`), ({ enabled }) => !enabled)).toMatchObject({ disabledBy: 'gone' });
    const missed = await sell(api, plan.id);
    expect(await deliveries(endpoint)).toMatchObject([{ status: 'failed', responseStatus: 410, attempts: 1 }]);
    for (const path of [`/webhook-endpoints/${endpoint.id}/test`, `/webhook-deliveries/${(await deliveries(endpoint))[0]?.id}/resend`]) expect(await api.refused('POST', path)).toMatchObject({ status: 409, code: 'WEBHOOK_ENDPOINT_DISABLED', disabledBy: 'gone' });
    expect((await api.refused('POST', `/webhook-endpoints/${endpoint.id}/recover`, { since })).code).toBe('WEBHOOK_ENDPOINT_DISABLED');

    receiver.answer = () => 200;
    expect(await api.patch<WebhookEndpointView>(`/webhook-endpoints/${endpoint.id}`, { enabled: true })).toMatchObject({ enabled: true, disabledBy: null });
    expect(await api.post(`/webhook-endpoints/${endpoint.id}/recover`, { since })).toMatchObject({ requeued: 1 });
    await receiver.heard(1, ofLicense(missed.id));
    const [gone, again] = await receiver.heard(2, ofLicense(first.id));
    expect(again?.id).toBe(gone?.id);
    await until(() => deliveries(endpoint, '&status=delivered'), (all) => all.length === 2);

    // Once more changes nothing: there is nothing left.
    expect(await api.post(`/webhook-endpoints/${endpoint.id}/recover`, { since })).toMatchObject({ requeued: 0 });
    const resent = await api.post<WebhookDeliveryView>(`/webhook-deliveries/${again?.id}/resend`);
    expect(resent).toMatchObject({ id: again?.id, status: 'pending', attempts: 0 });
    await receiver.heard(3, ({ id }) => id === again?.id);
    expect(receiver.all.filter(ofLicense(missed.id))).toHaveLength(1);
  });

  it('signs with the old secret beside the new one for a day', async () => {
    const receiver = await Receiver.start();
    const endpoint = await listen(receiver, ['job.*']);
    const rotated = await api.post<Endpoint>(`/webhook-endpoints/${endpoint.id}/rotate-secret`);
    expect(rotated.secret).not.toBe(endpoint.secret);
    const verify = ({ secret }: Endpoint, received: Received | undefined) => new Webhook(secret).verify(received?.text ?? '', received?.headers as Record<string, string>);
    const test = () => api.post<WebhookDeliveryView>(`/webhook-endpoints/${endpoint.id}/test`, undefined, { 'idempotency-key': crypto.randomUUID() });
    await test();
    const [both] = await receiver.heard(1);
    expect(both?.body).toMatchObject({ type: 'webhook.test', data: { endpointId: endpoint.id } });
    for (const known of [endpoint, rotated]) expect(verify(known, both)).toEqual(both?.body);
    await api.post('/environments/staging/clock/advance', { seconds: 86_401 });
    await test();
    const [, later] = await receiver.heard(2);
    expect(verify(rotated, later)).toEqual(later?.body);
    expect(() => verify(endpoint, later)).toThrow('No matching signature found');
  });

  it('is changed and deleted as the API says', async () => {
    const receiver = await Receiver.start();
    const headers = { 'idempotency-key': 'once' };
    const body = { url: receiver.url, events: ['*'], description: 'CRM' };
    const endpoint = await api.post<Endpoint>('/webhook-endpoints', body, headers);
    expect(await api.post<Endpoint>('/webhook-endpoints', body, headers)).toEqual(endpoint);
    expect((await api.all<WebhookEndpointView>('/webhook-endpoints')).filter(({ id }) => id === endpoint.id)).toEqual([await api.get(`/webhook-endpoints/${endpoint.id}`)]);
    expect(await api.patch<WebhookEndpointView>(`/webhook-endpoints/${endpoint.id}`, { events: ['job.finished'], description: null })).toMatchObject({ events: ['job.finished'], description: null, url: receiver.url });
    for (const wrong of [{ url: 'nowhere', events: ['*'] }, { url: receiver.url, events: [] }, { url: receiver.url, events: ['license.sold'] }, { url: receiver.url }, { ...body, secret: 'mine' }]) {
      expect((await api.refused('POST', '/webhook-endpoints', wrong)).code).toBe('VALIDATION_FAILED');
    }
    expect(await api.refused('POST', '/webhook-endpoints', { ...body, url: 'ftp://127.0.0.1/' })).toMatchObject({ status: 422, code: 'WEBHOOK_URL_REFUSED' });
    await api.delete(`/webhook-endpoints/${endpoint.id}`);
    expect((await api.refused('GET', `/webhook-endpoints/${endpoint.id}`)).code).toBe('WEBHOOK_ENDPOINT_NOT_FOUND');
    expect((await api.all<WebhookEndpointView>('/webhook-endpoints')).some(({ id }) => id === endpoint.id)).toBe(false);
  });
});

describe('Deliveries', () => {
  it('survive that everything is killed in the middle of them', async () => {
    const receiver = await Receiver.start();
    const endpoint = await listen(receiver, ['license.issued']);
    const { plan } = await offer(api);
    let isDead = false;
    receiver.answer = async () => (isDead ? 200 : new Promise<number>(() => undefined));
    const { licenses } = await api.post<{ licenses: LicenseView[] }>('/orders', { planId: plan.id, quantity: 12, customer: { name: 'Ada', email: 'ada@example.com' } });
    await receiver.heard(1);
    await product.kill9();
    isDead = true;
    await product.restart();
    for (const { id } of licenses) await receiver.heard(1, (received) => ofLicense(id)(received));
    const all = await until(() => deliveries(endpoint), (found) => found.length === 12 && found.every(({ status }) => status === 'delivered'));
    expect(new Set(receiver.all.map(({ id }) => id))).toEqual(new Set(all.map(({ id }) => id)));
  }, mode === 'standalone' ? 30_000 : 120_000);

  (onFiles ? it : it.skip)('leave no secret of an endpoint, and no address, in any file', async () => {
    const receiver = await Receiver.start();
    const { id, secret, url } = await listen(receiver, ['*']);
    const rotated = await api.post<Endpoint>(`/webhook-endpoints/${id}/rotate-secret`);
    await api.post(`/webhook-endpoints/${id}/test`);
    await receiver.heard(1);
    await product.terminate();
    const bytes = Buffer.concat(product.files().map((file) => file.bytes));
    expect(findTexts(bytes, new Map([secret, rotated.secret, url].map((text) => [text, spellings(text)])))).toEqual([]);
    await product.restart();
  });
});
