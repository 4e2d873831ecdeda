import {
  refuse, type ActivationId, type CustomerId, type DirectiveId, type EventOrigin, type GeneratorId, type Instant, type JsonObject, type LicenseId,
  type OrderId, type PlanId, type ProductId,
} from '@keyledger/kernel';
import type { KeyFormat } from '../license-key.ts';
import type { Terms } from './terms.ts';
import { leads, licenseActions, type LicenseAction, type LicenseStatus } from './transitions.ts';

export const holdCauses = ['abuse', 'payment', 'subscription', 'heartbeat', 'manual'] as const;
export type HoldCause = (typeof holdCauses)[number];
export type HoldKind = 'suspended' | 'inactive';
/** Something that stops a license until it is lifted. At most one per kind and cause. */
export interface Hold {
  readonly kind: HoldKind;
  readonly cause: HoldCause;
  readonly reason: string | null;
  readonly actor: EventOrigin['actor'];
  readonly at: Instant;
  /** When it ends by itself. Otherwise it has to be lifted. */
  readonly until?: Instant;
}

export type EndedBy = 'client' | 'admin' | 'lapse' | 'regenerated' | 'revoked';
/** An instance that has, or had, a seat. Data that identifies a machine is dropped when the seat is given up. */
export interface Activation {
  readonly id: ActivationId;
  readonly name: string | null;
  readonly fingerprint: string | null;
  readonly installationId: string | null;
  /** The activation known by the same installation id until then: an instance with another fingerprint takes its own seat. */
  readonly hides?: ActivationId;
  readonly hardwareId: string | null;
  readonly metadata: JsonObject | null;
  readonly deploymentId: string | null;
  readonly deploymentMode: string | null;
  readonly createdAt: Instant;
  /** When it was last moved to other hardware. */
  readonly reboundAt: Instant | null;
  /** A heartbeat is overdue. */
  readonly late: boolean;
  /** Overdue for longer than the instance may work without contact. */
  readonly lost: boolean;
  readonly endedAt: Instant | null;
  readonly endedBy: EndedBy | null;
}

export const directiveKinds = ['refresh', 'update-key', 'lock', 'unlock', 'message'] as const;
export type DirectiveKind = (typeof directiveKinds)[number];
/** An administrator's directive to the license's appliances; each gets it with its next heartbeat. */
export interface Directive {
  readonly id: DirectiveId;
  readonly kind: DirectiveKind;
  readonly payload: JsonObject | null;
  readonly issuedAt: Instant;
}

/** The state of a meter, as its daily peaks have made it. */
export interface MeterState {
  readonly state: 'normal' | 'exceeded' | 'restricted';
  /** The last peak that changed anything. */
  readonly lastPeak: number | null;
  /**
   * A meter is not restricted by the clock alone: at the end of the grace its last day has yet to be compared, and may be within the quota again.
   * Until that is done, even if a service being away delays it, the meter stays exceeded and blocks no work.
   */
  readonly graceEndsAt: Instant | null;
}

/**
 * The facts of a license. They overlap (suspended *and* expired), so the status is derived, never stored.
 * Only plain objects, arrays and Maps: a snapshot is a structured clone. Only `evolve` writes to it.
 */
export interface IssuedLicense {
  readonly existence: 'issued';
  readonly id: LicenseId;
  readonly productId: ProductId;
  readonly planId: PlanId | null;
  readonly generatorId: GeneratorId | null;
  readonly orderId: OrderId | null;
  readonly environment: string;
  readonly purchasedAt: Instant;
  readonly issuedAt: Instant;
  readonly key: string | null;
  readonly keyHash: string;
  readonly keyPrefix: string;
  readonly keyFormat: KeyFormat;
  readonly keyVersion: number;
  readonly customerId: CustomerId | null;
  readonly terms: Terms;
  readonly metadata: JsonObject;
  /** From `terms`, kept because every verdict asks: the end of the grace after expiry, without a grace the expiry itself. Null when it does not expire. */
  readonly worksUntil: Instant | null;
  readonly holds: readonly Hold[];
  /** An event has recorded that time is up. */
  readonly expired: boolean;
  readonly revokedAt: Instant | null;
  /** Has ever been activated. */
  readonly used: boolean;
  readonly firstActivatedAt: Instant | null;
  /** The expiry set by the last renewal. */
  readonly renewedTo: Instant | null;
  /** When the present expiry was set. */
  readonly expirySince: Instant;
  /** The last reminder of the present expiry, in days before it. */
  readonly reminded: number | null;
  /** Live and ended ones, oldest first. */
  readonly activations: ReadonlyMap<ActivationId, Activation>;
  /** Live ones. A fact of its own, because nothing on the hot path may walk through 10,000 activations; so are the two indexes. */
  readonly activationCount: number;
  readonly byFingerprint: ReadonlyMap<string, ActivationId>;
  readonly byInstallationId: ReadonlyMap<string, ActivationId>;
  readonly meters: ReadonlyMap<string, MeterState>;
  /** The latest ones, oldest first. Acknowledgements are in the leases. */
  readonly directives: readonly Directive[];
  /** By a directive: the appliances are locked until another one unlocks them. */
  readonly locked: boolean;
  /** The last revision of the evidence held against it, by pattern of abuse. */
  readonly heldAgainst: ReadonlyMap<string, number>;
}

/** What is left of an erased license. */
export interface ErasedLicense {
  readonly existence: 'erased';
  readonly id: LicenseId;
  readonly keyPrefix: string;
  readonly erasedAt: Instant;
}
export type LicenseState = { readonly existence: 'none' } | IssuedLicense | ErasedLicense;

/** The license, if there is one. An erased license is refused like one that never existed: LICENSE_NOT_FOUND. */
export function issued(state: LicenseState): IssuedLicense {
  if (state.existence !== 'issued') throw refuse('LICENSE_NOT_FOUND');
  return state;
}

/** The activation, live or ended. */
export function activationOf({ activations }: IssuedLicense, id: ActivationId): Activation {
  const activation = activations.get(id);
  if (!activation) throw refuse('INSTANCE_NOT_FOUND');
  return activation;
}

/** The order of the lines is the order of precedence. */
export function statusOf(license: IssuedLicense, now: Instant): LicenseStatus {
  if (license.revokedAt) return 'revoked';
  if (isExpired(license, now)) return 'expired';
  if (isHeld(license, 'suspended', now)) return 'suspended';
  if (isHeld(license, 'inactive', now)) return 'inactive';
  if (license.used) return 'active';
  return license.customerId ? 'assigned' : 'available';
}

/** Time acts at once: a license is expired from the very instant at which expiry and grace are over, even if no event says so yet. */
export const isExpired = ({ expired, worksUntil }: IssuedLicense, now: Instant): boolean => expired || (worksUntil !== null && worksUntil <= now);
export const isInExpiryGrace = (license: IssuedLicense, now: Instant): boolean =>
  license.terms.expiresAt !== null && license.terms.expiresAt <= now && !isExpired(license, now);

export function isHeld({ holds }: IssuedLicense, kind: HoldKind, now: Instant): boolean {
  for (const hold of holds) if (hold.kind === kind && !isOver(hold, now)) return true;
  return false;
}
/** Even if no event says so yet. */
export const isOver = ({ until }: Hold, now: Instant): boolean => until !== undefined && until <= now;
export const holdOf = ({ holds }: IssuedLicense, kind: HoldKind, cause: HoldCause): Hold | undefined => holds.find((hold) => hold.kind === kind && hold.cause === cause);

export const isEffective = ({ terms }: IssuedLicense, now: Instant): boolean => terms.effectiveAt === null || terms.effectiveAt <= now;
export const hasFreeSeat = ({ terms, activationCount }: IssuedLicense): boolean => terms.activationLimit < 0 || activationCount < terms.activationLimit;

/**
 * The live activation that an instance has already, found by its fingerprint, else by its installation id. Not by both: an instance with hardware
 * could not use the lease of a seat without any, and every copy of an installation would get that one seat.
 */
export function instanceLike(license: IssuedLicense, { fingerprint, installationId }: { fingerprint?: string | null; installationId?: string | null }): Activation | undefined {
  const id = fingerprint ? license.byFingerprint.get(fingerprint) : installationId ? license.byInstallationId.get(installationId) : undefined;
  return id && license.activations.get(id);
}
export const isLive = (activation: Activation | undefined): activation is Activation => activation?.endedAt === null;

/** Whether the license is for another value than the one asked for. Omitted values are not checked. */
export const differs = (licensed: string | null, asked: string | null | undefined): boolean => Boolean(licensed && asked && licensed !== asked);

export const meterState = ({ meters }: IssuedLicense, meter: string): MeterState => meters.get(meter) ?? normal;
const normal: MeterState = { state: 'normal', lastPeak: null, graceEndsAt: null };

/** The actions a person may take now. */
export function allowedActions(license: IssuedLicense, now: Instant): LicenseAction[] {
  const status = statusOf(license, now);
  return licenseActions.filter((action) => leads(status, action) && makesSense(license, action, now));
}

function makesSense(license: IssuedLicense, action: LicenseAction, now: Instant): boolean {
  switch (action) {
    case 'unsuspend': return isHeld(license, 'suspended', now);
    case 'reactivate': return isHeld(license, 'inactive', now);
    case 'renew': return license.terms.expiresAt !== null;
    default: return true;
  }
}
