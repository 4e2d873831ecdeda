import { createHash } from 'node:crypto';

/** 256 random bits need no slow hash; whoever reads the stored one cannot go back. */
export const secretHash = (secret: string): string => createHash('sha256').update(secret).digest('base64url');
