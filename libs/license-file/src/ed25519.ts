import { bytesOf, fromBase64, fromBase64Url, toBase64Url } from './bytes.ts';
import { no, type Verified } from './result.ts';

/** An Ed25519 public key (RFC 8037). Other members of a JWK are not looked at. */
export interface PublicJwk {
  readonly kty: 'OKP';
  readonly crv: 'Ed25519';
  /** 32 bytes, base64url. */
  readonly x: string;
}
export type PublicKey = Awaited<ReturnType<typeof crypto.subtle.importKey>>;

/** The prime of the field, the order of the group, and the curve's constant (RFC 8032). */
const P = 2n ** 255n - 19n;
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const D = 37095705934669439343138083508754565189542113879843219016388785533085940283555n;

/**
 * A key that is safe to verify with. Refuses encodings of a point that are not the shortest one, bytes that are no point at all, and the
 * points of small order: under those, one fixed signature fits any message, and some verifiers accept it (Node 20 does).
 */
export async function importPublicKey(jwk: unknown): Promise<Verified<{ key: PublicKey; kid: string; jwk: PublicJwk }>> {
  const { kty, crv, x } = (typeof jwk === 'object' && jwk !== null ? jwk : {}) as Record<string, unknown>;
  const bytes = kty === 'OKP' && crv === 'Ed25519' && typeof x === 'string' && x.length === 43 ? fromBase64Url(x) : undefined;
  if (!bytes) return no('MALFORMED');
  if (!isStrongPoint(bytes)) return no('WEAK_KEY');
  const clean: PublicJwk = { kty: 'OKP', crv: 'Ed25519', x: x as string };
  const key = await imported(bytes);
  return { ok: true, jwk: clean, kid: await thumbprint(clean), key };
}

/** Throws where no signature can be checked at all: that is no fault of the key. */
async function imported(bytes: Uint8Array<ArrayBuffer>): Promise<PublicKey> {
  try {
    return await crypto.subtle.importKey('raw', bytes, 'Ed25519', false, ['verify']);
  } catch (cause) {
    throw new Error('Signatures cannot be checked here: this needs Ed25519 in WebCrypto, which a page has only in a secure context (https or localhost)', { cause });
  }
}

/** RFC 7638: the name of a key is made from the key, so no two keys share one. */
export async function thumbprint({ x }: PublicJwk): Promise<string> {
  return toBase64Url(new Uint8Array(await crypto.subtle.digest('SHA-256', bytesOf(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`))));
}

/** The S of a signature must be below the order of the group, else there would be a second signature for every message. Not all verifiers look. */
export async function isSignedBy(key: PublicKey, signature: Uint8Array, message: Uint8Array): Promise<boolean> {
  if (signature.length !== 64 || littleEndian(signature.subarray(32)) >= L) return false;
  return crypto.subtle.verify('Ed25519', key, signature, message);
}

const spki = '302a300506032b6570032100';

/** What people pin: a JWK, several, or the answer of `/.well-known/keyledger-root.json`, read or as text; or PEM (SubjectPublicKeyInfo). */
export function readPublicKeys(given: unknown): Verified<{ jwks: readonly unknown[] }> {
  if (typeof given !== 'string') return keysIn(given);
  const pem = /^\s*-----BEGIN PUBLIC KEY-----\s([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*$/.exec(given)?.[1];
  if (pem !== undefined) {
    const bytes = fromBase64(pem.replaceAll(/\s/g, ''));
    if (!bytes || bytes.length !== 44 || hex(bytes.subarray(0, 12)) !== spki) return no('MALFORMED');
    return { ok: true, jwks: [{ kty: 'OKP', crv: 'Ed25519', x: toBase64Url(bytes.subarray(12)) }] };
  }
  try {
    return keysIn(JSON.parse(given));
  } catch {
    return no('MALFORMED');
  }
}

function keysIn(json: unknown): Verified<{ jwks: readonly unknown[] }> {
  const { roots, keys } = (json ?? {}) as { roots?: unknown; keys?: unknown };
  const list = Array.isArray(json) ? json : (roots ?? keys ?? [json]);
  return Array.isArray(list) ? { ok: true, jwks: list } : no('MALFORMED');
}

function isStrongPoint(bytes: Uint8Array): boolean {
  const y = littleEndian(bytes) & (2n ** 255n - 1n);
  if (y >= P) return false;
  const squared = xSquared(y);
  if (squared === 0n || power(squared, (P - 1n) / 2n) !== 1n) return false; // (0, ±1), or no point has this y
  return doubled(doubled(doubled(y))) !== 1n; // eight times the point is the neutral one
}

/** From the curve's equation -x² + y² = 1 + d·x²·y². */
const xSquared = (y: bigint): bigint => modulo((y * y - 1n) * power(D * y * y + 1n, P - 2n));

/** y of twice the point: the addition law needs no more of x than its square. */
function doubled(y: bigint): bigint {
  const [xx, yy] = [xSquared(y), modulo(y * y)];
  return modulo((yy + xx) * power(1n - D * xx * yy, P - 2n));
}

const modulo = (value: bigint): bigint => ((value % P) + P) % P;

function power(base: bigint, exponent: bigint): bigint {
  let [result, factor] = [1n, modulo(base)];
  for (let rest = exponent; rest > 0n; rest >>= 1n, factor = modulo(factor * factor)) if (rest & 1n) result = modulo(result * factor);
  return result;
}

const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
const littleEndian = (bytes: Uint8Array): bigint => BigInt(`0x${hex(bytes.toReversed())}`);
