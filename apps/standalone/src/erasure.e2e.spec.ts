import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { CustomerView, InstanceView, LicenseView, OrderView } from '@keyledger/contracts';
import { placesOf, rowsIn, type Kind } from '@keyledger/testing/kept';
import { findTexts, mode, offer, Product, sell, spellings, validate, type Client, type Offer, type Sold } from '@keyledger/testing/process';

let product: Product;
let root: Client;
let sold: Offer;
beforeAll(async () => {
  product = await Product.start();
  root = product.root;
  sold = await offer(root);
});
afterAll(() => product.stop());

/** A license whose every sealed field holds something that can be looked for, with a history in which most of it has changed once. */
interface Subject {
  readonly license: Sold;
  readonly customer: CustomerView;
  readonly instances: readonly string[];
  readonly secrets: Readonly<Record<string, string>>;
}

async function makeSubject(mark: string): Promise<Subject> {
  const secret = (what: string) => `${what} of ${mark} – ${crypto.randomUUID()} ñ"\\/`;
  const customer = await root.post<CustomerView>('/customers', { name: `Customer ${mark}`, email: `${mark}@example.com` });
  const values = { metadata: secret('metadata'), oldMetadata: secret('old metadata'), oldFingerprint: secret('old fingerprint'), oldName: secret('old name'), oldFlag: secret('old flag') };
  const own = { serialNumber: secret('serial number'), deploymentId: secret('deployment') };
  const license = await root.post<Sold>('/licenses', { productId: sold.product.id, planId: sold.plan.id, customerId: customer.id, ...own, featureFlags: { [values.oldFlag]: true } });
  const flag = secret('flag');
  await root.patch(`/licenses/${license.id}`, { featureFlags: { [flag]: flag } });
  await root.patch(`/licenses/${license.id}`, { metadata: { [values.oldMetadata]: { deep: [values.oldMetadata] } } });
  await root.patch(`/licenses/${license.id}`, { metadata: { note: values.metadata } }, { 'idempotency-key': `${mark} edit` });
  await product.app.post('/license/activate', { licenseKey: license.key, fingerprint: values.oldFingerprint, instanceName: values.oldName });
  const { key } = await root.post<Sold>(`/licenses/${license.id}/regenerate-key`, {}, { 'idempotency-key': `${mark} key` });

  const instance = { instanceName: secret('name'), fingerprint: secret('fingerprint'), installationId: secret('installation'), hardwareId: secret('hardware'), deploymentId: own.deploymentId, metadata: { host: secret('instance metadata') } };
  const first = await product.app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: key, ...instance });
  const second = await product.app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: key, instanceName: secret('second') }, { 'idempotency-key': `${mark} activate` });
  const instances = [first.instance.id, second.instance.id];
  // A box, with all that it says and is told.
  const directive = secret('directive');
  await root.post(`/licenses/${license.id}/directives`, { kind: 'message', payload: { [directive]: directive } });
  const box = product.app.with({ authorization: `License ${key}` });
  const { token } = await box.post<{ token: string }>(`/licenses/${license.id}/heartbeat`, { activationId: instances[0], fingerprint: instance.fingerprint, seq: 1, nonce: secret('heartbeat nonce') });
  await box.post(`/licenses/${license.id}/stream/ack`, { seq: 1, activationId: instances[0] });
  await validate(product.app, key, { instanceId: instances[0], fingerprint: instance.fingerprint, nonce: secret('nonce') });
  // Searched for, refused, asked for wrongly: whatever remembers questions has it as well.
  await root.get(`/licenses?q=${key.slice(4, 20)}`);
  await root.get(`/licenses/suggest?q=${key.slice(0, 9)}`);
  await product.app.refused('POST', '/license/activate', { licenseKey: key, fingerprint: 'x', productId: 'another' });
  await product.app.refused('POST', '/license/activate', { licenseKey: key, [values.metadata]: 1 });
  const { metadata: { host }, ...named } = instance;
  return { license: { ...license, key }, customer, instances, secrets: { key, oldKey: license.key, ...values, ...own, flag, ...named, host, second: String(second.instance.name), directive, token } };
}

/** Keys also as they are normalised and as they are cut into groups; of the first eight characters the tombstone keeps a copy. */
function searched(name: string, value: string): Buffer[] {
  if (!/key$/i.test(name)) return spellings(value);
  const bare = value.replaceAll('-', '');
  const groups = value.split('-').slice(2);
  return [value, value.toLowerCase(), bare, bare.toLowerCase(), value.replaceAll('-', ' '), bare.slice(8), ...groups, ...groups.map((group) => group.toLowerCase())].flatMap(spellings);
}

/** Where something of the license can be read: `kind: what`. */
async function readable({ secrets }: Subject, but?: Kind): Promise<string[]> {
  const texts = new Map(Object.entries(secrets).map(([name, value]) => [name, searched(name, value)]));
  const places = (await placesOf(product)).filter(({ kind }) => kind === undefined || kind !== but);
  return places.flatMap(({ kind, path, bytes }) => findTexts(bytes, texts).map((name) => `${kind ?? path}: ${name}`));
}

/** The license's wrapped data key as it is stored; null once it has been overwritten. */
async function dataKeyOf({ license }: Subject): Promise<string | null | undefined> {
  const [row] = await rowsIn<{ wrapped: string }>(product, 'production', 'state', 'select wrapped from keyring_data_keys where subject = ?', [license.id]);
  return row && (/^0+$/.test(row.wrapped) ? null : row.wrapped);
}

const erase = ({ license }: Pick<Subject, 'license'>, headers = {}) => root.delete(`/licenses/${license.id}`, { reason: 'asked for by its holder', force: true }, headers);

describe('The log and the state tables', () => {
  it('never hold anything of a license in clear', async () => {
    const subject = await makeSubject('sealed');
    expect(await readable(subject, 'read')).toEqual([]);
    expect(await readable(subject)).toContain('read: key'); // where keys are searched; and the proof that this search finds
  });
});

describe('An erased license', () => {
  it('has left nothing that can be read anywhere when the answer comes, and nobody else has lost anything', async () => {
    const [victim, neighbour] = [await makeSubject('victim'), await makeSubject('neighbour')];
    expect((await readable(victim)).length).toBeGreaterThan(0);

    const dataKey = await dataKeyOf(victim) as string;
    const placesOfKey = async () => (await placesOf(product)).filter(({ bytes }) => bytes.includes(dataKey)).map(({ path }) => path);
    expect(await placesOfKey()).not.toEqual([]);
    await erase(victim);
    expect(await readable(victim)).toEqual([]);
    // What is sealed stays in the log; the key to it must be nowhere.
    expect(await placesOfKey()).toEqual([]);
    expect([await dataKeyOf(victim), typeof await dataKeyOf(neighbour)]).toEqual([null, 'string']);
    expect(await readable(neighbour)).toContain('read: key');
    await everythingIsThere(neighbour);
    expect(await root.get<CustomerView>(`/customers/${victim.customer.id}`)).toMatchObject({ name: 'Customer victim', email: 'victim@example.com' });
  });

  it('is gone by every door, and its order knows one license less', async () => {
    const victim = await makeSubject('doors');
    const { license, instances } = victim;
    await erase(victim);
    await isGone(victim);
    const ordered = await sell(root, sold.plan.id);
    const order = `/orders/${ordered.orderId}`;
    expect((await root.get<OrderView>(order)).licenses).toHaveLength(1);
    await erase({ license: ordered });
    expect((await root.get<OrderView>(order)).licenses).toEqual([]);
    for (const [method, path, body] of [
      ['PATCH', '', { activationLimit: 1 }], ['POST', '/revoke', {}], ['POST', '/regenerate-key', {}], ['DELETE', '', { reason: 'again', force: true }], ['GET', '/events', undefined],
      ['GET', '/activations?include=ended', undefined], ['DELETE', `/activations/${instances[0]}`, undefined],
    ] as const) {
      expect({ path, ...(await root.refused(method, `/licenses/${license.id}${path}`, body)) }).toMatchObject({ path, status: 404, code: 'LICENSE_NOT_FOUND' });
    }
  });

  it('stays gone over a restart and a crash, in the read model too when it is built again', async () => {
    const [victim, neighbour] = [await makeSubject('restarted'), await makeSubject('unharmed')];
    await erase(victim);
    await product.kill9();
    if (mode === 'standalone') expect(await readable(victim)).toEqual([]);
    await product.restart();
    await isGone(victim);
    await everythingIsThere(neighbour);
    await product.terminate();
    await product.restart();
    expect(await readable(victim)).toEqual([]);
    await isGone(victim);
  });

  it('leaves nothing of a long history, of which a snapshot was kept', async () => {
    const victim = await makeSubject('long');
    const { key } = victim.license;
    await Promise.all(Array.from({ length: 600 }, (_, n) => product.app.post('/license/activate', { licenseKey: key, fingerprint: `${String(victim.secrets['fingerprint'])} ${n}`, instanceName: victim.secrets['second'] })));
    expect((await root.get<LicenseView>(`/licenses/${victim.license.id}`)).activationCount).toBe(602);
    await erase(victim);
    expect(await readable(victim)).toEqual([]);
    await isGone(victim);
  });

  it('is erased to the end when the process dies on the way', async () => {
    for (let round = 0; round < (mode === 'standalone' ? 3 : 1); round++) {
      const victim = await makeSubject(`interrupted-${round}`);
      const key = `erase ${round}`;
      const answered = erase(victim, { 'idempotency-key': key }).then(() => true, () => false);
      await root.get('/me').catch(() => undefined); // so that the erasure is on its way, in some rounds further than in others
      for (let n = 0; n < round; n++) await root.get(`/licenses/${victim.license.id}`).catch(() => undefined);
      await product.kill9();
      await answered;
      await product.restart();
      await erase(victim, { 'idempotency-key': key });
      expect(await readable(victim)).toEqual([]);
      await isGone(victim);
    }
  });

  it('that goes with nine others at once leaves nothing of any of them', async () => {
    const victims = await Promise.all(Array.from({ length: 10 }, (_, n) => makeSubject(`crowd-${n}`)));
    const neighbour = await makeSubject('in-the-crowd');
    await Promise.all(victims.map(async (victim) => {
      await erase(victim);
      if (victim === victims[7]) expect(await readable(victim)).toEqual([]);
    }));
    for (const victim of victims) expect(await readable(victim)).toEqual([]);
    await everythingIsThere(neighbour);
  });

  it('leaves its idempotency records unreadable to everybody without their keys', async () => {
    const victim = await makeSubject('idempotent');
    await erase(victim, { 'idempotency-key': 'the erasure' });
    expect(await readable(victim)).toEqual([]);
    expect(await root.ask('DELETE', `/licenses/${victim.license.id}`, { reason: 'asked for by its holder', force: true }, { 'idempotency-key': 'the erasure' })).toMatchObject({ status: 204 });
  });
});

async function isGone({ license, customer, secrets }: Subject): Promise<void> {
  expect(await root.refused('GET', `/licenses/${license.id}`)).toMatchObject({ status: 404, code: 'LICENSE_NOT_FOUND' });
  for (const key of [secrets['key'], secrets['oldKey']] as string[]) {
    expect(await validate(product.app, key)).toMatchObject({ valid: false, code: 'NOT_FOUND', license: null, instance: null });
    expect(await product.app.refused('POST', '/license/activate', { licenseKey: key })).toMatchObject({ status: 404, code: 'LICENSE_NOT_FOUND' });
    expect(await root.get(`/licenses?q=${key}`)).toMatchObject({ data: [], page: { total: 0 } });
    expect(await root.get(`/licenses/suggest?q=${key.slice(0, 12)}`)).toEqual({ data: [] });
  }
  expect(await root.get(`/licenses/totals?customerId=${customer.id}`)).toMatchObject({ licenses: 0 });
}

async function everythingIsThere({ license, instances, secrets, customer }: Subject): Promise<void> {
  const { key, metadata, instanceName, fingerprint, host, second } = secrets;
  expect(await root.get<LicenseView>(`/licenses/${license.id}`)).toMatchObject({ key, metadata: { note: metadata }, activationCount: 2 });
  const there = await root.all<InstanceView>(`/licenses/${license.id}/activations`);
  expect(there.map(({ id, name, fingerprint: print, metadata: of }) => ({ id, name, print, of })).reverse()).toEqual([
    { id: instances[0], name: instanceName, print: fingerprint, of: { host } }, { id: instances[1], name: second, print: null, of: null },
  ]);
  expect(await validate(product.app, key as string, { instanceId: instances[0] })).toMatchObject({ valid: true });
  expect(await root.get(`/licenses?q=${key}`)).toMatchObject({ page: { total: 1 } });
  expect(await root.get(`/customers/${customer.id}`)).toMatchObject({ email: customer.email });
}
