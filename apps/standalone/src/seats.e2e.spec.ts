import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { InstanceView, LicenseEventView, LicenseView } from '@keyledger/contracts';
import { offer, Product, roundsOf, sell, type Answer, type Problem, type Sold } from '@keyledger/testing/process';

interface Activation { readonly activated: true; readonly instance: { readonly id: string; readonly fingerprint: string | null } }

let product: Product;
beforeAll(async () => {
  product = await Product.start();
});
afterAll(() => product.stop());

const activate = (licenseKey: string, instance: Readonly<Record<string, unknown>>): Promise<Answer<Activation & Problem>> =>
  product.app.ask('POST', '/license/activate', { licenseKey, ...instance });
const parallel = <T>(count: number, work: (n: number) => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: count }, (_, n) => work(n)));
const byStatus = (answers: readonly Answer[]) => Object.fromEntries(Object.entries(Object.groupBy(answers, ({ status }) => status)).map(([status, all]) => [status, all?.length]));
const instancesOf = ({ id }: Sold) => product.root.all<InstanceView>(`/licenses/${id}/activations`);

/** The license's own history, event by event: at every activation there was a seat under the limit in force right then. */
async function mostSeatsTaken({ id }: Sold, limit: number): Promise<{ over: number; taken: number }> {
  const events = await product.root.all<LicenseEventView>(`/licenses/${id}/events`);
  const live = new Set<unknown>();
  let [inForce, over] = [limit, 0];
  for (const { type, data } of events) {
    if (type === 'ActivationLimitChanged') inForce = data['activationLimit'] as number;
    if (type === 'InstanceDeactivated') live.delete(data['activationId']);
    if (type === 'InstanceActivated') {
      live.add(data['activationId']);
      if (live.size > inForce) over++;
    }
  }
  return { over, taken: live.size };
}

describe('Seats', () => {
  it(`are never oversold: of 500 activations at once for 5 seats exactly 5 succeed, ${roundsOf(20)} times`, async () => {
    const { plan } = await offer(product.root, { activationLimit: 5 });
    for (let round = 0; round < roundsOf(20); round++) {
      const license = await sell(product.root, plan.id);
      const answers = await parallel(500, (n) => activate(license.key, { fingerprint: `round ${round} machine ${n}` }));
      expect(byStatus(answers)).toEqual({ 201: 5, 409: 495 });
      const refused = answers.filter(({ status }) => status === 409).map(({ body }) => body);
      expect(new Set(refused.map(({ code, title, limit, used }) => `${code} ${title} ${limit as number} ${used as number}`))).toEqual(new Set(['ACTIVATION_LIMIT_EXCEEDED Limit Exceeded 5 5']));
      const seated = answers.filter(({ status }) => status === 201).map(({ body }) => body.instance.id);
      expect((await instancesOf(license)).map(({ id }) => id).sort()).toEqual(seated.sort());
      expect(await product.root.get(`/licenses/${license.id}`)).toMatchObject({ activationCount: 5, activationLimit: 5, status: 'active' });
    }
  });

  it('stay under the limit in force while instances go and the limit moves', async () => {
    const { plan } = await offer(product.root, { activationLimit: 5 });
    for (let round = 0; round < 4; round++) {
      const license = await sell(product.root, plan.id);
      const given: string[] = [];
      const back: string[] = [];
      const machine = async (n: number) => {
        for (let turn = 0; turn < 20; turn++) {
          const { status, body } = await activate(license.key, { fingerprint: `machine ${n}, turn ${turn}` });
          expect([201, 409]).toContain(status);
          if (status !== 201) continue;
          given.push(body.instance.id);
          if (n === 0) continue;
          expect((await product.app.ask('POST', '/license/deactivate', { licenseKey: license.key, instanceId: body.instance.id })).status).toBe(200);
          back.push(body.instance.id);
        }
      };
      const moveLimit = async () => {
        for (const activationLimit of [7, 2, 1, 9, 3, 1, 6, 4, 10, 2]) await product.root.patch(`/licenses/${license.id}`, { activationLimit });
      };
      await Promise.all([parallel(24, machine), moveLimit()]);

      const live = given.filter((id) => !back.includes(id));
      expect((await instancesOf(license)).map(({ id }) => id).sort()).toEqual(live.sort());
      expect(await product.root.get(`/licenses/${license.id}`)).toMatchObject({ activationCount: live.length });
      expect(await mostSeatsTaken(license, 5)).toEqual({ over: 0, taken: live.length });
      expect(back.length).toBeGreaterThan(10);
    }
  });

  it('are taken once by the same machine, however often it asks at once', async () => {
    const { plan } = await offer(product.root, { activationLimit: 5 });
    const license = await sell(product.root, plan.id);
    const answers = await parallel(200, () => activate(license.key, { fingerprint: 'the same' }));
    expect(byStatus(answers)).toEqual({ 200: 199, 201: 1 });
    expect(new Set(answers.map(({ body }) => body.instance.id)).size).toBe(1);
    const byInstallation = await parallel(200, () => activate(license.key, { installationId: 'installed once' }));
    expect(byStatus(byInstallation)).toEqual({ 200: 199, 201: 1 });
    expect(await product.root.get<LicenseView>(`/licenses/${license.id}`)).toMatchObject({ activationCount: 2, revision: 2 });
  });

  it('that are the last one go to one of two machines that keep asking', async () => {
    const { plan } = await offer(product.root, { activationLimit: 1 });
    const license = await sell(product.root, plan.id);
    const answers = await parallel(100, (n) => activate(license.key, { fingerprint: n % 2 ? 'odd' : 'even' }));
    expect(byStatus(answers)).toEqual({ 200: 49, 201: 1, 409: 50 });
  });

  it('that are given back twice are free once', async () => {
    const { plan } = await offer(product.root, { activationLimit: 3 });
    const license = await sell(product.root, plan.id);
    const [first] = await parallel(3, (n) => activate(license.key, { fingerprint: `machine ${n}` }));
    const gone = await parallel(50, () => product.app.ask('POST', '/license/deactivate', { licenseKey: license.key, instanceId: first?.body.instance.id }));
    expect(byStatus(gone)).toEqual({ 200: 50 });
    expect(byStatus(await parallel(50, (n) => activate(license.key, { fingerprint: `newcomer ${n}` })))).toEqual({ 201: 1, 409: 49 });
  });
});
