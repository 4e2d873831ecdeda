import Type, { type Static } from 'typebox';
import { anything, instant, json, listOf, name, named, nullable, oneOf, optional, pageOf, paging, reason, text } from './fields.ts';
import { command, query } from './message.ts';
import { features, ids, quotas, termsFields } from './terms.ts';

const status = oneOf('available', 'assigned', 'active', 'suspended', 'inactive', 'expired', 'revoked');
export const enforcement = oneOf('FULL', 'WARN', 'READ_ONLY', 'LOCKED');
const cause = oneOf('abuse', 'payment', 'subscription', 'heartbeat', 'manual');
export const quotaStates = listOf(
  Type.Object({ meter: Type.String(), limit: Type.Number(), per: optional(oneOf('day', 'month')), state: oneOf('normal', 'exceeded', 'restricted'), lastPeak: nullable(Type.Number()), graceEndsAt: nullable(instant) }),
);
/** name → true, a number, or {limit, per, used, remaining}; the last two are missing while usage-metering is unavailable. */
const featureStates = Type.Record(
  Type.String(),
  Type.Union([Type.Literal(true), Type.Number(), Type.Object({ limit: Type.Number(), per: oneOf('day', 'month'), used: optional(Type.Number()), remaining: optional(Type.Number()) })]),
);

export const LicenseView = named('License', Type.Object({
  id: ids.license,
  key: nullable(Type.String()),
  keyPrefix: Type.String(),
  keyVersion: Type.Integer({ description: 'Starts at 1; each regenerated key adds one' }),
  status,
  productId: ids.product,
  planId: nullable(ids.plan),
  generatorId: nullable(ids.generator),
  customerId: nullable(ids.customer),
  orderId: nullable(ids.order),
  environment: Type.String(),
  purchasedAt: instant,
  ...Type.Required(Type.Object(termsFields)).properties,
  activationCount: Type.Integer(),
  graceEndsAt: nullable(instant),
  holds: listOf(Type.Object({
    kind: oneOf('suspended', 'inactive'), cause, reason: nullable(Type.String()), at: instant, until: optional(instant),
    actor: Type.Object({ type: Type.String(), id: Type.String(), role: optional(Type.String()) }),
  })),
  locked: Type.Boolean({ description: 'Locked by a `lock` directive until an `unlock`: all verdicts say INACTIVE' }),
  features: featureStates,
  featureFlags: json,
  quotas: quotaStates,
  metadata: nullable(json),
  createdAt: instant,
  revision: Type.Integer({ description: 'Revision of the license stream; also the ETag' }),
  allowedActions: listOf(oneOf('assign', 'edit', 'inactivate', 'reactivate', 'suspend', 'unsuspend', 'renew', 'regenerateKey', 'revoke', 'erase')),
}));
export type LicenseView = Static<typeof LicenseView>;

/** What the heartbeats of an instance have told about it. */
export const LeaseView = named('Lease', Type.Object({
  seq: nullable(Type.Integer({ description: 'seq of the last heartbeat' })),
  contactAt: instant,
  endsAt: instant,
  version: nullable(Type.String()),
  acknowledgedSeq: Type.Integer({ description: 'Revision of the license up to which the instance is known to have received all changes' }),
}));

const InstanceView = named('Instance', Type.Object({
  id: ids.activation,
  name: nullable(Type.String()),
  fingerprint: nullable(Type.String()),
  installationId: nullable(Type.String()),
  hardwareId: nullable(Type.String()),
  deploymentId: nullable(Type.String()),
  deploymentMode: nullable(Type.String()),
  metadata: nullable(json),
  createdAt: instant,
  reboundAt: nullable(instant),
  late: Type.Boolean({ description: 'A heartbeat is overdue' }),
  lastSeenAt: nullable(instant),
  lease: optional(LeaseView),
  endedAt: nullable(instant),
  endedBy: nullable(Type.String()),
}));
export type InstanceView = Static<typeof InstanceView>;

export const LicenseEventView = named('LicenseEvent', Type.Object({
  revision: Type.Integer(),
  type: Type.String(),
  at: instant,
  recordedAt: instant,
  actor: Type.Object({ type: Type.String(), id: Type.String(), role: optional(Type.String()) }),
  correlationId: Type.String(),
  data: json,
}));
export type LicenseEventView = Static<typeof LicenseEventView>;

// ---- control plane ----

/** Without generator and plan: a Crockford key and the default terms (unlimited, lifetime). */
export class IssueLicense extends command('license.issue', {
  productId: ids.product,
  generatorId: optional(ids.generator),
  planId: optional(ids.plan),
  customerId: optional(ids.customer),
  metadata: optional(json),
  ...termsFields,
}, LicenseView) {}

/** One license of an order, with the ids and terms fixed by the order. Repeating it is harmless. */
export class IssueOrderedLicense extends command('license.issue-ordered', {
  licenseId: ids.license,
  orderId: ids.order,
  productId: ids.product,
  planId: ids.plan,
  customerId: ids.customer,
  purchasedAt: instant,
  terms: Type.Object(termsFields),
}, LicenseView) {
  static override readonly direct = true;
}

/** Creates the data keys of licenses that are about to be issued, while their order is still being written. */
export class PrepareLicenses extends command('license.prepare', { licenseIds: listOf(ids.license) }, Type.Null()) {
  static override readonly direct = true;
}

export class GetLicense extends query('license.get', { licenseId: ids.license }, LicenseView) {}

export const licenseFilters = {
  q: optional(Type.String({ maxLength: 200, description: 'Part of a key, customer name, e-mail address or domain, or product name; one or two characters: the beginning of a word, or in a script without spaces between words (Chinese, Japanese, Thai) any part' })),
  status: optional(listOf(status)),
  productId: optional(ids.product),
  planId: optional(ids.plan),
  customerId: optional(ids.customer),
  createdAfter: optional(instant),
  createdBefore: optional(instant),
  expiresAfter: optional(instant),
  expiresBefore: optional(instant),
};
const licenseSorts = ['key', 'product', 'customer', 'status', 'activations', 'expiresAt', 'createdAt'] as const;
export const licenseSort = optional(oneOf(...licenseSorts, ...licenseSorts.map((field) => `-${field}` as const)));
export class ListLicenses extends query('license.list', {
  ...licenseFilters,
  sort: licenseSort,
  ...paging,
}, pageOf(LicenseView)) {}

export class SuggestLicenses extends query('license.suggest', { q: Type.String({ minLength: 1, maxLength: 200 }) }, Type.Object({
  data: listOf(Type.Object({ kind: oneOf('key', 'customer', 'product'), text: Type.String(), licenseId: optional(ids.license) })),
})) {}

export class TotalLicenses extends query('license.totals', licenseFilters, Type.Object({
  licenses: Type.Integer(),
  byStatus: Type.Record(Type.String(), Type.Integer()),
  averageLimit: nullable(Type.Number({ description: 'Average over licenses with a limit; null when there are none' })),
  maximumActivations: nullable(Type.Integer({ description: 'Sum of the limits; null when any license is unlimited' })),
})) {}

export class AssignLicense extends command('license.assign', { licenseId: ids.license, customerId: ids.customer }, LicenseView) {
  readonly type = 'Assign';
}

export class EditLicense extends command('license.edit', {
  licenseId: ids.license,
  customerId: optional(ids.customer),
  activationLimit: termsFields.activationLimit,
  expiresAt: termsFields.expiresAt,
  features: optional(features),
  featureFlags: optional(json),
  quotas: optional(quotas),
  metadata: optional(json),
  id: optional(anything), key: optional(anything), productId: optional(anything), environment: optional(anything),
}, LicenseView) {
  readonly type = 'Edit';
}

const hold = { licenseId: ids.license, cause: optional(cause), reason: optional(reason) };
const timed = { ...hold, until: optional(Type.String({ format: 'date-time', description: 'When it ends by itself' })) };
export class InactivateLicense extends command('license.inactivate', timed, LicenseView) {
  readonly type = 'Inactivate';
}
export class ReactivateLicense extends command('license.reactivate', hold, LicenseView) {
  readonly type = 'Reactivate';
}
export class SuspendLicense extends command('license.suspend', timed, LicenseView) {
  readonly type = 'Suspend';
}
export class UnsuspendLicense extends command('license.unsuspend', hold, LicenseView) {
  readonly type = 'Unsuspend';
}
export class RevokeLicense extends command('license.revoke', { licenseId: ids.license, reason: optional(reason), cause: optional(cause) }, LicenseView) {
  readonly type = 'Revoke';
}
export class RenewLicense extends command('license.renew', { licenseId: ids.license, expiresAt: instant, reason: Type.String({ minLength: 1, maxLength: 1000 }) }, LicenseView) {
  readonly type = 'Renew';
}
const file = named('SignedFile', Type.Object({
  filename: Type.String(), content: Type.String({ description: 'The text of the file' }), issuedAt: instant, expiresAt: nullable(instant),
}));
/** What the license allows, for a machine that pins the root: long-lived, verified without contact to the server. `expiresAt` is the license's. */
export class IssueLicenseFile extends command('license.issue-file', { licenseId: ids.license }, file) {}
/** The current verdict, for a machine without contact to the server: valid for a day. */
export class IssueOfflineFile extends command('license.issue-offline-file', { licenseId: ids.license, activationId: optional(Type.String({ maxLength: 64 })) }, file) {}
export class RegenerateKey extends command('license.regenerate-key', { licenseId: ids.license, reason: optional(reason) }, LicenseView) {}
export class EraseLicense extends command('license.erase', { licenseId: ids.license, reason: Type.String({ minLength: 1, maxLength: 1000 }), force: optional(Type.Boolean()) }, Type.Null()) {}

export class ListActivations extends query('license.activations', {
  licenseId: ids.license,
  include: optional(oneOf('ended')),
  ...paging,
}, pageOf(InstanceView)) {}
export class RevokeActivation extends command('license.revoke-activation', { licenseId: ids.license, activationId: Type.String() }, Type.Null()) {}
export class ListLicenseEvents extends query('license.events', { licenseId: ids.license, ...paging }, pageOf(LicenseEventView)) {}

// ---- the client license API: the license key is the credential ----

export const licenseKey = Type.String({ minLength: 1, maxLength: 255 });
/** Every spelling of a license key becomes the same text: for whatever counts by key. */
export { normaliseKey } from '@keyledger/domain';

/** The license as the licensed software sees it, without the vendor's data. */
export const ClientLicense = named('ClientLicense', Type.Object({
  id: ids.license,
  status,
  productId: ids.product,
  planId: nullable(ids.plan),
  expiresAt: nullable(instant),
  effectiveAt: nullable(instant),
  activationLimit: Type.Integer(),
  activationCount: Type.Integer(),
  features: featureStates,
  featureFlags: json,
  quotas: quotaStates,
  metadata: nullable(json),
}));
export type ClientLicense = Static<typeof ClientLicense>;

export const Activated = named('Activated', Type.Object({
  activated: Type.Literal(true),
  instance: Type.Object({
    id: ids.activation, name: nullable(Type.String()), fingerprint: nullable(Type.String()), createdAt: instant, lastSeenAt: instant, metadata: nullable(json),
  }),
  license: ClientLicense,
  token: optional(Type.String({ description: 'A lease (JWS, kl-lease+jwt): the instance may run without contact until it ends' })),
  heartbeatIntervalSeconds: optional(Type.Integer({ description: 'How often the server expects to hear from the instance, where it does: by heartbeats or, with a floating seat that owes none, also by validations' })),
}));

export class ActivateLicense extends command('license.activate', {
  licenseKey,
  instanceName: optional(name),
  fingerprint: optional(Type.String({ minLength: 1, maxLength: 512 })),
  installationId: optional(Type.String({ minLength: 1, maxLength: 255 })),
  hardwareId: optional(Type.String({ minLength: 1, maxLength: 255 })),
  deploymentId: optional(text(255)),
  deploymentMode: optional(text(100)),
  productId: optional(text(64)),
  metadata: optional(json),
  /** Set by the gateway: the network the request came from. */
  address: optional(Type.String()),
}, Type.Object({
  ...Activated.properties,
  /** Between services only. False when the instance already had its seat: the gateway answers 200 instead of 201. */
  created: Type.Boolean(),
})) {
  static override readonly direct = true;
}

export class DeactivateLicense extends command('license.deactivate', { licenseKey, instanceId: Type.String({ maxLength: 64 }) }, named('Deactivated', Type.Object({
  deactivated: Type.Literal(true),
  activationCount: Type.Integer(),
  activationLimit: Type.Integer(),
}))) {}

/** The license that has this key now. `retired`: none has it now, but one had it before. */
export class ResolveKey extends query('license.resolve-key', { keyHash: Type.String() }, Type.Object({ licenseId: nullable(ids.license), retired: Type.Boolean() })) {
  static override readonly direct = true;
}

export const Verdict = named('Verdict', Type.Object({
  valid: Type.Boolean(),
  code: Type.String({ description: 'The first failing or warning rule, or VALID' }),
  detail: Type.String(),
  reasons: listOf(Type.String()),
  conclusive: Type.Boolean({ description: 'False while the event log is unavailable: the rest is then the last known answer' }),
  enforcement,
  graceEndsAt: nullable(instant),
  decisionId: Type.String({ description: 'License, revision, instant and hash of the request' }),
  seq: Type.Integer({ description: 'Revision of the license stream; reject a state older than one you have seen' }),
  checkedAt: instant,
  license: nullable(ClientLicense),
  instance: nullable(Type.Object({ id: ids.activation, name: nullable(Type.String()), lastSeenAt: instant })),
  token: optional(Type.String({ description: 'The signed verdict (JWS, kl-verdict+jwt), if the request had a nonce' })),
}));
export type Verdict = Static<typeof Verdict>;

export class ValidateLicense extends query('activation.validate', {
  licenseKey,
  instanceId: optional(text(64)),
  fingerprint: optional(text(512)),
  productId: optional(text(64)),
  deploymentId: optional(text(255)),
  deploymentMode: optional(text(100)),
  features: optional(listOf(Type.String({ minLength: 1, maxLength: 100 }), { maxItems: 100 })),
  nonce: optional(Type.String({ minLength: 1, maxLength: 255 })),
  /** Between services only: the answer is wanted to be repeated. */
  repeatable: optional(Type.Literal(true)),
}, Type.Object({
  ...Verdict.properties,
  /** Between services only. An unknown key that once was a license's, so it is not a guess. */
  retired: optional(Type.Boolean()),
  /** Between services only. The verdict is the same, but for the time in it, until this instant or the next event of the license. */
  stands: optional(Type.Object({ until: nullable(instant) })),
})) {
  static override readonly direct = true;
  static override readonly written = writtenVerdict;
}

/** The license of an answer is the same object until it changes. Only a key without one can be `retired`. */
const writtenLicenses = new WeakMap<object, string>();
function writtenVerdict(verdict: Static<typeof ValidateLicense.answer>): string {
  const { license, token } = verdict;
  if (!license) return JSON.stringify(verdict);
  let text = writtenLicenses.get(license);
  if (text === undefined) writtenLicenses.set(license, (text = JSON.stringify(license)));
  // Of a token's characters, those of base64url and the dot, JSON escapes none.
  return `${JSON.stringify({ ...verdict, license: undefined, retired: undefined, token: undefined }).slice(0, -1)},"license":${text}${token === undefined ? '' : `,"token":"${token}"`}}`;
}

/**
 * Between services: which licenses have changed since an earlier answer, so that verdicts on all others can be repeated. Of these, the instances that
 * have asked again have been seen.
 */
export class Revalidate extends query('activation.revalidate', {
  /** The position of the earlier answer, null if there is none. */
  since: nullable(Type.Integer()),
  seen: listOf(Type.Object({ licenseId: ids.license, activationId: ids.activation })),
}, Type.Object({
  now: instant,
  /** Events up to here are considered: at least those whose command was answered before this was asked. */
  position: Type.Integer(),
  /** Null: all of them may have changed. */
  changed: nullable(listOf(ids.license)),
})) {}

/** Last-seen times of a license's instances; instances never seen are not in it. */
export class LastSeen extends query('activation.last-seen', { activationIds: listOf(ids.activation) }, Type.Record(Type.String(), instant)) {}

/** Between services: an instance has activated again and has its seat already. */
export class SeeInstance extends command('activation.see-instance', { activationId: ids.activation, at: instant }, Type.Null()) {}
