import {
  addDays, addSeconds, malformed, refuse, type ActivationId, type Aggregate, type CustomerId, type DirectiveId, type GeneratorId, type Instant, type Json, type JsonObject,
  type LicenseId, type OrderId, type PlanId, type ProductId, type Refusal,
} from '@keyledger/kernel';
import { abusePatterns, type Finding } from '../abuse/abuse.ts';
import type { KeyFormat } from '../license-key.ts';
import { boundAtOf, isMissed, leaseSeconds } from '../lease/lease.ts';
import { checkMetadata, sameJson } from '../metadata.ts';
import { dueBy, endOfHold } from './due.ts';
import { evolve, licenseShapes, type LicenseEvent } from './events.ts';
import {
  activationOf, allowedActions, differs, hasFreeSeat, holdOf, instanceLike, isEffective, isExpired, isLive, isOver, issued, meterState, statusOf,
  type Activation, type DirectiveKind, type Hold, type HoldCause, type IssuedLicense, type LicenseState,
} from './state.ts';
import {
  checkActivationLimit, checkFeatures, checkQuotas, expiresAtFirstActivation, expiresAtIssue, expiryInPast, expiryWaits, graceEnd, instantIn, likeMeters, MAX_TRIAL_DAYS,
  mustBeIssuable, trialTooLong, type Features, type Meter, type Quota, type TermsInput,
} from './terms.ts';
import { leads, type LicenseAction } from './transitions.ts';

/** A license key: as shown to its holder, as looked up, and the part that lists and logs may show. */
export interface LicenseKey {
  value: string;
  hash: string;
  prefix: string;
  /** How it was made, so that its successor is made alike. */
  format?: KeyFormat;
}

interface Issue {
  type: 'Issue'; licenseId: LicenseId; productId: ProductId; planId?: PlanId | null; generatorId?: GeneratorId | null; orderId?: OrderId | null;
  customerId?: CustomerId | null; environment: string;
  /** When the license was bought; default: now. */
  purchasedAt?: Instant;
  terms: TermsInput; metadata?: JsonObject; key: LicenseKey;
}
interface Assign { type: 'Assign'; customerId: CustomerId }
/** Omitted fields stay as they are. `expiresAt: null` is lifetime. The last four cannot change; asking for it is refused. */
interface Edit {
  type: 'Edit'; customerId?: CustomerId; activationLimit?: number; expiresAt?: Instant | null; features?: Features; featureFlags?: JsonObject;
  quotas?: readonly Quota[]; metadata?: JsonObject;
  /** The product's meters, needed where neither the quotas nor the license define them. */
  meters?: readonly Meter[];
  id?: unknown; key?: unknown; productId?: unknown; environment?: unknown;
}
/** An instance asks for a seat. Product and deployment must fit if given; if omitted, they are not checked. */
interface Activate {
  type: 'Activate'; activationId: ActivationId; instanceName?: string; fingerprint?: string; installationId?: string; hardwareId?: string;
  metadata?: JsonObject; deploymentId?: string; deploymentMode?: string; productId?: string;
  /** The key that was used: it must be the one in force now. */
  keyHash?: string;
  /** An appliance that stands for a deployment: if no seat is left for it, its hardware is the wrong one. */
  appliance?: boolean;
}
interface Deactivate { type: 'Deactivate'; activationId: ActivationId; by: 'client' | 'admin' | 'lapse'; keyHash?: string }
/** Without `activationId` it is the only live one. */
interface Rebind { type: 'Rebind'; activationId?: ActivationId; fingerprint: string; reason: string }
/** For every appliance that has a seat now. */
interface QueueDirective { type: 'QueueDirective'; directiveId: DirectiveId; kind: DirectiveKind; payload?: JsonObject }
/** Without `cause` it is `manual`. `until`: when it ends by itself. */
interface ChangeHold { type: 'Suspend' | 'Unsuspend' | 'Inactivate' | 'Reactivate'; cause?: HoldCause; reason?: string | null; until?: Instant }
interface Renew { type: 'Renew'; expiresAt: Instant; reason: string }
interface RegenerateKey { type: 'RegenerateKey'; key: LicenseKey; reason?: string }
interface Revoke { type: 'Revoke'; reason?: string; cause?: HoldCause }
/** `mayEraseActivated`: whether the actor holds the permission `license.erase`. */
interface Erase { type: 'Erase'; reason: string; force?: boolean; mayEraseActivated: boolean }

/** Effects of time and usage. Each may be sent at any time: if nothing is due, nothing happens. */
interface Sweep { type: 'Sweep'; until: Instant }
/** A heartbeat of an instance is overdue, since `dueAt`. */
interface MissHeartbeat { type: 'MissHeartbeat'; activationId: ActivationId; dueAt?: Instant }
/** The lease of an instance is over, since `dueAt`. */
interface LoseHeartbeat { type: 'LoseHeartbeat'; activationId: ActivationId; dueAt?: Instant }
interface RecoverHeartbeat { type: 'RecoverHeartbeat'; activationId: ActivationId }
/** `limit` is the one the metering compared with; the license's limit decides. The grace counts from `since`, when the day was over; default: now. `readings` explain the peak. */
interface ExceedQuota { type: 'ExceedQuota'; meter: string; peak: number; limit: number; since?: Instant; readings?: JsonObject }
/** A rule of the environment finds that the license is shared. */
interface SuspectAbuse extends Finding { type: 'SuspectAbuse' }
interface RestoreQuota { type: 'RestoreQuota'; meter: string; peak?: number }

export type LicenseCommand =
  | Issue | Assign | Edit | Activate | Deactivate | Rebind | QueueDirective | ChangeHold | Renew | RegenerateKey | Revoke | Erase
  | Sweep | MissHeartbeat | LoseHeartbeat | RecoverHeartbeat | ExceedQuota | RestoreQuota | SuspectAbuse;

/**
 * What should happen. An empty list means "already so", which makes every command safe to retry.
 * Throws a Refusal; LICENSE_NOT_FOUND for a license that never was or has been erased.
 */
function decide(state: LicenseState, command: LicenseCommand, now: Instant): readonly LicenseEvent[] {
  if (command.type === 'Issue' && state.existence !== 'erased') return issue(state, command, now);
  const license = issued(state);
  if ('keyHash' in command && command.keyHash !== undefined && command.keyHash !== license.keyHash) throw keyReplaced();
  switch (command.type) {
    case 'Issue': return [];
    case 'Assign': return assign(license, command.customerId, now);
    case 'Edit': return edit(license, command, now);
    case 'Activate': return activate(license, command, now);
    case 'Deactivate': return isLive(activationOf(license, command.activationId)) ? [{ type: 'InstanceDeactivated', activationId: command.activationId, by: command.by }] : [];
    case 'Rebind': return rebind(license, command, now);
    case 'QueueDirective': return queueDirective(license, command, now);
    case 'Suspend': case 'Inactivate': return changeHold(license, command, true, now);
    case 'Unsuspend': case 'Reactivate': return changeHold(license, command, false, now);
    case 'Renew': return renew(license, command, now);
    case 'RegenerateKey': return regenerateKey(license, command, now);
    case 'Revoke':
      return license.revokedAt ? [] : [{ type: 'LicenseRevoked', reason: command.reason ?? null, cause: command.cause ?? null, activationsEnded: license.activationCount }];
    case 'Erase': return erase(license, command);
    case 'Sweep': return dueBy(license, command.until < now ? command.until : now);
    case 'MissHeartbeat': return missHeartbeat(license, command);
    case 'LoseHeartbeat': return loseHeartbeat(license, command);
    case 'RecoverHeartbeat': return activationOf(license, command.activationId).late ? [{ type: 'HeartbeatRecovered', activationId: command.activationId }] : [];
    case 'ExceedQuota': return exceedQuota(license, command, now);
    case 'RestoreQuota': return restoreQuota(license, command);
    case 'SuspectAbuse': return suspectAbuse(license, command, now);
  }
}

/** A replaced key is refused like one that never existed; `retired` tells other services that the client is not guessing. */
const keyReplaced = () => refuse('LICENSE_NOT_FOUND', undefined, { retired: true });

/** The license and its rules. */
export const License: Aggregate<LicenseState, LicenseCommand, LicenseEvent> = {
  category: 'license', stateVersion: 7, shapes: licenseShapes, initial: () => ({ existence: 'none' }), decide, evolve,
};

// ---- issue, assign, edit ----

function issue(state: LicenseState, command: Issue, now: Instant): LicenseEvent[] {
  if (state.existence === 'issued') return [];
  const { licenseId, productId, planId = null, generatorId = null, orderId = null, customerId = null, environment, metadata = {}, key } = command;
  const terms = mustBeIssuable(command.terms, now);
  const { featureFlags, serialNumber, deploymentId, ...others } = terms;
  checkMetadata(metadata);
  const purchasedAt = command.purchasedAt ? instantIn('purchasedAt', command.purchasedAt) : now;
  return [{
    type: 'LicenseIssued', licenseId, productId, planId, generatorId, orderId, customerId, environment, purchasedAt,
    terms: { ...others, expiresAt: expiresAtIssue(terms, purchasedAt) }, featureFlags, serialNumber, deploymentId, metadata,
    key: key.value, keyHash: key.hash, keyPrefix: key.prefix,
    ...(key.format && { keyFormat: key.format }),
  }];
}

function assign(license: IssuedLicense, customerId: CustomerId, now: Instant): LicenseEvent[] {
  if (!customerId) throw malformed('customerId', 'cannot be taken away');
  if (license.customerId === customerId && !license.revokedAt) return [];
  must(license, 'assign', now);
  return [{ type: 'LicenseAssigned', customerId }];
}

const immutableFields = ['id', 'key', 'productId', 'environment'] as const;

/** One event for each fact that changes, and none when everything is as asked for. */
function edit(license: IssuedLicense, wanted: Edit, now: Instant): LicenseEvent[] {
  must(license, 'edit', now);
  const immutable = immutableFields.find((name) => wanted[name] !== undefined);
  if (immutable) throw refuse('IMMUTABLE_FIELD', `${immutable} cannot be changed`, { field: immutable });
  const { customerId, activationLimit, features, featureFlags, metadata } = wanted;
  const quotas = wanted.quotas && likeMeters(wanted.quotas, [...license.terms.quotas, ...(wanted.meters ?? [])]);
  if (activationLimit !== undefined) checkActivationLimit(activationLimit);
  if (features !== undefined) checkFeatures(features);
  if (quotas !== undefined) checkQuotas(quotas);
  checkMetadata(metadata);
  checkMetadata(featureFlags, 'featureFlags');
  const { terms } = license;
  return [
    ...(customerId === undefined ? [] : assign(license, customerId, now)),
    ...changed(terms.activationLimit, activationLimit, (value) => ({ type: 'ActivationLimitChanged', activationLimit: value })),
    ...editExpiry(license, wanted.expiresAt, now),
    ...changed(terms.features, features, (value) => ({ type: 'FeaturesChanged', features: value })),
    ...changed(terms.featureFlags, featureFlags, (value) => ({ type: 'FeatureFlagsChanged', featureFlags: value })),
    ...editQuotas(license, quotas),
    ...changed(license.metadata, metadata, (value) => ({ type: 'MetadataChanged', metadata: value })),
  ];
}

function changed<T extends Json>(present: T, wanted: T | undefined, event: (value: T) => LicenseEvent): LicenseEvent[] {
  return wanted === undefined || sameJson(present, wanted) ? [] : [event(wanted)];
}

function editExpiry(license: IssuedLicense, wanted: Instant | null | undefined, now: Instant): LicenseEvent[] {
  if (wanted === undefined) return [];
  const expiresAt = wanted && instantIn('expiresAt', wanted);
  // Null is wanted, but a term that has yet to begin has null too: that one is changed, so that it never begins.
  if (expiresAt === license.terms.expiresAt && !expiryWaits(license.terms)) return [];
  if (isExpired(license, now)) throw notPossible(license, 'edit', now, 'The license is expired: renew moves its expiry, an edit does not');
  if (expiresAt && expiresAt <= now) throw expiryInPast(expiresAt);
  checkTrial(license, expiresAt);
  return [{ type: 'ExpiryChanged', expiresAt, by: 'edit' }];
}

/** A quota raised to the last peak, or taken away, is not exceeded any more, at once. */
function editQuotas(license: IssuedLicense, quotas: readonly Quota[] | undefined): LicenseEvent[] {
  const events = changed(license.terms.quotas, quotas, (value) => ({ type: 'QuotaChanged', quotas: value }));
  if (!quotas || !events.length) return [];
  for (const [meter, { state, lastPeak }] of license.meters) {
    if (state === 'normal') continue;
    const limit = quotas.find((quota) => quota.meter === meter)?.limit ?? null;
    if (limit === null || (lastPeak ?? 0) <= limit) events.push({ type: 'QuotaRestored', meter, peak: lastPeak, limit });
  }
  return events;
}

// ---- instances ----

function activate(license: IssuedLicense, command: Activate, now: Instant): LicenseEvent[] {
  const no = whyNoActivation(license, command, now);
  if (no) throw no;
  if (license.activations.has(command.activationId) || instanceLike(license, command)) return [];
  if (!hasFreeSeat(license)) {
    const [limit, used] = [license.terms.activationLimit, license.activationCount];
    if (command.appliance) throw refuse('FINGERPRINT_MISMATCH', 'The license is bound to other hardware; rebind moves it', { limit, used });
    throw refuse('ACTIVATION_LIMIT_EXCEEDED', `${used} of ${limit} activations are used`, { limit, used });
  }
  checkMetadata(command.metadata);
  const expiresAt = license.used ? license.terms.expiresAt : expiresAtFirstActivation(license.terms, now);
  const { activationId, instanceName, fingerprint, installationId, hardwareId, metadata, deploymentId, deploymentMode } = command;
  return [
    {
      type: 'InstanceActivated', activationId, name: instanceName ?? null, fingerprint: fingerprint ?? null, installationId: installationId ?? null,
      hardwareId: hardwareId ?? null, metadata: metadata ?? null, deploymentId: deploymentId ?? null, deploymentMode: deploymentMode ?? null,
      ...(isMissed(license.terms) && { leaseEndsAt: addSeconds(now, leaseSeconds(license.terms)) }),
    },
    ...changed(license.terms.expiresAt, expiresAt, (value) => ({ type: 'ExpiryChanged', expiresAt: value, by: 'firstActivation' })),
  ];
}

/** The order of the lines is the order of precedence. */
function whyNoActivation(license: IssuedLicense, { productId, deploymentMode, deploymentId, fingerprint }: Activate, now: Instant): Refusal | undefined {
  const { terms } = license;
  switch (statusOf(license, now)) {
    case 'revoked': return refuse('LICENSE_REVOKED');
    case 'expired': return refuse('LICENSE_EXPIRED', undefined, { expiresAt: terms.expiresAt });
    case 'suspended': return refuse('LICENSE_SUSPENDED');
    case 'inactive': return refuse('LICENSE_INACTIVE');
    case 'available': return refuse('LICENSE_NOT_ASSIGNED');
    case 'assigned': case 'active': break;
  }
  if (!isEffective(license, now)) return refuse('LICENSE_NOT_YET_EFFECTIVE', undefined, { effectiveAt: terms.effectiveAt });
  if (productId && productId !== license.productId) return refuse('PRODUCT_MISMATCH');
  if (differs(terms.deploymentMode, deploymentMode)) return refuse('DEPLOYMENT_MODE_MISMATCH', undefined, { deploymentMode: terms.deploymentMode });
  if (differs(terms.deploymentId, deploymentId)) return refuse('DEPLOYMENT_MISMATCH');
  if (terms.binding === 'fingerprint' && !fingerprint) return refuse('FINGERPRINT_REQUIRED');
  return undefined;
}

/** The silence of the appliance before a rebind says nothing about the one after. */
const isOfFormerAppliance = (activation: Activation, dueAt: Instant | undefined): boolean => dueAt !== undefined && dueAt < boundAtOf(activation);

/** A floating seat is free again before the vendor could react. */
function missHeartbeat(license: IssuedLicense, { activationId, dueAt }: MissHeartbeat): LicenseEvent[] {
  const activation = activationOf(license, activationId);
  if (!isLive(activation) || activation.late || license.terms.seats === 'floating' || isOfFormerAppliance(activation, dueAt)) return [];
  return [{ type: 'HeartbeatMissed', activationId, ...(dueAt !== undefined && { dueAt }) }];
}

/** Ends a floating seat; any other instance is only marked as lost. Nothing happens to an instance that has ended. */
function loseHeartbeat(license: IssuedLicense, { activationId, dueAt }: LoseHeartbeat): LicenseEvent[] {
  const activation = activationOf(license, activationId);
  if (!isLive(activation) || isOfFormerAppliance(activation, dueAt)) return [];
  const since = dueAt === undefined ? {} : { dueAt };
  if (license.terms.seats === 'floating') return [{ type: 'InstanceDeactivated', activationId, by: 'lapse', ...since }];
  return activation.lost ? [] : [{ type: 'HeartbeatLost', activationId, ...since }];
}

function rebind(license: IssuedLicense, { activationId, fingerprint, reason }: Rebind, now: Instant): LicenseEvent[] {
  if (license.revokedAt) throw notPossible(license, 'rebind', now);
  if (!fingerprint) throw malformed('fingerprint', 'is needed');
  const activation = activationId ? activationOf(license, activationId) : onlyInstance(license);
  if (!isLive(activation)) throw refuse('INSTANCE_NOT_FOUND', 'The instance has given up its seat');
  if (activation.fingerprint === fingerprint) return [];
  const other = instanceLike(license, { fingerprint });
  if (other) throw refuse('FINGERPRINT_MISMATCH', 'Another instance of this license has that fingerprint', { activationId: other.id });
  return [
    // The alarm about the silent old appliance is over for its subscribers; nothing is known of the new one yet.
    ...(activation.late ? [{ type: 'HeartbeatRecovered', activationId: activation.id } as const] : []),
    { type: 'InstanceRebound', activationId: activation.id, fingerprint, reason },
  ];
}

function onlyInstance(license: IssuedLicense): Activation {
  if (license.activationCount > 1) {
    throw refuse('INSTANCE_REQUIRED', `The license has ${license.activationCount} live instances: activationId must name one`, { errors: [{ pointer: '/activationId', detail: 'is needed' }] });
  }
  const only = [...license.activations.values()].find(isLive);
  if (!only) throw refuse('INSTANCE_NOT_FOUND', 'The license has no live instance');
  return only;
}

function queueDirective(license: IssuedLicense, { directiveId, kind, payload }: QueueDirective, now: Instant): LicenseEvent[] {
  if (license.directives.some(({ id }) => id === directiveId)) return [];
  if (license.revokedAt) throw notPossible(license, 'directive', now);
  checkMetadata(payload, 'payload');
  return [{ type: 'DirectiveQueued', directiveId, kind, payload: payload ?? null }];
}

// ---- holds, renewal, the end ----

const holdSteps = {
  Suspend: { kind: 'suspended', action: 'suspend', happened: 'LicenseSuspended' },
  Unsuspend: { kind: 'suspended', action: 'unsuspend', happened: 'LicenseUnsuspended' },
  Inactivate: { kind: 'inactive', action: 'inactivate', happened: 'LicenseInactivated' },
  Reactivate: { kind: 'inactive', action: 'reactivate', happened: 'LicenseReactivated' },
} as const;

const isInForce = (hold: Hold | undefined, now: Instant): boolean => hold !== undefined && !isOver(hold, now);

/** Adding a hold that exists, with the same end, or lifting one that does not, changes nothing. The end of an expired hold is recorded before a new one. */
function changeHold(license: IssuedLicense, { type, cause = 'manual', reason = null, until }: ChangeHold, there: boolean, now: Instant): LicenseEvent[] {
  const { kind, action, happened } = holdSteps[type];
  const ends = until === undefined ? undefined : instantIn('until', until);
  const known = holdOf(license, kind, cause);
  const isThere = isInForce(known, now);
  if (!license.revokedAt && isThere === there && (!there || known?.until === ends)) return [];
  must(license, action, now);
  if (ends !== undefined && ends <= now) throw refuse('EXPIRY_IN_PAST', `until: ${ends} is not in the future`, { until: ends });
  return [...(there && known && !isThere ? [endOfHold(known)] : []), { type: happened, cause, reason, ...(ends !== undefined && { until: ends }) } as LicenseEvent];
}

/** The same renewal again changes nothing; any other must end later than the license does. */
function renew(license: IssuedLicense, command: Renew, now: Instant): LicenseEvent[] {
  must(license, 'renew', now);
  const { expiresAt: present } = license.terms;
  if (!present) throw notPossible(license, 'renew', now, 'The license has no expiry to renew');
  const expiresAt = instantIn('expiresAt', command.expiresAt);
  if (expiresAt === present && expiresAt === license.renewedTo && !isExpired(license, now)) return [];
  if (expiresAt <= present) throw refuse('EXPIRY_NOT_LATER', `The license ends at ${present} already`, { expiresAt: present });
  if (expiresAt <= now) throw expiryInPast(expiresAt);
  checkTrial(license, expiresAt);
  return [{ type: 'LicenseRenewed', expiresAt, reason: command.reason }];
}

function checkTrial({ terms, firstActivatedAt }: IssuedLicense, expiresAt: Instant | null): void {
  if (!terms.trial || !firstActivatedAt) return;
  if (!expiresAt || expiresAt > addDays(firstActivatedAt, MAX_TRIAL_DAYS)) throw trialTooLong('A trial until then');
}

function regenerateKey(license: IssuedLicense, { key, reason }: RegenerateKey, now: Instant): LicenseEvent[] {
  must(license, 'regenerateKey', now);
  if (key.hash === license.keyHash) return [];
  return [{
    type: 'KeyRegenerated', key: key.value, keyHash: key.hash, keyPrefix: key.prefix, keyVersion: license.keyVersion + 1, reason: reason ?? null,
    activationsEnded: license.activationCount,
  }];
}

function erase({ used, keyPrefix }: IssuedLicense, { reason, force, mayEraseActivated }: Erase): LicenseEvent[] {
  if (used && !force) throw refuse('LICENSE_EVER_ACTIVATED');
  if (used && !mayEraseActivated) throw refuse('PERMISSION_DENIED', 'Erasing a license that has been activated needs license.erase', { permission: 'license.erase' });
  return [{ type: 'LicenseErased', keyPrefix, reason, everActivated: used }];
}

// ---- time and usage ----

const quotaOf = ({ terms }: IssuedLicense, meter: string): Quota | undefined => terms.quotas.find((quota) => quota.meter === meter);

function exceedQuota(license: IssuedLicense, { meter, peak, since, readings }: ExceedQuota, now: Instant): LicenseEvent[] {
  const quota = quotaOf(license, meter);
  if (!quota || license.revokedAt || peak <= quota.limit) return [];
  const { state, lastPeak, graceEndsAt } = meterState(license, meter);
  if (state !== 'normal' && lastPeak === peak) return [];
  const ends = (state !== 'normal' && graceEndsAt) || graceEnd(since ?? now, license.terms.overageGraceDays);
  return [{ type: 'QuotaExceeded', meter, peak, limit: quota.limit, graceEndsAt: ends, readings: readings ?? null }];
}

function restoreQuota(license: IssuedLicense, { meter, peak }: RestoreQuota): LicenseEvent[] {
  const quota = quotaOf(license, meter);
  if (!quota || license.revokedAt || meterState(license, meter).state === 'normal') return [];
  return peak !== undefined && peak > quota.limit ? [] : [{ type: 'QuotaRestored', meter, peak: peak ?? null, limit: quota.limit }];
}

// ---- what is held against it ----

/** The same evidence counts once: after an administrator has lifted the hold it takes new evidence to suspend the license again. */
function suspectAbuse(license: IssuedLicense, { pattern, limit, action, observed, from, until, evidence }: SuspectAbuse, now: Instant): LicenseEvent[] {
  if (license.revokedAt || (evidence[0] ?? -1) <= (license.heldAgainst.get(pattern) ?? -1)) return [];
  const suspends = action === 'suspend' && !isInForce(holdOf(license, 'suspended', 'abuse'), now) && leads(statusOf(license, now), 'suspend');
  const reason = `${observed} ${abusePatterns[pattern].what}, ${limit} are allowed`;
  return [
    { type: 'AbuseSuspected', pattern, limit, action, observed, from, until, evidence },
    ...(suspends ? [{ type: 'LicenseSuspended', cause: 'abuse', reason } as const] : []),
  ];
}

// ---- what the state machine says ----

/** Refuses steps the state machine does not have: TERMINAL_STATE or INVALID_TRANSITION {from, requested, allowed}. */
function must(license: IssuedLicense, action: LicenseAction, now: Instant): void {
  if (!leads(statusOf(license, now), action)) throw notPossible(license, action, now);
}

function notPossible(license: IssuedLicense, requested: LicenseAction | 'rebind' | 'directive', now: Instant, detail?: string): Refusal {
  const from = statusOf(license, now);
  const allowed = allowedActions(license, now);
  return refuse(
    from === 'revoked' ? 'TERMINAL_STATE' : 'INVALID_TRANSITION',
    detail ?? `${requested} is not possible while the license is ${from}; possible are ${allowed.join(', ')}`,
    { from, requested, allowed },
  );
}
