import { randomInt } from 'node:crypto';
import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { CustomerView, InstanceView, LicenseView, OrderView } from '@keyledger/contracts';
import { offer, Product, sell, validate, type Answer, type Listed, type Method, type Offer, type Sold } from '@keyledger/testing/process';

/**
 * What every client was told is written down here, in a model of its own, and compared with what the product says after it was killed.
 * A license's revision counts its events, so a change that was lost, or made twice, shows even where the result looks the same.
 */
const seed = Number(process.env['KEYLEDGER_E2E_SEED'] ?? randomInt(2 ** 31));
const rounds = 10;
const workers = 16;
const readyWithinMs = 10_000;

type Random = (below: number) => number;
/** T. Ettinger's mulberry32: small, and the same on every machine. */
function randomFrom(start: number): Random {
  let state = start >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

interface License {
  readonly id: string;
  key: string;
  oldKeys: string[];
  revision: number;
  limit: number;
  turn: number | undefined;
  suspended: boolean;
  instances: Set<string>;
  state: 'alive' | 'revoked' | 'erased';
}
interface Order {
  readonly id: string;
  readonly quantity: number;
  readonly licenses: readonly License[];
}

interface Operation {
  readonly method: Method;
  readonly path: string;
  readonly body?: unknown;
  readonly byApp?: boolean;
  readonly statuses: readonly number[];
  /** Writes into the model what the answer says. */
  acknowledged(body: unknown): void;
  /** Never answered, and without an Idempotency-Key: looks whether it happened, and believes it. It may have happened once at most. */
  settle(): Promise<void>;
}
interface Pending {
  readonly operation: Operation;
  readonly key: string | undefined;
}

const newLicense = ({ id, key, revision, activationLimit }: Sold): License =>
  ({ id, key, oldKeys: [], revision, limit: activationLimit, turn: undefined, suspended: false, instances: new Set(), state: 'alive' });

/** One client: it asks for one thing after the other, about licenses that nobody else touches. */
class Worker {
  readonly orders: Order[] = [];
  readonly customers: string[] = [];
  readonly replayable: { pending: Pending; answer: Answer }[] = [];
  pending: Pending | undefined;
  #asked = 0;

  constructor(readonly product: Product, readonly name: string, readonly customerId: string, readonly planId: string, readonly random: Random) {}

  get licenses(): License[] {
    return this.orders.flatMap(({ licenses }) => licenses);
  }

  /** Until the product dies. */
  async work(onAnswer: () => void): Promise<void> {
    for (;;) {
      const operation = this.#choose();
      const key = this.random(2) ? `${this.name} ${++this.#asked}` : undefined;
      this.pending = { operation, key };
      const answer = await this.ask(this.pending).catch(() => undefined);
      if (!answer) return;
      this.pending = undefined;
      this.accept(operation, answer);
      if (key) this.replayable.push({ pending: { operation, key }, answer });
      onAnswer();
    }
  }

  ask({ operation: { method, path, body, byApp }, key }: Pending): Promise<Answer> {
    return this.product[byApp ? 'app' : 'root'].ask(method, path, body, key === undefined ? {} : { 'idempotency-key': key });
  }

  accept(operation: Operation, { status, body }: Answer): void {
    if (!operation.statuses.includes(status)) throw new Error(`${operation.method} ${operation.path} → ${status} ${JSON.stringify(body)}`);
    operation.acknowledged(body);
  }

  /** What was under way when the product died. With a key it is asked for again, by several at once: all get the one answer. */
  async resume(): Promise<void> {
    const { pending } = this;
    this.pending = undefined;
    if (!pending) return;
    if (!pending.key) return pending.operation.settle();
    const answers = await Promise.all([1, 2, 3].map(() => this.ask(pending)));
    const [first] = answers as [Answer];
    for (const { status, body } of answers) expect({ status, body }).toEqual({ status: first.status, body: first.body });
    this.accept(pending.operation, first);
    this.replayable.push({ pending, answer: first });
  }

  #choose(): Operation {
    const alive = this.licenses.filter(({ state }) => state === 'alive');
    const license = alive[this.random(alive.length || 1)];
    const dice = this.random(100);
    if (!license || dice < 12) return this.#order();
    if (dice < 17) return this.#customer();
    if (dice < 60 && !license.suspended) {
      const [instance] = license.instances;
      return instance && this.random(3) === 0 ? this.#deactivate(license, instance) : this.#activate(license);
    }
    if (dice < 78) return this.#edit(license);
    if (dice < 88) return this.#hold(license);
    if (dice < 95) return this.#regenerate(license);
    return dice < 98 ? this.#revoke(license) : this.#erase(license);
  }

  #order(): Operation {
    const quantity = 1 + this.random(3);
    const known = () => new Set(this.orders.map(({ id }) => id));
    const add = (order: OrderView) => {
      expect(order.licenses).toHaveLength(quantity);
      this.orders.push({ id: order.id, quantity, licenses: order.licenses.map((license) => newLicense(license as Sold)) });
    };
    return {
      method: 'POST', path: '/orders', body: { planId: this.planId, customerId: this.customerId, quantity }, statuses: [201],
      acknowledged: (body) => add(body as OrderView),
      settle: async () => {
        const orders = await this.product.root.all<{ id: string }>(`/orders?customerId=${this.customerId}`);
        const unknown = orders.filter(({ id }) => !known().has(id));
        expect(unknown.length).toBeLessThanOrEqual(1);
        for (const { id } of unknown) add(await this.product.root.get<OrderView>(`/orders/${id}`));
      },
    };
  }

  #customer(): Operation {
    const email = `${this.name}-${++this.#asked}@example.com`.replaceAll(' ', '-');
    return {
      method: 'POST', path: '/customers', body: { name: 'One of many', email }, statuses: [201],
      acknowledged: () => void this.customers.push(email),
      settle: async () => {
        const { data } = await this.product.root.get<Listed<CustomerView>>(`/customers?q=${email}`);
        expect(data.length).toBeLessThanOrEqual(1);
        if (data.length) this.customers.push(email);
      },
    };
  }

  #activate(license: License): Operation {
    const fingerprint = this.random(2) ? `${this.name} ${++this.#asked}` : undefined;
    return this.#on(license, {
      method: 'POST', path: '/license/activate', body: { licenseKey: license.key, fingerprint }, byApp: true,
      // 200 when it is the retry of one that was never answered: it has its seat already.
      statuses: [200, 201],
    }, (body) => void license.instances.add((body as { instance: { id: string } }).instance.id), async () => {
      for (const { id } of await this.instancesOf(license)) license.instances.add(id);
    });
  }

  #deactivate(license: License, instanceId: string): Operation {
    const effect = () => void license.instances.delete(instanceId);
    return this.#on(license, { method: 'POST', path: '/license/deactivate', body: { licenseKey: license.key, instanceId }, byApp: true, statuses: [200] }, effect);
  }

  #edit(license: License): Operation {
    const [limit, turn] = [license.limit + 1, ++this.#asked];
    const edits = [{ body: { activationLimit: limit }, effect: { limit } }, { body: { metadata: { turn } }, effect: { turn } }] as const;
    const { body, effect } = edits[this.random(2) ? 0 : 1];
    return this.#on(license, { method: 'PATCH', path: `/licenses/${license.id}`, body, statuses: [200] }, () => void Object.assign(license, effect));
  }

  #hold(license: License): Operation {
    const path = `/licenses/${license.id}/${license.suspended ? 'unsuspend' : 'suspend'}`;
    return this.#on(license, { method: 'POST', path, body: {}, statuses: [200] }, () => void (license.suspended = !license.suspended));
  }

  #regenerate(license: License): Operation {
    const effect = (key: string) => {
      license.oldKeys.push(license.key);
      license.key = key;
      license.instances.clear();
    };
    return this.#on(license, { method: 'POST', path: `/licenses/${license.id}/regenerate-key`, body: {}, statuses: [200] },
      (body) => effect((body as Sold).key), async () => effect((await this.product.root.get<Sold>(`/licenses/${license.id}`)).key));
  }

  #revoke(license: License): Operation {
    return this.#on(license, { method: 'POST', path: `/licenses/${license.id}/revoke`, body: {}, statuses: [200] }, () => {
      license.state = 'revoked';
      license.instances.clear();
    });
  }

  #erase(license: License): Operation {
    return this.#on(license, { method: 'DELETE', path: `/licenses/${license.id}`, body: { reason: 'asked for', force: true }, statuses: [204] },
      () => void (license.state = 'erased'));
  }

  /** Each of them is one event of the license; whether it happened is seen from the revision. */
  #on(license: License, request: Omit<Operation, 'acknowledged' | 'settle'>, effect: (body: unknown) => void, adopt: () => void | Promise<void> = () => effect(undefined)): Operation {
    return {
      ...request,
      acknowledged: (body) => {
        effect(body);
        license.revision++;
      },
      settle: async () => {
        const { status, body } = await this.product.root.ask<LicenseView>('GET', `/licenses/${license.id}`);
        const happened = status === 404 ? 1 : body.revision - license.revision;
        expect([0, 1]).toContain(happened);
        if (happened === 0) return;
        await adopt();
        license.revision++;
      },
    };
  }

  instancesOf({ id }: License): Promise<InstanceView[]> {
    return this.product.root.all<InstanceView>(`/licenses/${id}/activations`);
  }

  async verify(): Promise<void> {
    await eachOf(this.licenses, (license) => this.#verify(license));
    const orders = await this.product.root.all<{ id: string; licenseIds: string[] }>(`/orders?customerId=${this.customerId}`);
    const told = new Map(orders.map(({ id, licenseIds }) => [id, [...licenseIds].sort()]));
    expect(told).toEqual(new Map(this.orders.map(({ id, licenses }) => [id, licenses.map((license) => license.id).sort()])));
    const { page: { total } } = await this.product.root.get<Listed<CustomerView>>(`/customers?q=${encodeURIComponent(this.name.replaceAll(' ', '-'))}-&limit=1`);
    expect(total).toBe(this.customers.length);
    await eachOf(this.replayable.splice(-10), async ({ pending, answer }) => {
      const { status, body, headers } = await this.ask(pending);
      expect({ status, body, replayed: headers['idempotency-replayed'] }).toEqual({ status: answer.status, body: answer.body, replayed: 'true' });
    });
  }

  async #verify(license: License): Promise<void> {
    const { key, oldKeys, state, revision, limit, turn, suspended, instances } = license;
    const path = `/licenses/${license.id}`;
    for (const old of oldKeys) expect(await validate(this.product.app, old)).toMatchObject({ valid: false, code: 'NOT_FOUND' });
    const verdict = await validate(this.product.app, key);
    if (state === 'erased') {
      expect(verdict.code).toBe('NOT_FOUND');
      expect((await this.product.root.refused('GET', path)).code).toBe('LICENSE_NOT_FOUND');
      return;
    }
    expect(verdict).toMatchObject({ valid: state === 'alive' && !suspended, seq: revision });
    const view = await this.product.root.get<Sold>(path);
    expect(view).toMatchObject({ key, revision, activationLimit: limit, metadata: turn === undefined ? {} : { turn }, activationCount: instances.size });
    expect(view.holds).toHaveLength(suspended ? 1 : 0);
    expect(view.status === 'revoked').toBe(state === 'revoked');
    expect((await this.instancesOf(license)).map(({ id }) => id).sort()).toEqual([...instances].sort());
  }
}

/** A license that all clients fight over. */
class Shared {
  readonly seated = new Set<string>();
  /** Asked for and never answered. */
  readonly unknown = new Set<string>();

  constructor(readonly product: Product, readonly license: Sold) {}

  async work(name: string): Promise<void> {
    for (let turn = 0; ; turn++) {
      const fingerprint = `${name} ${turn}`;
      this.unknown.add(fingerprint);
      const answer = await this.product.app.ask<{ instance: { id: string } }>('POST', '/license/activate', { licenseKey: this.license.key, fingerprint }).catch(() => undefined);
      if (!answer) return;
      if (answer.status === 201) this.seated.add(fingerprint);
      else expect(answer.status).toBe(409);
      if (answer.status !== 201 || turn % 4 === 0) {
        this.unknown.delete(fingerprint);
        continue;
      }
      const gone = await this.product.app.ask('POST', '/license/deactivate', { licenseKey: this.license.key, instanceId: answer.body.instance.id }).catch(() => undefined);
      this.seated.delete(fingerprint);
      if (!gone) return;
      expect(gone.status).toBe(200);
      this.unknown.delete(fingerprint);
    }
  }

  /** Every seat that was acknowledged, none beyond what was asked for, none over the limit. Seats are then given back, for the next round. */
  async verify(): Promise<void> {
    const instances = await this.product.root.all<InstanceView>(`/licenses/${this.license.id}/activations`);
    const there = new Set(instances.map(({ fingerprint }) => fingerprint as string));
    expect(there.size).toBe(instances.length);
    expect(there.size).toBeLessThanOrEqual(this.license.activationLimit);
    expect([...this.seated].filter((fingerprint) => !there.has(fingerprint))).toEqual([]);
    expect([...there].filter((fingerprint) => !this.seated.has(fingerprint) && !this.unknown.has(fingerprint))).toEqual([]);
    for (const { id } of instances) await this.product.root.delete(`/licenses/${this.license.id}/activations/${id}`);
    this.seated.clear();
    this.unknown.clear();
  }
}

async function eachOf<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  await Promise.all(Array.from({ length: 8 }, async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item);
  }));
}

let product: Product;
let sold: Offer;
beforeAll(async () => {
  process.stdout.write(`kill -9 under load: KEYLEDGER_E2E_SEED=${seed}\n`);
  product = await Product.start();
  sold = await offer(product.root, { activationLimit: 1000 });
});
afterAll(() => product.stop());

describe('A product that is killed under load', () => {
  it(`has lost and doubled nothing that it had answered, ${rounds} times in a row`, async () => {
    const chance = randomFrom(seed);
    const crowd = await Promise.all(Array.from({ length: workers }, async (_, n) => {
      const { id } = await product.root.post<CustomerView>('/customers', { name: `Client ${n}`, email: `client${n}@example.com` });
      return new Worker(product, `client ${seed} ${String.fromCharCode(97 + n)}`, id, sold.plan.id, randomFrom(seed + n + 1));
    }));
    const shared = new Shared(product, await sell(product.root, (await offer(product.root, { activationLimit: 30 })).plan.id));

    for (let round = 1; round <= rounds; round++) {
      const killAt = 60 + chance(240);
      let answers = 0;
      let killed: Promise<void> | undefined;
      const onAnswer = () => {
        if (++answers === killAt) killed = product.kill9();
      };
      await Promise.all([...crowd.map((worker) => worker.work(onAnswer)), ...[1, 2, 3, 4].map((n) => shared.work(`round ${round} machine ${n}`))]);
      await killed;

      const diedAt = performance.now();
      await product.restart();
      expect((await product.app.ask('GET', '/health/ready')).status).toBe(200);
      expect(performance.now() - diedAt).toBeLessThan(readyWithinMs);

      for (const worker of crowd) await worker.resume();
      for (const worker of crowd) await worker.verify();
      await shared.verify();
      const there = crowd.flatMap(({ licenses }) => licenses).filter(({ state }) => state !== 'erased');
      expect(await product.root.get(`/licenses/totals?planId=${sold.plan.id}`)).toMatchObject({ licenses: there.length });
    }
    const everything = crowd.flatMap(({ licenses }) => licenses);
    expect(everything.some(({ state }) => state === 'erased')).toBe(true);
    expect(everything.some(({ oldKeys }) => oldKeys.length > 0)).toBe(true);
  }, 180_000);
});

describe('A product whose log has lost its end', () => {
  it.each([['read models', 'state.db'], ['reactions', 'read.db']])('says so and does not start, as long as its %s know better', async (_, forgotten) => {
    const victim = await Product.start();
    const at = (name: string) => join(victim.dataDir, 'production', name);
    const { plan } = await offer(victim.root);
    const license = await sell(victim.root, plan.id);
    await victim.terminate();
    for (const name of ['events.db', forgotten]) copyFileSync(at(name), at(`${name}.older`));
    await victim.restart();
    await victim.root.patch(`/licenses/${license.id}`, { metadata: { newer: true } });
    await victim.terminate();
    for (const name of ['events.db', forgotten]) {
      for (const suffix of ['-wal', '-shm']) rmSync(at(`${name}${suffix}`), { force: true });
      copyFileSync(at(`${name}.older`), at(name));
    }
    await expect(victim.restart()).rejects.toThrow(/The event log of production ends at \d+ but has been read up to \d+: events are missing/);
    await victim.stop();
  });
});
