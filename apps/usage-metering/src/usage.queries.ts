import { Injectable } from '@nestjs/common';
import { ExplainUsage, ReadMeters, USAGE_READ_WITHIN_MS, UsageSeries, type MeterReadings } from '@keyledger/contracts';
import {
  bucketsBetween, dayOf, endOf, GaugePeaks, inForceAt, instantIn, isDay, kindOf, MILLION, startOf, useOf,
  type Bucket, type Counted, type Day, type IssuedLicense, type Peak, type SeatEnds, type Span,
} from '@keyledger/domain';
import { addDays, context, refuse, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { leadIn, UsageLedger, type KeptReading } from './ledger.ts';
import { Licenses, seatEnds } from './licenses.ts';

/** Peaks and sums of readings, read from the ledger page by page. */
@Injectable()
export class Meters {
  constructor(private readonly ledger: UsageLedger) {}

  /** The last days, of these meters or of all: enough for this month and for the last comparison. */
  async of(licenseIds: readonly LicenseId[], named?: readonly string[]): Promise<MeterReadings> {
    if (licenseIds.length === 0) return {};
    const { now } = context();
    const days = await this.ledger.daysOfAll(licenseIds, dayOf(Date.parse(addDays(now, -DAYS_SHOWN))), { named });
    return Object.fromEntries([...Map.groupBy(days, ({ licenseId }) => licenseId)].map(([licenseId, own]) =>
      [licenseId, Object.fromEntries([...Map.groupBy(own, ({ meter }) => meter)].map(([meter, read]) => [meter, useOf(read, Date.parse(now))]))]));
  }

  /** Gauge peaks. */
  async peaks(licenseId: LicenseId, meter: string, spans: readonly Span[], ends: SeatEnds, patientUntil?: number): Promise<readonly (Peak | undefined)[]> {
    const [first, last] = [spans[0], spans.at(-1)];
    if (!first || !last) return [];
    const peaks = new GaugePeaks(spans, ends);
    for await (const page of this.ledger.readings(licenseId, meter, leadIn(first.from), last.to, patientUntil)) for (const reading of page) peaks.take(reading);
    return peaks.result();
  }

  /** The readings that made up the sum at a moment. */
  async inForce(licenseId: LicenseId, meter: string, moment: number, ends: SeatEnds, patientUntil?: number): Promise<readonly KeptReading[]> {
    const readings: KeptReading[] = [];
    for await (const page of this.ledger.readings(licenseId, meter, leadIn(moment), moment + 1, patientUntil)) readings.push(...page);
    return inForceAt(moment, readings, ends) as readonly KeptReading[];
  }

  /** Of a counter: what each instance has used in the span. */
  async counted(licenseId: LicenseId, meter: string, { from, to }: Span): Promise<ReadonlyMap<string, Counted>> {
    const used = new Map<string, Counted>();
    for await (const page of this.ledger.readings(licenseId, meter, from, to)) {
      for (const { instanceId, micros } of page) {
        const known = used.get(instanceId);
        used.set(instanceId, { micros: (known?.micros ?? 0) + micros, records: (known?.records ?? 0) + 1 });
      }
    }
    return used;
  }
}
/** A month, and one more day. */
const DAYS_SHOWN = 32;

@Handles(ReadMeters)
export class MetersQuery {
  constructor(private readonly meters: Meters) {}

  execute({ licenseIds, meters }: ReadMeters) {
    return this.meters.of(licenseIds, meters);
  }
}

/** Readings that no client waits for any more would only delay its next attempt. A page under way and the refusal itself take their time, too. */
const patience = (): number => performance.now() + USAGE_READ_WITHIN_MS - 2_000;
const defaultDays: Readonly<Record<Bucket, number>> = { hour: 1, day: 30, month: 365 };

@Handles(UsageSeries)
export class SeriesQuery {
  constructor(private readonly licenses: Licenses, private readonly ledger: UsageLedger, private readonly meters: Meters) {}

  async execute({ licenseId, meter, from, to, bucket = 'day' }: UsageSeries) {
    const end = to === undefined ? context().now : instantIn('to', to);
    const start = from === undefined ? addDays(end, -defaultDays[bucket]) : instantIn('from', from);
    const spans = bucketsBetween(Date.parse(start), Date.parse(end), bucket);
    const ends = await this.licenses.load(licenseId, seatEnds);
    const found = bucket === 'hour' ? await this.#hours(licenseId, meter, spans, ends, patience()) : await this.#days(licenseId, meter, spans, ends, patience());
    return { data: spans.map((span, n) => ({ from: at(span.from), to: at(span.to), peak: found[n]?.peak ?? 0, sum: found[n]?.sum ?? 0 })) };
  }

  async #hours(licenseId: LicenseId, meter: string, spans: readonly Span[], ends: SeatEnds, patientUntil: number) {
    const [first, last] = [spans[0], spans.at(-1)];
    if (!first || !last) return [];
    const peaks = new GaugePeaks(spans, ends);
    const sums = spans.map(() => 0);
    for await (const page of this.ledger.readings(licenseId, meter, leadIn(first.from), last.to, patientUntil)) {
      for (const reading of page) {
        peaks.take(reading);
        const hour = Math.floor((reading.at - first.from) / 3_600_000);
        if (hour >= 0) sums[hour] = (sums[hour] ?? 0) + reading.micros;
      }
    }
    return peaks.result().map((peak, n) => ({ peak: peak?.value, sum: (sums[n] ?? 0) / MILLION }));
  }

  /** A compared day keeps its peak; readings are only read for days that may have changed since, or have no peak yet. */
  async #days(licenseId: LicenseId, meter: string, spans: readonly Span[], ends: SeatEnds, patientUntil: number) {
    const [first, last] = [spans[0], spans.at(-1)];
    if (!first || !last) return [];
    const days = await this.ledger.days(licenseId, meter, dayOf(first.from), dayOf(last.to - 1));
    const peaks = new Map<Day, number>();
    for (const { day, peak, isDue } of days) {
      const found = isDue || peak === null ? (await this.meters.peaks(licenseId, meter, [spanOf(day)], ends, patientUntil))[0]?.value : peak;
      if (found !== undefined && found !== null) peaks.set(day, found);
    }
    return spans.map(({ from, to }) => {
      const within = days.filter(({ day }) => startOf(day) >= from && startOf(day) < to);
      return { peak: Math.max(0, ...within.map(({ day }) => peaks.get(day) ?? 0)), sum: within.reduce((sum, { sum: more }) => sum + Math.round(more * MILLION), 0) / MILLION };
    });
  }
}

/** Most readings of a counter that are shown. */
const MAX_READINGS = 1_000;

@Handles(ExplainUsage)
export class ExplainQuery {
  constructor(private readonly licenses: Licenses, private readonly ledger: UsageLedger, private readonly meters: Meters) {}

  async execute({ licenseId, meter, day }: ExplainUsage) {
    if (!isDay(day)) throw refuse('VALIDATION_FAILED', 'day is not a valid day', { errors: [{ in: 'query', pointer: '/day', detail: 'must be a day like 2026-03-12' }] });
    const { ends, names, kind } = await this.licenses.load(licenseId, (license) => ({ ends: seatEnds(license), names: instanceNames(license), kind: kindOf(license, meter) }));
    const patientUntil = patience();
    const [peak] = await this.meters.peaks(licenseId, meter, [spanOf(day)], ends, patientUntil);
    const [counted] = await this.ledger.days(licenseId, meter, day, day);
    const { readings, complete } = kind === 'counter' ? await this.#allOf(licenseId, meter, day)
      : { readings: peak ? await this.meters.inForce(licenseId, meter, peak.at, ends, patientUntil) : [], complete: true };
    const instances = [...Map.groupBy(readings, ({ instanceId }) => instanceId)].map(([instanceId, own]) => ({
      instanceId: instanceId as ActivationId, name: names.get(instanceId) ?? null, value: own.reduce((sum, { micros }) => sum + micros, 0) / MILLION,
      readings: own.map(({ id, at: readAt, micros, receivedAt }) => ({ id, value: micros / MILLION, at: at(readAt), receivedAt: at(receivedAt) })),
    }));
    return { meter, day, kind, peak: peak?.value ?? 0, peakAt: peak ? at(peak.at) : null, sum: counted?.sum ?? 0, instances: instances.sort((a, b) => b.value - a.value), complete };
  }

  async #allOf(licenseId: LicenseId, meter: string, day: Day): Promise<{ readings: readonly KeptReading[]; complete: boolean }> {
    for await (const page of this.ledger.readings(licenseId, meter, startOf(day), endOf(day))) return { readings: page.slice(0, MAX_READINGS), complete: page.length <= MAX_READINGS };
    return { readings: [], complete: true };
  }
}

const instanceNames = ({ activations }: IssuedLicense): ReadonlyMap<string, string | null> => new Map([...activations].map(([id, { name }]) => [id, name]));
export const spanOf = (day: Day): Span => ({ from: startOf(day), to: endOf(day) });
const at = (ms: number): Instant => new Date(ms).toISOString();
