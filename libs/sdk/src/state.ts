import type { LeaseClaims, LicensedFeature, LicensedTerms, LicenseFile, OfflineFile, Reason, SignedVerdict, VerdictClaims } from '@keyledger/license-file';

/**
 * What an instance knows of its license, and what follows from it. Pure: nothing here has a clock, a network or a disk.
 * All that is known was read out of a verified signature, but for the passing of time, which is the subject of the second half of this file.
 */

/** FULL: everything works. WARN: everything works, somebody should act. READ_ONLY: reads go on, writes are blocked. */
export const enforcements = ['FULL', 'WARN', 'READ_ONLY', 'LOCKED'] as const;
export type Enforcement = (typeof enforcements)[number];

/** In order of precedence. Those of the server, and two that only an instance can tell: NOT_ACTIVATED and IN_OFFLINE_GRACE. */
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

export interface QuotaState {
  readonly meter: string;
  readonly limit: number;
  readonly per?: 'day' | 'month';
  readonly state?: 'normal' | 'exceeded' | 'restricted';
  readonly lastPeak?: number | null;
  readonly graceEndsAt?: string | null;
}
export type FeatureState = LicensedFeature | { readonly limit: number; readonly per: 'day' | 'month'; readonly used?: number; readonly remaining?: number };

/** The newest of what was signed about the license itself. */
export interface LicenseInfo {
  readonly id: string;
  readonly productId: string;
  readonly status: string | null;
  readonly expiresAt: string | null;
  readonly effectiveAt: string | null;
  readonly features: Readonly<Record<string, FeatureState>>;
  readonly featureFlags: Readonly<Record<string, unknown>>;
  readonly quotas: readonly QuotaState[];
  /** -1 is unlimited; null where it was not said. */
  readonly activationLimit: number | null;
  /** How many seats were taken, as of the last verdict. */
  readonly activationCount: number | null;
  /** Only license files name it. */
  readonly customer: LicenseFile['customer'];
}

/** A verdict: the answer to a question that was asked with a nonce, or an offline validation file. */
interface Said {
  readonly text: string;
  readonly from: 'network' | 'offline-file';
  readonly seq: number;
  /** When it was signed, and until when it is good by itself, in milliseconds since 1970. */
  readonly at: number;
  readonly until: number;
  readonly verdict: SignedVerdict;
  readonly license: Readonly<Record<string, unknown>> | null;
  /** Of an offline validation file. */
  readonly terms: LicensedTerms | null;
}

export interface State {
  readonly licenseId: string | null;
  /** The activation. */
  readonly instanceId: string | null;
  /** The highest license revision, and the highest lease counter of this instance, in anything signed. */
  readonly seq: number;
  readonly counter: number;
  readonly lease: { readonly text: string; readonly claims: LeaseClaims } | null;
  readonly said: Said | null;
  readonly file: { readonly text: string; readonly file: LicenseFile } | null;
  /** How often a seat was given back, or a license replaced: of two processes with one state the one that has seen more of it is right. */
  readonly epoch: number;
  /** The last attempt to reach the server failed; or heartbeats, which keep it alive, are refused for no reason that a verdict knows of. */
  readonly unreachable: boolean;
  readonly time: Time;
}

export type LicenseEvent =
  /** `renews`: for the seat that it has, and for no other. */
  | { readonly type: 'Leased'; readonly text: string; readonly claims: LeaseClaims; readonly renews?: boolean }
  /** `asked`: the clocks when the nonce was made. The answer was signed later than that. `afterRefusal`: it was asked why a heartbeat was refused. */
  | { readonly type: 'Answered'; readonly text: string; readonly claims: VerdictClaims; readonly asked: Reading; readonly afterRefusal?: boolean }
  | { readonly type: 'OfflineFileInstalled'; readonly text: string; readonly file: OfflineFile }
  | { readonly type: 'LicenseFileInstalled'; readonly text: string; readonly file: LicenseFile }
  | { readonly type: 'Unreachable' }
  /** Loaded from the store by a process that has just started. */
  | { readonly type: 'Restarted' }
  /** The server has named the instance. That is not proven, and allows nothing. */
  | { readonly type: 'Seated'; readonly instanceId: string }
  /** The seat was given back. */
  | { readonly type: 'Released' }
  /** Another license takes the place of this one. Time goes on. */
  | { readonly type: 'Replaced' }
  /** What another process of the same installation knows. */
  | { readonly type: 'Followed'; readonly state: State };

export type Applied = { readonly ok: true; readonly state: State } | { readonly ok: false; readonly reason: Extract<Reason, 'STALE' | 'WRONG_SUBJECT'> };

/** `after`: it is known to be later than that, though nobody has signed it. */
export const initial = (reading: Reading, after = 0): State =>
  ({ licenseId: null, instanceId: null, seq: 0, counter: 0, lease: null, said: null, file: null, epoch: 0, unreachable: false, time: startOfTime(reading, after) });

/** What has become known. Refuses what is older than something that was seen before, and what is about another license. */
export function apply(state: State, event: LicenseEvent, reading: Reading): Applied {
  switch (event.type) {
    case 'Leased': return leased(state, event, reading);
    case 'Answered': return answered(state, event);
    case 'OfflineFileInstalled': return offlineFileInstalled(state, event, reading);
    case 'LicenseFileInstalled': return licenseFileInstalled(state, event, reading);
    case 'Unreachable': return good({ ...state, unreachable: true });
    case 'Restarted': return good({ ...state, time: restarted(state.time, reading) });
    case 'Seated': return good(event.instanceId === state.instanceId ? state : { ...state, instanceId: event.instanceId, counter: 0, lease: null });
    case 'Released': return good({ ...state, instanceId: null, counter: 0, lease: null, said: null, epoch: state.epoch + 1, unreachable: false });
    case 'Replaced': return good({ ...initial(reading), epoch: state.epoch + 1, time: state.time });
    case 'Followed': return good(followed(state, event.state, reading));
  }
}

const good = (state: State): Applied => ({ ok: true, state });
const no = (reason: 'STALE' | 'WRONG_SUBJECT'): Applied => ({ ok: false, reason });
const isOther = ({ licenseId }: State, id: string): boolean => licenseId !== null && licenseId !== id;

/** Its `seq` may lag behind: a lease that still says what is true is given out again. It says for how long; what a verdict has refused it does not lift. */
function leased(state: State, { text, claims, renews = false }: Extract<LicenseEvent, { type: 'Leased' }>, reading: Reading): Applied {
  const sameSeat = state.instanceId === claims.sub;
  if (isOther(state, claims.license.id) || (renews && !sameSeat)) return no('WRONG_SUBJECT');
  if (sameSeat && claims.counter < state.counter) return no('STALE');
  // Of two with one counter the later one: an answer that is played back shortens nothing, and lengthens nothing.
  const isOlder = sameSeat && state.lease !== null && claims.iat < state.lease.claims.iat;
  return good({
    ...state, licenseId: claims.license.id, instanceId: claims.sub, seq: Math.max(state.seq, claims.seq), counter: claims.counter, unreachable: false,
    lease: isOlder ? state.lease : { text, claims }, time: atLeast(state.time, claims.iat * 1000, reading),
  });
}

/** The one proof that is known to be fresh, so the one that may say that it is earlier than it seemed to be. */
function answered(state: State, { text, claims, asked, afterRefusal = false }: Extract<LicenseEvent, { type: 'Answered' }>): Applied {
  const { license, verdict, counter: seq } = claims;
  if (license && isOther(state, license.id)) return no('WRONG_SUBJECT');
  if (license && seq < state.seq) return no('STALE');
  const at = saidAt(claims);
  // Where that gives no reason, no verdict replaces the heartbeat: the lease still runs out.
  const terms = termsOf(state);
  const reached = { ...state, unreachable: afterRefusal && verdict.valid && terms !== null && needsLease(terms), time: exactly(state.time, at, asked) };
  if (!verdict.conclusive) return good(reached);
  return good({ ...reached, said: saidByVerdict(text, claims), ...(license && { licenseId: license.id, seq }) });
}

function offlineFileInstalled(state: State, { text, file }: Extract<LicenseEvent, { type: 'OfflineFileInstalled' }>, reading: Reading): Applied {
  if (isOther(state, file.license.id)) return no('WRONG_SUBJECT');
  const at = Date.parse(file.issuedAt);
  if (file.seq < state.seq || (state.said !== null && at < state.said.at)) return no('STALE');
  return good({ ...state, licenseId: file.license.id, seq: file.seq, said: saidByFile(text, file), time: atLeast(state.time, at, reading) });
}

/** The one is in whole seconds, the other may be of an answer that was known from before. */
export const saidAt = ({ iat, verdict }: VerdictClaims): number => Math.max(iat * 1000, Date.parse(verdict.checkedAt));

export const saidByVerdict = (text: string, { counter: seq, iat, exp, verdict, license }: VerdictClaims): Said =>
  ({ text, from: 'network', seq, at: iat * 1000, until: exp * 1000, verdict, license, terms: null });
export const saidByFile = (text: string, { seq, issuedAt, expiresAt, verdict, license: terms }: OfflineFile): Said =>
  ({ text, from: 'offline-file', seq, at: Date.parse(issuedAt), until: Date.parse(expiresAt), verdict, license: null, terms });

/** "There is no such license" has no revision: whether it is newer only the time tells. */
const isOfNone = ({ license, terms }: Said): boolean => license === null && terms === null;
/** The one is in whole seconds, the other may be of an answer that was known from before. */
const checkedAt = ({ at, verdict }: Said): number => Math.max(at, Date.parse(verdict.checkedAt));

/** A newer license takes the place of a "no" to the one before. */
function licenseFileInstalled(state: State, { text, file }: Extract<LicenseEvent, { type: 'LicenseFileInstalled' }>, reading: Reading): Applied {
  if (isOther(state, file.license.id)) return no('WRONG_SUBJECT');
  if (file.seq < state.seq) return no('STALE');
  const isNewer = (said: Said) => (isOfNone(said) ? Date.parse(file.issuedAt) > checkedAt(said) : file.seq > said.seq);
  const said = state.said && isNewer(state.said) ? null : state.said;
  return good({ ...state, licenseId: file.license.id, seq: file.seq, said, file: { text, file }, time: atLeast(state.time, Date.parse(file.issuedAt), reading) });
}

/** Of each proof the newer one, and of two of the same age its own. */
function followed(own: State, theirs: State, reading: Reading): State {
  const time = own.time.mark.boot === theirs.time.mark.boot && theirs.time.trusted > own.time.trusted ? theirs.time : atLeast(own.time, theirs.time.trusted, reading);
  if (theirs.epoch > own.epoch) return { ...theirs, time };
  if (theirs.epoch < own.epoch || (theirs.licenseId !== null && isOther(own, theirs.licenseId))) return { ...own, time };
  const lease = newer(own.lease, theirs.lease, ({ claims: { iat, counter, sub } }) => (sub === own.lease?.claims.sub ? [iat, counter] : [iat, 0]));
  const ofNone = [own.said, theirs.said].some((one) => one !== null && isOfNone(one));
  const said = newer(own.said, theirs.said, (one) => (ofNone ? [checkedAt(one), 0] : [one.seq, one.at]));
  const file = newer(own.file, theirs.file, ({ file: { seq, issuedAt } }) => [seq, Date.parse(issuedAt)]);
  const { instanceId, counter } = lease !== own.lease || own.instanceId === null ? theirs : own;
  const later = (contactOf(theirs) ?? 0) - (contactOf(own) ?? 0);
  return {
    licenseId: own.licenseId ?? theirs.licenseId, instanceId, counter: own.instanceId === theirs.instanceId ? Math.max(own.counter, theirs.counter) : counter,
    seq: Math.max(own.seq, theirs.seq), lease, said, file, epoch: own.epoch, time,
    unreachable: later === 0 ? own.unreachable || theirs.unreachable : (later > 0 ? theirs : own).unreachable,
  };
}

function newer<T>(own: T | null, theirs: T | null, ageOf: (one: T) => readonly [number, number]): T | null {
  if (own === null || theirs === null) return own ?? theirs;
  const [[a1, a2], [b1, b2]] = [ageOf(own), ageOf(theirs)];
  return b1 > a1 || (b1 === a1 && b2 > a2) ? theirs : own;
}

// ---- what follows from it ----

interface Standing {
  /** The first of the reasons, or VALID. */
  readonly code: Code;
  /** All failing and warning rules in order of precedence: why it is so. */
  readonly reasons: readonly Code[];
  /** For people. */
  readonly detail: string;
  readonly enforcement: Enforcement;
  /** `grace`: it works, and something is about to end. `restricted`: reads go on, writes are blocked. */
  readonly state: 'active' | 'grace' | 'restricted' | 'locked';
  /** When the first of the graces that are running ends. */
  readonly graceUntil: string | null;
  /** When it locks if the server is not reached; null when it never will, or when there is nothing to lock. */
  readonly offlineUntil: string | null;
  /** When the server, or a file of it, was last heard of. */
  readonly contactAt: string | null;
  readonly expiresAt: string | null;
  /** Whole days until it expires, at least 0; null for a lifetime license. */
  readonly daysRemaining: number | null;
  readonly unreachable: boolean;
  /** Revision of the license that this is about. */
  readonly seq: number;
  /** By the license's own reckoning of time, not by the wall clock. */
  readonly at: string;
}
export type Judgement = Standing & ({ readonly valid: true } | { readonly valid: false });

const day = 86_400_000;
const isoOf = (ms: number): string => new Date(ms).toISOString();

export interface Limits {
  /** May make the signed grace shorter, and nothing longer. 0: who is not heard of in the time of two heartbeats. */
  readonly offlineGraceMs?: number;
  /** There is no server to be asked: what was installed is the last word, and its grace runs from the start. */
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
  const standing: Standing = {
    code, reasons: sorted, detail: rules[code as keyof typeof rules]?.[1] ?? code, enforcement, state: stageOf(enforcement, graces.length > 0),
    graceUntil: graces.length > 0 ? isoOf(Math.min(...graces)) : null, offlineUntil: until !== null && Number.isFinite(until) ? isoOf(until) : null,
    contactAt: contactAt === null ? null : isoOf(contactAt), expiresAt, daysRemaining: expiresAt === null ? null : Math.max(0, Math.ceil((Date.parse(expiresAt) - now) / day)),
    unreachable: state.unreachable, seq: state.seq, at: isoOf(now),
  };
  const valid = sorted.every((reason) => warnings.has(reason) || (verdict?.valid === true && verdict.reasons.includes(reason)));
  return { ...standing, valid };
}

const rankOf = (code: string): number => (precedence.includes(code) ? precedence.indexOf(code) : 0.5);
const strictest = (all: readonly Enforcement[]): Enforcement => enforcements[Math.max(0, ...all.map((one) => enforcements.indexOf(one)))] ?? 'LOCKED';
const stageOf = (enforcement: Enforcement, inGrace: boolean): Standing['state'] =>
  (enforcement === 'LOCKED' ? 'locked' : enforcement === 'READ_ONLY' ? 'restricted' : inGrace ? 'grace' : 'active');

/** What time has brought about since something was signed, and what an instance knows of itself. It only ever makes the verdict stricter. */
function* ownReasons(state: State, info: LicenseInfo | null, until: number | null, now: number, asksNobody: boolean): Generator<keyof typeof rules> {
  if (!info || until === null) {
    if (state.said?.verdict.valid !== false) yield 'NOT_ACTIVATED';
    return;
  }
  if (info.effectiveAt !== null && Date.parse(info.effectiveAt) > now) yield 'NOT_YET_EFFECTIVE';
  if (info.expiresAt !== null && Date.parse(info.expiresAt) <= now) {
    // Without its terms the license's grace is not known. The server has the last word.
    if ((expiryGraceEnd(state, info) ?? Infinity) <= now) yield 'EXPIRED';
    else yield 'IN_EXPIRY_GRACE';
  }
  if (overageEnds(state, info).some((end) => end <= now)) yield 'RESTRICTED';
  if (until <= now) yield 'HEARTBEAT_OVERDUE';
  else if ((state.unreachable || asksNobody) && state.said?.verdict.enforcement !== 'LOCKED' && Number.isFinite(until)) yield 'IN_OFFLINE_GRACE';
}

/**
 * Whether more was used to the end of an overage grace the server says, some time after it. So there is a day to hear it in, since then or since the
 * server last said that it does not know yet; who hears nothing is restricted without.
 */
const overageEnds = ({ said }: State, info: LicenseInfo | null): number[] => (info?.quotas ?? []).flatMap(({ state, graceEndsAt }) =>
  (state === 'exceeded' && graceEndsAt ? [Math.max(Date.parse(graceEndsAt), said?.at ?? 0) + day] : []));

/** The newest terms: those of a lease, of a license file or of an offline validation file. */
export function termsOf({ lease, file, said }: State): LicensedTerms | null {
  const all = [
    lease && { seq: lease.claims.seq, at: lease.claims.iat * 1000, terms: lease.claims.license },
    file && { seq: file.file.seq, at: Date.parse(file.file.issuedAt), terms: file.file.license },
    said?.terms ? { seq: said.seq, at: said.at, terms: said.terms } : null,
  ].filter((one) => one !== null);
  return all.sort((a, b) => b.seq - a.seq || b.at - a.at)[0]?.terms ?? null;
}

export function infoOf(state: State): LicenseInfo | null {
  const { said, lease, file } = state;
  const terms = termsOf(state);
  const termsSeq = Math.max(...[lease?.claims.seq, file?.file.seq, said?.terms ? said.seq : undefined].map((seq) => seq ?? -1));
  const newest = said?.license && (said.seq >= termsSeq || !terms) ? (said.license as unknown as Partial<LicenseInfo> & Pick<LicenseInfo, 'id' | 'productId'>) : null;
  const status = (said?.license?.['status'] as string | undefined) ?? file?.file.status ?? null;
  // What a newer server leaves out or a verdict does not say is taken from the terms.
  const { id, productId } = newest ?? terms ?? {};
  if (id === undefined || productId === undefined) return null;
  return {
    id, productId, status,
    expiresAt: newest?.expiresAt === undefined ? (terms?.expiresAt ?? null) : newest.expiresAt,
    effectiveAt: newest?.effectiveAt === undefined ? (terms?.effectiveAt ?? null) : newest.effectiveAt,
    features: newest?.features ?? terms?.features ?? {}, featureFlags: newest?.featureFlags ?? terms?.featureFlags ?? {}, quotas: newest?.quotas ?? terms?.quotas ?? [],
    activationLimit: newest?.activationLimit ?? terms?.activationLimit ?? null, activationCount: newest?.activationCount ?? null, customer: file?.file.customer ?? null,
  };
}

const expiredEnforcement = (state: State): Enforcement => {
  if (state.said?.verdict.reasons.includes('EXPIRED')) return 'READ_ONLY'; // the verdict's own enforcement is added to it
  return termsOf(state)?.expiredEnforcement ?? 'READ_ONLY';
};

function expiryGraceEnd(state: State, info: LicenseInfo | null): number | null {
  const terms = termsOf(state);
  return terms && info?.expiresAt ? Date.parse(info.expiresAt) + terms.expiryGraceDays * day : null;
}

/** Who may not be offline at all still has the time between two answers, as the server has it. */
const betweenAnswers = (terms: LicensedTerms | null): number => 2 * (terms?.heartbeatIntervalSeconds ?? 3600) * 1000;

/** A verdict says that all is well, and keeps no seat. */
export const needsLease = ({ validationMode, seats }: LicensedTerms): boolean => validationMode === 'heartbeat' || seats === 'floating';

/**
 * Until when it may work without the server, by what was signed; null when nothing was. Who must send heartbeats, or has a seat that floats, lives
 * on the lease alone. A license file says all there is to say to who never asks.
 */
export function offlineUntilOf(state: State): number | null {
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

/** Of a wait, so that there is time to try once more before it locks. Where it has, there is no hurry. */
export function inTime(ms: number, { offlineUntil, at }: Judgement): number {
  const left = offlineUntil === null ? Infinity : Date.parse(offlineUntil) - Date.parse(at);
  return left > 0 ? Math.min(ms, Math.max(left / 2, shortestMs)) : ms;
}
const shortestMs = 5_000;

/** Not of who never asks. */
const shortened = (until: number | null, contactAt: number | null, graceMs: number): number | null =>
  (until === null || contactAt === null || !Number.isFinite(until) ? until : Math.min(until, contactAt + graceMs));

function contactOf({ lease, said, file }: State): number | null {
  const times = [lease && lease.claims.iat * 1000, said?.at, file && Date.parse(file.file.issuedAt)].filter((at) => typeof at === 'number');
  return times.length > 0 ? Math.max(...times) : null;
}

// ---- time ----

/** One look at the clocks, in milliseconds. `mono` does not go back, and can be compared within one `boot` only. */
export interface Reading {
  readonly wall: number;
  readonly mono: number;
  readonly boot: string;
}

/**
 * How late it is, when nobody can be asked. It was `at` when the clocks showed `mark`, and as much later now as the clock says that has moved
 * on most; never earlier than `peak`. So a wall clock that is put back changes nothing, one that is put forward counts until the server says
 * what time it is, and one that was wrong all the time does no harm.
 */
export interface Time {
  readonly at: number;
  readonly mark: Reading;
  /** The latest that it has ever been, since a fresh answer said how late it was. */
  readonly peak: number;
  /** The latest time ever read from a signature. No answer is believed that says it is earlier. */
  readonly trusted: number;
  /** Of a state in the store: until then the process that wrote it may have run without saying so. */
  readonly reserved: number;
}

const startOfTime = (mark: Reading, after: number): Time => ({ at: Math.max(mark.wall, after), mark, peak: after, trusted: 0, reserved: 0 });

export function timeOf({ at, mark, peak }: Time, { wall, mono, boot }: Reading): number {
  return Math.max(peak, at + Math.max(0, wall - mark.wall, boot === mark.boot ? mono - mark.mono : 0));
}

/** Some time has passed. */
export const ticked = (state: State, reading: Reading): State => ({ ...state, time: { ...state.time, peak: timeOf(state.time, reading) } });

/** As it is to be kept: if the process ends without another word, its successor counts `aheadMs` as gone. A clock that outlives processes makes that unnecessary. */
export const reserving = (state: State, reading: Reading, aheadMs: number): State =>
  ({ ...state, time: { ...state.time, peak: timeOf(state.time, reading), reserved: aheadMs > 0 ? timeOf(state.time, reading) + aheadMs : 0 } });

/**
 * A process writes its state again after each tick, and has reserved twice as long. Ticks grow with the process: one that ends early has cost its
 * successor about what it has lasted, and one that is killed over and over has never cost less.
 */
export const firstTickMs = 100;
export const nextTick = (ms: number): number => Math.min(2 * ms, 30_000);
export const reservedFor = (tickMs: number): number => 2 * tickMs;

function restarted(time: Time, reading: Reading): Time {
  const now = timeOf(time, reading);
  const at = reading.boot === time.mark.boot ? now : Math.max(now, time.reserved);
  return { ...time, at, mark: reading, peak: at, reserved: 0 };
}

/** Something signed then has been seen: it is not earlier. */
function atLeast(time: Time, signedAt: number, reading: Reading): Time {
  const trusted = Math.max(time.trusted, signedAt);
  return trusted > timeOf(time, reading) ? { ...time, trusted, at: trusted, mark: reading, peak: trusted } : { ...time, trusted };
}

/** Something that cannot have been signed before it was asked for. */
function exactly(time: Time, signedAt: number, asked: Reading): Time {
  const at = Math.max(time.trusted, signedAt);
  return { ...time, trusted: at, at, mark: asked, peak: at };
}

/** More than that is no adjustment. */
export const adjustmentMs = 5 * 60_000;

/** Whether the wall clock is behind where it must be by what is known. */
export const isClockBack = ({ mark }: Time, { wall, mono, boot }: Reading): boolean =>
  wall < mark.wall + (boot === mark.boot ? Math.max(0, mono - mark.mono) : 0) - adjustmentMs;
