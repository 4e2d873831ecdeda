import type { JsonObject } from './aggregate.ts';

/** Encrypts under the data key of a subject (a license, a customer). */
export interface Sealer {
  seal(subject: string, value: JsonObject): string;
  /** null once the subject's data key has been destroyed. */
  open(subject: string, sealed: string): JsonObject | null;
}

/** The data keys of one environment. */
export interface Sealing {
  /** A sealer that holds the keys of these subjects. `create` makes missing keys, durable before this resolves. */
  prepare(subjects: readonly string[], create?: boolean): Promise<Sealer> | Sealer;
}
