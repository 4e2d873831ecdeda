import { execFile, execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Command {
  readonly command: string;
  readonly args: readonly string[];
  /** File for its output; written anew at each start. */
  readonly log: string;
  readonly uid?: number;
  readonly cwd?: string;
}

/** Linux signals a child when its parent is killed; elsewhere the child stays. */
const setpriv = '/usr/bin/setpriv';
const endsWithUs = existsSync(setpriv) ? [setpriv, '--pdeathsig', 'INT', '--'] : [];

/**
 * A server as a child process, or as a container with `docker run` in the foreground. It has its own process group, so that Ctrl-C
 * reaches only its owner, which ends the server when it is no longer needed; and it ends with this process.
 */
export class Child {
  readonly #process: ChildProcess;
  readonly #log: string;
  readonly #container: string | undefined;
  readonly #ended: Promise<void>;
  #paused = false;
  readonly #endWithUs = () => void this.#process.kill('SIGQUIT');

  /** `docker` gets its `run --rm` and a name from here; `args` begin with its other options. */
  static docker(args: readonly string[], log: string): Child {
    const name = `keyledger-${randomUUID()}`;
    return new Child({ command: 'docker', args: ['run', '--rm', '--name', name, ...args], log }, name);
  }

  static run(command: Command): Child {
    return new Child(command);
  }

  private constructor({ command, args, log, uid, cwd }: Command, container?: string) {
    const output = openSync(log, 'w');
    const [program, ...rest] = [...endsWithUs, command, ...args] as [string, ...string[]];
    this.#process = spawn(program, rest, { stdio: ['ignore', output, output], detached: true, uid, gid: uid, cwd });
    closeSync(output);
    this.#log = log;
    this.#container = container;
    this.#ended = once(this.#process, 'exit').then(() => undefined, () => undefined).finally(() => process.off('exit', this.#endWithUs));
    process.on('exit', this.#endWithUs);
  }

  get pid(): number {
    return this.#process.pid ?? -1;
  }

  get isRunning(): boolean {
    return this.#process.pid !== undefined && this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Resolves when the process has ended, for any reason. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  get printed(): string {
    return readFileSync(this.#log, 'utf8');
  }

  /** Signals it to end and waits until it has; `docker run` passes the signal on. */
  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.#paused) this.resume();
    if (this.isRunning) this.#process.kill(signal);
    await this.#ended;
  }

  /** Kills the program and all processes that it has started, at once and without any clean-up. */
  async kill(): Promise<void> {
    if (this.isRunning) this.#signalAll('SIGKILL');
    await this.#ended;
  }

  /** It keeps its connections but does not answer. */
  pause(): void {
    this.#paused = true;
    this.#signalAll('SIGSTOP');
  }

  resume(): void {
    this.#paused = false;
    this.#signalAll('SIGCONT');
  }

  /** Runs a command in the container. */
  succeeds(...command: readonly string[]): Promise<boolean> {
    return new Promise((resolve) => execFile('docker', ['exec', this.#container ?? '', ...command], (error) => resolve(!error)));
  }

  #signalAll(signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void {
    if (this.#container) {
      execFileSync('docker', [{ SIGKILL: 'kill', SIGSTOP: 'pause', SIGCONT: 'unpause' }[signal], this.#container], { stdio: 'ignore' });
      return;
    }
    // Once stopped it starts no more processes, and those it has started are still its children.
    this.#process.kill('SIGSTOP');
    try {
      for (const pid of childrenOf(this.pid)) signalIfThere(pid, signal);
    } finally {
      this.#process.kill(signal);
    }
  }
}

function childrenOf(pid: number): readonly number[] {
  const { error, stdout } = spawnSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' });
  if (error) throw error;
  return stdout.split('\n').filter(Boolean).map(Number);
}

function signalIfThere(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended in the meantime.
  }
}

/** Starts a server and waits until it answers; rejects with its output if it ends instead, or does not answer in time. */
export async function started(title: string, start: () => Child, answers: (child?: Child) => Promise<boolean>, withinMs = 40_000): Promise<Child> {
  if (await answers()) throw new Error(`${title}: there is already a server at its address`);
  const child = start();
  const deadline = Date.now() + withinMs;
  while (!(await answers(child))) {
    if (!child.isRunning) throw new Error(`${title} ended while starting: ${child.printed.slice(-2_000)}`);
    if (Date.now() > deadline) {
      await child.kill();
      throw new Error(`${title} does not answer: ${child.printed.slice(-2_000)}`);
    }
    await sleep(20);
  }
  return child;
}

/** A port of 127.0.0.1 on which no process listens now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
