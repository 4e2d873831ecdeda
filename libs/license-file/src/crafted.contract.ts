import { createHmac, createPrivateKey, createPublicKey, sign as signWith, type KeyObject } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { bytesOf, fromBase64, textOf, toBase64, toBase64Url } from './bytes.ts';
import { thumbprint, type PublicJwk } from './ed25519.ts';
import { payloadTypeOf, signingBytes, writeFile, type Certificate, type FileEnvelope, type FileType } from './envelope.ts';
import type { Reason } from './result.ts';
import { signed } from './sign.ts';
import type { KeyStatement, LeaseClaims, LicensedTerms, LicenseFile, OfflineFile, Purpose, RevocationClaims, VerdictClaims } from './statements.ts';
import { tokenHeader, type Expected } from './verifier.ts';

/**
 * Makes `vectors.json`: good files and tokens, and everything that somebody might try to pass off as one. Keys come from fixed seeds, so it
 * comes out the same every time. Run it to write the file anew:
 * `node --conditions=@keyledger/source --import ./tools/swc-register.mjs libs/license-file/src/crafted.contract.ts`
 */

export type VectorType = 'license-file' | 'offline-file' | 'lease' | 'verdict' | 'public-key';
export interface Vector {
  readonly name: string;
  readonly type: VectorType;
  readonly text: string;
  readonly expected: Expected & { readonly nonce: string };
  readonly result: 'ACCEPTED' | Reason;
}
export interface Vectors {
  /** What a verifier pins and learns before it looks at the vectors. */
  readonly pins: { readonly environment: string; readonly roots: readonly PublicJwk[] };
  readonly jwks: { readonly keys: readonly unknown[]; readonly revoked: readonly string[]; readonly revocations: string };
  readonly vectors: readonly Vector[];
}

export interface TestKey {
  readonly kid: string;
  readonly jwk: PublicJwk;
  readonly privateKey: KeyObject;
  readonly sign: (message: Uint8Array | string) => Buffer;
}

/** The n-th test key. Nobody must ever trust it: its private half is here. */
export async function testKey(n: number): Promise<TestKey> {
  const privateKey = createPrivateKey({ key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), Buffer.alloc(32, n)]), format: 'der', type: 'pkcs8' });
  const { x } = createPublicKey(privateKey).export({ format: 'jwk' });
  const jwk: PublicJwk = { kty: 'OKP', crv: 'Ed25519', x: String(x) };
  return { kid: await thumbprint(jwk), jwk, privateKey, sign: (message) => signWith(null, typeof message === 'string' ? bytesOf(message) : message, privateKey) };
}

export const now = '2026-07-01T12:00:00.000Z';
const seconds = Date.parse(now) / 1000;
const at = (offset: number): string => new Date((seconds + offset) * 1000).toISOString();
const day = 86_400;

export const terms: LicensedTerms = {
  id: 'lic_01980000-0000-7000-8000-000000000001', productId: 'prd_01980000-0000-7000-8000-000000000002', planId: 'pln_01980000-0000-7000-8000-000000000003',
  serialNumber: 'SN-2026-0001', effectiveAt: '2026-01-01T00:00:00.000Z', expiresAt: '2027-01-01T00:00:00.000Z', expiryGraceDays: 7, overageGraceDays: 7, offlineGraceDays: 14,
  expiredEnforcement: 'READ_ONLY', trial: null, validationMode: 'heartbeat', heartbeatIntervalSeconds: 3600, deploymentMode: 'on-premises', deploymentId: 'dep-1',
  binding: 'fingerprint', seats: 'node-locked', activationLimit: 5, features: { sso: true, reports: 20, exports: { limit: 100, per: 'day' } }, featureFlags: { beta: false },
  quotas: [{ meter: 'max_dp_cores', limit: 64 }],
};
const verdict = { valid: true, code: 'VALID', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null, decisionId: 'dec_1', checkedAt: now } as const;
export const licenseFile: LicenseFile = { environment: 'production', issuedAt: now, seq: 4, status: 'active', customer: { id: 'cus_1', name: 'Ada Lovelace & Söhne' }, license: terms };
export const offlineFile: OfflineFile = { environment: 'production', issuedAt: now, expiresAt: at(day), seq: 4, activationId: 'act_1', fingerprint: 'machine-1', verdict, license: terms };
const claims = { iss: 'keyledger', aud: terms.productId, env: 'production', fingerprint: 'machine-1', iat: seconds, nbf: seconds, jti: 'tok_1', counter: 7 } as const;
export const lease: LeaseClaims = { ...claims, sub: 'act_1', exp: seconds + 14 * day, seq: 4, license: terms };
export const verdictClaims: VerdictClaims = {
  ...claims, sub: terms.id, exp: seconds + day, nonce: 'nonce-1', instanceId: 'act_1', verdict, license: { id: terms.id, status: 'active', productId: terms.productId },
};

export const revocationsOf = (...keys: readonly TestKey[]): RevocationClaims => ({ iss: 'keyledger', env: 'production', iat: seconds, revoked: keys.map(({ kid }) => kid) });

export async function certify(root: TestKey, key: TestKey, purpose: Purpose, changes: Partial<KeyStatement> = {}): Promise<Certificate> {
  const statement: KeyStatement = {
    kid: key.kid, purpose, environment: 'production', publicJwk: key.jwk, notBefore: '2026-01-01T00:00:00.000Z', notAfter: '2027-02-05T00:00:00.000Z', ...changes,
  };
  return JSON.parse(await signed({ type: 'key-certificate', payload: statement }, root.kid, root.sign)) as Certificate;
}

export async function makeVectors(): Promise<Vectors> {
  const [root, files, leases, verdicts, revoked, attacker, staging, retired, strange] =
    await Promise.all([1, 2, 3, 4, 5, 6, 7, 8, 9].map(testKey)) as [TestKey, TestKey, TestKey, TestKey, TestKey, TestKey, TestKey, TestKey, TestKey];
  const certificate = await certify(root, files, 'license-file');
  const known: readonly (readonly [TestKey, Certificate])[] = [
    [files, certificate], [leases, await certify(root, leases, 'lease')], [verdicts, await certify(root, verdicts, 'verdict')],
    [retired, await certify(root, retired, 'lease', { notAfter: '2026-07-01T12:30:00.000Z' })],
  ];
  const vectors: Vector[] = [];
  const add = (type: VectorType, result: Vector['result'], name: string, text: string, expected: Partial<Vector['expected']> = {}) =>
    void vectors.push({ name: `${type}: ${name}`, type, text, expected: { now, nonce: 'nonce-1', ...expected }, result });

  // ---- tokens ----
  type Text = string | Uint8Array;
  const part = (text: Text): string => toBase64Url(typeof text === 'string' ? bytesOf(text) : text);
  const jws = (header: Text, payload: Text, key = leases): string => `${part(header)}.${part(payload)}.${toBase64Url(key.sign(bytesOf(`${part(header)}.${part(payload)}`)))}`;
  const head = tokenHeader('kl-lease+jwt', leases.kid);
  const body = JSON.stringify(lease);
  const good = jws(head, body);
  const [h, p, s] = good.split('.') as [string, string, string];
  const goodVerdict = jws(tokenHeader('kl-verdict+jwt', verdicts.kid), JSON.stringify(verdictClaims), verdicts);
  const unknownKey: VerdictClaims = { ...verdictClaims, aud: 'keyledger', sub: '-', license: null, instanceId: null, fingerprint: null, verdict: { ...verdict, valid: false, code: 'NOT_FOUND', reasons: ['NOT_FOUND'], enforcement: 'LOCKED' } };
  const exact = { audience: lease.aud, subject: lease.sub, fingerprint: 'machine-1', counter: 7 };

  add('lease', 'ACCEPTED', 'as issued', good, exact);
  add('lease', 'ACCEPTED', 'of a retired key', jws(tokenHeader('kl-lease+jwt', retired.kid), body, retired));
  add('lease', 'ACCEPTED', 'with claims that come later', jws(head, JSON.stringify({ ...lease, later: { than: [1, 2.5, 'this', null] } })));
  add('lease', 'ACCEPTED', 'with a seen counter below', good, { counter: 6 });
  add('verdict', 'ACCEPTED', 'as issued', goodVerdict, { audience: lease.aud, subject: terms.id });
  add('verdict', 'ACCEPTED', 'of an unknown license key', jws(tokenHeader('kl-verdict+jwt', verdicts.kid), JSON.stringify(unknownKey), verdicts));

  for (const alg of ['none', 'None', 'NONE', 'NoNe', 'nOnE']) {
    add('lease', 'MALFORMED', `alg ${alg} without a signature`, `${part(JSON.stringify({ alg, typ: 'kl-lease+jwt', kid: leases.kid }))}.${p}.`);
    add('lease', 'WRONG_ALGORITHM', `alg ${alg} with a signature`, jws(JSON.stringify({ alg, typ: 'kl-lease+jwt', kid: leases.kid }), body));
  }
  const secrets: Readonly<Record<string, Text>> = {
    'raw public key': fromBase64(Buffer.from(leases.jwk.x, 'base64url').toString('base64')) ?? '', 'x of the public key': leases.jwk.x,
    JWK: JSON.stringify(leases.jwk), PEM: createPublicKey(leases.privateKey).export({ format: 'pem', type: 'spki' }) as string, 'empty secret': '',
  };
  for (const [name, secret] of Object.entries(secrets)) {
    for (const alg of ['HS256', 'HS512']) {
      const input = `${part(JSON.stringify({ alg, typ: 'kl-lease+jwt', kid: leases.kid }))}.${p}`;
      add('lease', 'WRONG_ALGORITHM', `${alg} with the ${name}`, `${input}.${createHmac(alg.replace('HS', 'sha'), secret).update(input).digest('base64url')}`);
    }
  }
  for (const alg of ['EdDSA', 'ed25519', 'Ed448', 'ES256', 'RS256', 'PS256', '']) add('lease', 'WRONG_ALGORITHM', `alg "${alg}", well signed`, jws(JSON.stringify({ alg, typ: 'kl-lease+jwt', kid: leases.kid }), body));
  add('lease', 'MALFORMED', 'alg as a list', jws(JSON.stringify({ alg: ['Ed25519'], typ: 'kl-lease+jwt', kid: leases.kid }), body));

  const pem = createPublicKey(attacker.privateKey).export({ format: 'der', type: 'spki' }).toString('base64');
  const smuggled: Readonly<Record<string, unknown>> = {
    jwk: attacker.jwk, jku: 'https://attacker.example/jwks.json', x5u: 'https://attacker.example/cert.pem', x5c: [pem], x5t: attacker.kid, 'x5t#S256': attacker.kid,
    crit: ['exp'], b64: false, cty: 'JWT', zip: 'DEF', url: 'https://attacker.example', kl_cert: await certify(attacker, attacker, 'lease'), whatever: 1,
  };
  for (const [member, value] of Object.entries(smuggled)) {
    for (const [who, key] of [['by the attacker', attacker], ['well signed', leases]] as const) {
      add('lease', 'MALFORMED', `header with ${member}, ${who}`, jws(JSON.stringify({ alg: 'Ed25519', typ: 'kl-lease+jwt', kid: leases.kid, [member]: value }), body, key));
    }
  }
  add('lease', 'MALFORMED', 'crit with b64', jws(JSON.stringify({ alg: 'Ed25519', typ: 'kl-lease+jwt', kid: leases.kid, b64: false, crit: ['b64'] }), body));

  const kids: readonly [string, unknown, Reason, TestKey][] = [
    ['of the attacker', attacker.kid, 'UNKNOWN_KEY', attacker], ['known, signed by the attacker', leases.kid, 'BAD_SIGNATURE', attacker], ['of the root', root.kid, 'UNKNOWN_KEY', root],
    ['of another environment', staging.kid, 'UNKNOWN_KEY', staging], ['revoked', revoked.kid, 'KEY_REVOKED', revoked], ['for another purpose', verdicts.kid, 'WRONG_PURPOSE', verdicts],
    ['for files', files.kid, 'WRONG_PURPOSE', files], ['a path', '../../../../dev/null', 'UNKNOWN_KEY', attacker], ['SQL', "x' union select 'a", 'UNKNOWN_KEY', attacker],
    ['a property of every object', '__proto__', 'UNKNOWN_KEY', attacker], ['constructor', 'constructor', 'UNKNOWN_KEY', attacker], ['empty', '', 'UNKNOWN_KEY', attacker],
    ['a number', 1, 'MALFORMED', leases], ['null', null, 'MALFORMED', leases], ['a list', [leases.kid], 'MALFORMED', leases], ['an object', { kid: leases.kid }, 'MALFORMED', leases],
    ['missing', undefined, 'MALFORMED', leases], ['in other case', leases.kid.toLowerCase(), 'UNKNOWN_KEY', leases], ['with a blank', `${leases.kid} `, 'UNKNOWN_KEY', leases],
  ];
  for (const [name, kid, result, key] of kids) add('lease', result, `kid ${name}`, jws(JSON.stringify({ alg: 'Ed25519', typ: 'kl-lease+jwt', kid }), body, key));

  for (const typ of ['JWT', 'kl-verdict+jwt', 'KL-LEASE+JWT', 'application/kl-lease+jwt', '']) add('lease', 'WRONG_TYPE', `typ "${typ}"`, jws(tokenHeader(typ, leases.kid), body));
  add('lease', 'MALFORMED', 'without typ', jws(JSON.stringify({ alg: 'Ed25519', kid: leases.kid }), body));
  add('lease', 'WRONG_TYPE', 'a verdict', goodVerdict);
  add('verdict', 'WRONG_TYPE', 'a lease', good);
  add('verdict', 'WRONG_PURPOSE', 'signed with the key for leases', jws(tokenHeader('kl-verdict+jwt', leases.kid), JSON.stringify(verdictClaims)));
  add('verdict', 'MALFORMED', 'with the claims of a lease', jws(tokenHeader('kl-verdict+jwt', verdicts.kid), body, verdicts));

  const headers: Readonly<Record<string, Text>> = {
    'in another order': `{"typ":"kl-lease+jwt","alg":"Ed25519","kid":"${leases.kid}"}`, 'with white space': `{"alg": "Ed25519","typ":"kl-lease+jwt","kid":"${leases.kid}"}`,
    'with alg twice': `{"alg":"none","alg":"Ed25519","typ":"kl-lease+jwt","kid":"${leases.kid}"}`, 'with kid twice': `{"alg":"Ed25519","typ":"kl-lease+jwt","kid":"${attacker.kid}","kid":"${leases.kid}"}`,
    'with an escape': `{"alg":"\\u0045d25519","typ":"kl-lease+jwt","kid":"${leases.kid}"}`, 'with a byte order mark': `\uFEFF${head}`, 'with a line end': `${head}\n`, 'with a NUL': `${head}\0`,
    'that is a list': `[${head}]`, 'that is text': '"Ed25519"', 'that is null': 'null', 'that is no JSON': '{alg:Ed25519}', 'in bad UTF-8': Uint8Array.of(...bytesOf(head).subarray(0, -1), 0xff, 0x7d),
    'in UTF-16': Uint8Array.from(Buffer.from(head, 'utf16le')), 'with __proto__': head.replace('{', '{"__proto__":{},'),
  };
  for (const [name, text] of Object.entries(headers)) add('lease', 'MALFORMED', `header ${name}`, jws(text, body));

  const spare = (text: string): string => text.slice(0, -1) + String.fromCharCode((text.at(-1) ?? 'A').charCodeAt(0) + 1);
  const spellings: Readonly<Record<string, string>> = {
    'padding in the header': `${h}=.${p}.${s}`, 'padding in the payload': `${h}.${p}=.${s}`, 'padding in the signature': `${h}.${p}.${s}==`,
    'spare bits set in the signature': `${h}.${p}.${spare(s)}`, 'the other alphabet': `${h}.${p}.${s.replaceAll('-', '+').replaceAll('_', '/')}`, 'a blank before': ` ${good}`, 'a line end after': `${good}\n`,
    'a line break inside': `${h}.${p.slice(0, 64)}\n${p.slice(64)}.${s}`, 'a NUL after': `${good}\0`, 'a byte order mark': `\uFEFF${good}`,
    'a part after': `${good}.AAAA`, 'a dot after': `${good}.`, 'a dot before': `.${good}`, 'two signatures': `${good}.${s}`, 'five parts': `${h}.${h}.${p}.${p}.${s}`, 'two parts': `${h}.${p}`, 'one part': h,
    'no header': `.${p}.${s}`, 'no payload': `${h}..${s}`, 'no signature': `${h}.${p}.`, nothing: '', 'dots only': '..', 'Bearer before': `Bearer ${good}`, 'percent encoding': `${h}%2E${p}%2E${s}`,
    'the JSON serialisation': JSON.stringify({ payload: p, protected: h, signature: s }), 'the general JSON serialisation': JSON.stringify({ payload: p, signatures: [{ protected: h, signature: s }] }),
    'another letter like a dot': `${h}。${p}。${s}`,
  };
  for (const [name, text] of Object.entries(spellings)) add('lease', 'MALFORMED', name, text);

  const L = 2n ** 252n + 27742317777372353535851937790883648493n;
  const signature = Buffer.from(s, 'base64url');
  const little = (value: bigint): Buffer => Buffer.from(value.toString(16).padStart(64, '0'), 'hex').reverse();
  const S = BigInt(`0x${Buffer.from(signature.subarray(32)).reverse().toString('hex')}`);
  const [hv, , sv] = goodVerdict.split('.') as [string, string, string];
  const signatures: Readonly<Record<string, Uint8Array>> = {
    'S + L': Buffer.concat([signature.subarray(0, 32), little(S + L)]), 'S + 2L': Buffer.concat([signature.subarray(0, 32), little(S + 2n * L)]), 'L - S': Buffer.concat([signature.subarray(0, 32), little(L - S)]),
    'all zeros': Buffer.alloc(64), 'all ones': Buffer.alloc(64, 255), 'the neutral point and zero': Buffer.concat([Buffer.of(1), Buffer.alloc(63)]), 'one byte less': signature.subarray(0, 63),
    'one byte more': Buffer.concat([signature, Buffer.alloc(1)]), 'the halves swapped': Buffer.concat([signature.subarray(32), signature.subarray(0, 32)]), 'S zero': Buffer.concat([signature.subarray(0, 32), Buffer.alloc(32)]),
    'one of another token': Buffer.from(sv, 'base64url'), 'one over the payload alone': leases.sign(bytesOf(p)), 'one over the decoded parts': leases.sign(bytesOf(`${head}.${body}`)),
    'one over a file with this payload': leases.sign(signingBytes('kl-lease+jwt', 'production', bytesOf(body))),
  };
  for (const [name, letters] of [['one letter', 'A'], ['four letters', 'AAAA']]) add('lease', 'BAD_SIGNATURE', `${name} after`, `${good}${letters}`);
  for (const [name, bytes] of Object.entries(signatures)) add('lease', 'BAD_SIGNATURE', `signature ${name}`, `${h}.${p}.${toBase64Url(bytes)}`);
  add('lease', 'BAD_SIGNATURE', 'another payload', `${h}.${part(JSON.stringify({ ...lease, exp: lease.exp + 1 }))}.${s}`);
  add('verdict', 'BAD_SIGNATURE', 'another payload', `${hv}.${part(JSON.stringify({ ...verdictClaims, verdict: { ...verdict, checkedAt: at(1) } }))}.${sv}`);

  for (const name of ['iss', 'aud', 'env', 'sub', 'fingerprint', 'iat', 'nbf', 'exp', 'jti', 'counter', 'license'] as const) add('lease', 'MALFORMED', `without ${name}`, jws(head, JSON.stringify({ ...lease, [name]: undefined })));
  const odd: readonly [string, Readonly<Record<string, unknown>>][] = [
    ['exp as text', { exp: String(lease.exp) }], ['exp as null', { exp: null }], ['exp with a fraction', { exp: lease.exp + 0.5 }], ['exp beyond all numbers', { exp: 1e300 }], ['exp negative', { exp: -1 }],
    ['iat as text', { iat: 'now' }], ['aud as a list', { aud: [lease.aud] }], ['iss of somebody else', { iss: 'attacker' }], ['counter with a fraction', { counter: 7.5 }], ['counter negative', { counter: -7 }],
    ['sub empty', { sub: '' }], ['license without features', { license: { ...terms, features: undefined } }], ['features a list', { license: { ...terms, features: ['sso'] } }],
    ['an unknown enforcement', { license: { ...terms, expiredEnforcement: 'NONE' } }],
  ];
  for (const [name, change] of odd) add('lease', 'MALFORMED', name, jws(head, JSON.stringify({ ...lease, ...change })));
  const bodies: Readonly<Record<string, Text>> = {
    'with exp twice': body.replace('{', '{"exp":9999999999,'), 'with white space': `${body} `, 'that is a list': `[${body}]`, 'that is no JSON': 'lease', 'with another number': body.replace(`"exp":${lease.exp}`, `"exp":${lease.exp}.0`),
    'in bad UTF-8': Uint8Array.of(0xc0, 0x80, ...bytesOf(body)),
  };
  for (const [name, text] of Object.entries(bodies)) add('lease', 'MALFORMED', `payload ${name}`, jws(head, text));
  add('lease', 'MALFORMED', 'claims inherited from __proto__', jws(head, JSON.stringify({ ...lease, exp: undefined }).replace('{', `{"__proto__":{"exp":${lease.exp}},`)));
  add('lease', 'WRONG_ENVIRONMENT', 'env of another environment', jws(head, JSON.stringify({ ...lease, env: 'staging' })));
  add('verdict', 'WRONG_ENVIRONMENT', 'env of another environment', jws(tokenHeader('kl-verdict+jwt', verdicts.kid), JSON.stringify({ ...verdictClaims, env: 'staging' }), verdicts));

  add('lease', 'ACCEPTED', 'a millisecond before its end', good, { now: new Date((lease.exp * 1000) - 1).toISOString() });
  add('lease', 'EXPIRED', 'at its end', good, { now: at(14 * day) });
  add('lease', 'EXPIRED', 'long after its end', good, { now: '2999-01-01T00:00:00.000Z' });
  add('lease', 'EXPIRED', 'exp 0', jws(head, JSON.stringify({ ...lease, exp: 0 })));
  add('lease', 'ACCEPTED', 'issued five minutes ahead of our clock', good, { now: at(-300) });
  add('lease', 'NOT_YET_VALID', 'issued more than five minutes ahead of our clock', good, { now: at(-300.001) });
  add('lease', 'NOT_YET_VALID', 'nbf in the future', jws(head, JSON.stringify({ ...lease, nbf: seconds + 301 })));
  add('lease', 'NOT_YET_VALID', 'iat in the future', jws(head, JSON.stringify({ ...lease, iat: seconds + 301 })));
  add('lease', 'NOT_YET_VALID', 'a now that is no time', good, { now: 'now' });
  add('lease', 'KEY_OUT_OF_TIME', 'issued before its key was certified', jws(head, JSON.stringify({ ...lease, iat: Date.parse('2025-12-31T23:59:59.000Z') / 1000 })));
  add('lease', 'KEY_OUT_OF_TIME', 'issued when its key was certified no longer', jws(tokenHeader('kl-lease+jwt', retired.kid), JSON.stringify({ ...lease, iat: seconds + 1800 }), retired), { now: at(3600) });
  add('lease', 'ACCEPTED', 'used when its key is certified no longer', jws(tokenHeader('kl-lease+jwt', retired.kid), body, retired), { now: at(3600) });
  add('lease', 'WRONG_AUDIENCE', 'for another product', good, { ...exact, audience: 'prd_other' });
  add('lease', 'WRONG_SUBJECT', 'of another activation', good, { ...exact, subject: 'act_2' });
  add('lease', 'WRONG_FINGERPRINT', 'of another machine', good, { ...exact, fingerprint: 'machine-2' });
  add('lease', 'STALE', 'older than one that was seen', good, { ...exact, counter: 8 });
  add('verdict', 'WRONG_NONCE', 'for another question', goodVerdict, { nonce: 'nonce-2' });
  add('verdict', 'STALE', 'older than one that was seen', goodVerdict, { counter: 8 });
  add('verdict', 'EXPIRED', 'at its end', goodVerdict, { now: at(day) });
  add('verdict', 'WRONG_AUDIENCE', 'for another product', goodVerdict, { audience: 'prd_other' });
  add('verdict', 'MALFORMED', 'without nonce', jws(tokenHeader('kl-verdict+jwt', verdicts.kid), JSON.stringify({ ...verdictClaims, nonce: undefined }), verdicts));

  // ---- files ----
  const payloads = { 'license-file': licenseFile, 'offline-file': offlineFile } as const;
  /** A file that differs from a good one only where it is said. */
  const file = (type: FileType, { payload, key = files, signedType = type, change, text }: {
    payload?: unknown; key?: TestKey; signedType?: 'license-file' | 'offline-file' | 'key-certificate'; change?: Partial<Record<keyof FileEnvelope, unknown>>; text?: Text;
  } = {}): string => {
    const raw = text ?? JSON.stringify(payload ?? payloads[type]);
    const bytes = typeof raw === 'string' ? bytesOf(raw) : raw;
    const payloadType = payloadTypeOf(type);
    const sealed = key.sign(signingBytes(payloadTypeOf(signedType), 'production', bytes));
    return writeFile(type, { payloadType, environment: 'production', kid: key.kid, certificate, payload: toBase64(bytes), signature: toBase64(sealed), ...change } as FileEnvelope);
  };
  const goodFile = file('license-file');
  const goodOffline = file('offline-file');
  const envelope = JSON.parse(goodOffline) as FileEnvelope;
  const licenseEnvelope = textOf(fromBase64(goodFile.split('\n').slice(1, -2).join('')) ?? new Uint8Array()) ?? '';
  const armoured = (json: string): string => [goodFile.split('\n')[0], ...(toBase64(bytesOf(json)).match(/.{1,64}/g) ?? []), '-----END KEYLEDGER LICENSE-----', ''].join('\n');

  add('license-file', 'ACCEPTED', 'as issued', goodFile);
  add('license-file', 'ACCEPTED', 'years later, its license expired, its key certified no longer', goodFile, { now: '2031-01-01T00:00:00.000Z' });
  add('license-file', 'ACCEPTED', 'with CRLF', goodFile.replaceAll('\n', '\r\n'));
  add('license-file', 'ACCEPTED', 'with a byte order mark and white space around', `\uFEFF\n  ${goodFile}\n\n`);
  add('license-file', 'ACCEPTED', 'without a last line end', goodFile.trimEnd());
  add('license-file', 'ACCEPTED', 'with members that come later', file('license-file', { payload: { ...licenseFile, later: 1 } }));
  add('offline-file', 'ACCEPTED', 'as issued', goodOffline, { audience: terms.productId, subject: terms.id, fingerprint: 'machine-1' });
  add('offline-file', 'ACCEPTED', 'for any machine', file('offline-file', { payload: { ...offlineFile, fingerprint: null } }), { fingerprint: 'machine-2' });
  add('offline-file', 'ACCEPTED', 'with CRLF', goodOffline.replaceAll('\n', '\r\n'));
  add('offline-file', 'ACCEPTED', 'a millisecond before its end', goodOffline, { now: at(day - 0.001) });
  add('offline-file', 'EXPIRED', 'at its end', goodOffline, { now: at(day) });
  add('offline-file', 'NOT_YET_VALID', 'more than five minutes ahead of our clock', goodOffline, { now: at(-300.001) });
  add('license-file', 'NOT_YET_VALID', 'more than five minutes ahead of our clock', goodFile, { now: at(-300.001) });
  add('license-file', 'NOT_YET_VALID', 'a now that is no time', goodFile, { now: '' });
  add('offline-file', 'WRONG_AUDIENCE', 'for another product', goodOffline, { audience: 'prd_other' });
  add('offline-file', 'WRONG_SUBJECT', 'of another license', goodOffline, { subject: 'lic_other' });
  add('offline-file', 'WRONG_FINGERPRINT', 'of another machine', goodOffline, { fingerprint: 'machine-2' });

  const lines = goodFile.trimEnd().split('\n');
  const [opening = '', closing = ''] = [lines[0], lines.at(-1)];
  const inner = lines.slice(1, -1).join('');
  const armours: Readonly<Record<string, string>> = {
    'without its first line': lines.slice(1).join('\n'), 'without its last line': lines.slice(0, -1).join('\n'), 'another label': goodFile.replaceAll('LICENSE', 'CERTIFICATE'), 'a label in lower case': goodFile.replaceAll('LICENSE', 'license'),
    'text before': `hello\n${goodFile}`, 'text after': `${goodFile}hello\n`, 'text between': [opening, 'Comment: hello', '', ...lines.slice(1)].join('\n'), 'two files': goodFile + goodFile,
    'rewrapped to one line': [opening, inner, closing].join('\n'), 'rewrapped to 76 letters': [opening, ...(inner.match(/.{1,76}/g) ?? []), closing].join('\n'),
    'rewrapped to 32 letters': [opening, ...(inner.match(/.{1,32}/g) ?? []), closing].join('\n'), 'an empty line inside': [opening, ...lines.slice(1, 3), '', ...lines.slice(3)].join('\n'),
    'indented lines': [opening, ...lines.slice(1, -1).map((line) => ` ${line}`), closing].join('\n'), 'a line less': [...lines.slice(0, 3), ...lines.slice(4)].join('\n'), 'nothing inside': [opening, closing].join('\n'),
    'an empty line only': [opening, '', closing].join('\n'), 'base64url inside': goodFile.replaceAll('+', '-').replaceAll('/', '_').replace(/[A-Za-z0-9]/, '_'), 'JSON without armour': licenseEnvelope, 'a carriage return alone': goodFile.replaceAll('\n', '\r'),
    'a form feed after': `${goodFile}\f`, 'a NUL after': `${goodFile}\0`, nothing: '', 'a token': good, 'a license key': '7XK2-9QF4',
    'the envelope with white space': armoured(`${licenseEnvelope} `), 'the envelope with a member twice': armoured(licenseEnvelope.replace('{', '{"environment":"staging",')), 'the envelope as a list': armoured(`[${licenseEnvelope}]`),
    'the envelope with another member': armoured(licenseEnvelope.replace('{', '{"crit":[],')), 'the envelope in another order': armoured(JSON.stringify(Object.fromEntries(Object.entries(JSON.parse(licenseEnvelope) as object).reverse()))),
    'the envelope with an escape': armoured(licenseEnvelope.replace('"production"', '"\\u0070roduction"')),
  };
  for (const [name, text] of Object.entries(armours)) add('license-file', 'MALFORMED', name, text);
  const jsons: Readonly<Record<string, string>> = {
    'in one line': JSON.stringify(envelope), 'with tabs': JSON.stringify(envelope, null, '\t'), 'text after': `${goodOffline}hello`, 'two files': goodOffline + goodOffline, 'a member twice': goodOffline.replace('{\n', '{\n  "environment": "staging",\n'),
    'another member': JSON.stringify({ ...envelope, crit: [] }, null, 2), 'in another order': JSON.stringify(Object.fromEntries(Object.entries(envelope).reverse()), null, 2), 'without a signature': JSON.stringify({ ...envelope, signature: undefined }, null, 2),
    'an empty object': '{}', null: 'null', 'a list': '[]', 'a signature that is a list': JSON.stringify({ ...envelope, signature: [envelope.signature] }, null, 2), 'no certificate': JSON.stringify({ ...envelope, certificate: null }, null, 2),
    'a certificate as text': JSON.stringify({ ...envelope, certificate: JSON.stringify(certificate) }, null, 2),
  };
  for (const [name, text] of Object.entries(jsons)) add('offline-file', 'MALFORMED', name, text);
  add('license-file', 'MALFORMED', 'an offline validation file', goodOffline);
  add('offline-file', 'MALFORMED', 'a license file', goodFile);
  add('license-file', 'WRONG_TYPE', 'an offline validation file in armour', armoured(JSON.stringify(envelope)));
  add('offline-file', 'WRONG_TYPE', 'a license file without armour', JSON.stringify(JSON.parse(licenseEnvelope), null, 2));

  for (const type of ['license-file', 'offline-file'] as const) {
    const other = type === 'license-file' ? 'offline-file' : 'license-file';
    const bytes = bytesOf(JSON.stringify(payloads[type]));
    const raw = (sign: Uint8Array): string => file(type, { change: { signature: toBase64(sign) } });
    add(type, 'BAD_SIGNATURE', 'signed as the other kind', file(type, { signedType: other }));
    add(type, 'BAD_SIGNATURE', 'signed as a certificate', file(type, { signedType: 'key-certificate' }));
    add(type, 'BAD_SIGNATURE', 'signed for another environment', raw(files.sign(signingBytes(payloadTypeOf(type), 'staging', bytes))));
    add(type, 'BAD_SIGNATURE', 'signed without its type', raw(files.sign(bytes)));
    add(type, 'BAD_SIGNATURE', 'signed like DSSE', raw(files.sign(bytesOf(`DSSEv1 ${payloadTypeOf(type).length} ${payloadTypeOf(type)} ${bytes.length} ${JSON.stringify(payloads[type])}`))));
    add(type, 'BAD_SIGNATURE', 'signed by the attacker under a good name', raw(attacker.sign(signingBytes(payloadTypeOf(type), 'production', bytes))));
    add(type, 'BAD_SIGNATURE', 'the signature of a token', raw(signature));
    add(type, 'BAD_SIGNATURE', 'a signature of zeros', raw(Buffer.alloc(64)));
    add(type, 'BAD_SIGNATURE', 'no signature', raw(Buffer.alloc(0)));
    const proper = files.sign(signingBytes(payloadTypeOf(type), 'production', bytes));
    const ownS = BigInt(`0x${Buffer.from(proper.subarray(32)).reverse().toString('hex')}`);
    add(type, 'BAD_SIGNATURE', 'S + L', raw(Buffer.concat([proper.subarray(0, 32), little(ownS + L)])));
    add(type, 'BAD_SIGNATURE', 'one byte more', raw(Buffer.concat([proper, Buffer.alloc(1)])));
    add(type, 'BAD_SIGNATURE', 'more features', file(type, { change: { payload: toBase64(bytesOf(JSON.stringify({ ...payloads[type], license: { ...terms, features: { everything: true } } }))) } }));
    add(type, 'MALFORMED', 'a payload in base64url', file(type, { change: { payload: toBase64Url(bytesOf(`${JSON.stringify(payloads[type])}ÿÿ`)).replace(/^./, '_') } }));
    add(type, 'MALFORMED', 'a signature with padding missing', file(type, { change: { signature: toBase64(proper).replace(/=+$/, '') } }));
    add(type, 'WRONG_TYPE', 'another version', file(type, { change: { payloadType: payloadTypeOf(type).replace('v1', 'v2') } }));
    add(type, 'WRONG_TYPE', 'the type of a certificate', file(type, { change: { payloadType: payloadTypeOf('key-certificate') } }));
    add(type, 'WRONG_ENVIRONMENT', 'of another environment', file(type, { change: { environment: 'staging' } }));
    add(type, 'WRONG_ENVIRONMENT', 'with a payload of another environment', file(type, { payload: { ...payloads[type], environment: 'staging' } }));
    add(type, 'MALFORMED', 'with a payload that is no JSON', file(type, { text: 'license' }));
    add(type, 'MALFORMED', 'with a member twice in its payload', file(type, { text: JSON.stringify(payloads[type]).replace('{', '{"seq":9,') }));
    add(type, 'MALFORMED', 'with white space in its payload', file(type, { text: `${JSON.stringify(payloads[type])}\n` }));
    add(type, 'MALFORMED', 'with bad UTF-8 in its payload', file(type, { text: Uint8Array.of(...bytes, 0xff) }));
    add(type, 'MALFORMED', 'without terms', file(type, { payload: { ...payloads[type], license: undefined } }));
    add(type, 'MALFORMED', 'with a day that is none', file(type, { payload: { ...payloads[type], issuedAt: '2026-07-01' } }));
    add(type, 'MALFORMED', 'with the payload of a lease', file(type, { payload: lease }));
    add(type, 'KEY_OUT_OF_TIME', 'issued before its key was certified', file(type, { payload: { ...payloads[type], issuedAt: '2025-12-31T23:59:59.999Z' } }));

    const forged = (change: Partial<Certificate>): Partial<Record<keyof FileEnvelope, unknown>> => ({ certificate: { ...certificate, ...change } });
    const under = async (changes: Partial<KeyStatement>, purpose: Purpose = 'license-file') => file(type, { change: { certificate: await certify(root, files, purpose, changes) } });
    add(type, 'UNTRUSTED_ROOT', 'certified by the attacker', file(type, { key: attacker, change: { certificate: await certify(attacker, attacker, 'license-file') } }));
    add(type, 'BAD_CERTIFICATE', 'certified by the attacker under the name of the root', file(type, { key: attacker, change: { certificate: { ...(await certify(attacker, attacker, 'license-file')), kid: root.kid } } }));
    add(type, 'BAD_CERTIFICATE', 'with the certificate of another key', file(type, { key: attacker }));
    add(type, 'BAD_CERTIFICATE', 'under another name than that of its certificate', file(type, { change: { kid: leases.kid } }));
    add(type, 'UNTRUSTED_ROOT', 'signed by the root itself', file(type, { key: root, change: forged({ kid: files.kid }) }));
    add(type, 'UNTRUSTED_ROOT', 'certified by a signing key', file(type, { key: attacker, change: { certificate: await certify(files, attacker, 'license-file') } }));
    add(type, 'BAD_CERTIFICATE', 'a certificate with another payload', file(type, { change: forged({ payload: toBase64(bytesOf(JSON.stringify({ kid: files.kid }))) }) }));
    add(type, 'BAD_CERTIFICATE', 'a certificate with no signature', file(type, { change: forged({ signature: '' }) }));
    add(type, 'BAD_CERTIFICATE', 'a certificate that is a file', file(type, { change: forged({ payloadType: payloadTypeOf(type) }) }));
    add(type, 'WRONG_ENVIRONMENT', 'a certificate of another environment', await under({ environment: 'staging' }));
    add(type, 'BAD_CERTIFICATE', 'a certificate for another environment than it was signed for', file(type, { change: { certificate: { ...(await certify(root, files, 'license-file', { environment: 'staging' })), environment: 'production' } } }));
    for (const purpose of ['lease', 'verdict', 'webhook', 'log-head'] as const) add(type, 'WRONG_PURPOSE', `a key for ${purpose}`, await under({}, purpose));
    add(type, 'BAD_CERTIFICATE', 'a certificate that names another key', await under({ kid: attacker.kid }));
    add(type, 'BAD_CERTIFICATE', 'a certificate that gives a key another name', file(type, { change: { kid: attacker.kid, certificate: await certify(root, files, 'license-file', { kid: attacker.kid }) } }));
    add(type, 'WEAK_KEY', 'a certificate for a key of small order', await under({ publicJwk: { kty: 'OKP', crv: 'Ed25519', x: toBase64Url(Uint8Array.of(1, ...new Uint8Array(31))) } }));
    add(type, 'KEY_OUT_OF_TIME', 'issued when its key was certified no longer', await under({ notAfter: now }));
    add(type, 'KEY_REVOKED', 'of a revoked key', file(type, { key: revoked, change: { certificate: await certify(root, revoked, 'license-file') } }));
    add(type, 'ACCEPTED', 'of a key that was never heard of, but is certified', file(type, { key: strange, change: { certificate: await certify(root, strange, 'license-file') } }));
  }

  // ---- public keys ----
  const key = (name: string, result: Vector['result'], jwk: unknown) => add('public-key', result, name, JSON.stringify(jwk));
  const point = (hex: string): object => ({ kty: 'OKP', crv: 'Ed25519', x: Buffer.from(hex, 'hex').toString('base64url') });
  const zeros = (n: number): string => '00'.repeat(n);
  const ones = (n: number): string => 'ff'.repeat(n);
  key('a good one', 'ACCEPTED', leases.jwk);
  key('with members of a key set', 'ACCEPTED', { ...leases.jwk, kid: leases.kid, alg: 'Ed25519', use: 'sig' });
  const weak: Readonly<Record<string, string>> = {
    'of order 1': `01${zeros(31)}`, 'of order 2': `ec${ones(30)}7f`, 'of order 4': zeros(32), 'of order 4, other sign': `${zeros(31)}80`,
    'of order 8': '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05', 'of order 8, other sign': '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85',
    'of order 8, other y': 'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a', 'of order 8, other y and sign': 'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa',
    'of order 1, sign of nothing': `01${zeros(30)}80`, 'of order 2, sign of nothing': `ec${ones(31)}`, 'p': `ed${ones(30)}7f`, 'p, other sign': `ed${ones(31)}`, 'p + 1': `ee${ones(30)}7f`, 'p + 1, other sign': `ee${ones(31)}`,
    'the largest number': ones(32), 'no point': `02${zeros(31)}`, 'a good one with p added': `${(0xed + 3).toString(16)}${ones(30)}7f`,
  };
  for (const [name, hex] of Object.entries(weak)) key(name, 'WEAK_KEY', point(hex));
  const wrong: Readonly<Record<string, unknown>> = {
    'another curve': { ...leases.jwk, crv: 'Ed448' }, 'X25519': { ...leases.jwk, crv: 'X25519' }, 'another type': { ...leases.jwk, kty: 'EC' }, 'a secret': { kty: 'oct', k: leases.jwk.x }, 'no x': { kty: 'OKP', crv: 'Ed25519' },
    'x with padding': { ...leases.jwk, x: `${leases.jwk.x}=` }, 'x too short': point(zeros(31)), 'x too long': point(zeros(33)), 'spare bits of x set': { ...leases.jwk, x: spare(leases.jwk.x) }, 'x a number': { ...leases.jwk, x: 1 },
    null: null, 'a list': [leases.jwk], text: leases.jwk.x,
  };
  for (const [name, jwk] of Object.entries(wrong)) key(name, 'MALFORMED', jwk);

  return {
    pins: { environment: 'production', roots: [root.jwk] },
    jwks: { keys: known.map(([{ kid, jwk }, kl_cert]) => ({ ...jwk, kid, alg: 'Ed25519', use: 'sig', kl_cert })), revoked: [revoked.kid], revocations: await signed({ type: 'revocations', payload: revocationsOf(revoked) }, verdicts.kid, verdicts.sign) },
    vectors,
  };
}

export const vectorsFile = new URL('./vectors.json', import.meta.url);
export const writtenVectors = (vectors: Vectors): string => `${JSON.stringify(vectors, null, 1)}\n`;

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(vectorsFile, writtenVectors(await makeVectors()));
