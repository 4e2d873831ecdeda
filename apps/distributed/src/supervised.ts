import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export interface Command {
  /** Before each line that it prints. */
  readonly title: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  /** It is found at the same address again: where it may choose its port (`PORT=0`), it is given the one that it chose first. */
  readonly keepsPort?: boolean;
  readonly say: (line: string) => void;
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** Who has been ready for that long and ends has met something new; whoever has not is not in a hurry. */
const STEADY_MS = 500;
const SETTLES_AFTER_MS = 1_000;
/** For what is under way to be finished. */
const STOP_WITHIN_MS = 15_000;

/** Nobody would end them if this process did not. */
const running = new Set<ChildProcess>();
process.once('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/** A process that is started again whenever it ends by itself. */
export class Supervised {
  readonly #command: Command;
  readonly #firstReady = Promise.withResolvers<string>();
  #child: ChildProcess | undefined;
  #port: string | undefined;
  #failures = 0;
  #pause: NodeJS.Timeout | undefined;
  #settling: NodeJS.Timeout | undefined;
  #stopping = false;
  #settles = false;

  constructor(command: Command) {
    this.#command = command;
    this.#start();
  }

  /** The address that it said it is ready at, the first time. */
  get ready(): Promise<string> {
    return this.#firstReady.promise;
  }

  /** Lets it give back the room that starting took, for which it stands still; resolves when it has. Started again, it is told so again. */
  async settle(): Promise<void> {
    this.#settles = true;
    await this.#do('collect');
  }

  /** Lets it write down what it has compiled. Takes a second and more: for when nobody needs it yet. */
  async flush(): Promise<void> {
    await this.#do('flush');
  }

  async #do(what: 'collect' | 'flush'): Promise<void> {
    const child = this.#child;
    if (!child?.connected) return;
    // Whatever ends it is the matter of who watches it.
    const over = Promise.race([once(child, 'message'), once(child, 'close')]).catch(() => undefined);
    child.send(what, () => undefined);
    await over;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#pause);
    clearTimeout(this.#settling);
    const child = this.#child;
    if (!child) return;
    const ended = once(child, 'close');
    child.kill('SIGTERM');
    const limit = setTimeout(() => child.kill('SIGKILL'), STOP_WITHIN_MS);
    await ended;
    clearTimeout(limit);
  }

  #start(): void {
    const { args, title, say, keepsPort } = this.#command;
    const env = this.#port === undefined ? this.#command.env : { ...this.#command.env, PORT: this.#port };
    let readyAt = Infinity;
    // In a process group of its own: Ctrl-C reaches this process only, which ends them in their order. The channel tells it when this one is killed.
    const child = spawn(process.execPath, [...args], { env, stdio: ['ignore', 'pipe', 'pipe', 'ipc'], detached: true });
    this.#child = child;
    running.add(child);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream as NonNullable<typeof stream> }).on('line', (line) => {
        say(`${title} | ${line}`);
        const url = / is ready at (\S+), /.exec(line)?.[1];
        if (!url) return;
        readyAt = Date.now();
        if (keepsPort) this.#port = new URL(url).port;
        if (this.#settles) this.#settling = setTimeout(() => void this.settle(), SETTLES_AFTER_MS);
        this.#firstReady.resolve(url);
      });
    }
    child.once('error', (error) => say(`${title} | ${error.message}`));
    child.once('close', (code, signal) => {
      running.delete(child);
      this.#child = undefined;
      if (this.#stopping) return;
      this.#failures = Date.now() - readyAt > STEADY_MS ? 0 : this.#failures + 1;
      const pause = this.#failures < 2 ? 0 : Math.min(FIRST_PAUSE_MS * 2 ** this.#failures, LONGEST_PAUSE_MS);
      say(`${title} | ended with ${code ?? signal}, starts again${pause ? ` in ${pause / 1000} s` : ''}`);
      this.#pause = setTimeout(() => this.#start(), pause);
    });
  }
}
