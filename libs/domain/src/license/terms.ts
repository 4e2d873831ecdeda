import { addCalendar, addDays, instantOf, malformed, refuse, type CalendarUnit, type Instant, type JsonObject } from '@keyledger/kernel';
import { checkMetadata } from '../metadata.ts';

/** `true` (included), a cap, or a cap per calendar day or month (UTC). */
export type Feature = true | number | { readonly limit: number; readonly per: 'day' | 'month' };
export type Features = Readonly<Record<string, Feature>>;
export type Quota = {
  readonly meter: string;
  readonly limit: number;
  /** Makes the meter a counter. Without it, the meter is a gauge, and its daily peak counts. */
  readonly per?: 'day' | 'month' | undefined;
};
/** A product defines its meters once for all quotas: without `per` a gauge, else a counter. */
export type Meter = Pick<Quota, 'meter' | 'per'> & { readonly unit?: string | undefined };
export type Expiry = {
  readonly value: number;
  readonly unit: CalendarUnit;
};

/** The terms of a license. Copied from the plan when it is issued, and its own from then on. */
export type Terms = {
  /** -1 is unlimited; else 1 to 10000. */
  readonly activationLimit: number;
  readonly effectiveAt: Instant | null;
  /** Calendar time from the basis on; null is lifetime. */
  readonly expiry: Expiry | null;
  /** `deployment` counts like `firstActivation`: a license serves one deployment, which starts with its first activation. */
  readonly expiryBasis: 'purchase' | 'firstActivation' | 'deployment' | 'fixed';
  /** The first instant at which the license is past its time. A date given here wins over `expiry`. Null: lifetime, or not counting yet. */
  readonly expiresAt: Instant | null;
  readonly expiryGraceDays: number;
  readonly overageGraceDays: number;
  readonly offlineGraceDays: number;
  /** Ends the license so many days after its first activation, at most 90; an earlier date still counts. */
  readonly trial: { readonly days: number } | null;
  readonly validationMode: 'online' | 'heartbeat' | 'offline';
  readonly heartbeatIntervalSeconds: number;
  readonly deploymentMode: string | null;
  readonly deploymentId: string | null;
  readonly binding: 'none' | 'fingerprint';
  readonly seats: 'node-locked' | 'floating';
  readonly features: Features;
  readonly quotas: readonly Quota[];
  readonly featureFlags: JsonObject;
  readonly serialNumber: string | null;
  readonly expiredEnforcement: 'READ_ONLY' | 'LOCKED';
};

/** Terms as given: omitted ones keep their default, instants may be in any spelling of RFC 3339. */
export type TermsInput = { readonly [Name in keyof Terms]?: Terms[Name] | undefined };

const UNLIMITED = -1;
const MAX_ACTIVATION_LIMIT = 10_000;
export const MAX_TRIAL_DAYS = 90;
/** In bytes of JSON in UTF-8: a hundred licenses fit into one message. */
const FEATURES_LIMIT = 32_768;

export const defaultTerms: Terms = {
  activationLimit: UNLIMITED, effectiveAt: null, expiry: null, expiryBasis: 'purchase', expiresAt: null,
  expiryGraceDays: 0, overageGraceDays: 7, offlineGraceDays: 14, trial: null,
  validationMode: 'online', heartbeatIntervalSeconds: 3600, deploymentMode: null, deploymentId: null,
  binding: 'none', seats: 'node-locked', features: {}, quotas: [], featureFlags: {}, serialNumber: null, expiredEnforcement: 'READ_ONLY',
};

const names = Object.keys(defaultTerms) as (keyof Terms)[];

/** Complete terms. Refuses with LIMIT_OUT_OF_RANGE, TRIAL_TOO_LONG, or VALIDATION_FAILED with the fields that are wrong. */
export function termsOf(input: TermsInput): Terms {
  const given = Object.fromEntries(names.filter((name) => input[name] !== undefined).map((name) => [name, input[name]])) as TermsInput;
  const terms: Terms = { ...defaultTerms, ...given } as Terms;
  checkActivationLimit(terms.activationLimit);
  if (terms.trial && terms.trial.days > MAX_TRIAL_DAYS) throw trialTooLong(`A trial of ${terms.trial.days} days`);
  checkNumbers(terms);
  checkFeatures(terms.features);
  checkMetadata(terms.featureFlags, 'featureFlags');
  checkQuotas(terms.quotas);
  if (terms.expiryBasis === 'fixed' && terms.expiry && !terms.expiresAt) throw malformed('expiresAt', 'is needed when expiryBasis is fixed');
  return {
    ...terms,
    effectiveAt: terms.effectiveAt && instantIn('effectiveAt', terms.effectiveAt),
    expiresAt: terms.expiresAt && instantIn('expiresAt', terms.expiresAt),
  };
}

/** Complete terms of a license to be issued now. Refuses with EXPIRY_IN_PAST for a past date, and like `termsOf`. */
export function mustBeIssuable(input: TermsInput, now: Instant): Terms {
  const terms = termsOf(input);
  if (terms.expiresAt && terms.expiresAt <= now) throw expiryInPast(terms.expiresAt);
  return terms;
}

/** `own` terms override `other` ones: a request's those of a generator, and those a plan's. An end in `own` (date, length, never) replaces the other entirely. */
export function termsOver(other: Partial<Terms>, own: Partial<Terms>): Partial<Terms> {
  const isFixed = (own.expiryBasis ?? other.expiryBasis) === 'fixed';
  const saysLength = own.expiry === null || (own.expiry !== undefined && !isFixed);
  return { ...other, ...(own.expiresAt === null && { expiry: null }), ...(saysLength && { expiresAt: null }), ...own };
}

export function checkActivationLimit(limit: number): void {
  const possible = limit === UNLIMITED || (Number.isInteger(limit) && limit >= 1 && limit <= MAX_ACTIVATION_LIMIT);
  if (!possible) throw refuse('LIMIT_OUT_OF_RANGE', `activationLimit is ${limit}; it must be -1 (unlimited) or 1 to ${MAX_ACTIVATION_LIMIT}`, { limit });
}

export function checkFeatures(features: Features): void {
  const wrong = Object.entries(features).find(([, feature]) => feature !== true && !isAmount(typeof feature === 'object' ? feature?.limit : feature));
  if (wrong) throw malformed(`features/${wrong[0]}`, 'must be true, a number from 0 on, or {limit, per}');
  const size = Buffer.byteLength(JSON.stringify(features));
  if (size > FEATURES_LIMIT) throw malformed('features', `is ${size} bytes of JSON; the maximum is ${FEATURES_LIMIT}`);
}

/** A quota without a `per` takes it from the known meters. */
export const likeMeters = (quotas: readonly Quota[], meters: readonly Meter[]): readonly Quota[] => quotas.map((quota) => {
  const per = quota.per ?? meters.find(({ meter }) => meter === quota.meter)?.per;
  return per ? { ...quota, per } : quota;
});

export function checkQuotas(quotas: readonly Quota[]): void {
  const wrong = quotas.find(({ limit }) => !isAmount(limit));
  if (wrong) throw malformed('quotas', `limit of ${wrong.meter} must be a number from 0 on`);
  if (new Set(quotas.map(({ meter }) => meter)).size < quotas.length) throw malformed('quotas', 'names a meter twice');
}

function checkNumbers(terms: Terms): void {
  const days = (['expiryGraceDays', 'overageGraceDays', 'offlineGraceDays'] as const).find((name) => !isWhole(terms[name], 0, 3650));
  if (days) throw malformed(days, 'must be 0 to 3650 whole days');
  if (terms.trial && !isWhole(terms.trial.days, 1, MAX_TRIAL_DAYS)) throw malformed('trial/days', `must be 1 to ${MAX_TRIAL_DAYS} whole days`);
  if (terms.expiry && !isWhole(terms.expiry.value, 1, 36_500)) throw malformed('expiry/value', 'must be 1 to 36500');
  if (!isWhole(terms.heartbeatIntervalSeconds, 10, 2_592_000)) throw malformed('heartbeatIntervalSeconds', 'must be 10 to 2592000 seconds');
}

const isWhole = (value: number, least: number, most: number): boolean => Number.isInteger(value) && value >= least && value <= most;
const isAmount = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value) && value >= 0;

export const trialTooLong = (what: string) => refuse('TRIAL_TOO_LONG', `${what} is longer than ${MAX_TRIAL_DAYS} days from the first activation`, { limit: MAX_TRIAL_DAYS });

export const expiryInPast = (expiresAt: Instant) => refuse('EXPIRY_IN_PAST', `${expiresAt} is not in the future`, { expiresAt });

/** The internal spelling; VALIDATION_FAILED if it is no instant. */
export function instantIn(field: string, value: string): Instant {
  const instant = instantOf(value);
  if (!instant) throw malformed(field, 'is not an RFC 3339 instant');
  return instant;
}

/** When a license with these terms expires, as far as known before its activation. A backdated purchase may end in the past. */
export function expiresAtIssue({ expiresAt, expiry, expiryBasis }: Terms, purchasedAt: Instant): Instant | null {
  if (expiresAt || !expiry) return expiresAt;
  return expiryBasis === 'purchase' ? within(addCalendar(purchasedAt, expiry.value, expiry.unit)) : null;
}

/** Whether its time begins only with the first activation. */
export const expiryWaits = ({ expiresAt, expiry, expiryBasis }: Terms): boolean =>
  expiry !== null && !expiresAt && (expiryBasis === 'firstActivation' || expiryBasis === 'deployment');

/** When it expires, after its first activation. */
export function expiresAtFirstActivation(terms: Terms, at: Instant): Instant | null {
  const { expiresAt, expiry, trial } = terms;
  const end = expiry && expiryWaits(terms) ? within(addCalendar(at, expiry.value, expiry.unit)) : expiresAt;
  if (!trial) return end;
  const trialEnd = within(addDays(at, trial.days));
  return end && end < trialEnd ? end : trialEnd;
}

/** Until when an expired license still works; null if it does not expire. Without a grace the same as `expiresAt`. */
export function expiryGraceEnd({ expiresAt, expiryGraceDays }: Pick<Terms, 'expiresAt' | 'expiryGraceDays'>): Instant | null {
  return expiresAt && (expiryGraceDays ? graceEnd(expiresAt, expiryGraceDays) : expiresAt);
}

export const graceEnd = (from: Instant, days: number): Instant => within(addDays(from, days));

/** Instants compare as strings, and only those up to the year 9999 do: a sum beyond is cut to the last of them. */
const within = (sum: Instant): Instant => instantOf(sum) ?? LAST_INSTANT;
export const LAST_INSTANT: Instant = '9999-12-31T23:59:59.999Z';
