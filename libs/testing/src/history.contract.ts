import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from '@jest/globals';
import type { CustomerView, InstanceView, LicenseView, OrderView } from '@keyledger/contracts';
import { offer, sell, validate, type Answer, type Listed, type Method, type Problem, type Product, type Sold } from './process.ts';
import { randomFrom, type Random } from './random.ts';

/** How clients behave for a while. */
export interface Shift {
  /** For when only a part of the product is killed: a client without an answer asks again, then goes on with other work. Otherwise it stops. */
  readonly goesOn?: boolean;
  /** For when messages may come twice: a refused request may have been accepted the second time. */
  readonly twice?: boolean;
  readonly until?: () => boolean;
  readonly onAnswer?: () => void;
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
  /** A request about it has never been answered. */
  open: boolean;
}
interface Order {
  readonly id: string;
  readonly quantity: number;
  readonly licenses: readonly License[];
}

interface Operation {
  readonly of: License | 'orders' | 'customers';
  readonly method: Method;
  readonly path: string;
  readonly body?: unknown;
  readonly byApp?: boolean;
  readonly statuses: readonly number[];
  /** Records the answer in the model. */
  acknowledged(body: unknown): void;
  /** For a request never answered, without an Idempotency-Key: finds out whether it happened, at most once, and adopts that. */
  settle(): Promise<void>;
}
interface Pending {
  readonly operation: Operation;
  readonly key: string | undefined;
}

const patience = { tries: 5, pauseMs: 100, untilReachedMs: 10_000, altogetherMs: 45_000 };
const mostOfAnOrder = 3;

const newLicense = ({ id, key, revision, activationLimit }: Sold): License =>
  ({ id, key, oldKeys: [], revision, limit: activationLimit, turn: undefined, suspended: false, instances: new Set(), state: 'alive', open: false });

/** Undefined when it is unknown whether the request was carried out. */
async function certain<T>(asking: () => Promise<Answer<T>>, goesOn = false): Promise<Answer<T> | undefined> {
  for (const from = Date.now(); ;) {
    try {
      const answer = await asking();
      return answer.status === 503 || (answer.body as Problem | undefined)?.code === 'IDEMPOTENCY_IN_PROGRESS' ? undefined : answer;
    } catch (error) {
      // No process was listening.
      const notHeard = goesOn && (error as NodeJS.ErrnoException).code === 'ECONNREFUSED' && Date.now() - from < patience.untilReachedMs;
      if (!notHeard) return undefined;
      await sleep(patience.pauseMs / 5);
    }
  }
}

/** One client: it sends one request after the other, about licenses that no other client touches. */
class Worker {
  readonly orders: Order[] = [];
  readonly customers: string[] = [];
  readonly #answered: { readonly pending: Pending; readonly answer: Answer }[] = [];
  readonly #unanswered: Pending[] = [];
  /** Never answered; the outcome stays unknown. */
  readonly #doubtful: Operation[] = [];
  #asked = 0;

  constructor(readonly product: Product, readonly name: string, readonly customerId: string, readonly planId: string, readonly random: Random) {}

  get licenses(): License[] {
    return this.orders.flatMap(({ licenses }) => licenses);
  }

  doubts(what: 'orders' | 'customers'): number {
    return this.#doubtful.filter(({ of }) => of === what).length;
  }

  async work({ goesOn = false, until = () => false, onAnswer }: Shift): Promise<void> {
    while (!until()) {
      const operation = this.#choose();
      const pending = { operation, key: this.random(2) ? `${this.name} ${++this.#asked}` : undefined };
      const answer = await this.#try(pending, goesOn) ?? (goesOn ? await this.#tryAgain(pending) : undefined);
      if (answer) {
        await this.#mustBeExpected(pending, answer);
        this.#accept(pending, answer);
        onAnswer?.();
        continue;
      }
      this.#unanswered.push(pending);
      if (typeof operation.of === 'object') operation.of.open = true;
      if (!goesOn) return;
    }
  }

  /**
   * Requests not answered. With a key, one is sent again, several times at once: all get one answer. Without a key its effect is looked for
   * if `nothingIsUnderWay`; otherwise it stays open, and may have happened once at most.
   */
  async resume(nothingIsUnderWay: boolean): Promise<void> {
    await Promise.all(this.#unanswered.splice(0).map(async (pending) => {
      if (pending.key) await this.#accepted(pending);
      else if (nothingIsUnderWay) await pending.operation.settle();
      else return void this.#doubtful.push(pending.operation);
      if (typeof pending.operation.of === 'object') pending.operation.of.open = false;
    }));
  }

  async #accepted(pending: Pending): Promise<void> {
    const answer = await this.#insist(pending);
    await this.#mustBeExpected(pending, answer);
    this.#accept(pending, answer);
  }

  #ask({ operation: { method, path, body, byApp }, key }: Pending): Promise<Answer> {
    return this.product[byApp ? 'app' : 'root'].ask(method, path, body, key === undefined ? {} : { 'idempotency-key': key });
  }

  #try(pending: Pending, goesOn: boolean): Promise<Answer | undefined> {
    return certain(() => this.#ask(pending), goesOn);
  }

  async #tryAgain(pending: Pending): Promise<Answer | undefined> {
    for (let tries = 0; tries < patience.tries; tries++) {
      await sleep(patience.pauseMs);
      const answer = pending.key && await this.#try(pending, true);
      if (answer || !pending.key) return answer || undefined;
    }
    return undefined;
  }

  async #insist(pending: Pending): Promise<Answer> {
    for (const from = Date.now(); ;) {
      const answers = (await Promise.all([1, 2, 3].map(() => this.#try(pending, true)))).filter((answer) => answer !== undefined);
      const [first] = answers;
      for (const { status, body } of answers) expect({ status, body }).toEqual({ status: first?.status, body: first?.body });
      if (first) return first;
      if (Date.now() - from > patience.altogetherMs) throw new Error(`${pending.operation.method} ${pending.operation.path} is never answered, with key ${pending.key}`);
      await sleep(patience.pauseMs);
    }
  }

  /** Reports an unexpected answer with the one given a moment later, and with what both sides know of the license. */
  async #mustBeExpected({ operation }: Pending, { status, body }: Answer): Promise<void> {
    if (operation.statuses.includes(status)) return;
    const known = typeof operation.of === 'object' ? operation.of : undefined;
    const [again, license, events] = await Promise.all([
      this.#try({ operation, key: undefined }, true),
      known && this.product.root.ask('GET', `/licenses/${known.id}`),
      known && this.product.root.ask<Listed<{ type: string; at: string }>>('GET', `/licenses/${known.id}/events?limit=10`),
    ]);
    const told = { status, body, again, known: known && { ...known, instances: [...known.instances] }, license: license?.body, events: events?.body.data?.map(({ type, at }) => `${at} ${type}`) };
    throw new Error(`${operation.method} ${operation.path} ${JSON.stringify(operation.body)} → ${JSON.stringify(told)}`);
  }

  #accept({ operation, key }: Pending, answer: Answer): void {
    operation.acknowledged(answer.body);
    if (key) this.#answered.push({ pending: { operation, key }, answer });
  }

  #choose(): Operation {
    const alive = this.licenses.filter(({ state, open }) => state === 'alive' && !open);
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
    const quantity = 1 + this.random(mostOfAnOrder);
    const known = () => new Set(this.orders.map(({ id }) => id));
    const add = (order: OrderView) => {
      expect(order.licenses).toHaveLength(quantity);
      this.orders.push({ id: order.id, quantity, licenses: order.licenses.map((license) => newLicense(license as Sold)) });
    };
    return {
      of: 'orders', method: 'POST', path: '/orders', body: { planId: this.planId, customerId: this.customerId, quantity }, statuses: [201],
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
      of: 'customers', method: 'POST', path: '/customers', body: { name: 'One of many', email }, statuses: [201],
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
      // 200 for a retry of an unanswered request: the machine has its seat already.
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

  /** Each of these requests is one event of the license; the revision shows whether it happened. */
  #on(license: License, request: Omit<Operation, 'of' | 'acknowledged' | 'settle'>, effect: (body: unknown) => void, adopt: () => void | Promise<void> = () => effect(undefined)): Operation {
    return {
      ...request, of: license,
      acknowledged: (body) => {
        effect(body);
        license.revision++;
      },
      settle: async () => {
        const happened = await this.#happened(license);
        expect([0, 1]).toContain(happened);
        if (happened === 0) return;
        await adopt();
        license.revision++;
      },
    };
  }

  /** Number of changes beyond those that were answered. */
  async #happened({ id, revision }: License): Promise<number> {
    for (const from = Date.now(); ;) {
      const answer = await certain(() => this.product.root.ask<LicenseView>('GET', `/licenses/${id}`), true);
      if (answer) return answer.status === 404 ? 1 : answer.body.revision - revision;
      if (Date.now() - from > patience.altogetherMs) throw new Error(`Nobody says how ${id} is`);
      await sleep(patience.pauseMs);
    }
  }

  instancesOf({ id }: License): Promise<InstanceView[]> {
    return this.product.root.all<InstanceView>(`/licenses/${id}/activations`);
  }

  async verify(): Promise<void> {
    await eachOf(this.licenses, async (license) => (license.open ? expect([0, 1]).toContain(await this.#happened(license)) : this.#verify(license)));
    const orders = await this.product.root.all<{ id: string; licenseIds: string[] }>(`/orders?customerId=${this.customerId}`);
    const ours = new Set(this.orders.map(({ id }) => id));
    const told = new Map(orders.filter(({ id }) => ours.has(id)).map(({ id, licenseIds }) => [id, [...licenseIds].sort()]));
    expect(told).toEqual(new Map(this.orders.map(({ id, licenses }) => [id, licenses.map((license) => license.id).sort()])));
    expect(orders.length - this.orders.length).toBeLessThanOrEqual(this.doubts('orders'));
    const { page: { total } } = await this.product.root.get<Listed<CustomerView>>(`/customers?q=${encodeURIComponent(this.name.replaceAll(' ', '-'))}-&limit=1`);
    expect(total).toBeGreaterThanOrEqual(this.customers.length);
    expect(total).toBeLessThanOrEqual(this.customers.length + this.doubts('customers'));
    await eachOf(this.#answered.splice(0).slice(-10), async ({ pending, answer }) => {
      const { status, body, headers } = await this.#ask(pending);
      expect({ status, body, replayed: headers['idempotency-replayed'] }).toEqual({ status: answer.status, body: answer.body, replayed: 'true' });
    });
  }

  async #verify(license: License): Promise<void> {
    const { key, oldKeys, state, revision, limit, turn, suspended, instances } = license;
    const path = `/licenses/${license.id}`;
    for (const old of oldKeys) expect(await validate(this.product.app, old)).toMatchObject({ valid: false, code: 'NOT_FOUND', conclusive: true });
    const verdict = await validate(this.product.app, key);
    if (state === 'erased') {
      expect(verdict.code).toBe('NOT_FOUND');
      expect((await this.product.root.refused('GET', path)).code).toBe('LICENSE_NOT_FOUND');
      return;
    }
    expect(verdict).toMatchObject({ valid: state === 'alive' && !suspended, seq: revision, conclusive: true });
    const view = await this.product.root.get<Sold>(path);
    expect(view).toMatchObject({ key, revision, activationLimit: limit, metadata: turn === undefined ? {} : { turn }, activationCount: instances.size });
    expect(view.holds).toHaveLength(suspended ? 1 : 0);
    expect(view.status === 'revoked').toBe(state === 'revoked');
    expect((await this.instancesOf(license)).map(({ id }) => id).sort()).toEqual([...instances].sort());
  }
}

/** A license that all clients compete for. */
class Shared {
  readonly #seated = new Set<string>();
  /** Requested and never answered; may still happen. */
  readonly #unknown = new Set<string>();
  #machines = 0;

  constructor(readonly product: Product, readonly license: Sold) {}

  async work({ goesOn = false, twice = false, until = () => false }: Shift): Promise<void> {
    const name = `machine ${++this.#machines}`;
    for (let turn = 0; !until(); turn++) {
      const fingerprint = `${name}, turn ${turn}`;
      this.#unknown.add(fingerprint);
      const answer = await certain(() => this.product.app.ask<{ instance: { id: string } }>('POST', '/license/activate', { licenseKey: this.license.key, fingerprint }), goesOn);
      if (!answer && !goesOn) return;
      if (!answer) {
        await sleep(patience.pauseMs);
        continue;
      }
      if (answer.status === 201) this.#seated.add(fingerprint);
      else expect(answer.status).toBe(409);
      if (answer.status !== 201 || turn % 4 === 0) {
        if (answer.status === 201 || !twice) this.#unknown.delete(fingerprint);
        continue;
      }
      const gone = await certain(() => this.product.app.ask('POST', '/license/deactivate', { licenseKey: this.license.key, instanceId: answer.body.instance.id }), goesOn);
      this.#seated.delete(fingerprint);
      if (!gone && !goesOn) return;
      if (!gone) continue;
      expect(gone.status).toBe(200);
      this.#unknown.delete(fingerprint);
    }
  }

  /** Every acknowledged seat is there, none that was not requested, none over the limit. Then returns the seats, for the next round. */
  async verify(): Promise<void> {
    const instances = await this.product.root.all<InstanceView>(`/licenses/${this.license.id}/activations`);
    const there = new Set(instances.map(({ fingerprint }) => fingerprint as string));
    expect(there.size).toBe(instances.length);
    expect(there.size).toBeLessThanOrEqual(this.license.activationLimit);
    expect([...this.#seated].filter((fingerprint) => !there.has(fingerprint))).toEqual([]);
    expect([...there].filter((fingerprint) => !this.#seated.has(fingerprint) && !this.#unknown.has(fingerprint))).toEqual([]);
    for (const { id } of instances) await this.product.root.delete(`/licenses/${this.license.id}/activations/${id}`);
    this.#seated.clear();
  }
}

/**
 * Clients of a product whose processes are killed. Each client's answers are recorded here, in a model of its own, and compared with the
 * product's later answers. A license's revision counts its events, so a change that was lost, or made twice, shows even if the result
 * looks the same.
 */
export class Crowd {
  readonly #product: Product;
  readonly #planId: string;
  readonly #workers: readonly Worker[];
  readonly #shared: Shared;

  static async gather(product: Product, { seed, size }: { seed: number; size: number }): Promise<Crowd> {
    const { plan } = await offer(product.root, { activationLimit: 1000 });
    const contested = await offer(product.root, { activationLimit: 30 });
    const name = `${seed} ${crypto.randomUUID().slice(0, 8)}`;
    const workers = await Promise.all(Array.from({ length: size }, async (_, n) => {
      const { id } = await product.root.post<CustomerView>('/customers', { name: `Client ${n}`, email: `client${n}.${name.replace(' ', '.')}@example.com` });
      return new Worker(product, `client ${name} ${String.fromCharCode(97 + n)}`, id, plan.id, randomFrom(seed + n + 1));
    }));
    return new Crowd(product, plan.id, workers, new Shared(product, await sell(product.root, contested.plan.id)));
  }

  private constructor(product: Product, planId: string, workers: readonly Worker[], shared: Shared) {
    this.#product = product;
    this.#planId = planId;
    this.#workers = workers;
    this.#shared = shared;
  }

  /** Of all clients, as they know them. */
  get licenses(): readonly Readonly<License>[] {
    return this.#workers.flatMap(({ licenses }) => licenses);
  }

  /** The one that all clients compete for. */
  get contested(): Sold {
    return this.#shared.license;
  }

  async work(shift: Shift): Promise<void> {
    await Promise.all([...this.#workers.map((worker) => worker.work(shift)), ...[1, 2, 3, 4].map(() => this.#shared.work(shift))]);
  }

  /** `nothingIsUnderWay`: the product was restarted since it did not answer. */
  async verify({ nothingIsUnderWay }: { nothingIsUnderWay: boolean }): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.resume(nothingIsUnderWay)));
    for (const worker of this.#workers) await worker.verify();
    await this.#shared.verify();
    const certainly = this.licenses.filter(({ state, open }) => state !== 'erased' && !open).length;
    const perhaps = this.licenses.filter(({ open }) => open).length + mostOfAnOrder * this.#workers.reduce((sum, worker) => sum + worker.doubts('orders'), 0);
    const { licenses } = await this.#product.root.get<{ licenses: number }>(`/licenses/totals?planId=${this.#planId}`);
    expect(licenses).toBeGreaterThanOrEqual(certainly);
    expect(licenses).toBeLessThanOrEqual(certainly + perhaps);
  }
}

async function eachOf<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  await Promise.all(Array.from({ length: 8 }, async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item);
  }));
}
