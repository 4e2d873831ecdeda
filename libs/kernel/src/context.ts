import { AsyncLocalStorage } from 'node:async_hooks';
import { derivedId, newCommandId, type Id, type IdPrefix } from './ids.ts';
import type { Permission } from './permissions.ts';
import type { Instant } from './time.ts';

/** The sender of a message. `client` is a customer's software with a license key; `system` is Keyledger itself. */
export interface Actor {
  readonly type: 'api-key' | 'client' | 'system';
  readonly id: string;
  readonly role?: string;
  readonly permissions: readonly Permission[];
}

/** What one message is about and who sent it. Opened once per message by the transport; everything below resolves through it. */
export interface MessageContext {
  readonly environment: string;
  readonly actor: Actor;
  readonly commandId: string;
  /** When the command was first sent: the same for every retry, so that derived ids are the same, too. */
  readonly commandAt: Instant;
  /** One decision time for the whole message. */
  readonly now: Instant;
  readonly correlationId: string;
  readonly causationId?: string;
  /** The command may have run before, in part or whole: before a refusal, check whether an earlier run of it caused the conflict. */
  readonly retry?: boolean;
  /** From If-Match: the stream revision the caller has seen. Holds for the message itself, not for those sent on from it. */
  readonly ifRevision?: number;
  readonly traceparent?: string;
}

const storage = new AsyncLocalStorage<MessageContext>();

export const runIn = <T>(context: MessageContext, work: () => T): T => storage.run(context, work);

/** The context of the message being handled. Its absence is a bug: all work starts in one. */
export function context(): MessageContext {
  const current = storage.getStore();
  if (!current) throw new Error('No message context: work must start in runIn()');
  return current;
}

export const hasContext = (): boolean => storage.getStore() !== undefined;

/** The id of the index-th thing of its kind that the current command creates. */
export function newId<P extends IdPrefix>(prefix: P, index = 0): Id<P> {
  const { commandId, commandAt } = context();
  return derivedId(prefix, commandId, commandAt, index);
}

/** Environments that exist from the first start. `control` holds what spans them and cannot be selected by a caller. */
export const environments = ['production', 'staging'] as const;
export const controlEnvironment = 'control';
/** Production runs in real time, and so does `control`; any other environment can have a clock of its own. */
export const mayHaveOwnTime = (environment: string): boolean => environment !== 'production' && environment !== controlEnvironment;

const system: Actor = { type: 'system', id: 'keyledger', permissions: [] };

/** A context for work that no message started: projections, reactions, start-up. */
export function systemContext(environment: string, now: Instant, commandId = newCommandId()): MessageContext {
  return { environment, actor: system, commandId, commandAt: now, now, correlationId: commandId };
}

/** One resource per environment; `here()` is the one of the current message, so that code cannot use another environment's by accident. */
export class PerEnvironment<T> {
  readonly #resources: ReadonlyMap<string, T>;

  constructor(resources: Iterable<readonly [string, T]>) {
    this.#resources = new Map(resources);
  }

  here(): T {
    return this.of(context().environment);
  }

  of(environment: string): T {
    const resource = this.#resources.get(environment);
    if (resource === undefined) throw new Error(`Unknown environment ${environment}`);
    return resource;
  }

  names(): readonly string[] {
    return [...this.#resources.keys()];
  }

  entries(): Iterable<readonly [string, T]> {
    return this.#resources;
  }
}
