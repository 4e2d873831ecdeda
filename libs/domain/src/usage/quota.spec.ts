import { describe, expect, it } from '@jest/globals';
import { activate, assign, at, edit, issue, laptop, revoke, scenarios, sweep, type Story } from '@keyledger/testing';
import fc from 'fast-check';
import type { LicenseEvent } from '../license/events.ts';
import { License } from '../license/license.ts';
import { issued, meterState } from '../license/state.ts';
import type { Quota } from '../license/terms.ts';
import { verdictOf } from '../license/verdict.ts';
import { licenseView } from '../license/view.ts';
import { HOLD_MS } from './gauge.ts';
import { comparedAt, countsOf, daysOf, demandOf, dueAt, evidenceOf, isMetered, kindOf, metersNamed, monthlyMeters, nextLook, sumOf, useOf, withUse, type MeterDay } from './quota.ts';
import { bucketsBetween, counts, dayAfter, dayBefore, dayOf, endOf, firstOfNextMonth, isDay, microsOf, mustBeInReach, startOf, timeOf } from './reading.ts';

const meter = 'max_dp_cores';
const march = (day: number): string => `2026-03-${String(day).padStart(2, '0')}`;
const midnightAfter = (day: number): string => new Date(endOf(march(day))).toISOString();
const { story, given, stateOf } = scenarios(License, '2026-03-01T00:00:00.000Z');
const sold = (...quotas: Quota[]) => story(issue({ terms: { quotas } }), assign(), activate(laptop));
const licensed = sold({ meter, limit: 8 });
const gauge = (day: number, peak: number | null): MeterDay => ({ day: march(day), peak, sum: 0 });
const count = (day: string, sum: number): MeterDay => ({ day, peak: null, sum });
/** The day is over and compared at its end, or later. */
const demand = (history: Story<LicenseEvent>, days: readonly MeterDay[], day: number, late?: string) =>
  demandOf(issued(stateOf(history)), meter, days, { day: march(day), at: late ? Date.parse(late) : endOf(march(day)) });
type Demand = NonNullable<ReturnType<typeof demand>>;

describe('A day over the quota', () => {
  const tooMuch = demand(licensed, [gauge(12, 68)], 12) as Demand;
  const exceeded = story(licensed, at('2026-03-13T00:00:41.000Z', tooMuch));
  const graceOver = '2026-03-20T00:00:00.000Z';

  it('exceeds it from its end on, whenever somebody looks', () =>
    given(licensed, '2026-03-13T00:00:41.000Z').when(tooMuch).thenEvents({ type: 'QuotaExceeded', meter, peak: 68, limit: 8, graceEndsAt: graceOver }));
  it('warns for seven days, and then blocks writes, to the millisecond', () => {
    const ask = (history: typeof exceeded, instant: string) => verdictOf(stateOf(history), undefined, {}, instant);
    expect(ask(exceeded, '2026-03-19T23:59:59.999Z')).toMatchObject({ valid: true, code: 'QUOTA_EXCEEDED', enforcement: 'WARN', graceEndsAt: graceOver });
    expect(ask(story(exceeded, at(graceOver, sweep())), graceOver)).toMatchObject({ valid: true, code: 'RESTRICTED', enforcement: 'READ_ONLY', graceEndsAt: null });
    given(exceeded, '2026-03-19T23:59:59.999Z').when(sweep()).thenNothing();
    given(exceeded, graceOver).when(sweep()).thenEvents({ type: 'LicenseRestricted', meter });
  });
  it('blocks nothing until the last day of its grace has been compared, however long that takes', () => {
    for (const instant of [graceOver, '2026-03-23T00:00:00.000Z']) {
      expect(verdictOf(stateOf(exceeded), undefined, {}, instant)).toMatchObject({ valid: true, code: 'QUOTA_EXCEEDED', enforcement: 'WARN', graceEndsAt: null });
      expect(licenseView(issued(stateOf(exceeded)), instant).quotas).toMatchObject([{ state: 'exceeded', graceEndsAt: graceOver }]);
      const less = demand(exceeded, [gauge(12, 68), gauge(19, 8)], 19) as Demand;
      const met = story(exceeded, at(instant, less));
      expect(verdictOf(stateOf(met), undefined, {}, instant)).toMatchObject({ code: 'VALID', enforcement: 'FULL' });
      given(met, instant).when(sweep()).thenNothing();
    }
  });
  it('that is compared a second time changes nothing', () => given(exceeded).when(demand(exceeded, [gauge(12, 68)], 12) as Demand).thenNothing());
  it('followed by a lower one is forgiven at the next midnight, restricted or not', () => {
    for (const history of [exceeded, story(exceeded, at(graceOver, sweep()))]) {
      const less = demand(history, [gauge(12, 68), gauge(20, 8)], 20) as Demand;
      given(history, midnightAfter(20)).when(less).thenEvents({ type: 'QuotaRestored', meter, peak: 8, limit: 8 }, (license) => expect(meterState(issued(license), meter).state).toBe('normal'));
    }
  });
  it('followed by another one does not start the grace again', () =>
    given(exceeded, midnightAfter(13)).when(demand(exceeded, [gauge(12, 68), gauge(13, 70)], 13) as Demand).thenEvents({ type: 'QuotaExceeded', peak: 70, graceEndsAt: graceOver }));
  it('is forgiven at once by a higher quota', () => given(exceeded).when(edit({ quotas: [{ meter, limit: 68 }] })).thenEvents({ type: 'QuotaChanged' }, { type: 'QuotaRestored', meter }));
  it('is not forgiven by silence: nothing read is not less', () => expect(demand(exceeded, [gauge(12, 68), gauge(13, null)], 13)).toBeUndefined());
  it('that just fits asks for nothing', () => expect(demand(licensed, [gauge(12, 8)], 12)).toBeUndefined());
  it('of a meter without a quota asks for nothing', () => expect(demandOf(issued(stateOf(licensed)), 'users', [gauge(12, 68)], { day: march(12), at: endOf(march(12)) })).toBeUndefined());
  it('asks nothing of a revoked license', () => given(story(licensed, revoke())).when(tooMuch).thenNothing());
});

describe('Late readings', () => {
  it('of the last day that is over count as soon as they come, and the grace from then on', () => {
    const late = demand(licensed, [gauge(12, 68)], 12, '2026-03-13T15:00:00.000Z') as Demand;
    given(licensed, '2026-03-13T15:00:30.000Z').when(late).thenEvents({ type: 'QuotaExceeded', peak: 68, graceEndsAt: '2026-03-20T15:00:00.000Z' });
  });
  it('of an earlier day decide nothing: a later one has been compared', () => expect(demand(licensed, [gauge(10, 68), gauge(12, 5)], 10, '2026-03-13T15:00:00.000Z')).toBeUndefined());
  it('of an earlier day decide when there was nothing later', () => expect(demand(licensed, [gauge(10, 68), gauge(12, null)], 10, '2026-03-13T15:00:00.000Z')).toMatchObject({ type: 'ExceedQuota', peak: 68 }));
  it('may lower a peak, and what it led to is taken back', () => {
    const exceeded = story(licensed, at(midnightAfter(12), demand(licensed, [gauge(12, 68)], 12) as Demand));
    given(exceeded, '2026-03-13T15:00:00.000Z').when(demand(exceeded, [gauge(12, 6)], 12, '2026-03-13T15:00:00.000Z') as Demand).thenEvents({ type: 'QuotaRestored', peak: 6 });
  });
  it('are of the last day that was read, in whatever order the days come', () => expect(comparedAt(undefined, [gauge(12, 5), gauge(11, 68)], Date.parse('2026-03-13T15:00:00.000Z'))).toEqual({ value: 5, day: march(12) }));
  it('do not see the day that is still running', () => expect(comparedAt(undefined, [gauge(12, 5), gauge(13, 68)], Date.parse('2026-03-13T15:00:00.000Z'))).toEqual({ value: 5, day: march(12) }));
});

describe('A counter', () => {
  const perDay = sold({ meter, limit: 100, per: 'day' });
  const perMonth = sold({ meter, limit: 100, per: 'month' });
  it('is compared with all of the day', () => {
    expect(demand(perDay, [count(march(12), 101)], 12)).toMatchObject({ type: 'ExceedQuota', peak: 101, since: midnightAfter(12) });
    expect(demand(perDay, [count(march(11), 60), count(march(12), 60)], 12)).toBeUndefined();
  });
  it('is compared with all of the month so far', () => {
    expect(demand(perMonth, [count('2026-02-28', 90), count(march(1), 20), count(march(2), 80)], 2)).toBeUndefined();
    expect(demand(perMonth, [count(march(1), 20), count(march(2), 81)], 2)).toMatchObject({ type: 'ExceedQuota', peak: 101 });
    expect(demand(perMonth, [count(march(1), 20), count(march(2), 60), count(march(3), 60)], 2)).toBeUndefined();
  });
  it('takes late records into the month, from whatever day of it they are', () =>
    expect(demand(perMonth, [count(march(1), 50), count(march(12), 51)], 1, '2026-03-13T08:00:00.000Z')).toMatchObject({ type: 'ExceedQuota', peak: 101, since: '2026-03-13T08:00:00.000Z' }));
  it('starts again at nought, and that is looked at though nothing is counted', () => {
    const over = story(perDay, at(midnightAfter(12), demand(perDay, [count(march(12), 101)], 12) as Demand));
    expect(nextLook(issued(stateOf(over)), meter, march(12))).toBe(march(13));
    given(over, midnightAfter(13)).when(demand(over, [count(march(12), 101)], 13) as Demand).thenEvents({ type: 'QuotaRestored', peak: 0 });
    expect(nextLook(issued(stateOf(perMonth)), meter, '2026-12-30')).toBe('2027-01-01');
    expect(nextLook(issued(stateOf(licensed)), meter, march(12))).toBeUndefined();
    expect(nextLook(issued(stateOf(licensed)), 'users', march(12))).toBeUndefined();
    expect(nextLook(issued(stateOf(sold({ meter: 'users', limit: 1 }, { meter, limit: 9, per: 'day' }))), meter, march(12))).toBe(march(13));
  });
  it('adds up exactly', () => {
    expect(sumOf([count(march(1), 0.1), count(march(2), 0.2)], 'month', march(2))).toBe(0.3);
    expect([sumOf([count(march(1), 8.2)], 'day', march(1)), microsOf(8.2)]).toEqual([8.2, 8_200_000]);
  });
  it('is what a quota says, or else a cap per day or month; anything else is a gauge', () => {
    const license = issued(stateOf(story(issue({ terms: {
      features: { users: 5, calls: { limit: 9, per: 'day' }, pages: { limit: 9, per: 'day' } }, quotas: [{ meter, limit: 8 }, { meter: 'mails', limit: 50, per: 'day' }, { meter: 'pages', limit: 1 }],
    } }))));
    expect(['mails', 'calls', meter, 'users', 'pages', 'others', 'constructor', '__proto__'].map((name) => kindOf(license, name))).toEqual(['counter', 'counter', 'gauge', 'gauge', 'gauge', 'gauge', 'gauge', 'gauge']);
    expect(metersNamed(license.terms)).toEqual([meter, 'mails', 'pages', 'calls', 'pages']);
  });
  it('of the month is looked at on the day its limit is set', () => expect(monthlyMeters([{ meter, limit: 1 }, { meter: 'mails', limit: 1, per: 'day' }, { meter: 'letters', limit: 1, per: 'month' }])).toEqual(['letters']));
});

describe('What is shown of use', () => {
  const view = licenseView(issued(stateOf(story(issue({ terms: {
    features: { export: true, projects: 10, calls: { limit: 100, per: 'day' }, pages: { limit: 5, per: 'month' } },
    quotas: [{ meter, limit: 8 }, { meter: 'mails', limit: 50, per: 'day' }, { meter: 'letters', limit: 60, per: 'month' }],
  } })))), '2026-03-13T12:00:00.000Z');
  const now = Date.parse('2026-03-13T12:00:00.000Z');

  it('is what is left of each cap, and never less than nothing', () => {
    const use = { calls: useOf([count(march(13), 40), count(march(12), 7)], now), pages: useOf([count(march(1), 4), count(march(13), 3), count('2026-02-28', 9)], now) };
    expect(withUse(view, use).features).toEqual({
      export: true, projects: 10, calls: { limit: 100, per: 'day', used: 40, remaining: 60 }, pages: { limit: 5, per: 'month', used: 7, remaining: 0 },
    });
    expect(withUse(view, {}).features).toMatchObject({ calls: { used: 0, remaining: 100 } });
  });
  it('is a number of every cap, however high, and to the millionth', () => {
    const left = (limit: number, used: number) => withUse({ features: { calls: { limit, per: 'day' } }, quotas: [] }, { calls: useOf([count(march(13), used)], now) }).features['calls'];
    expect(left(Number.MAX_VALUE, 40)).toMatchObject({ used: 40, remaining: Number.MAX_VALUE });
    expect(left(0.3, 0.1)).toMatchObject({ remaining: 0.2 });
  });
  it('is the peak that each quota was last compared with', () => {
    const use = { [meter]: useOf([gauge(12, 6), gauge(13, 7)], now), mails: useOf([count(march(12), 31), count(march(13), 9)], now), letters: useOf([count(march(1), 5), count(march(12), 6), count(march(13), 9)], now) };
    expect(withUse(view, use).quotas).toMatchObject([{ meter, limit: 8, lastPeak: 6 }, { meter: 'mails', limit: 50, per: 'day', lastPeak: 31 }, { meter: 'letters', state: 'normal', lastPeak: 11 }]);
    expect(withUse(view, {}).quotas.map(({ lastPeak }) => lastPeak)).toEqual([null, null, null]);
  });
  it('is of a meter of that name and of nothing else, whatever the meter is called', () => {
    const named = ['constructor', 'toString', '__proto__'];
    const terms = { features: Object.fromEntries(named.map((name) => [name, { limit: 9, per: 'day' as const }])), quotas: named.map((name) => ({ meter: name, limit: 9, per: 'day' as const })) };
    const bare = licenseView(issued(stateOf(story(issue({ terms })))), '2026-03-13T12:00:00.000Z');
    const used = (use: Parameters<typeof withUse>[1]) => {
      const { features, quotas } = withUse(bare, use);
      return [Object.entries(features).map(([name, feature]) => [name, (feature as { used: number }).used]), quotas.map(({ lastPeak }) => lastPeak)];
    };
    expect(used({})).toEqual([named.map((name) => [name, 0]), [null, null, null]]);
    expect(used(Object.fromEntries(named.map((name) => [name, useOf([count(march(12), 4), count(march(13), 3)], now)])))).toEqual([named.map((name) => [name, 3]), [4, 4, 4]]);
  });
  it('is what the license says while it is exceeded', () => {
    const exceeded = story(licensed, at(midnightAfter(12), demand(licensed, [gauge(12, 68)], 12) as Demand));
    expect(withUse(licenseView(issued(stateOf(exceeded)), midnightAfter(13)), { [meter]: useOf([gauge(13, 3)], endOf(march(13)) + 1) }).quotas).toMatchObject([{ state: 'exceeded', lastPeak: 68 }]);
  });
  it('concerns only licenses with a quota or a cap', () => {
    const isIt = (terms: object) => isMetered(issued(stateOf(story(issue({ terms })))).terms);
    expect([isIt({}), isIt({ features: { a: true, b: 3 } }), isIt({ features: { a: { limit: 1, per: 'day' } } }), isIt({ quotas: [{ meter, limit: 1 }] })]).toEqual([false, false, true, true]);
  });
  it('goes into the log with a hundred instances at most, and the rest as one', () => {
    const readings = Array.from({ length: 130 }, (_, n) => ({ id: `r${n}`, instanceId: `act_${n}`, at: startOf(march(12)), micros: microsOf(2) }));
    const { instances, others } = evidenceOf(march(12), { value: 260, at: startOf(march(12)) }, readings) as { instances: object[]; others: object };
    expect([instances.length, instances[0], others]).toEqual([100, { instanceId: 'act_0', value: 2, id: 'r0', at: '2026-03-12T00:00:00.000Z' }, { instances: 30, value: 60 }]);
    expect(evidenceOf(march(12), { value: 202, at: startOf(march(12)) }, readings.slice(0, 101))).toMatchObject({ day: march(12), at: '2026-03-12T00:00:00.000Z', others: { instances: 1, value: 2 } });
    expect(evidenceOf(march(12), { value: 200, at: 0 }, readings.slice(0, 100))).not.toHaveProperty('others');
  });

  it('of a counter names who used most of it, and the others together', () => {
    const used = new Map(Array.from({ length: 130 }, (_, n) => [`act_${n}`, { micros: n * 1_000_000, records: n + 1 }] as const));
    const { from, day, instances, others } = countsOf(march(1), march(12), used) as { from: string; day: string; instances: object[]; others: object };
    expect([from, day, instances.length, instances[0], others]).toEqual([march(1), march(12), 100, { instanceId: 'act_129', value: 129, records: 130 }, { instances: 30, value: 435 }]);
    expect(countsOf(march(1), march(12), new Map([...used].slice(0, 101)))).toMatchObject({ others: { instances: 1, value: 0 } });
    expect(countsOf(march(12), march(12), new Map([['b', { micros: 1, records: 1 }], ['a', { micros: 1, records: 2 }]]))).toEqual({
      from: march(12), day: march(12), instances: [{ instanceId: 'a', value: 0.000001, records: 2 }, { instanceId: 'b', value: 0.000001, records: 1 }],
    });
  });
});

describe('Time', () => {
  it('of a reading may be a little ahead, and 400 days back', () => {
    const now = '2026-03-13T12:00:00.000Z';
    const from = (ms: number) => ({ at: new Date(Date.parse(now) + ms).toISOString() });
    const day = 86_400_000;
    expect(mustBeInReach([from(300_000), from(-400 * day)], now)).toBeUndefined();
    expect(() => mustBeInReach([from(0), from(300_001)], now)).toThrow(expect.objectContaining({ code: 'USAGE_OUT_OF_RANGE', members: { errors: [{ pointer: '/records/1/at', detail: 'is in the future' }] } }));
    expect(() => mustBeInReach([from(-400 * day - 1)], now)).toThrow(expect.objectContaining({ members: { errors: [expect.objectContaining({ pointer: '/records/0/at' })] } }));
    expect([0, 300_000, 300_001, -400 * day, -400 * day - 1].map((ms) => counts(timeOf(from(ms)), null, now))).toEqual([true, true, false, true, false]);
    expect([-1, 0].map((ms) => counts(timeOf(from(ms)), now, now))).toEqual([true, false]);
    expect(() => mustBeInReach([{ at: 'yesterday' }], now)).toThrow(expect.objectContaining({ code: 'USAGE_OUT_OF_RANGE' }));
  });
  it('of a day is UTC, and a day is due at its end or when it is over', () => {
    expect([dayOf(endOf(march(31)) - 1), dayAfter(march(31)), dayBefore('2026-03-01'), firstOfNextMonth('2026-12-31')]).toEqual([march(31), '2026-04-01', '2026-02-28', '2027-01-01']);
    expect([isDay('2026-02-29'), isDay('2028-02-29'), isDay('2026-13-01'), isDay('12 March')]).toEqual([false, true, false, false]);
    expect([dueAt(march(12), startOf(march(12))), dueAt(march(12), endOf(march(13)))]).toEqual([endOf(march(12)), endOf(march(13))]);
    expect([daysOf(endOf(march(12)) - HOLD_MS, HOLD_MS), daysOf(endOf(march(12)) - HOLD_MS + 1, HOLD_MS)]).toEqual([[march(12)], [march(12), march(13)]]);
  });
  it('is cut into whole hours, days and months', () => {
    const [from, to] = [Date.parse('2026-01-31T10:30:00Z'), Date.parse('2026-03-01T00:00:00Z')];
    expect(bucketsBetween(from, to, 'month').map(({ from: start }) => dayOf(start))).toEqual(['2026-01-01', '2026-02-01']);
    expect(bucketsBetween(from, to, 'day')).toHaveLength(29);
    expect(bucketsBetween(from, from + 1, 'day')).toEqual([{ from: startOf('2026-01-31'), to: startOf('2026-02-01') }]);
    expect(bucketsBetween(from, from + 1, 'hour')).toEqual([{ from: Date.parse('2026-01-31T10:00:00Z'), to: Date.parse('2026-01-31T11:00:00Z') }]);
    expect(bucketsBetween(to, from, 'day')).toEqual([]);
    const last = Date.parse('9999-12-31T23:59:59.999Z');
    for (const bucket of ['hour', 'day', 'month'] as const) expect([bucket, bucketsBetween(last - 1, last, bucket).map(({ to: end }) => end)]).toEqual([bucket, [last]]);
    expect(bucketsBetween(0, 750 * 3_600_000, 'hour')).toHaveLength(750);
    const errors = [{ in: 'query', pointer: '/from', detail: 'is more than 750 hours before /to' }];
    expect(() => bucketsBetween(0, 750 * 3_600_000 + 1, 'hour')).toThrow(expect.objectContaining({ code: 'VALIDATION_FAILED', members: { errors } }));
  });
});

/** Days are compared one by one as they end, or all at once much later: the license lives through the same. */
it('It does not matter when somebody looks', () => {
  const peaks = fc.array(fc.option(fc.integer({ min: 0, max: 16 })), { minLength: 1, maxLength: 30 });
  const quota = fc.record({ meter: fc.constant(meter), limit: fc.constantFrom(8, 30), per: fc.constantFrom(undefined, 'day' as const, 'month' as const) });
  fc.assert(fc.property(peaks, quota, fc.func(fc.boolean()), (values, licensedQuota, looksOn) => {
    const first = startOf('2026-03-20');
    const all = values.flatMap((value, n): MeterDay[] => (value === null ? [] : [{ day: dayOf(first + n * 86_400_000), peak: value, sum: value }]));
    const live = (isLookedAt: (day: number) => boolean) => {
      let history = sold(licensedQuota);
      const due = new Set(all.map(({ day }) => day));
      for (let n = 0; n <= 45; n++) {
        if (n < 45 && !isLookedAt(n)) continue;
        const now = first + n * 86_400_000;
        for (let day = [...due].sort()[0]; day !== undefined && endOf(day) <= now; day = [...due].sort()[0]) {
          due.delete(day);
          const asked = demandOf(issued(stateOf(history)), meter, all, { day, at: endOf(day) });
          if (asked && License.decide(stateOf(history), asked, new Date(now).toISOString()).length > 0) history = story(history, at(new Date(now).toISOString(), asked));
          const look = (issued(stateOf(history)).meters.get(meter)?.state ?? 'normal') !== 'normal' ? nextLook(issued(stateOf(history)), meter, day) : undefined;
          if (look) due.add(look);
        }
      }
      return history.happened.map(({ event }) => event);
    };
    expect(live(looksOn)).toEqual(live(() => true));
  }), { numRuns: 200 });
});
