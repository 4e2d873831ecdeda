import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { checkKeyFormat, entropyBits, generateKey, hasValidCheck, keyPrefix, normaliseKey, spellingsOf, type KeyFormat, type RandomBytes } from './license-key.ts';

const crockford: KeyFormat = { kind: 'crockford' };
const patterned: KeyFormat = { kind: 'pattern', pattern: 'Lot-####_????.******************' };
const formats: KeyFormat[] = [crockford, { kind: 'crockford', prefix: 'Olli1' }, { kind: 'uuid' }, { kind: 'uuid', prefix: 'AB' }, { kind: 'chunks' },
  { kind: 'chunks', chunks: 4, chunkLength: 8, prefix: 'X' }, patterned, { ...patterned, prefix: 'lot' }];

/** The same bytes for the same seed: each draw goes on from the last. */
function seeded(seed: number): RandomBytes {
  let n = 0;
  return (size) => createHash('shake256', { outputLength: size }).update(`${seed}/${n++}`).digest();
}
const format = fc.constantFrom(...formats);
const seed = fc.nat();
const CHARACTERS = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';

describe('A license key', () => {
  it.each([
    [crockford, /^([0-9A-HJKMNP-TV-Z]{7}-){3}[0-9A-HJKMNP-TV-Z]{7}$/],
    [{ kind: 'crockford', prefix: 'acme' }, /^ACME-([0-9A-HJKMNP-TV-Z]{7}-){3}[0-9A-HJKMNP-TV-Z]{7}$/],
    [{ kind: 'uuid' }, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/],
    [{ kind: 'chunks' }, /^([0-9A-HJKMNP-TV-Z]{5}-){4}[0-9A-HJKMNP-TV-Z]{5}$/],
    [{ kind: 'chunks', chunks: 3, chunkLength: 7 }, /^([0-9A-HJKMNP-TV-Z]{7}-){2}[0-9A-HJKMNP-TV-Z]{7}$/],
    [patterned, /^Lot-[0-9]{4}_[A-HJKMNP-TV-Z]{4}\.[0-9A-HJKMNP-TV-Z]{18}$/],
  ] satisfies [KeyFormat, RegExp][])('of format %j looks as it should', (wanted, shape) => {
    fc.assert(fc.property(seed, (n) => {
      expect(generateKey(wanted, seeded(n))).toMatch(shape);
    }), { numRuns: 200 });
  });

  it('is what its randomness makes of it, and nothing else', () => {
    expect(generateKey(crockford, seeded(1))).toBe(generateKey(crockford, seeded(1)));
    expect(generateKey(crockford, seeded(1))).not.toBe(generateKey(crockford, seeded(2)));
  });

  it('stays what it is: check characters printed years ago must hold', () => {
    const counting: RandomBytes = (size) => Uint8Array.from({ length: size }, (_, i) => i);
    expect(generateKey(crockford, counting)).toBe('0123456-789ABCD-EFGHJKM-NPQRSCT');
  });

  it('is found again however it was typed', () => {
    const spelling = fc.array(fc.record({ lower: fc.boolean(), wrong: fc.boolean(), between: fc.constantFrom('', '', '', ' ', '-', '\u00a0', '–', '\n') }), { minLength: 60, maxLength: 60 });
    const lookAlikes: Readonly<Record<string, string>> = { 0: 'O', 1: 'I' };
    fc.assert(fc.property(format, seed, spelling, (wanted, n, spelled) => {
      const key = generateKey(wanted, seeded(n));
      const typed = [...key].map((character, i) => {
        const { lower, wrong, between } = spelled[i] ?? { lower: false, wrong: false, between: '' };
        const written = wrong ? (lookAlikes[character] ?? character) : character;
        return (lower ? written.toLowerCase() : written) + between;
      }).join('');
      expect(normaliseKey(typed)).toBe(normaliseKey(key));
      expect(normaliseKey(normaliseKey(typed))).toBe(normaliseKey(key));
    }), { numRuns: 1000 });
  });

  it('has one spelling inside, whatever is thrown at it', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary' }), (typed) => {
      expect(normaliseKey(typed)).toMatch(/^[0-9A-HJKMNP-Z]*$/);
      expect(normaliseKey(normaliseKey(typed))).toBe(normaliseKey(typed));
    }));
    expect(normaliseKey('oIl-ß ſ \u212a é١')).toBe('011');
  });

  it('has each part of it in it, when that is spelled with other signs than dashes, or without', () => {
    fc.assert(fc.property(seed, fc.constantFrom(undefined, 'PP'), fc.nat(23), fc.integer({ min: 8, max: 31 }), fc.constantFrom('', ' ', '\u2013', ' - '), (n, prefix, from, length, between) => {
      const typed = generateKey({ kind: 'crockford', prefix }, seeded(n));
      const part = between === '' ? typed.replaceAll('-', '').slice(from, from + length) : typed.slice(from, from + length).replace(/^-|-$/g, '').replaceAll('-', between);
      expect([part, ...spellingsOf(part)].filter((spelling) => typed.includes(spelling))).not.toEqual([]);
    }), { numRuns: 1_000 });
    for (const text of ['', 'ABC', ' -', '東京', 'größe', 'größe'.normalize('NFD'), 'Müller & Söhne', 'm²x', 'o\u0301o']) expect(spellingsOf(text)).toEqual([]);
  });

  it('shows its first eight characters without the product prefix', () => {
    expect(keyPrefix('ACME-0123456-789ABCD-EFGHJKM-NPQRSTV', 'acme')).toBe('01234567');
    expect(keyPrefix('0123456-789ABCD-EFGHJKM-NPQRSTV')).toBe('01234567');
    expect(keyPrefix('Olli-0123456-789ABCD', 'Olli')).toBe('01234567');
    expect(keyPrefix('0123456-789ABCD-EFGHJKM-NPQRSTV', 'acme')).toBe('01234567');
    expect(keyPrefix('9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d')).toBe('9B1DEB4D');
  });
});

describe('The check characters', () => {
  const key = seed.map((n) => normaliseKey(generateKey(crockford, seeded(n))));
  const replaced = (text: string, at: number, character: string) => text.slice(0, at) + character + text.slice(at + 1);
  const code = generateKey(crockford, seeded(42)).replaceAll('-', '');

  it('hold for every key, with and without its prefix, however it is spelled', () => {
    fc.assert(fc.property(seed, fc.constantFrom(undefined, 'AB', 'OIL9'), (n, prefix) => {
      const typed = generateKey({ kind: 'crockford', prefix }, seeded(n));
      expect(hasValidCheck(typed) && hasValidCheck(typed.toLowerCase().replaceAll('0', 'o').replaceAll('1', 'l'))).toBe(true);
    }));
  });

  it('notice every single wrong character', () => {
    for (let at = 0; at < 28; at++) {
      for (const wrong of CHARACTERS) if (wrong !== code[at]) expect(hasValidCheck(replaced(code, at, wrong))).toBe(false);
    }
  });

  it('notice every exchange of two characters, neighbours or not', () => {
    for (let a = 0; a < 28; a++) {
      for (let b = a + 1; b < 28; b++) {
        const [one, other] = [code.charAt(a), code.charAt(b)];
        if (one !== other) expect(hasValidCheck(replaced(replaced(code, a, other), b, one))).toBe(false);
      }
    }
  });

  it('notice any two wrong characters', () => {
    const wrong = fc.tuple(fc.nat(27), fc.constantFrom(...CHARACTERS));
    fc.assert(fc.property(key, wrong, wrong, (right, [a, x], [b, y]) => {
      const typed = replaced(replaced(right, a, x), b, y);
      expect(hasValidCheck(typed)).toBe(typed === right);
    }), { numRuns: 20_000 });
  });

  it('let one random text in a thousand through, not more', () => {
    const random = seeded(7);
    const bytes = random(28 * 50_000);
    let through = 0;
    for (let i = 0; i < 50_000; i++) if (hasValidCheck([...bytes.subarray(i * 28, i * 28 + 28)].map((byte) => CHARACTERS.charAt(byte & 31)).join(''))) through++;
    expect(through).toBeGreaterThan(15); // 49 are to be expected
    expect(through).toBeLessThan(100);
  });

  it.each(['', 'ABC', code.slice(1), `U${code.slice(1)}`])('do not hold for %j', (text) => expect(hasValidCheck(text)).toBe(false));
});

describe('The drawing of keys', () => {
  /** Pearson's χ²; for up to 31 degrees of freedom 70 is exceeded by chance once in 10,000 tries. The seed is fixed, so it is always the same try. */
  const chiSquared = (text: string, alphabet: string) => {
    const expected = text.length / alphabet.length;
    return [...alphabet].reduce((sum, character) => sum + (text.split(character).length - 1 - expected) ** 2 / expected, 0);
  };
  const drawn = (wanted: KeyFormat, keys: number) => {
    const random = seeded(11);
    return Array.from({ length: keys }, () => generateKey(wanted, random));
  };

  it('prefers no character', () => {
    const sample = drawn(crockford, 3000).map((key) => key.replaceAll('-', '').slice(0, 26)).join('');
    expect(chiSquared(sample, CHARACTERS)).toBeLessThan(70);
  });

  it('prefers no digit and no letter of a pattern, though 256 is no multiple of either', () => {
    const sample = drawn({ kind: 'pattern', pattern: `${'#'.repeat(40)}-${'?'.repeat(40)}` }, 2000).map((key) => key.split('-'));
    expect(chiSquared(sample.map(([digits]) => digits).join(''), '0123456789')).toBeLessThan(40);
    expect(chiSquared(sample.map(([, letters]) => letters).join(''), CHARACTERS.slice(10))).toBeLessThan(60);
  });

  it('throws away the bytes that would favour the first characters', () => {
    const bytes = [255, 250, 7, 249];
    const random: RandomBytes = (size) => Uint8Array.from({ length: size }, () => bytes.shift() ?? 0);
    expect(generateKey({ kind: 'pattern', pattern: '##' }, random)).toBe('79');
  });

  it('keeps every random bit of a UUID but the six that are fixed', () => {
    expect(generateKey({ kind: 'uuid' }, (size) => Uint8Array.from({ length: size }, (_, i) => i))).toBe('00010203-0405-4607-8809-0a0b0c0d0e0f');
    expect(generateKey({ kind: 'uuid' }, (size) => new Uint8Array(size).fill(255))).toBe('ffffffff-ffff-4fff-bfff-ffffffffffff');
  });

  it('never gives the same key twice', () => {
    for (const wanted of formats) {
      const keys = Array.from({ length: 5000 }, () => normaliseKey(generateKey(wanted, randomBytes)));
      expect(new Set(keys).size).toBe(5000);
    }
  });
});

describe('A key format', () => {
  it.each([[crockford, 130], [{ kind: 'uuid' }, 122], [{ kind: 'chunks' }, 125], [{ kind: 'chunks', chunks: 4, chunkLength: 5 }, 100],
    [{ kind: 'pattern', pattern: '*'.repeat(20) }, 100], [{ kind: 'pattern', pattern: 'AB-##' }, 6.64]] satisfies [KeyFormat, number][])('%j has %d random bits', (wanted, bits) => {
    expect(entropyBits(wanted)).toBeCloseTo(bits, 2);
  });

  it.each([...formats, { kind: 'chunks', chunks: 16, chunkLength: 2 }, { kind: 'chunks', chunks: 1, chunkLength: 32 }, { kind: 'pattern', pattern: `${'*'.repeat(17)}?##` }] satisfies KeyFormat[])('%j is strong enough', (wanted) => {
    expect(() => checkKeyFormat(wanted)).not.toThrow();
  });

  it.each([
    ['chunks', { kind: 'chunks', chunks: 17, chunkLength: 6 }], ['chunks', { kind: 'chunks', chunks: 0 }], ['chunks', { kind: 'chunks', chunks: 2.5 }],
    ['chunkLength', { kind: 'chunks', chunkLength: 33 }], ['chunkLength', { kind: 'chunks', chunks: 8, chunkLength: 32 }],
    ['chunkLength', { kind: 'chunks', chunks: 8, chunkLength: 30, prefix: 'A'.repeat(8) }],
    ['pattern', { kind: 'pattern' }], ['pattern', { kind: 'pattern', pattern: '' }], ['pattern', { kind: 'pattern', pattern: '*'.repeat(129) }],
    ['pattern', { kind: 'pattern', pattern: `${'*'.repeat(30)}\n` }], ['pattern', { kind: 'pattern', pattern: `${'*'.repeat(30)}é` }],
    ['prefix', { kind: 'crockford', prefix: '' }], ['prefix', { kind: 'crockford', prefix: 'A-B' }], ['prefix', { kind: 'uuid', prefix: 'A'.repeat(17) }],
  ] satisfies [string, KeyFormat][])('is wrong in its %s: %j', (field, wanted) => {
    const errors = [{ pointer: `/keyFormat/${field}`, detail: expect.stringMatching(/^(must|makes)/) }];
    expect(() => checkKeyFormat(wanted)).toThrow(expect.objectContaining({ code: 'VALIDATION_FAILED', members: { errors } }));
  });

  it.each([{ kind: 'chunks', chunks: 8, chunkLength: 31 }, { kind: 'chunks', chunks: 8, chunkLength: 30, prefix: 'A'.repeat(7) }] satisfies KeyFormat[])('may make keys as long as a license key may be: %j', (longest) => {
    expect(() => checkKeyFormat(longest)).not.toThrow();
    expect(generateKey(longest, seeded(1))).toHaveLength(255);
  });

  it.each([{ kind: 'chunks', chunks: 16, chunkLength: 1 }, { kind: 'chunks', chunks: 3, chunkLength: 6 }, { kind: 'pattern', pattern: '#'.repeat(28) },
    { kind: 'pattern', pattern: `${'*'.repeat(16)}??##` }, { kind: 'pattern', pattern: `ACME-2026-${'*'.repeat(19)}` }] satisfies KeyFormat[])('%j could be guessed', (wanted) => {
    expect(() => checkKeyFormat(wanted)).toThrow(expect.objectContaining({ code: 'KEY_FORMAT_TOO_WEAK' }));
  });
});
