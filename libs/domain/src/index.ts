export { abuseActions, abusePatterns, AbuseRules, Denials, findingsIn, type AbuseAction, type AbusePattern, type AbuseRule, type AbuseRulesCommand, type AbuseRulesEvent, type AbuseRulesState, type DenialsCommand, type DenialsEvent, type DenialsState, type Finding, type Sighting } from './abuse/abuse.ts';
export {
  ApiKey, apiKeyView, mayGrant, permissionsOf, type ApiKeyCommand, type ApiKeyEvent, type ApiKeyState,
} from './access/apiKey.ts';
export { clockView, Environment, environmentView, type EnvironmentCommand, type EnvironmentEvent, type EnvironmentState } from './access/environment.ts';
export {
  Customer, customerView, isErased, normaliseEmail, type CustomerCommand, type CustomerEvent, type CustomerState,
} from './catalog/customer.ts';
export { Generator, generatorView, type GeneratorCommand, type GeneratorEvent, type GeneratorState } from './catalog/generator.ts';
export { Order, orderView, type OrderCommand, type OrderEvent, type OrderState } from './catalog/order.ts';
export { Plan, planView, type Licensing, type PlanCommand, type PlanEvent, type PlanState } from './catalog/plan.ts';
export { isLow, Pool, type PoolCommand, type PoolEvent, type PoolState } from './catalog/pool.ts';
export { mustBeActive, Product, productView, type ProductCommand, type ProductEvent, type ProductState } from './catalog/product.ts';
export { CLAIM_SETTLES_SECONDS, Unique, uniqueId, type UniqueCommand, type UniqueEvent, type UniqueState } from './catalog/unique.ts';
export {
  DEFAULT_KEY_FORMAT, generateKey, keyPrefix, normaliseKey, spellingsOf, type KeyFormat, type RandomBytes,
} from './license-key.ts';
export {
  beat, beatSeconds, boundAtOf, deploymentStates, isEnding, isMissed, isOutdated, leaseEndOf, leaseSeconds, lookAtOf, missedFrom, NO_BEAT, openLease, signedAtOf, silentFrom, standingOf,
  type Beat, type BeatOutcome, type DeploymentState, type Lease, type LeaseToken, type Standing,
} from './lease/lease.ts';
export { nextDue } from './license/due.ts';
export type { LicenseEvent, LicenseEventType } from './license/events.ts';
export { License, type LicenseCommand, type LicenseKey } from './license/license.ts';
export {
  activationOf, allowedActions, directiveKinds, holdCauses, instanceLike, isLive, issued, meterState, statusOf,
  type Activation, type Directive, type DirectiveKind, type EndedBy, type Hold, type HoldCause, type HoldKind, type IssuedLicense, type LicenseState, type MeterState,
} from './license/state.ts';
export {
  instantIn, likeMeters, mustBeIssuable, termsOf, termsOver, type Expiry, type Feature, type Features, type Meter, type Quota, type Terms, type TermsInput,
} from './license/terms.ts';
export { licenseStatuses, transitions, type LicenseAction, type LicenseStatus } from './license/transitions.ts';
export {
  changesAt, instanceAsked, verdictDetails, verdictOf, verdictRules, type Enforcement, type Question, type Verdict, type VerdictCode,
} from './license/verdict.ts';
export { clientLicenseView, instanceView, licensedTerms, licenseView, mustBeGoodForFile, type ClientLicenseView, type FeatureView, type InstanceView, type LicenseView } from './license/view.ts';
export { Signatures, type RecordedSignature, type SignaturesCommand, type SignaturesEvent, type SignaturesState, type SignedStatement } from './signing/signatures.ts';
export {
  keyOf, revokedKeys, SigningKeys, signingKeyFor, signingKeyView, signingPurposes, successorFor, trustedKeys,
  type RootKey, type SigningKey, type SigningKeysCommand, type SigningKeysEvent, type SigningKeysState, type SigningKeyState, type SigningPurpose,
} from './signing/signingKeys.ts';
export { GaugePeaks, HOLD_MS, inForceAt, type Peak, type SeatEnds, type Span } from './usage/gauge.ts';
export { countsOf, daysOf, demandOf, dueAt, evidenceOf, isMetered, kindOf, metersNamed, monthlyMeters, nextLook, useOf, withUse, type Counted, type MeterDay, type MeterUse, type Use } from './usage/quota.ts';
export {
  bucketsBetween, counts, dayBefore, dayOf, endOf, isDay, microsOf, MILLION, mustBeInReach, SKEW_SECONDS, startOf, timeOf,
  type Bucket, type Day, type Reading,
} from './usage/reading.ts';
export { SWEEP_ABANDONED_SECONDS, Sweeps, type SweepsCommand, type SweepsEvent, type SweepsState, type SweepTrigger, type Transitions } from './sweep/sweep.ts';
export {
  Job, jobView, rowCommandId, rowLicenseId, type JobCommand, type JobEvent, type JobKind, type JobPhase, type JobState, type JobWork,
} from './job/job.ts';
export { isGivenUp, MAX_ATTEMPTS, outcomeOf, type Attempt, type AttemptOutcome } from './webhook/attempts.ts';
export {
  enabled, existing, signingSecrets, WebhookEndpoint, webhookEndpointView,
  type DisabledBy, type WebhookEndpointCommand, type WebhookEndpointEvent, type WebhookEndpointState, type WebhookSecret,
} from './webhook/endpoint.ts';
export { TEST_TYPE, wants, webhookFilters, webhookTypes, type WebhookFilter, type WebhookType } from './webhook/types.ts';
