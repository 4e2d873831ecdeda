import { Injectable } from '@nestjs/common';
import { DueUsage, DueUsageBacklog, EvaluateQuotas, ExceedQuota, RestoreQuota } from '@keyledger/contracts';
import {
  countsOf, dayBefore, dayOf, demandOf, endOf, evidenceOf, License, meterState, metersNamed, nextLook, startOf, type Day, type IssuedLicense, type MeterDay, type SeatEnds,
} from '@keyledger/domain';
import { context, eventId, isTransient, Refusal, type LicenseId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { firstOfMonth, UsageLedger, type DueDay, type ExaminedDay } from './ledger.ts';
import { Licenses, seatEnds } from './licenses.ts';
import { UsageReactions } from './reactions.ts';
import { Meters, spanOf } from './usage.queries.ts';

type Demand = NonNullable<ReturnType<typeof demandOf>>;

/** Compares a license's days, each as of when it fell due: it makes no difference when the sweep runs. */
@Injectable()
export class DailyComparison {
  constructor(private readonly licenses: Licenses, private readonly ledger: UsageLedger, private readonly meters: Meters, private readonly messages: MessageClient) {}

  /** Returns the types of the resulting events. */
  async compare(licenseId: LicenseId, until: number, dryRun: boolean): Promise<readonly string[]> {
    try {
      const { ends, named } = await this.licenses.load(licenseId, (license) => ({ ends: seatEnds(license), named: metersNamed(license.terms) }));
      if (dryRun) return await this.#foresee(licenseId, await this.#examine(await this.ledger.dueDays(licenseId, until, { named }), ends), ends);
      const happened: string[] = [];
      for (let isMore = true; isMore;) {
        const due = await this.ledger.dueDays(licenseId, until, { named }, DAYS_AT_ONCE);
        happened.push(...await this.#compareEach(licenseId, await this.#examine(due, ends), ends));
        isMore = due.length === DAYS_AT_ONCE;
      }
      await this.#settleOthers(licenseId, until, named, ends);
      return happened;
    } catch (error) {
      if (!(error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND')) throw error;
      // It was erased while readings arrived for it.
      if (!dryRun) await this.ledger.forget(licenseId);
      return [];
    }
  }

  /** One after the other: other licenses are examined meanwhile. */
  async #examine(due: readonly DueDay[], ends: SeatEnds): Promise<readonly ExaminedDay[]> {
    const examined: ExaminedDay[] = [];
    for (const day of due) examined.push({ ...day, peak: (await this.meters.peaks(day.licenseId, day.meter, [spanOf(day.day)], ends))[0] });
    return examined;
  }

  /** Days of meters the license does not name. A client that invents a meter per request makes very many: beyond the first, peaks are only computed on request. */
  async #settleOthers(licenseId: LicenseId, until: number, named: readonly string[], ends: SeatEnds): Promise<void> {
    const due = await this.ledger.dueDays(licenseId, until, { notNamed: named }, DAYS_AT_ONCE);
    if (due.length === 0) return;
    await this.ledger.settle(await this.#examine(due, ends));
    if (due.length === DAYS_AT_ONCE) await this.ledger.settleUnseen(licenseId, until, { notNamed: named });
  }

  async #compareEach(licenseId: LicenseId, examined: readonly ExaminedDay[], ends: SeatEnds): Promise<readonly string[]> {
    const happened: string[] = [];
    for (const { deciding, all } of together(examined)) {
      const day = await this.#notBefore(deciding);
      const days = await this.#daysAround(day, examined, ends);
      const asked = await this.licenses.load(licenseId, (license) => demandOf(license, day.meter, days, { day: day.day, at: day.dueAt }));
      if (asked) happened.push(...await this.#ask(licenseId, day, asked, ends));
      await this.ledger.settle(all, await this.licenses.load(licenseId, (license) => again(license, day)));
    }
    return happened;
  }

  /** No day is compared as of a moment before the meter's last comparison: one that stayed due because of new readings is late by now. */
  async #notBefore(due: ExaminedDay): Promise<ExaminedDay> {
    const compared = await this.ledger.comparedFrom(due.licenseId, due.meter, dayOf(due.dueAt));
    return compared ? { ...due, dueAt: endOf(compared) } : due;
  }

  /** On a copy of the license, so that each day is compared with what the one before would have led to. */
  async #foresee(licenseId: LicenseId, examined: readonly ExaminedDay[], ends: SeatEnds): Promise<readonly string[]> {
    let state = await this.licenses.load(licenseId, (license) => structuredClone(license));
    const { now, actor } = context();
    const foreseen: string[] = [];
    for (const { deciding } of together(examined)) {
      const day = await this.#notBefore(deciding);
      const asked = demandOf(state, day.meter, await this.#daysAround(day, examined, ends), { day: day.day, at: day.dueAt });
      for (const event of asked ? License.decide(state, asked, now) : []) {
        state = License.evolve(state, event, { at: now, actor }) as IssuedLicense;
        foreseen.push(event.type);
      }
    }
    return foreseen;
  }

  /** The meter's days known when the day fell due, with the peaks just found, and those never computed because there was no quota yet. */
  async #daysAround({ licenseId, meter, day, dueAt }: ExaminedDay, examined: readonly ExaminedDay[], ends: SeatEnds) {
    const last = lastOver(dueAt);
    const days = await this.ledger.days(licenseId, meter, min(day, firstOfMonth(last)), last);
    const found = new Map(examined.filter((one) => one.meter === meter).map((one) => [one.day, one.peak?.value ?? null]));
    const around: MeterDay[] = [];
    for (const one of days) {
      const isUnseen = one.peak === null && one.day > day && !one.isDue;
      const peak = found.has(one.day) ? found.get(one.day) : isUnseen ? (await this.meters.peaks(licenseId, meter, [spanOf(one.day)], ends))[0]?.value : one.peak;
      around.push({ ...one, peak: peak ?? null });
    }
    return around;
  }

  /** The authority decides. Its command has an id for each meter and day, which is the same on a retry. */
  async #ask(licenseId: LicenseId, { meter, day, dueAt, peak }: ExaminedDay, asked: Demand, ends: SeatEnds): Promise<readonly string[]> {
    const { isNews, per } = await this.#newsOf(licenseId, meter, asked);
    if (!isNews) return [];
    const options = { context: { commandId: eventId(context().commandId, `${licenseId}/${meter}/${day}`) } };
    if (asked.type === 'RestoreQuota') return (await this.messages.send(RestoreQuota, { licenseId, meter, peak: asked.peak ?? 0 }, options)).events;
    const { limit, since = context().now } = asked;
    const last = lastOver(dueAt);
    const from = per === 'month' ? firstOfMonth(last) : last;
    const readings = per ? countsOf(from, last, await this.meters.counted(licenseId, meter, { from: startOf(from), to: endOf(last) }))
      : peak ? evidenceOf(day, peak, await this.meters.inForce(licenseId, meter, peak.at, ends)) : { day };
    return (await this.messages.send(ExceedQuota, { licenseId, meter, peak: asked.peak, limit, since, readings }, options)).events;
  }

  /** Most days of a license that is over its quota are no news. */
  #newsOf(licenseId: LicenseId, meter: string, asked: Demand) {
    const { now } = context();
    return this.licenses.load(licenseId, (license) => ({ isNews: License.decide(license, asked, now).length > 0, per: license.terms.quotas.find((quota) => quota.meter === meter)?.per }));
  }
}

/** Days of a license taken at once: it may have reported a whole year. */
const DAYS_AT_ONCE = 200;

/** Licenses compared at the same time. */
const AT_ONCE = 8;

@Handles(EvaluateQuotas)
export class QuotaEvaluation {
  constructor(private readonly daily: DailyComparison, private readonly log: Log) {}

  async execute({ licenseIds, until, dryRun }: EvaluateQuotas) {
    const transitions: Record<string, number> = {};
    const waiting = new Set(licenseIds).values();
    const work = async () => {
      for (const licenseId of waiting) {
        for (const type of await this.#compare(licenseId, Date.parse(until), dryRun)) transitions[type] = (transitions[type] ?? 0) + 1;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    return transitions;
  }

  /** A license that cannot be compared does not hold up the others; it stays due. A transient error fails them all. */
  async #compare(licenseId: LicenseId, until: number, dryRun: boolean): Promise<readonly string[]> {
    try {
      return await this.daily.compare(licenseId, until, dryRun);
    } catch (error) {
      if (isTransient(error)) throw error;
      this.log.error({ err: error, licenseId }, 'usage could not be compared with the quotas');
      return [];
    }
  }
}

@Handles(DueUsage, DueUsageBacklog)
export class DueUsageQueries {
  constructor(private readonly ledger: UsageLedger, private readonly reactions: UsageReactions) {}

  async execute(query: DueUsage | DueUsageBacklog) {
    await this.reactions.done();
    const until = Date.parse(query.until);
    const after = query.after && { dueAt: Date.parse(query.after.dueAt), id: query.after.id };
    if (query instanceof DueUsage) return { data: (await this.ledger.due(until, after, query.limit)).map(({ id, dueAt }) => ({ id, dueAt: new Date(dueAt).toISOString() })) };
    const { oldest, count } = await this.ledger.backlog(until, after);
    return { oldest: oldest === null ? null : new Date(oldest).toISOString(), count };
  }
}

/** Days of a meter that fell due together are compared once, as of that moment: a gauge by the last of them that has readings. */
const together = (examined: readonly ExaminedDay[]) =>
  [...Map.groupBy(examined, ({ dueAt, meter }) => `${dueAt} ${meter}`).values()].map((all) => ({ deciding: all.find(({ peak }) => peak) ?? all[0] as ExaminedDay, all }));

/** Counted from the day compared: a late day may belong to a period that is long over. */
function again(license: IssuedLicense, { licenseId, meter, dueAt }: ExaminedDay): Omit<DueDay, 'version'> | undefined {
  if (meterState(license, meter).state === 'normal') return undefined;
  const next = nextLook(license, meter, lastOver(dueAt));
  return next === undefined ? undefined : { licenseId, meter, day: next, dueAt: endOf(next) };
}

/** The last day over by then. */
const lastOver = (moment: number): Day => dayBefore(dayOf(moment));
const min = (a: Day, b: Day): Day => (a < b ? a : b);
