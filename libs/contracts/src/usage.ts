import Type, { type Static } from 'typebox';
import { instant, json, listOf, named, nullable, oneOf, optional } from './fields.ts';
import { licenseKey, quotaStates } from './license.ts';
import { command, query } from './message.ts';
import { Backlog, dueRange } from './sweep.ts';
import { ids } from './terms.ts';

/** Any meter is counted, whether or not a quota or a feature of the license names it yet. */
const meter = Type.String({ minLength: 1, maxLength: 255, pattern: '^[^\\u0000-\\u001f]*$', description: 'A quota\'s meter, the name of a feature with a cap per day or month, or any other' });
const day = Type.String({ description: 'A day in UTC, 2026-03-12' });

export const UsageRecord = Type.Object({
  id: Type.String({ minLength: 1, maxLength: 255, pattern: '^[^\\u0000-\\u001f]*$', description: 'Chosen by the instance. Within a license it counts only once, ever' }),
  meter,
  value: Type.Number({ minimum: 0, maximum: 1e12, description: 'Gauge: the current value; counter: the amount used since the previous record. Stored to six decimal places' }),
  at: instant,
}, { additionalProperties: false });
export type UsageRecord = Static<typeof UsageRecord>;

export const records = listOf(UsageRecord, { minItems: 1, maxItems: 1000 });

export const UsageRecorded = named('UsageRecorded', Type.Object({
  accepted: Type.Integer({ description: 'Records that were counted' }),
  duplicates: Type.Integer({ description: 'Records whose id had already been counted' }),
  quotas: quotaStates,
}));
export type UsageRecorded = Static<typeof UsageRecorded>;

const batch = { instanceId: Type.String({ maxLength: 64 }), records };
/** Answered when the records are durable: the batch is counted as a whole or not at all. Needs the license key. */
export class ReportUsage extends command('usage.report', { licenseKey, ...batch }, UsageRecorded) {}
/** The records of a heartbeat, from a service that has checked the license: counted as far as possible. `refused`: ids of records not counted. */
const UsageTaken = Type.Object({ ...UsageRecorded.properties, refused: listOf(Type.String()) });
export type UsageTaken = Static<typeof UsageTaken>;
export class RecordUsage extends command('usage.record', { licenseId: ids.license, ...batch }, UsageTaken) {}

export const UsageBucket = named('UsageBucket', Type.Object({
  from: instant,
  to: instant,
  peak: Type.Number({ description: 'Gauge: the highest sum over all instances at one moment' }),
  sum: Type.Number({ description: 'Counter: the sum of all records' }),
}));
/** How long a gateway waits for what is read from millions of readings. The reader stops a little earlier, so that its refusal arrives. */
export const USAGE_READ_WITHIN_MS = 30_000;

/** Whole hours, days or months (UTC) that have a part between `from` and `to`, at most 750 of them. By default what led up to now. */
export class UsageSeries extends query('usage.series', {
  licenseId: ids.license, meter, from: optional(instant), to: optional(instant), bucket: optional(oneOf('hour', 'day', 'month')),
}, Type.Object({ data: listOf(UsageBucket) })) {}

const reading = Type.Object({ id: Type.String(), value: Type.Number(), at: instant, receivedAt: instant });
/** Why did that day count so much: the readings in force at the moment of the peak, or, of a counter, all of the day. */
export class ExplainUsage extends query('usage.explain', { licenseId: ids.license, meter, day: Type.String({ pattern: '^\\d{4}-\\d{2}-\\d{2}$' }) }, named('UsageExplained', Type.Object({
  meter: Type.String(),
  day,
  kind: oneOf('gauge', 'counter'),
  peak: Type.Number(),
  peakAt: nullable(instant),
  sum: Type.Number(),
  instances: listOf(Type.Object({
    instanceId: ids.activation, name: nullable(Type.String()), value: Type.Number(),
    readings: listOf(reading),
  })),
  complete: Type.Boolean({ description: 'False when there are more readings than shown' }),
}))) {}

/** The value of each meter by name, which completes the views of a license. `last` is the value a quota was last compared with. */
const meters = Type.Record(Type.String(), Type.Object({
  today: Type.Number(), month: Type.Number(), last: Type.Object({ gauge: nullable(Type.Number()), day: Type.Number(), month: Type.Number() }),
}));
export const MeterReadings = Type.Record(Type.String(), meters, { description: 'By license id' });
export type MeterReadings = Static<typeof MeterReadings>;
/** `meters`: the meters asked for; a license may have very many others. */
export class ReadMeters extends query('usage.meters', { licenseIds: listOf(ids.license), meters: optional(listOf(Type.String())) }, MeterReadings) {
  static override readonly direct = true;
}

/** Days of meters that are to be compared with their quotas: each falls due at its end, and again when something late is read of it. `id` is the license's. */
export class DueUsageBacklog extends query('usage.due-backlog', dueRange, Backlog) {}
export class DueUsage extends query('usage.due', { ...dueRange, limit: Type.Integer() }, Type.Object({ data: listOf(Type.Object({ id: ids.license, dueAt: instant })) })) {}
/**
 * Compares what has fallen due of these licenses by `until`, and answers the events by type. Idempotent; a dry run only says what would happen.
 * A quota that is no longer exceeded is not restricted, so usage comes before what is due of the licenses themselves.
 */
export class EvaluateQuotas extends command('usage.evaluate-quotas', { licenseIds: listOf(ids.license), until: instant, dryRun: Type.Boolean() }, Type.Record(Type.String(), Type.Integer())) {}

/** The peak of a closed day, decided upon by the license. `since`: when the day was compared; the grace counts from then. `readings` explain the peak. */
export class ExceedQuota extends command('license.exceed-quota', {
  licenseId: ids.license, meter: Type.String(), peak: Type.Number(), limit: Type.Number(), since: instant, readings: json,
}, Type.Object({ events: listOf(Type.String()) })) {
  readonly type = 'ExceedQuota';
}
export class RestoreQuota extends command('license.restore-quota', { licenseId: ids.license, meter: Type.String(), peak: Type.Number() }, Type.Object({ events: listOf(Type.String()) })) {
  readonly type = 'RestoreQuota';
}
