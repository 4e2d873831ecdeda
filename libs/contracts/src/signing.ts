import type { JsonObject } from '@keyledger/kernel';
import { signingPurposes } from '@keyledger/domain';
import Type, { type Static } from 'typebox';
import { instant, json, listOf, named, nullable, oneOf, optional, pageOf, paging } from './fields.ts';
import { enforcement } from './license.ts';
import { command, query } from './message.ts';
import { features, ids, quotas, termsFields } from './terms.ts';

const kid = Type.String({ description: 'Thumbprint of the key (RFC 7638)' });
const purpose = oneOf(...signingPurposes);
const publicJwk = named('PublicJwk', Type.Object({ kty: Type.Literal('OKP'), crv: Type.Literal('Ed25519'), x: Type.String({ description: '32 bytes, base64url' }) }, { description: 'RFC 8037' }));
/** The offline root's statement about a signing key. */
export const Certificate = named('Certificate', Type.Object({
  payloadType: Type.String(), environment: Type.String(), kid, payload: Type.String({ description: 'The certified statement as JSON, in base64' }), signature: Type.String(),
}, { additionalProperties: false, description: 'Signed by the root key of the environment; `kid` names that key' }));
export type Certificate = Static<typeof Certificate>;

// ---- keys ----

export const SigningKeyView = named('SigningKey', Type.Object({
  kid, purpose, alg: Type.Literal('Ed25519'), state: oneOf('staged', 'active', 'retired', 'revoked'), publicJwk,
  notBefore: instant, notAfter: Type.String({ format: 'date-time', description: 'It signs nothing from then on; its signatures stay valid' }),
  certificate: nullable(Certificate), createdAt: instant, activatedAt: nullable(instant), retiredAt: nullable(instant), revokedAt: nullable(instant),
}));
export type SigningKeyView = Static<typeof SigningKeyView>;
export class ListSigningKeys extends query('signing-key.list', { ...paging }, pageOf(SigningKeyView)) {}
export class CreateSigningKey extends command('signing-key.create', { purpose }, SigningKeyView) {}
/** The previous key retires at the same moment. `certificate` is for a key certified by a root that is offline. */
export class ActivateSigningKey extends command('signing-key.activate', { kid, certificate: optional(Certificate) }, SigningKeyView) {}
export class RetireSigningKey extends command('signing-key.retire', { kid }, SigningKeyView) {}
export class RevokeSigningKey extends command('signing-key.revoke', { kid }, SigningKeyView) {}

/** RFC 7517. `kl_cert` proves a key to a verifier that pins the root; `revoked` names keys whose files are no longer valid, and `revocations` proves that. */
export const KeySet = named('KeySet', Type.Object({
  keys: listOf(Type.Object({ ...publicJwk.properties, kid, alg: Type.Literal('Ed25519'), use: Type.Literal('sig'), kl_cert: Certificate })),
  revoked: listOf(Type.String()),
  revocations: optional(Type.String({ description: 'The same as a token (typ kl-revocations+jwt), signed by the key for verdicts; omitted while nothing is revoked' })),
}));
export class GetKeySet extends query('signing-key.set', {}, KeySet) {}
export const RootKeys = named('RootKeys', Type.Object({
  environment: Type.String(), roots: listOf(Type.Object({ ...publicJwk.properties, kid, alg: Type.Literal('Ed25519'), use: Type.Literal('sig') })),
}));
export class GetRootKeys extends query('signing-key.roots', {}, RootKeys) {}

// ---- statements: between services only. The content comes from the service that owns it; signing itself adds the key, the environment and the time. ----

/** What a license allows. */
const licensed = Type.Object({ id: ids.license, productId: ids.product, planId: nullable(ids.plan), ...licensedTerms() });
function licensedTerms() {
  const { expiry: _1, expiryBasis: _2, ...terms } = Type.Required(Type.Object(termsFields)).properties;
  return { ...terms, features, quotas, featureFlags: json };
}
export type Licensed = Static<typeof licensed>;
const verdict = Type.Object({
  valid: Type.Boolean(), code: Type.String(), reasons: listOf(Type.String()), conclusive: Type.Boolean(), enforcement, graceEndsAt: nullable(instant), decisionId: Type.String(), checkedAt: instant,
});
const seq = Type.Integer();

export class SignLicenseFile extends command('signing.license-file', {
  seq, status: Type.String(), customer: nullable(Type.Object({ id: ids.customer, name: nullable(Type.String()) })), license: licensed,
}, Type.Object({ content: Type.String(), issuedAt: instant })) {}

/** Valid for a day. */
export class SignOfflineFile extends command('signing.offline-file', {
  seq, activationId: nullable(ids.activation), fingerprint: nullable(Type.String()), verdict, license: licensed,
}, Type.Object({ content: Type.String(), issuedAt: instant, expiresAt: instant })) {}

/** One lease each, valid for so many seconds. A token is null when the license is too large for one. */
export class SignLeases extends command('signing.leases', {
  leases: listOf(Type.Object({
    activationId: ids.activation, fingerprint: nullable(Type.String()), counter: Type.Integer(), seq, seconds: Type.Integer(), license: licensed,
  })),
}, Type.Object({ tokens: listOf(nullable(Type.String())) })) {
  static override readonly direct = true;
}

/** Valid for a day. Many in one message, because there are many; they are not recorded. */
export class SignVerdicts extends query('signing.verdicts', {
  verdicts: listOf(Type.Object({
    nonce: Type.String(), audience: nullable(Type.String()), instanceId: nullable(Type.String()), fingerprint: nullable(Type.String()), seq, verdict,
    license: nullable(Type.Unsafe<JsonObject & { readonly id: string; readonly status: string; readonly productId: string }>(Type.Object({}, { additionalProperties: true }))),
  })),
}, Type.Object({ tokens: listOf(nullable(Type.String())) })) {
  static override readonly direct = true;
}
