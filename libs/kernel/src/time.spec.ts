import { describe, expect, it } from '@jest/globals';
import { addCalendar, addSeconds, instantOf, systemClock } from './time.ts';

describe('An instant', () => {
  it('has one spelling', () => expect(['2026-11-21T13:00:00+01:00', '2026-11-21T12:00:00Z', Date.UTC(2026, 10, 21, 12), new Date('2026-11-21T12:00:00Z')].map(instantOf)).toEqual(Array(4).fill('2026-11-21T12:00:00.000Z')));
  it('is of the years 1 to 9999, which compare as strings', () => {
    for (const instant of ['0001-01-01T00:00:00.000Z', '9999-12-31T23:59:59.999Z']) expect(instantOf(instant)).toBe(instant);
    for (const other of ['0000-12-31T23:59:59.999Z', '+010000-01-01T00:00:00.000Z', '-000001-01-01T00:00:00.000Z', 'soon', '', Number.NaN]) expect([other, instantOf(other)]).toEqual([other, undefined]);
  });
  it('moves on by days of 24 hours, and by months and years of the calendar, cut to their last day', () => {
    const from = '2028-01-31T10:00:00.000Z';
    expect([addCalendar(from, 1, 'days'), addCalendar(from, 1, 'months'), addCalendar(from, 12, 'months'), addCalendar('2028-02-29T10:00:00.000Z', 1, 'years'), addSeconds(from, -0.5), addSeconds(from, 60)])
      .toEqual(['2028-02-01T10:00:00.000Z', '2028-02-29T10:00:00.000Z', '2029-01-31T10:00:00.000Z', '2029-02-28T10:00:00.000Z', '2028-01-31T09:59:59.500Z', '2028-01-31T10:01:00.000Z']);
  });
});

it('The clock of the system tells the time of now, each time it is asked', () => {
  const { now } = Date;
  try {
    const told = [1_000, 1_000, 2_000, 1_000].map((millisecond) => {
      Date.now = () => millisecond;
      return systemClock.now('production');
    });
    expect(told).toEqual([1_000, 1_000, 2_000, 1_000].map((millisecond) => new Date(millisecond).toISOString()));
  } finally {
    Date.now = now;
  }
});
