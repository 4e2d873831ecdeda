import { expect, it, jest } from '@jest/globals';
import { issued, License, openLease } from '@keyledger/domain';
import { newId, refuse, runIn, systemContext, type ActivationId } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { StateDatabases, type Database } from '@keyledger/read-models';
import { onEveryDialect } from '@keyledger/read-models/contract';
import { activate, assign, idOf, issue, laptop, scenarios } from '@keyledger/testing';
import { LeaseLedger, leaseTables, type Kept } from './leases.ts';

const now = '2026-11-21T12:00:00.000Z';
const { story, stateOf } = scenarios(License, now);
const licenseId = idOf('lic');
const lease = openLease(issued(stateOf(story(issue(), assign(), activate(laptop)))), laptop.activationId, undefined, now);

/** As many processes as are asked for, on the same rows. */
async function ledgers(database: Database, count: number): Promise<readonly LeaseLedger[]> {
  const keyring = await Keyring.open({ masterKey: new Uint8Array(32), environment: 'production', dataKeys: new MemoryDataKeys() });
  await keyring.prepare([licenseId], true);
  return Array.from({ length: count }, () => new LeaseLedger(new StateDatabases([['production', database]]), new Keyrings([['production', keyring]])));
}

const within = <T>(work: () => T): T => runIn(systemContext('production', now), work);

/** One more beat of the box; answers how many it has had. */
function beat(ledger: LeaseLedger, id: ActivationId): Promise<number> {
  return within(() => ledger.change(id, (kept) => {
    const seq = (kept?.lease.seq ?? -1) + 1;
    const keep: Kept = { licenseId, lease: { ...lease, seq }, token: null, toldSeq: 0, agentVersion: null, lookAt: null };
    return { answer: seq + 1, keep };
  }));
}

onEveryDialect('The ledger of leases', ({ open }) => {
  const table = () => open({ migrations: leaseTables, kind: 'state' });

  it('counts every beat of one box, however many come at once and to whichever process', async () => {
    const both = await ledgers(await table(), 2);
    const counts = await Promise.all(Array.from({ length: 10 }, (_, n) => beat(both[n % 2] as LeaseLedger, laptop.activationId)));
    expect(counts.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  it('answers no beat that could not be written', async () => {
    const database = await table();
    const [ledger] = (await ledgers(database, 1)) as [LeaseLedger];
    await beat(ledger, laptop.activationId);
    const write = jest.spyOn(database, 'run').mockRejectedValueOnce(refuse('UNAVAILABLE'));
    await expect(beat(ledger, laptop.activationId)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    write.mockRestore();
    expect(await beat(ledger, laptop.activationId)).toBe(2);
  });

  it('refuses nothing for a row that it only remembers', async () => {
    const [ledger] = (await ledgers(await table(), 1)) as [LeaseLedger];
    await beat(ledger, laptop.activationId);
    const looks: boolean[] = [];
    const refusing = (always: boolean) => within(() => ledger.change(laptop.activationId, (_, isCertain) => {
      looks.push(isCertain);
      if (always || !isCertain) throw refuse('STALE_SEQUENCE');
      return { answer: 'as the row is' };
    }));
    expect(await refusing(false)).toBe('as the row is');
    await expect(refusing(true)).rejects.toMatchObject({ code: 'STALE_SEQUENCE' });
    expect(looks).toEqual([false, true, false, true]);
  });

  it('has two processes write the same boxes in opposite order without waiting for each other', async () => {
    const [one, other] = (await ledgers(await table(), 2)) as [LeaseLedger, LeaseLedger];
    const boxes = within(() => Array.from({ length: 400 }, (_, n) => newId('act', n)));
    for (let round = 0; round < 5; round++) {
      await Promise.all([...boxes.map((id) => beat(one, id)), ...boxes.toReversed().map((id) => beat(other, id))]);
    }
    expect(await Promise.all(boxes.map((id) => beat(one, id)))).toEqual(boxes.map(() => 11));
  });
});
