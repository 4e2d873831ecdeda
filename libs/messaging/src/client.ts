import { context, hasContext, type MessageContext } from '@keyledger/kernel';
import { currentTraceparent } from '@keyledger/observability';
import { revive, type Fields, type Message, type MessageType, type ResultOf } from './message.ts';
import { openAnswer, openText, requestEnvelope, textOf, type Envelope, type SentContext, type Transport } from './transport.ts';

export interface SendOptions {
  /** TIMEOUT_MS by default. */
  readonly timeoutMs?: number;
  /** An environment other than the caller's. */
  readonly environment?: string;
  /** What differs from the caller's context; a complete context where there is no caller. `now` is always the receiver's own. */
  readonly context?: Partial<MessageContext>;
}

const TIMEOUT_MS = 5_000;
const inherit: SendOptions = {};

/** The one way from process to process, whatever carries the messages. */
export class MessageClient {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Sends a message to a server of its subject and resolves with the answer, under the caller's context.
   * Rejects with the Refusal that the handler threw; with UNAVAILABLE when no server answers in time; with INTERNAL when the handler crashed.
   */
  send<M extends Message>(type: MessageType<M>, fields: Fields<M>, options: SendOptions = inherit): Promise<ResultOf<M>> {
    if (!type.direct || !this.#transport.handOver) return this.#copy(type, fields, options);
    try {
      // Not an async function: on the hot path every hop counts.
      return Promise.resolve(this.#transport.handOver(type.subject, revive(type, fields), contextFor(options), options.timeoutMs ?? TIMEOUT_MS) as ResultOf<M> | Promise<ResultOf<M>>);
    } catch (error) {
      return Promise.reject(error as Error);
    }
  }

  /** The same, for a caller that passes the answer on: as JSON text. */
  async sendForText<M extends Message>(type: MessageType<M>, fields: Fields<M>): Promise<string> {
    if (type.direct && this.#transport.handOver) return textOf(type, await this.send(type, fields));
    return openText(await this.#ask(type, fields, inherit));
  }

  async #copy<M extends Message>(type: MessageType<M>, fields: Fields<M>, options: SendOptions): Promise<ResultOf<M>> {
    return openAnswer(await this.#ask(type, fields, options)) as ResultOf<M>;
  }

  #ask<M extends Message>(type: MessageType<M>, fields: Fields<M>, options: SendOptions): Promise<Envelope> {
    return this.#transport.request(type.subject, requestEnvelope(fields, contextFor(options)), options.timeoutMs ?? TIMEOUT_MS);
  }
}

/** If-Match belongs to the message the caller received, so only an explicit one is sent on. */
function contextFor({ environment, context: given }: SendOptions): SentContext {
  if (!hasContext()) return complete({ ...given, environment: environment ?? given?.environment });
  const caller = context();
  const sent: SentContext = {
    environment: caller.environment,
    actor: caller.actor,
    commandId: caller.commandId,
    commandAt: caller.commandAt,
    correlationId: caller.correlationId,
    causationId: caller.causationId,
    retry: caller.retry,
    traceparent: currentTraceparent() ?? caller.traceparent,
  };
  if (!given && !environment) return sent;
  const isAnother = given?.commandId !== undefined && given.commandId !== caller.commandId;
  return { ...sent, ...(isAnother && { causationId: caller.commandId }), ...given, environment: environment ?? given?.environment ?? caller.environment };
}

/** Outside of any message the sender must give a complete context. */
function complete(given: Partial<SentContext>): SentContext {
  const { environment, actor, commandId, commandAt, correlationId } = given;
  if (!environment || !actor || !commandId || !commandAt || !correlationId) throw new Error('A message sent outside of runIn() needs a complete context');
  return { ...given, environment, actor, commandId, commandAt, correlationId, traceparent: currentTraceparent() ?? given.traceparent };
}
