import { readFileSync } from 'node:fs';
import { createPublicKey } from 'node:crypto';
import { beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { compactVerify, CompactSign, createLocalJWKSet, importJWK } from 'jose';
import { bytesOf, fromBase64, fromBase64Url, textOf, toBase64, toBase64Url } from './bytes.ts';
import { certify, lease, licenseFile, makeVectors, now, offlineFile, revocationsOf, terms, testKey, vectorsFile, verdictClaims, writtenVectors, type TestKey } from './crafted.contract.ts';
import { importPublicKey, isSignedBy, readPublicKeys } from './ed25519.ts';
import { fileTypeOf, maxLength, type Certificate } from './envelope.ts';
import { signed, TooLarge } from './sign.ts';
import { shapes, type StatementType } from './statements.ts';
import { jwks, pins, vectors, vectorsContract, type Vector } from './vectors.contract.ts';
import { Verifier } from './verifier.ts';

async function judgeOf(pinned: unknown, keys: unknown) {
  const opened = await Verifier.open(pinned as typeof pins);
  if (!opened.ok) throw new Error(opened.reason);
  const { verifier } = opened;
  await verifier.learn(keys);
  return async ({ type, text, expected }: Pick<Vector, 'type' | 'text' | 'expected'>): Promise<string> => {
    const result = type === 'public-key' ? await importPublicKey(JSON.parse(text))
      : type === 'license-file' ? await verifier.licenseFile(text, expected)
      : type === 'offline-file' ? await verifier.offlineFile(text, expected) : await verifier[type](text, expected);
    return result.ok ? 'ACCEPTED' : result.reason;
  };
}

vectorsContract('The verifier', ({ pins: pinned, jwks: keys }) => judgeOf(pinned, keys));

describe('The vectors', () => {
  it('come out of their generator as they are stored', async () => {
    expect(writtenVectors(await makeVectors())).toBe(readFileSync(vectorsFile, 'utf8'));
  });

  it('hold more than a hundred things that must not be accepted, under names of their own', () => {
    expect(vectors.filter(({ result }) => result !== 'ACCEPTED').length).toBeGreaterThan(250);
    expect(new Set(vectors.map(({ name }) => name)).size).toBe(vectors.length);
  });
});

describe('A verifier', () => {
  let root: TestKey, files: TestKey, leases: TestKey, verdicts: TestKey, certificate: Certificate, judge: Awaited<ReturnType<typeof judgeOf>>;
  beforeAll(async () => {
    [root, files, leases, verdicts] = await Promise.all([1, 2, 3, 4].map(testKey)) as [TestKey, TestKey, TestKey, TestKey];
    certificate = await certify(root, files, 'license-file');
    judge = await judgeOf(pins, jwks);
  });
  const judged = (type: Vector['type'], text: unknown) => judge({ type, text: text as string, expected: { now, nonce: 'nonce-1' } });
  const good = {
    lease: () => signed({ type: 'lease', payload: lease }, leases.kid, leases.sign),
    file: () => signed({ type: 'license-file', payload: licenseFile, certificate }, files.kid, files.sign),
    offline: () => signed({ type: 'offline-file', payload: offlineFile, certificate }, files.kid, files.sign),
  };
  const opened = async () => {
    const result = await Verifier.open(pins);
    if (!result.ok) throw new Error(result.reason);
    return result.verifier;
  };

  it('needs a root, and a proper one', async () => {
    expect(await Verifier.open({ environment: 'production', roots: [] })).toEqual({ ok: false, reason: 'UNTRUSTED_ROOT' });
    expect(await Verifier.open({ environment: 'production', roots: [{ kty: 'OKP', crv: 'Ed25519', x: 'A'.repeat(43) }] })).toEqual({ ok: false, reason: 'WEAK_KEY' });
    expect(await Verifier.open({ environment: 'production', roots: [root.jwk, {}] })).toEqual({ ok: false, reason: 'MALFORMED' });
  });

  it('takes what was signed at the very instant from which its key is certified', async () => {
    const certificateOf = (notBefore: string) => certify(root, files, 'license-file', { notBefore });
    const file = async (notBefore: string) => judged('license-file', await signed({ type: 'license-file', payload: licenseFile, certificate: await certificateOf(notBefore) }, files.kid, files.sign));
    expect([await file(now), await file('2026-07-01T12:00:00.001Z')]).toEqual(['ACCEPTED', 'KEY_OUT_OF_TIME']);
  });

  it('hands out what was signed', async () => {
    const verifier = await opened();
    await verifier.learn(jwks);
    expect(await verifier.licenseFile(await good.file(), { now })).toEqual({ ok: true, kid: files.kid, file: licenseFile });
    expect(await verifier.offlineFile(await good.offline(), { now })).toEqual({ ok: true, kid: files.kid, file: offlineFile });
    expect(await verifier.lease(await good.lease(), { now })).toEqual({ ok: true, kid: leases.kid, claims: lease });
  });

  it('knows no token key before it has learned one, and needs none for files', async () => {
    const verifier = await opened();
    expect(await verifier.lease(await good.lease(), { now })).toEqual({ ok: false, reason: 'UNKNOWN_KEY' });
    expect(await verifier.licenseFile(await good.file(), { now })).toMatchObject({ ok: true });
  });

  it('learns nothing from a key set that its root has not signed', async () => {
    const attacker = await testKey(6);
    const verifier = await opened();
    const keys = [
      { ...leases.jwk, kid: leases.kid }, { ...attacker.jwk, kid: attacker.kid, kl_cert: await certify(attacker, attacker, 'lease') },
      { ...attacker.jwk, kid: attacker.kid, kl_cert: await certify(root, leases, 'lease') }, null, 'key', await certify(root, leases, 'lease', { environment: 'staging' }),
    ];
    const learned = await verifier.learn({ keys });
    const neither = await verifier.learn({ keys: [null], revocations: 'all' });
    expect(neither.ok && neither.refused.map(({ reason }) => reason)).toEqual(['BAD_CERTIFICATE', 'MALFORMED']);
    expect(learned.ok && learned.refused.map(({ reason }) => reason)).toEqual(['BAD_CERTIFICATE', 'UNTRUSTED_ROOT', 'BAD_CERTIFICATE', 'BAD_CERTIFICATE', 'BAD_CERTIFICATE', 'BAD_CERTIFICATE']);
    expect(await verifier.lease(await good.lease(), { now })).toEqual({ ok: false, reason: 'UNKNOWN_KEY' });
  });

  it.each([null, undefined, 1, 'keys', [], {}, { keys: {} }])('keeps what it knows when %j is said to be a key set', async (wrong) => {
    const verifier = await opened();
    await verifier.learn(jwks);
    expect(await verifier.learn(wrong)).toEqual({ ok: false, reason: 'MALFORMED' });
    expect(await verifier.lease(await good.lease(), { now })).toMatchObject({ ok: true });
  });

  it('never takes a revoked key back', async () => {
    const verifier = await opened();
    await verifier.learn({ keys: jwks.keys, revocations: await signed({ type: 'revocations', payload: revocationsOf(leases, files) }, verdicts.kid, verdicts.sign) });
    expect(await verifier.lease(await good.lease(), { now })).toEqual({ ok: false, reason: 'KEY_REVOKED' });
    expect(await verifier.licenseFile(await good.file(), { now })).toEqual({ ok: false, reason: 'KEY_REVOKED' });
    await verifier.learn(jwks);
    expect(await verifier.lease(await good.lease(), { now })).toEqual({ ok: false, reason: 'KEY_REVOKED' });
    expect(verifier.revoked).toEqual(expect.arrayContaining([leases.kid, files.kid]));
    const next = await opened();
    next.distrust(verifier.revoked);
    expect(await next.licenseFile(await good.file(), { now })).toEqual({ ok: false, reason: 'KEY_REVOKED' });
  });

  it('takes a list of revoked keys only from a key for verdicts that is good itself', async () => {
    const [attacker, next] = await Promise.all([6, 10].map(testKey)) as [TestKey, TestKey];
    const keys = [...jwks.keys, { ...next.jwk, kid: next.kid, kl_cert: await certify(root, next, 'verdict') }];
    const said = (key: TestKey, changes: object = {}) => signed({ type: 'revocations', payload: { ...revocationsOf(leases, files), ...changes } }, key.kid, key.sign);
    const good_ = await said(verdicts);
    const wrong: readonly (readonly [unknown, string])[] = [
      [await said(leases), 'WRONG_PURPOSE'], [await said(attacker), 'UNKNOWN_KEY'], [await said(verdicts, { env: 'staging' }), 'WRONG_ENVIRONMENT'], [await said(verdicts, { iat: 1 }), 'KEY_OUT_OF_TIME'],
      [`${good_.slice(0, -4)}AAAA`, 'BAD_SIGNATURE'], [await signed({ type: 'verdict', payload: verdictClaims }, verdicts.kid, verdicts.sign), 'WRONG_TYPE'], ['all', 'MALFORMED'], [[leases.kid], 'MALFORMED'], [null, 'MALFORMED'],
    ];
    for (const [revocations, reason] of wrong) {
      const verifier = await opened();
      expect(await verifier.learn({ keys, revoked: [leases.kid, files.kid], revocations })).toMatchObject({ ok: true, refused: [{ kid: 'revocations', reason }] });
      expect([reason, await verifier.lease(await good.lease(), { now }), verifier.revoked]).toMatchObject([reason, { ok: true }, []]);
    }
    const verifier = await opened();
    await verifier.learn({ keys, revoked: [leases.kid] });
    expect(await verifier.lease(await good.lease(), { now })).toMatchObject({ ok: true });
    // A key that fell into the wrong hands revokes nothing any more once the next one has revoked it.
    await verifier.learn({ keys, revocations: await signed({ type: 'revocations', payload: revocationsOf(verdicts) }, next.kid, next.sign) });
    expect(await verifier.learn({ keys, revocations: good_ })).toMatchObject({ refused: expect.arrayContaining([{ kid: 'revocations', reason: 'KEY_REVOKED' }]) });
    expect(await verifier.lease(await good.lease(), { now })).toMatchObject({ ok: true });
  });

  it.each(['license-file', 'offline-file', 'lease', 'verdict'] as const)('answers about a %s that is no text, and never throws', async (type) => {
    for (const text of [undefined, null, 1, {}, [], Symbol('x'), new Uint8Array(8)]) expect(await judged(type, text)).toBe('MALFORMED');
  });

  it('looks at nothing that is longer than it need be', async () => {
    const file = await good.file();
    expect(await judged('license-file', file.padEnd(maxLength))).toBe('ACCEPTED');
    expect(await judged('license-file', file.padEnd(maxLength + 1))).toBe('MALFORMED');
    expect(await judged('lease', `${await good.lease()}${'A'.repeat(maxLength)}`)).toBe('MALFORMED');
  });

  it('reads a file in its one spelling', async () => {
    const file = (await good.file()).trim();
    const lines = file.split('\n');
    const [last, end] = [lines.slice(-3, -1).join(''), lines.at(-1) ?? ''];
    for (const text of [
      file.replace(end, end.replace('LICENSE', 'LICENCE')), [...lines.slice(0, -3), last.slice(0, 60), last.slice(60), end].join('\n'), [lines[0], end].join('\n'),
      file.replace('\n', '\n\uFEFF'), [...lines.slice(0, -2), end].join('\n'),
    ]) expect(await judged('license-file', text)).toBe('MALFORMED');
  });

  it('reads no file of which a member is no text', async () => {
    const offline = JSON.parse(await good.offline()) as Record<string, unknown>;
    for (const name of Object.keys(offline)) expect([name, await judged('offline-file', JSON.stringify({ ...offline, [name]: 1 }, null, 2))]).toEqual([name, 'MALFORMED']);
    for (const name of Object.keys(certificate)) expect([name, await judged('offline-file', JSON.stringify({ ...offline, certificate: { ...certificate, [name]: 1 } }, null, 2))]).toEqual([name, 'MALFORMED']);
  });

  it('refuses any text that is none of ours (property)', () => fc.assert(
    fc.asyncProperty(fc.oneof(fc.string({ unit: 'binary' }), fc.json(), fc.stringMatching(/^[A-Za-z0-9_-]{4,40}\.[A-Za-z0-9_-]{4,40}\.[A-Za-z0-9_-]{86}$/)), async (text) => {
      for (const type of ['license-file', 'offline-file', 'lease', 'verdict'] as const) expect(await judged(type, text)).not.toBe('ACCEPTED');
    }), { numRuns: 300 },
  ));

  it('refuses whatever is cut out of, put into or swapped in a good one (property)', async () => {
    const originals = [['lease', await good.lease()], ['license-file', (await good.file()).trim()], ['offline-file', (await good.offline()).trim()]] as const;
    const place = fc.nat({ max: 10_000 });
    await fc.assert(fc.asyncProperty(fc.constantFrom(...originals), place, place, fc.string({ maxLength: 8 }), async ([type, text], from, length, insert) => {
      const at = from % text.length;
      const changed = text.slice(0, at) + insert + text.slice(at + (length % 12));
      fc.pre(changed.trim() !== text);
      expect(await judged(type, changed)).not.toBe('ACCEPTED');
    }), { numRuns: 1500 });
  });

  it('accepts whatever the signer accepts to sign (property)', () => fc.assert(
    fc.asyncProperty(fc.dictionary(fc.string(), fc.jsonValue()), fc.string({ maxLength: 300 }), fc.dictionary(fc.string(), fc.constantFrom<true | number>(true, 0, 1.5, 1e21)), async (featureFlags, deploymentId, features) => {
      const payload = { ...licenseFile, license: { ...terms, featureFlags, deploymentId, features } };
      const text = await signed({ type: 'license-file', payload, certificate }, files.kid, files.sign);
      expect(await (await opened()).licenseFile(text, { now })).toEqual({ ok: true, kid: files.kid, file: JSON.parse(JSON.stringify(payload)) as unknown });
    }), { numRuns: 200 },
  ));
});

describe('No single bit', () => {
  /** All flips of these many of each kind; of the others every 54th bit, beginning at another one each time, so that together they miss no place. */
  const [whole, sampled, stride] = process.env['KEYLEDGER_TEST_ALL_FLIPS'] ? [55, 0, 1] : [1, 54, 54];
  let judge: Awaited<ReturnType<typeof judgeOf>>;
  beforeAll(async () => {
    judge = await judgeOf(pins, jwks);
  });

  async function variant(type: 'lease' | 'verdict' | 'license-file' | 'offline-file', n: number): Promise<string> {
    const [root, files, leases, verdicts] = await Promise.all([1, 2, 3, 4].map(testKey)) as [TestKey, TestKey, TestKey, TestKey];
    const license = { ...terms, featureFlags: { n }, features: {}, quotas: [] };
    if (type === 'lease') return signed({ type, payload: { ...lease, jti: `lease-${n}`, license } }, leases.kid, leases.sign);
    if (type === 'verdict') return signed({ type, payload: { ...verdictClaims, jti: `verdict-${n}` } }, verdicts.kid, verdicts.sign);
    const certificate = await certify(root, files, 'license-file');
    if (type === 'license-file') return signed({ type, payload: { ...licenseFile, seq: n, license }, certificate }, files.kid, files.sign);
    return signed({ type, payload: { ...offlineFile, seq: n, license }, certificate }, files.kid, files.sign);
  }

  async function acceptedFlips(type: Vector['type'], text: string, first: number, step: number): Promise<number[]> {
    const bytes = Buffer.from(text);
    const accepted: number[] = [];
    for (let bit = first; bit < bytes.length * 8; bit += step * 256) {
      const some = Array.from({ length: 256 }, (_, n) => bit + n * step).filter((one) => one < bytes.length * 8);
      await Promise.all(some.map(async (one) => {
        const flipped = Buffer.from(bytes);
        flipped[one >> 3] = (flipped[one >> 3] ?? 0) ^ (1 << (one & 7));
        // As latin1, so that no flip is hidden by a replacement character.
        if ((await judge({ type, text: flipped.toString('latin1'), expected: { now, nonce: 'nonce-1' } })) === 'ACCEPTED') accepted.push(one);
      }));
    }
    return accepted;
  }

  it.each(['lease', 'verdict', 'license-file', 'offline-file'] as const)('can be flipped in a %s', async (type) => {
    for (let n = 0; n < whole + sampled; n++) {
      const text = await variant(type, n);
      expect(await judge({ type, text, expected: { now, nonce: 'nonce-1' } })).toBe('ACCEPTED');
      expect(await acceptedFlips(type, text, n < whole ? 0 : n % stride, n < whole ? 1 : stride)).toEqual([]);
    }
  }, whole > 1 ? 3_600_000 : 60_000);
});

describe('A token', () => {
  it('is a JWS for everybody else, too', async () => {
    const leases = await testKey(3);
    const token = await signed({ type: 'lease', payload: lease }, leases.kid, leases.sign);
    const { payload, protectedHeader } = await compactVerify(token, createLocalJWKSet({ keys: jwks.keys as never }));
    expect(protectedHeader).toEqual({ alg: 'Ed25519', typ: 'kl-lease+jwt', kid: leases.kid });
    expect(JSON.parse(Buffer.from(payload).toString())).toEqual(lease);
  });

  it('is the same when another library makes it', async () => {
    const leases = await testKey(3);
    const privateKey = await importJWK(leases.privateKey.export({ format: 'jwk' }), 'Ed25519');
    const token = await new CompactSign(Buffer.from(JSON.stringify(lease))).setProtectedHeader({ alg: 'Ed25519', typ: 'kl-lease+jwt', kid: leases.kid }).sign(privateKey);
    expect(token).toBe(await signed({ type: 'lease', payload: lease }, leases.kid, leases.sign));
  });
});

describe('The signer', () => {
  it('signs nothing that verifiers could not read', async () => {
    const { kid, sign } = await testKey(3);
    const notCalled = () => {
      throw new Error('signed');
    };
    await expect(signed({ type: 'lease', payload: { ...lease, exp: 1.5 } }, kid, notCalled)).rejects.toThrow('This is no lease');
    await expect(signed({ type: 'verdict', payload: lease as never }, kid, notCalled)).rejects.toThrow('This is no verdict');
    const sized = (length: number) => ({ type: 'lease', payload: { ...lease, license: { ...terms, featureFlags: { text: 'x'.repeat(length) } } } } as const);
    await expect(signed(sized(maxLength), kid, notCalled)).rejects.toThrow(TooLarge);
    const room = Math.floor(((maxLength - (await signed(sized(0), kid, sign)).length) * 3) / 4);
    expect((await signed(sized(room - 3), kid, sign)).length).toBeLessThanOrEqual(maxLength);
    await expect(signed(sized(room + 3), kid, sign)).rejects.toThrow(TooLarge);
  });
});

describe('A statement', () => {
  const good: Record<StatementType, object> = {
    lease, verdict: verdictClaims, 'license-file': licenseFile, 'offline-file': offlineFile, revocations: { iss: 'keyledger', env: 'production', iat: 1, revoked: ['k1'] },
    'key-certificate': {
      kid: 'k1', purpose: 'lease', environment: 'production', publicJwk: { kty: 'OKP', crv: 'Ed25519', x: 'x' }, notBefore: '2026-01-01T00:00:00.000Z', notAfter: '2027-02-05T00:00:00.000Z',
    },
  };
  type Members = Record<string, unknown>;
  const isMembers = (value: unknown): value is Members => typeof value === 'object' && value !== null && !Array.isArray(value);
  const pathsIn = (value: Members, path: readonly string[] = []): readonly (readonly string[])[] => Object.entries(value)
    .flatMap(([name, member]) => [[...path, name], ...(isMembers(member) && !name.startsWith('feature') ? pathsIn(member, [...path, name]) : [])]);
  const changed = (value: Members, [name = '', ...rest]: readonly string[], to: (old: unknown) => unknown): Members =>
    ({ ...value, [name]: rest.length > 0 ? changed(value[name] as Members, rest, to) : to(value[name]) });

  it.each(Object.entries(good))('is read whole or not at all: %s', (type, statement) => {
    const read = shapes[type as StatementType];
    expect(read(statement)).toBe(true);
    const wrong = [() => undefined, (old: unknown) => (typeof old === 'number' ? '1' : 1), (old: unknown) => (isMembers(old) ? [] : {}), (old: unknown) => (typeof old === 'string' ? 'x'.repeat(1_025) : -2)];
    for (const path of pathsIn(statement as Members)) {
      for (const to of wrong) expect([path, to('x'), read(changed(statement as Members, path, to))]).toEqual([path, to('x'), false]);
    }
  });

  const licensed = (change: object) => shapes.lease({ ...lease, license: { ...terms, ...change } });
  it.each([
    { id: 'x'.repeat(1_024), deploymentId: 'x'.repeat(1_024) }, { planId: null, serialNumber: null, effectiveAt: null, expiresAt: null, deploymentMode: null, deploymentId: null, trial: null }, { serialNumber: '', deploymentMode: '', deploymentId: '' },
    { expiredEnforcement: 'LOCKED', validationMode: 'online', binding: 'none', seats: 'floating', trial: { days: 1 } }, { validationMode: 'offline' }, { activationLimit: -1 }, { features: {}, quotas: [] },
    { features: { a: true, b: 0, c: { limit: 1, per: 'month' } }, quotas: [{ meter: 'a', limit: 0, per: 'day' }, { meter: 'b', limit: 1.5, per: 'month' }] },
  ])('may be of a license with %j', (change) => expect(licensed(change)).toBe(true));
  it.each([
    { id: '' }, { serialNumber: 'x'.repeat(1_025) }, { activationLimit: 1.5 }, { trial: {} }, { features: { a: false } }, { features: { a: 'x' } }, { features: { a: { limit: 1 } } }, { features: { a: { per: 'day' } } },
    { features: { a: { limit: 1, per: 'year' } } }, { features: { a: Number.NaN } }, { features: null }, { featureFlags: null }, { quotas: [{ meter: 'a' }] }, { quotas: [{ limit: 1 }] }, { quotas: [{ meter: 'a', limit: 1, per: 'year' }] }, { quotas: [1] },
    { expiresAt: '2026-07-01T12:00:00Z' }, { expiresAt: '2026-13-01T12:00:00.000Z' }, { expiresAt: 'x2026-07-01T12:00:00.000Z' }, { expiresAt: '2026-07-01T12:00:00.000Zx' },
  ])('is not of a license with %j', (change) => expect(licensed(change)).toBe(false));
  it('may be for any machine, about no instance, and of no customer', () => {
    expect(shapes.verdict({ ...verdictClaims, fingerprint: null, instanceId: null, license: null, verdict: { ...verdictClaims.verdict, enforcement: 'LOCKED', graceEndsAt: now, reasons: ['REVOKED'] } })).toBe(true);
    for (const enforcement of ['FULL', 'WARN', 'READ_ONLY', 'LOCKED']) expect(shapes.verdict({ ...verdictClaims, verdict: { ...verdictClaims.verdict, enforcement } })).toBe(true);
    expect(shapes['offline-file']({ ...offlineFile, fingerprint: null, activationId: null })).toBe(true);
    for (const customer of [null, { id: 'cus_1', name: null }]) expect(shapes['license-file']({ ...licenseFile, customer })).toBe(true);
    expect(shapes.verdict({ ...verdictClaims, verdict: { ...verdictClaims.verdict, reasons: [1] } })).toBe(false);
    expect(shapes.revocations({ ...good.revocations, revoked: [1] })).toBe(false);
  });
});

describe('A signature', () => {
  it('is none from the order of the group on, whatever the machine says of it', async () => {
    const { jwk } = await testKey(1);
    const imported = await importPublicKey(jwk);
    const order = 2n ** 252n + 27742317777372353535851937790883648493n;
    const signature = (s: bigint) => Uint8Array.from([...new Uint8Array(32), ...Buffer.from(s.toString(16).padStart(64, '0'), 'hex').toReversed()]);
    Object.defineProperty(crypto.subtle, 'verify', { value: async () => true, configurable: true });
    try {
      const verified = await Promise.all([order - 1n, order, order + 1n, 2n ** 256n - 1n].map((s) => isSignedBy((imported as typeof imported & { ok: true }).key, signature(s), bytesOf('text'))));
      expect(verified).toEqual([true, false, false, false]);
      expect(await isSignedBy((imported as typeof imported & { ok: true }).key, signature(1n).subarray(1), bytesOf('text'))).toBe(false);
    } finally {
      Reflect.deleteProperty(crypto.subtle, 'verify');
    }
  });
});

describe('Public keys', () => {
  it('are read as people pin them', async () => {
    const { jwk, privateKey } = await testKey(1);
    const pem = createPublicKey(privateKey).export({ format: 'pem', type: 'spki' }) as string;
    for (const text of [pem, pem.replaceAll('\n', '\r\n'), JSON.stringify(jwk), JSON.stringify({ environment: 'production', roots: [jwk] }), JSON.stringify({ keys: [jwk] })]) {
      expect(readPublicKeys(text)).toEqual({ ok: true, jwks: [jwk] });
    }
    for (const text of [`x${pem}`, `${pem}x`]) expect(readPublicKeys(text)).toEqual({ ok: false, reason: 'MALFORMED' });
    for (const given of [jwk, [jwk], { environment: 'production', roots: [jwk] }, { keys: [jwk] }, JSON.stringify([jwk])]) expect(readPublicKeys(given)).toEqual({ ok: true, jwks: [jwk] });
  });

  it.each([
    '', 'null', '1', '{"roots":1}', '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----', 'https://example.test/root', '"text"', undefined, null, 1, {}, { roots: 1 }, ['text'],
  ])('are not read from %j', async (given) => {
    const result = readPublicKeys(given);
    expect(result.ok ? await Verifier.open({ environment: 'production', roots: result.jwks }) : result).toEqual({ ok: false, reason: 'MALFORMED' });
    expect(await Verifier.open({ environment: 'production', roots: given as string })).toEqual({ ok: false, reason: 'MALFORMED' });
  });

  it('of the usual kind are all good (property)', () => fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: 255 }), async (n) => {
      const { jwk, kid } = await testKey(n);
      expect(await importPublicKey(jwk)).toMatchObject({ ok: true, kid });
    }), { numRuns: 50 },
  ));
});

describe('base64', () => {
  it('is refused where it is none, and so is text that is no UTF-8', () => {
    for (const text of ['Q', 'QQ', 'QQQ', 'Q===', 'QR==', 'QUE', '====']) expect([text, fromBase64(text)]).toEqual([text, undefined]);
    for (const text of ['Q', 'QUJDR', 'QR', 'QQ==']) expect([text, fromBase64Url(text)]).toEqual([text, undefined]);
    expect([textOf(bytesOf('ä')), textOf(Uint8Array.of(0x61, 0xff))]).toEqual(['ä', undefined]);
  });

  it('has one spelling (property)', () => fc.assert(fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
    expect(toBase64(bytes)).toBe(Buffer.from(bytes).toString('base64'));
    expect(toBase64Url(bytes)).toBe(Buffer.from(bytes).toString('base64url'));
    expect([...(fromBase64(toBase64(bytes)) ?? [])]).toEqual([...bytes]);
    expect([...(fromBase64Url(toBase64Url(bytes)) ?? [])]).toEqual([...bytes]);
  })));

  it('has no other one (property)', () => fc.assert(fc.property(fc.stringMatching(/^[A-Za-z0-9+/=_-]{0,12}$/), (text) => {
    const [plain, url] = [fromBase64(text), fromBase64Url(text)];
    if (plain) expect(toBase64(plain)).toBe(text);
    if (url) expect(toBase64Url(url)).toBe(text);
  })));
});

describe('A file', () => {
  it('is known by its first letters', async () => {
    expect(vectors.filter(({ name }) => name.endsWith('as issued') && name.includes('file')).map(({ text }) => fileTypeOf(text))).toEqual(['license-file', 'offline-file']);
    expect(['\uFEFF\n -----BEGIN KEYLEDGER LICENSE-----', '\uFEFF{', '7XK2-9QF4'].map(fileTypeOf)).toEqual(['license-file', 'offline-file', undefined]);
  });
});
