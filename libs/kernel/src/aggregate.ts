import type { Actor } from './context.ts';
import type { Instant } from './time.ts';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json | undefined };
export type JsonObject = { readonly [name: string]: Json | undefined };

/** How an event type is stored. */
export interface EventShape {
  /** Version of the stored data; starts at 1, and each change of shape adds one. */
  readonly schema: number;
  /** Fields that are encrypted under the data key of the stream's subject; they fold to null once that key is destroyed. */
  readonly sealed?: readonly string[];
  /** version → lifts data of that version to the next one. Released versions are never edited. */
  readonly upcast?: Readonly<Record<number, (data: JsonObject) => JsonObject>>;
}

/** What `evolve` may know of an event besides its data: when it was decided, and by whom. */
export interface EventOrigin {
  readonly at: Instant;
  readonly actor: Pick<Actor, 'type' | 'id' | 'role'>;
}

/**
 * One kind of stream and its rules: `decide` says what should happen, `evolve` what did.
 * Both are pure. `decide` returns nothing when it is already so, and throws a Refusal when it must not be;
 * `evolve` never fails and may reuse the state it is given, because the fold owns it.
 */
export interface Aggregate<State, Command extends { type: string }, Event extends { type: string }> {
  /** Streams are named `<category>-<id>`. */
  readonly category: string;
  /** Version of the state's shape; a snapshot of another version is ignored. */
  readonly stateVersion: number;
  readonly shapes: { readonly [T in Event['type']]: EventShape };
  initial(): State;
  decide(state: State, command: Command, now: Instant): readonly Event[];
  evolve(state: State, event: Event, origin: EventOrigin): State;
}

