import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { until } from '@keyledger/testing';
import { Product } from '@keyledger/testing/process';
import { services } from './services.ts';

let product: Product;
beforeAll(async () => {
  product = await Product.start();
});
afterAll(() => product.stop());

const replicas: Readonly<Record<string, number>> = { 'license-authority': 2, activation: 3, gateway: 2 };
const titles = services.flatMap(({ name }) => Array.from({ length: replicas[name] ?? 1 }, (_, n) => `${name}.${n + 1}`));
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
    for (const title of [...titles, 'nats', 'postgres']) expect(lines().filter((line) => line.startsWith(`${title} | `) && / ready at \S+:\/\//.test(line))).toHaveLength(1);
    expect(lines().filter((line) => !/^[a-z-]+(\.\d+)? \| |^Keyledger is ready at http/.test(line))).toEqual([]);
  });

  it('starts again what ends by itself, service or server', async () => {
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

  it('leaves no process and no file behind when it is asked to end', async () => {
    const started = everybody();
    await product.terminate();
    expect(started.length).toBeGreaterThan(titles.length + 2);
    expect(left(started)).toEqual([]);
    expect(readdirSync(product.dataDir).sort()).toEqual(['master.key', 'postgres']);
  });

  // Once more all of its processes: seconds that every run of the tests would pay for.
  (process.env['KEYLEDGER_E2E'] === 'all' ? it : it.skip)('leaves no process behind when it is killed', async () => {
    await product.restart();
    const started = everybody();
    process.kill(product.pid, 'SIGKILL');
    await until(() => left(started), ({ length }) => length === 0);
    await product.kill9();
  }, 120_000);
});
