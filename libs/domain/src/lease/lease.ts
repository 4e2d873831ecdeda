import { addSeconds, refuse, type ActivationId, type DirectiveId, type Instant } from '@keyledger/kernel';
import { activationOf, isLive, statusOf, type Activation, type Directive, type IssuedLicense } from '../license/state.ts';
import type { Terms } from '../license/terms.ts';
import { verdictOf, type Enforcement } from '../license/verdict.ts';

export const deploymentStates = ['active', 'suspended', 'inactive', 'expired', 'revoked', 'rebound', 'locked'] as const;
export type DeploymentState = (typeof deploymentStates)[number];

/** What a box is told about itself. */
export interface Standing {
  readonly state: DeploymentState;
  readonly enforcement: Enforcement;
}

/** The volatile side of an activation. It is observed, not decided: a row, and no event. */
export interface Lease {
  /** When the activation got the box that it has: after a rebind another box counts from the start. */
  readonly boundAt: Instant;
  /** Of the last heartbeat; NO_BEAT before the first. */
  readonly seq: number;
  /** Hash of what tells this heartbeat from another one, and what it was told. */
  readonly said: string;
  readonly told: Standing;
  /** Of the last heartbeat, or of the activation. */
  readonly contactAt: Instant;
  readonly endsAt: Instant;
  /** Of the directives that the license still has, those that the box has acknowledged. */
  readonly acked: readonly DirectiveId[];
  /** It has been decided that the seat ends with this lease: nothing extends it any more. */
  readonly isOver?: boolean;
}
export const NO_BEAT = -1;

export interface Beat {
  readonly activationId: ActivationId;
  readonly fingerprint: string;
  /** Grows with every heartbeat of the box. */
  readonly seq: number;
  /** Hash of what tells it from another heartbeat with the same number, and is the same when it is sent again. */
  readonly said: string;
  readonly acks?: readonly DirectiveId[];
}

export type BeatOutcome =
  /** The stored answer to this number again, to the letter. */
  | { readonly kind: 'again' }
  /** An answer that changes nothing: to the box that was there before, or to a repeated number whose first answer is no longer true. */
  | { readonly kind: 'told'; readonly standing: Standing; readonly directives: readonly Directive[] }
  /** A new heartbeat. `recovered`: it ends a silence that had been made explicit. */
  | { readonly kind: 'accepted'; readonly standing: Standing; readonly directives: readonly Directive[]; readonly lease: Lease; readonly recovered: boolean };

/**
 * How long a box may run without contact. A floating seat is given back as soon as two heartbeats have been missed for sure. Who may not be
 * offline at all still has the time between two answers.
 */
export const leaseSeconds = ({ seats, heartbeatIntervalSeconds, offlineGraceDays }: Terms): number =>
  seats === 'floating' ? 3 * heartbeatIntervalSeconds : offlineGraceDays * 86_400 || 2 * heartbeatIntervalSeconds;

/** When a box is told to be heard of next: in time for its lease, however short that is. */
export const beatSeconds = (terms: Terms): number => Math.min(terms.heartbeatIntervalSeconds, leaseSeconds(terms) / 2);

/** Whether an instance is missed when it is silent: it owes heartbeats, or its seat floats to whoever is there. */
export const isMissed = ({ validationMode, seats }: Terms): boolean => validationMode === 'heartbeat' || seats === 'floating';

/** When the activation got the box that it has now. */
export const boundAtOf = ({ reboundAt, createdAt }: Activation): Instant => reboundAt ?? createdAt;

/** A lease of the box that was there before a rebind is none. */
const ownLease = <Kept extends Pick<Lease, 'boundAt'>>(activation: Activation, lease: Kept | undefined): Kept | undefined =>
  (lease?.boundAt === boundAtOf(activation) ? lease : undefined);

/** When the instance is overdue. Undefined where nobody waits for heartbeats; one that has never sent any counts from its activation. */
export const leaseEndOf = (license: IssuedLicense, activation: Activation, lease: Pick<Lease, 'boundAt' | 'endsAt'> | undefined): Instant | undefined =>
  (license.terms.validationMode === 'heartbeat' ? silentFrom(license, activation, lease) : undefined);

/**
 * When the silence of an instance that has a lease is worth a word. Who owes no heartbeats is heard of by what it asks as well: `seenAt` is the
 * last time.
 */
export function silentFrom({ terms }: IssuedLicense, activation: Activation, lease: Pick<Lease, 'boundAt' | 'endsAt'> | undefined, seenAt?: Instant): Instant {
  const own = ownLease(activation, lease);
  const endsAt = own?.endsAt ?? addSeconds(boundAtOf(activation), leaseSeconds(terms));
  const seenUntil = seenAt === undefined || terms.validationMode === 'heartbeat' ? endsAt : addSeconds(seenAt, leaseSeconds(terms));
  return seenUntil > endsAt ? seenUntil : endsAt;
}

/**
 * When a heartbeat has been missed for sure, while the box still may work without: two intervals after the last one, or after `upSince`, before
 * which nobody could hear of it. Undefined where none is owed, or where the end comes first; a floating seat ends an interval later anyway.
 */
export function missedFrom(license: IssuedLicense, activation: Activation, lease: Pick<Lease, 'boundAt' | 'contactAt' | 'endsAt'> | undefined, upSince: Instant = ''): Instant | undefined {
  const { validationMode, seats, heartbeatIntervalSeconds } = license.terms;
  if (validationMode !== 'heartbeat' || seats === 'floating') return undefined;
  const contactAt = ownLease(activation, lease)?.contactAt ?? boundAtOf(activation);
  const at = addSeconds(upSince > contactAt ? upSince : contactAt, 2 * heartbeatIntervalSeconds);
  return at < silentFrom(license, activation, lease) ? at : undefined;
}

/** The end of the seat has been decided, and the license has yet to say so: a heartbeat comes too late for it. */
export const isEnding = (activation: Activation | undefined, lease: Pick<Lease, 'boundAt' | 'isOver'> | undefined): boolean =>
  isLive(activation) && ownLease(activation, lease)?.isOver === true;

/** When to look at a lease next, unless it is renewed before. */
export const lookAtOf = (license: IssuedLicense, activationId: ActivationId, lease: Lease): Instant =>
  missedFrom(license, activationOf(license, activationId), lease) ?? lease.endsAt;

/**
 * What is to be done about a heartbeat. Refuses with INSTANCE_NOT_FOUND, FINGERPRINT_MISMATCH, and STALE_SEQUENCE {lastSeq} for a number that is
 * behind the last one; `conflict` when it is the last one and yet another heartbeat: two boxes count with the same counter.
 */
export function beat(license: IssuedLicense, kept: Lease | undefined, heartbeat: Beat, now: Instant): BeatOutcome {
  const activation = activationOf(license, heartbeat.activationId);
  const lease = ownLease(activation, kept);
  if (isElsewhere(license, activation, heartbeat.fingerprint)) return { kind: 'told', standing: rebound, directives: [] };
  const standing = standingOf(license, activation, now);
  if (lease && heartbeat.seq <= lease.seq) return repeated(license, activation, lease, heartbeat, standing);
  const acked = ackedBy(license, [...(lease?.acked ?? []), ...(heartbeat.acks ?? [])]);
  const live = isLive(activation);
  return {
    kind: 'accepted', standing, directives: pending(license, activation, acked), recovered: live && activation.late,
    lease: {
      boundAt: boundAtOf(activation), seq: heartbeat.seq, said: heartbeat.said, told: standing, contactAt: now, acked,
      endsAt: live ? addSeconds(now, leaseSeconds(license.terms)) : (lease?.endsAt ?? now),
    },
  };
}

/**
 * The lease of a box that has just been activated. One that runs stays as it is: to activate once more is no heartbeat, and extends nothing. Only
 * a floating seat without heartbeats is kept by whatever is asked for it.
 */
export function openLease(license: IssuedLicense, activationId: ActivationId, kept: Lease | undefined, now: Instant): Lease {
  const activation = activationOf(license, activationId);
  const own = ownLease(activation, kept);
  const { seats, validationMode } = license.terms;
  const isSignOfLife = seats === 'floating' && validationMode !== 'heartbeat';
  if (own && own.endsAt > now && !isSignOfLife) return own;
  const endsAt = addSeconds(now, leaseSeconds(license.terms));
  if (own) return { ...own, contactAt: now, endsAt };
  return { boundAt: boundAtOf(activation), seq: NO_BEAT, said: '', told: standingOf(license, activation, now), contactAt: now, endsAt, acked: [] };
}

/** The order of the lines is the order of precedence. Whatever locks, locks. */
export function standingOf(license: IssuedLicense, activation: Activation, now: Instant): Standing {
  const status = statusOf(license, now);
  if (status === 'revoked') return { state: 'revoked', enforcement: 'LOCKED' };
  if (!isLive(activation)) return { state: 'locked', enforcement: 'LOCKED' };
  const { id: instanceId, fingerprint } = activation;
  const { enforcement } = verdictOf(license, undefined, fingerprint === null ? { instanceId } : { instanceId, fingerprint }, now);
  if (status === 'expired' || status === 'suspended' || status === 'inactive') return { state: status, enforcement };
  return { state: enforcement === 'LOCKED' ? 'locked' : 'active', enforcement };
}

const rebound: Standing = { state: 'rebound', enforcement: 'LOCKED' };

/** Whether the box is one that the activation has been moved away from. An activation that never named its hardware is not held to any. */
function isElsewhere({ revokedAt }: IssuedLicense, activation: Activation, fingerprint: string): boolean {
  if (revokedAt || !isLive(activation) || activation.fingerprint === null || activation.fingerprint === fingerprint) return false;
  if (activation.reboundAt === null) throw refuse('FINGERPRINT_MISMATCH');
  return true;
}

function repeated(license: IssuedLicense, activation: Activation, lease: Lease, { seq, said }: Beat, standing: Standing): BeatOutcome {
  if (seq < lease.seq) throw refuse('STALE_SEQUENCE', `Heartbeat ${lease.seq} has already been received`, { lastSeq: lease.seq });
  if (said !== lease.said) {
    throw refuse('STALE_SEQUENCE', `Another heartbeat ${seq} has already been received: two appliances share this activation`, { lastSeq: lease.seq, conflict: true });
  }
  if (standing.state === lease.told.state && standing.enforcement === lease.told.enforcement) return { kind: 'again' };
  return { kind: 'told', standing, directives: pending(license, activation, lease.acked) };
}

const ackedBy = ({ directives }: IssuedLicense, ids: readonly DirectiveId[]): readonly DirectiveId[] =>
  directives.flatMap(({ id }) => (ids.includes(id) ? [id] : []));

/** What was queued before the box was there is not for it. */
function pending({ directives }: IssuedLicense, activation: Activation, acked: readonly DirectiveId[]): readonly Directive[] {
  if (directives.length === 0 || !isLive(activation)) return [];
  const boundAt = boundAtOf(activation);
  return directives.filter(({ id, issuedAt }) => issuedAt >= boundAt && !acked.includes(id));
}

// ---- what is signed ----

/** The token that an appliance was given last, as far as that decides whether it needs another one. */
export interface LeaseToken {
  /** When it was signed for a whole lease, or would have been: one that continues a running lease ends with it, and was signed later. */
  readonly signedAt: Instant;
  /** Hash of what it says besides its times. */
  readonly says: string;
}

/** When a token for the whole of this lease would be signed. */
export const signedAtOf = ({ endsAt }: Pick<Lease, 'endsAt'>, terms: Terms): Instant => addSeconds(endsAt, -leaseSeconds(terms));

/**
 * A lease is signed anew when its token ends this much earlier than one signed now, or later. Every signature is an entry in a log; but whatever the
 * pace of its heartbeats, an appliance whose network is cut has all of its offline grace but this part: of fourteen days, fifty minutes.
 */
const OUTDATED_SHARE = 1 / 400;

export function isOutdated(token: LeaseToken | undefined, says: string, terms: Terms, now: Instant): boolean {
  return token?.says !== says || Math.abs(Date.parse(now) - Date.parse(token.signedAt)) > leaseSeconds(terms) * 1000 * OUTDATED_SHARE;
}
