export { readPublicKeys, reasons, type LicensedTerms, type LicenseFile, type OfflineFile, type PublicJwk, type Reason } from '@keyledger/license-file';
export { FeatureMissing, type Activation, type Deactivation, type LicenseEvents, type LicenseOptions, type Logger, type SeatOptions, type Validation } from './api.ts';
export { processClock, type Clock } from './clock.ts';
export {
  blockedBy, LicenseGuard, licenseMiddleware, RequireFeature, requireFeature, type ExecutionContextLike, type GuardOptions, type Middleware, type RequestLike, type ResponseLike,
} from './guards.ts';
export type { BeatResult, Directive, HeartbeatOptions } from './heartbeats.ts';
export { FakeLicense, License } from './license.ts';
export { LicenseProvider, type FlagDetails } from './openfeature.ts';
export type { OfflineOptions, OfflineResult, TokenOptions, TokenResult } from './offline.ts';
export type { UsableQuota } from './quotas.ts';
export type { Refusal } from './refusal.ts';
export type { FakeOptions } from './fake.ts';
export type { Fetch } from './server.ts';
export type { Leader, Shared } from './shared.ts';
export type { FeatureState, LicenseInfo, QuotaState } from './info.ts';
export { enforcements, inTime, type Code, type Enforcement, type Judgement } from './judgement.ts';
export type { Reading } from './time.ts';
export { hashed, localStorageStore, memoryStore, sameKey, type Store } from './store.ts';
export type { Feature, Quota, UsageRecord } from './usage.ts';
