import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { bus } from '@keyledger/contracts';
import { natsUsers } from '@keyledger/messaging';
import { startNats, startPostgres, type Running } from '@keyledger/servers';
import type { DistributedConfig } from './config.ts';
import { services, type ServiceName } from './services.ts';
import { Supervised } from './supervised.ts';

export interface Distributed {
  /** Of the gateways. */
  readonly urls: readonly string[];
  close(): Promise<void>;
}

/** Some ten per process and environment at most, and rarely more than two at a time. */
const postgresSettings = { max_connections: 400, shared_buffers: '256MB' };
const TURN_MS = 5_000;
/** V8 lets what is short-lived take 16 MiB, twice, before it looks for what is still in use. */
const sparing = ['--max-semi-space-size=2'];
const mainOf = (service: ServiceName): string => fileURLToPath(new URL(`../../../dist/${service}.js`, import.meta.url));

/**
 * NATS and PostgreSQL, unless they are there already, and one process for each replica of each service, all on this machine. Whatever ends by itself
 * is started again. A NATS server of ours lets each service do what the table says; the passwords live as long as this process.
 */
export async function startDistributed(config: DistributedConfig, say: (line: string) => void): Promise<Distributed> {
  const { dataDir, natsUrl, databaseUrl, replicas, host } = config;
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const passwords = new Map(services.map(({ name }) => [name as string, randomBytes(24).toString('base64url')]));
  const users = natsUsers(bus, (service) => JSON.stringify(passwords.get(service)));
  const nats = natsUrl === undefined ? guarded('nats', await startNats({ settings: users }), say) : undefined;
  const natsUrlOf = (service: ServiceName) => natsUrl ?? nats?.url.replace('//', `//${service}:${passwords.get(service)}@`);
  const postgres = databaseUrl === undefined
    ? guarded('postgres', await startPostgres({ directory: join(dataDir, 'postgres'), durable: true, settings: postgresSettings }), say) : undefined;
  const env = {
    NODE_COMPILE_CACHE: join(dataDir, 'compile-cache'),
    // glibc keeps a heap for each of a process's many threads otherwise, and gives little of them back.
    MALLOC_ARENA_MAX: '2',
    ...config.env,
    KEYLEDGER_DATA_DIR: dataDir, HOST: host, DATABASE_URL: databaseUrl ?? postgres?.url,
  };
  const start = ({ name, busy }: (typeof services)[number], replica: number, port: number) =>
    new Supervised({
      title: `${name}.${replica}`, args: [...(busy ? [] : sparing), mainOf(name)], env: { ...env, NATS_URL: natsUrlOf(name), PORT: String(port) }, keepsPort: name === 'gateway', say,
    });
  const running: (readonly [ServiceName, Supervised])[] = [];
  const turns = new Turns(Math.max(2, availableParallelism()));
  const isFirstStart = !existsSync(env.NODE_COMPILE_CACHE);
  for (const service of services.toReversed()) {
    const { name } = service;
    for (let replica = 1; replica <= replicas[name]; replica++) {
      const process = await turns.take(() => start(service, replica, name === 'gateway' && config.port > 0 ? config.port + replica - 1 : 0));
      running.push([name, process]);
      // What the first has compiled is most of what the others would compile themselves, all at once.
      if (isFirstStart && running.length === 1) await Promise.race([process.ready.then(() => process.flush()), sleep(TURN_MS, undefined, { ref: false })]);
    }
  }
  const processes = running.map(([, process]) => process);
  const close = async () => {
    for (const { name } of services) await Promise.all(running.flatMap(([service, process]) => (service === name ? [process.stop()] : [])));
    await Promise.all([nats?.stop(), postgres?.stop()]);
  };
  await Promise.all(processes.map(({ ready }) => ready));
  void inTurn(processes);
  return { urls: await Promise.all(running.flatMap(([service, { ready }]) => (service === 'gateway' ? [ready] : []))), close };
}

/** All at once they would stand still for so long that the NATS server is taken for gone. */
async function inTurn(processes: readonly Supervised[]): Promise<void> {
  for (const process of processes) await process.settle();
}

/** To start takes a core for a second or two. Who starts beside more others than there are cores only waits for them, and they for him. */
class Turns {
  readonly #starting = new Set<Promise<unknown>>();

  constructor(private readonly atOnce: number) {}

  async take(start: () => Supervised): Promise<Supervised> {
    while (this.#starting.size >= this.atOnce) await Promise.race(this.#starting);
    const process = start();
    // One that has trouble of its own does not keep the others from starting.
    const started: Promise<unknown> = Promise.race([process.ready, sleep(TURN_MS, undefined, { ref: false })]).finally(() => this.#starting.delete(started));
    this.#starting.add(started);
    return process;
  }
}

/** Whoever knows the password can act as anybody, and lines like these are kept. */
const withoutPassword = (url: string): string => url.replace(/:[^:@/]+@/, '@');

/** A server that is started again when it ends by itself. */
function guarded(title: string, server: Running, say: (line: string) => void): Pick<Running, 'url' | 'stop'> {
  const stopping = new AbortController();
  say(`${title} | ready at ${withoutPassword(server.url)}`);
  const watch = () => void server.ended.then(async () => {
    while (!stopping.signal.aborted) {
      try {
        say(`${title} | ended, starts again`);
        await server.restart();
        say(`${title} | ready at ${withoutPassword(server.url)}`);
        return watch();
      } catch (error) {
        say(`${title} | ${String(error)}`);
        await sleep(500);
      }
    }
  });
  watch();
  return {
    url: server.url,
    async stop() {
      stopping.abort();
      await server.stop();
    },
  };
}
