import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { runIn, systemContext } from '@keyledger/kernel';
import { importPublicKey, Verifier } from '@keyledger/license-file';
import type { KeyStore } from './key-store.ts';

const now = '2026-11-21T12:00:00.000Z';
const inEnvironment = <T>(environment: string, work: () => Promise<T>): Promise<T> => runIn(systemContext(environment, now), work);

/** What every key store does, whatever keeps its keys. `open` gives stores on the same keys, as two processes have them, for `production` and `staging`. */
export function keyStoreContract(name: string, open: () => Promise<{ stores: readonly [KeyStore, KeyStore]; close(): Promise<void> }>): void {
  describe(`${name} is a key store that`, () => {
    let one: KeyStore, other: KeyStore, close: () => Promise<void>;
    beforeAll(async () => {
      ({ stores: [one, other], close } = await open());
    });
    afterAll(() => close());

    const make = (environment = 'production') => inEnvironment(environment, () => one.generate());
    /** A certificate by a key for itself: the shortest thing there is to sign. */
    const certificate = ({ kid, publicJwk }: Awaited<ReturnType<typeof make>>, environment = 'production') => ({
      type: 'key-certificate', payload: { kid, purpose: 'lease', environment, publicJwk, notBefore: now, notAfter: '2027-11-21T12:00:00.000Z' },
    } as const);
    const accepts = async (key: Awaited<ReturnType<typeof make>>, text: string): Promise<boolean> => {
      const opened = await Verifier.open({ environment: 'production', roots: [key.publicJwk] });
      const learned = opened.ok && await opened.verifier.learn({ keys: [{ kid: key.kid, kl_cert: JSON.parse(text) as unknown }] });
      return learned !== false && learned.ok && learned.refused.length === 0;
    };

    it('makes keys that are all different, and good ones, named by their thumbprint', async () => {
      const keys = await Promise.all(Array.from({ length: 5 }, () => make()));
      expect(new Set(keys.map(({ kid }) => kid)).size).toBe(5);
      for (const { kid, publicJwk } of keys) expect(await importPublicKey(publicJwk)).toMatchObject({ ok: true, kid });
    });

    it('signs with the key that is named, in this process and in another', async () => {
      const [mine, yours] = [await make(), await make()];
      for (const store of [one, other]) {
        const text = await inEnvironment('production', () => store.sign(mine.kid, certificate(mine)));
        expect(await accepts(mine, text)).toBe(true);
        expect(await accepts(yours, text)).toBe(false);
      }
    });

    it('signs many at once', async () => {
      const key = await make();
      const texts = await inEnvironment('production', () => Promise.all(Array.from({ length: 200 }, () => one.sign(key.kid, certificate(key)))));
      expect(new Set(texts).size).toBe(1); // Ed25519 gives the same signature for the same statement
      expect(await accepts(key, texts[0] ?? '')).toBe(true);
    });

    it('has a key in the environment that it was made in, and in no other', async () => {
      const key = await make();
      expect(await inEnvironment('production', () => other.has(key.kid))).toBe(true);
      expect(await inEnvironment('production', () => other.tried(key.kid))).toMatchObject({ opens: true });
      expect(await inEnvironment('staging', () => one.has(key.kid))).toBe(false);
      expect(await inEnvironment('staging', () => one.tried(key.kid))).toBeUndefined();
      await expect(inEnvironment('staging', () => one.sign(key.kid, certificate(key, 'staging')))).rejects.toThrow('There is no private key');
    });

    it('signs no bytes of the caller, and nothing that verifiers could not read', async () => {
      const key = await make();
      for (const wrong of [{ type: 'key-certificate', payload: 'bytes' }, { type: 'lease', payload: { anything: true } }, { type: 'verdict', payload: Buffer.alloc(32) }]) {
        await expect(inEnvironment('production', () => one.sign(key.kid, wrong as never))).rejects.toThrow(`This is no ${wrong.type}`);
      }
      await expect(inEnvironment('production', () => one.sign(key.kid, { type: 'bytes', payload: Buffer.alloc(32) } as never))).rejects.toThrow();
    });

    it('destroys a key for good', async () => {
      const key = await make();
      await inEnvironment('production', () => one.destroy(key.kid));
      expect(await inEnvironment('production', () => other.has(key.kid))).toBe(false);
      await expect(inEnvironment('production', () => one.sign(key.kid, certificate(key)))).rejects.toThrow('There is no private key');
      await inEnvironment('production', () => one.destroy(key.kid));
    });

    it('destroys a key that several processes destroy at once', async () => {
      const key = await make();
      await inEnvironment('production', () => Promise.all([one, other, one].map((store) => store.destroy(key.kid))));
      expect(await inEnvironment('production', () => one.has(key.kid))).toBe(false);
    });
  });
}
