import { maxLength, payloadTypeOf, signingHead, writeFile, type Certificate, type EnvelopeType } from './envelope.ts';
import { shapes, statements, type StatementOf, type StatementType } from './statements.ts';
import { tokenHeader } from './verifier.ts';

/** The other half, for the signing service alone; it runs in Node, whose Buffer spells base64 twenty times as fast as what browsers have. */

/** A statement to sign. There is no way to sign bytes that are not one of these. */
export type Statement = {
  [T in StatementType]: { readonly type: T; readonly payload: StatementOf[T] } & (T extends 'license-file' | 'offline-file' ? { readonly certificate: Certificate } : unknown);
}[StatementType];

/** Signs the UTF-8 bytes of a text with the key `kid`. May be a call to a machine that holds the key. */
export type SignText = (text: string) => Uint8Array | Promise<Uint8Array>;

/** The statement is larger than any verifier would read. */
export class TooLarge extends Error {}

/** A file, a token, or a certificate as JSON. Throws on a statement that verifiers would refuse to read: that is the caller's mistake. */
export async function signed(statement: Statement, kid: string, sign: SignText): Promise<string> {
  if (!shapes[statement.type](statement.payload)) throw new TypeError(`This is no ${statement.type}`);
  const text = await written(statement, kid, sign);
  if (text.length > maxLength) throw new TooLarge(`A ${statement.type} of ${text.length} characters`);
  return text;
}

async function written(statement: Statement, kid: string, sign: SignText): Promise<string> {
  if (statement.type === 'lease' || statement.type === 'verdict' || statement.type === 'revocations') {
    const input = `${base64Header(statements[statement.type].format, kid)}.${base64Url(JSON.stringify(statement.payload))}`;
    return `${input}.${Buffer.from(await sign(input)).toString('base64url')}`;
  }
  const { signature, ...head } = await enveloped(statement.type, statement.payload, kid, sign);
  if (statement.type === 'key-certificate') return JSON.stringify({ ...head, signature });
  const { payload, ...names } = head;
  return writeFile(statement.type, { ...names, certificate: statement.certificate, payload, signature });
}

async function enveloped(type: EnvelopeType, payload: { readonly environment: string }, kid: string, sign: SignText): Promise<Certificate> {
  const [payloadType, text] = [payloadTypeOf(type), JSON.stringify(payload)];
  const bytes = Buffer.from(text);
  const signature = Buffer.from(await sign(`${signingHead(payloadType, payload.environment, bytes.length)}${text}`));
  return { payloadType, environment: payload.environment, kid, payload: bytes.toString('base64'), signature: signature.toString('base64') };
}

/** The last one is likely the next one, too. */
let lastHeader = { format: '', kid: '', text: '' };
function base64Header(format: string, kid: string): string {
  if (lastHeader.format !== format || lastHeader.kid !== kid) lastHeader = { format, kid, text: base64Url(tokenHeader(format, kid)) };
  return lastHeader.text;
}

/** Room for any token: a buffer for each would make V8 collect all garbage once or twice a second. */
const room = Buffer.alloc(3 * maxLength);
function base64Url(text: string): string {
  if (text.length > maxLength) throw new TooLarge(`${text.length} characters in a token`);
  return room.toString('base64url', 0, room.write(text));
}
