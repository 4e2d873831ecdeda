import { readFileSync } from 'node:fs';
import { createPublicKey } from 'node:crypto';
import { beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { compactVerify, CompactSign, createLocalJWKSet, importJWK } from 'jose';
import { fromBase64, fromBase64Url, toBase64, toBase64Url } from './bytes.ts';
import { certify, lease, licenseFile, makeVectors, now, offlineFile, revocationsOf, terms, testKey, vectorsFile, verdictClaims, writtenVectors, type TestKey } from './crafted.contract.ts';
import { importPublicKey, readPublicKeys } from './ed25519.ts';
import { fileTypeOf, maxLength, type Certificate } from './envelope.ts';
import { signed, TooLarge } from './sign.ts';
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

  it('believes nobody that a key was revoked but a key for verdicts that is good itself', async () => {
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
    const long = `${await good.file()}${' '.repeat(maxLength)}`;
    expect(await judged('license-file', long)).toBe('MALFORMED');
    expect(await judged('lease', `${await good.lease()}${'A'.repeat(maxLength)}`)).toBe('MALFORMED');
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
  /** All flips of these many of each kind; of the others every 32nd bit, beginning at another one each time, so that together they miss no place. */
  const [whole, sampled, stride] = process.env['KEYLEDGER_TEST_ALL_FLIPS'] ? [55, 0, 1] : [1, 54, 32];
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
    const license = { ...terms, featureFlags: { text: 'x'.repeat(maxLength) } };
    await expect(signed({ type: 'lease', payload: { ...lease, license } }, kid, sign)).rejects.toThrow(TooLarge);
  });
});

describe('Public keys', () => {
  it('are read as people pin them', async () => {
    const { jwk, privateKey } = await testKey(1);
    const pem = createPublicKey(privateKey).export({ format: 'pem', type: 'spki' }) as string;
    for (const text of [pem, pem.replaceAll('\n', '\r\n'), JSON.stringify(jwk), JSON.stringify({ environment: 'production', roots: [jwk] }), JSON.stringify({ keys: [jwk] })]) {
      expect(readPublicKeys(text)).toEqual({ ok: true, jwks: [jwk] });
    }
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
    expect(fileTypeOf('7XK2-9QF4')).toBeUndefined();
  });
});
