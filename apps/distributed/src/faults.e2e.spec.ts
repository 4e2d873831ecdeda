import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { describeWith } from '@keyledger/servers/contract';
import { dumps } from '@keyledger/standalone/dumps';
import { FaultProxy } from '@keyledger/testing/fault-proxy';
import { Crowd } from '@keyledger/testing/history';
import { Product, roundsOf } from '@keyledger/testing/process';

const seed = Number(process.env['KEYLEDGER_E2E_SEED'] ?? randomInt(2 ** 31));
const troubledMs = roundsOf(12_000);
/** On each of a message's two ways, to the server and from it; a request and its reply have four. */
const faults = { seed, drop: 0.02, duplicate: 0.15, reorder: 0.15, delay: 0.05, window: 100, lateMs: 100, delayMs: 2_000 };

describeWith('nats', 'When messages are lost, doubled, late and out of order', (nats) => {
  let proxy: FaultProxy;
  let product: Product;
  beforeAll(async () => {
    process.stdout.write(`messages in trouble: KEYLEDGER_E2E_SEED=${seed}\n`);
    proxy = await FaultProxy.open(nats().url);
    product = await Product.start({ NATS_URL: proxy.url, LOG_LEVEL: 'warn' });
  });
  afterAll(async () => {
    await product?.stop();
    await proxy?.close();
  });

  it('nothing that is asked for happens twice, nothing answered is lost, and the read models are the fold of the log', async () => {
    const crowd = await Crowd.gather(product, { seed, size: 16 });
    let [answers, over] = [0, false];
    proxy.meddle(faults);
    const working = crowd.work({ goesOn: true, twice: true, until: () => over, onAnswer: () => void answers++ });
    await Promise.race([sleep(troubledMs), working]);
    over = true;
    await working;
    await proxy.pass();
    const { dropped, duplicated, reordered, delayed } = proxy.met;
    process.stdout.write(`${answers} answers, ${dropped} messages dropped, ${duplicated} duplicated, ${reordered} reordered, ${delayed} delayed\n`);
    expect(answers).toBeGreaterThan(30);
    expect(Math.min(dropped, duplicated, reordered, delayed)).toBeGreaterThan(20);

    await crowd.verify({ nothingIsUnderWay: false });
    const env = { KEYLEDGER_DATA_DIR: product.dataDir, DATABASE_URL: product.databaseUrl };
    const shown = await dumps(env);
    const folded = await dumps(env, { on: join(product.dataDir, 'from-nothing') });
    expect(shown.get('production authority-license')?.length).toBeGreaterThan(20);
    for (const [name, rows] of folded) expect({ name, rows: shown.get(name) }).toEqual({ name, rows });
  }, 180_000);
});
