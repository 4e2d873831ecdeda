import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { GaugePeaks, HOLD_MS, inForceAt, type SeatEnds, type Span } from './gauge.ts';
import { bucketsBetween, microsOf, MILLION, type Reading } from './reading.ts';

const midnight = Date.parse('2026-03-12T00:00:00.000Z');
const minutes = (n: number) => midnight + n * 60_000;
const whole: readonly Span[] = [{ from: midnight, to: minutes(24 * 60) }];
let made = 0;
const read = (instanceId: string, minute: number, value: number): Reading => ({ id: `r${made++}`, instanceId, at: minutes(minute), micros: microsOf(value) });

const inTime = (readings: readonly Reading[]) => readings.toSorted((a, b) => a.at - b.at);
function peaksOf(readings: readonly Reading[], spans = whole, ends?: SeatEnds) {
  const peaks = new GaugePeaks(spans, ends);
  for (const reading of inTime(readings)) peaks.take(reading);
  return peaks.result();
}
const peakOf = (readings: readonly Reading[], ends?: SeatEnds) => peaksOf(readings, whole, ends)[0];

describe('The peak of a day', () => {
  it('is the highest sum over the instances at the same moment', () =>
    expect(peakOf([read('a', 600, 24), read('b', 610, 24), read('c', 620, 20), read('a', 630, 4)])).toEqual({ value: 68, at: minutes(620) }));
  it('does not add what was not at the same moment', () => expect(peakOf([read('a', 0, 10), read('b', 60, 12)])?.value).toBe(12));
  it('holds a reading for an hour at most, to the millisecond', () => {
    expect(peakOf([read('a', 0, 10), { ...read('b', 60, 12), at: minutes(60) - 1 }])?.value).toBe(22);
    expect(peakOf([read('a', 0, 10), read('b', 60, 12)])?.value).toBe(12);
  });
  it('holds a reading no longer than up to the next one of the instance', () => expect(peakOf([read('a', 0, 10), read('a', 5, 1), read('b', 10, 3)])?.value).toBe(10));
  it('takes readings of the same moment together', () => expect(peakOf([read('a', 0, 5), read('b', 0, 2), read('b', 30, 4), read('a', 30, 3)])?.value).toBe(7));
  it('takes the highest of the readings of one instance at the same moment, whichever came first', () => {
    for (const values of [[3, 8], [8, 3], [8, 3, 5]]) expect(peakOf([...values.map((value) => read('a', 0, value)), read('b', 1, 1)])?.value).toBe(9);
  });
  it('knows what was read in the hour before midnight', () => {
    expect(peakOf([read('a', -30, 10), read('b', 10, 3)])).toEqual({ value: 13, at: minutes(10) });
    expect(peakOf([read('a', -30, 10)])).toEqual({ value: 10, at: midnight });
    expect(peakOf([read('a', -60, 10)])).toBeUndefined();
  });
  it('is that of the first moment with so much', () => expect(peakOf([read('a', 10, 5), read('a', 20, 5)])?.at).toBe(minutes(10)));
  it('counts an instance up to the end of its seat, and nothing that it says later', () => {
    const ends = new Map([['a', minutes(30)]]);
    expect(peakOf([read('a', 0, 10), read('b', 29, 4)], ends)?.value).toBe(14);
    expect(peakOf([read('a', 0, 10), read('b', 30, 4)], ends)?.value).toBe(10);
    expect(peakOf([read('a', 30, 10), read('b', 30, 4)], ends)?.value).toBe(4);
  });
  it('of a day without readings says nothing; a reading of nought says nought', () => {
    expect(peakOf([])).toBeUndefined();
    expect(peakOf([read('a', 3, 0)])).toEqual({ value: 0, at: minutes(3) });
  });
  it('is exact: three tenths are three tenths', () => expect(peakOf([read('a', 0, 0.1), read('b', 0, 0.2)])?.value).toBe(0.3));
  it('will not be found out of order', () => expect(() => {
    const peaks = new GaugePeaks(whole);
    peaks.take(read('a', 2, 1));
    peaks.take(read('a', 1, 1));
  }).toThrow());
  it('is that of the instances within an hour, however many come and go', () =>
    expect(peakOf(Array.from({ length: 4_800 }, (_, n) => ({ ...read(`i${n}`, 0, 1), at: midnight + n * 18_000 })))).toEqual({ value: 200, at: midnight + 199 * 18_000 }));
  it('is found for an hour at a time as well', () => {
    const peaks = peaksOf([read('a', 30, 10), read('b', 80, 1), read('b', 200, 2)], bucketsBetween(midnight, minutes(300), 'hour'));
    expect(peaks.map((peak) => peak?.value)).toEqual([10, 11, 1, 2, 2]);
  });
});

describe('The readings in force', () => {
  const inForce = (readings: readonly Reading[], ends?: SeatEnds) => inForceAt(midnight, readings, ends).map(({ id }) => id);
  it('are the last ones of each instance, of the last hour, to the millisecond', () => {
    const [tooOld, last, next] = [{ ...read('a', -60, 1) }, { ...read('b', -60, 1), at: minutes(-60) + 1 }, { ...read('c', 0, 1), at: midnight + 1 }];
    expect(inForce([tooOld, last, next, read('d', -30, 9), { ...read('d', -20, 1), id: 'later' }])).toEqual([last.id, 'later']);
    expect(inForce([{ ...read('e', -20, 1), id: 'later' }, read('e', -30, 9)])).toEqual(['later']);
  });
  it('are the highest of those at the same moment, else the one with the first id', () => {
    const [low, high, other] = [{ ...read('a', 0, 1), id: 'r1' }, { ...read('a', 0, 5), id: 'r2' }, { ...read('a', 0, 5), id: 'r3' }];
    for (const readings of [[low, high, other], [other, high, low], [high, low, other]]) expect(inForce(readings)).toEqual(['r2']);
  });
  it('are not those of a seat that ends at that moment', () => expect(inForce([read('a', -1, 1), { ...read('b', -1, 1), id: 'b' }], new Map([['a', midnight], ['b', midnight + 1]]))).toEqual(['b']));
  it('come the greatest first, and else by instance', () =>
    expect(inForceAt(midnight, [read('c', 0, 1), read('a', 0, 1), read('d', 0, 2), read('b', 0, 1)]).map(({ instanceId }) => instanceId)).toEqual(['d', 'a', 'b', 'c']));
});

describe('Whatever was read, in whatever order it came', () => {
  const instances = ['a', 'b', 'c', 'd'];
  const readings = fc.array(fc.record({
    instanceId: fc.constantFrom(...instances), at: fc.integer({ min: -10, max: 40 }).map((n) => minutes(n * 10)),
    micros: fc.integer({ min: 0, max: 50 }).map((tenths) => microsOf(tenths / 10)),
  }), { maxLength: 60 }).map((list) => list.map((reading, n): Reading => ({ ...reading, id: `r${n}` })));
  const ends = fc.dictionary(fc.constantFrom(...instances), fc.integer({ min: -5, max: 45 }).map((n) => minutes(n * 10 + 5))).map((seats) => new Map(Object.entries(seats)));
  const spans = bucketsBetween(midnight, minutes(420), 'hour');

  /** By the definition, moment by moment. */
  function totalAt(moment: number, all: readonly Reading[], seats: SeatEnds): number | undefined {
    const standing = instances.filter((id) => (seats.get(id) ?? Infinity) > moment).flatMap((id) => {
      const past = all.filter(({ instanceId, at }) => instanceId === id && at <= moment);
      const last = Math.max(...past.map(({ at }) => at));
      const values = past.filter(({ at }) => at === last && at + HOLD_MS > moment).map(({ micros }) => micros);
      return values.length > 0 ? [Math.max(...values)] : [];
    });
    return standing.length > 0 ? standing.reduce((sum, one) => sum + one, 0) / MILLION : undefined;
  }
  function slowly(all: readonly Reading[], { from, to }: Span, seats: SeatEnds) {
    let peak: { value: number; at: number } | undefined;
    for (let moment = from; moment < to; moment += 5 * 60_000) {
      const value = totalAt(moment, all, seats);
      if (value !== undefined && (!peak || value > peak.value)) peak = { value, at: moment };
    }
    return peak;
  }

  it('the peaks are those of the definition', () => fc.assert(fc.property(readings, ends, (all, seats) => {
    expect(peaksOf(all, spans, seats)).toEqual(spans.map((span) => slowly(all, span, seats)));
  }), { numRuns: 1000 }));

  it('order, batches and repetitions change nothing', () => fc.assert(fc.property(
    readings.chain((all) => fc.tuple(fc.constant(all), fc.shuffledSubarray([...all, ...all], { minLength: all.length * 2 }))), ends, ([all, arrived], seats) => {
      const counted = [...new Map(arrived.map((reading) => [reading.id, reading])).values()];
      expect(peaksOf(counted, spans, seats)).toEqual(peaksOf(all, spans, seats));
    }), { numRuns: 500 }));

  it('the readings in force at the peak add up to it', () => fc.assert(fc.property(readings, ends, (all, seats) => {
    for (const peak of peaksOf(all, spans, seats)) {
      if (!peak) continue;
      const forced = inForceAt(peak.at, all, seats);
      expect(forced.reduce((sum, { micros }) => sum + micros, 0) / MILLION).toBe(peak.value);
      expect(new Set(forced.map(({ instanceId }) => instanceId)).size).toBe(forced.length);
    }
  }), { numRuns: 500 }));

  it('a day is no higher than its highest hour, and as high', () => fc.assert(fc.property(readings, ends, (all, seats) => {
    const [day] = peaksOf(all, [{ from: midnight, to: minutes(420) }], seats);
    const hours = peaksOf(all, spans, seats).map((peak) => peak?.value ?? -1);
    expect(day?.value ?? -1).toBe(Math.max(...hours));
  }), { numRuns: 300 }));
});
