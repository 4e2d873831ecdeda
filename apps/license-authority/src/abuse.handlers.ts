import { GetAbuseRules, LicenseDenials, ListDenials, ReportUnknownKeys, SetAbuseRules } from '@keyledger/contracts';
import { instantIn, issued } from '@keyledger/domain';
import { addDays, addSeconds, context, type Instant, type LicenseId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { StateDatabases } from '@keyledger/read-models';
import { AbuseStreams, machinesThere, Sightings } from './sightings.ts';
import { Licenses } from './streams.ts';

@Handles(GetAbuseRules, SetAbuseRules)
export class AbuseRuleCommands {
  constructor(private readonly streams: AbuseStreams) {}

  execute(message: GetAbuseRules | SetAbuseRules) {
    const { environment } = context();
    return message instanceof SetAbuseRules ? this.streams.rules.run(environment, { type: 'Set', rules: message.rules }, (rules) => ({ rules })) : this.streams.rules.load(environment, (rules) => ({ rules }));
  }
}

@Handles(ReportUnknownKeys)
export class UnknownKeyReports {
  constructor(private readonly sightings: Sightings) {}

  execute({ addresses }: ReportUnknownKeys): null {
    for (const { address, count } of addresses) this.sightings.refused('', address, count);
    return null;
  }
}

const usualDays = 30;

/** Refused seats. Those this process has seen are included at once, those of other processes after a second. */
@Handles(LicenseDenials, ListDenials)
export class DenialQueries {
  constructor(private readonly databases: StateDatabases, private readonly sightings: Sightings, private readonly licenses: Licenses) {}

  async execute(query: LicenseDenials | ListDenials) {
    const { now } = context();
    const to = query.to === undefined ? addSeconds(now, 60) : instantIn('to', query.to);
    const from = query.from === undefined ? addDays(to, -usualDays) : instantIn('from', query.from);
    await this.sightings.write();
    return query instanceof LicenseDenials ? this.#ofLicense(query.licenseId, from, to) : this.#all(from, to, query.limit ?? 25);
  }

  async #ofLicense(licenseId: LicenseId, from: Instant, to: Instant) {
    await this.licenses.load(licenseId, issued);
    const { rows } = await this.databases.here().run<Counts & { day: string }>(
      `select substr(hour, 1, 10) as day, sum(count) as denials, ${machinesThere} as machines from authority_refusals
        where license_id = ? and ${within} group by substr(hour, 1, 10) order by 1`, [licenseId, ...placesIn(from, to)]);
    return { data: rows.map(({ day, ...counts }) => ({ day, ...counted(counts) })) };
  }

  async #all(from: Instant, to: Instant, limit: number) {
    const database = this.databases.here();
    const [{ rows }, { rows: [unknown] }, { rows: hours }] = await Promise.all([
      database.run<Counts & { license_id: LicenseId; last_at: Instant }>(
        `select license_id, sum(count) as denials, ${machinesThere} as machines, max(last_at) as last_at from authority_refusals
          where license_id <> '' and ${within} group by license_id order by 3 desc, 2 desc, 1 limit ?`, [...placesIn(from, to), limit]),
      database.run<{ requests: number | null; addresses: number }>(
        `select sum(count) as requests, ${machinesThere} as addresses from authority_refusals where license_id = '' and ${within}`, placesIn(from, to)),
      database.run<{ hour: Instant; requests: number | string; addresses: number | string; days: number | string }>(
        `select hour, sum(count) as requests, ${machinesThere} as addresses, sum(case when machine = 'all' then 1 else 0 end) as days from authority_refusals
          where license_id = '' and ${within} group by hour order by hour`, placesIn(from, to)),
    ]);
    return {
      data: rows.map(({ license_id: licenseId, last_at: lastAt, ...counts }) => ({ licenseId, ...counted(counts), lastAt })),
      unknownKeys: {
        requests: Number(unknown?.requests ?? 0), addresses: Number(unknown?.addresses ?? 0),
        hours: hours.map(({ hour, requests, addresses, days }) => ({ from: hour, to: addSeconds(hour, Number(days) > 0 ? 86_400 : 3_600), requests: Number(requests), addresses: Number(addresses) })),
      },
    };
  }
}

/** Seats refused in the period, to the hour; old ones, to the day. */
const within = 'hour >= ? and last_at >= ? and first_at < ?';
const placesIn = (from: Instant, to: Instant): readonly string[] => [from.slice(0, 10), from, to];

/** PostgreSQL writes sums as text. */
interface Counts { denials: number | string; machines: number | string }
const counted = ({ denials, machines }: Counts) => ({ denials: Number(denials), machines: Number(machines), retries: Math.max(0, Number(denials) - Number(machines)) });
