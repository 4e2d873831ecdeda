import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { TestClock, Vendor } from './vendor.contract.ts';

interface Standing { readonly isLeader: boolean; readonly fingerprint: string; readonly instanceId: string | null; readonly code: string; readonly valid: boolean; readonly conflicts: number; readonly waiting: number }

let vendor: Vendor;
let server: Server;
const folder = mkdtempSync(join(tmpdir(), 'keyledger-sdk-'));
const running = new Set<ChildProcess>();
beforeAll(async () => {
  vendor = await Vendor.open(new TestClock());
  vendor.now = Date.now;
  vendor.terms = { ...vendor.terms, validationMode: 'heartbeat' };
  server = createServer((request, response) => void (async () => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const answer = await vendor.fetch(`http://vendor${request.url}`, { method: request.method ?? 'GET', headers: request.headers as Record<string, string>, ...(body && { body }) });
    response.writeHead(answer.status, { 'content-type': String(answer.headers.get('content-type')) }).end(await answer.text());
  })());
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
});
afterAll(async () => {
  for (const child of running) child.kill('SIGKILL');
  server.closeAllConnections();
  await new Promise((closed) => server.close(closed));
  rmSync(folder, { recursive: true });
});

class Worker {
  readonly #child: ChildProcess;
  readonly #lines: Interface;

  constructor(readonly name: string) {
    const options = { name, server: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, key: vendor.licenseKey, roots: vendor.roots, path: join(folder, 'license'), takeOverMs: 1_000 };
    const loader = fileURLToPath(new URL('../../../tools/swc-register.mjs', import.meta.url));
    this.#child = spawn(process.execPath, ['--conditions=@keyledger/source', '--no-warnings', '--import', loader, fileURLToPath(new URL('./process.contract.ts', import.meta.url)), JSON.stringify(options)], { stdio: ['pipe', 'pipe', 'inherit'] });
    running.add(this.#child);
    this.#lines = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream });
  }

  async tell(line: 'activate' | 'start' | 'use' | 'deactivate' | 'dispose' | 'look'): Promise<Standing> {
    const answer = once(this.#lines, 'line');
    this.#child.stdin?.write(`${line}\n`);
    return JSON.parse(String((await answer)[0])) as Standing;
  }

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child.kill(signal);
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
    running.delete(this.#child);
  }
}

const all = (workers: readonly Worker[], line: Parameters<Worker['tell']>[0]): Promise<Standing[]> => Promise.all(workers.map((worker) => worker.tell(line)));
const beats = () => vendor.asked.filter(({ path }) => path.endsWith('/heartbeat')).map(({ body }) => body as { seq: number; nonce: string; version: string });
const refusals = () => vendor.answered.filter(({ path, answer }) => path.endsWith('/heartbeat') && answer[0] !== 200);
async function until<T>(ask: () => T | Promise<T>, isSo: (value: T) => boolean): Promise<T> {
  for (const end = Date.now() + 15_000; ;) {
    const value = await ask();
    if (isSo(value)) return value;
    if (Date.now() > end) throw new Error(`It never became so: ${JSON.stringify(value)}`);
    await wait(50);
  }
}
async function leaderOf(workers: readonly Worker[]): Promise<Worker> {
  const standings = await until(() => all(workers, 'look'), (now) => now.filter(({ isLeader }) => isLeader).length === 1);
  return workers[standings.findIndex(({ isLeader }) => isLeader)] as Worker;
}
const beatsOn = async () => {
  const before = beats().length;
  await until(() => beats().length, (now) => now > before + 1);
};

describe('Processes that share a store', () => {
  let workers = [] as Worker[];

  it('are one installation, whichever is first, and one of them sends heartbeats', async () => {
    workers = Array.from({ length: 3 }, (_, n) => new Worker(`worker-${n + 1}`));
    const seats = await all(workers, 'activate');
    expect(new Set(seats.map(({ fingerprint, instanceId }) => `${fingerprint} ${instanceId}`)).size).toBe(1);
    await all(workers, 'start');
    const leader = await leaderOf(workers);
    await beatsOn();
    expect(new Set(beats().map(({ version }) => version))).toEqual(new Set([leader.name]));
    expect(refusals()).toEqual([]);
  });

  it('know what the leader has heard, and the usage of the others is reported once', async () => {
    const leader = await leaderOf(workers);
    const [follower, other] = workers.filter((one) => one !== leader) as [Worker, Worker];
    const questions = () => vendor.asked.filter(({ path }) => path === '/license/validate').length;
    Object.assign(vendor, { seq: 5, verdict: { valid: false, code: 'SUSPENDED', reasons: ['SUSPENDED'], enforcement: 'LOCKED' } });
    await until(() => all(workers, 'look'), (now) => now.every(({ code }) => code === 'SUSPENDED'));
    Object.assign(vendor, { seq: 6, verdict: {} });
    await until(() => all(workers, 'look'), (now) => now.every(({ valid }) => valid));
    // Only the leader has asked, because it may go on again.
    expect(questions()).toBeLessThan(6);
    await all([follower, other], 'use');
    await until(() => all(workers, 'look'), (now) => now.every(({ waiting }) => waiting === 0));
    const used = vendor.asked.filter(({ path }) => path === '/license/usage').flatMap(({ body }) => (body as { records: { id: string }[] }).records.map(({ id }) => id));
    expect([used.length, new Set(used).size]).toEqual([2, 2]);
  });

  it('go on when the leader is killed, held up or ended, and no heartbeat is taken for that of a clone', async () => {
    for (let kills = 0; kills < 2; kills++) {
      const leader = await leaderOf(workers);
      await leader.kill();
      workers = [...workers.filter((one) => one !== leader), new Worker(`worker-${4 + kills}`)];
      await (workers.at(-1) as Worker).tell('start');
      await leaderOf(workers);
      await beatsOn();
    }
    const heldUp = await leaderOf(workers);
    heldUp.signal('SIGSTOP');
    const others = workers.filter((one) => one !== heldUp);
    await leaderOf(others);
    await beatsOn();
    heldUp.signal('SIGCONT');
    expect((await leaderOf(workers)).name).not.toBe(heldUp.name);
    await beatsOn();

    const ended = await leaderOf(workers);
    await ended.tell('dispose');
    workers = workers.filter((one) => one !== ended);
    await leaderOf(workers);
    await beatsOn();

    expect(refusals()).toEqual([]);
    const nonces = Map.groupBy(beats(), ({ seq }) => seq);
    expect([...nonces.values()].map((same) => new Set(same.map(({ nonce }) => nonce)).size).filter((count) => count > 1)).toEqual([]);
    expect((await all(workers, 'look')).map(({ valid, conflicts }) => [valid, conflicts])).toEqual(workers.map(() => [true, 0]));
  });

  it('have no seat any more when one of them has given it back', async () => {
    const leader = await leaderOf(workers);
    const follower = workers.find((one) => one !== leader) as Worker;
    await follower.tell('deactivate');
    await until(() => all(workers, 'look'), (now) => now.every(({ instanceId, code }) => instanceId === null && code === 'NOT_ACTIVATED'));
    await all(workers, 'dispose');
    // The next leader takes over what the others have told, and removes what the killed ones were writing. It need not wait for the lead.
    const left = readdirSync(folder).filter((name) => !/\.(?:told|tmp)$/.test(name)).sort();
    expect(left).toEqual(['license', expect.stringMatching(/^license\.lead-\d+$/)]);
    expect(readFileSync(join(folder, left[1] as string), 'utf8')).toBe('given back');
  });
});
