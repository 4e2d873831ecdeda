/** RFC 3339 in UTC with milliseconds, `2026-11-21T01:35:00.000Z`. One fixed width, so instants compare as strings. */
export type Instant = string;

export type CalendarUnit = 'days' | 'months' | 'years';

/** The instant in the one spelling used inside; undefined when the text is not an instant, or lies outside the years 0001–9999. */
export function instantOf(value: string | number | Date): Instant | undefined {
  const date = new Date(value);
  const year = date.getUTCFullYear();
  return year >= 1 && year <= 9999 ? date.toISOString() : undefined;
}

/** `days` is 24 hours each; months and years are calendar ones, cut to the month's last day (31 January + 1 month = 28 February). */
export function addCalendar(from: Instant, value: number, unit: CalendarUnit): Instant {
  const date = new Date(from);
  if (unit === 'days') return new Date(date.getTime() + value * 86_400_000).toISOString();
  const day = date.getUTCDate();
  date.setUTCDate(1);
  date.setUTCMonth(date.getUTCMonth() + value * (unit === 'years' ? 12 : 1));
  date.setUTCDate(Math.min(day, daysInMonth(date)));
  return date.toISOString();
}

export const addDays = (from: Instant, days: number): Instant => addCalendar(from, days, 'days');
export const addSeconds = (from: Instant, seconds: number): Instant => new Date(Date.parse(from) + seconds * 1000).toISOString();

function daysInMonth(date: Date): number {
  return new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 0)).getUTCDate();
}

/** Time, per environment: a non-production environment may get a clock that tests can set. */
export abstract class Clock {
  abstract now(environment: string): Instant;
  /** Before a decision: resolves once every change of the environment's clock that was answered before this call is known here. Undefined: nothing to wait for. */
  current?(environment: string): Promise<void> | undefined;
}

let lastMillisecond = -1;
let lastInstant: Instant = '';

/** Every message reads the time, many of them within the same millisecond. */
export const systemClock: Clock = {
  now() {
    const millisecond = Date.now();
    if (millisecond !== lastMillisecond) {
      lastMillisecond = millisecond;
      lastInstant = new Date(millisecond).toISOString();
    }
    return lastInstant;
  },
};
