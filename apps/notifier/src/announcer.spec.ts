import { expect, it, jest } from '@jest/globals';
import type { Handler, RecordedEvent } from '@keyledger/event-store';
import { addSeconds, environments, systemClock, type Instant } from '@keyledger/kernel';
import { idOf, until } from '@keyledger/testing';
import { Announcers } from './announcer.ts';
import { NotifierModule } from './notifier.module.ts';

const begin = new Date().toISOString();
const issued = (position: number, stream = `license-${position}`, occurredAt: Instant = begin): RecordedEvent =>
  ({ id: `${position}`, stream, revision: 0, position, type: 'LicenseIssued', data: {}, metadata: { occurredAt, actor: { type: 'system', id: 'keyledger' } }, recordedAt: begin });

/**
 * Follows a log by hand, for endpoints that hear of new licenses, if they are enabled. `tell` reads a license; `put` are the positions of what has been put into the outbox,
 * `batches` the transactions that were begun: for which endpoint each delivery is, and what else is written.
 */
async function start(tell: (event: RecordedEvent) => Promise<void> = async () => undefined, enabled: readonly boolean[] = [true]) {
  const endpoints = enabled.map((is, n) => ({ position: 1, mails_after: 1, id: idOf('whk', n + 1), revision: 0, enabled: is ? 1 : 0, events: '["license.issued"]', created_at: begin }));
  const put: number[] = [];
  const batches: { readonly targets: readonly string[]; readonly others: readonly string[]; readonly reached: readonly unknown[] }[] = [];
  const full = { at: -1 };
  const followers: Handler[] = [];
  const unread: RecordedEvent[] = [];
  const store = {
    head: () => unread.at(-1)?.position ?? 1, readAll: async (after: number) => unread.filter(({ position }) => position > after),
    subscribe: (_: number, follow: Handler) => followers.push(follow) && { close: async () => undefined },
  };
  const database = {
    run: async (sql: string) => ({ rows: sql.includes('mails_after') ? endpoints : [], changes: 0 }),
    batch: async (statements: readonly { sql: string; many: string[][]; params?: readonly unknown[] }[]) => {
      const ofOutbox = statements.filter(({ sql }) => sql.includes('notifier_outbox'));
      batches.push({ targets: ofOutbox.flatMap(({ many }) => many.map((row) => row[1] as string)), others: statements.flatMap(({ sql }) => /into (notifier_endpoints|reactions)/.exec(sql)?.[1] ?? []), reached: statements.flatMap(({ sql, params }) => (sql.includes('into reactions') ? [params?.[1]] : [])) });
      if (batches.length === full.at) throw new Error('the disk is full');
      for (const { many } of ofOutbox) put.push(...many.map((row) => (JSON.parse(row[4] as string) as { data: { n: number } }).data.n));
    },
  };
  const told = async (event: RecordedEvent) => {
    await tell(event);
    return [{ type: 'license.issued', data: { n: event.position } }];
  };
  const [onEach, ignore] = [<T>(one: object) => ({ of: () => one }) as T, () => undefined];
  const sources = { byCategory: { license: { table: { LicenseIssued: { types: ['license.issued'] } }, tell: told } } } as never;
  const announcers = await Announcers.start({ events: onEach(store), databases: onEach(database), sources, clock: systemClock, log: { warn: ignore, error: ignore } as never, mailsOf: () => ignore, wake: ignore, forget: ignore });
  return { follow: async (events: readonly RecordedEvent[]) => followers[0]?.(events, events.at(-1)?.position ?? 0, events.length), put, batches, full, unread, announcers, close: () => announcers.close() };
}

it('The announcer reads many licenses together, tells of them in the order of the log, and reads none for what is no news', async () => {
  const read: number[] = [];
  let [running, most] = [0, 0];
  const { follow, put } = await start(async ({ position }) => {
    read.push(position);
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, position % 3));
    running -= 1;
  });
  const positions = Array.from({ length: 250 }, (_, n) => n + 3);
  await follow([issued(2, 'license-old', addSeconds(begin, -3600)), ...positions.map((position) => issued(position))]);
  expect(most).toBe(100);
  expect([read, put]).toEqual([positions, positions]);
});

it('The announcer tries a stream that cannot be read six times, whatever else of it can be read, and then tells the rest', async () => {
  const { follow, put } = await start(async ({ position }) => {
    if (position > 2 && position < 9) throw new Error('unreadable');
  });
  const page = [2, 3, 4, 5, 6, 7, 8].map((position) => issued(position, 'license-broken')).concat(issued(9));
  for (let n = 1; n < 6; n++) await expect(follow(page)).rejects.toThrow('unreadable');
  await follow(page);
  expect(put).toEqual([2, 9]);
  // What is known to be unreadable keeps nothing waiting again.
  await follow([issued(4, 'license-broken')]);
});

it('The announcer puts much into the outbox some hundred deliveries at a time, has read the log with the last of them, and begins again where one fails', async () => {
  const { follow, put, batches, full } = await start(undefined, [true, true, true]);
  const page = Array.from({ length: 200 }, (_, n) => issued(n + 2));
  full.at = 2;
  await expect(follow(page)).rejects.toThrow('the disk is full');
  await follow(page);
  expect(batches.map(({ targets, others }) => [targets.length, others])).toEqual([[250, []], [250, []], [250, []], [250, []], [100, ['reactions']]]);
  expect(put.slice(250)).toEqual(page.flatMap(({ position }) => [position, position, position]));
});

it('The announcer tells two thousand endpoints of a hundred events', async () => {
  const { follow, put } = await start(undefined, Array.from({ length: 2_000 }, () => true));
  await follow(Array.from({ length: 100 }, (_, n) => issued(n + 2)));
  expect(put.length).toBe(200_000);
}, 20_000);

it('The announcer ends while it has much to put into the outbox, and has not read the log then', async () => {
  const { follow, batches, close } = await start(undefined, Array.from({ length: 1_000 }, () => true));
  const following = follow(Array.from({ length: 100 }, (_, n) => issued(n + 2)));
  await until(() => batches.length > 1);
  await close();
  await following;
  expect([batches.length < 400, batches.flatMap(({ reached }) => reached)]).toEqual([true, [1]]);
});

it.each([['was disabled before', false], ['this process knows as enabled, though another one may have read on to its being disabled', true]])(
  'The announcer puts what an endpoint is sent that %s into the outbox together with its being enabled, so that it is not given up before', async (_, was) => {
    const { follow, batches } = await start(undefined, [true, was, true]);
    const back = idOf('whk', 2);
    const changed = (position: number, revision: number, type: string) => ({ ...issued(position, `webhook-${back}`), revision, type, metadata: { ...issued(position).metadata, schema: 1 } }) as RecordedEvent;
    const disabled = was ? [changed(2, 1, 'WebhookEndpointDisabled')] : [];
    await follow([...disabled, changed(3, 2, 'WebhookEndpointEnabled'), ...Array.from({ length: 1_100 }, (_, n) => issued(n + 4))]);
    const tables = [...disabled.map(() => 'notifier_endpoints'), 'notifier_endpoints', 'reactions'];
    expect(batches.map(({ targets, others }) => [targets.length, targets.filter((target) => target === back).length, others])).toEqual([...Array.from({ length: 8 }, () => [250, 0, []]), [1_300, 1_100, tables]]);
  });

it('What is not even queued counts as late, as long as the event has been waiting to be read', async () => {
  jest.useFakeTimers({ now: Date.parse(begin) + 70_000 });
  const { follow, unread, announcers } = await start();
  const outbox = jest.fn();
  const [ignore, waiting] = [() => undefined, async () => ({ pending: 2, lateMs: 5_000 })];
  const counted = async () => {
    new NotifierModule({} as never, announcers, { begin: ignore } as never, { waiting } as never, {} as never, undefined, systemClock, { outbox } as never, { warn: ignore } as never).onApplicationBootstrap();
    await jest.advanceTimersByTimeAsync(15_000);
    jest.clearAllTimers();
    return outbox.mock.calls.findLast(([of]) => of === environments[0]);
  };
  unread.push(issued(2));
  const late = await counted();
  await follow([issued(2)]);
  expect([late, await counted()]).toEqual([[environments[0], 2, 85], [environments[0], 2, 5]]);
  jest.useRealTimers();
});

it('What was cut short is resumed though counting all that waits takes too long', () => {
  jest.useFakeTimers();
  const replay = jest.fn();
  const [ignore, waiting] = [() => undefined, () => Promise.reject(new Error('canceling statement due to statement timeout'))];
  new NotifierModule({} as never, { replay } as never, { begin: ignore } as never, { waiting } as never, {} as never, undefined, systemClock, {} as never, { warn: ignore } as never).onApplicationBootstrap();
  jest.advanceTimersByTime(15_000);
  jest.useRealTimers();
  expect(replay).toHaveBeenCalledTimes(1);
});
