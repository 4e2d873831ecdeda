import type { Instant } from '@keyledger/kernel';
import { bytesOf, fromBase64, fromBase64Url, textOf } from './bytes.ts';
import { importPublicKey, isSignedBy, readPublicKeys, type PublicKey } from './ed25519.ts';
import { isCertificate, isReadable, payloadTypeOf, readFile, signingBytes, type Certificate, type Envelope, type EnvelopeType, type FileType } from './envelope.ts';
import { no, type Reason, type Verified } from './result.ts';
import { readJson, readStatement, statements, type KeyStatement, type LeaseClaims, type LicenseFile, type OfflineFile, type StatementOf, type VerdictClaims } from './statements.ts';

/** What is pinned. Everything else a verifier believes follows from it. */
export interface Pins {
  readonly environment: string;
  /** Public keys of the offline root, at least one, as `readPublicKeys` takes them. */
  readonly roots: object | string;
}

/** An answer of `/.well-known/jwks.json`. Its keys count by their certificates only. */
export interface KeySet {
  readonly keys: readonly unknown[];
  /** A token that names the revoked keys: what they signed is not accepted any more. The answer's plain list of them is for people, and is not signed. */
  readonly revocations?: string;
}

/** What a token must be about. What is left out is not checked, but for the time. */
export interface Expected {
  readonly now: Instant;
  /** Product id. */
  readonly audience?: string;
  /** Activation of a lease, license of a verdict. */
  readonly subject?: string;
  readonly fingerprint?: string;
  /** The highest counter seen for this subject: a lower one is refused. */
  readonly counter?: number;
}

/** How far ahead of ours the clock of the server may be. It makes nothing last longer. */
export const clockSkewSeconds = 300;

interface SigningKey extends KeyStatement {
  readonly key: PublicKey;
}
type TokenType = 'lease' | 'verdict' | 'revocations';

/**
 * Accepts what a key signed that the pinned root has certified for that purpose in this environment, within its time; and nothing else.
 * Which key and algorithm to check with never comes from what is checked. Answers, never throws, whatever it is given.
 */
export class Verifier {
  #keys: ReadonlyMap<string, SigningKey> = new Map();
  #revoked: ReadonlySet<string> = new Set();
  /** Good certificates, as they were written: there are few, and each comes with every file. */
  readonly #certificates = new Map<string, SigningKey>();

  private constructor(readonly environment: string, private readonly roots: ReadonlyMap<string, PublicKey>) {}

  static async open({ environment, roots }: Pins): Promise<Verified<{ verifier: Verifier }>> {
    const pinned = readPublicKeys(roots);
    if (!pinned.ok) return pinned;
    const imported = await Promise.all(pinned.jwks.map(importPublicKey));
    const refused = imported.find((result) => !result.ok);
    if (refused && !refused.ok) return refused;
    const keys = new Map(imported.flatMap((result) => (result.ok ? [[result.kid, result.key] as const] : [])));
    return keys.size > 0 ? { ok: true, verifier: new Verifier(environment, keys) } : no('UNTRUSTED_ROOT');
  }

  /** Takes these keys in place of those it knew. Keys without a good certificate are not taken; the answer says which and why. */
  async learn(jwks: unknown): Promise<Verified<{ refused: readonly { kid: unknown; reason: Reason }[] }>> {
    const { keys, revocations } = (jwks ?? {}) as Partial<KeySet>;
    if (!Array.isArray(keys)) return no('MALFORMED');
    const refused = await this.#learnKeys(keys);
    if (revocations === undefined) return { ok: true, refused };
    // Signed by a key that is good itself, or a proxy could lock all instances out.
    const named = await this.#token('revocations', revocations);
    if (!named.ok) return { ok: true, refused: [...refused, { kid: 'revocations', reason: named.reason }] };
    this.distrust(named.claims.revoked);
    return { ok: true, refused: await this.#learnKeys(keys) };
  }

  /** Names of keys that are known to be revoked. One never comes back. */
  get revoked(): readonly string[] {
    return [...this.#revoked];
  }

  /** What the caller knows of revoked keys from before, out of a place that he trusts. */
  distrust(kids: readonly string[]): void {
    this.#revoked = new Set([...this.#revoked, ...kids]);
  }

  async #learnKeys(keys: readonly unknown[]): Promise<readonly { kid: unknown; reason: Reason }[]> {
    const checked = await Promise.all(keys.map(async (jwk) => {
      const { kid, kl_cert } = (jwk ?? {}) as { kid?: unknown; kl_cert?: unknown };
      const result = await this.#certified(kl_cert);
      return { kid, result: result.ok && result.key.kid !== kid ? no('BAD_CERTIFICATE') : result };
    }));
    this.#keys = new Map(checked.flatMap(({ result }) => (result.ok ? [[result.key.kid, result.key] as const] : [])));
    return checked.flatMap(({ kid, result }) => (result.ok ? [] : [{ kid, reason: result.reason }]));
  }

  /** The text of a license file. The dates inside, like `license.expiresAt`, are for the caller to act on. */
  async licenseFile(text: string, { now }: Pick<Expected, 'now'>): Promise<Verified<{ kid: string; file: LicenseFile }>> {
    const result = await this.#file('license-file', text);
    if (!result.ok) return result;
    return isAhead(Date.parse(result.file.issuedAt), now) ? no('NOT_YET_VALID') : result;
  }

  /** The text of an offline validation file. */
  async offlineFile(text: string, { now, subject, fingerprint, audience }: Omit<Expected, 'counter'>): Promise<Verified<{ kid: string; file: OfflineFile }>> {
    const result = await this.#file('offline-file', text);
    if (!result.ok) return result;
    const { issuedAt, expiresAt, license, ...file } = result.file;
    if (isAhead(Date.parse(issuedAt), now)) return no('NOT_YET_VALID');
    if (isPast(Date.parse(expiresAt), now)) return no('EXPIRED');
    if (audience !== undefined && license.productId !== audience) return no('WRONG_AUDIENCE');
    if (subject !== undefined && license.id !== subject) return no('WRONG_SUBJECT');
    if (fingerprint !== undefined && file.fingerprint !== null && file.fingerprint !== fingerprint) return no('WRONG_FINGERPRINT');
    return result;
  }

  /** A token of `activate` or of a heartbeat. The keys must have been learned. */
  async lease(token: string, expected: Expected): Promise<Verified<{ kid: string; claims: LeaseClaims }>> {
    const result = await this.#token('lease', token);
    return result.ok ? (judged(result.claims, expected) ?? result) : result;
  }

  /** A token of `validate`, for the question that was sent with this nonce. */
  async verdict(token: string, expected: Expected & { readonly nonce: string }): Promise<Verified<{ kid: string; claims: VerdictClaims }>> {
    const result = await this.#token('verdict', token);
    if (!result.ok) return result;
    return judged(result.claims, expected) ?? (result.claims.nonce === expected.nonce ? result : no('WRONG_NONCE'));
  }

  /** The signing key of a certificate, if one of the pinned roots has signed it for this environment. */
  async #certified(certificate: unknown): Promise<Verified<{ key: SigningKey }>> {
    if (!isCertificate(certificate)) return no('BAD_CERTIFICATE');
    const written = JSON.stringify(certificate);
    const key = this.#certificates.get(written);
    const result = key ? { ok: true as const, key } : await this.#certifiedNow(certificate);
    if (!result.ok) return result;
    if (this.#certificates.size < 100) this.#certificates.set(written, result.key);
    return this.#revoked.has(result.key.kid) ? no('KEY_REVOKED') : result;
  }

  async #certifiedNow(certificate: Certificate): Promise<Verified<{ key: SigningKey }>> {
    const root = this.roots.get(certificate.kid);
    if (!root) return no('UNTRUSTED_ROOT');
    const statement = await this.#opened('key-certificate', certificate, root);
    if (!statement.ok) return statement.reason === 'WRONG_ENVIRONMENT' ? statement : no('BAD_CERTIFICATE');
    const imported = await importPublicKey(statement.payload.publicJwk);
    if (!imported.ok) return imported;
    return imported.kid === statement.payload.kid ? { ok: true, key: { ...statement.payload, key: imported.key } } : no('BAD_CERTIFICATE');
  }

  async #file<T extends FileType>(type: T, text: string): Promise<Verified<{ kid: string; file: StatementOf[T] }>> {
    const envelope = readFile(type, text);
    if (!envelope) return no('MALFORMED');
    const fault = this.#faultOf(type, envelope);
    if (fault) return no(fault);
    const signer = await this.#certified(envelope.certificate);
    if (!signer.ok) return signer;
    const { kid, purpose, key } = signer.key;
    if (kid !== envelope.kid) return no('BAD_CERTIFICATE');
    if (purpose !== statements[type].purpose) return no('WRONG_PURPOSE');
    const opened = await this.#opened(type, envelope, key);
    if (!opened.ok) return opened;
    return isWithin(signer.key, Date.parse(opened.payload.issuedAt)) ? { ok: true, kid, file: opened.payload } : no('KEY_OUT_OF_TIME');
  }

  #faultOf(type: EnvelopeType, { payloadType, environment }: Envelope): Reason | undefined {
    if (payloadType !== payloadTypeOf(type)) return 'WRONG_TYPE';
    return environment === this.environment ? undefined : 'WRONG_ENVIRONMENT';
  }

  /** What the envelope holds, once its signature is known to be good. */
  async #opened<T extends EnvelopeType>(type: T, envelope: Envelope, key: PublicKey): Promise<Verified<{ payload: StatementOf[T] }>> {
    const fault = this.#faultOf(type, envelope);
    if (fault) return no(fault);
    const [bytes, signature] = [fromBase64(envelope.payload), fromBase64(envelope.signature)];
    if (!bytes || !signature) return no('MALFORMED');
    if (!(await isSignedBy(key, signature, signingBytes(envelope.payloadType, envelope.environment, bytes)))) return no('BAD_SIGNATURE');
    const payload = readStatement(type, textOf(bytes));
    if (!payload) return no('MALFORMED');
    return payload.environment === this.environment ? { ok: true, payload } : no('WRONG_ENVIRONMENT');
  }

  /** A strict profile of compact JWS: the header has one spelling, and says no more than which of our own keys to take. */
  async #token<T extends TokenType>(type: T, token: string): Promise<Verified<{ kid: string; claims: StatementOf[T] }>> {
    const [head = '', body = '', tail = '', ...rest] = isReadable(token) ? token.split('.') : [];
    const [header, payload, signature] = [head, body, tail].map(fromBase64Url);
    if (!header?.length || !payload?.length || !signature?.length || rest.length > 0) return no('MALFORMED');
    const named = kidIn(textOf(header), statements[type].format);
    if (!named.ok) return named;
    if (this.#revoked.has(named.kid)) return no('KEY_REVOKED');
    const signer = this.#keys.get(named.kid);
    if (!signer) return no('UNKNOWN_KEY');
    if (signer.purpose !== statements[type].purpose) return no('WRONG_PURPOSE');
    if (!(await isSignedBy(signer.key, signature, bytesOf(`${head}.${body}`)))) return no('BAD_SIGNATURE');
    const claims = readStatement(type, textOf(payload));
    if (!claims) return no('MALFORMED');
    if (claims.env !== this.environment) return no('WRONG_ENVIRONMENT');
    return isWithin(signer, claims.iat * 1000) ? { ok: true, kid: signer.kid, claims } : no('KEY_OUT_OF_TIME');
  }
}

/** The one way to write a token's header. */
export const tokenHeader = (typ: string, kid: string): string => JSON.stringify({ alg: 'Ed25519', typ, kid });

function kidIn(header: string | undefined, format: string): Verified<{ kid: string }> {
  const { alg, typ, kid } = (readJson(header ?? '') ?? {}) as Record<string, unknown>;
  if (typeof alg === 'string' && alg !== 'Ed25519') return no('WRONG_ALGORITHM');
  if (typeof typ === 'string' && typ !== format) return no('WRONG_TYPE');
  return typeof kid === 'string' && header === tokenHeader(format, kid) ? { ok: true, kid } : no('MALFORMED');
}

function judged({ iat, nbf, exp, ...claims }: LeaseClaims | VerdictClaims, { now, audience, subject, fingerprint, counter }: Expected): { ok: false; reason: Reason } | undefined {
  if (isAhead(Math.max(iat, nbf) * 1000, now)) return no('NOT_YET_VALID');
  if (isPast(exp * 1000, now)) return no('EXPIRED');
  if (audience !== undefined && claims.aud !== audience) return no('WRONG_AUDIENCE');
  if (subject !== undefined && claims.sub !== subject) return no('WRONG_SUBJECT');
  if (fingerprint !== undefined && claims.fingerprint !== fingerprint) return no('WRONG_FINGERPRINT');
  return counter !== undefined && claims.counter < counter ? no('STALE') : undefined;
}

/** Asked first, and written so that a `now` that is no time is refused. */
const isAhead = (ms: number, now: Instant): boolean => !(ms <= Date.parse(now) + clockSkewSeconds * 1000);
const isPast = (ms: number, now: Instant): boolean => ms <= Date.parse(now);
const isWithin = ({ notBefore, notAfter }: KeyStatement, ms: number): boolean => Date.parse(notBefore) <= ms && ms < Date.parse(notAfter);
