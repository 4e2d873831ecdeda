import { describe, expect, it } from '@jest/globals';
import type { Json, JsonObject } from '@keyledger/kernel';
import fc from 'fast-check';
import { changes, checkMetadata, METADATA_LIMIT, sameJson } from './metadata.ts';

describe('Metadata', () => {
  const tooLarge = expect.objectContaining({ code: 'METADATA_TOO_LARGE' });
  const ofSize = (bytes: number): JsonObject => ({ a: 'x'.repeat(bytes - '{"a":""}'.length) });

  it('may have 10 KB and not a byte more, in UTF-8', () => {
    expect(() => checkMetadata(ofSize(METADATA_LIMIT))).not.toThrow();
    expect(() => checkMetadata(ofSize(METADATA_LIMIT + 1))).toThrow(expect.objectContaining({ code: 'METADATA_TOO_LARGE', members: { limit: 10_240, size: 10_241 } }));
    expect(() => checkMetadata({ a: '€'.repeat(3410) })).not.toThrow();
    expect(() => checkMetadata({ a: '€'.repeat(3411) })).toThrow(tooLarge);
  });

  it('may be missing', () => {
    checkMetadata(undefined);
    checkMetadata(null);
    checkMetadata({});
  });

  it('is not nested without end', () => {
    const nested = (depth: number): Json => Array.from({ length: depth }).reduce<Json>((inner) => [inner], 1);
    expect(() => checkMetadata({ a: nested(99) })).not.toThrow();
    expect(() => checkMetadata({ a: nested(100) })).toThrow(expect.objectContaining({ code: 'METADATA_TOO_LARGE', members: { limit: 10_240 } }));
    expect(() => checkMetadata({ a: nested(100_000) })).toThrow(tooLarge);
  });
});

describe('JSON is the same', () => {
  const json = fc.jsonValue({ maxDepth: 3 }).map((value) => JSON.parse(JSON.stringify(value)) as Json);

  it('exactly when its canonical text is', () => {
    const canonical = (value: Json): string => JSON.stringify(value, (_, inner: unknown) =>
      (typeof inner === 'object' && inner !== null && !Array.isArray(inner) ? Object.fromEntries(Object.entries(inner).toSorted(([x], [y]) => (x < y ? -1 : 1))) : inner));
    fc.assert(fc.property(json, json, (a, b) => {
      expect(sameJson(a, JSON.parse(JSON.stringify(a)) as Json)).toBe(true);
      expect(sameJson(a, b)).toBe(canonical(a) === canonical(b));
    }), { numRuns: 1000 });
  });

  it('whatever class or order it comes in, and with undefined members or without', () => {
    class Body { b = [1, { c: null }]; a = 'x'; d = undefined; }
    expect(sameJson(new Body() as unknown as JsonObject, { a: 'x', b: [1, { c: null }] })).toBe(true);
  });

  it.each([[[], {}], [null, {}], [[1], [1, 2]], [[1], [2]], [JSON.parse('{"__proto__":{}}') as Json, {}], [{ a: 1 }, { a: null }], [{ a: null }, {}], [1, '1'], [{ toString: 1 }, {}], [{}, { constructor: {} }]] satisfies [Json, Json][])(
    'but %j is not %j', (a, b) => {
      expect(sameJson(a, b)).toBe(false);
      expect(sameJson(b, a)).toBe(false);
    });
});

it('What changes is what is asked for and not so yet', () => {
  const present = { name: 'A', code: 'a' as string | null, metadata: { x: 1 } as JsonObject };
  expect(changes(present, { name: 'A', code: undefined, metadata: { x: 1 } })).toBeUndefined();
  expect(changes(present, { name: 'B', code: null })).toEqual({ name: 'B', code: null });
});
