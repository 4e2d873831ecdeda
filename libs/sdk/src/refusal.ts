/** A "no" to one request. It locks nothing by itself: what is signed does. */
export interface Refusal {
  readonly ok: false;
  /** The server's, or UNREACHABLE, UNTRUSTED_ANSWER (not signed as it must be), NO_SERVER, NOT_ACTIVATED, NOT_STORED, TOO_MANY_WAITING. */
  readonly code: string;
  readonly detail: string;
  readonly docUrl: string | null;
  /** Everything else that the server has said, like `limit` and `used`. */
  readonly members: Readonly<Record<string, unknown>>;
  /** When the server wants to be asked again. */
  readonly retryAfterMs: number | null;
}

const refusal = (code: string, detail: string, members: Readonly<Record<string, unknown>> = {}): Refusal => ({ ok: false, code, detail, docUrl: null, members, retryAfterMs: null });

export const noServer = refusal('NO_SERVER', 'There is no license key or no server to ask');
export const notActivated = refusal('NOT_ACTIVATED', 'This instance has no seat yet');
export const notStored = refusal('NOT_STORED', 'It could not be written to the store');
export const tooManyWaiting = refusal('TOO_MANY_WAITING', 'Too many readings wait to be sent');
export const untrusted = (detail: string, members: Readonly<Record<string, unknown>> = {}): Refusal => refusal('UNTRUSTED_ANSWER', detail, members);
/** With the `status` of whoever has answered, if anybody has. */
export const unreachable = (detail: string, retryAfterMs: number | null, status?: number): Refusal => ({ ...refusal('UNREACHABLE', detail, status === undefined ? {} : { status }), retryAfterMs });
