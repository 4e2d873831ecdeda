import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { compared, expiryByFile, meterByFile, withReading, type Metered } from './by-file.ts';

const at = (text: string) => Date.parse(text);
const day = 86_400_000;
/** What has been kept after these readings, each at its time. */
const after = (limit: number, ...readings: readonly (readonly [at: string, value: number])[]) =>
  readings.reduce<Metered | undefined>((metered, [when, value]) => withReading(metered, value, limit, at(when)), undefined);
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
    for (let n = 2; n <= 8; n++) metered = withReading(metered, 9, 8, at(`2026-07-0${n}T12:00:00Z`));
    expect(on('2026-07-08T23:59:59Z', 8, metered)).toEqual(['exceeded', '2026-07-09T00:00:00.000Z']);
    expect(on('2026-07-09T00:00:00Z', 8, metered)).toEqual(['restricted', null]);
    const fewer = withReading(metered, 8, 8, at('2026-07-09T12:00:00Z'));
    expect([on('2026-07-09T13:00:00Z', 8, fewer), on('2026-07-10T00:00:00Z', 8, fewer)]).toEqual([['restricted', null], ['normal', null]]);
    expect(on('2026-07-10T00:00:00Z', 8, metered)).toEqual(['normal', null]);
  });

  it('does not depend on how often it is looked at', () => {
    const step = fc.record({ ms: fc.integer({ min: 0, max: 2 * day }), value: fc.integer({ min: 0, max: 20 }), looks: fc.integer({ min: 0, max: 3 }) });
    fc.assert(fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      let now = at('2026-07-01T00:00:00Z');
      let [often, rarely]: [Metered | undefined, Metered | undefined] = [undefined, undefined];
      for (const { ms, value, looks } of steps) {
        for (let n = 1; n <= looks; n++) often = compared(often, 8, now + Math.floor((ms * n) / (looks + 1)));
        now += ms;
        [often, rarely] = [withReading(often, value, 8, now), withReading(rarely, value, 8, now)];
        expect(meterByFile('m', 8, often, 7, now).state === 'normal').toBe(meterByFile('m', 8, rarely, 7, now).state === 'normal');
        expect([often.day, often.peak, often.lastPeak]).toEqual([rarely.day, rarely.peak, rarely.lastPeak]);
      }
    }));
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
  });
});
