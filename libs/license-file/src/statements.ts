import type { Instant } from '@keyledger/kernel';
import type { PublicJwk } from './ed25519.ts';

/** What can be signed, what each of it looks like, and which key it takes. Members that are not named here may come later; verifiers skip them. */

export const purposes = ['license-file', 'lease', 'verdict', 'webhook', 'log-head'] as const;
export type Purpose = (typeof purposes)[number];

/** `license-file` keys sign both kinds of files, the offline root signs nothing but certificates. */
export const statements = {
  'license-file': { format: 'application/vnd.keyledger.license-file.v1+json', purpose: 'license-file' },
  'offline-file': { format: 'application/vnd.keyledger.offline-validation.v1+json', purpose: 'license-file' },
  'key-certificate': { format: 'application/vnd.keyledger.key-certificate.v1+json', purpose: 'root' },
  lease: { format: 'kl-lease+jwt', purpose: 'lease' },
  verdict: { format: 'kl-verdict+jwt', purpose: 'verdict' },
  revocations: { format: 'kl-revocations+jwt', purpose: 'verdict' },
} as const satisfies Record<string, { format: string; purpose: Purpose | 'root' }>;
export type StatementType = keyof typeof statements;

export type LicensedFeature = true | number | { readonly limit: number; readonly per: 'day' | 'month' };

/** What a license allows, as it was when this was signed. Names and meanings are those of the license itself. */
export interface LicensedTerms {
  readonly id: string;
  readonly productId: string;
  readonly planId: string | null;
  readonly serialNumber: string | null;
  readonly effectiveAt: Instant | null;
  readonly expiresAt: Instant | null;
  readonly expiryGraceDays: number;
  readonly overageGraceDays: number;
  readonly offlineGraceDays: number;
  readonly expiredEnforcement: 'READ_ONLY' | 'LOCKED';
  readonly trial: { readonly days: number } | null;
  readonly validationMode: 'online' | 'heartbeat' | 'offline';
  readonly heartbeatIntervalSeconds: number;
  readonly deploymentMode: string | null;
  readonly deploymentId: string | null;
  readonly binding: 'none' | 'fingerprint';
  readonly seats: 'node-locked' | 'floating';
  /** -1 is unlimited. */
  readonly activationLimit: number;
  readonly features: Readonly<Record<string, LicensedFeature>>;
  readonly featureFlags: Readonly<Record<string, unknown>>;
  /** Without `per` of a gauge, else of a counter. */
  readonly quotas: readonly { readonly meter: string; readonly limit: number; readonly per?: 'day' | 'month' }[];
}

export interface SignedVerdict {
  readonly valid: boolean;
  readonly code: string;
  readonly reasons: readonly string[];
  readonly conclusive: boolean;
  readonly enforcement: 'FULL' | 'WARN' | 'READ_ONLY' | 'LOCKED';
  readonly graceEndsAt: Instant | null;
  readonly decisionId: string;
  readonly checkedAt: Instant;
}

/** Long-lived. It says what is licensed, not that the license is still good: the software that enforces it judges its dates. */
export interface LicenseFile {
  readonly environment: string;
  readonly issuedAt: Instant;
  /** Revision of the license stream: of two files the one with the higher `seq` is the newer state. */
  readonly seq: number;
  readonly status: string;
  readonly customer: { readonly id: string; readonly name: string | null } | null;
  readonly license: LicensedTerms;
}

/** A verdict to carry to a machine that cannot ask, good for a day. */
export interface OfflineFile {
  readonly environment: string;
  readonly issuedAt: Instant;
  readonly expiresAt: Instant;
  readonly seq: number;
  readonly activationId: string | null;
  /** Null: for any machine. */
  readonly fingerprint: string | null;
  readonly verdict: SignedVerdict;
  readonly license: LicensedTerms;
}

/** Times are whole seconds since 1970 (RFC 7519). */
export interface Claims {
  readonly iss: 'keyledger';
  /** The product that asked; `keyledger` when it did not say which it is. */
  readonly aud: string;
  readonly env: string;
  readonly sub: string;
  readonly fingerprint: string | null;
  readonly iat: number;
  readonly nbf: number;
  readonly exp: number;
  readonly jti: string;
  /** Never goes back for one `sub`: the sequence number of the heartbeat in a lease, the license stream's revision in a verdict. */
  readonly counter: number;
}

/** `sub` is the activation. It may run without contact until `exp`. */
export interface LeaseClaims extends Claims {
  /** Revision of the license stream. */
  readonly seq: number;
  readonly license: LicensedTerms;
}

/** `sub` is the license, or `-` for a key that the server does not know. */
export interface VerdictClaims extends Claims {
  readonly nonce: string;
  readonly instanceId: string | null;
  readonly verdict: SignedVerdict;
  /** As the answer beside the token shows it; null for an unknown key. */
  readonly license: { readonly id: string; readonly status: string; readonly productId: string } & Readonly<Record<string, unknown>> | null;
}

/** Which of the environment's keys are good no more. What another statement of this kind names in addition is revoked as well. */
export interface RevocationClaims {
  readonly iss: 'keyledger';
  readonly env: string;
  readonly iat: number;
  /** Names of keys. */
  readonly revoked: readonly string[];
}

/** What the offline root says of a signing key. */
export interface KeyStatement {
  readonly kid: string;
  readonly purpose: Purpose;
  readonly environment: string;
  readonly publicJwk: PublicJwk;
  readonly notBefore: Instant;
  readonly notAfter: Instant;
}

// ---- shapes ----

type Check = (value: unknown) => boolean;
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);
const object = (members: Readonly<Record<string, Check>>): Check => {
  const checks = Object.entries(members);
  return (value) => isObject(value) && checks.every(([name, check]) => check(Object.hasOwn(value, name) ? value[name] : undefined));
};
const listOf = (check: Check): Check => (value) => Array.isArray(value) && value.every(check);
const recordOf = (check: Check): Check => (value) => isObject(value) && Object.values(value).every(check);
const oneOf = (...values: readonly unknown[]): Check => (value) => values.includes(value);
const nullOr = (check: Check): Check => (value) => value === null || check(value);
const text: Check = (value) => typeof value === 'string' && value.length > 0 && value.length <= 1024;
const anyText: Check = (value) => typeof value === 'string' && value.length <= 1024;
const flag: Check = (value) => typeof value === 'boolean';
const number: Check = (value) => typeof value === 'number' && Number.isFinite(value);
const whole: Check = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
const instant: Check = (value) => typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(value) && !Number.isNaN(Date.parse(value));

const terms = object({
  id: text, productId: text, planId: nullOr(text), serialNumber: nullOr(anyText), effectiveAt: nullOr(instant), expiresAt: nullOr(instant),
  expiryGraceDays: whole, overageGraceDays: whole, offlineGraceDays: whole, expiredEnforcement: oneOf('READ_ONLY', 'LOCKED'), trial: nullOr(object({ days: whole })),
  validationMode: oneOf('online', 'heartbeat', 'offline'), heartbeatIntervalSeconds: whole, deploymentMode: nullOr(anyText), deploymentId: nullOr(anyText),
  binding: oneOf('none', 'fingerprint'), seats: oneOf('node-locked', 'floating'), activationLimit: (value) => value === -1 || whole(value),
  features: recordOf((feature) => feature === true || number(feature) || object({ limit: number, per: oneOf('day', 'month') })(feature)),
  featureFlags: isObject, quotas: listOf(object({ meter: text, limit: number, per: oneOf(undefined, 'day', 'month') })),
});
const verdict = object({
  valid: flag, code: text, reasons: listOf(text), conclusive: flag, enforcement: oneOf('FULL', 'WARN', 'READ_ONLY', 'LOCKED'), graceEndsAt: nullOr(instant),
  decisionId: text, checkedAt: instant,
});
const claims = {
  iss: oneOf('keyledger'), aud: text, env: text, sub: text, fingerprint: nullOr(text), iat: whole, nbf: whole, exp: whole, jti: text, counter: whole,
};

/** The members that must be there, of the types they must have. Unlike a signature this is not about trust, but about reading what a newer server wrote. */
export const shapes = {
  'license-file': object({ environment: text, issuedAt: instant, seq: whole, status: text, customer: nullOr(object({ id: text, name: nullOr(anyText) })), license: terms }),
  'offline-file': object({
    environment: text, issuedAt: instant, expiresAt: instant, seq: whole, activationId: nullOr(text), fingerprint: nullOr(text), verdict, license: terms,
  }),
  'key-certificate': object({
    kid: text, purpose: oneOf(...purposes), environment: text, publicJwk: object({ kty: oneOf('OKP'), crv: oneOf('Ed25519'), x: text }), notBefore: instant, notAfter: instant,
  }),
  lease: object({ ...claims, seq: whole, license: terms }),
  verdict: object({ ...claims, nonce: text, instanceId: nullOr(text), verdict, license: nullOr(object({ id: text, status: text, productId: text })) }),
  revocations: object({ iss: claims.iss, env: text, iat: whole, revoked: listOf(text) }),
} as const satisfies Record<StatementType, Check>;

/** Every statement by its type; a lease's and a verdict's are the claims of a token. */
export interface StatementOf {
  'license-file': LicenseFile;
  'offline-file': OfflineFile;
  'key-certificate': KeyStatement;
  lease: LeaseClaims;
  verdict: VerdictClaims;
  revocations: RevocationClaims;
}

/** JSON in the one spelling that `JSON.stringify` gives it: no white space, no member twice, no other way to write a number or a letter. */
export function readJson(text: string, space = ''): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return JSON.stringify(value, null, space) === text ? value : undefined;
  } catch {
    return undefined;
  }
}

export function readStatement<T extends StatementType>(type: T, text: string | undefined): StatementOf[T] | undefined {
  const value = text === undefined ? undefined : readJson(text);
  return shapes[type](value) ? (value as StatementOf[T]) : undefined;
}
