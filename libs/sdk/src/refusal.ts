/** A "no" to one request. It locks nothing by itself: only a signed verdict does. */
export interface Refusal {
  readonly ok: false;
  /** The server's code, or UNREACHABLE, UNTRUSTED_ANSWER (not signed as it must be), NO_SERVER, NOT_ACTIVATED, NOT_STORED, TOO_MANY_WAITING. */
  readonly code: string;
  readonly detail: string;
  readonly docUrl: string | null;
  /** All other members of the answer, like `limit` and `used`. */
  readonly members: Readonly<Record<string, unknown>>;
  /** When the server wants to be asked again. */
  readonly retryAfterMs: number | null;
}

const refusal = (code: string, detail: string, members: Readonly<Record<string, unknown>> = {}): Refusal => ({ ok: false, code, detail, docUrl: null, members, retryAfterMs: null });

export const noServer = refusal('NO_SERVER', 'There is no license key or no server to ask');
export const notActivated = refusal('NOT_ACTIVATED', 'This instance has no seat yet');
export const notStored = refusal('NOT_STORED', 'It could not be written to the store');
export const tooManyWaiting = refusal('TOO_MANY_WAITING', 'Too many readings wait to be sent');
/** The server answers with what it knew last, as good as a 503. */
export const undecided = refusal('UNREACHABLE', 'The license server cannot tell at present whether this machine still has the seat', { status: 503 });
export const untrusted = (detail: string, members: Readonly<Record<string, unknown>> = {}): Refusal => refusal('UNTRUSTED_ANSWER', detail, members);
/** With the HTTP `status`, if there was an answer. */
export const unreachable = (detail: string, retryAfterMs: number | null, status?: number): Refusal => ({ ...refusal('UNREACHABLE', detail, status === undefined ? {} : { status }), retryAfterMs });
