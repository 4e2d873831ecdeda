import { expect, it } from '@jest/globals';
import { onEveryDialect } from '@keyledger/read-models/contract';
import { failedIndex, notifierTables, withoutLeftovers } from './tables.ts';

onEveryDialect('The outbox of an older release', ({ open, place }) => {
  it('is left without the ids of deployments, which erasing a license would not reach', async () => {
    const here = place();
    const before = await open({ kind: 'state', migrations: [notifierTables, failedIndex], place: here });
    const bodies = ['license.activated', 'license.deactivated'].map((type) => ({ type, timestamp: '2026-11-22T12:00:00.000Z', data: { environment: 'test', deploymentId: 'dep-ada', note: 'ä "1.0"' } }));
    const put = "insert into notifier_outbox (id, target, type, timestamp, body, status, attempts, next_at, claimed_until) values (?, 'whe', ?, 'x', ?, 'failed', 1, 0, 0)";
    await before.batch([{ sql: put, many: bodies.map((body) => [body.type, body.type, JSON.stringify(body)]) }]);
    await before.close();
    const after = await open({ kind: 'state', migrations: [notifierTables, failedIndex, withoutLeftovers], place: here });
    const [activated, other] = bodies;
    const { rows } = await after.run<{ body: string }>('select body from notifier_outbox order by id');
    expect(rows.map(({ body }) => JSON.parse(body) as unknown)).toEqual([{ ...activated, data: { ...activated?.data, deploymentId: null } }, other]);
  });
});
