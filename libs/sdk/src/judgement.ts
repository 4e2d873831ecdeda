import type { LicensedTerms } from '@keyledger/license-file';
import { infoOf, intervalMsOf, termsOf, type LicenseInfo } from './info.ts';
import { contactOf, needsLease, type State } from './state.ts';
import { timeOf, type Reading } from './time.ts';

/** FULL: everything works. WARN: everything works, the license needs attention. READ_ONLY: reads go on, writes are blocked. */
export const enforcements = ['FULL', 'WARN', 'READ_ONLY', 'LOCKED'] as const;
export type Enforcement = (typeof enforcements)[number];

/** In order of precedence: the server's, and two that only an instance can find out, NOT_ACTIVATED and IN_OFFLINE_GRACE. */
const rules = {
  NOT_ACTIVATED: ['LOCKED', 'Nothing signed has been seen of this license yet'],
  NOT_FOUND: ['LOCKED', 'License not found'],
  REVOKED: ['LOCKED', 'License Revoked'],
  EXPIRED: ['READ_ONLY', 'License Expired'],
  SUSPENDED: ['LOCKED', 'License Suspended'],
  INACTIVE: ['LOCKED', 'License Inactive'],
  NOT_ASSIGNED: ['LOCKED', 'The license is not assigned to a customer'],
  NOT_YET_EFFECTIVE: ['LOCKED', 'The license is not yet effective'],
  PRODUCT_MISMATCH: ['LOCKED', 'The license is for another product'],
  DEPLOYMENT_MODE_MISMATCH: ['LOCKED', 'The license is for another deployment mode'],
  DEPLOYMENT_MISMATCH: ['LOCKED', 'The license is for another deployment'],
  INSTANCE_NOT_FOUND: ['LOCKED', 'The instance has no seat of this license'],
  FINGERPRINT_REQUIRED: ['LOCKED', 'The license is bound to hardware: a fingerprint is needed'],
  FINGERPRINT_MISMATCH: ['LOCKED', 'The license is bound to other hardware'],
  HEARTBEAT_OVERDUE: ['LOCKED', 'The license server has not been reached for too long'],
  RESTRICTED: ['READ_ONLY', 'Over quota for longer than the grace: read only'],
  QUOTA_EXCEEDED: ['WARN', 'Over quota; within the grace'],
  IN_EXPIRY_GRACE: ['WARN', 'Expired; within the grace'],
  IN_OFFLINE_GRACE: ['WARN', 'The license server is not reached; within the grace'],
  VALID: ['FULL', 'License valid'],
} as const satisfies Record<string, readonly [Enforcement, string]>;
/** Codes of a newer server are passed on as they are. */
export type Code = keyof typeof rules | (string & {});
const precedence = Object.keys(rules);
const warnings: ReadonlySet<string> = new Set(['RESTRICTED', 'QUOTA_EXCEEDED', 'IN_EXPIRY_GRACE', 'IN_OFFLINE_GRACE']);

interface Standing {
  /** The first of the reasons, or VALID. */
  readonly code: Code;
  /** All failing and warning rules, in order of precedence. */
  readonly reasons: readonly Code[];
  /** For people. */
  readonly detail: string;
  readonly enforcement: Enforcement;
  /** `grace`: everything works, and a grace is running out. `restricted`: reads go on, writes are blocked. */
  readonly state: 'active' | 'grace' | 'restricted' | 'locked';
  /** When the first of the running graces ends. */
  readonly graceUntil: string | null;
  /** When the license locks if the server is not reached; null: never, or there is nothing to lock. */
  readonly offlineUntil: string | null;
  /** When the newest lease, verdict or file was signed. */
  readonly contactAt: string | null;
  readonly expiresAt: string | null;
  /** Whole days until the license expires, at least 0; null for a lifetime license. */
  readonly daysRemaining: number | null;
  readonly unreachable: boolean;
  /** The license's revision. */
  readonly seq: number;
  /** The time of the judgement, by the license's own reckoning, not by the wall clock. */
  readonly at: string;
}
export type Judgement = Standing & ({ readonly valid: true } | { readonly valid: false });

const day = 86_400_000;
const isoOf = (ms: number): string => new Date(ms).toISOString();

export interface Limits {
  /** Only ever shortens the signed grace. 0: to the time of two heartbeats. */
  readonly offlineGraceMs?: number;
  /** There is no server to ask: the installed file is the last word, and its grace runs from the start. */
  readonly asksNobody?: boolean;
}

export function judge(state: State, reading: Reading, { offlineGraceMs = Infinity, asksNobody = false }: Limits = {}): Judgement {
  const now = timeOf(state.time, reading);
  const info = infoOf(state);
  const contactAt = contactOf(state);
  const until = shortened(offlineUntilOf(state), contactAt, offlineGraceMs || betweenAnswers(termsOf(state)));
  const verdict = state.said?.verdict;
  const reasons = new Set<string>(verdict?.reasons.filter((code) => code !== 'FEATURE_MISSING'));
  if (verdict && !verdict.valid && reasons.size === 0) reasons.add(verdict.code);
  for (const code of ownReasons(state, info, until, now, asksNobody)) reasons.add(code);

  const sorted = [...reasons].sort((a, b) => rankOf(a) - rankOf(b));
  const code = sorted[0] ?? 'VALID';
  const own = sorted.map((reason) => (reason === 'EXPIRED' ? expiredEnforcement(state) : (rules[reason as keyof typeof rules]?.[0] ?? 'FULL')));
  const enforcement = strictest([...own, ...(verdict ? [verdict.enforcement] : [])]);
  const graces = [verdict?.graceEndsAt, reasons.has('IN_EXPIRY_GRACE') ? expiryGraceEnd(state, info) : null, reasons.has('IN_OFFLINE_GRACE') ? until : null, ...overageEnds(state, info)]
    .map((end) => (typeof end === 'string' ? Date.parse(end) : end)).filter((end) => typeof end === 'number' && end > now) as number[];
  const expiresAt = info?.expiresAt ?? null;
  const valid = sorted.every((reason) => warnings.has(reason) || (verdict?.valid === true && verdict.reasons.includes(reason)));
  return {
    code, reasons: sorted, detail: rules[code as keyof typeof rules]?.[1] ?? code, enforcement, state: stageOf(enforcement, graces.length > 0),
    graceUntil: graces.length > 0 ? isoOf(Math.min(...graces)) : null, offlineUntil: until !== null && Number.isFinite(until) ? isoOf(until) : null,
    contactAt: contactAt === null ? null : isoOf(contactAt), expiresAt, daysRemaining: expiresAt === null ? null : Math.max(0, Math.ceil((Date.parse(expiresAt) - now) / day)),
    unreachable: state.unreachable, seq: state.seq, at: isoOf(now), valid,
  };
}

const rankOf = (code: string): number => (precedence.includes(code) ? precedence.indexOf(code) : 0.5);
const strictest = (all: readonly Enforcement[]): Enforcement => enforcements[Math.max(0, ...all.map((one) => enforcements.indexOf(one)))] ?? 'LOCKED';
const stageOf = (enforcement: Enforcement, inGrace: boolean): Standing['state'] =>
  (enforcement === 'LOCKED' ? 'locked' : enforcement === 'READ_ONLY' ? 'restricted' : inGrace ? 'grace' : 'active');

/** Reasons from the time that has passed since the signatures, and from what the instance knows itself. They only make the verdict stricter. */
function* ownReasons(state: State, info: LicenseInfo | null, until: number | null, now: number, asksNobody: boolean): Generator<keyof typeof rules> {
  if (!info || until === null) {
    if (state.said?.verdict.valid !== false) yield 'NOT_ACTIVATED';
    return;
  }
  if (info.effectiveAt !== null && Date.parse(info.effectiveAt) > now) yield 'NOT_YET_EFFECTIVE';
  if (info.expiresAt !== null && Date.parse(info.expiresAt) <= now) {
    // Without terms the license's grace is unknown: the server has the last word.
    if ((expiryGraceEnd(state, info) ?? Infinity) <= now) yield 'EXPIRED';
    else yield 'IN_EXPIRY_GRACE';
  }
  if (overageEnds(state, info).some((end) => end <= now)) yield 'RESTRICTED';
  if (until <= now) yield 'HEARTBEAT_OVERDUE';
  else if ((state.unreachable || asksNobody) && state.said?.verdict.enforcement !== 'LOCKED' && Number.isFinite(until)) yield 'IN_OFFLINE_GRACE';
}

/**
 * The server tells only some time after the end of an overage grace whether the quota was exceeded until then. An instance has a day to hear it, from
 * that end or from the last verdict that did not know yet; an instance that hears nothing is restricted.
 */
const overageEnds = ({ said }: State, info: LicenseInfo | null): number[] => (info?.quotas ?? []).flatMap(({ state, graceEndsAt }) =>
  (state === 'exceeded' && graceEndsAt ? [Math.max(Date.parse(graceEndsAt), said?.at ?? 0) + day] : []));

const expiredEnforcement = (state: State): Enforcement => {
  if (state.said?.verdict.reasons.includes('EXPIRED')) return 'READ_ONLY'; // the verdict's own enforcement is added to it
  return termsOf(state)?.expiredEnforcement ?? 'READ_ONLY';
};

function expiryGraceEnd(state: State, info: LicenseInfo | null): number | null {
  const terms = termsOf(state);
  return terms && info?.expiresAt ? Date.parse(info.expiresAt) + terms.expiryGraceDays * day : null;
}

/** A license without an offline grace still has the time between two answers, which the server counts the same. */
const betweenAnswers = (terms: LicensedTerms | null): number => 2 * intervalMsOf(terms);

/**
 * Until when the instance may work without the server, by what was signed; null if nothing was. An instance that must send heartbeats or has a
 * floating seat lives on the lease alone. The file of an `offline` license is good for ever.
 */
function offlineUntilOf(state: State): number | null {
  const { lease, said, file } = state;
  const terms = termsOf(state);
  const ends: number[] = [];
  if (lease) ends.push(lease.claims.exp * 1000);
  if (file) ends.push(file.file.license.validationMode === 'offline' ? Infinity : Date.parse(file.file.issuedAt) + file.file.license.offlineGraceDays * day);
  if (said) {
    if (said.from === 'offline-file' || !terms) ends.push(said.until);
    else if (!needsLease(terms)) ends.push(said.at + (terms.offlineGraceDays * day || betweenAnswers(terms)));
  }
  return ends.length > 0 ? Math.max(...ends) : null;
}

/** Shortens a wait, so that there is time for one more try before the license locks. Once it has, there is no hurry. */
export function inTime(ms: number, { offlineUntil, at }: Judgement): number {
  const left = offlineUntil === null ? Infinity : Date.parse(offlineUntil) - Date.parse(at);
  return left > 0 ? Math.min(ms, Math.max(left / 2, shortestMs)) : ms;
}
const shortestMs = 5_000;

/** Not for a license that is good for ever. */
const shortened = (until: number | null, contactAt: number | null, graceMs: number): number | null =>
  (until === null || contactAt === null || !Number.isFinite(until) ? until : Math.min(until, contactAt + graceMs));
