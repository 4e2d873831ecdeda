import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { RecentChanges } from './recent-changes.ts';

describe('Recent changes', () => {
  it('are those after a position, or unknown, but never too few', () => {
    const steps = fc.array(fc.record({ what: fc.constantFrom('a', 'b', 'c', 'd'), gap: fc.nat(2) }), { maxLength: 60 });
    fc.assert(fc.property(steps, fc.nat(5), fc.integer({ min: 1, max: 8 }), (changes, from, kept) => {
      const recent = new RecentChanges<string>(from, kept);
      let at = from;
      const all = changes.map(({ what, gap }) => ({ what, position: (at += gap) }));
      for (const { what, position } of all) recent.add(what, position);
      for (let since = 0; since <= at + 1; since++) {
        const known = recent.since(since);
        if (known) expect(known).toEqual(new Set(all.filter(({ position }) => position > since).map(({ what }) => what)));
        // Those it must know: fewer have happened since than are kept.
        else expect(since < from || all.filter(({ position }) => position > since).length > kept - 1).toBe(true);
      }
    }));
  });

  it('do not grow for ever', () => {
    const recent = new RecentChanges<number>(0, 100);
    for (let n = 1; n <= 1_000; n++) recent.add(n, n);
    expect([recent.since(0), recent.since(799), recent.since(950)?.size]).toEqual([undefined, undefined, 50]);
  });
});
