import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Crowd } from '@keyledger/testing/history';
import { offer, Product, roundsOf, sell, validate, type Sold } from '@keyledger/testing/process';
import { randomFrom } from '@keyledger/testing/random';
import { services } from './services.ts';

const seed = Number(process.env['KEYLEDGER_E2E_SEED'] ?? randomInt(2 ** 31));
const rounds = roundsOf(1);
const clients = 8;
const readyWithinMs = 10_000;
const targets = [...services.map(({ name }) => name), 'nats-server', 'postgres'] as const;

let product: Product;
let control: Sold;
let expected: ReadonlyMap<string, number>;
const processes = () => new Map(services.map(({ name }) => [name as string, product.pidsOf(name).length]));
beforeAll(async () => {
  process.stdout.write(`kill -9 of one process after the other: KEYLEDGER_E2E_SEED=${seed}\n`);
  product = await Product.start({ LOG_LEVEL: 'warn' });
  control = await sell(product.root, (await offer(product.root, { activationLimit: 10_000 })).plan.id);
  expected = processes();
});
afterAll(() => product.stop());

/** Why it is not ready, undefined when it is: every process says that it is ready, and a round trip succeeds through each gateway. */
async function lacking(): Promise<string | undefined> {
  for (const { name } of services) {
    const doors = product.doorsOf(name);
    if (doors.length !== expected.get(name)) return `${name}: ${doors.length} of ${expected.get(name)}`;
    for (const door of doors) {
      const status = await fetch(`${door}/health/ready`, { signal: AbortSignal.timeout(1_000) }).then((answer) => answer.status, String);
      if (status !== 200) return `${name} at ${door}: ${status}`;
    }
  }
  for (const gateway of product.urls.keys()) {
    const app = product.app.through(gateway);
    const { status } = await app.ask('POST', '/license/activate', { licenseKey: control.key, fingerprint: crypto.randomUUID() }).catch(() => ({ status: 0 }));
    if (status !== 201) return `activate through gateway ${gateway}: ${status}`;
    const verdict = await validate(app, control.key).catch(() => undefined);
    if (!verdict?.conclusive) return `validate through gateway ${gateway}: ${JSON.stringify(verdict)}`;
  }
  return undefined;
}

async function readyAgain(diedAt: number): Promise<number> {
  for (;;) {
    const missing = await lacking();
    const ms = performance.now() - diedAt;
    if (missing === undefined) return ms;
    if (ms > readyWithinMs) throw new Error(`Not ready after ${ms.toFixed()} ms: ${missing}\n${product.printed.toString().slice(-4_000)}`);
    await sleep(100);
  }
}

describe('With clients at work', () => {
  it.each(targets)(`%s is killed at any moment, ${rounds} times: it comes back without help, and nothing answered is lost or doubled`, async (target) => {
    const chance = randomFrom(seed + targets.indexOf(target));
    const crowd = await Crowd.gather(product, { seed: seed + targets.indexOf(target), size: clients });
    const took: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const killAt = 10 + chance(60);
      const reached = Promise.withResolvers<void>();
      let [answers, over] = [0, false];
      const working = crowd.work({ goesOn: true, until: () => over, onAnswer: () => void (++answers === killAt && reached.resolve()) });
      await Promise.race([reached.promise, working]);
      const pids = product.pidsOf(target);
      for (const pid of target === 'postgres' ? pids : [pids[chance(pids.length)] as number]) process.kill(pid, 'SIGKILL');
      took.push(await readyAgain(performance.now()));
      over = true;
      await working;
    }
    process.stdout.write(`${target}: ready again after ${took.map((ms) => (ms / 1_000).toFixed(1)).join(', ')} s\n`);
    expect(processes()).toEqual(expected);
    await crowd.verify({ nothingIsUnderWay: false });
  }, 180_000);
});
