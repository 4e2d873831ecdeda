import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { JsonObject } from '@keyledger/kernel';
import { NO_STREAM, WrongExpectedRevision, type EventStore, type Follows, type NewEvent, type RecordedEvent, type Subscription } from './port.ts';

export interface ContractOptions {
  /** Closes the store and opens the same log again; without it the tests about restarts are left out. */
  readonly reopen?: (store: EventStore) => Promise<EventStore>;
}

export const anEvent = (data: JsonObject = { seat: 1 }, type = 'SeatTaken'): NewEvent => ({ id: randomUUID(), type, data, metadata: { schema: 1 } });
const someEvents = (count: number): NewEvent[] => Array.from({ length: count }, (_, seat) => anEvent({ seat }));
const seats = (events: readonly RecordedEvent[]) => events.map(({ data }) => data.seat);
const revisions = (events: readonly RecordedEvent[]) => events.map(({ revision }) => revision);
const positions = (events: readonly RecordedEvent[]) => events.map(({ position }) => position);
const isRising = (numbers: readonly number[]) => numbers.every((number, index) => index === 0 || number > (numbers[index - 1] as number));

/** Every promise that an adapter of the port makes. `open` returns a new, empty log each time. */
export const eventStoreContract = (name: string, open: () => Promise<EventStore>, { reopen }: ContractOptions = {}) => describe(`${name} is an event store that`, () => {
  let store: EventStore;
  const followers: Subscription[] = [];

  beforeEach(async () => { store = await open(); });
  afterEach(async () => {
    await Promise.all(followers.splice(0).map((follower) => follower.close()));
    await store.close();
  });

  /** A subscriber that keeps its events and can be awaited. */
  function follow(after = 0) {
    const events: RecordedEvent[] = [];
    const waiting: { count: number; resolve: () => void }[] = [];
    const subscription = store.subscribe(after, (batch) => {
      events.push(...batch);
      for (const { count, resolve } of waiting) if (events.length >= count) resolve();
    });
    followers.push(subscription);
    const has = (count: number) => new Promise<void>((resolve) => (events.length >= count ? resolve() : waiting.push({ count, resolve })));
    return { events, subscription, has };
  }

  async function allOf(stream: string, limit = 1000): Promise<RecordedEvent[]> {
    const events: RecordedEvent[] = [];
    for (;;) {
      const page = await store.readStream(stream, { from: events.length, limit });
      events.push(...page);
      if (page.length < limit) return events;
    }
  }

  describe('appends', () => {
    it('to a stream that is not there yet, and on to it', async () => {
      expect(await store.append('license-a', NO_STREAM, someEvents(2))).toMatchObject({ revision: 1, duplicate: false });
      const { revision, position } = await store.append('license-a', 1, [anEvent()]);
      expect(revision).toBe(2);
      expect(await store.head()).toBe(position);
    });

    it('only at the expected revision', async () => {
      await store.append('license-a', NO_STREAM, someEvents(3));
      for (const wrong of [NO_STREAM, 0, 1, 3]) {
        const refused = store.append('license-a', wrong, [anEvent()]);
        await expect(refused).rejects.toThrow(WrongExpectedRevision);
        await expect(refused).rejects.toMatchObject({ stream: 'license-a', actual: 2 });
      }
      await expect(store.append('license-none', 0, [anEvent()])).rejects.toMatchObject({ actual: NO_STREAM });
      expect(await store.readAll(0)).toHaveLength(3);
    });

    it("anywhere when any revision will do", async () => {
      expect(await store.append('license-a', 'any', [anEvent()])).toMatchObject({ revision: 0 });
      expect(await store.append('license-a', 'any', someEvents(2))).toMatchObject({ revision: 2 });
    });

    it('all events of a batch or none', async () => {
      await store.append('license-a', NO_STREAM, [anEvent({ seat: 0 })]);
      await expect(store.append('license-a', NO_STREAM, someEvents(5))).rejects.toThrow(WrongExpectedRevision);
      await store.append('license-a', 0, [anEvent({ seat: 1 }), anEvent({ seat: 2 })]);
      expect(seats(await allOf('license-a'))).toEqual([0, 1, 2]);
    });

    it('not nothing', async () => {
      await expect(store.append('license-a', NO_STREAM, [])).rejects.toThrow(RangeError);
    });

    it('for exactly one of a hundred racing writers', async () => {
      const races = Array.from({ length: 100 }, (_, seat) => store.append('license-a', NO_STREAM, [anEvent({ seat })]));
      const outcomes = await Promise.allSettled(races);
      const winners = outcomes.flatMap(({ status }, seat) => (status === 'fulfilled' ? [seat] : []));
      expect(winners).toHaveLength(1);
      for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(WrongExpectedRevision);
      expect(seats(await allOf('license-a'))).toEqual(winners);
    });
  });

  describe('gives the same answer to the same event ids again', () => {
    it('at once', async () => {
      const events = someEvents(2);
      const first = await store.append('license-a', NO_STREAM, events);
      expect(await store.append('license-a', NO_STREAM, events)).toEqual({ ...first, duplicate: true });
      expect(await allOf('license-a')).toHaveLength(2);
    });

    it('while the first append is under way', async () => {
      const events = someEvents(2);
      const [one, two] = await Promise.all([store.append('license-a', NO_STREAM, events), store.append('license-a', NO_STREAM, events)]);
      expect([one?.duplicate, two?.duplicate].toSorted()).toEqual([false, true]);
      expect(two?.position).toBe(one?.position);
      expect(await allOf('license-a')).toHaveLength(2);
    });

    it.each(['the first time’s', 'the current', 'a wrong', 'any'] as const)('after later events, expecting %s revision', async (which) => {
      const events = someEvents(2);
      await store.append('license-a', NO_STREAM, [anEvent()]);
      const first = await store.append('license-a', 0, events);
      await store.append('license-a', 2, someEvents(3));
      const expected = { 'the first time’s': 0, 'the current': 5, 'a wrong': 3, any: 'any' } as const;
      expect(await store.append('license-a', expected[which], events)).toEqual({ ...first, duplicate: true });
      expect(await allOf('license-a')).toHaveLength(6);
    });
  });

  describe('reads', () => {
    it('a stream from a revision on, page by page', async () => {
      await store.append('license-a', NO_STREAM, someEvents(7));
      await store.append('license-b', NO_STREAM, someEvents(2));
      expect(revisions(await store.readStream('license-a'))).toEqual([0, 1, 2, 3, 4, 5, 6]);
      expect(revisions(await store.readStream('license-a', { from: 2, limit: 3 }))).toEqual([2, 3, 4]);
      expect(revisions(await store.readStream('license-a', { from: 6 }))).toEqual([6]);
      expect(await store.readStream('license-a', { from: 7 })).toEqual([]);
      expect(await allOf('license-a', 3)).toHaveLength(7);
    });

    it('nothing where there is no stream, and then what has come', async () => {
      expect(await store.readStream('license-none')).toEqual([]);
      await store.append('license-none', NO_STREAM, [anEvent()]);
      expect(await store.readStream('license-none')).toHaveLength(1);
    });

    it('a thousand events at a time unless told otherwise', async () => {
      await store.append('license-a', NO_STREAM, someEvents(1001));
      expect(await store.readStream('license-a')).toHaveLength(1000);
      expect(await store.readAll(0)).toHaveLength(1000);
    });

    it('the log in the order of the positions, and of each stream’s revisions', async () => {
      for (const stream of ['license-a', 'license-b', 'license-a', 'product-c']) await store.append(stream, 'any', someEvents(3));
      const all = await store.readAll(0);
      expect(all).toHaveLength(12);
      expect(isRising(positions(all))).toBe(true);
      expect(revisions(all.filter(({ stream }) => stream === 'license-a'))).toEqual([0, 1, 2, 3, 4, 5]);
      expect(await store.readAll((all[4] as RecordedEvent).position, 3)).toEqual(all.slice(5, 8));
      expect(await store.readAll(await store.head())).toEqual([]);
    });

    it('back what was written, to the letter', async () => {
      const data = {
        text: 'Grüße, 許諾 🔑 \u0000 \u2028 "quoted" \\ \ud800 </script>', empty: '', none: null, yes: true, zero: 0, small: 1e-7, large: Number.MAX_SAFE_INTEGER,
        list: [[], [{}], [null, 1, 'a']], nested: { __proto_: 1, 'with space': { deep: [1.5] } }, long: 'x'.repeat(2_000_000),
      };
      const event = { id: randomUUID(), type: 'Everything', data, metadata: { schema: 2, actor: { type: 'client', id: 'ü' } } };
      const before = Date.now();
      const { position } = await store.append('license-a', NO_STREAM, [event]);
      for (const [read] of [await store.readStream('license-a'), await store.readAll(0)]) {
        expect(read).toMatchObject({ ...event, stream: 'license-a', revision: 0, position });
        expect(Math.abs(Date.parse(read?.recordedAt ?? '') - before)).toBeLessThan(60_000);
        expect(read?.recordedAt).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      }
    });

    it('every answered append: a read that starts later has it, and the head covers it', async () => {
      await Promise.all(Array.from({ length: 50 }, async (_, n) => {
        const { position } = await store.append(`license-${n}`, NO_STREAM, [anEvent()]);
        expect(await store.head()).toBeGreaterThanOrEqual(position);
        expect(await store.readStream(`license-${n}`)).toHaveLength(1);
      }));
    });
  });

  it('reads a category stream by stream, where it can', async () => {
    if (!store.readByStream) return;
    for (const stream of ['license-b', 'licenses-x', 'license-a', 'order-a', 'license-b', 'license']) await store.append(stream, 'any', someEvents(2));
    const read: RecordedEvent[] = [];
    for (let page; (page = await store.readByStream('license', read.at(-1), 2 + (read.length % 2))).length > 0;) read.push(...page);
    expect(read.map(({ stream, revision }) => `${stream} ${revision}`)).toEqual(['license-a 0', 'license-a 1', 'license-b 0', 'license-b 1', 'license-b 2', 'license-b 3']);
  });

  describe('takes over the log of another store, where it can, and', () => {
    /** Events as a store with gaps between its positions would record them. */
    const recorded = (revisionsOf: readonly (readonly [stream: string, revision: number])[], after = 0): RecordedEvent[] => revisionsOf.map(([stream, revision], index) => ({
      ...anEvent({ seat: index, text: 'Grüße \u2028 \ud800', small: 1e-7 }), stream, revision, position: after + (index + 1) * 7,
      recordedAt: new Date(Date.UTC(2020, 0, 1) + index).toISOString(),
    }));
    const log = recorded([['license-a', 0], ['license-b', 0], ['license-a', 1], ['license-a', 2], ['product-c', 0]]);
    /** A store without `restore` passes. */
    const restoring = (title: string, test: (restore: (events: readonly RecordedEvent[]) => Promise<void>) => Promise<void>) => it(title, async () => {
      if (store.restore) await test((events) => store.restore?.(events) as Promise<void>);
    });

    restoring('keeps positions, revisions, ids and times, for readers and subscribers', async (restore) => {
      const early = follow();
      expect(await store.readStream('license-a')).toEqual([]);
      await restore(log.slice(0, 2));
      await restore(log.slice(2));
      expect(await store.head()).toBe(35);
      expect(await store.readAll(0)).toEqual(log);
      expect(await store.readAll(8)).toEqual(log.slice(1));
      expect(await allOf('license-a')).toEqual([log[0], log[2], log[3]]);
      const late = follow(20);
      await Promise.all([early.has(5), late.has(3)]);
      expect(early.events).toEqual(log);
      expect(late.events).toEqual(log.slice(2));
    });

    restoring('goes on from there as if it had recorded them itself', async (restore) => {
      await restore(log);
      const subscriber = follow(35);
      const next = await store.append('license-a', 2, [anEvent({ seat: 9 })]);
      expect(next).toMatchObject({ revision: 3, duplicate: false });
      expect(next.position).toBeGreaterThan(35);
      await subscriber.has(1);
      expect(positions(subscriber.events)).toEqual([next.position]);
      await expect(store.append('license-b', NO_STREAM, [anEvent()])).rejects.toMatchObject({ actual: 0 });
      expect(await store.append('license-a', 0, log.slice(2, 4))).toEqual({ revision: 2, position: 28, duplicate: true });
      await restore(recorded([['license-a', 4]], next.position));
      expect(await store.head()).toBe(next.position + 7);
    });

    restoring('takes nothing of events that are not the next ones', async (restore) => {
      await restore(log.slice(0, 3));
      const [next, last] = log.slice(3) as [RecordedEvent, RecordedEvent];
      for (const wrong of [
        log.slice(0, 3), [next, { ...last, position: next.position }], [last, next], [next, { ...last, position: 3 }],
        [next, { ...last, revision: 1 }], [{ ...next, revision: 3 }], [next, { ...last, stream: 'license-a', revision: 2 }],
        [next, { ...last, stream: 'license-b', revision: 1, id: log[1]?.id as string }],
      ]) await expect(restore(wrong)).rejects.toThrow(/./);
      expect(await store.readAll(0)).toEqual(log.slice(0, 3));
      expect(await store.head()).toBe(21);
      await restore([next, last]);
      expect(await store.readAll(0)).toEqual(log);
    });

    restoring('does nothing when there are none', async (restore) => {
      await restore([]);
      expect(await store.head()).toBe(0);
    });

    if (reopen) {
      restoring('has them after a restart', async (restore) => {
        await restore(log);
        store = await reopen(store);
        expect(await store.readAll(0)).toEqual(log);
        expect(await store.append('license-b', 0, [anEvent()])).toMatchObject({ revision: 1, position: 36 });
      });
    }
  });

  describe('has subscriptions that', () => {
    it('start anywhere, and go on live', async () => {
      await store.append('license-a', NO_STREAM, someEvents(3));
      const [, second] = await store.readAll(0);
      const [fromStart, fromSecond] = [follow(), follow(second?.position)];
      await Promise.all([fromStart.has(3), fromSecond.has(1)]);
      await store.append('license-b', NO_STREAM, [anEvent({ seat: 3 })]);
      await Promise.all([fromStart.has(4), fromSecond.has(2)]);
      expect(seats(fromStart.events)).toEqual([0, 1, 2, 3]);
      expect(seats(fromSecond.events)).toEqual([2, 3]);
      expect(fromStart.events).toEqual(await store.readAll(0));
    });

    it('resume from the position that they have finished with', async () => {
      await store.append('license-a', NO_STREAM, someEvents(3));
      const before = follow();
      await before.has(3);
      await before.subscription.close();
      await store.append('license-a', 2, [anEvent({ seat: 3 })]);
      const after = follow(before.subscription.position);
      await after.has(1);
      expect(seats([...before.events, ...after.events])).toEqual([0, 1, 2, 3]);
    });

    it('see the positions in order, all of them, once, while eight writers append', async () => {
      const early = follow();
      const writers = Array.from({ length: 8 }, async (_, writer) => {
        for (let n = 0; n < 100; n++) await store.append(`license-${(writer + n) % 12}`, 'any', someEvents(1 + (n % 3)));
      });
      const late = follow();
      await Promise.all(writers);
      const all: RecordedEvent[] = [];
      for (let page; (page = await store.readAll(all.at(-1)?.position ?? 0)).length > 0;) all.push(...page);
      await Promise.all([early.has(all.length), late.has(all.length)]);
      expect(isRising(positions(all))).toBe(true);
      expect(positions(early.events)).toEqual(positions(all));
      expect(positions(late.events)).toEqual(positions(all));
      for (let n = 0; n < 12; n++) {
        const own = revisions(all.filter(({ stream }) => stream === `license-${n}`));
        expect(own).toEqual(own.map((_, index) => index));
      }
    });

    it.each([
      ['a category', [{ category: 'order' }], [1, 3]],
      ['types of a category', [{ category: 'license', types: ['SeatGiven'] }], [4]],
      ['both', [{ category: 'license', types: ['SeatGiven'] }, { category: 'order' }, { category: 'customer', bare: true }], [1, 3, 4]],
      ['types named in two places', [{ category: 'license', types: ['SeatTaken'] }, { category: 'license', types: ['SeatGiven'] }], [0, 2, 4]],
      ['a category of which some types are named again', [{ category: 'license' }, { category: 'license', types: ['SeatGiven'] }], [0, 2, 4]],
      ['nothing that happens', [{ category: 'licens' }], []],
    ] satisfies [string, Follows[], number[]][])('hand over what the subscriber follows: %s; and go past the rest', async (_, follows, expected) => {
      const write = async (stream: string, seat: number, type: string) => store.append(stream, 'any', [{ ...anEvent({ seat }), type }]);
      const seen: RecordedEvent[] = [];
      let passed = 0;
      const reached = Promise.withResolvers<void>();
      await write('license-a', 0, 'SeatTaken');
      await write('order-a', 1, 'SeatTaken');
      const subscription = store.subscribe(0, async (events, upTo, count) => {
        seen.push(...events);
        passed += count;
        if (upTo === await store.head() && passed === 5) reached.resolve();
      }, follows);
      followers.push(subscription);
      await write('license-b', 2, 'SeatTaken');
      await write('order-a', 3, 'SeatGiven');
      await write('license-a', 4, 'SeatGiven');
      await reached.promise;
      await subscription.close();
      expect(seats(seen)).toEqual(expected);
      expect(seen).toEqual((await store.readAll(0)).filter((__, seat) => expected.includes(seat)));
      expect(subscription.position).toBe(await store.head());
    });

    it('wait for a slow handler before the next batch', async () => {
      let running = 0;
      let most = 0;
      const seen: RecordedEvent[] = [];
      await new Promise<void>((resolve) => {
        followers.push(store.subscribe(0, async (batch) => {
          most = Math.max(most, ++running);
          await new Promise(setImmediate);
          seen.push(...batch);
          running--;
          if (seen.length === 20) resolve();
        }));
        for (let n = 0; n < 20; n++) void store.append(`license-${n}`, NO_STREAM, [anEvent({ seat: n })]);
      });
      expect(most).toBe(1);
      expect(isRising(positions(seen))).toBe(true);
    });

    it.each(['throws', 'rejects'])('hand the same batch over again when the handler %s, and hold nobody else up', async (how) => {
      const batches: (readonly RecordedEvent[])[] = [];
      const good = follow();
      const recovered = new Promise<void>((resolve) => {
        followers.push(store.subscribe(0, (batch) => {
          batches.push(batch);
          if (batches.length === 3) return resolve();
          if (how === 'throws') throw new Error('handler');
          return Promise.reject(new Error('handler'));
        }));
      });
      await store.append('license-a', NO_STREAM, someEvents(2));
      await good.has(2);
      await store.append('license-a', 1, [anEvent({ seat: 2 })]);
      await good.has(3);
      await recovered;
      expect(batches[1]).toEqual(batches[0]);
      expect(batches[2]).toEqual(batches[0]);
      expect(positions(batches[0] ?? [])).toEqual(positions(good.events).slice(0, batches[0]?.length));
    });

    it('end only when the handler has', async () => {
      let finish = () => {};
      let finished = false;
      const started = new Promise<void>((resolve) => {
        followers.push(store.subscribe(0, async () => {
          resolve();
          await new Promise<void>((done) => (finish = done));
          finished = true;
        }));
      });
      await store.append('license-a', NO_STREAM, [anEvent()]);
      await started;
      let closed = false;
      const closing = (followers[0] as Subscription).close().then(() => (closed = true));
      await new Promise(setImmediate);
      expect({ closed, finished }).toEqual({ closed: false, finished: false });
      finish();
      await closing;
      expect(finished).toBe(true);
      expect((followers[0] as Subscription).position).toBe(await store.head());
    });

    it('are silent once closed', async () => {
      const one = follow();
      const other = follow();
      await store.append('license-a', NO_STREAM, [anEvent()]);
      await Promise.all([one.has(1), other.has(1)]);
      await one.subscription.close();
      await store.append('license-a', 0, [anEvent()]);
      await other.has(2);
      expect(one.events).toHaveLength(1);
    });
  });

  if (reopen) {
    it('is the same after a restart', async () => {
      const first = someEvents(2);
      const answer = await store.append('license-a', NO_STREAM, first);
      const before = await store.readAll(0);
      store = await reopen(store);
      expect(await store.readAll(0)).toEqual(before);
      expect(await store.head()).toBe(answer.position);
      expect(await store.append('license-a', NO_STREAM, first)).toEqual({ ...answer, duplicate: true });
      await expect(store.append('license-a', NO_STREAM, [anEvent()])).rejects.toMatchObject({ actual: 1 });
      const { position } = await store.append('license-a', 1, [anEvent({ seat: 2 })]);
      expect(position).toBeGreaterThan(answer.position);
      const after = follow(answer.position);
      await after.has(1);
      expect(seats(after.events)).toEqual([2]);
    });

    it('reads all of a stream after a restart, whatever was read of it first', async () => {
      await store.append('license-a', NO_STREAM, someEvents(7));
      store = await reopen(store);
      expect(await store.readStream('license-a', { from: 7 })).toEqual([]);
      expect(revisions(await allOf('license-a', 3))).toEqual([0, 1, 2, 3, 4, 5, 6]);
    });
  }
});
