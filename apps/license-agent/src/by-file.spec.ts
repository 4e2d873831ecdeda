import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { compared, counterByFile, countedUntil, expiryByFile, lifted, meterByFile, withCount, withReading, type Cap, type Counted, type Metered } from './by-file.ts';

const at = (text: string) => Date.parse(text);
const day = 86_400_000;
/** What has been kept after these readings, each at its time. */
const after = (limit: number, ...readings: readonly (readonly [at: string, value: number])[]) =>
  readings.reduce<Metered | undefined>((metered, [when, value]) => withReading(metered, { value, at: at(when) }, limit, at(when)), undefined);
/** One more, of a limit of 8. */
const used = (metered: Metered | undefined, value: number, now: string, taken = now) => withReading(metered, { value, at: at(taken) }, 8, at(now));
const on = (when: string, limit: number, metered: Metered | undefined) => {
  const { state, graceEndsAt } = meterByFile('max_dp_cores', limit, metered, 7, at(when));
  return [state, graceEndsAt];
};

describe('A quota by file', () => {
  const over = after(8, ['2026-07-01T10:00:00Z', 12], ['2026-07-01T11:00:00Z', 3]);

  it('is compared at midnight with the peak of the day before', () => {
    expect(on('2026-07-01T23:59:59Z', 8, over)).toEqual(['normal', null]);
    expect(on('2026-07-02T00:00:00Z', 8, over)).toEqual(['exceeded', '2026-07-09T00:00:00.000Z']);
    expect(on('2026-07-02T00:00:00Z', 12, over)).toEqual(['normal', null]);
    expect(on('2026-07-02T00:00:00Z', 8, undefined)).toEqual(['normal', null]);
  });

  it('is cleared by a day with fewer, and restricted after a week of days with more', () => {
    let metered = over;
    for (let n = 2; n <= 8; n++) metered = used(metered, 9, `2026-07-0${n}T12:00:00Z`);
    expect(on('2026-07-08T23:59:59Z', 8, metered)).toEqual(['exceeded', '2026-07-09T00:00:00.000Z']);
    expect(on('2026-07-09T00:00:00Z', 8, metered)).toEqual(['restricted', null]);
    const fewer = used(metered, 8, '2026-07-09T12:00:00Z');
    expect([on('2026-07-09T13:00:00Z', 8, fewer), on('2026-07-10T00:00:00Z', 8, fewer)]).toEqual([['restricted', null], ['normal', null]]);
  });

  it('is not cleared by silence, nor does its grace wait for somebody who looks', () => {
    for (const looked of [over, compared(over, 8, at('2026-07-02T00:00:00Z')), compared(over, 8, at('2026-07-06T13:00:00Z'))]) {
      expect(on('2026-07-08T23:59:59Z', 8, looked)).toEqual(['exceeded', '2026-07-09T00:00:00.000Z']);
      expect(on('2026-08-10T00:00:00Z', 8, looked)).toEqual(['restricted', null]);
      expect(meterByFile('max_dp_cores', 8, looked, 7, at('2026-08-10T00:00:00Z'))).toMatchObject({ used: 12, remaining: 0, lastPeak: 12 });
    }
    // Nothing is a reading as well.
    expect(on('2026-07-06T00:00:00Z', 8, used(over, 0, '2026-07-05T12:00:00Z'))).toEqual(['normal', null]);
    // Four days a week are enough to be over it all the time.
    const metered = ['2026-07-03', '2026-07-06', '2026-07-08'].reduce<Metered | undefined>((so, date) => used(so, 9, `${date}T12:00:00Z`), over);
    expect(on('2026-07-10T00:00:00Z', 8, metered)).toEqual(['restricted', null]);
  });

  it('that was raised to the last peak, or taken away, has a grace of its own when it is exceeded again', () => {
    for (const limit of [12, null]) {
      const raised = compared(over, limit, at('2026-07-04T12:00:00Z'));
      expect(on('2026-07-04T13:00:00Z', 8, raised)).toEqual(['normal', null]);
      const again = withReading(raised, { value: 13, at: at('2026-07-10T12:00:00Z') }, 12, at('2026-07-10T12:00:00Z'));
      expect(on('2026-07-11T00:00:00Z', 12, again)).toEqual(['exceeded', '2026-07-18T00:00:00.000Z']);
    }
    expect(on('2026-07-04T12:00:00Z', 11, over)).toEqual(['exceeded', '2026-07-09T00:00:00.000Z']);
  });

  it('counts a reading in its own day, however late it comes, unless a later day was compared already', () => {
    const today = used(undefined, 3, '2026-07-02T09:00:00Z');
    const late = used(today, 12, '2026-07-02T10:00:00Z', '2026-07-01T22:00:00Z');
    expect(late).toEqual({ day: '2026-07-02', peak: 3, lastDay: '2026-07-01', lastPeak: 12, exceededAt: '2026-07-02T10:00:00.000Z', before: null });
    expect(on('2026-07-02T10:00:00Z', 8, late)).toEqual(['exceeded', '2026-07-09T10:00:00.000Z']);
    expect(on('2026-07-03T00:00:00Z', 8, late)).toEqual(['normal', null]);
    expect(used(late, 9, '2026-07-02T11:00:00Z', '2026-07-01T23:00:00Z')).toEqual(late);
    expect(used(late, 99, '2026-07-02T10:00:00Z', '2026-06-30T23:59:59Z')).toEqual(late);
    expect(used(today, 99, '2026-07-02T10:00:00Z', '2026-05-30T23:59:59Z')).toMatchObject({ lastDay: '2026-05-30', lastPeak: 99, exceededAt: '2026-07-02T10:00:00.000Z' });
    // Of a day that nothing had been heard of.
    expect(on('2026-07-04T10:00:00Z', 8, used(over, 8, '2026-07-04T10:00:00Z', '2026-07-02T12:00:00Z'))).toEqual(['normal', null]);
    expect(on('2026-07-04T10:00:00Z', 8, used(over, 9, '2026-07-04T10:00:00Z', '2026-07-02T12:00:00Z'))).toEqual(['exceeded', '2026-07-09T00:00:00.000Z']);
    // A clock that is a little ahead.
    expect(used(today, 4, '2026-07-02T23:59:00Z', '2026-07-03T00:01:00Z')).toMatchObject({ day: '2026-07-02', peak: 4 });
  });

  it('is compared with all of a day, however many requests it comes in, and its grace begins once', () => {
    let metered: Metered | undefined;
    const states = new Set<string>();
    for (let n = 0; n < 30; n++) {
      const now = at('2026-07-02T01:00:00Z') + n * day;
      for (const value of [2, 12, 3, 13, 1]) metered = withReading(metered, { value, at: now - 12 * 3_600_000 }, 8, now + value);
      states.add(`${n < 7 ? 'in' : 'after'} the first week ${on(new Date(now + 60_000).toISOString(), 8, metered).join(' until ')}`);
    }
    expect([...states]).toEqual(['in the first week exceeded until 2026-07-09T01:00:00.012Z', 'after the first week restricted until ']);
    // The day was thought to have had fewer, until more of it was heard.
    const fewer = used(over, 3, '2026-07-06T12:00:00Z');
    expect(on('2026-07-07T12:00:00Z', 8, fewer)).toEqual(['normal', null]);
    const more = used(fewer, 12, '2026-07-07T12:00:00Z', '2026-07-06T13:00:00Z');
    expect(on('2026-07-07T12:00:00Z', 8, more)).toEqual(['exceeded', '2026-07-09T00:00:00.000Z']);
    // Not if a limit has cleared it meanwhile, or what was before.
    for (const [limit, known] of [[16, more], [12, fewer], [null, fewer]] as const) {
      const raised = compared(known, limit, at('2026-07-07T13:00:00Z'));
      expect(on('2026-07-07T14:00:00Z', 8, used(raised, 20, '2026-07-07T14:00:00Z', '2026-07-06T13:00:00Z'))).toEqual(['exceeded', '2026-07-14T14:00:00.000Z']);
    }
  });

  it('ends in the same, in whatever order and requests the readings of a day come, and whatever is heard of earlier days after that', () => {
    const value = fc.integer({ min: 0, max: 16 });
    const night = fc.record({ days: fc.integer({ min: 1, max: 9 }), values: fc.array(value, { minLength: 1, maxLength: 5 }), looks: fc.boolean(), earlier: fc.array(fc.tuple(fc.integer({ min: 1, max: 9 }), value), { maxLength: 2 }) });
    fc.assert(fc.property(fc.array(night, { maxLength: 12 }), (nights) => {
      let now = at('2026-07-02T01:00:00Z');
      let [known, whole]: [Metered | undefined, Metered | undefined] = [undefined, undefined];
      for (const { days, values, looks, earlier } of nights) {
        now += days * day;
        for (const one of values) {
          known = withReading(known, { value: one, at: now - day }, 8, now);
          if (looks) known = compared(known, 8, now);
        }
        for (const [before, late] of earlier) known = withReading(known, { value: late, at: now - (1 + before) * day }, 8, now);
        whole = withReading(whole, { value: Math.max(...values), at: now - day }, 8, now);
        expect(known).toEqual(whole);
      }
    }));
  });

  it('is compared with the last day that anything was heard of, as by a server', () => {
    const reading = fc.record({ ms: fc.integer({ min: 0, max: 2 * day }), ago: fc.integer({ min: 0, max: 4 * day }), value: fc.integer({ min: 0, max: 16 }) });
    fc.assert(fc.property(fc.array(reading, { minLength: 1, maxLength: 12 }), (readings) => {
      let now = at('2026-07-01T00:00:00Z');
      let metered: Metered | undefined;
      const peaks = new Map<number, number>();
      for (const { ms, ago, value } of readings) {
        now += ms;
        const when = Math.floor((now - ago) / day);
        peaks.set(when, Math.max(value, peaks.get(when) ?? 0));
        metered = withReading(metered, { value, at: now - ago }, 8, now);
        const last = Math.max(...[...peaks.keys()].filter((one) => one < Math.floor(now / day)));
        expect([metered.lastPeak, metered.exceededAt !== null]).toEqual([peaks.get(last) ?? null, (peaks.get(last) ?? 0) > 8]);
      }
    }));
  });

  it('goes on as it was after an update, from when a day without readings had been one of 0', () => {
    const kept = { day: '2026-07-02', peak: 0, lastPeak: 12, exceededAt: '2026-07-02T00:00:00.000Z' };
    expect(lifted(kept)).toEqual({ ...kept, peak: null, lastDay: '2026-07-01', before: null });
    expect(on('2026-07-08T12:00:00Z', 8, lifted(kept))).toEqual(['exceeded', '2026-07-09T00:00:00.000Z']);
    expect(on('2026-07-09T00:00:00Z', 8, used(lifted(kept), 3, '2026-07-02T12:00:00Z', '2026-06-16T12:00:00Z'))).toEqual(['restricted', null]);
    expect(lifted({ day: '2026-07-02', peak: 3, lastPeak: 0, exceededAt: null })).toEqual({ day: '2026-07-02', peak: 3, lastDay: null, lastPeak: null, exceededAt: null, before: null });
    // Since then 0 is a reading.
    const since = { day: '2026-07-02', peak: 0, lastDay: null, lastPeak: null, exceededAt: null };
    expect(lifted(since)).toEqual({ ...since, before: null });
    for (const known of [over, compared(over, 8, at('2026-07-05T00:00:00Z')), used(over, 0, '2026-07-05T12:00:00Z')]) expect(lifted(known as Metered)).toEqual(known);
  });

  it('does not depend on how often it is looked at', () => {
    const step = fc.record({ ms: fc.integer({ min: 0, max: 2 * day }), value: fc.integer({ min: 0, max: 20 }), looks: fc.integer({ min: 0, max: 3 }) });
    fc.assert(fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      let now = at('2026-07-01T00:00:00Z');
      let [often, rarely]: [Metered | undefined, Metered | undefined] = [undefined, undefined];
      for (const { ms, value, looks } of steps) {
        for (let n = 1; n <= looks; n++) often = compared(often, 8, now + Math.floor((ms * n) / (looks + 1)));
        now += ms;
        [often, rarely] = [withReading(often, { value, at: now }, 8, now), withReading(rarely, { value, at: now }, 8, now)];
        expect(often).toEqual(rarely);
      }
    }));
  });
});

describe('A counter by file', () => {
  const counted = (cap: Cap, ...readings: readonly (readonly [when: string, value: number, now?: string])[]) =>
    readings.reduce<Counted | undefined>((so, [when, value, now = when]) => withCount(so, { value, at: at(when) }, cap, at(now)), undefined);
  const shown = (when: string, cap: Cap, so: Counted | undefined) => {
    const { used, remaining, per, state, graceEndsAt } = counterByFile('pages', cap.limit ?? 10, cap, so, 7, at(when));
    return { used, remaining, per, state, graceEndsAt };
  };
  const [daily, monthly] = [{ limit: 10, per: 'day' }, { limit: 10, per: 'month' }] as const;

  it('adds up the day, or the month, and begins again', () => {
    const readings = [['2026-07-30T10:00:00Z', 0.1], ['2026-07-31T10:00:00Z', 4], ['2026-07-31T23:59:59Z', 0.2]] as const;
    expect(shown('2026-07-31T23:59:59Z', daily, counted(daily, ...readings))).toMatchObject({ used: 4.2, remaining: 5.8, per: 'day' });
    expect(shown('2026-07-31T23:59:59Z', monthly, counted(monthly, ...readings))).toMatchObject({ used: 4.3, remaining: 5.7, per: 'month' });
    for (const cap of [daily, monthly]) expect(shown('2026-08-01T00:00:00Z', cap, counted(cap, ...readings))).toMatchObject({ used: 0, remaining: 10 });
  });

  it('is compared at midnight, with a week of grace, and cleared when less was counted', () => {
    const over = counted(daily, ['2026-07-01T10:00:00Z', 11]);
    expect(shown('2026-07-01T23:59:59Z', daily, over)).toMatchObject({ used: 11, remaining: 0, state: 'normal' });
    expect(shown('2026-07-02T00:00:00Z', daily, over)).toMatchObject({ used: 0, state: 'exceeded', graceEndsAt: '2026-07-09T00:00:00.000Z' });
    expect(shown('2026-07-03T00:00:00Z', daily, over)).toMatchObject({ state: 'normal' });
    const month = countedUntil(counted(monthly, ['2026-07-01T10:00:00Z', 6], ['2026-07-20T10:00:00Z', 5]), monthly, at('2026-07-21T00:00:00Z'));
    expect(shown('2026-07-27T23:59:59Z', monthly, month)).toMatchObject({ used: 11, state: 'exceeded', graceEndsAt: '2026-07-28T00:00:00.000Z' });
    expect(shown('2026-07-28T00:00:00Z', monthly, month)).toMatchObject({ state: 'restricted', graceEndsAt: null });
    expect(shown('2026-08-01T12:00:00Z', monthly, month)).toMatchObject({ used: 0, state: 'restricted' });
    expect(shown('2026-08-02T00:00:00Z', monthly, month)).toMatchObject({ state: 'normal' });
    expect(shown('2026-07-28T00:00:00Z', { ...monthly, limit: 11 }, month)).toMatchObject({ state: 'normal' });
  });

  it('counts a reading in its own day, however late it comes, and nothing for a month that is over', () => {
    const late = counted(daily, ['2026-07-02T09:00:00Z', 1], ['2026-07-01T22:00:00Z', 11, '2026-07-02T10:00:00Z']);
    expect(shown('2026-07-02T10:00:00Z', daily, late)).toMatchObject({ used: 1, state: 'exceeded', graceEndsAt: '2026-07-09T00:00:00.000Z' });
    expect(counted(monthly, ['2026-05-31T22:00:00Z', 99, '2026-07-02T10:00:00Z'])).toEqual({ days: {}, exceededAt: null });
  });

  it('of a feature is shown, and nothing follows from it', () => {
    const cap = { limit: null, per: 'day' } as const;
    expect(shown('2026-07-02T00:00:00Z', cap, counted(cap, ['2026-07-01T10:00:00Z', 99]))).toMatchObject({ state: 'normal' });
  });
});

describe('A trial by file', () => {
  const now = at('2026-07-10T00:00:00Z');
  const first = '2026-07-01T00:00:00.000Z';

  it('ends after its days, at most 90, or when the license does', () => {
    expect(expiryByFile({ expiresAt: null, trial: { days: 30 } }, first, now)).toBe(at(first) + 30 * day);
    expect(expiryByFile({ expiresAt: null, trial: { days: 1000 } }, first, now)).toBe(at(first) + 90 * day);
    expect(expiryByFile({ expiresAt: '2026-07-05T00:00:00.000Z', trial: { days: 30 } }, first, now)).toBe(at('2026-07-05T00:00:00Z'));
    expect(expiryByFile({ expiresAt: null, trial: { days: 30 } }, undefined, now)).toBe(now + 30 * day);
    expect(expiryByFile({ expiresAt: null, trial: null }, first, now)).toBeNull();
    // It was seen while the clock was ahead.
    expect(expiryByFile({ expiresAt: null, trial: { days: 30 } }, '2036-07-01T00:00:00.000Z', now)).toBe(now + 30 * day);
  });
});
