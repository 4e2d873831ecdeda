import type { IncomingMessage } from 'node:http';

// An import of it would cost every start 40 ms (tools/house-rules.mjs).
const { ServerResponse } = process.getBuiltinModule('node:http');

/** Nobody waits longer than it takes to work out that many answers. */
const mostTogether = 32;
let waiting: (() => void)[] = [];

function sendAll(): void {
  const all = waiting;
  waiting = [];
  for (const send of all) send();
}

/**
 * Answers that are ready in the same turn of the event loop are written one right after the other, at its end. A client that reads an answer that
 * comes alone has to be woken for it, which costs the server as much as a quarter of a validation; a client that is awake costs nothing.
 * `cork()` does not help: Node uncorks a socket when a response ends.
 */
export class TogetherResponse<Request extends IncomingMessage = IncomingMessage> extends ServerResponse<Request> {
  isEnding = false;

  override end(callback?: () => void): this;
  override end(chunk: unknown, callback?: () => void): this;
  override end(chunk: unknown, encoding: BufferEncoding, callback?: () => void): this;
  override end(...args: [unknown?, unknown?, unknown?]): this {
    const [chunk] = args;
    if (this.isEnding) return this;
    if (typeof chunk !== 'string' && !Buffer.isBuffer(chunk)) return super.end(...args as [unknown]);
    this.isEnding = true;
    const count = waiting.push(() => void super.end(...args as [unknown]));
    if (count === 1) setImmediate(sendAll);
    else if (count === mostTogether) sendAll();
    return this;
  }
}

// Fastify reads this to know whether a request has been answered. Node has a getter here and its types a property, which a class may not override.
Object.defineProperty(TogetherResponse.prototype, 'writableEnded', {
  get(this: TogetherResponse) {
    return this.isEnding || (Reflect.get(ServerResponse.prototype, 'writableEnded', this) as boolean);
  },
});
