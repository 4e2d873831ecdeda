import { deploymentStates, directiveKinds } from '@keyledger/domain';
import type { ActivationId } from '@keyledger/kernel';
import Type, { type Static } from 'typebox';
import { idOf, instant, json, listOf, name, named, nullable, oneOf, optional } from './fields.ts';
import { enforcement, LeaseView, licenseKey as key, LicenseView } from './license.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';
import { UsageRecord } from './usage.ts';

/** The license key, where that is the credential: it must be the license's own. Never from a body. */
const licenseKey = optional(key);
const fingerprint = Type.String({ minLength: 1, maxLength: 512 });
/** Said by the gateway: the network the request came from. */
const address = optional(Type.String());
const version = optional(Type.String({ minLength: 1, maxLength: 100, description: 'Of the software' }));
const state = oneOf(...deploymentStates);
/** A string of any shape: what is no id names no instance. */
const activationId = Type.Unsafe<ActivationId>(Type.String({ minLength: 1, maxLength: 64 }));
const seq = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const token = nullable(Type.String({ description: 'Signed: a lease (kl-lease+jwt) while the box may work, else a verdict (kl-verdict+jwt) that says why not. Null for a license too large for a token' }));

export const Directive = named('Directive', Type.Object({
  id: idOf('dir'),
  kind: oneOf(...directiveKinds),
  payload: optional(json),
  issuedAt: instant,
}));
export type Directive = Static<typeof Directive>;

/** The first run of an appliance, and every further one: the same fingerprint has the same activation. */
export class ActivateAppliance extends command('activation.activate-appliance', {
  licenseId: ids.license, licenseKey, fingerprint, hostname: optional(name), version, address,
}, Type.Object({
  activationId: ids.activation,
  token,
  deployment: Type.Object({ state }),
  offlineGraceSeconds: Type.Integer({ description: 'How long it may run without contact' }),
  nextInSeconds: Type.Integer({ description: 'When the next heartbeat is due' }),
  lastSeq: nullable(Type.Integer({ description: 'Of the last heartbeat that was accepted: count on from there. Null before the first' })),
  /** Between services only. False when this box had its seat already: the gateway answers 200 instead of 201. */
  created: Type.Boolean(),
})) {}

export const HeartbeatAnswer = named('HeartbeatAnswer', Type.Object({
  state, enforcement, token,
  directives: listOf(Directive),
  nextInSeconds: Type.Integer(),
  serverTime: instant,
  usageRefused: optional(listOf(Type.String(), {
    description: 'Ids of the usage records that were not counted: from the future, from more than 400 days ago, or read without a seat. All others were. Left out when there are none',
  })),
}));
export type HeartbeatAnswer = Static<typeof HeartbeatAnswer>;

export class Heartbeat extends command('activation.heartbeat', {
  licenseId: ids.license, licenseKey, activationId, fingerprint, seq, version,
  usage: optional(listOf(UsageRecord, { maxItems: 1000 })),
  acks: optional(listOf(Type.String({ maxLength: 64 }), { maxItems: 100 })),
  nonce: optional(Type.String({ minLength: 1, maxLength: 255, description: 'Random, the same when the heartbeat is sent again: tells two boxes with one counter apart' })),
}, HeartbeatAnswer) {
  static override readonly direct = true;
}

/** Without `activationId` it is the only live one. */
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

/** Between services: an instance has asked for the seat that it has. `token` is what its lease still is; null where it may not work, or nobody signs. */
export class ContinueLease extends command('activation.continue-lease', { licenseId: ids.license, activationId: ids.activation }, Type.Object({ token: nullable(Type.String()) })) {}

/** Between services: a box that was late has been heard of again. */
export class RecoverHeartbeat extends command('license.recover-heartbeat', { licenseId: ids.license, activationId: ids.activation }, Type.Null()) {
  readonly type = 'RecoverHeartbeat';
}

/** What a reader of a license's stream is told of it: the license itself, without regard to any box. */
const standing = { seq: Type.Integer({ description: 'Revision of the license stream' }), status: Type.String(), code: Type.String(), enforcement };
export const LicenseChange = named('LicenseChange', Type.Object({ ...standing, type: Type.String({ description: 'LicenseRevoked, InstanceRebound, …' }), at: instant }));
export type LicenseChange = Static<typeof LicenseChange>;

/**
 * What has happened to a license after a revision: answered as soon as there is something, or with nothing after `waitMs`.
 * Without `after` it is answered at once, with where this reader was left. `ended`: there is nothing more to come.
 */
export class NextChanges extends query('activation.next-changes', {
  licenseId: ids.license, licenseKey, activationId: optional(activationId), after: optional(Type.Integer()), waitMs: Type.Integer(),
}, Type.Object({ ...standing, after: Type.Integer(), changes: listOf(Type.Object({ seq: Type.Integer(), type: Type.String(), at: instant })), ended: Type.Boolean() })) {}

/** Without `activationId` it is the license as a whole that has heard of it. */
export class AcknowledgeChanges extends command('activation.acknowledge-changes', {
  licenseId: ids.license, licenseKey, activationId: optional(activationId), seq,
}, Type.Object({ acknowledged: Type.Integer({ description: 'Revision up to which everything is known to have arrived' }) })) {}

/** What is known of instances by their heartbeats. */
export class Leases extends query('activation.leases', { activationIds: listOf(ids.activation) }, Type.Record(Type.String(), LeaseView)) {}
