import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { Slots } from './slots.ts';

describe('Slots', () => {
  it('know what was added and not yet taken, like a map, and number no two things alike', () => {
    fc.assert(fc.property(fc.array(fc.option(fc.nat(100))), (steps) => {
      const slots = new Slots<object>();
      const model = new Map<number, object>();
      for (const step of steps) {
        if (step === null) {
          const item = {};
          const slot = slots.add(item);
          expect(model.has(slot)).toBe(false);
          model.set(slot, item);
        } else {
          const slot = step % 10;
          expect(slots.get(slot)).toBe(model.get(slot));
          expect(slots.take(slot)).toBe(model.get(slot));
          model.delete(slot);
        }
      }
      expect(new Set(slots.all)).toEqual(new Set(model.values()));
      expect(slots.takeAll()).toHaveLength(model.size);
      expect([slots.all, slots.add({})]).toEqual([[], 0]);
    }));
  });

  it('are as few again as are needed', () => {
    const slots = new Slots<object>();
    const many = Array.from({ length: 1_000 }, () => slots.add({}));
    for (const slot of many) slots.take(slot);
    expect(slots.add({})).toBe(0);
    expect(slots.take(999)).toBeUndefined();
  });

  it('leave nothing behind for a full collection', () => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as (options?: { type: 'minor' }) => void;
    const slots = new Slots<number[]>();
    const underway = Array.from({ length: 64 }, () => slots.add([]));
    gc();
    const before = process.memoryUsage().heapUsed;
    for (let n = 0; n < 3_000; n++) {
      slots.take(underway[n % 64] as number);
      underway[n % 64] = slots.add(Array.from({ length: 500 }, () => n));
      if (n % 500 === 0) gc({ type: 'minor' });
    }
    gc({ type: 'minor' });
    gc({ type: 'minor' });
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(2_000_000);
  });
});
