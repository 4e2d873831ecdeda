import type { Clock } from './clock.ts';
import type { Directive } from './heartbeats.ts';
import type { Refusal } from './refusal.ts';
import type { Fetch } from './server.ts';
import type { Code, Judgement } from './state.ts';
import type { Store } from './store.ts';
import type { Quota } from './usage.ts';

/** What a `License` takes, answers and tells. */

export interface Logger {
  warn(message: string, details?: object): void;
}

export interface LicenseOptions {
  /** Without a key or a server nobody is asked: the license is then what `install` is given. */
  readonly key?: string;
  readonly server?: string;
  /** Public keys of the offline root: the answer of `/.well-known/keyledger-root.json`, its JWKs, either as text, or PEM. Built into your software, never fetched by it. */
  readonly roots: object | string;
  readonly environment?: string;
  /** Id of your product: a license of another one is none. */
  readonly product?: string;
  readonly deploymentId?: string;
  readonly deploymentMode?: string;
  /** Of your software, told with heartbeats. */
  readonly version?: string;
  readonly store?: Store;
  /** What the machine is recognised by, hashed. By default an id that the store keeps. */
  readonly fingerprint?: string | undefined;
  readonly clock?: Clock;
  /** It is known to be later than that, for example by the license before this one. Milliseconds since 1970; counts where the store is empty. */
  readonly after?: number;
  readonly fetch?: Fetch;
  readonly logger?: Logger;
  /** Makes the offline grace that was signed shorter. */
  readonly offlineGraceDays?: number;
  /** 10 seconds for one request, and 3 requests, unless told otherwise. */
  readonly timeoutMs?: number;
  readonly attempts?: number;
}

/** What an instance says of itself when it takes a seat. */
export interface SeatOptions {
  readonly name?: string;
  readonly metadata?: Readonly<Record<string, unknown>>;
  readonly installationId?: string;
}

export type Activation = { readonly ok: true; readonly instanceId: string; /** It did not have its seat before. */ readonly created: boolean; readonly judgement: Judgement } | Refusal;
export type Deactivation = { readonly ok: true } | Refusal;
export type Validation = Judgement & {
  /** Who says so: the server just now, what it has said before, or a file. */
  readonly source: 'network' | 'cache' | 'offline-file';
  /** Why the server did not say so, if it was asked. */
  readonly problem: Refusal | null;
};
export interface LicenseEvents {
  /** Something about the judgement has changed that software acts upon. */
  state: { readonly before: Judgement; readonly now: Judgement };
  /** Something signed has arrived that lengthens it. */
  renewed: Judgement;
  directive: Directive;
  unreachable: Refusal;
  /** A quota, or a feature with a cap, is used up. Once, until some of it is free again. */
  exceeded: Quota;
  /** Another instance sends heartbeats as this one: this one was cloned, or put back from a copy. */
  conflict: { readonly lastSeq: number; /** What this one has sent; 1: the first that it knows of, so it may be that it has lost its state. */ readonly seq: number };
  /** The wall clock is behind what it must be. It lengthens nothing. */
  'clock-rollback': { readonly wall: number; readonly atLeast: number };
}

export class FeatureMissing extends Error {
  override readonly name = 'FeatureMissing';
  constructor(readonly feature: string, readonly code: Code) {
    super(`The license does not allow "${feature}" (${code})`);
  }
}
