import { types } from 'node:util';
import { context, hasContext } from '@keyledger/kernel';
import type { Message } from './message.ts';
import { isUnderway } from './server.ts';
import { nobody, tooLate, type Envelope, type MessageHandler, type SentContext, type Transport } from './transport.ts';

/** The servers of one subject, which take turns. */
interface Group {
  readonly queue: string;
  readonly handlers: MessageHandler[];
  turn: number;
}

/** All services in one process. Messages are copied as JSON like on a network, except direct ones, which are a function call. */
export class InProcessTransport implements Transport {
  readonly #groups = new Map<string, Group>();
  readonly #drainLimitMs: number;
  #state: 'open' | 'draining' | 'closed' = 'open';
  #inFlight = 0;
  #drained = Promise.withResolvers<void>();

  constructor({ drainLimitMs = 10_000 } = {}) {
    this.#drainLimitMs = drainLimitMs;
  }

  serve(subject: string, queue: string, handler: MessageHandler): void {
    const group = this.#groups.get(subject);
    if (!group) this.#groups.set(subject, { queue, handlers: [handler], turn: 0 });
    else if (group.queue === queue) group.handlers.push(handler);
    else throw new Error(`${subject} is served by ${group.queue} and ${queue}: each would answer it`);
  }

  async request(subject: string, request: Envelope, timeoutMs: number): Promise<Envelope> {
    const handler = this.#next(subject);
    // Not on the caller's stack: what the caller does next happens first, as with a network in between.
    const answer = Promise.resolve(request).then((envelope) => handler.answer(envelope));
    return this.#inTime(subject, answer, timeoutMs);
  }

  handOver(subject: string, message: Message, sent: SentContext, timeoutMs: number): unknown {
    const answer = this.#next(subject).execute(message, sent);
    return types.isPromise(answer) ? this.#inTime(subject, answer, timeoutMs) : answer;
  }

  async close(): Promise<void> {
    if (this.#state === 'open') this.#state = 'draining';
    if (this.#inFlight > 0) {
      const limit = setTimeout(this.#drained.resolve, this.#drainLimitMs);
      await this.#drained.promise;
      clearTimeout(limit);
    }
    this.#state = 'closed';
  }

  #next(subject: string): MessageHandler {
    const group = this.#groups.get(subject);
    const open = this.#state === 'open' || (this.#state === 'draining' && hasContext() && isUnderway(context()));
    const handler = group?.handlers[group.turn];
    if (!group || !handler || !open) throw nobody(subject);
    group.turn = (group.turn + 1) % group.handlers.length;
    return handler;
  }

  /** The handler counts as in flight until it is done, even if the caller has stopped waiting. */
  #inTime<T>(subject: string, answer: Promise<T>, timeoutMs: number): Promise<T> {
    this.#inFlight += 1;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(tooLate(subject, timeoutMs)), timeoutMs);
      const done = () => {
        clearTimeout(timer);
        this.#inFlight -= 1;
        if (this.#inFlight === 0 && this.#state === 'draining') this.#drained.resolve();
      };
      answer.then(
        (value) => { done(); resolve(value); },
        (error: unknown) => { done(); reject(error); },
      );
    });
  }
}
