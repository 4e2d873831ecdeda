import type { Instant } from '@keyledger/kernel';
import { differs, instanceLike, isEffective, isExpired, isHeld, isInExpiryGrace, isLive, type Activation, type IssuedLicense, type LicenseState } from './state.ts';

/** FULL: everything works. WARN: everything works, but action is needed. READ_ONLY: reads go on, writes are blocked. */
export const enforcements = ['FULL', 'WARN', 'READ_ONLY', 'LOCKED'] as const;
export type Enforcement = (typeof enforcements)[number];

/** Every rule, in order of precedence, and its effect on the software. EXPIRED has the effect the terms say. */
export const verdictRules = {
  NOT_FOUND: 'LOCKED',
  REVOKED: 'LOCKED',
  EXPIRED: 'READ_ONLY',
  SUSPENDED: 'LOCKED',
  INACTIVE: 'LOCKED',
  NOT_ASSIGNED: 'LOCKED',
  NOT_YET_EFFECTIVE: 'LOCKED',
  PRODUCT_MISMATCH: 'LOCKED',
  DEPLOYMENT_MODE_MISMATCH: 'LOCKED',
  DEPLOYMENT_MISMATCH: 'LOCKED',
  INSTANCE_NOT_FOUND: 'LOCKED',
  FINGERPRINT_REQUIRED: 'LOCKED',
  FINGERPRINT_MISMATCH: 'LOCKED',
  HEARTBEAT_OVERDUE: 'LOCKED',
  FEATURE_MISSING: 'FULL',
  RESTRICTED: 'READ_ONLY',
  QUOTA_EXCEEDED: 'WARN',
  IN_EXPIRY_GRACE: 'WARN',
  VALID: 'FULL',
} as const satisfies Record<string, Enforcement>;
export type VerdictCode = keyof typeof verdictRules;

/** The texts for people. */
export const verdictDetails: Readonly<Record<VerdictCode, string>> = {
  NOT_FOUND: 'License not found',
  REVOKED: 'License Revoked',
  EXPIRED: 'License Expired',
  SUSPENDED: 'License Suspended',
  INACTIVE: 'License Inactive',
  NOT_ASSIGNED: 'The license is not assigned to a customer',
  NOT_YET_EFFECTIVE: 'The license is not yet effective',
  PRODUCT_MISMATCH: 'The license is for another product',
  DEPLOYMENT_MODE_MISMATCH: 'The license is for another deployment mode',
  DEPLOYMENT_MISMATCH: 'The license is for another deployment',
  INSTANCE_NOT_FOUND: 'The instance has no seat of this license',
  FINGERPRINT_REQUIRED: 'The license is bound to hardware: a fingerprint is needed',
  FINGERPRINT_MISMATCH: 'The license is bound to other hardware',
  HEARTBEAT_OVERDUE: 'The instance has not been heard of for too long',
  FEATURE_MISSING: 'The license does not include the feature',
  RESTRICTED: 'Over quota for longer than the grace: read only',
  QUOTA_EXCEEDED: 'Over quota; within the grace',
  IN_EXPIRY_GRACE: 'Expired; within the grace',
  VALID: 'License valid',
};
/** These leave the license valid. */
export const verdictWarnings: ReadonlySet<VerdictCode> = new Set(['RESTRICTED', 'QUOTA_EXCEEDED', 'IN_EXPIRY_GRACE']);

/** Omitted fields are not checked, but a license bound to fingerprints needs one. */
export interface Question {
  instanceId?: string;
  fingerprint?: string;
  productId?: string;
  /** Names that must all be among the license's features. */
  features?: readonly string[];
  deploymentId?: string;
  deploymentMode?: string;
}

export interface Verdict {
  readonly valid: boolean;
  /** The first of the reasons, or VALID. */
  readonly code: VerdictCode;
  /** All failing and warning rules in order of precedence. */
  readonly reasons: readonly VerdictCode[];
  /** The strictest over all reasons. */
  readonly enforcement: Enforcement;
  /** The earliest end of the running graces; null if none is running. */
  readonly graceEndsAt: Instant | null;
}

const notFound: Verdict = Object.freeze({ valid: false, code: 'NOT_FOUND', reasons: Object.freeze(['NOT_FOUND'] as const), enforcement: 'LOCKED', graceEndsAt: null });
const good: Verdict = Object.freeze({ valid: true, code: 'VALID', reasons: Object.freeze([]), enforcement: 'FULL', graceEndsAt: null });

/**
 * Is this license good? Asked tens of thousands of times a second: nothing here walks through activations.
 * `leaseEndsAt` is that of the instance asked about; undefined if it owes no heartbeats.
 */
export function verdictOf(license: LicenseState | undefined, leaseEndsAt: Instant | undefined, question: Question, now: Instant): Verdict {
  if (license?.existence !== 'issued') return notFound;
  const reasons: VerdictCode[] = [];
  judgeLicense(license, question, now, reasons);
  judgeInstance(license, leaseEndsAt, question, now, reasons);
  if (question.features && !hasFeatures(license, question.features)) reasons.push('FEATURE_MISSING');
  const overageEndsAt = judgeQuotas(license, now, reasons);
  const inGrace = isInExpiryGrace(license, now);
  if (inGrace) reasons.push('IN_EXPIRY_GRACE');

  const [code] = reasons;
  if (!code) return good;
  const graceEndsAt = inGrace ? earlier(license.worksUntil, overageEndsAt) : overageEndsAt;
  return { valid: verdictWarnings.has(code), code, reasons, enforcement: strictest(license, reasons), graceEndsAt };
}

/**
 * The next instant at which a verdict, or what a client sees of the license, may change although nothing happens; null if there is none. Assumes that
 * the instance owes no heartbeats and nothing is metered: both change without an event of the license.
 */
export function changesAt({ worksUntil, terms: { expiresAt, effectiveAt }, holds, meters }: IssuedLicense, now: Instant): Instant | null {
  const instants = [worksUntil, expiresAt, effectiveAt, ...holds.map(({ until }) => until), ...[...meters.values()].map(({ graceEndsAt }) => graceEndsAt)];
  return instants.reduce<Instant | null>((next, instant) => (instant && instant > now ? earlier(instant, next) : next), null);
}

/** The activation a question is about: the one it names, else the one with its fingerprint. Only live ones. */
export function instanceAsked(license: IssuedLicense, { instanceId, fingerprint }: Question): Activation | undefined {
  const activation = instanceId ? license.activations.get(instanceId as Activation['id']) : instanceLike(license, { fingerprint });
  return isLive(activation) ? activation : undefined;
}

function judgeLicense(license: IssuedLicense, { productId, deploymentMode, deploymentId }: Question, now: Instant, reasons: VerdictCode[]): void {
  const { terms } = license;
  if (license.revokedAt) reasons.push('REVOKED');
  if (isExpired(license, now)) reasons.push('EXPIRED');
  if (isHeld(license, 'suspended', now)) reasons.push('SUSPENDED');
  if (license.locked || isHeld(license, 'inactive', now)) reasons.push('INACTIVE');
  if (!license.customerId) reasons.push('NOT_ASSIGNED');
  if (!isEffective(license, now)) reasons.push('NOT_YET_EFFECTIVE');
  if (differs(license.productId, productId)) reasons.push('PRODUCT_MISMATCH');
  if (differs(terms.deploymentMode, deploymentMode)) reasons.push('DEPLOYMENT_MODE_MISMATCH');
  if (differs(terms.deploymentId, deploymentId)) reasons.push('DEPLOYMENT_MISMATCH');
}

/** An instance and a fingerprint in one question must belong together; a bound license needs the fingerprint of one of its instances. */
function judgeInstance(license: IssuedLicense, leaseEndsAt: Instant | undefined, question: Question, now: Instant, reasons: VerdictCode[]): void {
  const { instanceId, fingerprint } = question;
  const bound = license.terms.binding === 'fingerprint';
  const activation = instanceAsked(license, question);
  if (instanceId && !activation) reasons.push('INSTANCE_NOT_FOUND');
  if (bound && !fingerprint) reasons.push('FINGERPRINT_REQUIRED');
  else if (fingerprint && (activation ? differsFrom(activation, fingerprint, bound) : bound && !instanceId)) reasons.push('FINGERPRINT_MISMATCH');
  if (activation && leaseEndsAt !== undefined && leaseEndsAt <= now) reasons.push('HEARTBEAT_OVERDUE');
}

const differsFrom = (activation: Activation, fingerprint: string, bound: boolean): boolean =>
  activation.fingerprint !== fingerprint && (bound || activation.fingerprint !== null);

function hasFeatures({ terms }: IssuedLicense, names: readonly string[]): boolean {
  for (const name of names) if (!Object.hasOwn(terms.features, name)) return false;
  return true;
}

/** The earliest end of the running overage graces. One that is over restricts once an event records it: see `meterState`. */
function judgeQuotas({ meters }: IssuedLicense, now: Instant, reasons: VerdictCode[]): Instant | null {
  if (meters.size === 0) return null;
  let restricted = false;
  let exceeded = false;
  let endsAt: Instant | null = null;
  for (const { state, graceEndsAt } of meters.values()) {
    if (state === 'restricted') restricted = true;
    else if (state === 'exceeded') {
      exceeded = true;
      if (graceEndsAt !== null && graceEndsAt > now) endsAt = earlier(graceEndsAt, endsAt);
    }
  }
  if (restricted) reasons.push('RESTRICTED');
  if (exceeded) reasons.push('QUOTA_EXCEEDED');
  return endsAt;
}

const earlier = (a: Instant | null, b: Instant | null): Instant | null => (a === null || (b !== null && b < a) ? b : a);

function strictest({ terms }: IssuedLicense, reasons: readonly VerdictCode[]): Enforcement {
  let level = 0;
  for (const code of reasons) level = Math.max(level, enforcements.indexOf(code === 'EXPIRED' ? terms.expiredEnforcement : verdictRules[code]));
  return enforcements[level] ?? 'LOCKED';
}
