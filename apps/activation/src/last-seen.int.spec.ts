import { expect, it } from '@jest/globals';
import { addSeconds, runIn, systemContext, type ActivationId, type Clock } from '@keyledger/kernel';
import { StateDatabases } from '@keyledger/read-models';
import { onEveryDialect } from '@keyledger/read-models/contract';
import { idOf } from '@keyledger/testing';
import { LastSeenLedger, lastSeenTable } from './last-seen.ts';

const start = '2026-11-21T12:00:00.000Z';
const [one, other] = [idOf('act', 1), idOf('act', 2)];

onEveryDialect('When instances were last heard of', ({ open }) => {
  it('is never put back by a process that heard of them earlier, and writes later', async () => {
    const database = await open({ migrations: [lastSeenTable], kind: 'state' });
    const [early, late] = [0, 1].map(() => new LastSeenLedger(new StateDatabases([['production', database]]), { now: () => start } as Clock, (error) => { throw error; })) as [LastSeenLedger, LastSeenLedger];
    const within = <T>(work: () => T): T => runIn(systemContext('production', start), work);
    const see = (ledger: LastSeenLedger, id: ActivationId, seconds: number) => void within(() => ledger.see(id, addSeconds(start, seconds)));
    see(early, one, 1);
    see(early, other, 3);
    see(late, one, 2);
    see(late, other, 2);
    await late.close();
    await early.close();
    expect(await within(() => late.of([one, other]))).toEqual({ [one]: addSeconds(start, 2), [other]: addSeconds(start, 3) });
  });
});
