export { abuseActions, abusePatterns, AbuseRules, Denials, findingsIn, type AbuseAction, type AbusePattern, type AbuseRule, type AbuseRulesCommand, type AbuseRulesEvent, type AbuseRulesState, type DenialsCommand, type DenialsEvent, type DenialsState, type Finding, type Sighting } from './abuse/abuse.ts';
export {
  ApiKey, apiKeyView, mayGrant, permissionsOf, type ApiKeyCommand, type ApiKeyEvent, type ApiKeyState,
} from './access/apiKey.ts';
export { clockView, Environment, environmentNamePattern, environmentView, type EnvironmentCommand, type EnvironmentEvent, type EnvironmentState } from './access/environment.ts';
export {
  Customer, customerView, isErased, normaliseEmail, type CustomerCommand, type CustomerEvent, type CustomerState,
} from './catalog/customer.ts';
export { Generator, generatorView, type GeneratorCommand, type GeneratorEvent, type GeneratorState } from './catalog/generator.ts';
export { MAXIMUM_QUANTITY, Order, orderView, type OrderCommand, type OrderEvent, type OrderState } from './catalog/order.ts';
export { Plan, planView, type Licensing, type PlanCommand, type PlanEvent, type PlanState } from './catalog/plan.ts';
export { isLow, Pool, type PoolCommand, type PoolEvent, type PoolState } from './catalog/pool.ts';
export { mustBeActive, Product, productView, type ProductCommand, type ProductEvent, type ProductState } from './catalog/product.ts';
export { CLAIM_SETTLES_SECONDS, Unique, uniqueId, type UniqueCommand, type UniqueEvent, type UniqueState } from './catalog/unique.ts';
export {
  checkKeyFormat, DEFAULT_KEY_FORMAT, entropyBits, generateKey, hasValidCheck, keyPrefix, MINIMUM_KEY_BITS, normaliseKey, spellingsOf, type KeyFormat, type RandomBytes,
} from './license-key.ts';
export { checkMetadata, METADATA_LIMIT, sameJson } from './metadata.ts';
export {
  beat, beatSeconds, boundAtOf, deploymentStates, isEnding, isMissed, isOutdated, leaseEndOf, leaseSeconds, lookAtOf, missedFrom, NO_BEAT, openLease, signedAtOf, silentFrom, standingOf,
  type Beat, type BeatOutcome, type DeploymentState, type Lease, type LeaseToken, type Standing,
} from './lease/lease.ts';
export { nextDue, reminderDays } from './license/due.ts';
export { licenseShapes, type LicenseEvent, type LicenseEventType } from './license/events.ts';
export { License, type LicenseCommand, type LicenseKey } from './license/license.ts';
export {
  allowedActions, canActivate, directiveKinds, graceEndOf, holdCauses, instanceLike, isExpired, isInExpiryGrace, isLive, issued, meterState, statusOf,
  type Activation, type Directive, type DirectiveKind, type EndedBy, type Hold, type HoldCause, type HoldKind, type IssuedLicense, type LicenseState, type MeterState,
} from './license/state.ts';
export {
  defaultTerms, instantIn, likeMeters, MAX_ACTIVATION_LIMIT, MAX_TRIAL_DAYS, termsOf, termsOver, UNLIMITED, type Expiry, type Feature, type Features, type Meter, type Quota, type Terms, type TermsInput,
} from './license/terms.ts';
export { licenseActions, licenseStatuses, transitions, type LicenseAction, type LicenseStatus } from './license/transitions.ts';
export {
  enforcements, instanceAsked, verdictDetails, verdictOf, verdictRules, verdictWarnings, type Enforcement, type Question, type Verdict, type VerdictCode,
} from './license/verdict.ts';
export { clientLicenseView, instanceView, licensedTerms, licenseView, mustBeGoodForFile, type ClientLicenseView, type FeatureView, type InstanceView, type LicenseView } from './license/view.ts';
export { Signatures, type RecordedSignature, type SignaturesCommand, type SignaturesEvent, type SignaturesState, type SignedStatement } from './signing/signatures.ts';
export {
  KEY_DAYS, keyOf, revokedKeys, SigningKeys, signingKeyFor, signingKeyView, signingPurposes, successorFor, trustedKeys,
  type RootKey, type SigningKey, type SigningKeysCommand, type SigningKeysEvent, type SigningKeysState, type SigningKeyState, type SigningPurpose,
} from './signing/signingKeys.ts';
export { GaugePeaks, HOLD_MS, inForceAt, type Peak, type SeatEnds, type Span } from './usage/gauge.ts';
export { comparedAt, countsOf, daysOf, demandOf, dueAt, evidenceOf, isMetered, metersNamed, monthlyMeters, nextLook, sumOf, useOf, withUse, type Counted, type MeterDay, type MeterUse, type Use } from './usage/quota.ts';
export {
  buckets, bucketsBetween, counts, dayAfter, dayBefore, dayOf, endOf, isDay, MAX_BUCKETS, microsOf, MILLION, mustBeInReach, REACHES_BACK_DAYS, SKEW_SECONDS, startOf, timeOf,
  type Bucket, type Day, type Reading,
} from './usage/reading.ts';
export { SWEEP_ABANDONED_SECONDS, Sweeps, type SweepsCommand, type SweepsEvent, type SweepsState, type SweepTrigger, type Transitions } from './sweep/sweep.ts';
export {
  Job, jobStates, jobView, MAXIMUM_BATCH, rowCommandId, rowLicenseId, type JobCommand, type JobEvent, type JobKind, type JobPhase, type JobState, type JobWork,
} from './job/job.ts';
export { GIVE_UP_DAYS, isGivenUp, MAX_ATTEMPTS, outcomeOf, pauseAfter, type Attempt, type AttemptOutcome } from './webhook/attempts.ts';
export {
  enabled, existing, OLD_SECRET_SECONDS, signingSecrets, WebhookEndpoint, webhookEndpointView,
  type DisabledBy, type WebhookEndpointCommand, type WebhookEndpointEvent, type WebhookEndpointState, type WebhookSecret,
} from './webhook/endpoint.ts';
export { TEST_TYPE, wants, webhookFilters, webhookTypes, type WebhookFilter, type WebhookType } from './webhook/types.ts';
