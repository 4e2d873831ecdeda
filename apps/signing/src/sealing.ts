import { argon2, createSecretKey, randomBytes, type KeyObject } from 'node:crypto';
import { promisify } from 'node:util';
import { decrypt, encrypt } from '@keyledger/keyring';

/** What opens sealed private keys. With a passphrase, new keys are sealed under it. */
export interface Lock {
  /** Derived from the master key. */
  readonly key?: KeyObject;
  readonly passphrase?: string | undefined;
  /** Keys derived from the passphrase, by salt. New seals reuse a salt, so that a start does not pay for every key what a guess is meant to cost. */
  readonly stretched?: Map<string, Promise<KeyObject>>;
}

/** A wrong secret, a wrong place, or a wrong bit: they cannot be told apart. */
export class Unopened extends Error {
  override readonly name = 'Unopened';
}

/** The source of the secret that a text was sealed under. Undefined for anything but a sealed private key. */
export const settingOf = (sealed: string): string | undefined => (sealed.startsWith('p1.') ? 'KEYLEDGER_SIGNING_PASSPHRASE' : sealed.startsWith('m1.') ? 'KEYLEDGER_MASTER_KEY' : undefined);

/** Where a sealed key belongs: it opens nowhere else. */
export const placeOf = (environment: string, kid: string): Buffer => Buffer.from(JSON.stringify(['keyledger', 'signing-key', environment, kid]));

/** AES-256-GCM under the master key's (`m1.…`), or under argon2id of the passphrase with a salt (`p1.<salt>.…`). */
export async function seal({ key, passphrase, stretched = new Map() }: Lock, place: Buffer, secret: Uint8Array): Promise<string> {
  if (passphrase !== undefined) {
    const [salt = randomBytes(16).toString('base64url')] = stretched.keys();
    return `p1.${salt}.${encrypt(await stretch(passphrase, salt, stretched), place, secret)}`;
  }
  if (!key) throw new Error('There is no key to seal a private key with');
  return `m1.${encrypt(key, place, secret)}`;
}

/** Throws `Unopened` when a bit of it is wrong, or the lock or the place does not match. */
export async function open({ key, passphrase, stretched = new Map() }: Lock, place: Buffer, sealed: string): Promise<Buffer> {
  const [kind, first = '', second = ''] = sealed.split('.');
  if (kind === 'm1' && key) return opened(key, place, first);
  if (kind !== 'p1' || !/^[\w-]{22}$/.test(first)) throw new Unopened('Not a sealed private key');
  if (passphrase === undefined) throw new Unopened('Private keys of the signing service are sealed under a passphrase: KEYLEDGER_SIGNING_PASSPHRASE must be set');
  return opened(await stretch(passphrase, first, stretched), place, second);
}

function opened(key: KeyObject, place: Buffer, sealed: string): Buffer {
  try {
    return decrypt(key, place, sealed);
  } catch (error) {
    throw new Unopened('A sealed private key cannot be opened', { cause: error });
  }
}

const derive = promisify(argon2);

/** The second recommended option of RFC 9106, for memory-constrained environments: 64 MiB, three passes, four lanes. */
function stretch(passphrase: string, salt: string, stretched: Map<string, Promise<KeyObject>>): Promise<KeyObject> {
  const known = stretched.get(salt);
  if (known) return known;
  const key = derive('argon2id', { message: passphrase, nonce: Buffer.from(salt, 'base64url'), parallelism: 4, tagLength: 32, memory: 65_536, passes: 3 }).then((bytes) => createSecretKey(bytes));
  stretched.set(salt, key);
  key.catch(() => stretched.delete(salt));
  return key;
}
