import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Verdict } from '@keyledger/contracts';
import { until } from '@keyledger/testing';
import { keyledgerStores, offer, Product, roundsOf, sell, validate, type Client, type Offer, type Sold } from '@keyledger/testing/process';
import { services } from './services.ts';

/*
 * What the seats, freshness and story specifications of apps/standalone prove holds over two authority, three activation and two gateway
 * processes because they run over them, too; here it is seen that all of these take part, and that none of them answers from what it knew before.
 */
let product: Product;
let sold: Offer;
beforeAll(async () => {
  product = await Product.start({ LOG_LEVEL: 'warn' });
  sold = await offer(product.root, { activationLimit: 100 });
});
afterAll(() => product.stop());

const parallel = <T>(count: number, work: (n: number) => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: count }, (_, n) => work(n)));
const gateways = [0, 1];
/** So many questions at once that every process of three gets some of them. */
const crowd = 16;

/** How many messages of a subject each process of a service has answered so far. */
async function answered(service: string, subject: string): Promise<readonly number[]> {
  return Promise.all(product.doorsOf(service).map(async (door) => {
    const metrics = await (await fetch(`${door}/metrics`)).text();
    const counts = metrics.matchAll(new RegExp(`^keyledger_messages_total\\{[^}]*subject="${subject}"[^}]*\\} (\\d+)`, 'gm'));
    return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
  }));
}

/** Asks through every gateway until every activation process has answered. */
async function everybodysVerdict(key: string): Promise<readonly Verdict[]> {
  const before = await answered('activation', 'activation\\.(?:re)?validate');
  expect(before).toHaveLength(3);
  const verdicts: Verdict[] = [];
  for (;;) {
    verdicts.push(...(await Promise.all(gateways.map((gateway) => parallel(crowd, () => validate(product.app.through(gateway), key))))).flat());
    const after = await answered('activation', 'activation\\.(?:re)?validate');
    if (after.every((count, n) => count > (before[n] as number))) return verdicts;
  }
}

const codes = (verdicts: readonly Verdict[]): readonly string[] => [...new Set(verdicts.map(({ valid, code, conclusive }) => `${valid ? 'valid' : 'invalid'} ${code} ${conclusive ? 'for sure' : 'perhaps'}`))];

const replicas: Readonly<Record<string, number>> = { 'license-authority': 2, activation: 3, gateway: 2 };
const titles = services.flatMap(({ name }) => Array.from({ length: replicas[name] ?? 1 }, (_, n) => `${name}.${n + 1}`));
/** Those that the product brings itself; the others outlive it. */
const servers = keyledgerStores ? ['nats'] : ['nats', 'postgres'];
const lines = () => product.printed.toString().split('\n').filter(Boolean);
const isThere = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

describe('npm run distributed', () => {
  it('says of every process that it is ready, and where, and of every line who printed it', () => {
    for (const title of [...titles, ...servers]) expect(lines().filter((line) => line.startsWith(`${title} | `) && / ready at \S+:\/\//.test(line))).toHaveLength(1);
    expect(lines().filter((line) => !/^[a-z-]+(\.\d+)? \| |^Keyledger is ready at http/.test(line))).toEqual([]);
  });
});

describe('Of two authorities, three activation processes and two gateways', () => {
  it('all take part in the rush on one license, which has as many seats as it has', async () => {
    const license = await sell(product.root, sold.plan.id);
    const answers = await parallel(400, (n) => product.app.ask('POST', '/license/activate', { licenseKey: license.key, fingerprint: `machine ${n}` }));
    expect(Map.groupBy(answers, ({ status }) => status).get(201)).toHaveLength(100);
    expect(answers.filter(({ status }) => status !== 201 && status !== 409)).toEqual([]);
    const shares = await answered('license-authority', 'license.activate');
    expect(shares).toHaveLength(2);
    expect(shares.reduce((sum, share) => sum + share)).toBe(400);
    expect(Math.min(...shares)).toBeGreaterThan(50);
  });

  const ends: Readonly<Record<string, readonly [code: string, end: (api: Client, license: Sold) => Promise<unknown>]>> = {
    'a revocation': ['REVOKED', (api, { id }) => api.post(`/licenses/${id}/revoke`, {})],
    'a suspension': ['SUSPENDED', (api, { id }) => api.post(`/licenses/${id}/suspend`, {})],
    'a new key': ['NOT_FOUND', (api, { id }) => api.post(`/licenses/${id}/regenerate-key`, {})],
    'an erasure': ['NOT_FOUND', (api, { id }) => api.delete(`/licenses/${id}`, { reason: 'asked for', force: true })],
  };
  it.each(Object.entries(ends))('none says valid after the answer to %s, though all said so right before', async (_, [code, end]) => {
    for (let round = 0; round < roundsOf(5); round++) {
      const license = await sell(product.root, sold.plan.id);
      expect(codes(await everybodysVerdict(license.key))).toEqual(['valid VALID for sure']);
      await end(product.root.through(round), license);
      expect(codes(await everybodysVerdict(license.key))).toEqual([`invalid ${code} for sure`]);
    }
  });

  it('each knows the key of a new order, in the very next request through any gateway', async () => {
    for (let round = 0; round < roundsOf(20); round++) {
      const license = await sell(product.root.through(round), sold.plan.id);
      expect(codes(await parallel(6, (n) => validate(product.app.through(round + 1 + n), license.key)))).toEqual(['valid VALID for sure']);
    }
  });
});

describe('Of all processes', () => {
  it('each that ends by itself is started again, service or server', async () => {
    for (const [program, title] of [['activation', /^activation\.\d \| /], ['nats-server', /^nats \| /]] as const) {
      const before = product.pidsOf(program);
      const from = lines().length;
      process.kill(before[0] as number, 'SIGKILL');
      await until(() => lines().slice(from).some((line) => title.test(line) && line.includes(' ready at ')));
      expect(lines().slice(from).some((line) => title.test(line) && /ended.*starts again/.test(line))).toBe(true);
      expect(product.pidsOf(program)).toHaveLength(before.length);
    }
    expect(product.doorsOf('activation')).toHaveLength(3);
  });

  const everybody = () => [...services.map(({ name }) => name), 'nats-server', 'postgres'].flatMap((program) => product.pidsOf(program).map((pid) => ({ program, pid })));
  const left = (from: ReturnType<typeof everybody>) => from.filter(({ pid }) => isThere(pid)).map(({ program }) => program);

  it('none is left, and no file, when the product is asked to end', async () => {
    const started = everybody();
    await product.terminate();
    expect(started.length).toBeGreaterThanOrEqual(titles.length + servers.length);
    expect(left(started)).toEqual([]);
    expect(readdirSync(product.dataDir).sort()).toEqual(['master.key', ...servers.filter((name) => name === 'postgres')]);
  });

  // Once more all of its processes: seconds that every run of the tests would pay for.
  (process.env['KEYLEDGER_E2E'] === 'all' ? it : it.skip)('none is left when it is killed', async () => {
    await product.restart();
    const started = everybody();
    process.kill(product.pid, 'SIGKILL');
    await until(() => left(started), ({ length }) => length === 0);
    await product.kill9();
  }, 120_000);
});
