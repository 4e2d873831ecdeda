import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { readJson } from './bodies.ts';

const read = (text: string) => readJson(Buffer.from(text));

describe('A body', () => {
  it('holds every number that a double does, and no other', () => {
    const digits = (least: number, most: number) => fc.stringMatching(new RegExp(`^[1-9]{${least},${most}}$`));
    const exponent = fc.tuple(fc.constantFrom('e', 'E', 'e+', 'e-'), fc.integer({ min: 0, max: 400 })).map((parts) => parts.join(''));
    const number = fc.tuple(fc.oneof(digits(1, 2), digits(200, 215), digits(300, 320)), fc.oneof(fc.constant(''), digits(1, 320).map((some) => `.${some}`)), fc.option(exponent, { nil: '' })).map((parts) => parts.join(''));
    fc.assert(fc.property(number, (text) => {
      if (Number.isFinite(Number(text))) expect(read(`{"a":[${text}]}`)).toEqual({ a: [Number(text)] });
      else expect(() => read(`{"a":[${text}]}`)).toThrow('/a/0 is too large a number');
    }), { examples: [[`${'9'.repeat(210)}e99`], [`${'9'.repeat(209)}.9e99`], [`${'9'.repeat(290)}E99`], ['9'.repeat(309)], ['1e309'], ['1e0308']] });
  });

  it('costs no more than its length to be read, however hostile', () => {
    const full = (text: string) => `{"licenseKey":"${text.repeat(255_000 / text.length)}"}`;
    const digits = Array.from({ length: 20 }, (_, n) => `${'1'.repeat(300 - 8 * n)}x`);
    const hostile = [...digits, '1', '1e', '1e+11', '\\u0061', '__proto__', '{', '\\"'].map(full);
    const start = process.cpuUsage().user;
    for (const text of hostile) read(text);
    expect((process.cpuUsage().user - start) / 1000).toBeLessThan(1000);
  });
});
