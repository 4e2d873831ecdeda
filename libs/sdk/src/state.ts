import type { LeaseClaims, LicensedTerms, LicenseFile, OfflineFile, Reason, SignedVerdict, VerdictClaims } from '@keyledger/license-file';
import { termsOf } from './info.ts';
import { atLeast, exactly, restarted, startOfTime, type Reading, type Time } from './time.ts';

/**
 * What an instance knows of its license. Pure: nothing here has a clock, a network or a disk. All of it was read from verified signatures, except
 * the passing of time (time.ts). What the license says follows from it (info.ts), and what the software may do (judgement.ts).
 */

/** A verdict: the answer to a question with a nonce, or an offline validation file. */
interface Said {
  readonly text: string;
  readonly from: 'network' | 'offline-file';
  readonly seq: number;
  /** When it was signed, and until when it is good by itself, in milliseconds since 1970. */
  readonly at: number;
  readonly until: number;
  readonly verdict: SignedVerdict;
  readonly license: Readonly<Record<string, unknown>> | null;
  /** Only from an offline validation file. */
  readonly terms: LicensedTerms | null;
}

export interface State {
  readonly licenseId: string | null;
  /** Id of the activation. */
  readonly instanceId: string | null;
  /** The highest license revision, and the highest lease counter of this instance, in anything signed. */
  readonly seq: number;
  readonly counter: number;
  readonly lease: { readonly text: string; readonly claims: LeaseClaims } | null;
  readonly said: Said | null;
  readonly file: { readonly text: string; readonly file: LicenseFile } | null;
  /** How often a seat was given back or a license replaced: of two processes with one state, the one with the higher number is right. */
  readonly epoch: number;
  /** The last attempt to reach the server failed; or heartbeats, which keep the license alive, are refused for no reason that a verdict names. */
  readonly unreachable: boolean;
  readonly time: Time;
}

export type LicenseEvent =
  /** `renews`: taken only for the seat that the instance has. */
  | { readonly type: 'Leased'; readonly text: string; readonly claims: LeaseClaims; readonly renews?: boolean }
  /** `asked`: the clocks when the nonce was made, before the answer was signed. `afterRefusal`: the question was why a heartbeat was refused. */
  | { readonly type: 'Answered'; readonly text: string; readonly claims: VerdictClaims; readonly asked: Reading; readonly afterRefusal?: boolean }
  | { readonly type: 'OfflineFileInstalled'; readonly text: string; readonly file: OfflineFile }
  | { readonly type: 'LicenseFileInstalled'; readonly text: string; readonly file: LicenseFile }
  | { readonly type: 'Unreachable' }
  /** Loaded from the store by a process that has just started. */
  | { readonly type: 'Restarted' }
  /** The server has named the instance without a signature, which allows nothing. */
  | { readonly type: 'Seated'; readonly instanceId: string }
  /** The seat was given back. */
  | { readonly type: 'Released' }
  /** Another license takes the place of this one. Time goes on. */
  | { readonly type: 'Replaced' }
  /** What another process of the same installation knows. */
  | { readonly type: 'Followed'; readonly state: State };

type Applied = { readonly ok: true; readonly state: State } | { readonly ok: false; readonly reason: Extract<Reason, 'STALE' | 'WRONG_SUBJECT'> };

/** `after`: a time known to be past, though it is not signed. */
export const initial = (reading: Reading, after = 0): State =>
  ({ licenseId: null, instanceId: null, seq: 0, counter: 0, lease: null, said: null, file: null, epoch: 0, unreachable: false, time: startOfTime(reading, after) });

/** Refuses proofs that are older than one seen before, or about another license. */
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

/** A lease's `seq` may lag behind: the server repeats a lease that is still true. It prolongs the license, but lifts nothing that a verdict refuses. */
function leased(state: State, { text, claims, renews = false }: Extract<LicenseEvent, { type: 'Leased' }>, reading: Reading): Applied {
  const sameSeat = state.instanceId === claims.sub;
  if (isOther(state, claims.license.id) || (renews && !sameSeat)) return no('WRONG_SUBJECT');
  if (sameSeat && claims.counter < state.counter) return no('STALE');
  // Of two leases with one counter the later one counts: a replayed answer neither shortens nor lengthens anything.
  const isOlder = sameSeat && state.lease !== null && claims.iat < state.lease.claims.iat;
  return good({
    ...state, licenseId: claims.license.id, instanceId: claims.sub, seq: Math.max(state.seq, claims.seq), counter: claims.counter, unreachable: false,
    lease: isOlder ? state.lease : { text, claims }, time: atLeast(state.time, claims.iat * 1000, reading),
  });
}

/** The only proof that is known to be fresh, so the only one that may put the time back. */
function answered(state: State, { text, claims, asked, afterRefusal = false }: Extract<LicenseEvent, { type: 'Answered' }>): Applied {
  const { license, verdict, counter: seq } = claims;
  if (license && isOther(state, license.id)) return no('WRONG_SUBJECT');
  if (license && seq < state.seq) return no('STALE');
  const at = saidAt(claims);
  // A verdict that gives no reason for the refusal does not replace the heartbeat: the lease still runs out.
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

export const saidByVerdict = (text: string, { counter: seq, iat, exp, verdict, license }: VerdictClaims): Said =>
  ({ text, from: 'network', seq, at: iat * 1000, until: exp * 1000, verdict, license, terms: null });
export const saidByFile = (text: string, { seq, issuedAt, expiresAt, verdict, license: terms }: OfflineFile): Said =>
  ({ text, from: 'offline-file', seq, at: Date.parse(issuedAt), until: Date.parse(expiresAt), verdict, license: null, terms });

/** A verdict "there is no such license" has no revision: only its time tells whether it is newer. */
const isOfNone = ({ license, terms }: Said): boolean => license === null && terms === null;
/** `at` is in whole seconds; `checkedAt` may be that of an answer that was known from before. */
const checkedAt = ({ at, verdict }: Pick<Said, 'at' | 'verdict'>): number => Math.max(at, Date.parse(verdict.checkedAt));
export const saidAt = ({ iat, verdict }: VerdictClaims): number => checkedAt({ at: iat * 1000, verdict });

/** A file that is newer than the last verdict replaces it. */
function licenseFileInstalled(state: State, { text, file }: Extract<LicenseEvent, { type: 'LicenseFileInstalled' }>, reading: Reading): Applied {
  if (isOther(state, file.license.id)) return no('WRONG_SUBJECT');
  if (file.seq < state.seq) return no('STALE');
  const isNewer = (said: Said) => (isOfNone(said) ? Date.parse(file.issuedAt) > checkedAt(said) : file.seq > said.seq);
  const said = state.said && isNewer(state.said) ? null : state.said;
  return good({ ...state, licenseId: file.license.id, seq: file.seq, said, file: { text, file }, time: atLeast(state.time, Date.parse(file.issuedAt), reading) });
}

/** Takes the newer of each proof, and of two of the same age its own. */
function followed(own: State, theirs: State, reading: Reading): State {
  const time = own.time.mark.boot === theirs.time.mark.boot && theirs.time.trusted > own.time.trusted ? theirs.time : atLeast(own.time, theirs.time.trusted, reading);
  if (theirs.epoch > own.epoch) return { ...theirs, time };
  if (theirs.epoch < own.epoch || (theirs.licenseId !== null && isOther(own, theirs.licenseId))) return { ...own, time };
  const lease = newer(own.lease, theirs.lease, ({ claims: { iat, counter, sub } }) => (sub === own.lease?.claims.sub ? [iat, counter] : [iat, 0]));
  const ofNone = [own.said, theirs.said].some((one) => one !== null && isOfNone(one));
  const said = newer(own.said, theirs.said, (one) => (ofNone ? [checkedAt(one), 0] : [one.seq, checkedAt(one)]));
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

/** Whether the seat needs a lease: a verdict says that all is well, but keeps no seat. */
export const needsLease = ({ validationMode, seats }: LicensedTerms): boolean => validationMode === 'heartbeat' || seats === 'floating';

export function contactOf({ lease, said, file }: State): number | null {
  const times = [lease && lease.claims.iat * 1000, said?.at, file && Date.parse(file.file.issuedAt)].filter((at) => typeof at === 'number');
  return times.length > 0 ? Math.max(...times) : null;
}
