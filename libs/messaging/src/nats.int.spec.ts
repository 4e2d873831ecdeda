import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, jest } from '@jest/globals';
import { Query } from '@nestjs/cqrs';
import { runIn, systemClock, systemContext } from '@keyledger/kernel';
import { describeWith } from '@keyledger/servers/contract';
import { connect as connectBare } from '@nats-io/transport-node';
import { stopwatch, until } from '@keyledger/testing';
import { MessageClient } from './client.ts';
import { messagingContract } from './messaging.contract.ts';
import { NatsTransport } from './nats.ts';
import { handlerOf } from './server.ts';

class Ask extends Query<unknown> {
  static readonly subject = 'ask';
  question!: unknown;
}
const inContext = <T>(work: () => T): T => runIn(systemContext('production', systemClock.now('production')), work);
const unavailable = expect.objectContaining({ name: 'Refusal', code: 'UNAVAILABLE', status: 503 });

describeWith('nats', 'Messages between processes', (server) => {
  const open: NatsTransport[] = [];
  /** Resolves with the next change of the connection that a test waits for. */
  const statuses: { status: string; resolve: () => void }[] = [];
  const becomes = (status: string) => new Promise<void>((resolve) => statuses.push({ status, resolve }));

  async function connect(): Promise<NatsTransport> {
    const transport = await NatsTransport.connect({
      url: server().url, drainLimitMs: 2_000,
      onStatus: (now) => statuses.filter(({ status }) => status === now).forEach(({ resolve }) => resolve()),
    });
    open.push(transport);
    return transport;
  }
  const closeAll = () => Promise.all(open.splice(0).map((transport) => transport.close()));
  afterEach(closeAll);

  messagingContract('NatsTransport', async () => ({ connect, close: async () => void await closeAll(), sharesMemory: false }));

  async function answering(execute: (message: Ask) => unknown): Promise<NatsTransport> {
    const transport = await connect();
    await transport.serve('ask', 'q', handlerOf(Ask, execute, { clock: systemClock, onError: () => undefined }));
    return transport;
  }
  const ask = (transport: NatsTransport, question: unknown = 1, timeoutMs = 5_000) => inContext(() => new MessageClient(transport).send(Ask, { question }, { timeoutMs }));
  const elapsed = async (work: Promise<unknown>) => {
    const took = stopwatch();
    await work.catch(() => undefined);
    return took();
  };

  describe('when a process has stood still', () => {
    it.each(['its clock', 'the clock of its machine'])('it leaves what it was sent meanwhile, which nobody waits for any more, and then goes on (by %s)', async (by) => {
      const heard: unknown[] = [];
      // It must not look at its clock before the request is there.
      const looks: (() => void)[] = [];
      const timer = jest.spyOn(globalThis, 'setInterval').mockImplementation((look) => (looks.push(look as () => void), setTimeout(() => undefined, 0)));
      await answering(({ question }) => heard.push(question));
      timer.mockRestore();
      const client = await connect();
      await ask(client, 'before');
      const [clock, now] = by === 'its clock' ? [performance as Pick<typeof Date, 'now'>, performance.now.bind(performance)] : [Date, Date.now.bind(Date)];
      const clockOf = jest.spyOn(clock, 'now').mockImplementation(() => now() + 5_000);
      const meanwhile = expect(ask(client, 'meanwhile')).rejects.toEqual(unavailable);
      const looking = setInterval(() => looks.forEach((look) => look()), 200);
      await meanwhile;
      await ask(client, 'after');
      clearInterval(looking);
      clockOf.mockRestore();
      expect(heard).toEqual(['before', 'after']);
    });
  });

  describe('when the server goes away', () => {
    it('refuses at once, what is under way as well, and goes on by itself when it is back', async () => {
      await answering(({ question }) => (question === 'never' ? new Promise(() => undefined) : question));
      const client = await connect();
      expect(await ask(client)).toBe(1);
      const underWay = expect(ask(client, 'never')).rejects.toEqual(unavailable);
      const gone = becomes('disconnected');
      await server().kill();
      await gone;
      await underWay;
      expect(client.isConnected).toBe(false);
      expect(await elapsed(expect(ask(client)).rejects.toEqual(unavailable))).toBeLessThan(1_000);
      const [one, other] = [becomes('connected'), becomes('connected')];
      await server().restart();
      await Promise.all([one, other]);
      expect(await until(() => ask(client))).toBe(1);
    });

    it('is waited for by who comes before it', async () => {
      await server().kill();
      const coming = connect();
      await server().restart();
      expect((await coming).isConnected).toBe(true);
    });

    it('closes all the same', async () => {
      const transport = await answering(() => 1);
      const gone = becomes('disconnected');
      await server().kill();
      await gone;
      await transport.close();
      await server().restart();
    });
  });

  it('refuses within two seconds when the server says nothing any more, however long it would wait for a slow answer', async () => {
    await answering(({ question }) => question);
    const client = await connect();
    expect(await ask(client)).toBe(1);
    server().pause();
    try {
      expect(await elapsed(expect(ask(client, 1, 30_000)).rejects.toEqual(unavailable))).toBeLessThan(2_000);
    } finally {
      server().resume();
    }
    expect(await until(() => ask(client))).toBe(1);
  });

  it('refuses within two seconds what a process got that says nothing any more, and waits for one that takes its time', async () => {
    const hanging = await connectBare({ servers: new URL(server().url).host, user: new URL(server().url).username, pass: new URL(server().url).password });
    hanging.subscribe('ask', { queue: 'q' });
    await hanging.flush();
    const client = await connect();
    try {
      expect(await elapsed(expect(ask(client, 1, 30_000)).rejects.toEqual(unavailable))).toBeLessThan(2_000);
    } finally {
      await hanging.close();
    }
    await answering(async ({ question }) => {
      await sleep(2_000);
      return question;
    });
    expect(await ask(client)).toBe(1);
    await expect(ask(client, 1, 600)).rejects.toThrow('ask was not answered within 600 ms');
  });

  it('lets in nobody without the password', async () => {
    const { host } = new URL(server().url);
    for (const url of [`nats://${host}`, `nats://keyledger:wrong@${host}`]) await expect(NatsTransport.connect({ url })).rejects.toThrow(/authorization/i);
  });

  it('says so when it is refused for good by a server that had let it in: it would never come back', async () => {
    let connections = 0;
    const strict = createServer((socket) => {
      const isLetIn = ++connections === 1;
      socket.on('error', () => undefined).write(`INFO ${JSON.stringify({ server_id: 'x', version: '2.11.0', proto: 1, max_payload: 1_000_000, headers: true, auth_required: true })}\r\n`);
      socket.on('data', (data) => {
        if (!data.includes('PING')) return;
        if (isLetIn) return void socket.write('PONG\r\n');
        socket.end("-ERR 'Authorization Violation'\r\n");
      });
      if (isLetIn) setTimeout(() => socket.destroy(), 100);
    }).listen(0, '127.0.0.1');
    await once(strict, 'listening');
    const refused = Promise.withResolvers<void>();
    const transport = await NatsTransport.connect({
      url: `nats://keyledger:old@127.0.0.1:${(strict.address() as AddressInfo).port}`, onStatus: (status) => void (status === 'refused' && refused.resolve()),
    });
    expect(transport.tooLowALimit).toBe(1_000_000);
    await refused.promise;
    expect(transport.isConnected).toBe(false);
    await expect(ask(transport)).rejects.toEqual(unavailable);
    strict.close();
  });

  it('answers with a refusal what is too large for the server', async () => {
    await answering(({ question }) => 'x'.repeat(Number(question)));
    const client = await connect();
    await expect(ask(client, 9_000_000)).rejects.toMatchObject({ code: 'INTERNAL' });
    await expect(ask(client, 'x'.repeat(9_000_000))).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(await ask(client, 10)).toBe('xxxxxxxxxx');
  });

  it('refuses a second service for one subject: both would run the command', async () => {
    const transport = await answering(() => 1);
    await expect(transport.serve('ask', 'another', handlerOf(Ask, () => 1, { clock: systemClock, onError: () => undefined }))).rejects.toThrow('ask is served by q and another');
  });

  it('gives up waiting for a handler that never ends', async () => {
    const begun = Promise.withResolvers<void>();
    const transport = await answering(() => {
      begun.resolve();
      return new Promise(() => undefined);
    });
    const client = await connect();
    const refused = expect(ask(client, 1, 60)).rejects.toEqual(unavailable);
    await begun.promise;
    await refused;
    expect(await elapsed(transport.close())).toBeLessThan(4_000);
  });
});

