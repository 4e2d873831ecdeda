import { addSeconds, refuse, type ActivationId, type DirectiveId, type Instant } from '@keyledger/kernel';
import { activationOf, isLive, statusOf, type Activation, type Directive, type IssuedLicense } from '../license/state.ts';
import type { Terms } from '../license/terms.ts';
import { verdictOf, type Enforcement } from '../license/verdict.ts';

export const deploymentStates = ['active', 'suspended', 'inactive', 'expired', 'revoked', 'rebound', 'locked'] as const;
export type DeploymentState = (typeof deploymentStates)[number];

/** The state an appliance is told. */
export interface Standing {
  readonly state: DeploymentState;
  readonly enforcement: Enforcement;
}

/** The volatile side of an activation. It is observed, not decided: a row, and no event. */
export interface Lease {
  /** When the activation got its present appliance: after a rebind the new one counts from the start. */
  readonly boundAt: Instant;
  /** Number of the last heartbeat; NO_BEAT before the first. */
  readonly seq: number;
  /** Hash of what tells the last heartbeat from another one, and the answer to it. */
  readonly said: string;
  readonly told: Standing;
  /** Time of the last heartbeat, or of the activation. */
  readonly contactAt: Instant;
  readonly endsAt: Instant;
  /** The directives that the license still has and the appliance has acknowledged. */
  readonly acked: readonly DirectiveId[];
  /** A lapse has decided that the seat ends with this lease: nothing extends it any more. */
  readonly isOver?: boolean;
}
export const NO_BEAT = -1;

export interface Beat {
  readonly activationId: ActivationId;
  readonly fingerprint: string;
  /** Grows with every heartbeat of the appliance. */
  readonly seq: number;
  /** Hash of what tells it from another heartbeat with the same number; unchanged if it is sent again. */
  readonly said: string;
  readonly acks?: readonly DirectiveId[];
}

export type BeatOutcome =
  /** The stored answer to this number again, to the letter. */
  | { readonly kind: 'again' }
  /** An answer that changes nothing: to the former appliance, or to a repeated number whose first answer is no longer true. */
  | { readonly kind: 'told'; readonly standing: Standing; readonly directives: readonly Directive[] }
  /** A new heartbeat. `recovered`: it ends a silence that an event had recorded. */
  | { readonly kind: 'accepted'; readonly standing: Standing; readonly directives: readonly Directive[]; readonly lease: Lease; readonly recovered: boolean };

/**
 * How long an appliance may run without contact. A floating seat is given back as soon as two heartbeats have been missed for sure. A license
 * without offline grace still covers the time between two answers.
 */
export const leaseSeconds = ({ seats, heartbeatIntervalSeconds, offlineGraceDays }: Terms): number =>
  seats === 'floating' ? 3 * heartbeatIntervalSeconds : offlineGraceDays * 86_400 || 2 * heartbeatIntervalSeconds;

/** When an appliance is told to send its next heartbeat: in time for its lease, however short that is. */
export const beatSeconds = (terms: Terms): number => Math.min(terms.heartbeatIntervalSeconds, leaseSeconds(terms) / 2);

/** Whether an instance is missed when silent: it owes heartbeats, or its seat floats. */
export const isMissed = ({ validationMode, seats }: Terms): boolean => validationMode === 'heartbeat' || seats === 'floating';

/** When the activation got its present appliance. */
export const boundAtOf = ({ reboundAt, createdAt }: Activation): Instant => reboundAt ?? createdAt;

/** A lease of the appliance before a rebind does not count. */
const ownLease = <Kept extends Pick<Lease, 'boundAt'>>(activation: Activation, lease: Kept | undefined): Kept | undefined =>
  (lease?.boundAt === boundAtOf(activation) ? lease : undefined);

/** When the instance is overdue. Undefined if it owes no heartbeats; one that has never sent any counts from its activation. */
export const leaseEndOf = (license: IssuedLicense, activation: Activation, lease: Pick<Lease, 'boundAt' | 'endsAt'> | undefined): Instant | undefined =>
  (license.terms.validationMode === 'heartbeat' ? silentFrom(license, activation, lease) : undefined);

/**
 * When the silence of an instance that has a lease is to be recorded. For an instance that owes no heartbeats, any request is a sign of life:
 * `seenAt` is the last one.
 */
export function silentFrom({ terms }: IssuedLicense, activation: Activation, lease: Pick<Lease, 'boundAt' | 'endsAt'> | undefined, seenAt?: Instant): Instant {
  const own = ownLease(activation, lease);
  const endsAt = own?.endsAt ?? addSeconds(boundAtOf(activation), leaseSeconds(terms));
  const seenUntil = seenAt === undefined || terms.validationMode === 'heartbeat' ? endsAt : addSeconds(seenAt, leaseSeconds(terms));
  return seenUntil > endsAt ? seenUntil : endsAt;
}

/**
 * When a heartbeat has been missed for sure, while the appliance may still work without: two intervals after the last one, or after `upSince`,
 * before which the server could not hear it. Undefined if none is owed, or if the end comes first; a floating seat ends an interval later anyway.
 */
export function missedFrom(license: IssuedLicense, activation: Activation, lease: Pick<Lease, 'boundAt' | 'contactAt' | 'endsAt'> | undefined, upSince: Instant = ''): Instant | undefined {
  const { validationMode, seats, heartbeatIntervalSeconds } = license.terms;
  if (validationMode !== 'heartbeat' || seats === 'floating') return undefined;
  const contactAt = ownLease(activation, lease)?.contactAt ?? boundAtOf(activation);
  const at = addSeconds(upSince > contactAt ? upSince : contactAt, 2 * heartbeatIntervalSeconds);
  return at < silentFrom(license, activation, lease) ? at : undefined;
}

/** The end of the seat has been decided, and the license has yet to record it: a heartbeat is too late. */
export const isEnding = (activation: Activation | undefined, lease: Pick<Lease, 'boundAt' | 'isOver'> | undefined): boolean =>
  isLive(activation) && ownLease(activation, lease)?.isOver === true;

/** When to check a lease next, unless it is renewed before. */
export const lookAtOf = (license: IssuedLicense, activationId: ActivationId, lease: Lease): Instant =>
  missedFrom(license, activationOf(license, activationId), lease) ?? lease.endsAt;

/**
 * Decides about a heartbeat. Refuses with INSTANCE_NOT_FOUND, FINGERPRINT_MISMATCH, and STALE_SEQUENCE {lastSeq} for a number that is behind
 * the last one; with `conflict` for a different heartbeat with the last number: two appliances use the same counter.
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
 * The lease of an appliance that has just been activated. A running one stays as it is: another activation is no heartbeat, and extends nothing.
 * Only a floating seat without heartbeats is kept by any request.
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

/** Whether the activation has been moved away from this appliance. An activation without a fingerprint is not bound to any. */
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

/** Directives queued before the appliance was there are not for it. */
function pending({ directives }: IssuedLicense, activation: Activation, acked: readonly DirectiveId[]): readonly Directive[] {
  if (directives.length === 0 || !isLive(activation)) return [];
  const boundAt = boundAtOf(activation);
  return directives.filter(({ id, issuedAt }) => issuedAt >= boundAt && !acked.includes(id));
}

// ---- what is signed ----

/** The last token of an appliance, as far as it decides whether a new one is needed. */
export interface LeaseToken {
  /** When it was signed for a whole lease, or would have been: one that continues a running lease ends with it, and was signed later. */
  readonly signedAt: Instant;
  /** Hash of its content besides its times. */
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
