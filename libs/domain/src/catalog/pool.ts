import type { Aggregate } from '@keyledger/kernel';

/**
 * What is left of a product's licenses that are nobody's yet, as far as it was last said. How many there are is counted elsewhere; here it is
 * decided whether that is news. The stream bears the product's id.
 */
export type PoolState = Readonly<{ low: boolean }>;

/** `buffer` is how many the vendor wants to have in store. */
interface Level {
  readonly available: number;
  readonly buffer: number;
}
export type PoolCommand = { readonly type: 'Note' } & Level;
export type PoolEvent = ({ readonly type: 'PoolRanLow' } & Level) | ({ readonly type: 'PoolRefilled' } & Level);

export const isLow = ({ available, buffer }: Level): boolean => available < buffer;

export const Pool: Aggregate<PoolState, PoolCommand, PoolEvent> = {
  category: 'pool',
  stateVersion: 1,
  shapes: { PoolRanLow: { schema: 1 }, PoolRefilled: { schema: 1 } },
  initial: () => ({ low: false }),

  decide({ low }, { available, buffer }) {
    if (isLow({ available, buffer }) === low) return [];
    return [{ type: low ? 'PoolRefilled' : 'PoolRanLow', available, buffer }];
  },

  evolve: (_, { type }) => ({ low: type === 'PoolRanLow' }),
};
