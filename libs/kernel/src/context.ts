import { AsyncLocalStorage } from 'node:async_hooks';
import { derivedId, newCommandId, type Id, type IdPrefix } from './ids.ts';
import type { Permission } from './permissions.ts';
import type { Instant } from './time.ts';

/** Who asks. `client` is a customer's software with a license key; `system` is Keyledger itself. */
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
  /** When the command was asked for the first time: the same for every retry, so that derived ids are too. */
  readonly commandAt: Instant;
  /** One decision time for the whole message. */
  readonly now: Instant;
  readonly correlationId: string;
  readonly causationId?: string;
  /** The command may have run before, in part or whole: a refusal must first ask whether it is its own doing. */
  readonly retry?: boolean;
  /** From If-Match: the stream revision the caller has seen. Holds for the message itself, not for those sent on from it. */
  readonly ifRevision?: number;
  readonly traceparent?: string;
}

const storage = new AsyncLocalStorage<MessageContext>();

export const runIn = <T>(context: MessageContext, work: () => T): T => storage.run(context, work);

/** The context of the message being handled. Its absence is a bug: whoever starts work opens one. */
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

/** Worlds that are there from the first start on. `control` holds what spans them and is nobody's to ask for. */
export const environments = ['production', 'staging'] as const;
export const controlEnvironment = 'control';
/** Customers live in real time, and so does what spans the worlds; any other world can be given a time of its own. */
export const mayHaveOwnTime = (environment: string): boolean => environment !== 'production' && environment !== controlEnvironment;

const system: Actor = { type: 'system', id: 'keyledger', permissions: [] };

/** A context for work that no message started: projections, reactions, start-up. */
export function systemContext(environment: string, now: Instant, commandId = newCommandId()): MessageContext {
  return { environment, actor: system, commandId, commandAt: now, now, correlationId: commandId };
}

/** One resource per environment; `here()` is the one of the current message. There is no other way to name an environment by accident. */
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
