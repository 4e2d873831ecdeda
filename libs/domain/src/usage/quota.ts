import type { Instant, JsonObject } from '@keyledger/kernel';
import type { LicenseCommand } from '../license/license.ts';
import { meterState, type IssuedLicense } from '../license/state.ts';
import type { Quota } from '../license/terms.ts';
import type { FeatureView } from '../license/view.ts';
import type { Peak } from './gauge.ts';
import { dayAfter, dayBefore, dayOf, endOf, firstOfNextMonth, MILLION, monthOf, startOf, type Day, type Reading } from './reading.ts';

/** A day of one meter. */
export interface MeterDay {
  readonly day: Day;
  /** As a gauge. Null: no reading held on this day, so the peak is unknown. */
  readonly peak: number | null;
  /** As a counter. */
  readonly sum: number;
}

type Period = NonNullable<Quota['per']>;

/**
 * The value a quota was compared with at a moment. For a gauge the peak of the last day that was over by then and had readings: a silent
 * instance does not show that less was used. For a counter the sum of the last day that was over, or of its month up to and with that day.
 */
export function comparedAt(per: Quota['per'], days: readonly MeterDay[], moment: number): { readonly value: number; readonly day: Day } | undefined {
  const last = dayBefore(dayOf(moment));
  if (per) return { value: sumOf(days, per, last), day: last };
  const read = days.filter(({ day, peak }) => peak !== null && day <= last).reduce<MeterDay | undefined>((latest, day) => (latest && latest.day > day.day ? latest : day), undefined);
  return read && { value: read.peak ?? 0, day: read.day };
}

/** The sum of the day, or of its month up to and with the day. */
export function sumOf(days: readonly MeterDay[], per: Period, last: Day): number {
  const counts = ({ day }: MeterDay) => day === last || (per === 'month' && day < last && monthOf(day) === monthOf(last));
  return days.filter(counts).reduce((sum, { sum: more }) => sum + Math.round(more * MILLION), 0) / MILLION;
}

/**
 * The command to the license from a day that has fallen due; undefined if the day decides nothing: the license has no such quota, there were no
 * readings, or they came so late that a later day had been compared before. The license decides what follows.
 */
export function demandOf(license: IssuedLicense, meter: string, days: readonly MeterDay[], due: { readonly day: Day; readonly at: number }): (LicenseCommand & { type: 'ExceedQuota' | 'RestoreQuota' }) | undefined {
  const quota = license.terms.quotas.find((one) => one.meter === meter);
  const compared = quota && comparedAt(quota.per, days, due.at);
  if (!compared || (!quota.per && compared.day !== due.day)) return undefined;
  const { value: peak } = compared;
  if (peak > quota.limit) return { type: 'ExceedQuota', meter, peak, limit: quota.limit, since: new Date(due.at).toISOString() };
  return meterState(license, meter).state === 'normal' ? undefined : { type: 'RestoreQuota', meter, peak };
}

/** A meter that the license counts per day or month is a counter; any other is a gauge. */
export function kindOf({ terms: { features, quotas } }: IssuedLicense, meter: string): 'gauge' | 'counter' {
  const feature = Object.hasOwn(features, meter) ? features[meter] : undefined;
  return quotas.some((quota) => quota.meter === meter && quota.per) || (typeof feature === 'object' && !quotas.some((quota) => quota.meter === meter)) ? 'counter' : 'gauge';
}

/** The day at whose end an exceeded quota must be compared again even without readings: a counter starts again at 0. */
export function nextLook({ terms }: IssuedLicense, meter: string, day: Day): Day | undefined {
  const per = terms.quotas.find((one) => one.meter === meter)?.per;
  return per && (per === 'day' ? dayAfter(day) : firstOfNextMonth(day));
}

/**
 * Meters to compare at the end of the day on which these quotas were set, even without readings on it: the month's sum so far counts against the
 * new limit too. Gauges and daily counters are compared with readings of that very day.
 */
export const monthlyMeters = (quotas: readonly Quota[]): readonly string[] => quotas.flatMap(({ meter, per }) => (per === 'month' ? [meter] : []));

/** Days of a meter that a reading may change: a gauge reading may hold into the next. */
export function daysOf(at: number, holdMs: number): readonly Day[] {
  const [first, last] = [dayOf(at), dayOf(at + holdMs - 1)];
  return first === last ? [first] : [first, last];
}

/** When such a day is to be compared: at its end, or at once if it has ended already. */
export const dueAt = (day: Day, now: number): number => Math.max(endOf(day), now);

const MAX_SHOWN = 100;

/** The evidence stored in the log with an exceeded quota, so that it can be verified. */
export function evidenceOf(day: Day, peak: Peak, readings: readonly Reading[]): JsonObject {
  const shown = readings.slice(0, MAX_SHOWN);
  const rest = readings.slice(MAX_SHOWN);
  return {
    day, at: instant(peak.at),
    instances: shown.map(({ id, instanceId, at, micros }) => ({ instanceId, value: micros / MILLION, id, at: instant(at) })),
    ...(rest.length > 0 && { others: { instances: rest.length, value: rest.reduce((sum, { micros }) => sum + micros, 0) / MILLION } }),
  };
}

/** The use of a counter by an instance, and the number of its records. */
export interface Counted { readonly micros: number; readonly records: number }

/** The evidence for a counter: the use of each instance from one day to the other, the greatest first. */
export function countsOf(from: Day, to: Day, used: ReadonlyMap<string, Counted>): JsonObject {
  const all = [...used].sort(([a, { micros: x }], [b, { micros: y }]) => y - x || (a < b ? -1 : 1));
  const rest = all.slice(MAX_SHOWN);
  return {
    from, day: to,
    instances: all.slice(0, MAX_SHOWN).map(([instanceId, { micros, records }]) => ({ instanceId, value: micros / MILLION, records })),
    ...(rest.length > 0 && { others: { instances: rest.length, value: rest.reduce((sum, [, { micros }]) => sum + micros, 0) / MILLION } }),
  };
}

const instant = (at: number): Instant => new Date(at).toISOString();

// ---- views ----

/** The use of a meter: in the present day and month, and the value its quota was last compared with, as a gauge or per day or month. */
export interface MeterUse {
  readonly today: number;
  readonly month: number;
  readonly last: { readonly gauge: number | null; readonly day: number; readonly month: number };
}
export type Use = Readonly<Record<string, MeterUse>>;

export function useOf(days: readonly MeterDay[], now: number): MeterUse {
  const today = dayOf(now);
  const last = (per: Quota['per']) => comparedAt(per, days, startOf(today))?.value;
  return { today: sumOf(days, 'day', today), month: sumOf(days, 'month', today), last: { gauge: last(undefined) ?? null, day: last('day') ?? 0, month: last('month') ?? 0 } };
}

interface Metered {
  readonly features: Readonly<Record<string, FeatureView>>;
  readonly quotas: readonly (Quota & { readonly state: string; readonly lastPeak: number | null })[];
}

/** Whether a view of this license shows any use. */
export const isMetered = ({ features, quotas }: Pick<IssuedLicense['terms'], 'features' | 'quotas'> | Metered): boolean =>
  quotas.length > 0 || Object.values(features).some((feature) => typeof feature === 'object');

/** Meters that a license, or a view of it, names. Others appear in the series only. */
export const metersNamed = ({ features, quotas }: Pick<IssuedLicense['terms'], 'features' | 'quotas'> | Metered): readonly string[] =>
  [...quotas.map(({ meter }) => meter), ...Object.entries(features).flatMap(([name, feature]) => (typeof feature === 'object' ? [name] : []))];

/** The view of a license with the use of its caps, and the values its quotas were last compared with. */
export function withUse<V extends Metered>(view: V, use: Use): V {
  const features = Object.entries(view.features).map(([name, feature]) => {
    if (typeof feature !== 'object') return [name, feature] as const;
    const used = useOn(use, name)?.[feature.per === 'day' ? 'today' : 'month'] ?? 0;
    return [name, { limit: feature.limit, per: feature.per, used, remaining: Math.max(0, exactly(feature.limit - used)) }] as const;
  });
  const quotas = view.quotas.map((quota) => (quota.state === 'normal' ? { ...quota, lastPeak: useOn(use, quota.meter)?.last[quota.per ?? 'gauge'] ?? quota.lastPeak } : quota));
  return { ...view, features: Object.fromEntries(features), quotas };
}

/** A difference to the millionth; a number too large for that stays as it is. */
const exactly = (value: number): number => (value * MILLION < Infinity ? Math.round(value * MILLION) / MILLION : value);

/** A meter may be named like a member of every object, such as `constructor`. */
const useOn = (use: Use, meter: string): MeterUse | undefined => (Object.hasOwn(use, meter) ? use[meter] : undefined);
