import type { LicensedFeature, LicensedTerms, SignedVerdict } from '@keyledger/license-file';
import type { Clock } from './clock.ts';
import type { Judgement } from './judgement.ts';
import { nothingKept, type Checks } from './kept.ts';
import type { Opened } from './opening.ts';
import { initial, type State } from './state.ts';
import type { Reading } from './time.ts';

export interface FakeOptions {
  /** Names, or names with their values. */
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

const day = 86_400_000;
/** A license in grace has expired, and is restricted when the grace ends. */
const graceDays = 7;

/** A state as if it had been signed. */
export function fakeState({ features = [], state = 'active', quotas = [], featureFlags = {}, expiresAt = null }: FakeOptions, reading: Reading): State {
  const at = new Date(reading.wall).toISOString();
  const expiredAt = state === 'grace' ? Math.min(reading.wall, Date.parse(expiresAt ?? at)) : null;
  const expiry = expiredAt === null ? { expiresAt, expiryGraceDays: 0 } : { expiresAt: new Date(expiredAt).toISOString(), expiryGraceDays: (reading.wall - expiredAt) / day + graceDays };
  const license: LicensedTerms = {
    id: 'lic_fake', productId: 'prd_fake', planId: null, serialNumber: null, effectiveAt: null, ...expiry, overageGraceDays: 7, offlineGraceDays: 14,
    expiredEnforcement: 'READ_ONLY', trial: null, validationMode: 'offline', heartbeatIntervalSeconds: 3600, deploymentMode: null, deploymentId: null, binding: 'none', seats: 'node-locked',
    activationLimit: -1, features: Array.isArray(features) ? Object.fromEntries((features as readonly string[]).map((name) => [name, true])) : (features as LicensedTerms['features']), featureFlags, quotas,
  };
  const verdict = state === 'active' ? undefined : verdicts[state];
  return {
    ...initial(reading), licenseId: license.id, instanceId: 'act_fake', seq: 1,
    file: { text: '', file: { environment: 'fake', issuedAt: at, seq: 1, status: 'active', customer: null, license } },
    said: verdict ? {
      text: '', from: 'network', seq: 1, at: reading.wall, until: Infinity, license: null, terms: null,
      verdict: { ...verdict, reasons: [verdict.code], conclusive: true, graceEndsAt: state === 'grace' ? new Date(reading.wall + graceDays * day).toISOString() : null, decisionId: 'fake', checkedAt: at },
    } : null,
  };
}

/** Sets no timers: those of a license are set anew for ever, and a test that runs all of its fake timers would not end. */
export const fakeClock: Clock = {
  read: () => ({ wall: Date.now(), mono: performance.now(), boot: 'fake' }),
  sleep: (_ms, signal) => new Promise((resolve) => signal?.addEventListener('abort', () => resolve())),
};

/** No signature is good for a fake. */
const untrustedRoot = () => Promise.resolve({ ok: false, reason: 'UNTRUSTED_ROOT' } as const);
const trustsNothing: Checks = { learn: untrustedRoot, distrust: () => undefined, revoked: [], lease: untrustedRoot, verdict: untrustedRoot, licenseFile: untrustedRoot, offlineFile: untrustedRoot };

export const fakeOpened = (options: FakeOptions, reading: Reading): Opened => ({
  kept: { ...nothingKept(reading, 'fake'), state: fakeState(options, reading) }, fingerprint: 'fake', verifier: trustsNothing,
  seal: (text) => Promise.resolve(text), unseal: () => Promise.resolve(undefined), text: null, opened: 'new',
});
