import type { LicensedFeature, LicensedTerms, SignedVerdict } from '@keyledger/license-file';
import { initial, type Judgement, type Reading, type State } from './state.ts';

export interface FakeOptions {
  /** Names, or names with what they allow. */
  readonly features?: readonly string[] | Readonly<Record<string, LicensedFeature>>;
  readonly state?: Judgement['state'];
  readonly quotas?: LicensedTerms['quotas'];
  readonly featureFlags?: LicensedTerms['featureFlags'];
  readonly expiresAt?: string | null;
}

const verdicts = {
  grace: { valid: true, code: 'IN_EXPIRY_GRACE', enforcement: 'WARN' },
  restricted: { valid: true, code: 'RESTRICTED', enforcement: 'READ_ONLY' },
  locked: { valid: false, code: 'REVOKED', enforcement: 'LOCKED' },
} as const satisfies Record<string, Pick<SignedVerdict, 'valid' | 'code' | 'enforcement'>>;

/** What a license would know that nobody has signed. */
export function fakeState({ features = [], state = 'active', quotas = [], featureFlags = {}, expiresAt = null }: FakeOptions, reading: Reading): State {
  const at = new Date(reading.wall).toISOString();
  const license: LicensedTerms = {
    id: 'lic_fake', productId: 'prd_fake', planId: null, serialNumber: null, effectiveAt: null, expiresAt, expiryGraceDays: 0, overageGraceDays: 7, offlineGraceDays: 14,
    expiredEnforcement: 'READ_ONLY', trial: null, validationMode: 'offline', heartbeatIntervalSeconds: 3600, deploymentMode: null, deploymentId: null, binding: 'none', seats: 'node-locked',
    activationLimit: -1, features: Array.isArray(features) ? Object.fromEntries((features as readonly string[]).map((name) => [name, true])) : (features as LicensedTerms['features']), featureFlags, quotas,
  };
  const verdict = state === 'active' ? undefined : verdicts[state];
  return {
    ...initial(reading), licenseId: license.id, instanceId: 'act_fake', seq: 1,
    file: { text: '', file: { environment: 'fake', issuedAt: at, seq: 1, status: 'active', customer: null, license } },
    said: verdict ? {
      text: '', from: 'network', seq: 1, at: reading.wall, until: Infinity, license: null, terms: null,
      verdict: { ...verdict, reasons: [verdict.code], conclusive: true, graceEndsAt: state === 'grace' ? new Date(reading.wall + 7 * 86_400_000).toISOString() : null, decisionId: 'fake', checkedAt: at },
    } : null,
  };
}
