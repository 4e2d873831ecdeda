import { createHash } from 'node:crypto';
import { ClaimRequest, CompleteRequest } from '@keyledger/contracts';
import { refuse, runIn, type MessageContext } from '@keyledger/kernel';
import type { MessageClient } from '@keyledger/messaging';
import type { FastifyReply, FastifyRequest } from 'fastify';

interface Claim {
  caller: string;
  route: string;
  key: string;
}

declare module 'fastify' {
  interface FastifyRequest {
    claim: Claim | undefined;
  }
}

/** Headers that belong to an answer, also when it is repeated. */
const keptHeaders = ['content-type', 'etag', 'location'] as const;

/** `Idempotency-Key`: a repeated request gets the first answer again and has its effect only once. `access` keeps the claims. */
export class Idempotency {
  constructor(private readonly messages: MessageClient) {}

  /** Before the handler: true when a stored answer has been sent. */
  async begin(request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
    const key = request.headers['idempotency-key'];
    if (key === undefined) return false;
    if (typeof key !== 'string' || key.length < 1 || key.length > 255) throw refuse('VALIDATION_FAILED', 'Idempotency-Key must have 1 to 255 characters');
    const context = request.context as MessageContext;
    const claim: Claim = { caller: callerOf(request), route: `${request.method} ${request.url}`, key };
    const outcome = await runIn(context, () => this.messages.send(ClaimRequest, { ...claim, bodyHash: hash(Buffer.isBuffer(request.body) ? request.body : JSON.stringify(request.body ?? null)) }));
    if (outcome.state === 'done') {
      void reply.header('Idempotency-Replayed', 'true');
      this.#send(outcome, reply);
      return true;
    }
    request.claim = claim;
    const { commandId, commandAt, retry } = outcome;
    request.context = { ...context, commandId, commandAt, retry };
    return false;
  }

  /** After the handler: what is stored is what is sent, so that parallel duplicates cannot disagree. A 5xx is not stored. */
  async finish(request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
    const { claim, context } = request;
    if (!claim || !context) return payload;
    request.claim = undefined;
    const failed = reply.statusCode >= 500 || reply.statusCode === 429;
    const body = typeof payload === 'string' ? payload : '';
    const headers = Object.fromEntries(keptHeaders.flatMap((name) => (reply.hasHeader(name) ? [[name, String(reply.getHeader(name))]] : [])));
    const stored = await runIn(context, () => this.messages.send(CompleteRequest, { ...claim, status: failed ? 0 : reply.statusCode, body, headers }));
    if (failed || stored.body === body) return payload;
    void reply.status(stored.status).headers(stored.headers).removeHeader('content-length');
    return stored.body;
  }

  #send({ status, body, headers }: { status: number; body: string; headers: Record<string, string> }, reply: FastifyReply): void {
    void reply.status(status).headers(headers).send(body === '' ? null : body);
  }
}

/** An API key, or for the client license API the license key as spelled: a repeated request is the same byte by byte (access stores only a keyed hash). */
function callerOf({ context, licenseKey, body }: FastifyRequest): string {
  if (context?.actor.type === 'api-key') return context.actor.id;
  return `client:${hash(licenseKey ?? String((body as { licenseKey?: unknown } | undefined)?.licenseKey))}`;
}

const hash = (text: string | Buffer): string => createHash('sha256').update(text).digest('base64url');
