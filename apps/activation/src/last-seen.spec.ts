import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { addSeconds, runIn, systemContext, type ActivationId, type Clock, type Instant } from '@keyledger/kernel';
import type { StateDatabases } from '@keyledger/read-models';
import { idOf } from '@keyledger/testing';
import { LastSeenLedger } from './last-seen.ts';

const start = '2026-11-21T12:00:00.000Z';
const [one, other] = [idOf('act', 1), idOf('act', 2)];

/** A database that is as slow, and fails as often, as it is told; nobody asks it but the ledger. */
class World {
  readonly rows = new Map<ActivationId, Instant>();
  readonly batches: (readonly (readonly [ActivationId, Instant])[])[] = [];
  readonly errors: unknown[] = [];
  fails = false;
  /** What a write waits for. */
  slow: Promise<void> = Promise.resolve();
  readonly #database = {
    batch: async (statements: readonly { many: World['batches'][number] }[]) => {
      const many = statements.flatMap((statement) => statement.many);
      this.batches.push(many);
      await this.slow;
      if (this.fails) throw new Error('not reachable');
      for (const [id, at] of many) this.rows.set(id, at);
    },
    run: async () => ({ rows: [...this.rows].map(([activation_id, last_seen_at]) => ({ activation_id, last_seen_at })) }),
  };
  readonly ledger = new LastSeenLedger({ here: () => this.#database } as unknown as StateDatabases, { now: () => start } as Clock, (error) => this.errors.push(error));

  see(id: ActivationId, seconds: number, environment = 'production'): Promise<void> | undefined {
    return runIn(systemContext(environment, start), () => this.ledger.see(id, addSeconds(start, seconds)));
  }

  seen(id: ActivationId): Promise<Instant | undefined> {
    return runIn(systemContext('production', start), async () => (await this.ledger.of([id]))[id]);
  }
}

describe('When instances were last heard of', () => {
  let world: World;
  beforeEach(() => {
    jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick'] });
    world = new World();
  });
  afterEach(async () => {
    await world.ledger.close();
    jest.useRealTimers();
  });

  it('is written once a second, for all that were heard of in it', async () => {
    for (let n = 0; n < 10; n++) world.see(n % 2 ? one : other, n);
    await jest.advanceTimersByTimeAsync(999);
    expect(world.batches).toEqual([]);
    await jest.advanceTimersByTimeAsync(1);
    // In the order of the rows, whatever came first.
    expect(world.batches).toEqual([[[one, addSeconds(start, 9)], [other, addSeconds(start, 8)]]]);
    await jest.advanceTimersByTimeAsync(5000);
    expect(world.batches).toHaveLength(1);
  });

  it('is written at once where the clock may be moved, by who comes during a flush as well', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    expect(world.see(one, 1)).toBeUndefined();
    world.slow = promise;
    const written = [world.see(one, 2, 'staging'), world.see(other, 3, 'staging')];
    resolve();
    await Promise.all(written);
    expect([...world.rows]).toEqual([[one, addSeconds(start, 2)], [other, addSeconds(start, 3)]]);
  });

  it('is written by one flush at a time, which ends whatever is heard of meanwhile', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    world.slow = promise;
    world.see(one, 1);
    for (let second = 1; second <= 5; second++) {
      await jest.advanceTimersByTimeAsync(1000);
      world.see(one, second + 1);
      world.see(other, second + 1);
    }
    expect(world.batches).toEqual([[[one, addSeconds(start, 1)]]]);
    resolve();
    await world.ledger.flush();
    expect(world.batches).toHaveLength(1);
    await jest.advanceTimersByTimeAsync(1000);
    expect(world.batches.slice(1)).toEqual([[[one, addSeconds(start, 6)], [other, addSeconds(start, 6)]]]);
  });

  it('waits for the next second when it cannot be written, and is told of once in each', async () => {
    world.fails = true;
    world.see(one, 1);
    world.see(other, 1);
    await jest.advanceTimersByTimeAsync(1000);
    world.see(one, 2);
    await jest.advanceTimersByTimeAsync(2000);
    expect([world.batches.length, world.errors.length]).toEqual([3, 3]);
    world.fails = false;
    await jest.advanceTimersByTimeAsync(1000);
    expect([...world.rows]).toEqual([[one, addSeconds(start, 2)], [other, addSeconds(start, 1)]]);
  });

  it('is the later moment, whoever heard of it: while one could not be written, or in another process', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    Object.assign(world, { slow: promise, fails: true });
    world.see(one, 1);
    const failing = world.ledger.flush();
    world.see(one, 2);
    resolve();
    await failing;
    expect(await world.seen(one)).toBe(addSeconds(start, 2));
    world.rows.set(one, addSeconds(start, 3));
    expect(await world.seen(one)).toBe(addSeconds(start, 3));
  });

  it('is known at every moment, also while it is being written', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    world.slow = promise;
    world.see(one, 1);
    expect(await world.seen(one)).toBe(addSeconds(start, 1));
    const flushed = world.ledger.flush();
    expect(await world.seen(one)).toBe(addSeconds(start, 1));
    world.see(one, 2);
    expect(await world.seen(one)).toBe(addSeconds(start, 2));
    resolve();
    await flushed;
    expect([await world.seen(one), world.rows.get(one)]).toEqual([addSeconds(start, 2), addSeconds(start, 1)]);
  });

  it('is written to the last when the process ends, also what is heard of while the last flush runs', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    world.slow = promise;
    world.see(one, 1);
    void world.ledger.flush();
    world.see(one, 2);
    const closed = world.ledger.close();
    resolve();
    await closed;
    expect(world.rows.get(one)).toBe(addSeconds(start, 2));
  });
});
