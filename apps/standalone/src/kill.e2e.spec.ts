import { randomInt } from 'node:crypto';
import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { until } from '@keyledger/testing';
import { Crowd } from '@keyledger/testing/history';
import { mode, offer, onFiles, patience, Product, roundsOf, sell } from '@keyledger/testing/process';
import { randomFrom } from '@keyledger/testing/random';

const seed = Number(process.env['KEYLEDGER_E2E_SEED'] ?? randomInt(2 ** 31));
/** In the distributed system each process is killed by itself as well: see apps/distributed. */
const rounds = roundsOf(mode === 'standalone' ? 5 : 2);
const workers = 16;
/** Over a network everything takes longer. */
const readyWithinMs = (onFiles ? 10_000 : 20_000) * patience;

let product: Product;
beforeAll(async () => {
  process.stdout.write(`kill -9 under load: KEYLEDGER_E2E_SEED=${seed}\n`);
  product = await Product.start();
});
afterAll(() => product.stop());

describe('A product that is killed under load', () => {
  it(`has lost and doubled nothing that it had answered, ${rounds} times in a row`, async () => {
    const chance = randomFrom(seed);
    const crowd = await Crowd.gather(product, { seed, size: workers });
    for (let round = 1; round <= rounds; round++) {
      const killAt = 60 + chance(240);
      let answers = 0;
      let killed: Promise<void> | undefined;
      const onAnswer = () => {
        if (++answers === killAt) killed = product.kill9();
      };
      await crowd.work({ onAnswer });
      await killed;

      const diedAt = performance.now();
      await product.restart();
      await until(() => product.app.ask('GET', '/health/ready'), ({ status }) => status === 200);
      expect(performance.now() - diedAt).toBeLessThan(readyWithinMs);
      await crowd.verify({ nothingIsUnderWay: true });
    }
    if (mode === 'distributed') return;
    expect(crowd.licenses.some(({ state }) => state === 'erased')).toBe(true);
    expect(crowd.licenses.some(({ oldKeys }) => oldKeys.length > 0)).toBe(true);
  }, (60_000 + rounds * 20_000) * patience);
});

(onFiles ? describe : describe.skip)('A product on embedded files whose log has lost its end', () => {
  it('says so and does not start, as long as its read models or its reactions know better', async () => {
    const victim = await Product.start();
    const files = ['events.db', 'state.db', 'read.db'];
    const at = (name: string) => join(victim.dataDir, 'production', name);
    const keep = (when: string) => files.forEach((name) => copyFileSync(at(name), at(`${name}.${when}`)));
    const put = (name: string, when: string) => {
      for (const suffix of ['-wal', '-shm']) rmSync(at(`${name}${suffix}`), { force: true });
      copyFileSync(at(`${name}.${when}`), at(name));
    };
    const { plan } = await offer(victim.root);
    const license = await sell(victim.root, plan.id);
    await victim.terminate();
    keep('older');
    await victim.restart();
    await victim.root.patch(`/licenses/${license.id}`, { metadata: { newer: true } });
    await victim.terminate();
    keep('newer');
    for (const knowsBetter of ['read.db', 'state.db']) {
      for (const name of files) put(name, name === knowsBetter ? 'newer' : 'older');
      await expect(victim.restart()).rejects.toThrow(/The event log of production ends at \d+ but has been read up to \d+: events are missing/);
    }
    await victim.stop();
  });
});
