import { addSeconds, instantOf, refuse, type Instant } from '@keyledger/kernel';
import { LAST_INSTANT } from '../license/terms.ts';

/**
 * A value of a meter reported by an instance. There are millions: so times are milliseconds since 1970, and values millionths, whose sums
 * are exact in any order.
 */
export interface Reading {
  /** Counts once, ever, within the license. */
  readonly id: string;
  readonly instanceId: string;
  readonly at: number;
  readonly micros: number;
}
export const MILLION = 1_000_000;
export const microsOf = (value: number): number => Math.round(value * MILLION);

/** Clocks of customers may be ahead. */
export const SKEW_SECONDS = 300;
/** An older day is closed for good. */
export const REACHES_BACK_DAYS = 400;

export const timeOf = ({ at }: { readonly at: Instant }): number => Date.parse(instantOf(at) ?? '');

/** What is wrong with a reading's time; undefined if it can count. */
function faultOf(at: number, now: Instant): string | undefined {
  if (at > Date.parse(addSeconds(now, SKEW_SECONDS))) return 'is in the future';
  return at >= Date.parse(addSeconds(now, -REACHES_BACK_DAYS * 86_400)) ? undefined : `is more than ${REACHES_BACK_DAYS} days ago`;
}

/** Refuses with USAGE_OUT_OF_RANGE, naming the records out of reach. */
export function mustBeInReach(records: readonly { readonly at: Instant }[], now: Instant): void {
  const errors = records.flatMap((record, n) => {
    const detail = faultOf(timeOf(record), now);
    return detail === undefined ? [] : [{ pointer: `/records/${n}/at`, detail }];
  });
  if (errors.length > 0) throw refuse('USAGE_OUT_OF_RANGE', `records must be from the last ${REACHES_BACK_DAYS} days`, { errors });
}

/** Whether a reading can count: it is in reach, and from before the end of the seat. An instance may report such readings after the end. */
export const counts = (at: number, endedAt: Instant | null, now: Instant): boolean => faultOf(at, now) === undefined && (endedAt === null || at < Date.parse(endedAt));

// ---- days, months and hours, all of them UTC ----

const DAY_MS = 86_400_000;
/** `2026-03-12` */
export type Day = string;
export const dayOf = (at: number): Day => new Date(at).toISOString().slice(0, 10);
export const startOf = (day: Day): number => Date.parse(`${day}T00:00:00.000Z`);
export const endOf = (day: Day): number => startOf(day) + DAY_MS;
export const dayAfter = (day: Day): Day => dayOf(endOf(day));
export const dayBefore = (day: Day): Day => dayOf(startOf(day) - 1);
export const monthOf = (day: Day): string => day.slice(0, 7);
export const firstOfNextMonth = (day: Day): Day => dayOf(Date.UTC(Number(day.slice(0, 4)), Number(day.slice(5, 7)), 1));
/** A day that the calendar has. */
export const isDay = (text: string): boolean => /^\d{4}-\d{2}-\d{2}$/.test(text) && !Number.isNaN(startOf(text)) && dayOf(startOf(text)) === text;

export const buckets = ['hour', 'day', 'month'] as const;
export type Bucket = (typeof buckets)[number];
export const MAX_BUCKETS = 750;

/** Whole hours, days or months that overlap the time from `from` up to `to`. */
export function bucketsBetween(from: number, to: number, bucket: Bucket): { readonly from: number; readonly to: number }[] {
  const spans: { from: number; to: number }[] = [];
  for (let start = bucketStart(from, bucket); start < to; start = spans.at(-1)?.to as number) {
    if (spans.push({ from: start, to: bucketEnd(start, bucket) }) > MAX_BUCKETS) {
      throw refuse('VALIDATION_FAILED', `from and to are more than ${MAX_BUCKETS} ${bucket}s apart`, { errors: [{ in: 'query', pointer: '/from', detail: `is more than ${MAX_BUCKETS} ${bucket}s before /to` }] });
    }
  }
  return spans;
}

function bucketStart(at: number, bucket: Bucket): number {
  if (bucket === 'month') return startOf(`${monthOf(dayOf(at))}-01`);
  const length = bucket === 'hour' ? 3_600_000 : DAY_MS;
  return Math.floor(at / length) * length;
}

/** The last one ends with the year 9999: no instant is later. */
const bucketEnd = (start: number, bucket: Bucket): number =>
  Math.min(Date.parse(LAST_INSTANT), bucket === 'month' ? startOf(firstOfNextMonth(dayOf(start))) : start + (bucket === 'hour' ? 3_600_000 : DAY_MS));
