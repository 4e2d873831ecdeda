import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { SqliteEventStores, type EventStore, type Position } from '@keyledger/event-store';
import { addSeconds } from '@keyledger/kernel';
import { EnvironmentClocks } from './clocks.ts';

const names = ['production', 'staging', 'qa'];
const DAY = 86_400_000;

describe('The clocks of a process', () => {
  let folder: string;
  let stores: SqliteEventStores;
  let control: EventStore;
  const opened: EnvironmentClocks[] = [];

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'keyledger-clocks-'));
    stores = await SqliteEventStores.open({ control: join(folder, 'events.db') });
    control = stores.of('control');
  });
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((clocks) => clocks.close()));
    await stores.close();
    rmSync(folder, { recursive: true });
  });

  const put = (environment: string, days: number) =>
    control.append(`environment-${environment}`, 'any', [{ id: crypto.randomUUID(), type: 'ClockSet', data: { now: '', aheadMs: days * DAY }, metadata: {} }]);
  const open = async (store = control) => {
    const clocks = await EnvironmentClocks.open(store, names);
    opened.push(clocks);
    return clocks;
  };
  const daysAhead = (clocks: EnvironmentClocks, environment: string) => Math.round((Date.parse(clocks.now(environment)) - Date.now()) / DAY) + 0; // and not -0

  it('show real time where nothing was decided', async () => {
    const clocks = await open();
    for (const name of names) {
      expect([clocks.now(name) >= addSeconds(new Date().toISOString(), -1), clocks.now(name) <= new Date().toISOString()]).toEqual([true, true]);
      expect(clocks.current(name)).toBeUndefined();
    }
  });

  it('follow what is decided, each environment by itself, as soon as it is stored', async () => {
    const clocks = await open();
    await put('staging', 30);
    expect(clocks.current('staging')).toBeUndefined();
    expect(names.map((name) => daysAhead(clocks, name))).toEqual([0, 30, 0]);
    await put('staging', 400);
    expect(daysAhead(clocks, 'staging')).toBe(400);
  });

  it('know at the start what was decided before, the last of it', async () => {
    for (let days = 1; days <= 1_200; days += 1) await put('staging', days);
    expect(daysAhead(await open(), 'staging')).toBe(1_200);
  });

  it('of a test environment wait until they have heard; that of production does not', async () => {
    const news = Promise.withResolvers<void>();
    const remote = {
      ...bound(control),
      head: async () => control.head(),
      subscribe: (after: Position, handler: Parameters<EventStore['subscribe']>[1]) => {
        void news.promise.then(async () => handler(await control.readAll(after), await control.head(), 1));
        return { position: after, close: async () => undefined };
      },
    } as EventStore;
    const clocks = await open(remote);
    await put('staging', 30);
    const order: string[] = [];
    const waiting = clocks.current('staging')?.then(() => order.push(`staging is ${daysAhead(clocks, 'staging')} days ahead`));
    expect([clocks.current('production'), clocks.current('control')]).toEqual([undefined, undefined]);
    await new Promise(setImmediate);
    order.push(`known: ${daysAhead(clocks, 'staging')}`);
    news.resolve();
    await waiting;
    expect(order).toEqual(['known: 0', 'staging is 30 days ahead']);
  });
});

const bound = (store: EventStore) => ({ readStream: store.readStream.bind(store), readAll: store.readAll.bind(store) });
