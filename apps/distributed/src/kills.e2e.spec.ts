import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { randomInt } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { LicenseEventView } from '@keyledger/contracts';
import { until } from '@keyledger/testing';
import { Boxes } from '@keyledger/testing/boxes';
import { Crowd } from '@keyledger/testing/history';
import { patience, Product, roundsOf } from '@keyledger/testing/process';
import { randomFrom } from '@keyledger/testing/random';
import { Recovery } from './recovery.contract.ts';
import { services } from './services.ts';

const seed = Number(process.env['KEYLEDGER_E2E_SEED'] ?? randomInt(2 ** 31));
const rounds = roundsOf(1);
const clients = 6;
const boxes = 2;
/** Where something has just started again. */
const patientMs = 5_000 * patience;
const targets = [...services.map(({ name }) => name), 'nats-server', 'postgres'] as const;

/** Somebody who wants to hear of every license, and sometimes has not understood at first. */
class Listener {
  /** By license and type: the ids under which it was told. */
  readonly told = new Map<string, Set<string>>();
  /** Ids that came again with something else. */
  readonly changed: string[] = [];
  readonly #texts = new Map<string, string>();
  readonly #server: Server;
  repeated = 0;

  static async start(): Promise<Listener> {
    const listener = new Listener();
    await once(listener.#server.listen(0, '127.0.0.1'), 'listening');
    return listener;
  }

  private constructor() {
    this.#server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', () => response.writeHead(this.#hear(String(request.headers['webhook-id']), Buffer.concat(chunks).toString())).end());
    });
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  #hear(id: string, text: string): number {
    const before = this.#texts.get(id);
    this.#texts.set(id, text);
    if (before !== undefined) this.repeated++;
    if (before !== undefined && before !== text) this.changed.push(id);
    const { type, data } = JSON.parse(text) as { type: string; data: { licenseId: string } };
    const name = `${data.licenseId} ${type}`;
    this.told.set(name, (this.told.get(name) ?? new Set()).add(id));
    return before === undefined && this.#texts.size % 40 === 0 ? 500 : 204;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Of those of a PostgreSQL some end with the others.
  }
}

/** What is said of which event. */
const announced: Readonly<Partial<Record<string, string>>> = {
  LicenseIssued: 'license.issued', InstanceActivated: 'license.activated', InstanceDeactivated: 'license.deactivated', LicenseSuspended: 'license.suspended',
  LicenseUnsuspended: 'license.unsuspended', KeyRegenerated: 'license.key-regenerated', LicenseRevoked: 'license.revoked',
};

let product: Product;
let listener: Listener;
let recovery: Recovery;
const crowds: Crowd[] = [];
beforeAll(async () => {
  process.stdout.write(`kill -9 of one process after the other: KEYLEDGER_E2E_SEED=${seed}\n`);
  listener = await Listener.start();
  product = await Product.start({ LOG_LEVEL: 'warn', KEYLEDGER_WEBHOOK_ALLOW_PRIVATE: 'true' });
  product.patientMs = patientMs;
  await product.root.post('/webhook-endpoints', { url: listener.url, events: ['license.*'] });
  recovery = await Recovery.of(product);
}, 90_000 * patience);
afterAll(async () => {
  await product?.stop();
  await listener?.close();
});

describe('With clients at work', () => {
  it.each(targets)(`%s is killed at any moment, ${rounds} times: it comes back without help, and nothing answered is lost or doubled`, async (target) => {
    const own = seed + targets.indexOf(target);
    const chance = randomFrom(own);
    const [crowd, appliances] = [await Crowd.gather(product, { seed: own, size: clients }), await Boxes.gather(product, { seed: own, size: boxes })];
    crowds.push(crowd);
    const before = recovery.processes();
    const took: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const killAt = 10 + chance(60);
      const reached = Promise.withResolvers<void>();
      let [answers, over] = [0, false];
      const shift = { goesOn: true, until: () => over, onAnswer: () => void (++answers === killAt && reached.resolve()) };
      const working = Promise.all([crowd.work(shift), appliances.work(shift)]);
      try {
        await Promise.race([reached.promise, working]);
        const pids = product.pidsOf(target);
        for (const pid of target === 'postgres' ? pids : [pids[chance(pids.length)] as number]) kill(pid);
        took.push(await recovery.since(performance.now()));
      } finally {
        over = true;
        await working;
      }
    }
    process.stdout.write(`${target}: ready again after ${took.map((ms) => (ms / 1_000).toFixed(1)).join(', ')} s\n`);
    expect(recovery.processes()).toEqual(before);
    await crowd.verify({ nothingIsUnderWay: false });
    await appliances.verify();
  }, 180_000 * patience);
});

describe('Who listens', () => {
  it('has been told of everything that happened to their licenses, each thing under one id, however often', async () => {
    const expected = new Map<string, number>();
    const count = (licenseId: string, type: string | undefined) => type && expected.set(`${licenseId} ${type}`, (expected.get(`${licenseId} ${type}`) ?? 0) + 1);
    // Whether an open one has been erased nobody knows.
    const known = crowds.flatMap(({ licenses, contested }) => [{ ...contested, state: 'alive' }, ...licenses.filter(({ open }) => !open)]);
    for (const { id, state } of known) {
      if (state === 'erased') count(id, 'license.erased');
      else for (const { type } of await product.root.all<LicenseEventView>(`/licenses/${id}/events`)) count(id, announced[type]);
    }
    expect(expected.size).toBeGreaterThan(20);
    const missing = () => [...expected].map(([name, times]) => ({ name, times, told: listener.told.get(name)?.size ?? 0 })).filter(({ times, told }) => told !== times);
    await until(missing, (names) => names.length === 0, 60_000 * patience);
    expect(listener.changed).toEqual([]);
    process.stdout.write(`${[...listener.told.values()].reduce((sum, { size }) => sum + size, 0)} told, ${listener.repeated} repeated\n`);
  }, 120_000 * patience);
});
