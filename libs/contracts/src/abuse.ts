import { abuseActions, abusePatterns } from '@keyledger/domain';
import Type from 'typebox';
import { instant, listOf, named, oneOf, optional } from './fields.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';

const patterns = Object.keys(abusePatterns) as (keyof typeof abusePatterns)[];
const rule = Type.Object({
  pattern: oneOf(...patterns),
  limit: Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'More than this triggers the action' }),
  action: oneOf(...abuseActions),
}, { additionalProperties: false });
const rules = Type.Object({ rules: listOf(rule) });

export class GetAbuseRules extends query('license.abuse-rules', {}, rules) {}
/** Replaces all rules; each pattern has at most one. */
export class SetAbuseRules extends command('license.set-abuse-rules', { rules: listOf(rule, { maxItems: patterns.length }) }, rules) {}

const counts = {
  denials: Type.Integer({ description: 'Requests for a seat refused because none was free' }),
  machines: Type.Integer({ description: 'Number of different machines refused: at most so many seats were missing' }),
  retries: Type.Integer({ description: 'Refusals of a machine that had been refused before on the same day or, in a total over several days, in that period' }),
};
const range = { from: optional(instant), to: optional(instant) };

/** By day (UTC), the last 30 by default; the log keeps the events, these counts are kept for a year. */
export class LicenseDenials extends query('license.denials', { licenseId: ids.license, ...range }, Type.Object({ data: listOf(named('DenialDay', Type.Object({ day: Type.String(), ...counts }))) })) {}
/** The licenses with the most machines refused, and how many requests came with unknown keys. */
export class ListDenials extends query('license.list-denials', { ...range, limit: optional(Type.Integer({ minimum: 1, maximum: 100 })) }, Type.Object({
  data: listOf(named('LicenseDenials', Type.Object({ licenseId: ids.license, ...counts, lastAt: instant }))),
  unknownKeys: Type.Object({
    requests: Type.Integer(), addresses: Type.Integer({ description: 'Number of different addresses' }),
    hours: listOf(named('UnknownKeysHour', Type.Object({ from: instant, to: instant, requests: Type.Integer(), addresses: Type.Integer() })), { description: 'Only hours with requests; data older than 35 days is by day' }),
  }),
})) {}
/** Requests with unknown keys, as a gateway has counted them. */
export class ReportUnknownKeys extends command('license.report-unknown-keys', { addresses: listOf(Type.Object({ address: Type.String(), count: Type.Integer() })) }, Type.Null()) {}
