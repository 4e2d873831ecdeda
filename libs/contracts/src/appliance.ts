import { deploymentStates, directiveKinds } from '@keyledger/domain';
import type { ActivationId } from '@keyledger/kernel';
import Type, { type Static } from 'typebox';
import { idOf, instant, json, listOf, name, named, nullable, oneOf, optional } from './fields.ts';
import { enforcement, LeaseView, licenseKey as key, LicenseView } from './license.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';
import { UsageRecord } from './usage.ts';

/** The license key where it is the credential: it must be the license's own. Never taken from a body. */
const licenseKey = optional(key);
const fingerprint = Type.String({ minLength: 1, maxLength: 512 });
/** Set by the gateway: the network the request came from. */
const address = optional(Type.String());
const version = optional(Type.String({ minLength: 1, maxLength: 100, description: 'Version of the software' }));
const state = oneOf(...deploymentStates);
/** A string of any shape: one that is not an id names no instance. */
const activationId = Type.Unsafe<ActivationId>(Type.String({ minLength: 1, maxLength: 64 }));
const seq = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const token = nullable(Type.String({ description: 'Signed: a lease (kl-lease+jwt) while the appliance may run, otherwise a verdict (kl-verdict+jwt) with the reason. Null for a license too large for a token' }));

export const Directive = named('Directive', Type.Object({
  id: idOf('dir'),
  kind: oneOf(...directiveKinds),
  payload: optional(json),
  issuedAt: instant,
}));
export type Directive = Static<typeof Directive>;

/** The first activation of an appliance, or a repeated one: the same fingerprint has the same activation. */
export class ActivateAppliance extends command('activation.activate-appliance', {
  licenseId: ids.license, licenseKey, fingerprint, hostname: optional(name), version, address,
}, Type.Object({
  activationId: ids.activation,
  token,
  deployment: Type.Object({ state }),
  offlineGraceSeconds: Type.Integer({ description: 'How long it may run without contact' }),
  nextInSeconds: Type.Integer({ description: 'When the next heartbeat is due' }),
  lastSeq: nullable(Type.Integer({ description: 'seq of the last accepted heartbeat: continue counting from there. Null before the first' })),
  /** Between services only. False when the appliance already had its seat: the gateway answers 200 instead of 201. */
  created: Type.Boolean(),
})) {}

export const HeartbeatAnswer = named('HeartbeatAnswer', Type.Object({
  state, enforcement, token,
  directives: listOf(Directive),
  nextInSeconds: Type.Integer(),
  serverTime: instant,
  usageRefused: optional(listOf(Type.String(), {
    description: 'Ids of the usage records that were not counted: from the future, from more than 400 days ago, or read without a seat. All others were counted. Omitted when there are none',
  })),
}));
export type HeartbeatAnswer = Static<typeof HeartbeatAnswer>;

export class Heartbeat extends command('activation.heartbeat', {
  licenseId: ids.license, licenseKey, activationId, fingerprint, seq, version,
  usage: optional(listOf(UsageRecord, { maxItems: 1000 })),
  acks: optional(listOf(Type.String({ maxLength: 64 }), { maxItems: 100 })),
  nonce: optional(Type.String({ minLength: 1, maxLength: 255, description: 'Random, but the same when the heartbeat is sent again: tells apart two appliances that share one counter' })),
}, HeartbeatAnswer) {
  static override readonly direct = true;
}

/** Without `activationId`: the only live activation. */
export class RebindLicense extends command('license.rebind', {
  licenseId: ids.license, activationId: optional(activationId), fingerprint, reason: Type.String({ minLength: 1, maxLength: 1000 }),
}, LicenseView) {
  readonly type = 'Rebind';
}

export class QueueDirective extends command('license.queue-directive', { licenseId: ids.license, kind: oneOf(...directiveKinds), payload: optional(json) }, Directive) {}

/** Between services: a seat for an appliance. `keyHash`: the key that was used, which must be the one in force. */
export class BindAppliance extends command('license.bind-appliance', {
  licenseId: ids.license, keyHash: optional(Type.String()), fingerprint, hostname: optional(name), address,
}, Type.Object({ activationId: ids.activation, created: Type.Boolean() })) {}

/** Between services: an instance has activated again and has its seat already. `token` is its current lease; null where it may not run, or signing is unavailable. */
export class ContinueLease extends command('activation.continue-lease', { licenseId: ids.license, activationId: ids.activation }, Type.Object({ token: nullable(Type.String()) })) {}

/** Between services: an appliance whose heartbeat was overdue is back. */
export class RecoverHeartbeat extends command('license.recover-heartbeat', { licenseId: ids.license, activationId: ids.activation }, Type.Null()) {
  readonly type = 'RecoverHeartbeat';
}

/** What a reader of a license's stream gets: the state of the license itself, not of any appliance. */
const standing = { seq: Type.Integer({ description: 'Revision of the license stream' }), status: Type.String(), code: Type.String(), enforcement };
export const LicenseChange = named('LicenseChange', Type.Object({ ...standing, type: Type.String({ description: 'LicenseRevoked, InstanceRebound, …' }), at: instant }));
export type LicenseChange = Static<typeof LicenseChange>;

/**
 * The changes of a license after a revision: answered as soon as there are any, or empty after `waitMs`.
 * Without `after` it is answered at once, with the revision this reader had reached. `ended`: no more changes will come.
 */
export class NextChanges extends query('activation.next-changes', {
  licenseId: ids.license, licenseKey, activationId: optional(activationId), after: optional(Type.Integer()), waitMs: Type.Integer(),
}, Type.Object({ ...standing, after: Type.Integer(), changes: listOf(Type.Object({ seq: Type.Integer(), type: Type.String(), at: instant })), ended: Type.Boolean() })) {}

/** Without `activationId` the changes are acknowledged for the license as a whole. */
export class AcknowledgeChanges extends command('activation.acknowledge-changes', {
  licenseId: ids.license, licenseKey, activationId: optional(activationId), seq,
}, Type.Object({ acknowledged: Type.Integer({ description: 'Revision up to which all changes are known to have arrived' }) })) {}

/** What the heartbeats of instances have told about them. */
export class Leases extends query('activation.leases', { activationIds: listOf(ids.activation) }, Type.Record(Type.String(), LeaseView)) {}
