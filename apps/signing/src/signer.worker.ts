// Runs as it stands in a thread of its own (Node strips the types): only node: modules and types may be imported here.
import { sign, type KeyObject } from 'node:crypto';
import { parentPort } from 'node:worker_threads';

/** Texts one after the other, and where each ends. A key comes with the first task that needs it. */
export interface Task {
  readonly call: number;
  readonly name: number;
  readonly key: KeyObject | undefined;
  readonly bytes: Uint8Array;
  readonly ends: readonly number[];
}
/** 64 bytes for each text. */
export interface Done {
  readonly call: number;
  readonly signatures: Uint8Array;
}

const keys = new Map<number, KeyObject>();

parentPort?.on('message', ({ call, name, key = keys.get(name), bytes, ends }: Task) => {
  if (!key) throw new Error('A task came before its key');
  keys.set(name, key);
  const signatures = new Uint8Array(64 * ends.length);
  ends.forEach((end, n) => signatures.set(sign(null, bytes.subarray(ends[n - 1] ?? 0, end), key), 64 * n));
  parentPort?.postMessage({ call, signatures } satisfies Done, [signatures.buffer]);
});
