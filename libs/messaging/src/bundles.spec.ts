import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { Bundles, packed, unpacked, type Part } from './bundles.ts';

const part = fc.record({ id: fc.nat(), head: fc.dictionary(fc.string(), fc.string({ unit: 'grapheme' })), body: fc.json() });

describe('A bundle of messages', () => {
  it('is the same again after the wire', () => {
    fc.assert(fc.property(fc.array(part, { minLength: 1 }), (parts) => {
      const text = Buffer.from(packed(parts)).toString();
      expect(unpacked(text)).toEqual(parts.map(({ id, head, body }) => ({ id, head: { ...head }, body })));
    }));
  });

  it('is nothing when anything is missing', () => {
    const text = packed([{ id: 1, head: {}, body: '{"a":1}' }, { id: 2, head: {}, body: '2' }]);
    const tooMany = packed(Array.from({ length: 17 }, (_, id) => ({ id, head: {}, body: '' })));
    for (const broken of ['', '\n', 'no json\n', '{}\n', '[]\n', text.slice(0, -1), `${text} `, tooMany]) expect(unpacked(broken)).toBeUndefined();
  });

  it('is what one turn of the event loop sends to one address, in its order', async () => {
    const sent: [string, readonly number[]][] = [];
    const bundles = new Bundles<Part>((address, bundle) => sent.push([address, bundle.map(({ id }) => id)]));
    const add = (address: string, id: number) => bundles.add(address, { id, head: {}, body: '' });
    add('a', 1);
    add('b', 2);
    await Promise.resolve();
    add('a', 3);
    expect(sent).toEqual([]);
    await new Promise(setImmediate);
    add('a', 4);
    bundles.flush();
    expect(sent).toEqual([['a', [1, 3]], ['b', [2]], ['a', [4]]]);
  });

  it('goes as soon as it is full, and the others wait on', async () => {
    const sent: [string, number][] = [];
    const bundles = new Bundles<Part>((address, { length }) => sent.push([address, length]));
    for (let id = 0; id < 33; id++) bundles.add('a', { id, head: {}, body: '' });
    bundles.add('b', { id: 33, head: {}, body: '' });
    expect(sent).toEqual([['a', 16], ['a', 16]]);
    await new Promise(setImmediate);
    expect(sent.slice(2)).toEqual([['a', 1], ['b', 1]]);
  });

  it('never grows beyond what a server takes, and leaves nothing out', () => {
    fc.assert(fc.property(fc.array(fc.nat({ max: 200_000 }), { maxLength: 100 }), (lengths) => {
      const sent: (readonly Part[])[] = [];
      const bundles = new Bundles<Part>((_, bundle) => sent.push(bundle));
      lengths.forEach((length, id) => bundles.add('a', { id, head: {}, body: { length } as string }));
      bundles.flush();
      expect(sent.flat().map(({ id }) => id)).toEqual(lengths.map((_, id) => id));
      for (const bundle of sent) {
        expect(bundle.length).toBeLessThanOrEqual(16);
        expect(bundle.length === 1 || bundle.reduce((sum, { body }) => sum + body.length, 0) <= 256 * 1024).toBe(true);
      }
    }));
  });
});
