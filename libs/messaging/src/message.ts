import type { Command, Query } from '@nestjs/cqrs';

/** A message class of `@keyledger/contracts`: its subject on the wire, its fields, and the type of its answer. */
export type Message = Command<unknown> | Query<unknown>;

export interface MessageType<M extends Message = Message> {
  new (): M;
  readonly name: string;
  readonly subject: string;
  /** Passed on uncopied where both sides are in one process. For the hot path: both sides must leave it unchanged. */
  readonly direct?: boolean;
  /** Writes an answer as JSON, faster than `JSON.stringify`. */
  readonly written?: ((answer: never) => string) | undefined;
}

export type ResultOf<M extends Message> = M extends Command<infer R> ? R : M extends Query<infer R> ? R : never;

/** The message's own data: what its class declares, without `type`, which the class itself sets. */
export type Fields<M extends Message> = {
  [K in keyof M as K extends 'type' ? never : K extends string ? (M[K] extends (...args: never[]) => unknown ? never : K) : never]: M[K];
};

/** Makes an instance of what came over the wire. Received fields cannot override what the class itself sets. */
export function revive<M extends Message>(type: MessageType<M>, fields: object): M {
  const message = new type() as M & { readonly type?: string };
  const own = message.type === undefined ? undefined : { type: message.type };
  return Object.assign(message, fields, own);
}
