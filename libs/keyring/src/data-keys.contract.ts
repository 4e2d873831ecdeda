import { beforeEach, describe, expect, it } from '@jest/globals';
import type { DataKeyStore } from './data-keys.ts';

/** What every DataKeyStore promises. `open` gives an empty one; opening it again, where that means something, finds what was there. */
export const dataKeyStoreContract = (name: string, open: () => Promise<DataKeyStore>) =>
  describe(`${name} is a store of data keys that`, () => {
    let store: DataKeyStore;
    beforeEach(async () => {
      store = await open();
    });

    it('knows no subject that never had a key', async () => {
      expect(await store.get(['lic_1'])).toEqual(new Map());
      expect(await store.get([])).toEqual(new Map());
    });

    it('keeps the first key and answers it to whoever comes later', async () => {
      expect(await store.insert(new Map([['lic_1', 'first']]))).toEqual(new Map([['lic_1', 'first']]));
      expect(await store.insert(new Map([['lic_1', 'second'], ['lic_2', 'other']]))).toEqual(new Map([['lic_1', 'first'], ['lic_2', 'other']]));
      expect(await store.get(['lic_1', 'lic_2', 'lic_3'])).toEqual(new Map([['lic_1', 'first'], ['lic_2', 'other']]));
    });

    it('gives two writers that race the same key', async () => {
      const [one, two] = await Promise.all([store.insert(new Map([['lic_1', 'a']])), store.insert(new Map([['lic_1', 'b']]))]);
      expect(one).toEqual(two);
    });

    it('never has a key again for a subject whose key was destroyed', async () => {
      await store.insert(new Map([['lic_1', 'first']]));
      await store.destroy('lic_1');
      await store.destroy('lic_1');
      expect(await store.insert(new Map([['lic_1', 'second']]))).toEqual(new Map([['lic_1', null]]));
      expect(await store.get(['lic_1'])).toEqual(new Map([['lic_1', null]]));
    });

    it('destroys several at once, and no other', async () => {
      await store.insert(new Map([['lic_1', 'first'], ['lic_2', 'second'], ['lic_3', 'third']]));
      await store.destroy('lic_1', 'lic_3', 'lic_4');
      expect(await store.get(['lic_1', 'lic_2', 'lic_3', 'lic_4'])).toEqual(new Map([['lic_1', null], ['lic_2', 'second'], ['lic_3', null], ['lic_4', null]]));
    });

    it('remembers the destruction of a key that never was', async () => {
      await store.destroy('lic_1');
      expect(await store.insert(new Map([['lic_1', 'late']]))).toEqual(new Map([['lic_1', null]]));
    });

    it('takes more keys at once than a statement has parameters', async () => {
      const keys = new Map(Array.from({ length: 1201 }, (_, i) => [`lic_${i}`, `key ${i}`]));
      expect(await store.insert(keys)).toEqual(keys);
    });
  });
