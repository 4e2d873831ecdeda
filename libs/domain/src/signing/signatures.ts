import type { Aggregate, Instant } from '@keyledger/kernel';

/** Signed documents of a license that stay in use outside for longer than an answer. */
export type SignedStatement = 'license-file' | 'offline-file' | 'lease';

/**
 * One page of the record of signatures, by one process. Recorded before the signature is made: every signature out there is in here, even
 * if no client ever received it. Nothing is decided; an erased license leaves its ids here, and nothing of a person. A page holds signatures
 * of many licenses.
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
  /** The license revision it describes. */
  readonly seq: number;
  /** SHA-256 of the payload, base64url: for any file or token found, it tells whether, when and for which license it was signed. */
  readonly digest: string;
  /** Until when it is good by itself; null if it does not say. */
  readonly expiresAt: Instant | null;
}
/** Requests at the same moment share one event. */
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
