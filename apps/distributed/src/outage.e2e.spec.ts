import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { obtain, startNats, startPostgres, type Running } from '@keyledger/servers';
import { timed, until } from '@keyledger/testing';
import { FaultProxy } from '@keyledger/testing/fault-proxy';
import { keyledgerStores, offer, Product, sell, validate, type Offer, type Problem, type Sold, type Stores } from '@keyledger/testing/process';

const awayMs = 5_000;
const failsWithinMs = 2_000;
const backWithinMs = 10_000;

const here = obtain('nats') && obtain('postgres');
if (!here) describe('While a server is away', () => it.skip('NATS or PostgreSQL is not here: NOTHING of this was tested', () => undefined));

(here ? describe : describe.skip)('While a server is away for five seconds', () => {
  const servers: Running[] = [];
  let stores: Stores | undefined;
  const proxies = new Map<string, FaultProxy>();
  let product: Product;
  let sold: Offer;

  beforeAll(async () => {
    servers.push(await startNats(), await startPostgres({ durable: true, settings: { max_connections: 400 } }));
    stores = await keyledgerStores?.();
    const { EVENTSTORE_URL: eventStoreUrl, ...prefix } = { ...stores?.env };
    const urls = { 'NATS': servers[0]?.url, 'the database': servers[1]?.url, 'EventStoreDB': eventStoreUrl };
    for (const [name, url] of Object.entries(urls)) if (url !== undefined) proxies.set(name, await FaultProxy.open(url));
    const at = (name: keyof typeof urls) => proxies.get(name)?.url;
    product = await Product.start({ ...prefix, NATS_URL: at('NATS'), DATABASE_URL: at('the database'), EVENTSTORE_URL: at('EventStoreDB'), LOG_LEVEL: 'fatal' });
    sold = await offer(product.root, { activationLimit: 100 });
  }, 120_000);
  afterAll(async () => {
    await product?.stop();
    for (const proxy of proxies.values()) await proxy.close();
    await Promise.all([stores, ...servers].map((server) => server?.stop()));
  }, 60_000);

  const bothGateways = <T>(work: (gateway: number) => Promise<T>): Promise<T[]> => Promise.all([0, 1].map(work));

  /** So often that every activation process has it in its cache, and both gateways know the answer. */
  async function known(): Promise<Sold> {
    const license = await sell(product.root, sold.plan.id);
    await Promise.all(Array.from({ length: 60 }, () => validate(product.app, license.key)));
    return license;
  }

  describe.each(keyledgerStores ? ['EventStoreDB'] : ['NATS', 'the database'])('%s', (server) => {
    it.each(['cut', 'silence'] as const)('commands fail soon and say when to come again, verdicts go on as the last known, and all of it is over by itself (%s)', async (how) => {
      const proxy = proxies.get(server) as FaultProxy;
      const [license, leaked] = [await known(), await known()];
      await product.root.post(`/licenses/${leaked.id}/regenerate-key`, {});
      for (const verdict of await bothGateways((n) => validate(product.app.through(n), leaked.key))) expect(verdict).toMatchObject({ valid: false, code: 'NOT_FOUND', conclusive: true });
      proxy[how]();
      try {
        for (const until = Date.now() + awayMs; Date.now() < until;) {
          const [answers, commandMs] = await timed(bothGateways((n) => product.app.through(n).ask<Problem>('POST', '/license/activate', { licenseKey: license.key, fingerprint: `never ${n}` })));
          for (const { status, headers, body } of answers) {
            expect({ status, code: body.code }).toEqual({ status: 503, code: expect.stringMatching(/^(UNAVAILABLE|READ_MODEL_BEHIND|TRY_AGAIN)$/) });
            expect(Number(headers['retry-after'])).toBeGreaterThan(0);
          }
          expect(commandMs).toBeLessThan(failsWithinMs);
          const [verdicts, verdictMs] = await timed(bothGateways((n) => validate(product.app.through(n), license.key)));
          for (const verdict of verdicts) expect(verdict).toMatchObject({ valid: true, code: 'VALID', conclusive: false });
          expect(verdictMs).toBeLessThan(failsWithinMs);
          // A process that is cut off the log may not have heard of it yet; a gateway has told it himself.
          if (server === 'NATS') for (const { body } of await bothGateways((n) => product.app.through(n).ask<{ valid?: boolean }>('POST', '/license/validate', { licenseKey: leaked.key }))) expect(body.valid).not.toBe(true);
        }
      } finally {
        await proxy.pass();
      }
      await until(async () => {
        const answer = await product.app.ask('POST', '/license/activate', { licenseKey: license.key, fingerprint: 'afterwards' });
        expect([200, 201]).toContain(answer.status);
        for (const verdict of await bothGateways((n) => validate(product.app.through(n), license.key))) expect(verdict).toMatchObject({ valid: true, conclusive: true });
        const later = await sell(product.root, sold.plan.id);
        for (const verdict of await bothGateways((n) => validate(product.app.through(n), later.key))) expect(verdict).toMatchObject({ valid: true, conclusive: true });
        for (const { status } of await bothGateways((n) => product.app.through(n).ask('GET', '/health/ready'))) expect(status).toBe(200);
      }, () => true, backWithinMs);
    }, 60_000);
  });
});
