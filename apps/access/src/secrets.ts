import { createHash } from 'node:crypto';

/** 256 random bits need no slow hash: the secret cannot be recovered from the stored hash. */
export const secretHash = (secret: string): string => createHash('sha256').update(secret).digest('base64url');
