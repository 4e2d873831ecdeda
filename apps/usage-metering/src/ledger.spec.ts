import { afterEach, describe, expect, it, jest } from '@jest/globals';
import type { ExplainUsage, UsageSeries } from '@keyledger/contracts';
import { derivedId, newCommandId, refuse, runIn, systemContext } from '@keyledger/kernel';
import { UsageLedger, type Arrival } from './ledger.ts';
import { ExplainQuery, Meters, SeriesQuery } from './usage.queries.ts';

const now = '2026-03-12T08:00:00.000Z';
const licenseId = derivedId('lic', newCommandId(), now);
const arrivals = (count: number): Arrival[] => Array.from({ length: count }, (_, n) => ({ licenseId, instanceId: 'act', id: `${n}`, meter: 'm', at: 0, micros: 1, receivedAt: 0 }));

/** A ledger whose transactions end when and as the test says. */
function ledger() {
  const transactions: PromiseWithResolvers<unknown>[] = [];
  const transaction = () => {
    const one = Promise.withResolvers<unknown>();
    transactions.push(one);
    return one.promise;
  };
  const writing = new UsageLedger({ of: () => ({ dialect: 'sqlite', transaction }) } as never);
  const record = (count = 1) => {
    const recorded = runIn(systemContext('staging', now), () => writing.record(arrivals(count)));
    recorded.catch(() => undefined);
    return recorded;
  };
  return { transactions, record };
}

describe('Readings on their way in', () => {
  it('are all refused where the database does not answer: nobody waits for the same once more', async () => {
    const { transactions, record } = ledger();
    const all = [record(), record(), record(), record(2_000)];
    transactions[0]?.reject(refuse('UNAVAILABLE'));
    expect((await Promise.allSettled(all)).map(({ status }) => status)).toEqual(Array(4).fill('rejected'));
    await expect(all[3]).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(transactions).toHaveLength(1);
    const next = record();
    transactions[1]?.resolve(new Set([`${licenseId} 0`]));
    expect(await next).toBe(1);
  });

  it('are no more than can be written soon', async () => {
    const { transactions, record } = ledger();
    const first = record(1_000);
    const others = Array.from({ length: 50 }, () => record(1_000));
    await expect(record(1)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    transactions[0]?.reject(refuse('UNAVAILABLE'));
    await Promise.allSettled([first, ...others]);
    const again = record(1_000);
    transactions[1]?.resolve(new Set());
    expect(await again).toBe(0);
  });
});

describe('Readings without end', () => {
  afterEach(() => void jest.restoreAllMocks());

  it.each(['hour', 'day', 'explain', 'explain a peak already found'] as const)('are read for almost as long as a gateway waits, so that it hears why they are not (%s)', async (what) => {
    let read = 0;
    const begun = performance.now();
    jest.spyOn(performance, 'now').mockImplementation(() => begun + read * 4_100);
    const at = Date.parse('2026-03-12T07:00:00.000Z');
    const lists = { run: async () => ({ rows: ++read > 20 || (read === 3 && what === 'explain a peak already found') ? [] : Array.from({ length: 2_000 }, (_, n) => ({ id: `${n}`, instance_id: 'act', at: at + read, micros: 1, received_at: at })) }) };
    // Not on the connection on which leases wait.
    const run = async () => ({ rows: [{ day: '2026-03-12', micros: 1, peak_micros: null, due_at: 0 }] });
    const turns: number[] = [];
    const reading = new UsageLedger({ here: () => ({ run, listing: (work: (database: typeof lists) => unknown, withinMs: number) => (turns.push(Math.round(withinMs)), work(lists)) }) } as never);
    const license = { activations: new Map(), terms: { features: {}, quotas: [] } };
    const parts = [{ load: async (_: string, view: (of: unknown) => unknown) => view(license) } as never, reading, new Meters(reading)] as const;
    const asked = runIn(systemContext('staging', now), () => (what.startsWith('explain') ? new ExplainQuery(...parts).execute({ licenseId, meter: 'm', day: '2026-03-12' } as ExplainUsage)
      : new SeriesQuery(...parts).execute({ licenseId, meter: 'm', from: '2026-03-12T00:00:00.000Z', to: now, bucket: what } as UsageSeries)));
    await expect(asked).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    // None waits longer for its turn than is left of all that time.
    expect(turns).toEqual([25_000, 23_900, 19_800, 15_700, 11_600, 7_500, 3_400]);
  });
});
