import { sign, type KeyObject } from 'node:crypto';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { Slots } from '@keyledger/kernel';
import type { SignText } from '@keyledger/license-file/sign';
import type { Done, Task } from './signer.worker.ts';

interface Waiting {
  readonly text: string;
  readonly resolve: (signature: Uint8Array) => void;
  readonly reject: (error: unknown) => void;
}

/** To wake a thread costs as much as some signatures: fewer than these are made here. */
const worthAThread = 6;

/**
 * Signs together what is asked for in one go: in a thread of its own when that is a lot, so that this one has its hands free meanwhile. The
 * thread begins with the first such rush; what it has not done when it ends is done here.
 */
export class Signer {
  #thread: SigningThread | undefined;
  #names = 0;

  of(key: KeyObject): SignText {
    const name = this.#names++;
    let waiting: Waiting[] = [];
    return (text) => new Promise((resolve, reject) => {
      if (waiting.push({ text, resolve, reject }) > 1) return;
      queueMicrotask(() => {
        const together = waiting;
        waiting = [];
        if (together.length < worthAThread) return signHere(key, together);
        if (!this.#thread?.isAlive) this.#thread = new SigningThread();
        this.#thread.sign(name, key, together);
      });
    });
  }

  /** Until the next rush. */
  async close(): Promise<void> {
    await this.#thread?.end();
  }
}

function signHere(key: KeyObject, waiting: readonly Waiting[]): void {
  for (const { text, resolve, reject } of waiting) {
    try {
      resolve(sign(null, Buffer.from(text), key));
    } catch (error) {
      reject(error);
    }
  }
}

class SigningThread {
  // No execArgv: a loader for the sources is not needed there (Node strips the worker's types), and would cost its start-up.
  readonly #worker = new Worker(new URL(`./signer.worker${extname(import.meta.url)}`, import.meta.url), { execArgv: [], name: 'signer' });
  readonly #known = new Set<number>();
  readonly #pending = new Slots<{ readonly key: KeyObject; readonly waiting: readonly Waiting[] }>();
  isAlive = true;

  constructor() {
    this.#worker.unref();
    this.#worker.on('message', (done: Done) => this.#signed(done));
    this.#worker.on('error', () => this.#ended());
    this.#worker.on('exit', () => this.#ended());
  }

  sign(name: number, key: KeyObject, waiting: readonly Waiting[]): void {
    const call = this.#pending.add({ key, waiting });
    this.#worker.postMessage({ call, name, key: this.#known.has(name) ? undefined : key, text: waiting.map(({ text }) => text).join(''), lengths: waiting.map(({ text }) => text.length) } satisfies Task);
    this.#known.add(name);
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  /** `node --watch` tells on the same channel what the thread has imported: that is no call of ours. */
  #signed({ call, signatures }: Done): void {
    this.#pending.take(call)?.waiting.forEach(({ resolve }, n) => resolve(signatures.subarray(64 * n, 64 * (n + 1))));
  }

  #ended(): void {
    this.isAlive = false;
    for (const { key, waiting } of this.#pending.takeAll()) signHere(key, waiting);
  }
}
