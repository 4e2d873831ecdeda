import { execFileSync, fork, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { EventStoreDbDouble } from './eventstoredb-double.contract.ts';
import type { Order, Report } from './eventstoredb-double-process.contract.ts';
import { EventStoreDbEventStores } from './eventstoredb.ts';

export interface TestServer {
  readonly url: string;
  /** Only for a server that the test has started. */
  readonly own?: Readonly<Record<Order, () => void | Promise<void>>>;
  stop(): void | Promise<void>;
}

const IMAGE = 'eventstore/eventstore:24.10';
const given = process.env['KEYLEDGER_TEST_EVENTSTORE_URL'];
const docker = (...args: string[]): void => { execFileSync('docker', args, { stdio: 'ignore', timeout: 300_000 }); };
const hasDocker = given === undefined && spawnSync('docker', ['info'], { stdio: 'ignore', timeout: 5_000 }).status === 0;

/** Which server the tests on this machine use. */
export const serverKind = given !== undefined ? 'the EventStoreDB of KEYLEDGER_TEST_EVENTSTORE_URL' : hasDocker ? `${IMAGE} in Docker` : undefined;

/** A real server if possible: the given one, else a container. Otherwise the double; `apart`: in its own process, which a busy test does not block. */
export async function startServer({ apart = false } = {}): Promise<TestServer> {
  if (given !== undefined) return { url: given, stop: () => undefined };
  if (hasDocker) return startContainer();
  if (apart) return startDoubleApart();
  const double = await EventStoreDbDouble.start();
  return { url: double.url, own: double, stop: () => double.kill() };
}

async function startDoubleApart(): Promise<TestServer> {
  const child = fork(fileURLToPath(new URL('./eventstoredb-double-process.contract.ts', import.meta.url)), { execArgv: ['--no-warnings'] });
  const reports = async (): Promise<Report> => (await once(child, 'message') as [Report])[0];
  const report = await Promise.race([reports(), once(child, 'exit')]);
  if (!('url' in report)) throw new Error('The double of EventStoreDB ended at its start');
  const order = (name: Order) => async () => {
    const done = reports();
    child.send(name);
    await done;
  };
  return {
    url: report.url, own: { kill: order('kill'), restart: order('restart'), hang: order('hang'), resume: order('resume') },
    async stop() {
      if (!child.connected) return;
      const ended = once(child, 'exit');
      child.disconnect();
      await ended;
    },
  };
}

/** Not in memory: events written must survive a restart. */
async function startContainer(): Promise<TestServer> {
  const name = `keyledger-eventstoredb-${randomUUID()}`;
  const port = await freePort();
  const url = `esdb://127.0.0.1:${port}?tls=false`;
  docker('run', '--detach', '--name', name, '--publish', `127.0.0.1:${port}:2113`, IMAGE, '--insecure', '--max-append-size', '16777216');
  const stop = () => docker('rm', '--force', '--volumes', name);
  try {
    await answers(url);
  } catch (error) {
    stop();
    throw error;
  }
  const restart = () => {
    docker('start', name);
    return answers(url);
  };
  return { url, stop, own: { kill: () => docker('kill', name), restart, hang: () => docker('pause', name), resume: () => docker('unpause', name) } };
}

async function answers(url: string): Promise<void> {
  for (const deadline = Date.now() + 60_000; ;) {
    try {
      return await (await EventStoreDbEventStores.open({ url, environments: ['ready'] })).close();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(200);
    }
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
