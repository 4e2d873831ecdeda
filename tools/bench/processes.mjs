// The processes of a run: the servers under test and the load generator.
import { execFile, fork, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const here = import.meta.dirname;
const running = new Set();
const folders = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
});

export const rootKey = 'benchmark-root-key-benchmark-root-key';
const unlimited = '1000000000';

export function newFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-bench-'));
  folders.add(folder);
  return folder;
}

/** A child that says on its output when and where it is ready. */
class Server {
  constructor(child, url, startMs) {
    Object.assign(this, { child, url, startMs, pid: child.pid, port: Number(new URL(url).port) });
  }

  static start(args, env = {}, { ready = /ready at (http:\/\/[\d.:]+)/, hear: tell = () => undefined } = {}) {
    const startedAt = performance.now();
    const child = spawn(process.execPath, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    return new Promise((resolve, reject) => {
      let said = '';
      const hear = (chunk) => {
        said += chunk;
        tell(said);
        const url = ready.exec(said)?.[1];
        if (url) resolve(new Server(child, url, performance.now() - startedAt));
      };
      child.stdout.on('data', hear);
      child.stderr.on('data', (chunk) => {
        said += chunk;
        process.stderr.write(chunk);
      });
      child.on('exit', (code) => {
        running.delete(child);
        reject(new Error(`${args.join(' ')} ended with ${code}: ${said}`));
      });
    });
  }

  stop(signal = 'SIGTERM') {
    return new Promise((resolve) => {
      this.child.once('exit', resolve);
      this.child.kill(signal);
    });
  }

  /** Resident memory, in MB. */
  get memory() {
    return residentMemory(this.pid);
  }

  /** Of the processes that it has started, in MB by command. */
  get children() {
    return new Map(childrenOf(this.pid).map((pid) => [readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').find((part) => part.endsWith('.js')), residentMemory(pid)]));
  }

  /** CPU time so far in µs: of the main threads of it and what it has started, and of all others together. NaN where there is no /proc. */
  get cpu() {
    try {
      const all = [this.pid, ...childrenOf(this.pid)].map(cpuOf);
      const sum = (times) => times.reduce((total, time) => total + time, 0);
      return { main: sum(all.map(({ main }) => main)), others: sum(all.map(({ others }) => others)) };
    } catch {
      return { main: NaN, others: NaN };
    }
  }
}

const childrenOf = (pid) => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);

function cpuOf(pid) {
  const threads = readdirSync(`/proc/${pid}/task`).map((id) => [Number(id), Number(readFileSync(`/proc/${pid}/task/${id}/schedstat`, 'utf8').split(' ')[0]) / 1000]);
  const sum = (some) => some.reduce((total, [, time]) => total + time, 0);
  return { main: sum(threads.filter(([id]) => id === pid)), others: sum(threads.filter(([id]) => id !== pid)) };
}

const residentMemory = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024;

export const startEcho = () => Server.start([join(here, 'echo.mjs')]);

export const agentToken = 'benchmark-agent-token';

/** A license agent that has its license. */
export async function startAgent(env) {
  const agent = await Server.start([join(here, '../../apps/license-agent/dist/main.js')], { AGENT_PORT: '0', AGENT_TOKEN: agentToken, AGENT_DATA_DIR: newFolder(), LOG_LEVEL: 'warn', ...env });
  const isLicensed = async () => (await (await fetch(`${agent.url}/api/license`, { headers: { authorization: `Bearer ${agentToken}` } })).json()).status === 'active';
  while (!(await isLicensed())) await sleep(50);
  return agent;
}

/** The built product on an empty folder, or on one that it has worked in before. `readyWithinMs`: for read models that have yet to be built. */
export async function startProduct(folder = newFolder(), nodeOptions = [], readyWithinMs = 0) {
  const server = await Server.start([...nodeOptions, join(here, '../../dist/standalone.js')], {
    PORT: String(await freePort()), HOST: '127.0.0.1', KEYLEDGER_DATA_DIR: folder, KEYLEDGER_ROOT_API_KEY: rootKey, LOG_LEVEL: 'warn',
    // High rather than off, so that what they cost is measured too.
    KEYLEDGER_RATE_LIMIT_PER_KEY: unlimited, KEYLEDGER_RATE_LIMIT_UNKNOWN_KEYS: unlimited, KEYLEDGER_RATE_LIMIT_PER_API_KEY: unlimited,
  });
  const until = performance.now() + readyWithinMs;
  while (!(await fetch(`${server.url}/health/ready`)).ok) {
    if (performance.now() >= until) throw new Error('It says that it is ready, but /health/ready does not');
    await sleep(200);
  }
  return Object.assign(server, { folder });
}

/** A process per service on servers that are there. `services`: what each said when it was ready, seconds after its start by name. */
export async function startDistributed({ nats, postgres }) {
  const folder = newFolder();
  const services = new Map();
  const server = await Server.start([join(here, '../../apps/distributed/dist/main.js')], {
    PORT: String(await freePort()), HOST: '127.0.0.1', KEYLEDGER_DATA_DIR: folder, KEYLEDGER_ROOT_API_KEY: rootKey, LOG_LEVEL: 'warn', NATS_URL: nats, DATABASE_URL: postgres,
    KEYLEDGER_RATE_LIMIT_PER_KEY: unlimited, KEYLEDGER_RATE_LIMIT_UNKNOWN_KEYS: unlimited, KEYLEDGER_RATE_LIMIT_PER_API_KEY: unlimited,
  }, { ready: /Keyledger is ready at (http:\/\/[\d.:]+)/, hear: (text) => {
    for (const [, name, after] of text.matchAll(/^\S+ \| (\S+) is ready at \S+ ([\d.]+) s after/gm)) services.set(name, Number(after));
  } });
  return Object.assign(server, { folder, services, cpuByProgram: () => cpuByProgram(server.pid) });
}

/** CPU time so far in µs of each service together, and of the servers that this process has started; empty where there is no /proc. */
function cpuByProgram(pid) {
  const times = new Map();
  const add = (name, one) => {
    const { main, others } = cpuOf(one);
    times.set(name, (times.get(name) ?? 0) + main + others);
  };
  try {
    for (const child of childrenOf(pid)) add(/\/dist\/([^/.]+)\.js/.exec(readFileSync(`/proc/${child}/cmdline`, 'utf8'))?.[1], child);
    for (const child of childrenOf(process.pid)) {
      const name = readFileSync(`/proc/${child}/comm`, 'utf8').trim();
      if (name === 'nats-server' || name === 'postgres') for (const one of [child, ...childrenOf(child)]) add(name, one);
    }
    return times;
  } catch {
    return new Map();
  }
}

/** The bare NATS client asking and answering in processes of their own. */
export const natsResponder = (url) => Server.start([join(here, 'nats.mjs'), 'reply', url]);
export async function natsRequester(url, concurrency) {
  const child = fork(join(here, 'nats.mjs'), ['request', url, String(concurrency)]);
  running.add(child);
  const ended = new Promise((_, reject) => child.once('exit', () => reject(new Error('The NATS client has ended'))));
  ended.catch(() => running.delete(child));
  const said = () => Promise.race([ended, new Promise((resolve) => child.once('message', resolve))]);
  await said();
  return {
    /** Requests a second. */
    perSecond(seconds) {
      child.send(seconds);
      return said();
    },
    stop: () => child.disconnect(),
  };
}
/** Appends a second of single events. */
export async function appends(where, seconds, concurrency) {
  const { stdout } = await promisify(execFile)(process.execPath, [join(here, 'appends.mjs'), where, seconds, concurrency].map(String));
  return Number(stdout);
}

export function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Runs load, one job at a time. */
export class Generator {
  #child = fork(join(here, 'load.mjs'));

  constructor() {
    running.add(this.#child);
  }

  /** Answers one result per stream, and the share of a core that the generator itself took (`busy`). */
  run(job) {
    return new Promise((resolve, reject) => {
      this.#child.once('message', (answer) => (answer.error ? reject(new Error(answer.error)) : resolve(answer)));
      this.#child.send(job);
    });
  }

  /** Makes a list of values known by a name. */
  define(name, values) {
    this.#child.send({ define: [name, values] });
  }

  /** One stream against one server: rates and latencies, and the server's CPU time in µs per request. */
  async measure(server, stream, seconds) {
    const [before, by] = [server.cpu, server.cpuByProgram?.()];
    const { results: [result], busy } = await this.run({ seconds, streams: [{ ...stream, port: server.port }] });
    const after = server.cpu;
    const perRequest = by && Object.fromEntries([...server.cpuByProgram()].map(([name, time]) => [name, Math.round((time - (by.get(name) ?? 0)) / result.count)]));
    return { ...result, busy, ...(perRequest && { perRequest }), cpu: (after.main - before.main) / result.count, cpuOthers: (after.others - before.others) / result.count };
  }

  stop() {
    this.#child.disconnect();
  }
}

export { sleep };
