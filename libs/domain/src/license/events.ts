import type {
  ActivationId, CustomerId, DirectiveId, EventOrigin, EventShape, GeneratorId, Instant, JsonObject, LicenseId, OrderId, PlanId, ProductId,
} from '@keyledger/kernel';
import type { Finding } from '../abuse/abuse.ts';
import { isLive, type Activation, type DirectiveKind, type EndedBy, type HoldCause, type HoldKind, type IssuedLicense, type LicenseState, type MeterState } from './state.ts';
import { DEFAULT_KEY_FORMAT, type KeyFormat } from '../license-key.ts';
import { expiryGraceEnd, type Features, type Quota, type Terms } from './terms.ts';

/** Terms in which a vendor may write what is the holder's: they are sealed, and so stored beside the others, not among them. */
type PrivateTerm = 'featureFlags' | 'serialNumber' | 'deploymentId';

/** Fields that are sealed (see `licenseShapes`) come back as null once the license has been erased. */
export type LicenseEvent =
  | {
    type: 'LicenseIssued'; licenseId: LicenseId; productId: ProductId; planId: PlanId | null; generatorId: GeneratorId | null; orderId: OrderId | null;
    customerId: CustomerId | null; environment: string; purchasedAt: Instant; terms: Omit<Terms, PrivateTerm>; metadata: JsonObject | null;
    featureFlags: JsonObject | null; serialNumber: string | null; deploymentId: string | null;
    key: string | null; keyHash: string; keyPrefix: string;
    /** The format of a regenerated key; if omitted, the default format. */
    keyFormat?: KeyFormat;
  }
  | { type: 'LicenseAssigned'; customerId: CustomerId }
  | {
    type: 'InstanceActivated'; activationId: ActivationId; name: string | null; fingerprint: string | null; installationId: string | null;
    hardwareId: string | null; metadata: JsonObject | null; deploymentId: string | null; deploymentMode: string | null;
    /** When the instance is overdue if never heard of. Absent if its silence does not matter. */
    leaseEndsAt?: Instant;
  }
  /** `dueAt`: when time caused it; the sweep records it later. */
  | { type: 'InstanceDeactivated'; activationId: ActivationId; by: 'client' | 'admin' | 'lapse'; dueAt?: Instant }
  | { type: 'InstanceRebound'; activationId: ActivationId; fingerprint: string | null; reason: string }
  | { type: 'ActivationLimitChanged'; activationLimit: number }
  /** By an edit, or by the first activation, which starts a term that counts from it. */
  | { type: 'ExpiryChanged'; expiresAt: Instant | null; by: 'edit' | 'firstActivation' }
  | { type: 'FeaturesChanged'; features: Features }
  | { type: 'FeatureFlagsChanged'; featureFlags: JsonObject | null }
  | { type: 'MetadataChanged'; metadata: JsonObject | null }
  | { type: 'QuotaChanged'; quotas: readonly Quota[] }
  /** `until`: when it ends by itself. */
  | { type: 'LicenseSuspended' | 'LicenseInactivated'; cause: HoldCause; reason: string | null; until?: Instant }
  /** `dueAt`: when it ended by itself. */
  | { type: 'LicenseUnsuspended' | 'LicenseReactivated'; cause: HoldCause; reason: string | null; dueAt?: Instant }
  | { type: 'LicenseExpired'; expiresAt: Instant; graceEndedAt: Instant }
  | { type: 'LicenseRenewed'; expiresAt: Instant; reason: string }
  /** Every live activation ends with the old key. One event for all: ten thousand would not fit into one append. */
  | { type: 'KeyRegenerated'; key: string | null; keyHash: string; keyPrefix: string; keyVersion: number; reason: string | null; activationsEnded: number }
  /** Every live activation ends. */
  | { type: 'LicenseRevoked'; reason: string | null; cause: HoldCause | null; activationsEnded: number }
  | { type: 'LicenseErased'; keyPrefix: string; reason: string; everActivated: boolean }
  /** Overdue, and still in the grace without contact. */
  | { type: 'HeartbeatMissed'; activationId: ActivationId; dueAt?: Instant }
  | { type: 'HeartbeatLost'; activationId: ActivationId; dueAt?: Instant }
  | { type: 'HeartbeatRecovered'; activationId: ActivationId }
  | { type: 'DirectiveQueued'; directiveId: DirectiveId; kind: DirectiveKind; payload: JsonObject | null }
  /** Repeated for each different peak while exceeded; the grace does not start again. */
  | { type: 'QuotaExceeded'; meter: string; peak: number; limit: number; graceEndsAt: Instant; readings: JsonObject | null }
  | { type: 'QuotaRestored'; meter: string; peak: number | null; limit: number | null }
  | { type: 'LicenseRestricted'; meter: string; dueAt?: Instant }
  /** `evidence`: revisions of this stream. */
  | ({ type: 'AbuseSuspected' } & Finding)
  | { type: 'ExpiryReminderDue'; days: number; expiresAt: Instant; dueAt?: Instant };

export type LicenseEventType = LicenseEvent['type'];

export const licenseShapes = {
  LicenseIssued: {
    schema: 2, sealed: ['key', 'metadata', 'featureFlags', 'serialNumber', 'deploymentId'],
    upcast: { 1: ({ terms, ...data }) => {
      const { featureFlags, serialNumber, deploymentId, ...others } = terms as JsonObject;
      return { ...data, terms: others, featureFlags, serialNumber, deploymentId };
    } },
  },
  LicenseAssigned: { schema: 1 },
  InstanceActivated: { schema: 1, sealed: ['name', 'metadata', 'fingerprint', 'installationId', 'hardwareId', 'deploymentId'] },
  InstanceDeactivated: { schema: 1 },
  InstanceRebound: { schema: 1, sealed: ['fingerprint'] },
  ActivationLimitChanged: { schema: 1 },
  ExpiryChanged: { schema: 1 },
  FeaturesChanged: { schema: 1 },
  FeatureFlagsChanged: { schema: 1, sealed: ['featureFlags'] },
  MetadataChanged: { schema: 1, sealed: ['metadata'] },
  QuotaChanged: { schema: 1 },
  LicenseSuspended: { schema: 1 },
  LicenseUnsuspended: { schema: 1 },
  LicenseInactivated: { schema: 1 },
  LicenseReactivated: { schema: 1 },
  LicenseExpired: { schema: 1 },
  LicenseRenewed: { schema: 1 },
  KeyRegenerated: { schema: 1, sealed: ['key'] },
  LicenseRevoked: { schema: 1 },
  LicenseErased: { schema: 1 },
  HeartbeatMissed: { schema: 1 },
  HeartbeatLost: { schema: 1 },
  HeartbeatRecovered: { schema: 1 },
  DirectiveQueued: { schema: 1, sealed: ['payload'] },
  QuotaExceeded: { schema: 1 },
  QuotaRestored: { schema: 1 },
  LicenseRestricted: { schema: 1 },
  AbuseSuspected: { schema: 1 },
  ExpiryReminderDue: { schema: 1 },
} as const satisfies Record<LicenseEventType, EventShape>;

/** The state as the fold sees it: its own copy, so it may write. */
type Facts = {
  -readonly [Name in keyof IssuedLicense]: IssuedLicense[Name] extends ReadonlyMap<infer K, infer V> ? Map<K, V> : IssuedLicense[Name];
};

/** What did happen. History is folded, never judged: this function has no way to fail. */
export function evolve(state: LicenseState, event: LicenseEvent, origin: EventOrigin): LicenseState {
  if (state.existence === 'none') return event.type === 'LicenseIssued' ? license(event, origin.at) : state;
  if (state.existence === 'erased') return state;
  const facts = state as Facts;
  switch (event.type) {
    case 'LicenseIssued': return state;
    case 'LicenseAssigned': facts.customerId = event.customerId; return state;
    case 'InstanceActivated': seat(facts, event, origin.at); return state;
    case 'InstanceDeactivated': unseat(facts, event.activationId, event.by, origin.at); return state;
    case 'InstanceRebound': rebind(facts, event.activationId, event.fingerprint, origin.at); return state;
    case 'ActivationLimitChanged': setTerms(facts, { activationLimit: event.activationLimit }); return state;
    case 'ExpiryChanged': moveExpiry(facts, event.expiresAt, origin.at); return state;
    case 'FeaturesChanged': setTerms(facts, { features: event.features }); return state;
    case 'FeatureFlagsChanged': setTerms(facts, { featureFlags: event.featureFlags ?? {} }); return state;
    case 'MetadataChanged': facts.metadata = event.metadata ?? {}; return state;
    case 'QuotaChanged': changeQuotas(facts, event.quotas); return state;
    case 'LicenseSuspended': hold(facts, 'suspended', event, origin); return state;
    case 'LicenseUnsuspended': lift(facts, 'suspended', event.cause); return state;
    case 'LicenseInactivated': hold(facts, 'inactive', event, origin); return state;
    case 'LicenseReactivated': lift(facts, 'inactive', event.cause); return state;
    case 'LicenseExpired': facts.expired = true; return state;
    case 'LicenseRenewed': moveExpiry(facts, event.expiresAt, origin.at); facts.expired = false; facts.renewedTo = event.expiresAt; return state;
    case 'KeyRegenerated':
      facts.key = event.key;
      facts.keyHash = event.keyHash;
      facts.keyPrefix = event.keyPrefix;
      facts.keyVersion = event.keyVersion;
      unseatAll(facts, 'regenerated', origin.at);
      return state;
    case 'LicenseRevoked': facts.revokedAt = origin.at; unseatAll(facts, 'revoked', origin.at); return state;
    case 'LicenseErased': return { existence: 'erased', id: facts.id, keyPrefix: event.keyPrefix, erasedAt: origin.at };
    case 'HeartbeatMissed': setActivation(facts, event.activationId, { late: true }); return state;
    case 'HeartbeatLost': setActivation(facts, event.activationId, { late: true, lost: true }); return state;
    case 'HeartbeatRecovered': setActivation(facts, event.activationId, { late: false, lost: false }); return state;
    case 'DirectiveQueued': queue(facts, event, origin.at); return state;
    case 'QuotaExceeded': exceed(facts, event); return state;
    case 'QuotaRestored': setMeter(facts, event.meter, { state: 'normal', lastPeak: event.peak, graceEndsAt: null }); return state;
    case 'LicenseRestricted': setMeter(facts, event.meter, { state: 'restricted' }); return state;
    case 'AbuseSuspected': facts.heldAgainst = new Map([...facts.heldAgainst, [event.pattern, Math.max(-1, ...event.evidence)]]); return state;
    case 'ExpiryReminderDue': facts.reminded = event.days; return state;
    default: event satisfies never; return state;
  }
}

function license(event: LicenseEvent & { type: 'LicenseIssued' }, issuedAt: Instant): IssuedLicense {
  const { licenseId, productId, planId, generatorId, orderId, customerId, environment, purchasedAt, metadata, key, keyHash, keyPrefix, keyFormat = DEFAULT_KEY_FORMAT } = event;
  const terms: Terms = { ...event.terms, featureFlags: event.featureFlags ?? {}, serialNumber: event.serialNumber, deploymentId: event.deploymentId };
  return {
    existence: 'issued', id: licenseId, productId, planId, generatorId, orderId, environment, purchasedAt, issuedAt,
    key, keyHash, keyPrefix, keyFormat, keyVersion: 1, customerId, terms, metadata: metadata ?? {}, worksUntil: expiryGraceEnd(terms),
    holds: [], expired: false, revokedAt: null, used: false, firstActivatedAt: null, renewedTo: null, expirySince: issuedAt, reminded: null,
    activations: new Map(), activationCount: 0, byFingerprint: new Map(), byInstallationId: new Map(), meters: new Map(),
    directives: [], locked: false, heldAgainst: new Map(),
  };
}

function setTerms(facts: Facts, change: Partial<Terms>): void {
  facts.terms = { ...facts.terms, ...change };
}

function moveExpiry(facts: Facts, expiresAt: Instant | null, at: Instant): void {
  // Lifetime, even after it is activated.
  setTerms(facts, expiresAt ? { expiresAt } : { expiresAt, expiry: null });
  facts.worksUntil = expiryGraceEnd(facts.terms);
  facts.expirySince = at;
  facts.reminded = null;
}

function hold(facts: Facts, kind: HoldKind, { cause, reason, until }: { cause: HoldCause; reason: string | null; until?: Instant }, { actor: { type, id, role }, at }: EventOrigin): void {
  lift(facts, kind, cause);
  facts.holds = [...facts.holds, { kind, cause, reason, actor: role === undefined ? { type, id } : { type, id, role }, at, ...(until !== undefined && { until }) }];
}

function lift(facts: Facts, kind: HoldKind, cause: HoldCause): void {
  facts.holds = facts.holds.filter((other) => other.kind !== kind || other.cause !== cause);
}

function seat(facts: Facts, event: LicenseEvent & { type: 'InstanceActivated' }, at: Instant): void {
  const { activationId: id, name, fingerprint, installationId, hardwareId, metadata, deploymentId, deploymentMode } = event;
  if (facts.activations.has(id)) return;
  const hides = installationId ? facts.byInstallationId.get(installationId) : undefined;
  facts.activations.set(id, {
    id, name, fingerprint, installationId, hardwareId, metadata, deploymentId, deploymentMode,
    createdAt: at, reboundAt: null, late: false, lost: false, endedAt: null, endedBy: null, ...(hides && { hides }),
  });
  if (fingerprint) facts.byFingerprint.set(fingerprint, id);
  if (installationId) facts.byInstallationId.set(installationId, id);
  facts.activationCount += 1;
  facts.used = true;
  facts.firstActivatedAt ??= at;
}

function unseat(facts: Facts, id: ActivationId, endedBy: EndedBy, endedAt: Instant): void {
  const activation = facts.activations.get(id);
  if (!isLive(activation)) return;
  const { fingerprint, installationId } = activation;
  if (fingerprint && facts.byFingerprint.get(fingerprint) === id) facts.byFingerprint.delete(fingerprint);
  if (installationId && facts.byInstallationId.get(installationId) === id) {
    const other = hidden(facts, activation);
    if (other) facts.byInstallationId.set(installationId, other);
    else facts.byInstallationId.delete(installationId);
  }
  facts.activations.set(id, ended(activation, endedBy, endedAt));
  facts.activationCount -= 1;
}

/** The latest live one of those with the same installation id. */
function hidden({ activations }: Facts, { hides }: Activation): ActivationId | undefined {
  let id = hides;
  while (id && !isLive(activations.get(id))) id = activations.get(id)?.hides;
  return id;
}

function unseatAll(facts: Facts, endedBy: EndedBy, endedAt: Instant): void {
  for (const activation of facts.activations.values()) if (isLive(activation)) facts.activations.set(activation.id, ended(activation, endedBy, endedAt));
  facts.byFingerprint.clear();
  facts.byInstallationId.clear();
  facts.activationCount = 0;
}

const ended = (activation: Activation, endedBy: EndedBy, endedAt: Instant): Activation =>
  ({ ...activation, fingerprint: null, installationId: null, hardwareId: null, metadata: null, late: false, lost: false, endedAt, endedBy });

function rebind(facts: Facts, id: ActivationId, fingerprint: string | null, reboundAt: Instant): void {
  const activation = facts.activations.get(id);
  if (!isLive(activation)) return;
  if (activation.fingerprint && facts.byFingerprint.get(activation.fingerprint) === id) facts.byFingerprint.delete(activation.fingerprint);
  if (fingerprint) facts.byFingerprint.set(fingerprint, id);
  // Nothing is known yet of the new appliance, so its silence is recorded separately.
  facts.activations.set(id, { ...activation, fingerprint, reboundAt, late: false, lost: false });
}

function setActivation(facts: Facts, id: ActivationId, change: Partial<Activation>): void {
  const activation = facts.activations.get(id);
  if (isLive(activation)) facts.activations.set(id, { ...activation, ...change });
}

/** An appliance further behind than this is not told of the oldest ones. */
const MAX_DIRECTIVES = 20;

function queue(facts: Facts, { directiveId: id, kind, payload }: LicenseEvent & { type: 'DirectiveQueued' }, issuedAt: Instant): void {
  facts.directives = [...facts.directives, { id, kind, payload, issuedAt }].slice(-MAX_DIRECTIVES);
  if (kind === 'lock' || kind === 'unlock') facts.locked = kind === 'lock';
}

function changeQuotas(facts: Facts, quotas: readonly Quota[]): void {
  setTerms(facts, { quotas });
  for (const meter of facts.meters.keys()) if (!quotas.some((quota) => quota.meter === meter)) facts.meters.delete(meter);
}

/** Another peak while the meter is exceeded, or restricted, changes neither its state nor the end of the grace. */
function exceed(facts: Facts, { meter, peak, graceEndsAt }: LicenseEvent & { type: 'QuotaExceeded' }): void {
  const before = facts.meters.get(meter);
  facts.meters.set(meter, before && before.state !== 'normal' ? { ...before, lastPeak: peak } : { state: 'exceeded', lastPeak: peak, graceEndsAt });
}

function setMeter(facts: Facts, meter: string, change: Partial<MeterState>): void {
  const before = facts.meters.get(meter);
  if (before) facts.meters.set(meter, { ...before, ...change });
}
