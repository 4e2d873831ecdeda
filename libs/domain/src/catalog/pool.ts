import type { Aggregate } from '@keyledger/kernel';

/**
 * Whether a product was last announced to be low on unassigned licenses. They are counted elsewhere; here it is decided whether a count
 * is news. The stream has the product's id.
 */
export type PoolState = Readonly<{ low: boolean }>;

/** `buffer` is the number the vendor wants to have in store. */
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
