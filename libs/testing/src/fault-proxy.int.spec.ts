import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, expect, it } from '@jest/globals';
import { NatsTransport } from '@keyledger/messaging/nats';
import { describeWith } from '@keyledger/servers/contract';
import pg from 'pg';
import { FaultProxy, type MessageFaults } from './fault-proxy.ts';
import { stopwatch } from './stopwatch.ts';
import { until } from './until.ts';

const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function proxyOf(url: string): Promise<FaultProxy> {
  const proxy = await FaultProxy.open(url);
  ends.push(() => proxy.close());
  return proxy;
}

const elapsed = async (work: Promise<unknown>): Promise<number> => {
  const from = performance.now();
  await work.catch(() => undefined);
  return performance.now() - from;
};

describeWith('nats', 'A proxy before messages', (server) => {
  /** A service that repeats what it is told, and writes it down; both sides connect through the proxy. */
  async function talk(faults?: MessageFaults) {
    const proxy = await proxyOf(server().url);
    const subject = `say.${crypto.randomUUID()}`;
    const said: string[] = [];
    const changes: { status: string; resolve: () => void }[] = [];
    const onStatus = (now: string) => changes.filter(({ status }) => status === now).forEach(({ resolve }) => resolve());
    const [service, client] = await Promise.all([NatsTransport.connect({ url: proxy.url, drainLimitMs: 200 }), NatsTransport.connect({ url: proxy.url, drainLimitMs: 200, onStatus })]);
    ends.push(async () => void await Promise.all([service.close(), client.close()]));
    const answer = async ({ body }: { body: string }) => {
      said.push(body);
      return { head: {}, body: `heard ${body}` };
    };
    await service.serve(subject, 'q', { answer, execute: () => undefined });
    await client.request(subject, { head: {}, body: 'warm' }, 5_000);
    said.length = 0;
    const counted = { ...proxy.met };
    if (faults) proxy.meddle(faults);
    const say = async (what: number, timeoutMs = 5_000) => (await client.request(subject, { head: { with: 'words of its own' }, body: `${what}` }, timeoutMs)).body;
    const met = () => Object.fromEntries(Object.entries(proxy.met).map(([fate, count]) => [fate, count - counted[fate as keyof typeof counted]]));
    return { proxy, said, say, met, client, becomes: (status: string) => new Promise<void>((resolve) => changes.push({ status, resolve })) };
  }
  const numbers = Array.from({ length: 300 }, (_, n) => n);
  const heard = numbers.map((n) => `heard ${n}`);
  /** Each in a turn of its own, and so in a message of its own. */
  async function each(say: (n: number) => Promise<string>): Promise<PromiseSettledResult<string>[]> {
    const answers: Promise<string>[] = [];
    for (const n of numbers) {
      answers.push(say(n));
      await nextTurn();
    }
    return Promise.allSettled(answers);
  }
  const all = async (say: (n: number) => Promise<string>) => (await each(say)).map((answer) => (answer.status === 'fulfilled' ? answer.value : String(answer.reason)));

  it('passes all of them, as they were, on all of their four ways', async () => {
    const { say, said, met } = await talk();
    expect(await all(say)).toEqual(heard);
    expect(said.map(Number)).toEqual(numbers);
    const { passed, ...meddled } = met();
    expect(meddled).toEqual({ dropped: 0, duplicated: 0, reordered: 0, delayed: 0 });
    // Every question is seen twice, and answers may share a message.
    expect(passed).toBeGreaterThan(600);
    expect(passed).toBeLessThanOrEqual(1_200);
  });

  it('duplicates: the service hears some of them several times, and nobody gets the wrong answer', async () => {
    const { say, said } = await talk({ seed: 1, duplicate: 0.3 });
    expect(await all(say)).toEqual(heard);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(new Set(said.map(Number))).toEqual(new Set(numbers));
    expect(said.length).toBeGreaterThan(1.3 * numbers.length);
  });

  it('reorders: the service hears them in another order, each once', async () => {
    const { say, said } = await talk({ seed: 2, reorder: 0.3, window: 20 });
    expect(await all(say)).toEqual(heard);
    const came = said.map(Number);
    expect(came).not.toEqual(numbers);
    expect(came.toSorted((a, b) => a - b)).toEqual(numbers);
    const furthest = Math.max(...came.map((n, at) => Math.abs(n - at)));
    expect(furthest).toBeGreaterThan(5);
  });

  it('delays: all of them come, some late', async () => {
    const { say, met } = await talk({ seed: 3, delay: 0.1, delayMs: 200 });
    expect(await elapsed(all(say))).toBeGreaterThan(150);
    expect(met()['delayed']).toBeGreaterThan(60);
  });

  it('drops: who is not answered is told so, requests and replies alike', async () => {
    const { say, said } = await talk({ seed: 4, drop: 0.1 });
    const answers = await each((n) => say(n, 500));
    const answered = answers.filter(({ status }) => status === 'fulfilled').length;
    expect(answered).toBeGreaterThan(0.5 * numbers.length);
    expect(said.length).toBeLessThan(numbers.length);
    expect(answered).toBeLessThan(said.length);
    for (const answer of answers) if (answer.status === 'rejected') expect(answer.reason).toMatchObject({ code: 'UNAVAILABLE' });
  });

  it('does the same again with the same seed, to one message after the other', async () => {
    const once = async (seed: number) => {
      const { say, met } = await talk({ seed, reorder: 0.2, delay: 0.3, lateMs: 1, delayMs: 3 });
      for (const n of numbers.slice(0, 40)) await say(n);
      return met();
    };
    const [one, two, other] = [await once(5), await once(5), await once(6)];
    expect(two).toEqual(one);
    expect(other).not.toEqual(one);
  });

  it('cuts, and lets them in again', async () => {
    const { proxy, say, becomes } = await talk();
    const [gone, back] = [becomes('disconnected'), becomes('connected')];
    proxy.cut();
    await gone;
    await expect(say(1)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await proxy.pass();
    await back;
    expect(await until(() => say(2))).toBe('heard 2');
  });

  it('refuses newcomers, and lets the others talk', async () => {
    const { proxy, say } = await talk();
    proxy.refuse();
    expect(await say(1)).toBe('heard 1');
    const newcomer = FaultProxy.open(proxy.url).then(async (second) => {
      ends.push(() => second.close());
      const transport = NatsTransport.connect({ url: second.url });
      ends.push(async () => (await transport).close());
      return transport;
    });
    expect(await Promise.race([newcomer.then(() => 'in'), new Promise((resolve) => setTimeout(() => resolve('out'), 300))])).toBe('out');
    await proxy.pass();
    expect((await newcomer).isConnected).toBe(true);
  });

  it('is silent, to those who are there and to newcomers', async () => {
    const { proxy, say, said, becomes } = await talk();
    const [gone, back] = [becomes('disconnected'), becomes('connected')];
    proxy.silence();
    expect(await elapsed(say(1))).toBeGreaterThan(400);
    await gone;
    expect(said).toEqual([]);
    await proxy.pass();
    await back;
    expect(await until(() => say(2))).toBe('heard 2');
  });

  it('is slow', async () => {
    const { proxy, say } = await talk();
    proxy.delay(100);
    expect(await elapsed(Promise.all([say(1), say(2)]))).toBeGreaterThan(400);
    await proxy.pass();
    const took = stopwatch();
    await say(3);
    expect(took()).toBeLessThan(300);
  });
});

describeWith('postgres', 'A proxy before a database behind a unix socket', (server) => {
  async function connect(url: string): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 300 });
    client.on('error', () => undefined);
    await client.connect();
    ends.push(() => client.end().catch(() => undefined));
    return client;
  }

  it('passes, is silent, cuts and passes again', async () => {
    const proxy = await proxyOf(server().url);
    const client = await connect(proxy.url);
    expect((await client.query('select 1 as n')).rows).toEqual([{ n: 1 }]);
    proxy.silence();
    const answer = client.query('select 2 as n');
    await expect(connect(proxy.url)).rejects.toThrow();
    await proxy.pass();
    expect((await answer).rows).toEqual([{ n: 2 }]);
    proxy.cut();
    await expect(client.query('select 3')).rejects.toThrow();
    await expect(connect(proxy.url)).rejects.toThrow();
    await proxy.pass();
    expect((await (await connect(proxy.url)).query('select 4 as n')).rows).toEqual([{ n: 4 }]);
    expect(() => proxy.meddle({ seed: 1 })).toThrow('Only messages');
  });
});

