import { describe, expect, it, jest } from '@jest/globals';
import type { EventStore, Handler, Position, RecordedEvent } from '@keyledger/event-store';
import { PerEnvironment, systemClock } from '@keyledger/kernel';
import type { Database } from './database.ts';
import { Reaction } from './reaction.ts';
import { ReadIndex, type View } from './read-index.ts';

class TestView implements View {
  position = 0;
  readonly #listeners: (() => void)[] = [];

  onAdvance(listener: () => void): void {
    this.#listeners.push(listener);
  }

  advance(position: Position): void {
    this.position = position;
    for (const listener of this.#listeners) listener();
  }
}

/** A store whose head is asked for over a network: answers are given by the spec, one by one. */
class RemoteHead {
  readonly asked: { answer(position: Position): void; fail(): void }[] = [];

  head(): Promise<Position> {
    const { promise, resolve, reject } = Promise.withResolvers<Position>();
    this.asked.push({ answer: resolve, fail: () => reject(new Error('connection lost')) });
    return promise;
  }
}
const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('A read index of an embedded store', () => {
  it('has nothing to wait for when the view is there', () => {
    const view = new TestView();
    const index = new ReadIndex({ head: () => 7 }, view);
    view.advance(7);
    expect([index.isCurrent(), index.current()]).toEqual([true, undefined]);
  });

  it('waits for exactly what had been appended before', async () => {
    const view = new TestView();
    let head = 7;
    const index = new ReadIndex({ head: () => head }, view);
    const done: string[] = [];
    const first = index.current()?.then(() => done.push('first'));
    head = 9;
    const second = index.current()?.then(() => done.push('second'));
    view.advance(6);
    await turn();
    expect([done, index.isCurrent()]).toEqual([[], false]);
    view.advance(8);
    await first;
    expect(done).toEqual(['first']);
    view.advance(9);
    await second;
    expect(done).toEqual(['first', 'second']);
  });

  it('refuses when the view does not come in time', async () => {
    jest.useFakeTimers();
    try {
      const index = new ReadIndex({ head: () => 1 }, new TestView());
      const waiting = index.current();
      jest.advanceTimersByTime(999);
      const outcome = Promise.race([waiting?.catch((refusal) => refusal), Promise.resolve('still waiting')]);
      expect(await outcome).toBe('still waiting');
      jest.advanceTimersByTime(1);
      await expect(waiting).rejects.toMatchObject({ code: 'READ_MODEL_BEHIND', status: 503 });
    } finally {
      jest.useRealTimers();
    }
  });
});

describe('A read index of a remote store', () => {
  it('never relies on an answer that may be older than the newcomer', async () => {
    const store = new RemoteHead();
    const view = new TestView();
    const index = new ReadIndex(store, view);
    view.advance(5);
    const done: string[] = [];
    const early = index.current()?.then(() => done.push('early'));
    const late = Promise.all(Array.from({ length: 50 }, () => index.current()?.then(() => done.push('late'))));
    store.asked[0]?.answer(5);
    await early;
    await turn();
    expect([done, store.asked.length]).toEqual([['early'], 2]);
    store.asked[1]?.answer(6);
    await turn();
    expect(done).toEqual(['early']);
    view.advance(6);
    await late;
    expect([done.length, store.asked.length]).toEqual([51, 2]);
  });

  it('asks once for all who begin together', async () => {
    const store = new RemoteHead();
    const index = new ReadIndex(store, new TestView());
    index.isCurrent();
    store.asked[0]?.answer(0);
    await turn();
    const all = Promise.all(Array.from({ length: 12 }, () => index.current()));
    await turn();
    expect(store.asked.length).toBe(2);
    store.asked[1]?.answer(0);
    await all;
  });

  it('refuses, and asks again the next time, when the store cannot be asked', async () => {
    const store = new RemoteHead();
    const index = new ReadIndex(store, new TestView());
    const [first, second] = [index.current(), index.current()];
    store.asked[0]?.fail();
    await expect(first).rejects.toMatchObject({ code: 'READ_MODEL_BEHIND' });
    await turn();
    store.asked[1]?.answer(0);
    await second;
    const third = index.current();
    await turn();
    store.asked[2]?.answer(0);
    await third;
  });

  it('refuses when the store does not answer', async () => {
    const index = new ReadIndex(new RemoteHead(), new TestView(), 10);
    await expect(index.current()).rejects.toMatchObject({ code: 'READ_MODEL_BEHIND' });
    await expect(index.current()).rejects.toMatchObject({ code: 'READ_MODEL_BEHIND' });
  });

  it('is not current without asking', async () => {
    const store = new RemoteHead();
    const index = new ReadIndex(store, new TestView());
    expect([index.isCurrent(), index.isCurrent(), store.asked.length]).toEqual([false, false, 1]);
  });
});

it('A reaction goes on after what it has read, and not where the log ends before that', async () => {
  const startAt = async (position: Position) => {
    const store = { head: () => 7, subscribe: () => ({ position, close: async () => undefined }) } as Partial<EventStore> as EventStore;
    const database = { run: async () => ({ rows: [{ position }], changes: 0 }) } as Partial<Database> as Database;
    const all = { events: new PerEnvironment([['test', store]]), databases: new PerEnvironment([['test', database]]) };
    await (await Reaction.start({ name: 'test', ...all, clock: systemClock, follows: [], react: async () => undefined })).close();
  };
  await startAt(7);
  await expect(startAt(8)).rejects.toThrow('The event log of test ends at 7 but has been read up to 8: events are missing');
});

it('A reaction keeps how far it has come: once a second, at the latest when it ends, and never before it has reacted', async () => {
  const saved: unknown[] = [];
  let handle: Handler = () => undefined;
  const store = { head: () => 0, subscribe: (_: Position, handler: Handler) => ((handle = handler), { position: 0, close: async () => undefined }) } as Partial<EventStore> as EventStore;
  const database = { run: async (sql: string, params?: readonly unknown[]) => (sql.startsWith('insert') && saved.push(params?.[1]), { rows: [], changes: 0 }) } as Partial<Database> as Database;
  let fails = true;
  const react = async () => { if (fails) throw new Error('not now'); };
  const all = { events: new PerEnvironment([['test', store]]), databases: new PerEnvironment([['test', database]]) };
  const reaction = await Reaction.start({ name: 'test', ...all, clock: systemClock, follows: [], react });
  const later = jest.spyOn(Date, 'now').mockReturnValue(Date.now() + 1_000);
  await expect(handle([{ position: 1 } as RecordedEvent], 1, 1)).rejects.toThrow('not now');
  fails = false;
  for (const position of [1, 2]) await handle([{ position } as RecordedEvent], position, 1);
  expect(saved).toEqual([1]);
  await reaction.close();
  later.mockRestore();
  expect(saved).toEqual([1, 2]);
});
