import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { issued, License, type TermsInput } from '@keyledger/domain';
import { refuse, runIn, systemContext, type Instant, type LicenseId } from '@keyledger/kernel';
import type { MessageClient } from '@keyledger/messaging';
import { idOf, issue, scenarios } from '@keyledger/testing';
import { UseInView } from './usage.ts';

const now = '2026-03-12T12:00:00.000Z';
const { story, stateOf } = scenarios(License, now);
const known = (n: number, terms: TermsInput) => ({ state: issued(stateOf(story(issue({ licenseId: idOf('lic', n), terms })))), revision: 0 });
const licenses = [1, 2].map((n) => known(n, { features: { calls: { limit: 100, per: 'day' } } }));
const capped = (n = 1) => licenses[n - 1];
const use = (today: number) => ({ calls: { today, month: today, last: { gauge: null, day: 0, month: 0 } } });

describe('What is used of a license, in verdicts', () => {
  const asked: (readonly LicenseId[])[] = [];
  let answer: () => Promise<unknown>;
  let view: UseInView;
  const of = (license: Parameters<UseInView['of']>[0], at: Instant = now) => runIn(systemContext('production', at), () => view.of(license));
  beforeEach(() => {
    jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick'] });
    asked.length = 0;
    answer = async () => Object.fromEntries((asked.at(-1) ?? []).map((id) => [id, use(asked.length)]));
    view = new UseInView({ send: (_type: unknown, { licenseIds }: { licenseIds: readonly LicenseId[] }) => (asked.push(licenseIds), answer()) } as unknown as MessageClient);
  });
  afterEach(() => void jest.useRealTimers());

  it('is nobody’s concern without caps and quotas', () => {
    expect(of(known(1, { features: { export: true, projects: 5 } }))).toBeUndefined();
    expect(of(undefined)).toBeUndefined();
    expect(asked).toEqual([]);
  });

  it('is asked for once by all that wait, and answered from memory after that', async () => {
    expect(await Promise.all([of(capped(1)), of(capped(2)), of(capped(1))])).toEqual([use(1), use(1), use(1)]);
    expect(asked).toEqual([[idOf('lic', 1), idOf('lic', 2)]]);
    expect(of(capped(1))).toEqual(use(1));
    expect(asked).toHaveLength(1);
  });

  it('is asked for again in the background after a second, while nobody waits', async () => {
    await of(capped());
    jest.advanceTimersByTime(1_000);
    expect([of(capped()), of(capped())]).toEqual([use(1), use(1)]);
    await new Promise((resolve) => setImmediate(resolve));
    expect(asked).toHaveLength(2);
    expect(of(capped())).toEqual(use(2));
  });

  it('is asked for at once when the license names other meters than it did', async () => {
    await of(capped());
    const edited = known(1, { features: { calls: { limit: 100, per: 'day' }, reads: { limit: 5, per: 'month' } } });
    expect(await of(edited)).toEqual(use(2));
    expect(of(edited)).toEqual(use(2));
    expect(asked).toHaveLength(2);
  });

  it('is never shown when it is ten seconds old, or of another day', async () => {
    await of(capped());
    jest.advanceTimersByTime(10_000);
    expect(await of(capped())).toEqual(use(2));
    expect(await of(capped(), '2026-03-13T00:00:00.000Z')).toEqual(use(3));
  });

  it('is left out when nobody can be asked: that locks nobody out', async () => {
    await of(capped());
    answer = async () => {
      throw refuse('UNAVAILABLE');
    };
    jest.advanceTimersByTime(5_000);
    expect(of(capped())).toEqual(use(1));
    jest.advanceTimersByTime(10_000);
    expect(await of(capped(2))).toBeUndefined();
    expect(await of(capped())).toBeUndefined();
    const before = asked.length;
    expect([of(capped()), asked.length]).toEqual([undefined, before]);
    expect(await of(capped(), '2026-03-13T00:00:00.000Z')).toBeUndefined();
  });
});
