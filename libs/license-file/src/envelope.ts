import { bytesOf, fromBase64, textOf, toBase64 } from './bytes.ts';
import { readJson, statements, type StatementType } from './statements.ts';

/** The signed part of a file or a certificate. `payload` is base64 of the exact bytes that were signed, so nothing has to be written the same way twice. */
export interface Envelope {
  readonly payloadType: string;
  readonly environment: string;
  /** Of the key that signed: RFC 7638 thumbprint. */
  readonly kid: string;
  readonly payload: string;
  /** base64 of 64 bytes. */
  readonly signature: string;
}
/** A root's word for a signing key; the payload is a `KeyStatement`. */
export type Certificate = Envelope;
export interface FileEnvelope extends Envelope {
  readonly certificate: Certificate;
}

export type EnvelopeType = Exclude<StatementType, 'lease' | 'verdict' | 'revocations'>;
export type FileType = Exclude<EnvelopeType, 'key-certificate'>;

/** Nothing longer is looked at. Also the most that is ever signed. */
export const maxLength = 65_536;
export const isReadable = (text: unknown): text is string => typeof text === 'string' && text.length <= maxLength;

/**
 * What a signature is over, like DSSE's pre-authentication encoding: type and environment are part of what is signed, each with its
 * length, so that no two envelopes have the same bytes. A token's signing input begins with base64url and can be none of these.
 */
export function signingBytes(payloadType: string, environment: string, payload: Uint8Array): Uint8Array {
  const head = bytesOf(signingHead(payloadType, environment, payload.length));
  const bytes = new Uint8Array(head.length + payload.length);
  bytes.set(head);
  bytes.set(payload, head.length);
  return bytes;
}

/** What comes before the payload, which is so many bytes long. */
export const signingHead = (payloadType: string, environment: string, length: number): string =>
  `KEYLEDGER1 ${bytesOf(payloadType).length} ${payloadType} ${bytesOf(environment).length} ${environment} ${length} `;

const begin = '-----BEGIN KEYLEDGER LICENSE-----';
const end = '-----END KEYLEDGER LICENSE-----';

/** A license file is PEM around base64 of the envelope, an offline validation file the envelope as JSON for everybody to read. */
export function writeFile(type: FileType, envelope: FileEnvelope): string {
  if (type === 'offline-file') return `${JSON.stringify(envelope, null, 2)}\n`;
  const lines = toBase64(bytesOf(JSON.stringify(envelope))).match(/.{1,64}/g) ?? [];
  return `${[begin, ...lines, end].join('\n')}\n`;
}

/** Editors and mail add a byte order mark, white space around the text and CRLF; everything else must be as it was written. */
export function readFile(type: FileType, text: string): FileEnvelope | undefined {
  if (!isReadable(text)) return undefined;
  const bare = text.replace(/^\uFEFF/, '').replaceAll('\r\n', '\n').replace(/^[ \t\n]+|[ \t\n]+$/g, '');
  const envelope = type === 'license-file' ? readJson(unarmoured(bare) ?? '') : readJson(bare, '  ');
  if (!hasMembers(envelope, fileMembers) || !hasMembers(envelope['certificate'], members)) return undefined;
  return envelope as unknown as FileEnvelope;
}

function unarmoured(text: string): string | undefined {
  const lines = text.split('\n');
  const body = lines.slice(1, -1);
  if (lines[0] !== begin || lines.at(-1) !== end || body.length === 0 || body.some((line, n) => (n < body.length - 1 ? line.length !== 64 : line.length > 64))) return undefined;
  const bytes = fromBase64(body.join(''));
  return bytes && textOf(bytes);
}

const members = ['payloadType', 'environment', 'kid', 'payload', 'signature'];
const fileMembers = ['payloadType', 'environment', 'kid', 'certificate', 'payload', 'signature'];

/** These, in this order, and no others; all but the certificate are text. */
function hasMembers(value: unknown, names: readonly string[]): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.keys(value).join() === names.join()
    && Object.entries(value).every(([name, member]) => name === 'certificate' || typeof member === 'string');
}

export const isCertificate = (value: unknown): value is Certificate => hasMembers(value, members);

/** Which kind of file this is, by its first letters: what a person uploads may be either. Nothing is known to be true yet. */
export const fileTypeOf = (text: string): FileType | undefined => {
  const start = text.replace(/^[\uFEFF\s]+/, '');
  return start.startsWith(begin) ? 'license-file' : start.startsWith('{') ? 'offline-file' : undefined;
};

export const payloadTypeOf = (type: EnvelopeType): string => statements[type].format;
