import type { WebhookData } from '@keyledger/contracts';
import type { DenialsEvent, JobEvent, LicenseEvent, LicenseEventType, LicenseState, SigningKeysEvent, SigningKeysState, WebhookType } from '@keyledger/domain';
import type { JobId, JsonObject } from '@keyledger/kernel';

/** The public form of an event. */
export interface Announcement {
  readonly type: WebhookType;
  readonly data: JsonObject;
}
/** How a stored event becomes a public one. `types` lists all that `tell` may return, so that it is known before decoding whether any endpoint wants it. */
export interface Announced<Event, Facts> {
  readonly types: readonly WebhookType[];
  tell(event: Event, facts: Facts): readonly Announcement[];
}

/** The fields of the license in every announcement about it. */
export type LicenseFacts = Pick<WebhookData['license.assigned'], 'licenseId' | 'keyPrefix' | 'productId' | 'planId' | 'customerId' | 'orderId'>;

export function factsOf(license: LicenseState): LicenseFacts | undefined {
  if (license.existence === 'none') return undefined;
  const { id: licenseId, keyPrefix } = license;
  if (license.existence === 'erased') return { licenseId, keyPrefix, productId: null, planId: null, customerId: null, orderId: null };
  const { productId, planId, customerId, orderId } = license;
  return { licenseId, keyPrefix, productId, planId, customerId, orderId };
}

type Own<T extends WebhookType> = Omit<WebhookData[T], keyof LicenseFacts> & Partial<LicenseFacts>;
const say = <T extends WebhookType>(type: T, facts: LicenseFacts, own: Own<T>): Announcement => ({ type, data: { ...facts, ...own } });
const one = <E extends LicenseEventType, T extends WebhookType>(type: T, own: (event: LicenseEvent & { type: E }) => Own<T>): Announced<LicenseEvent & { type: E }, LicenseFacts> =>
  ({ types: [type], tell: (event, facts) => [say(type, facts, own(event))] });
const held = ({ cause, reason }: Pick<Own<'license.suspended'>, 'cause' | 'reason'>) => ({ cause, reason });

/** Sealed fields of an event are never sent: they are null here. Events that are not in this table are never sent. */
export const ofLicenses: { readonly [E in LicenseEventType]?: Announced<LicenseEvent & { type: E }, LicenseFacts> } = {
  LicenseIssued: one('license.issued', ({ terms: { expiresAt, activationLimit } }) => ({ expiresAt, activationLimit })),
  LicenseAssigned: one('license.assigned', ({ customerId }) => ({ customerId })),
  // Older releases stored the deployment's id unsealed; it is not sent then either, because the outbox could not be erased.
  InstanceActivated: one('license.activated', ({ activationId, deploymentMode }) => ({ activationId, deploymentId: null, deploymentMode })),
  InstanceDeactivated: one('license.deactivated', ({ activationId, by }) => ({ activationId, by })),
  LicenseSuspended: one('license.suspended', held),
  LicenseUnsuspended: one('license.unsuspended', held),
  LicenseInactivated: one('license.inactivated', held),
  LicenseReactivated: one('license.reactivated', held),
  ExpiryReminderDue: one('license.expiring', ({ days, expiresAt }) => ({ days, expiresAt })),
  LicenseExpired: one('license.expired', ({ expiresAt, graceEndedAt }) => ({ expiresAt, graceEndedAt })),
  LicenseRenewed: one('license.renewed', ({ expiresAt, reason }) => ({ expiresAt, reason })),
  LicenseRevoked: one('license.revoked', ({ reason, cause, activationsEnded }) => ({ reason, cause, activationsEnded })),
  KeyRegenerated: one('license.key-regenerated', ({ keyPrefix, keyVersion, reason, activationsEnded }) => ({ keyPrefix, keyVersion, reason, activationsEnded })),
  LicenseErased: one('license.erased', ({ keyPrefix, reason, everActivated }) => ({ keyPrefix, reason, everActivated })),
  InstanceRebound: one('activation.rebound', ({ activationId, reason }) => ({ activationId, reason })),
  HeartbeatMissed: one('deployment.late', ({ activationId, dueAt: since = null }) => ({ activationId, since })),
  // An appliance whose grace without contact is over has locked itself.
  HeartbeatLost: one('deployment.locked', ({ activationId, dueAt: since = null }) => ({ activationId, by: 'silence' as const, since })),
  HeartbeatRecovered: one('deployment.recovered', ({ activationId }) => ({ activationId })),
  DirectiveQueued: {
    types: ['deployment.locked', 'deployment.recovered'],
    tell: ({ kind }, facts) => (kind === 'lock' ? [say('deployment.locked', facts, { activationId: null, by: 'directive', since: null })]
      : kind === 'unlock' ? [say('deployment.recovered', facts, { activationId: null })] : []),
  },
  AbuseSuspected: one('license.abuse-suspected', ({ pattern, limit, observed, action, from, until, evidence }) => ({ pattern, limit, observed, action, from, until, evidence })),
  QuotaExceeded: one('quota.exceeded', ({ meter, peak, limit, graceEndsAt }) => ({ meter, peak, limit, graceEndsAt })),
  LicenseRestricted: one('quota.restricted', ({ meter, dueAt = null }) => ({ meter, since: dueAt })),
  QuotaRestored: one('quota.restored', ({ meter, peak, limit }) => ({ meter, peak, limit })),
};

/** About a license, in a stream of its own. */
export const ofDenials: { readonly [E in DenialsEvent['type']]?: Announced<DenialsEvent & { type: E }, LicenseFacts> } = {
  ActivationsDenied: {
    types: ['activation.limit-exceeded'],
    tell: ({ limit, used, denials, machines, from, until }, facts) => [say('activation.limit-exceeded', facts, { limit, used, denials, machines, from, until })],
  },
};

export const ofSigningKeys: { readonly [E in SigningKeysEvent['type']]?: Announced<SigningKeysEvent & { type: E }, SigningKeysState> } = {
  SigningKeyActivated: {
    types: ['signing-key.rotated'],
    tell({ kid }, { keys }) {
      const key = keys.get(kid);
      return key ? [{ type: 'signing-key.rotated', data: { kid, purpose: key.purpose } satisfies WebhookData['signing-key.rotated'] }] : [];
    },
  },
};

export const ofJobs: { readonly [E in JobEvent['type']]?: Announced<JobEvent & { type: E }, JobId> } = {
  JobFinished: {
    types: ['job.finished'],
    tell: ({ kind, outcome: state, total, done, failed, detail = null }, jobId) => [{ type: 'job.finished', data: { jobId, kind, state, total, done, failed, detail } satisfies WebhookData['job.finished'] }],
  },
};
