import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { stopwatch } from '@keyledger/testing';
import { FaultProxy } from '@keyledger/testing/fault-proxy';
import { anEvent, eventStoreContract } from './event-store.contract.ts';
import { EventStoreDbDouble } from './eventstoredb-double.contract.ts';
import { serverKind, startServer, type TestServer } from './eventstoredb-server.contract.ts';
import { EventStoreDbEventStores, type EventStoreDbEventStore, type EventStoreDbOptions } from './eventstoredb.ts';
import { NO_STREAM, type EventStore, type RecordedEvent, type Subscription } from './port.ts';

const DOUBLE = 'a DOUBLE, not a real EventStoreDB';
const kind = serverKind ?? DOUBLE;
if (!serverKind) console.warn('NO REAL EVENTSTOREDB WAS TESTED, only a double of it: set KEYLEDGER_TEST_EVENTSTORE_URL, or start Docker');

let server: TestServer;
beforeAll(async () => { server = await startServer(); }, 360_000);
afterAll(() => server.stop());

const openStores: EventStoreDbEventStores[] = [];
afterEach(async () => {
  await Promise.all(openStores.splice(0).map((stores) => stores.close()));
});

/** A busy machine is no reason to give up, except where giving up is what a test is about. */
const PATIENT_MS = 30_000;

async function openAt(url: string, environments: readonly string[], options: Partial<EventStoreDbOptions> = {}): Promise<EventStoreDbEventStores> {
  const stores = await EventStoreDbEventStores.open({ url, environments, handlerFailed: () => undefined, disconnected: () => undefined, deadline: PATIENT_MS, ...options });
  openStores.push(stores);
  return stores;
}

const aName = () => `t-${randomUUID()}`;
const someEvents = (count: number) => Array.from({ length: count }, (_, seat) => anEvent({ seat }));
const positions = (events: readonly RecordedEvent[]) => events.map(({ position }) => position);

/** A subscriber that can be waited for. */
function follow(store: EventStore, after = 0) {
  const events: RecordedEvent[] = [];
  let changed = () => {};
  const subscription: Subscription = store.subscribe(after, (batch) => {
    events.push(...batch);
    changed();
  });
  const until = async (done: () => boolean) => {
    while (!done()) await new Promise<void>((resolve) => (changed = resolve));
  };
  return { events, subscription, has: (count: number) => until(() => events.length >= count), reaches: (position: number) => until(() => (events.at(-1)?.position ?? 0) >= position) };
}

async function everything(store: EventStore): Promise<RecordedEvent[]> {
  const all: RecordedEvent[] = [];
  for (let page; (page = await store.readAll(all.at(-1)?.position ?? 0)).length > 0;) all.push(...page);
  return all;
}

/** Until it is answered. */
async function insist<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      expect(error).toMatchObject({ code: 'UNAVAILABLE' });
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

const environmentOf = new WeakMap<object, string>();
async function open(environment = aName()): Promise<EventStoreDbEventStore> {
  const store = (await openAt(server.url, [environment])).of(environment);
  environmentOf.set(store, environment);
  return store;
}

eventStoreContract(`EventStoreDbEventStore on ${kind}`, open, {
  reopen: async (store) => {
    await store.close();
    return open(environmentOf.get(store));
  },
});

if (!serverKind) it.skip('EventStoreDbEventStore on a REAL EventStoreDB: none was tested', () => undefined);

describe(`EventStoreDbEventStores on ${kind}`, () => {
  it('keep environments on one server apart', async () => {
    const [ours, theirs] = [aName(), aName()];
    const stores = await openAt(server.url, [ours, theirs]);
    const [one, other] = [stores.of(ours), stores.of(theirs)];
    const [ofOne, ofOther] = [follow(one), follow(other)];
    const event = anEvent();
    const first = await one.append('license-a', NO_STREAM, [event]);
    const second = await other.append('license-a', NO_STREAM, [event]);
    await Promise.all([ofOne.has(1), ofOther.has(1)]);
    expect([await one.head(), await other.head()]).toEqual([first.position, second.position]);
    expect(await one.readAll(0)).toMatchObject([{ stream: 'license-a', revision: 0, position: first.position }]);
    expect(await other.readAll(0)).toMatchObject([{ stream: 'license-a', revision: 0, position: second.position }]);
    expect(await other.readAll(second.position)).toEqual([]);
    const third = await one.append('license-a', 0, [anEvent()]);
    await ofOne.reaches(third.position);
    expect([ofOne.events.length, ofOther.events.length]).toEqual([2, 1]);
    const took = stopwatch();
    await stores.close();
    // Sooner than it gives up waiting for calls that the client takes for unfinished.
    expect(took()).toBeLessThan(PATIENT_MS / 2);
  });

  it('keep installations on one server apart, each with a prefix of its own or none', async () => {
    const [environment, prefix] = [aName(), aName()];
    const stores = await Promise.all([undefined, prefix, `${prefix}-2`].map((own) => openAt(server.url, [environment], own === undefined ? {} : { prefix: own })));
    for (const [n, all] of stores.entries()) await all.of(environment).append('license-a', NO_STREAM, someEvents(n + 1));
    for (const [n, all] of stores.entries()) {
      const store = all.of(environment);
      const found = await store.readAll(0);
      expect(found.map(({ stream, revision }) => [stream, revision])).toEqual(Array.from({ length: n + 1 }, (_, revision) => ['license-a', revision]));
      expect(await store.head()).toBe(found.at(-1)?.position);
      const subscriber = follow(store);
      await subscriber.has(n + 1);
      expect(subscriber.events).toEqual(found);
    }
    await expect(openAt(server.url, [environment], { prefix: 'a:b' })).rejects.toThrow(RangeError);
  });

  it('see what other processes write, and their own heads though others write last', async () => {
    const [ours, theirs] = [aName(), aName()];
    const [here, there] = [await openAt(server.url, [ours, theirs]), await openAt(server.url, [ours, theirs])];
    const subscriber = follow(here.of(ours));
    for (let n = 0; n < 10; n++) {
      const { position } = await there.of(ours).append('license-a', n - 1, [anEvent()]);
      await there.of(theirs).append('order-a', 'any', someEvents(20));
      expect(await here.of(ours).head()).toBe(position);
      await subscriber.reaches(position);
      expect(subscriber.events).toHaveLength(n + 1);
    }
    const late = await openAt(server.url, [ours, theirs]);
    expect(await late.of(ours).head()).toBe(await here.of(ours).head());
    expect(await late.of(ours).readAll(0)).toEqual(subscriber.events);
  });

  it('can go on from any event, also in the middle of an append', async () => {
    const store = await open();
    await store.append('license-a', NO_STREAM, someEvents(3));
    await store.append('license-b', NO_STREAM, someEvents(4));
    const all = await store.readAll(0);
    expect(new Set(positions(all)).size).toBe(7);
    for (const [index, { position }] of all.entries()) {
      const rest = all.slice(index + 1);
      expect(await store.readAll(position)).toEqual(rest);
      const subscriber = follow(store, position);
      await subscriber.has(rest.length);
      expect(subscriber.events).toEqual(rest);
      await subscriber.subscription.close();
    }
    expect((await store.readStream('license-b')).map(({ position }) => position)).toEqual(positions(all.slice(3)));
  });

  describe('with two processes at the same stream', () => {
    let stores: readonly [EventStoreDbEventStore, EventStoreDbEventStore];
    beforeEach(async () => {
      const environment = aName();
      stores = [(await openAt(server.url, [environment])).of(environment), (await openAt(server.url, [environment])).of(environment)];
    });

    it('let one of them win each revision', async () => {
      let [next, rounds] = [NO_STREAM, 0];
      for (; rounds < 50; rounds++) {
        const outcomes = await Promise.allSettled(stores.map((store, process) => store.append('license-a', next, [anEvent({ process })])));
        expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
        next++;
        for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ name: 'WrongExpectedRevision', actual: next });
      }
      expect(await stores[0].readStream('license-a')).toHaveLength(rounds);
    });

    it('take any revision from both', async () => {
      await Promise.all(Array.from({ length: 16 }, (_, n) => (stores[n % 2] as EventStore).append('license-a', 'any', someEvents(2))));
      const events = await stores[0].readStream('license-a');
      expect(events.map(({ data }) => data.seat)).toEqual(Array.from({ length: 32 }, (_, n) => n % 2));
    });

    it.each(['any', NO_STREAM, 1, 4, 7] as const)('write the same events once, the second expecting %s', async (expected) => {
      const [one, other] = stores;
      await one.append('license-a', NO_STREAM, someEvents(2));
      const events = someEvents(2);
      const first = await one.append('license-a', 1, events);
      await one.append('license-a', 3, [anEvent()]);
      expect(await other.append('license-a', expected, events)).toEqual({ ...first, duplicate: true });
      expect(await other.append('license-a', expected, events)).toEqual({ ...first, duplicate: true });
      expect(await one.readStream('license-a')).toHaveLength(5);
    });

    it('write the same events once when both do it at the same time', async () => {
      for (let n = 0; n < 8; n++) {
        const events = someEvents(2);
        const outcomes = await Promise.all(stores.map((store) => store.append(`license-${n}`, n % 2 ? NO_STREAM : 'any', events)));
        expect(outcomes.map(({ duplicate }) => duplicate).toSorted()).toEqual([false, true]);
        expect(outcomes[0]?.position).toBe(outcomes[1]?.position);
        expect(await stores[0].readStream(`license-${n}`)).toHaveLength(2);
      }
    });

    it('write the same events once when another begins with some of them', async () => {
      const [one, other] = stores;
      const [a, b, c] = someEvents(3) as [ReturnType<typeof anEvent>, ReturnType<typeof anEvent>, ReturnType<typeof anEvent>];
      const first = await one.append('license-a', NO_STREAM, [a, b]);
      expect(await other.append('license-a', 1, [c, a, b])).toEqual({ ...first, duplicate: true });
      await expect(one.append('license-a', 1, [c, c])).rejects.toThrow(RangeError);
      expect(await one.readStream('license-a')).toHaveLength(2);
    });
  });

  it('do not take an environment name that could be another’s prefix', async () => {
    await expect(openAt(server.url, ['live.eu'])).rejects.toThrow(RangeError);
  });
});

describe(`EventStoreDbEventStores, whose server is ${serverKind?.includes('Docker') ? kind : DOUBLE},`, () => {
  let own: TestServer & Required<Pick<TestServer, 'own'>>;
  let environment: string;
  let store: EventStoreDbEventStore;
  beforeAll(async () => {
    const double = server.own ? undefined : await EventStoreDbDouble.start();
    own = { url: server.url, own: server.own as NonNullable<TestServer['own']>, stop: () => undefined, ...(double && { url: double.url, own: double, stop: () => double.kill() }) };
  });
  afterAll(() => own.stop());
  beforeEach(async () => {
    environment = aName();
    store = (await openAt(own.url, [environment])).of(environment);
  });

  const rejectsInTime = async (work: Promise<unknown>) => {
    const took = stopwatch();
    await expect(work).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(took()).toBeLessThan(2_700);
  };
  const operations = () => [
    store.append('license-a', 0, [anEvent()]), store.append('license-new', NO_STREAM, [anEvent()]), store.append('license-other', 'any', [anEvent()]),
    store.readStream('license-a'), store.readAll(0), store.head(),
  ];
  const isBack = () => insist(() => store.head());

  it('go on where they were when it has been killed and started again', async () => {
    const [early, dormant] = [follow(store), follow(store, 0)];
    const before = await store.append('license-a', NO_STREAM, someEvents(3));
    await Promise.all([early.has(3), dormant.has(3)]);
    await own.own.kill();
    await Promise.all(operations().map(rejectsInTime));
    await own.own.restart();
    expect(await isBack()).toBe(before.position);
    const after = await store.append('license-a', 2, someEvents(2));
    const others = (await openAt(own.url, [environment])).of(environment);
    const last = await others.append('license-b', NO_STREAM, [anEvent()]);
    await early.reaches(last.position);
    expect(early.events).toEqual(await everything(store));
    expect(early.events).toHaveLength(6);
    expect(after.revision).toBe(4);
    expect(dormant.subscription.position).toBe(last.position);
  });

  it('miss nothing that others wrote while they were cut off, and repeat nothing', async () => {
    const subscriber = follow(store);
    const others = (await openAt(own.url, [environment])).of(environment);
    let written = 0;
    for (let round = 0; round < 3; round++) {
      written += (await others.append('license-a', 'any', someEvents(20))).duplicate ? 0 : 20;
      await subscriber.has(written);
      await own.own.kill();
      await own.own.restart();
      await isBack();
    }
    const { position } = await others.append('license-a', 'any', [anEvent()]);
    await subscriber.reaches(position);
    expect(positions(subscriber.events)).toEqual(positions(await everything(others)));
    expect(subscriber.events).toHaveLength(written + 1);
  });

  /** As a product opens it. */
  const openHasty = async () => { store = (await openAt(own.url, [environment], { deadline: undefined })).of(environment); };

  it('reject in time while it hangs, and are well again when it is', async () => {
    await store.append('license-a', NO_STREAM, [anEvent()]);
    await openHasty();
    const subscriber = follow(store);
    await subscriber.has(1);
    own.own.hang();
    const opening = EventStoreDbEventStores.open({ url: own.url, environments: [environment], openWithin: 1_500 });
    await Promise.all([...operations(), opening].map(rejectsInTime));
    own.own.resume();
    const event = anEvent();
    const { position } = await insist(() => store.append('license-b', NO_STREAM, [event]));
    await subscriber.reaches(position);
    expect(positions(subscriber.events)).toEqual(positions(await insist(() => everything(store))));
  });

  it('write once what was given up while it hung', async () => {
    await store.append('license-a', NO_STREAM, [anEvent()]);
    await openHasty();
    const events = someEvents(2);
    own.own.hang();
    await rejectsInTime(store.append('license-a', 0, events));
    own.own.resume();
    const again = await insist(() => store.append('license-a', 0, events));
    expect(again.revision).toBe(2);
    expect(await insist(() => store.append('license-a', 'any', events))).toEqual({ ...again, duplicate: true });
    expect(await insist(() => store.readStream('license-a'))).toHaveLength(3);
  });

  it('cannot be opened when nobody is there', async () => {
    await rejectsInTime(EventStoreDbEventStores.open({ url: 'esdb://127.0.0.1:1?tls=false', environments: [environment] }));
  });
});

describe(`EventStoreDbEventStores, looked at from ${DOUBLE},`, () => {
  let double: EventStoreDbDouble;
  let environment: string;
  let store: EventStoreDbEventStore;
  beforeEach(async () => {
    double = await EventStoreDbDouble.start();
    environment = aName();
    store = (await openAt(double.url, [environment, 'quiet'])).of(environment);
  });
  afterEach(() => double.kill());
  const counted = async (work: () => Promise<unknown>) => {
    const { append, read } = double.calls;
    await work();
    return { append: double.calls.append - append, read: double.calls.read - read };
  };

  it('have heads that subscribers reach, whatever the server and others write behind them', async () => {
    const subscriber = follow(store);
    double.write(`${environment}x.license-a`, 5);
    const { position } = await store.append('license-a', NO_STREAM, someEvents(2));
    for (let n = 0; n < 3; n++) {
      double.systemEvent();
      double.systemEvent(`$$${environment}.license-a`);
      double.write('another-application', 700);
      double.write(`${environment}x.license-a`, 5);
      double.write(`x${environment}.license-a`, 5);
      expect(await store.head()).toBe(position);
    }
    await subscriber.reaches(position);
    expect(subscriber.subscription.position).toBe(position);
    expect(await store.readAll(position)).toEqual([]);
    const late = (await openAt(double.url, [environment, 'quiet'])).of(environment);
    expect(await late.head()).toBe(position);
    expect(subscriber.events).toHaveLength(2);
    expect(await late.readAll(0)).toEqual(subscriber.events);
  });

  it('append, and ask for the head, in one call each', async () => {
    const subscriber = follow(store);
    await store.append('license-first', NO_STREAM, [anEvent()]);
    await subscriber.has(1);
    expect(await counted(() => store.append('license-a', NO_STREAM, someEvents(2)))).toEqual({ append: 1, read: 0 });
    expect(await counted(() => store.append('license-a', 1, someEvents(2)))).toEqual({ append: 1, read: 0 });
    expect(await counted(() => store.append('license-a', 'any', someEvents(2)))).toEqual({ append: 1, read: 0 });
    const other = (await openAt(double.url, [environment])).of(environment);
    await other.append('license-b', NO_STREAM, [anEvent()]);
    await other.readStream('license-a');
    await other.head();
    expect(await counted(() => other.append('license-a', 5, [anEvent()]))).toEqual({ append: 1, read: 0 });
    expect(await counted(() => store.head())).toEqual({ append: 0, read: 1 });
    expect(await counted(() => Promise.all(Array.from({ length: 20 }, () => store.head())))).toEqual({ append: 0, read: 2 });
    expect(double.calls.other).toBe(0);
  });

  it('read what they do not know of a stream before they append to it, once', async () => {
    for (let n = 0; n < 3; n++) await store.append('license-a', 1000 * n - 1, someEvents(1000));
    const other = (await openAt(double.url, [environment])).of(environment);
    expect(await other.readStream('license-a', { from: 2999 })).toHaveLength(1);
    expect(await counted(() => other.append('license-a', 2999, [anEvent()]))).toEqual({ append: 1, read: 4 });
    expect(await counted(() => other.append('license-a', 3000, [anEvent()]))).toEqual({ append: 1, read: 0 });
  });

  it('get through a stream too long to be read in time, attempt by attempt, and write only while somebody waits', async () => {
    double.write(`${environment}.license-a`, 4_500);
    double.delay = 100;
    const hasty = (await openAt(double.url, [environment], { deadline: 400 })).of(environment);
    const event = anEvent();
    const attempt = () => hasty.append('license-a', 4_499, [event]).catch((error: unknown) => {
      expect(error).toMatchObject({ code: 'UNAVAILABLE' });
      return undefined;
    });
    let appended = await attempt();
    expect(appended).toBeUndefined();
    while (!appended) appended = await attempt();
    // The last attempt but one may have been given up when it had been sent already.
    expect(appended.revision).toBe(4_500);
    expect(await store.readStream('license-a', { from: 4_500 })).toHaveLength(1);
  });

  it('start without looking at the whole log, also where an environment is quiet', async () => {
    const quiet = (await openAt(double.url, ['quiet'])).of('quiet');
    const { position } = await quiet.append('license-a', NO_STREAM, [anEvent()]);
    for (let n = 0; n < 12; n++) double.write('another-application', 1_000);
    await store.append('license-a', NO_STREAM, [anEvent()]);
    const sentBy = async (work: () => Promise<unknown>) => {
      const { sent } = double;
      await work();
      return double.sent - sent;
    };
    const openAndLook = async () => expect(await (await openAt(double.url, [environment, 'quiet'])).of('quiet').head()).toBe(position);
    expect(await sentBy(openAndLook)).toBeGreaterThan(10_000);
    await store.append('license-a', 0, [anEvent()]);
    expect(await sentBy(openAndLook)).toBeLessThan(1_000);
  });

  it('hand what is no longer in memory to subscribers that were held up, without what is not theirs', async () => {
    const seen: number[] = [];
    let goOn = () => {};
    const held = new Promise<void>((resolve) => (goOn = resolve));
    const all = new Promise<void>((resolve) => {
      store.subscribe(0, async (events) => {
        await held;
        seen.push(...positions(events));
        if (seen.length === 12_500) resolve();
      });
    });
    for (let n = 0; n < 12; n++) {
      await store.append(`license-${n}`, NO_STREAM, someEvents(1_000));
      double.write('another-application', 50);
    }
    await store.append('license-last', NO_STREAM, someEvents(500));
    const { sent } = double;
    goOn();
    await all;
    expect(seen).toEqual(positions(await everything(store)));
    expect(new Set(seen).size).toBe(12_500);
    expect(double.sent - sent).toBeLessThan(30_000);
  });

  it('notice a subscription that the server has forgotten', async () => {
    const patient = (await openAt(double.url, [environment], { deadline: 1_000 })).of(environment);
    const subscriber = follow(patient);
    const first = await patient.append('license-a', NO_STREAM, [anEvent()]);
    await subscriber.has(1);
    double.forget();
    const { position } = await patient.append('license-a', 0, [anEvent()]);
    expect(await patient.head()).toBe(position);
    expect(await patient.readAll(first.position)).toHaveLength(1);
    expect(subscriber.events).toHaveLength(1);
    await subscriber.reaches(position);
    expect(subscriber.events).toHaveLength(2);
  });

  it('tell when they are cut off, and come back when the server ends a subscription', async () => {
    const losses: unknown[] = [];
    const other = (await openAt(double.url, [environment], { disconnected: (error) => losses.push(error) })).of(environment);
    const subscriber = follow(other);
    await other.append('license-a', NO_STREAM, [anEvent()]);
    await subscriber.has(1);
    double.drop();
    const { position } = await store.append('license-a', 'any', [anEvent()]);
    await subscriber.reaches(position);
    expect(losses).toHaveLength(1);
  });

  it('take a new connection when who was at the other end has vanished without a word', async () => {
    const proxy = await FaultProxy.open(double.url);
    const far = (await openAt(proxy.url, [environment], { deadline: undefined })).of(environment);
    const subscriber = follow(far);
    await far.append('license-a', NO_STREAM, [anEvent()]);
    await subscriber.has(1);
    for (let times = 1; times <= 2; times++) {
      proxy.vanish();
      const took = stopwatch();
      await expect(Promise.all([far.head(), far.append('license-a', 'any', [anEvent()])])).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      const { position } = await insist(() => far.append(`license-${times}`, NO_STREAM, [anEvent()]));
      expect(await insist(() => far.head())).toBe(position);
      await subscriber.reaches(position);
      expect(took()).toBeLessThan(8_000);
    }
    expect(positions(subscriber.events)).toEqual(positions(await everything(store)));
    await proxy.close();
  });

  it('never take a read that was cut short for all there is', async () => {
    const proxy = await FaultProxy.open(double.url);
    const far = (await openAt(proxy.url, [environment], { deadline: undefined })).of(environment);
    await far.append('license-a', NO_STREAM, [anEvent()]);
    proxy.vanish();
    const { position } = await store.append('license-b', NO_STREAM, [anEvent()]);
    // Each that is given up takes the connection away from those that began later.
    const lengths: Promise<unknown>[] = [];
    const heads: Promise<unknown>[] = [];
    const code = (error: { code?: string }) => error.code;
    for (let n = 0; n < 8; n++) {
      lengths.push(far.readStream('license-a').then((events) => events.length, code));
      heads.push(far.head().catch(code));
      await sleep(150);
    }
    for (const length of await Promise.all(lengths)) expect(['UNAVAILABLE', 1]).toContain(length);
    for (const head of await Promise.all(heads)) expect(['UNAVAILABLE', position]).toContain(head);
    expect(await insist(() => far.readStream('license-a'))).toHaveLength(1);
    await proxy.close();
  });

  it('hand on what somebody has written into a stream by hand', async () => {
    const subscriber = follow(store);
    double.write(`${environment}.license-a`, 1);
    double.write(`${environment}.license-a`, 1, { $correlationId: 'x' });
    const { position } = await store.append('license-a', 1, [anEvent()]);
    await subscriber.reaches(position);
    expect(subscriber.events.map(({ type, metadata }) => [type, metadata])).toEqual([['Happened', {}], ['Happened', {}], ['SeatTaken', { schema: 1 }]]);
    await expect(store.append('license-a', 1, [anEvent()])).rejects.toMatchObject({ actual: 2 });
  });

  it('name what cannot be stored', async () => {
    const small = await EventStoreDbDouble.start({ maxAppendSize: 1_000 });
    const limited = (await openAt(small.url, [environment])).of(environment);
    await expect(limited.append('license-a', NO_STREAM, [anEvent({ text: 'x'.repeat(2_000) })])).rejects.toThrow(RangeError);
    expect(await limited.append('license-a', NO_STREAM, [anEvent()])).toMatchObject({ revision: 0 });
    small.kill();
  });

  it('close when what is under way is done, and refuse from then on', async () => {
    await store.append('license-a', NO_STREAM, someEvents(100));
    double.write('another-application', 10);
    const fresh = (await openAt(double.url, [environment])).of(environment);
    expect(await fresh.readAll(0, 3)).toHaveLength(3);
    await fresh.close();
    const last = store.append('license-a', 99, [anEvent()]);
    await store.close();
    expect(await last).toMatchObject({ revision: 100 });
    for (const work of [store.append('license-a', 1, [anEvent()]), store.readStream('license-a'), store.readAll(0), store.head()]) await expect(work).rejects.toThrow('closed');
    expect(() => store.subscribe(0, () => undefined)).toThrow('closed');
  });

  it('open also on a server that takes its time', async () => {
    double.delay = 2_500;
    const slow = EventStoreDbEventStores.open({ url: double.url, environments: [environment] });
    expect(await slow).toBeInstanceOf(EventStoreDbEventStores);
    double.delay = 0;
    await (await slow).close();
  });

  it('keep the password out of what they say about a wrong connection string', async () => {
    const opening = EventStoreDbEventStores.open({ url: 'esdb://admin:s3cret@127.0.0.1:2113?tls', environments: [environment] });
    const error = await opening.catch((refused: unknown) => refused);
    expect(error).toBeInstanceOf(Error);
    expect(JSON.stringify([String(error), { ...(error as object) }])).not.toContain('s3cret');
  });

  it('load the client in processes only that have such a server', () => {
    const script = `
      import { createRequire } from 'node:module';
      await import(${JSON.stringify(new URL('./eventstoredb.ts', import.meta.url).href)});
      console.log(Object.keys(createRequire(import.meta.url).cache).filter((path) => path.includes('@eventstore')).length);`;
    const { stdout } = spawnSync(process.execPath, ['--conditions=@keyledger/source', '--input-type=module', '--no-warnings', '--eval', script], { encoding: 'utf8', cwd: import.meta.dirname });
    expect(stdout).toBe('0\n');
  });
});

