import { Injectable } from '@nestjs/common';
import { DueUsage, DueUsageBacklog, EvaluateQuotas, ExceedQuota, RestoreQuota } from '@keyledger/contracts';
import {
  countsOf, dayBefore, dayOf, demandOf, endOf, evidenceOf, License, nextLook, startOf, type Day, type IssuedLicense, type Peak, type SeatEnds,
} from '@keyledger/domain';
import { context, eventId, Refusal, type LicenseId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { firstOfMonth, UsageLedger, type DueDay } from './ledger.ts';
import { Licenses, seatEnds } from './licenses.ts';
import { Meters, spanOf } from './usage.queries.ts';

type Demand = NonNullable<ReturnType<typeof demandOf>>;
interface Examined extends DueDay {
  readonly peak: Peak | undefined;
}

/** A license's days, each compared as of when it fell due: it makes no difference when somebody looks. */
@Injectable()
export class DailyComparison {
  constructor(private readonly licenses: Licenses, private readonly ledger: UsageLedger, private readonly meters: Meters, private readonly messages: MessageClient) {}

  /** Types of the events that came of it. */
  async compare(licenseId: LicenseId, until: number, dryRun: boolean): Promise<readonly string[]> {
    const due = await this.ledger.dueDays(licenseId, until);
    try {
      const ends = await this.licenses.load(licenseId, seatEnds);
      const examined = await Promise.all(due.map((day) => this.#examine(day, ends)));
      return dryRun ? await this.#foresee(licenseId, examined) : await this.#compareEach(licenseId, examined, ends);
    } catch (error) {
      if (!(error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND')) throw error;
      // It was erased while something arrived for it.
      if (!dryRun) await this.ledger.forget([licenseId]);
      return [];
    }
  }

  async #examine(due: DueDay, ends: SeatEnds): Promise<Examined> {
    const [peak] = await this.meters.peaks(due.licenseId, due.meter, [spanOf(due.day)], ends);
    return { ...due, peak };
  }

  async #compareEach(licenseId: LicenseId, examined: readonly Examined[], ends: SeatEnds): Promise<readonly string[]> {
    const happened: string[] = [];
    for (const day of examined) {
      const days = await this.#daysAround(day, examined);
      const asked = await this.licenses.load(licenseId, (license) => demandOf(license, day.meter, days, { day: day.day, at: day.dueAt }));
      if (asked) happened.push(...await this.#ask(licenseId, day, asked, ends));
      await this.ledger.settle(day, day.peak, await this.licenses.load(licenseId, (license) => again(license, day)));
    }
    return happened;
  }

  /** On a copy of the license, so that each day is compared with what the one before would have led to. */
  async #foresee(licenseId: LicenseId, examined: readonly Examined[]): Promise<readonly string[]> {
    let state = await this.licenses.load(licenseId, (license) => structuredClone(license));
    const { now, actor } = context();
    const foreseen: string[] = [];
    for (const day of examined) {
      const asked = demandOf(state, day.meter, await this.#daysAround(day, examined), { day: day.day, at: day.dueAt });
      for (const event of asked ? License.decide(state, asked, now) : []) {
        state = License.evolve(state, event, { at: now, actor }) as IssuedLicense;
        foreseen.push(event.type);
      }
    }
    return foreseen;
  }

  /** What was known of the meter when the day fell due, with the peaks that have just been found. */
  async #daysAround({ licenseId, meter, day, dueAt }: Examined, examined: readonly Examined[]) {
    const last = dayBefore(dayOf(dueAt));
    const days = await this.ledger.days(licenseId, meter, min(day, firstOfMonth(last)), last);
    const found = new Map(examined.filter((one) => one.meter === meter).map((one) => [one.day, one.peak?.value ?? null]));
    return days.map((one) => ({ ...one, peak: found.has(one.day) ? (found.get(one.day) ?? null) : one.peak }));
  }

  /** The authority decides. Its command has an id of its own for each meter and day, and the same if this is all done again. */
  async #ask(licenseId: LicenseId, { meter, day, peak }: Examined, asked: Demand, ends: SeatEnds): Promise<readonly string[]> {
    const { isNews, per } = await this.#newsOf(licenseId, meter, asked);
    if (!isNews) return [];
    const options = { context: { commandId: eventId(context().commandId, `${licenseId}/${meter}/${day}`) } };
    if (asked.type === 'RestoreQuota') return (await this.messages.send(RestoreQuota, { licenseId, meter, peak: asked.peak ?? 0 }, options)).events;
    const { limit, since = context().now } = asked;
    const from = per === 'month' ? firstOfMonth(day) : day;
    const readings = per ? countsOf(from, day, await this.meters.counted(licenseId, meter, { from: startOf(from), to: endOf(day) }))
      : peak ? evidenceOf(day, peak, await this.meters.inForce(licenseId, meter, peak.at, ends)) : { day };
    return (await this.messages.send(ExceedQuota, { licenseId, meter, peak: asked.peak, limit, since, readings }, options)).events;
  }

  /** Most days of a license that is over its quota are no news. */
  #newsOf(licenseId: LicenseId, meter: string, asked: Demand) {
    const { now } = context();
    return this.licenses.load(licenseId, (license) => ({ isNews: License.decide(license, asked, now).length > 0, per: license.terms.quotas.find((quota) => quota.meter === meter)?.per }));
  }
}

/** Licenses that are compared at the same time. */
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

  /** One license that cannot be compared does not keep the others from it; it stays due. Nobody can be, if nobody answers. */
  async #compare(licenseId: LicenseId, until: number, dryRun: boolean): Promise<readonly string[]> {
    try {
      return await this.daily.compare(licenseId, until, dryRun);
    } catch (error) {
      if (error instanceof Refusal && error.status === 503) throw error;
      this.log.error({ err: error, licenseId }, 'usage could not be compared with the quotas');
      return [];
    }
  }
}

@Handles(DueUsage, DueUsageBacklog)
export class DueUsageQueries {
  constructor(private readonly ledger: UsageLedger) {}

  async execute(query: DueUsage | DueUsageBacklog) {
    const until = Date.parse(query.until);
    const after = query.after && { dueAt: Date.parse(query.after.dueAt), id: query.after.id };
    if (query instanceof DueUsage) return { data: (await this.ledger.due(until, after, query.limit)).map(({ id, dueAt }) => ({ id, dueAt: new Date(dueAt).toISOString() })) };
    const { oldest, count } = await this.ledger.backlog(until, after);
    return { oldest: oldest === null ? null : new Date(oldest).toISOString(), count };
  }
}

function again(license: IssuedLicense, { meter, day }: Examined): { readonly day: Day; readonly dueAt: number } | undefined {
  if ((license.meters.get(meter)?.state ?? 'normal') === 'normal') return undefined;
  const next = nextLook(license, meter, day);
  return next === undefined ? undefined : { day: next, dueAt: endOf(next) };
}

const min = (a: Day, b: Day): Day => (a < b ? a : b);
