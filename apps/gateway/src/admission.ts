import { createHash, randomUUID } from 'node:crypto';
import { Authenticate, normaliseKey } from '@keyledger/contracts';
import { newCommandId, refuse, runIn, systemContext, type Actor, type Clock, type MessageContext } from '@keyledger/kernel';
import type { MessageClient } from '@keyledger/messaging';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { hasEnvironment, honoursIfMatch, type Operation } from './operation.ts';
import type { RateLimits } from './rate-limits.ts';

declare module 'fastify' {
  interface FastifyRequest {
    context: MessageContext | undefined;
    /** Where it is the credential: `Authorization: License <license key>`. */
    licenseKey: string | undefined;
  }
  interface FastifyContextConfig {
    operation?: Operation;
  }
}

const requestIdPattern = /^[\w.:-]{1,128}$/;
/** The caller's own Request-Id if it is harmless, otherwise a new one. */
export function requestIdOf(headers: FastifyRequest['headers']): string {
  const given = headers['request-id'];
  return typeof given === 'string' && requestIdPattern.test(given) ? given : randomUUID();
}

const client: Actor = { type: 'client', id: 'client', permissions: [] };

/** Checks who calls, how often, and in which environment. */
export class Admission {
  constructor(
    private readonly messages: MessageClient,
    private readonly clock: Clock,
    private readonly limits: RateLimits,
    private readonly environments: ReadonlySet<string>,
  ) {}

  /** For routes that need no API key. */
  public(request: FastifyRequest, operation: Operation): void {
    request.context = this.#context(request, operation, (hasEnvironment(operation) && this.#chosen(request)) || 'production', client);
  }

  /** Before the body is read. */
  async apiKey(request: FastifyRequest, reply: FastifyReply, operation: Operation): Promise<void> {
    const { needs, orLicenseKey } = operation;
    request.licenseKey = orLicenseKey ? credentialOf(request, 'license') : undefined;
    if (request.licenseKey !== undefined) {
      this.public(request, operation);
      return this.#takeLicenseKey(request, reply, request.licenseKey);
    }
    const chosen = this.#chosen(request);
    const caller = await this.#callerOf(request, reply);
    if (caller.environment !== null && chosen !== undefined && chosen !== caller.environment) throw refuse('ENVIRONMENT_FORBIDDEN');
    this.limits.apiKeys.take(caller.apiKeyId, reply);
    if (needs !== 'any-api-key' && !caller.permissions.includes(needs as never)) {
      throw refuse('PERMISSION_DENIED', `This needs the permission ${needs}`, { permission: needs });
    }
    const actor: Actor = { type: 'api-key', id: caller.apiKeyId, permissions: caller.permissions, ...(caller.role && { role: caller.role }) };
    request.context = this.#context(request, operation, caller.environment ?? chosen ?? 'production', actor);
  }

  /** After the body is parsed and before anything is stored for it. All spellings of a license key count as one key. */
  licenseKey(request: FastifyRequest, reply: FastifyReply): void {
    this.#takeLicenseKey(request, reply, (request.body as { licenseKey: string }).licenseKey);
  }

  #takeLicenseKey({ ip, context }: FastifyRequest, reply: FastifyReply, licenseKey: string): void {
    this.limits.unknownLicenseKeys.admit(ip, licenseKey, reply);
    this.limits.licenseKeys.take(`${context?.environment} ${normaliseKey(licenseKey)}`, reply);
  }

  async #callerOf(request: FastifyRequest, reply: FastifyReply) {
    const secret = credentialOf(request, 'bearer');
    if (secret === undefined) throw refuse('UNAUTHENTICATED');
    const credential = createHash('sha256').update(secret).digest('base64url');
    this.limits.unknownApiKeys.admit(request.ip, credential, reply);
    return this.limits.unknownApiKeys.inTurn(request.ip, credential, reply, async (right) => {
      const caller = await runIn(systemContext('control', this.clock.now('control')), () => this.messages.send(Authenticate, { secret }));
      if (!caller) {
        this.limits.unknownApiKeys.wrong(request.ip, credential, reply);
        throw refuse('UNAUTHENTICATED');
      }
      right();
      return caller;
    });
  }

  #chosen({ headers }: FastifyRequest): string | undefined {
    const name = headers['x-environment'];
    if (name === undefined) return undefined;
    if (typeof name !== 'string' || !this.environments.has(name)) throw refuse('ENVIRONMENT_NOT_FOUND');
    return name;
  }

  #context({ headers, id }: FastifyRequest, operation: Operation, environment: string, actor: Actor): MessageContext {
    const now = this.clock.now(environment);
    const ifRevision = honoursIfMatch(operation) ? revisionFrom(headers['if-match']) : undefined;
    // A request id made here can name the command, too; one that the caller made up cannot.
    const commandId = headers['request-id'] === undefined ? id : newCommandId();
    return { environment, actor, commandId, commandAt: now, now, correlationId: id, ...(ifRevision !== undefined && { ifRevision }) };
  }
}

/** Trailing spaces are scanned once, not again for each place where the key might end. */
const schemes = { bearer: /^bearer +(\S+) *$/i, license: /^license +(\S(?:.{0,253}[^ ])?) *$/i };
const credentialOf = ({ headers: { authorization } }: FastifyRequest, scheme: keyof typeof schemes): string | undefined => schemes[scheme].exec(authorization ?? '')?.[1];

/** `"17"` → 17; `*` accepts any revision; anything else matches none. */
function revisionFrom(header: string | undefined): number | undefined {
  if (header === undefined || header.trim() === '*') return undefined;
  const revision = /^(?:W\/)?"(\d{1,15})"$/.exec(header.trim())?.[1];
  return revision === undefined ? -1 : Number(revision);
}
