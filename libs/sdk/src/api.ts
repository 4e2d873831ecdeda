import type { Clock } from './clock.ts';
import type { Directive } from './heartbeats.ts';
import type { Refusal } from './refusal.ts';
import type { Fetch } from './server.ts';
import type { Code, Judgement } from './judgement.ts';
import type { Store } from './store.ts';
import type { Quota } from './usage.ts';

/** Options, answers and events of a `License`. */

export interface Logger {
  warn(message: string, details?: object): void;
}

export interface LicenseOptions {
  /** Without a key or a server no server is asked: the license is then the file given to `install`. */
  readonly key?: string;
  readonly server?: string;
  /** Public keys of the offline root: the answer of `/.well-known/keyledger-root.json`, its JWKs, either as text, or PEM. Built into your software, never fetched by it. */
  readonly roots: object | string;
  readonly environment?: string;
  /** Id of your product: a license for another product is refused. */
  readonly product?: string;
  readonly deploymentId?: string;
  readonly deploymentMode?: string;
  /** The version of your software, sent with heartbeats. */
  readonly version?: string;
  readonly store?: Store;
  /** Identifies the machine, hashed. Default: an id that the store keeps. */
  readonly fingerprint?: string | undefined;
  readonly clock?: Clock;
  /** A time known to be past, for example from the license before this one. Milliseconds since 1970; counts if the store is empty. */
  readonly after?: number;
  readonly fetch?: Fetch;
  readonly logger?: Logger;
  /** Shortens the signed offline grace. */
  readonly offlineGraceDays?: number;
  /** Default: 10 seconds for one request, and 3 requests. */
  readonly timeoutMs?: number;
  readonly attempts?: number;
}

/** What an instance tells the server about itself when it takes a seat. */
export interface SeatOptions {
  readonly name?: string;
  readonly metadata?: Readonly<Record<string, unknown>>;
  readonly installationId?: string;
}

export type Activation = { readonly ok: true; readonly instanceId: string; /** The instance did not have this seat before. */ readonly created: boolean; readonly judgement: Judgement } | Refusal;
export type Deactivation = { readonly ok: true } | Refusal;
export type Validation = Judgement & {
  /** Origin of the judgement: the server just now, an earlier answer, or a file. */
  readonly source: 'network' | 'cache' | 'offline-file';
  /** Why the server gave no verdict, if it was asked. */
  readonly problem: Refusal | null;
};
export interface LicenseEvents {
  /** Enforcement, code or state of the judgement has changed. */
  state: { readonly before: Judgement; readonly now: Judgement };
  /** A lease, verdict or file has arrived that renews the license. */
  renewed: Judgement;
  directive: Directive;
  unreachable: Refusal;
  /** A quota, or a feature with a cap, is used up. Told once, until some of it is free again. */
  exceeded: Quota;
  /** Another instance sends heartbeats as this one: this one was cloned, or restored from a copy. */
  conflict: { readonly lastSeq: number; /** The number this one has sent; 1: its first, so it may have lost its state. */ readonly seq: number };
  /** The wall clock is behind the time it must be. That lengthens no grace. */
  'clock-rollback': { readonly wall: number; readonly atLeast: number };
}

export class FeatureMissing extends Error {
  override readonly name = 'FeatureMissing';
  constructor(readonly feature: string, readonly code: Code) {
    super(`The license does not allow "${feature}" (${code})`);
  }
}
