import { types } from 'node:util';
import { Refusal, refuse, runIn, type Clock, type Instant, type MessageContext } from '@keyledger/kernel';
import { traced, withRemoteParent, type Outcome } from '@keyledger/observability';
import { revive, type Message, type MessageType, type ResultOf } from './message.ts';
import { answerEnvelope, openRequest, refusalEnvelope, textOf, type MessageHandler, type SentContext } from './transport.ts';

export interface ServeOptions {
  /** The service's name: processes of one service share its requests. */
  readonly queue: string;
  readonly clock: Clock;
  /** Gets every thrown value that is not a Refusal, in the context of the message if there was one by then. The caller learns only INTERNAL. */
  readonly onError: (error: unknown, subject: string) => void;
  readonly onHandled?: (subject: string, outcome: Outcome) => void;
}

/** Marks the context of a message being handled: messages it sends are part of it, so a draining transport lets them through. */
const underway = Symbol('underway');
export const isUnderway = (context: MessageContext): boolean => underway in context;

/** Field by field: it runs for every message, and a spread is measurably slower. */
function opened({ environment, actor, commandId, commandAt, correlationId, causationId, retry, ifRevision, traceparent }: SentContext, now: Instant): MessageContext {
  const context = { environment, actor, commandId, commandAt, now, correlationId, causationId, retry, ifRevision, traceparent, [underway]: true };
  return context;
}

/** Opens the context of each message, runs its handler there, and turns whatever happens into an answer. */
export function handlerOf<M extends Message>(
  type: MessageType<M>,
  execute: (message: M) => ResultOf<M> | Promise<ResultOf<M>>,
  { clock, onError, onHandled }: Omit<ServeOptions, 'queue'>,
): MessageHandler {
  const { subject } = type;
  const attributes = { 'messaging.destination.name': subject };

  function handled<T>(result: T): T {
    onHandled?.(subject, 'answered');
    return result;
  }

  function thrown(error: unknown): never {
    onHandled?.(subject, error instanceof Refusal ? 'refused' : 'failed');
    throw refusalFor(error);
  }

  function inContext<T>(sent: SentContext, work: () => T): T | Promise<T> {
    const clockIsSet = clock.current?.(sent.environment);
    return clockIsSet ? clockIsSet.then(() => atOnce(sent, work), thrown) : atOnce(sent, work);
  }

  function atOnce<T>(sent: SentContext, work: () => T): T {
    return withRemoteParent(sent.traceparent, () => runIn(opened(sent, clock.now(sent.environment)), work));
  }

  function run(message: M): unknown {
    try {
      const result = traced(subject, attributes, () => execute(message));
      return types.isPromise(result) ? result.then(handled, thrown) : handled(result);
    } catch (error) {
      return thrown(error);
    }
  }

  /** A failure around the handler, on the way in or out, counts as a crash as well. */
  function refusalFor(error: unknown): Refusal {
    if (error instanceof Refusal) return error;
    onError(error, subject);
    return refuse('INTERNAL');
  }

  return {
    execute(message, sent) {
      try {
        return inContext(sent, () => run(message as M));
      } catch (error) {
        throw refusalFor(error);
      }
    },
    async answer(envelope) {
      try {
        const { sent, fields } = openRequest(envelope);
        return await inContext(sent, async () => {
          try {
            return answerEnvelope(textOf(type, await run(revive(type, fields))));
          } catch (error) {
            return refusalEnvelope(refusalFor(error));
          }
        });
      } catch (error) {
        return refusalEnvelope(refusalFor(error));
      }
    },
  };
}
