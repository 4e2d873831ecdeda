import { argon2, createSecretKey, randomBytes, type KeyObject } from 'node:crypto';
import { promisify } from 'node:util';
import { decrypt, encrypt } from '@keyledger/keyring';

/** What opens sealed private keys. With a passphrase, new ones are sealed under that. */
export interface Lock {
  /** Derived from the master key. */
  readonly key?: KeyObject;
  readonly passphrase?: string | undefined;
}

/** Where a sealed key belongs: it opens nowhere else. */
export const placeOf = (environment: string, kid: string): Buffer => Buffer.from(JSON.stringify(['keyledger', 'signing-key', environment, kid]));

/** AES-256-GCM under the master key's (`m1.…`), or under argon2id of the passphrase with a salt of its own (`p1.<salt>.…`). */
export async function seal({ key, passphrase }: Lock, place: Buffer, secret: Uint8Array): Promise<string> {
  if (passphrase !== undefined) {
    const salt = randomBytes(16);
    return `p1.${salt.toString('base64url')}.${encrypt(await stretched(passphrase, salt), place, secret)}`;
  }
  if (!key) throw new Error('There is nothing to seal a private key under');
  return `m1.${encrypt(key, place, secret)}`;
}

/** Throws when a bit of it is wrong, or the lock or the place is another's. */
export async function open({ key, passphrase }: Lock, place: Buffer, sealed: string): Promise<Buffer> {
  const [kind, first = '', second = ''] = sealed.split('.');
  if (kind === 'm1' && key) return decrypt(key, place, first);
  if (kind !== 'p1') throw new Error('Not a sealed private key');
  if (passphrase === undefined) throw new Error('Private keys of the signing service are sealed under a passphrase: KEYLEDGER_SIGNING_PASSPHRASE must be set');
  return decrypt(await stretched(passphrase, Buffer.from(first, 'base64url')), place, second);
}

const derive = promisify(argon2);

/** The second choice of RFC 9106, for machines that have other things to do: 64 MiB, three passes, four lanes. */
async function stretched(passphrase: string, nonce: Buffer): Promise<KeyObject> {
  return createSecretKey(await derive('argon2id', { message: passphrase, nonce, parallelism: 4, tagLength: 32, memory: 65_536, passes: 3 }));
}
