/** Why something was not accepted. The codes are public API: add, never rename. */
export const reasons = {
  MALFORMED: 'Not of this format, not in its one spelling, or too large',
  WRONG_TYPE: 'Another kind of file or token',
  WRONG_ALGORITHM: 'Signed with anything but Ed25519, or not at all',
  WRONG_ENVIRONMENT: 'Of another environment',
  UNKNOWN_KEY: 'Signed by a key that is not known here',
  UNTRUSTED_ROOT: 'The certificate is of a root that is not pinned here',
  BAD_CERTIFICATE: 'The certificate of the signing key is not what the root signed',
  WRONG_PURPOSE: 'Signed by a key that is for something else',
  KEY_REVOKED: 'Signed by a key that was revoked',
  KEY_OUT_OF_TIME: 'Issued at a time at which its key was not certified',
  WEAK_KEY: 'The key is no proper point of the curve',
  BAD_SIGNATURE: 'The content is not what was signed',
  NOT_YET_VALID: 'Issued in the future',
  EXPIRED: 'Past its time',
  WRONG_AUDIENCE: 'For another product',
  WRONG_SUBJECT: 'About another license or instance',
  WRONG_FINGERPRINT: 'For another machine',
  WRONG_NONCE: 'The answer to another question',
  STALE: 'Older than what was seen before',
} as const;
export type Reason = keyof typeof reasons;

export type Verified<T> = ({ readonly ok: true } & T) | { readonly ok: false; readonly reason: Reason };

export const no = (reason: Reason): { readonly ok: false; readonly reason: Reason } => ({ ok: false, reason });
