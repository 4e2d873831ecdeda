import { randomUUID } from 'node:crypto';
import { Authenticate } from '@keyledger/contracts';
import { newCommandId, refuse, runIn, systemContext, type Actor, type Clock, type MessageContext } from '@keyledger/kernel';
import type { MessageClient } from '@keyledger/messaging';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Operation } from './operation.ts';
import type { RateLimits } from './rate-limits.ts';

declare module 'fastify' {
  interface FastifyRequest {
    context: MessageContext | undefined;
  }
  interface FastifyContextConfig {
    operation?: Operation;
  }
}

const requestIdPattern = /^[\w.:-]{1,128}$/;
/** The caller's own Request-Id when it is harmless, else a new one. */
export function requestIdOf(headers: FastifyRequest['headers']): string {
  const given = headers['request-id'];
  return typeof given === 'string' && requestIdPattern.test(given) ? given : randomUUID();
}

const client: Actor = { type: 'client', id: 'client', permissions: [] };

/** Who asks, and in which environment: answered before the body is read. */
export class Admission {
  constructor(
    private readonly messages: MessageClient,
    private readonly clock: Clock,
    private readonly limits: RateLimits,
    private readonly environments: () => ReadonlySet<string>,
  ) {}

  /** For routes that need no API key. */
  public(request: FastifyRequest): void {
    request.context = this.#context(request, this.#chosen(request) ?? 'production', client);
  }

  async apiKey(request: FastifyRequest, reply: FastifyReply, { needs }: Operation): Promise<void> {
    const secret = bearerOf(request);
    const chosen = this.#chosen(request);
    const caller = secret === undefined ? null : await runIn(this.#system(), () => this.messages.send(Authenticate, { secret }));
    if (!caller) throw refuse('UNAUTHENTICATED');
    if (caller.environment !== null && chosen !== undefined && chosen !== caller.environment) throw refuse('ENVIRONMENT_FORBIDDEN');
    await this.limits.apiKeys.take(caller.apiKeyId, reply);
    if (needs !== 'any-api-key' && !caller.permissions.includes(needs as never)) {
      throw refuse('PERMISSION_DENIED', `This needs the permission ${needs}`, { permission: needs });
    }
    const actor: Actor = { type: 'api-key', id: caller.apiKeyId, permissions: caller.permissions, ...(caller.role && { role: caller.role }) };
    request.context = this.#context(request, caller.environment ?? chosen ?? 'production', actor);
  }

  #system(): MessageContext {
    return systemContext('control', this.clock.now('control'));
  }

  #chosen(request: FastifyRequest): string | undefined {
    const name = request.headers['x-environment'];
    if (name === undefined) return undefined;
    if (typeof name !== 'string' || !this.environments().has(name)) throw refuse('ENVIRONMENT_NOT_FOUND');
    return name;
  }

  #context(request: FastifyRequest, environment: string, actor: Actor): MessageContext {
    const now = this.clock.now(environment);
    const ifRevision = revisionFrom(request.headers['if-match']);
    return { environment, actor, commandId: newCommandId(), commandAt: now, now, correlationId: request.id, ...(ifRevision !== undefined && { ifRevision }) };
  }
}

function bearerOf({ headers: { authorization } }: FastifyRequest): string | undefined {
  return authorization !== undefined && /^bearer /i.test(authorization) ? authorization.slice(7).trim() : undefined;
}

/** `"17"` → 17; `*` asks for nothing in particular; anything else matches no revision. */
function revisionFrom(header: string | undefined): number | undefined {
  if (header === undefined || header.trim() === '*') return undefined;
  const revision = /^(?:W\/)?"(\d{1,15})"$/.exec(header.trim())?.[1];
  return revision === undefined ? -1 : Number(revision);
}
