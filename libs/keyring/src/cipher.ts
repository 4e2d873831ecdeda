import { createCipheriv, createDecipheriv, randomFillSync, type KeyObject } from 'node:crypto';

/*
 * AES-256-GCM (NIST SP 800-38D). Sealed text is base64url of: version (1 byte), IV (12), ciphertext, tag (16).
 * Keys are KeyObjects: with bare bytes, each call would import the key anew, which takes four times as long as the encryption.
 */
const ALGORITHM = 'aes-256-gcm';
const VERSION = 1;
const IV = 12;
const TAG = 16;

/** `context` is not stored: the text opens only for a caller that knows where it belongs. */
export function encrypt(key: KeyObject, context: Uint8Array, plain: string | Uint8Array): string {
  const iv = nextIv();
  const cipher = createCipheriv(ALGORITHM, key, iv, { authTagLength: TAG });
  cipher.setAAD(context);
  const body = typeof plain === 'string' ? cipher.update(plain, 'utf8') : cipher.update(plain);
  cipher.final();
  return Buffer.concat([version, iv, body, cipher.getAuthTag()]).toString('base64url');
}

/** Throws when a bit of the text is wrong, or the key or the context does not match. */
export function decrypt(key: KeyObject, context: Uint8Array, sealed: string): Buffer {
  const bytes = Buffer.from(sealed, 'base64url');
  if (bytes[0] !== VERSION || bytes.length < 1 + IV + TAG) throw new Error('Not a sealed text');
  const decipher = createDecipheriv(ALGORITHM, key, bytes.subarray(1, 1 + IV), { authTagLength: TAG });
  decipher.setAAD(context);
  decipher.setAuthTag(bytes.subarray(-TAG));
  const start = decipher.update(bytes.subarray(1 + IV, -TAG));
  decipher.final(); // checks the tag; the text decrypted so far could not be trusted yet
  return start;
}

const version = Buffer.from([VERSION]);

/** Each call for random bytes is expensive whatever its size, so one call gets many. No byte is used twice. */
const pool = Buffer.alloc(IV * 256);
let used = pool.length;
function nextIv(): Buffer {
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  return pool.subarray(used, (used += IV));
}
