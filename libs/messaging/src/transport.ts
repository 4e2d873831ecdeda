import { errors, refuse, Refusal, type MessageContext } from '@keyledger/kernel';
import type { Message, MessageType } from './message.ts';

/** Everything that crosses the wire, in either direction: the head is a JSON object, the body is JSON text (empty for undefined). */
export interface Envelope {
  readonly head: object;
  readonly body: string;
}

/** The context as sent. The receiver reads its own clock: one decision time per message. */
export type SentContext = Omit<MessageContext, 'now'>;

/** A handler of one message class, as a transport sees it. */
export interface MessageHandler {
  /** Never rejects: a refusal or a crash becomes an answer. */
  answer(request: Envelope): Promise<Envelope>;
  /** The same without the wire: throws or rejects only with a Refusal. */
  execute(message: Message, sent: SentContext): unknown;
}

/** Carries requests to a server of their subject. Rejects with Refusal UNAVAILABLE when there is none, or it does not answer in time. */
export interface Transport {
  request(subject: string, request: Envelope, timeoutMs: number): Promise<Envelope>;
  /** Servers of one subject share a queue by name; each request goes to one of them. */
  serve(subject: string, queue: string, handler: MessageHandler): void | Promise<void>;
  /** Passes a message on uncopied where caller and server share a process, and returns, throws or promises what the handler does. A transport without it always copies. */
  handOver?(subject: string, message: Message, sent: SentContext, timeoutMs: number): unknown;
  /**
   * Drains: requests from outside are refused from now on; those being handled are finished, including requests they send on the way.
   * Resolves when that is done, or after the transport's drain limit.
   */
  close(): Promise<void>;
}

export const nobody = (subject: string): Refusal => refuse('UNAVAILABLE', `No service answers ${subject} at the moment`);
export const tooLate = (subject: string, timeoutMs: number): Refusal => refuse('UNAVAILABLE', `${subject} was not answered within ${timeoutMs} ms`);

const jsonOf = (value: unknown): string => JSON.stringify(value) ?? '';
const valueOf = (json: string): unknown => (json === '' ? undefined : JSON.parse(json));

export const requestEnvelope = (fields: object, context: SentContext): Envelope => ({ head: context, body: jsonOf(fields) });

export function openRequest({ head, body }: Envelope): { fields: object; sent: SentContext } {
  const sent = head as Partial<SentContext> | null;
  const fields = valueOf(body);
  if (!sent?.environment || fields === null || typeof fields !== 'object' || Object.hasOwn(fields, '__proto__')) throw new Error('Not a message: it has no context or no fields');
  return { fields, sent: sent as SentContext };
}

/** The answer to a message of this type as JSON text. */
export const textOf = ({ written }: Pick<MessageType, 'written'>, result: unknown): string => (written ? written(result as never) : jsonOf(result));

const none = {};
export const answerEnvelope = (body: string): Envelope => ({ head: none, body });
export const refusalEnvelope = (refusal: Refusal): Envelope => ({ head: { refused: refusal.code }, body: JSON.stringify(refusal) });

export const openAnswer = (answer: Envelope): unknown => valueOf(openText(answer));

/** The result as JSON text, or throws the Refusal that the other side threw. A code from a newer release than ours is still a refusal. */
export function openText({ head, body }: Envelope): string {
  const { refused } = head as { readonly refused?: string };
  if (refused === undefined) return body;
  throw Object.hasOwn(errors, refused) ? Refusal.from(JSON.parse(body) as ReturnType<Refusal['toJSON']>) : refuse('INTERNAL');
}
