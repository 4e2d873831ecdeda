import { errors, refuse, Refusal, type MessageContext } from '@keyledger/kernel';
import type { Message } from './message.ts';

/** All that crosses a wire, in either direction: the head is an object of JSON, the body its text (empty for undefined). */
export interface Envelope {
  readonly head: object;
  readonly body: string;
}

/** The context as the sender gives it. The receiving side reads its own clock: one decision time per message. */
export type SentContext = Omit<MessageContext, 'now'>;

/** One served message class, as a transport sees it. */
export interface MessageHandler {
  /** Never rejects: a refusal and a crash are answers too. */
  answer(request: Envelope): Promise<Envelope>;
  /** The same without the wire: throws or rejects with a Refusal, and with nothing else. */
  execute(message: Message, sent: SentContext): unknown;
}

/** Carries requests to whoever serves their subject. Rejects with Refusal UNAVAILABLE when nobody does, or not in time. */
export interface Transport {
  request(subject: string, request: Envelope, timeoutMs: number): Promise<Envelope>;
  /** Servers of one subject share a queue by name; each request goes to one of them. */
  serve(subject: string, queue: string, handler: MessageHandler): void | Promise<void>;
  /** Hands a message over as it is, where caller and server share a process; answers, throws or promises what the handler does. A transport without it always copies. */
  handOver?(subject: string, message: Message, sent: SentContext, timeoutMs: number): unknown;
  /**
   * Drains: what comes from outside is refused from now on, what is being handled is finished, including what it asks of others on the way.
   * Resolves when that is done, or after the transport's drain limit.
   */
  close(): Promise<void>;
}

export const nobody = (subject: string): Refusal => refuse('UNAVAILABLE', `Nobody answers ${subject} at the moment`);
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

const none = {};
export const answerEnvelope = (result: unknown): Envelope => ({ head: none, body: jsonOf(result) });
export const refusalEnvelope = (refusal: Refusal): Envelope => ({ head: { refused: refusal.code }, body: JSON.stringify(refusal) });

/** The result, or throws the Refusal that the other side threw. A code from a newer release than ours is still a refusal. */
export function openAnswer({ head, body }: Envelope): unknown {
  const { refused } = head as { readonly refused?: string };
  if (refused === undefined) return valueOf(body);
  throw Object.hasOwn(errors, refused) ? Refusal.from(JSON.parse(body) as ReturnType<Refusal['toJSON']>) : refuse('INTERNAL');
}
