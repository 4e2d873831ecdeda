import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child, freePort, started } from './child.ts';
import { obtain } from './obtain.ts';
import type { Running } from './running.ts';

export interface NatsOptions {
  /** On 127.0.0.1. Default: a free one. */
  readonly port?: number;
  /** More lines of its configuration, such as its users. Without them there is one user, whose password is in the URL. */
  readonly settings?: string;
}

export interface RunningNats extends Running {
  readonly port: number;
}

/** Room for large answers (a hundred licenses); the default is 1 MB. */
const maxPayload = 8 * 1024 * 1024;

/** A process that hangs keeps its connection, and would get its share of requests: one without a pong for 3 to 4 s is disconnected. */
const ping = 'ping_interval: "1s"\nping_max: 2\n';

/**
 * All other processes share the machine with it. A Go program that may use every core searches them for work whenever it is idle, which on two
 * cores takes a third of its time.
 */
const cores = `GOMAXPROCS=${Math.max(1, Math.floor(availableParallelism() / 2))}`;

/** nats-server on 127.0.0.1, without JetStream, only for clients with a password. Resolves when it accepts connections. */
export async function startNats({ port: wanted, settings: given }: NatsOptions = {}): Promise<RunningNats> {
  const launch = obtain('nats');
  if (!launch) throw new Error('There is no nats-server on this machine. Install it (Debian: nats-server) or Docker, or set NATS_URL to a server elsewhere');
  const port = wanted ?? await freePort();
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-nats-'));
  const log = join(folder, 'log');
  const password = randomBytes(24).toString('base64url');
  // Not on the command line, which every user of the machine can read.
  const settings = join(folder, 'nats.conf');
  writeFileSync(settings, `max_payload: ${maxPayload}\n${ping}${given ?? `authorization { user: keyledger, password: "${password}" }`}\n`, { mode: 0o600 });
  const run = () => ('path' in launch
    ? Child.run({ command: 'env', args: [cores, launch.path, '--config', settings, '--addr', '127.0.0.1', '--port', String(port)], log })
    : Child.docker(['--env', cores, '--publish', `127.0.0.1:${port}:4222`, '--volume', `${settings}:/nats.conf:ro`, launch.image, '--config', '/nats.conf'], log));
  const start = () => started('nats-server', run, () => greets(port));
  let child = await start().catch((error: unknown) => {
    rmSync(folder, { recursive: true });
    throw error;
  });
  return {
    port,
    url: `nats://${given === undefined ? `keyledger:${password}@` : ''}127.0.0.1:${port}`,
    get pid() { return child.pid; },
    get ended() { return child.ended; },
    kill: () => child.kill(),
    pause: () => child.pause(),
    resume: () => child.resume(),
    async restart() {
      await child.end('SIGINT');
      child = await start();
    },
    async stop() {
      await child.end('SIGINT');
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A NATS server sends first. */
const greets = (port: number): Promise<boolean> => new Promise((resolve) => {
  const socket = connect({ host: '127.0.0.1', port, timeout: 1_000 });
  const answer = (greeted: boolean) => {
    socket.destroy();
    resolve(greeted);
  };
  socket.once('data', (data) => answer(data.toString('latin1').startsWith('INFO'))).once('error', () => answer(false)).once('close', () => answer(false)).once('timeout', () => answer(false));
});
