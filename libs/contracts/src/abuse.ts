import { abuseActions, abusePatterns } from '@keyledger/domain';
import Type from 'typebox';
import { instant, listOf, named, oneOf, optional } from './fields.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';

const patterns = Object.keys(abusePatterns) as (keyof typeof abusePatterns)[];
const rule = Type.Object({
  pattern: oneOf(...patterns),
  limit: Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'More than that is too many' }),
  action: oneOf(...abuseActions),
}, { additionalProperties: false });
const rules = Type.Object({ rules: listOf(rule) });

export class GetAbuseRules extends query('license.abuse-rules', {}, rules) {}
/** Replaces them all; each pattern has one rule at most. */
export class SetAbuseRules extends command('license.set-abuse-rules', { rules: listOf(rule, { maxItems: patterns.length }) }, rules) {}

const counts = {
  denials: Type.Integer({ description: 'Requests for a seat that were refused because there was none' }),
  machines: Type.Integer({ description: 'How many different machines were refused: so many seats were missing at most' }),
  retries: Type.Integer({ description: 'Refusals of a machine that had been refused before on the day, or, over several days, in that time' }),
};
const range = { from: optional(instant), to: optional(instant) };

/** By day (UTC), the last 30 by default; the log keeps the events, these counts are kept for a year. */
export class LicenseDenials extends query('license.denials', { licenseId: ids.license, ...range }, Type.Object({ data: listOf(named('DenialDay', Type.Object({ day: Type.String(), ...counts }))) })) {}
/** The licenses with the most machines refused, and how often somebody came with a key that nobody has. */
export class ListDenials extends query('license.list-denials', { ...range, limit: optional(Type.Integer({ minimum: 1, maximum: 100 })) }, Type.Object({
  data: listOf(named('LicenseDenials', Type.Object({ licenseId: ids.license, ...counts, lastAt: instant }))),
  unknownKeys: Type.Object({
    requests: Type.Integer(), addresses: Type.Integer({ description: 'How many different ones' }),
    hours: listOf(named('UnknownKeysHour', Type.Object({ from: instant, to: instant, requests: Type.Integer(), addresses: Type.Integer() })), { description: 'Those with any; what is older than 35 days is a day each' }),
  }),
})) {}
/** What a gateway has seen of keys that nobody has, gathered. */
export class ReportUnknownKeys extends command('license.report-unknown-keys', { addresses: listOf(Type.Object({ address: Type.String(), count: Type.Integer() })) }, Type.Null()) {}
