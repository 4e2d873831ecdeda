import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Verdict } from '@keyledger/contracts';
import { obtain, startNats, startPostgres, type Running } from '@keyledger/servers';
import { until } from '@keyledger/testing';
import { Boxes } from '@keyledger/testing/boxes';
import { FaultProxy } from '@keyledger/testing/fault-proxy';
import { Crowd } from '@keyledger/testing/history';
import { offer, patience, Product, sell, validate, type Answer, type Sold } from '@keyledger/testing/process';
import { Recovery } from './recovery.contract.ts';
import { Supervised } from './supervised.ts';

const seed = Number(process.env['KEYLEDGER_E2E_SEED'] ?? randomInt(2 ** 31));
const troubledMs = 5_000;
/** Less than it takes until NATS asks the others only: what was asked meanwhile is waiting for who wakes. */
const momentMs = 2_000;
/** Two seconds, and one for a machine that does all of this at once. */
const answeredWithinMs = 3_000 * patience;
/** Where something has just woken. */
const patientMs = 5_000 * patience;

/** What somebody was told, and what he had asked when. */
interface Told {
  readonly what: 'activate' | 'validate' | 'validate revoked';
  readonly askedAt: number;
  readonly ms: number;
  readonly answer: Answer<Partial<Verdict>>;
}

const here = obtain('nats') && obtain('postgres');
if (!here) describe('While a process hangs', () => it.skip('NATS or PostgreSQL is not here: NOTHING of this was tested', () => undefined));

(here ? describe : describe.skip)('With clients at work', () => {
  const servers: Running[] = [];
  const proxies: FaultProxy[] = [];
  /** An activation and a license-authority process more, which reach NATS and the database through proxies of their own. */
  const remote: Supervised[] = [];
  const remoteDoors: string[] = [];
  const said: string[] = [];
  let product: Product;
  let planId: string;
  let recovery: Recovery;

  beforeAll(async () => {
    process.stdout.write(`processes hang and are cut off: KEYLEDGER_E2E_SEED=${seed}\n`);
    const [nats, postgres] = [await startNats(), await startPostgres({ durable: true, settings: { max_connections: 400 } })];
    servers.push(nats, postgres);
    proxies.push(await FaultProxy.open(nats.url), await FaultProxy.open(postgres.url));
    product = await Product.start({ NATS_URL: nats.url, DATABASE_URL: postgres.url, LOG_LEVEL: 'fatal' });
    const env = { ...process.env, HOST: '127.0.0.1', PORT: '0', LOG_LEVEL: 'fatal', OTEL_SDK_DISABLED: 'true', KEYLEDGER_DATA_DIR: product.dataDir, NATS_URL: proxies[0]?.url, DATABASE_URL: proxies[1]?.url };
    for (const name of ['activation', 'license-authority']) {
      remote.push(new Supervised({ title: name, args: [fileURLToPath(new URL(`../../../dist/${name}.js`, import.meta.url))], env, say: (line) => said.push(line) }));
    }
    remoteDoors.push(...await Promise.all(remote.map(({ ready }) => ready)));
    product.patientMs = patientMs;
    planId = (await offer(product.root, { activationLimit: 10_000 })).plan.id;
    recovery = await Recovery.of(product, remoteDoors);
  }, 120_000 * patience);
  afterAll(async () => {
    await Promise.all(remote.map((process) => process.stop()));
    await product?.stop();
    for (const proxy of proxies) await proxy.close();
    await Promise.all(servers.map((server) => server.stop()));
  }, 60_000);

  /** So often that every activation process has it in its cache, and both gateways know the answer. */
  async function known(): Promise<Sold> {
    const license = await sell(product.root, planId);
    await Promise.all(Array.from({ length: 80 }, () => validate(product.app, license.key)));
    return license;
  }

  async function tell(what: Told['what'], gateway: number, { key: licenseKey }: Sold): Promise<Told> {
    const askedAt = performance.now();
    const app = product.app.through(gateway);
    const answer = await (what === 'activate' ? app.ask<object>('POST', '/license/activate', { licenseKey, fingerprint: crypto.randomUUID() }) : app.ask<Partial<Verdict>>('POST', '/license/validate', { licenseKey }));
    return { what, askedAt, ms: performance.now() - askedAt, answer };
  }

  /** Gateways that answer. */
  async function gateways(): Promise<readonly number[]> {
    const alive = await Promise.all([...product.urls.keys()].map((n) => fetch(`${product.urls[n]}/health/live`, { signal: AbortSignal.timeout(500) }).then(() => true, () => false)));
    return [...alive.keys()].filter((n) => alive[n]);
  }

  /** How many verdicts each activation process has given so far. */
  const verdictsOf = (): Promise<readonly number[]> => Promise.all([...product.doorsOf('activation'), remoteDoors[0] as string].map(async (door) => {
    const counts = (await (await fetch(`${door}/metrics`)).text()).matchAll(/^keyledger_messages_total\{[^}]*subject="activation\.(?:re)?validate"[^}]*\} (\d+)/gm);
    return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
  }));

  /** Asks until every activation process has answered. */
  async function everybodysVerdict({ key }: Sold): Promise<readonly Partial<Verdict>[]> {
    const before = await verdictsOf();
    for (const verdicts: Partial<Verdict>[] = []; ;) {
      verdicts.push(...(await Promise.all(Array.from({ length: 32 }, () => product.app.ask<Partial<Verdict>>('POST', '/license/validate', { licenseKey: key })))).map(({ body }) => body));
      if ((await verdictsOf()).every((count, n) => count > (before[n] as number))) return verdicts;
    }
  }

  /** Says how to end it. */
  type Trouble = () => () => void | Promise<void>;
  const hangs = (program: string): Trouble => () => {
    const [pid] = product.pidsOf(program) as [number];
    process.kill(pid, 'SIGSTOP');
    return () => void process.kill(pid, 'SIGCONT');
  };
  const serverHangs = (n: number): Trouble => () => {
    servers[n]?.pause();
    return () => servers[n]?.resume();
  };
  const isOff = (n: number, how: 'cut' | 'silence'): Trouble => () => {
    proxies[n]?.[how]();
    return () => proxies[n]?.pass();
  };
  /** Whether others can do what it does, or what it does can be done without for a while. */
  const troubles: Readonly<Record<string, readonly [trouble: Trouble, meanwhile: 'goes on' | 'waits', ms?: number]>> = {
    'one of two gateways hangs': [hangs('gateway'), 'goes on'],
    'one of four activation processes hangs for a moment': [hangs('activation'), 'goes on', momentMs],
    'one of four activation processes hangs': [hangs('activation'), 'goes on'],
    'one of three license-authority processes hangs': [hangs('license-authority'), 'goes on'],
    'signing hangs': [hangs('signing'), 'goes on'],
    'usage-metering hangs': [hangs('usage-metering'), 'goes on'],
    'NATS hangs': [serverHangs(0), 'waits'],
    'PostgreSQL hangs': [serverHangs(1), 'waits'],
    'a process of each is cut off NATS': [isOff(0, 'cut'), 'goes on'],
    'a process of each hears nothing from NATS': [isOff(0, 'silence'), 'goes on'],
    'a process of each is cut off the database': [isOff(1, 'cut'), 'goes on'],
    'a process of each hears nothing from the database': [isOff(1, 'silence'), 'goes on'],
  };

  it.each(Object.entries(troubles))('%s: everybody is soon told something, nothing answered is lost, nobody says what is no longer true, and all is well again', async (name, [trouble, meanwhile, forMs = troubledMs]) => {
    const own = seed + Object.keys(troubles).indexOf(name);
    const [crowd, boxes, control, victim] = [await Crowd.gather(product, { seed: own, size: 4 }), await Boxes.gather(product, { seed: own, size: 2 }), await known(), await known()];
    const before = recovery.processes();
    const busy = Promise.withResolvers<void>();
    let [answers, isOver, isTroubled] = [0, false, true];
    const shift = { goesOn: true, until: () => isOver, onAnswer: () => void (++answers === 20 && busy.resolve()) };
    const working = Promise.all([crowd.work(shift), boxes.work(shift)]);
    await Promise.race([busy.promise, working]);

    let end: Awaited<ReturnType<Trouble>> = () => undefined;
    const until = performance.now() + forMs;
    const told: Told[] = [];
    let revokedAt = Infinity;
    let [endedAt, wellAfterMs] = [0, 0];
    try {
      end = trouble();
      const alive = await gateways();
      const asking = alive.map(async (gateway) => {
        while (isTroubled) for (const [what, license] of [['activate', control], ['validate', control], ['validate revoked', victim]] as const) told.push(await tell(what, gateway, license));
      });
      while (meanwhile === 'goes on' && performance.now() < until && revokedAt === Infinity) {
        // Several at once: one of them may be waiting for who hangs.
        await Promise.all([1, 2, 3].map(async () => {
          const { status } = await product.root.through(alive[0] as number).ask('POST', `/licenses/${victim.id}/revoke`, {});
          if (status === 200) revokedAt = Math.min(revokedAt, performance.now());
        }));
      }
      await sleep(Math.max(0, until - performance.now()));
      isTroubled = false;
      await Promise.all(asking);
      const waiting = Array.from({ length: 32 }, (_, n) => tell('validate revoked', alive[n % alive.length] as number, victim));
      await sleep(100);
      await end();
      endedAt = performance.now();
      told.push(...await Promise.all(waiting));
      // Who is not connected again yet may answer with what he knew last, and says so.
      if (revokedAt < Infinity) expect((await everybodysVerdict(victim)).filter(({ valid, conclusive }) => valid && conclusive)).toEqual([]);
      wellAfterMs = await recovery.since(endedAt);
      if (revokedAt < Infinity) expect((await everybodysVerdict(victim)).filter(({ valid }) => valid !== false)).toEqual([]);
    } finally {
      [isTroubled, isOver] = [false, true];
      await end();
      await working;
    }
    const slowest = told.reduce((most, one) => Math.max(most, one.ms), 0);
    const refused = told.filter(({ answer: { status } }) => status === 503).length;
    process.stdout.write(`${name}: ${told.length} asked, ${refused} refused, after ${slowest.toFixed()} ms at most; all well after ${(wellAfterMs / 1_000).toFixed(1)} s\n`);

    expect(told.filter(({ answer: { status, headers } }) => !(status < 300 || (status === 503 && Number(headers['retry-after']) > 0)))).toEqual([]);
    expect(slowest).toBeLessThan(answeredWithinMs);
    expect(told.filter(({ what, answer: { body } }) => what === 'validate' && body.valid === false)).toEqual([]);
    expect(told.filter(({ what, askedAt, answer: { body } }) => what === 'validate revoked' && askedAt > revokedAt && body.valid && body.conclusive)).toEqual([]);
    if (meanwhile === 'goes on') {
      expect(told.filter(({ what, answer: { status } }) => what === 'activate' && status === 201).length).toBeGreaterThan(0);
      expect(revokedAt).toBeLessThan(Infinity);
    }
    expect(recovery.processes()).toEqual(before);
    expect(said.filter((line) => / ended /.test(line))).toEqual([]);
    await crowd.verify({ nothingIsUnderWay: false });
    await boxes.verify();
  }, 120_000 * patience);

  it('what one of three license-authority processes was asked while it hung, and nobody waited for any more, is not carried out after newer commands', async () => {
    const { id } = await known();
    const say = (what: string) => product.root.ask<{ status?: string }>('POST', `/licenses/${id}/${what}`, {});
    const wake = hangs('license-authority')();
    try {
      // Of so many, none of which travels with others, some wait for who hangs, and are given up.
      const suspended = await Promise.all(Array.from({ length: 24 }, async (_, n) => sleep(n * 20).then(() => say('suspend'))));
      expect(suspended.filter(({ status }) => status === 503).length).toBeGreaterThan(0);
      expect(suspended.filter(({ status }) => status === 200).length).toBeGreaterThan(0);
      await until(() => say('unsuspend'), ({ status }) => status === 200 || status === 409);
    } finally {
      await wake();
    }
    await recovery.since(performance.now());
    const events = await product.root.all<{ type: string }>(`/licenses/${id}/events`);
    expect(events.map(({ type }) => type).filter((type) => /suspended/i.test(type))).toEqual(['LicenseSuspended', 'LicenseUnsuspended']);
  }, 60_000 * patience);
});
