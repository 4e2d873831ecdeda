import type { Aggregate, Instant } from '@keyledger/kernel';

/** What is signed for a license and leaves the house with it for longer than an answer. */
export type SignedStatement = 'license-file' | 'offline-file' | 'lease';

/**
 * One page of the book of what was signed, by one process. Recorded before the signature is made: whatever is out there is in here, also if
 * nobody ever received it. Nothing is decided; a license that is erased leaves its ids here, and nothing of a person. A page holds what many
 * licenses asked for.
 */
export interface SignaturesState {
  readonly count: number;
  readonly last: Instant | null;
}
export interface RecordedSignature {
  readonly statement: SignedStatement;
  readonly licenseId: string;
  /** Of the key. */
  readonly kid: string;
  /** The activation it is for; null when it is for the license as such. */
  readonly activationId: string | null;
  /** Revision of the license that it speaks of. */
  readonly seq: number;
  /** SHA-256 of the payload, base64url: whoever finds a file or token can be told whether, when and for whom it was signed. */
  readonly digest: string;
  /** Until when it is good by itself; null when it does not say. */
  readonly expiresAt: Instant | null;
}
/** Those who ask at the same moment share a line. */
export type SignaturesCommand = Readonly<{ type: 'Record'; signatures: readonly RecordedSignature[] }>;
export type SignaturesEvent = Readonly<{ type: 'SignaturesRecorded'; signatures: readonly RecordedSignature[] }>;

export const Signatures: Aggregate<SignaturesState, SignaturesCommand, SignaturesEvent> = {
  category: 'signatures',
  stateVersion: 1,
  shapes: { SignaturesRecorded: { schema: 1 } },
  initial: () => ({ count: 0, last: null }),
  decide: (_state, { signatures }) => (signatures.length === 0 ? [] : [{ type: 'SignaturesRecorded', signatures }]),
  evolve: ({ count }, { signatures }, { at }) => ({ count: count + signatures.length, last: at }),
};
