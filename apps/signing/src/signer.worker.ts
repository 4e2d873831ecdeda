// Runs as it stands in a thread of its own (Node strips the types): only node: modules and types may be imported here.
import { sign, type KeyObject } from 'node:crypto';
import { parentPort } from 'node:worker_threads';

/** A key comes with the first task that needs it. */
export interface Task {
  readonly call: number;
  readonly name: number;
  readonly key: KeyObject | undefined;
  /** All texts in one, and the length of each: a message of many strings costs twice as much. */
  readonly text: string;
  readonly lengths: readonly number[];
}
/** 64 bytes for each text. */
export interface Done {
  readonly call: number;
  readonly signatures: Uint8Array;
}

const keys = new Map<number, KeyObject>();

parentPort?.on('message', ({ call, name, key = keys.get(name), text, lengths }: Task) => {
  if (!key) throw new Error('The worker got a task before its key');
  keys.set(name, key);
  const signatures = new Uint8Array(64 * lengths.length);
  let at = 0;
  lengths.forEach((length, n) => signatures.set(sign(null, Buffer.from(text.slice(at, (at += length))), key), 64 * n));
  parentPort?.postMessage({ call, signatures } satisfies Done, [signatures.buffer]);
});
