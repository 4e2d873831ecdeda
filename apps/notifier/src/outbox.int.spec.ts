import { describe, expect, it, jest } from '@jest/globals';
import type { Database } from '@keyledger/read-models';
import { onEveryDialect } from '@keyledger/read-models/contract';
import { notifierSchema } from './index.ts';
import { giveUpSome, MAIL, Outbox } from './outbox.ts';

const now = '2026-11-22T12:00:00.000Z';
const ms = Date.parse(now);

onEveryDialect('The outbox', ({ dialect, open }) => {
  /** An outbox of endpoints that are `well`, `disabled` and `deleted`, and of mail. */
  async function start() {
    const database = await open({ kind: 'state', migrations: notifierSchema.state });
    const endpoints = [['well', 1, 0], ['disabled', 0, 0], ['deleted', 1, 1]].map((own) => [...own, 0, '["*"]', now]);
    await database.batch([{ sql: 'insert into notifier_endpoints (id, enabled, deleted, revision, events, created_at) values (?, ?, ?, ?, ?, ?)', many: endpoints }]);
    return { database, outbox: new Outbox({ here: () => database } as never) };
  }
  const put = (database: Database, target: string, count: number, status: string, nextAt: number) => database.run(
    `with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < ${count}) insert into notifier_outbox (id, target, type, timestamp, body, status, attempts, next_at, claimed_until)
      select '${target}-${status}-' || n, '${target}', 'x', '${now}', '{}', '${status}', 1, ${nextAt} + n, 0 from numbers`);

  it('counts ten thousand of what waits at most, and the oldest of all, but not what waits for an endpoint that is over', async () => {
    const { database, outbox } = await start();
    expect(await outbox.waiting(now)).toEqual({ pending: 0, lateMs: 0 });
    await put(database, 'disabled', 2, 'pending', ms - 90_000);
    await put(database, 'deleted', 2, 'pending', ms - 90_000);
    await put(database, 'well', 3, 'delivered', ms - 90_000);
    await put(database, 'well', 3, 'pending', ms + 60_000);
    expect(await outbox.waiting(now)).toEqual({ pending: 3, lateMs: 0 });
    await put(database, MAIL, 10_001, 'pending', ms - 60_001);
    expect(await outbox.waiting(now)).toEqual({ pending: 10_000, lateMs: 60_000 });
  });

  if (dialect === 'sqlite') describe('reads nothing of what is over', () => {
    it.each([
      ['to give up what waits', 1, (database: Database) => giveUpSome(database)],
      ['to count what waits', 2, (_: Database, outbox: Outbox) => outbox.waiting(now)],
      ['to find what is due', 1, (_: Database, outbox: Outbox) => outbox.dueTargets(now)],
    ] as const)('%s', async (_, times, work) => {
      const { database, outbox } = await start();
      const [run, batch] = [jest.spyOn(database, 'run'), jest.spyOn(database, 'batch')];
      await work(database, outbox);
      const [text, params] = run.mock.lastCall ?? [batch.mock.lastCall?.[0].at(-1)?.sql];
      const plan = (await database.run<{ detail: string }>(`explain query plan ${text}`, params)).rows.map(({ detail }) => detail);
      const ofPending = plan.filter((detail) => / o .*INDEX/.test(detail));
      expect([ofPending.length, ofPending.filter((detail) => !/INDEX notifier_outbox_due \(target=\?/.test(detail))]).toEqual([times, []]);
    });
  });

  if (dialect === 'postgres') it('looks for what waits for endpoints that are over along its index, however much waits for others', async () => {
    const { database } = await start();
    await database.run(`insert into notifier_outbox (id, target, type, timestamp, body, status, attempts, next_at, claimed_until)
      select n, 'well', 'x', '${now}', '{}', case when n % 5 = 0 then 'delivered' else 'pending' end, 1, ${ms} + n, 0 from generate_series(1, 20000) as n`);
    await database.run('analyze');
    const run = jest.spyOn(database, 'run');
    expect(await giveUpSome(database)).toBe(false);
    const [text, params] = run.mock.lastCall as [string, number[]];
    const plan = (await database.run(`explain ${text}`, params)).rows.map((row) => String(row['QUERY PLAN'])).filter((line) => /Scan.* notifier_outbox/.test(line));
    expect([plan.length, plan.filter((line) => !/Index Scan using notifier_outbox_(due|pkey) /.test(line))]).toEqual([2, []]);
    await put(database, 'disabled', 3, 'pending', ms);
    await put(database, 'deleted', 2, 'pending', ms);
    await giveUpSome(database);
    const { rows } = await database.run("select target, last_error from notifier_outbox where status = 'failed' order by target");
    expect(rows.map((row) => [row['target'], row['last_error']])).toEqual([...Array.from({ length: 2 }, () => ['deleted', 'the endpoint was deleted']), ...Array.from({ length: 3 }, () => ['disabled', 'the endpoint was disabled'])]);
  });

  if (dialect === 'postgres') it('counts what waits along its index, far more than usual though it may be for one endpoint', async () => {
    const { database, outbox } = await start();
    await database.run(`insert into notifier_endpoints (id, enabled, deleted, revision, events, created_at) select 'other-' || n, 1, 0, 0, '["*"]', '${now}' from generate_series(1, 20) as n`);
    await database.run(`insert into notifier_outbox (id, target, type, timestamp, body, status, attempts, next_at, claimed_until)
      select n, case when n % 10 > 0 then 'well' else 'other-' || 1 + n / 10 % 20 end, 'x', '${now}', '{}', case when n % 5 = 0 then 'pending' else 'delivered' end, 1, ${ms} + n, 0 from generate_series(1, 20000) as n`);
    await database.run('analyze');
    const batch = jest.spyOn(database, 'batch');
    expect(await outbox.waiting(now)).toEqual({ pending: 4_000, lateMs: 0 });
    const statements = batch.mock.lastCall?.[0] ?? [];
    const answers = await database.batch([...statements.slice(0, -1), { sql: `explain ${statements.at(-1)?.sql}` }]);
    const plan = answers.at(-1)?.rows.map((row) => String(row['QUERY PLAN'])) ?? [];
    const ofOutbox = plan.filter((line) => /notifier_outbox/.test(line));
    expect([ofOutbox.length, ofOutbox.filter((line) => !/Index (Only )?Scan using notifier_outbox_due/.test(line)), plan.filter((line) => /Sort|Join/.test(line))]).toEqual([2, [], []]);
  });
});
