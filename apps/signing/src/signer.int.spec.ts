import { afterEach, describe, expect, it } from '@jest/globals';
import { generateKeyPairSync, randomBytes, verify } from 'node:crypto';
import { Signer } from './signer.ts';

const [one, other] = [generateKeyPairSync('ed25519'), generateKeyPairSync('ed25519')];
const texts = (count: number) => Array.from({ length: count }, (_, n) => `${randomBytes(n * 37).toString('latin1')} \u{1F511}`);

describe('Signing together', () => {
  const signer = new Signer();
  afterEach(() => signer.close());

  it.each([[1, 'here'], [5, 'here'], [6, 'in a thread'], [200, 'in a thread']])('signs %i texts %s, each for itself', async (count) => {
    const sign = signer.of(one.privateKey);
    const all = texts(count);
    const signatures = await Promise.all(all.map((text) => sign(text)));
    expect(all.map((text, n) => verify(null, Buffer.from(text), one.publicKey, signatures[n] as Uint8Array))).toEqual(all.map(() => true));
  });

  it('mixes up no keys, whichever comes first and however often', async () => {
    const signs = [signer.of(one.privateKey), signer.of(other.privateKey)] as const;
    for (let round = 0; round < 3; round++) {
      const all = texts(40);
      const signatures = await Promise.all(all.map((text, n) => signs[n % 2 as 0 | 1](text)));
      expect(all.map((text, n) => verify(null, Buffer.from(text), n % 2 ? other.publicKey : one.publicKey, signatures[n] as Uint8Array))).toEqual(all.map(() => true));
    }
  });

  it('signs what a thread was at when it ended, and begins a new one with the next rush', async () => {
    const sign = signer.of(one.privateKey);
    for (let round = 0; round < 2; round++) {
      const all = texts(20);
      const signing = Promise.all(all.map((text) => sign(text)));
      await Promise.resolve();
      await signer.close();
      const signatures = await signing;
      expect(all.map((text, n) => verify(null, Buffer.from(text), one.publicKey, signatures[n] as Uint8Array))).toEqual(all.map(() => true));
    }
  });
});
