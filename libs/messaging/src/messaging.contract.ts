import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Command, Query } from '@nestjs/cqrs';
import { InMemorySpanExporter } from '@opentelemetry/sdk-trace';
import { context, hasContext, refuse, runIn, systemContext, type Clock, type MessageContext } from '@keyledger/kernel';
import { startTracing, traced } from '@keyledger/observability';
import { MessageClient } from './client.ts';
import type { Message, MessageType, ResultOf } from './message.ts';
import { handlerOf } from './server.ts';
import type { Transport } from './transport.ts';

class Rename extends Command<{ name: string; tags: string[] }> {
  static readonly subject = 'contract.rename';
  readonly type = 'Rename';
  name!: string;
  tags!: string[];
  at?: string;

  shouted(): string {
    return this.name.toUpperCase();
  }
}
class Forward extends Command<unknown> {
  static readonly subject = 'contract.forward';
  readonly type = 'Forward';
  name!: string;
}
class Ask extends Query<unknown> {
  static readonly subject = 'contract.ask';
  question!: unknown;
}
class Validate extends Query<{ seen: object }> {
  static readonly subject = 'contract.validate';
  static readonly direct = true;
  subjectOfIt!: { name: string };
}

/** Where messages travel. Every `connect` is one process's transport; on one host they may be the same. */
export interface Network {
  connect(): Promise<Transport>;
  close(): Promise<void>;
  /** Both sides of a direct message are in one process. */
  readonly sharesMemory: boolean;
}

/** What every transport must do, seen through the client and a handler, as services see it. */
export const messagingContract = (name: string, open: () => Promise<Network>) => describe(`${name} is a transport that`, () => {
  const start = '2026-11-21T00:00:00.000Z';
  const received = '2027-01-01T00:00:00.000Z';
  const clock: Clock = {
    now(environment) {
      if (environment === 'nowhere') throw new Error(`no clock for ${environment}`);
      return environment === 'staging' ? '2030-01-01T00:00:00.000Z' : environment === 'moving' ? moving.now : received;
    },
    current: (environment) => (environment === 'moving' ? moving.reached.promise : undefined),
  };
  /** An environment whose clock is being put forward: who hears that first, and who has heard. */
  let moving: { now: string; reached: PromiseWithResolvers<void> };
  let network: Network;
  let client: MessageClient;
  let clientSide: Transport;
  let server: Transport;
  let errors: { error: unknown; correlationId: string }[];
  let outcomes: string[];

  beforeEach(async () => {
    network = await open();
    clientSide = await network.connect();
    client = new MessageClient(clientSide);
    server = await network.connect();
    errors = [];
    outcomes = [];
    moving = { now: start, reached: Promise.withResolvers() };
  });
  afterEach(() => network.close());

  async function serve<M extends Message>(type: MessageType<M>, execute: (message: M) => ResultOf<M> | Promise<ResultOf<M>>, queue = 'contract') {
    await server.serve(type.subject, queue, handlerOf(type, execute, {
      clock,
      onError: (error) => errors.push({ error, correlationId: hasContext() ? context().correlationId : 'none' }),
      onHandled: (subject, outcome) => outcomes.push(`${subject} ${outcome}`),
    }));
  }

  const asking = <T>(work: () => T, over: Partial<MessageContext> = {}): T => runIn({ ...systemContext('production', start), ...over }, work);
  const code = (expected: string) => expect.objectContaining({ name: 'Refusal', code: expected });

  describe('carries requests', () => {
    it('as instances of the message class, and answers', async () => {
      await serve(Rename, (message) => ({ name: message.shouted(), tags: [message.type, ...message.tags] }));
      expect(await asking(() => client.send(Rename, { name: 'ada', tags: ['x'] }))).toEqual({ name: 'ADA', tags: ['Rename', 'x'] });
      expect(outcomes).toEqual(['contract.rename answered']);
    });

    it.each([[undefined], [null], [0], [''], [false], ['Zoë 🔑 \u0000\n"\\ \u2028 漢字'], [{ a: [1, { b: null }] }], ['€'.repeat(100_000)]])('with any JSON value both ways (%#)', async (value) => {
      await serve(Ask, ({ question }) => question);
      expect(await asking(() => client.send(Ask, { question: value }))).toEqual(value);
    });

    it('whose class is decided by the subject, not by what came in', async () => {
      await serve(Rename, (message) => ({ name: message.type, tags: [] }));
      const forged = { name: 'x', tags: [], type: 'Revoke' };
      expect(await asking(() => client.send(Rename, forged))).toEqual({ name: 'Rename', tags: [] });
    });

    it('as copies: what one side changes, the other does not see', async () => {
      const kept: { tags?: string[] } = {};
      await serve(Rename, (message) => {
        message.tags.push('by the handler');
        kept.tags = message.tags;
        return { name: message.name, tags: message.tags };
      });
      const tags = ['mine'];
      const answer = await asking(() => client.send(Rename, { name: 'x', tags }));
      answer.tags.push('by the caller');
      expect(tags).toEqual(['mine']);
      expect(kept.tags).toEqual(['mine', 'by the handler']);
    });

    it('without fields that are undefined, and with dates as text', async () => {
      await serve(Ask, (message) => [Object.keys(message), message.question]);
      expect(await asking(() => client.send(Ask, { question: { at: new Date(start), none: undefined } }))).toEqual([['question'], { at: start }]);
      await serve(Rename, (message) => ({ name: String('at' in message), tags: [] }));
      expect(await asking(() => client.send(Rename, { name: 'x', tags: [], at: undefined }))).toEqual({ name: 'false', tags: [] });
    });

    it('directly when the class says so and both sides share memory, else as copies', async () => {
      await serve(Validate, ({ subjectOfIt }) => ({ seen: subjectOfIt }));
      const subjectOfIt = { name: 'the same object' };
      const { seen } = await asking(() => client.send(Validate, { subjectOfIt }));
      expect(seen).toEqual(subjectOfIt);
      expect(seen === subjectOfIt).toBe(network.sharesMemory);
    });
  });

  describe.each([['a message', Ask, 'question'], ['a direct message', Validate, 'subjectOfIt']] as const)('answers %s', (_, type, field) => {
    const send = (options?: Parameters<MessageClient['send']>[2]) => asking(() => client.send<Message>(type, { [field]: { name: 'x' } }, options), { correlationId: 'cor-7' });

    it('with the refusal that the handler threw: code, detail, members and status', async () => {
      await serve<Message>(type, () => { throw refuse('ACTIVATION_LIMIT_EXCEEDED', 'Zoë: 3 of 3 in use', { limit: 3, instances: ['ä'] }); });
      const refusal = await send().catch((error: unknown) => error);
      expect(refusal).toEqual(code('ACTIVATION_LIMIT_EXCEEDED'));
      expect(refusal).toMatchObject({ message: 'Zoë: 3 of 3 in use', members: { limit: 3, instances: ['ä'] }, status: 409 });
      expect(outcomes).toEqual([`${type.subject} refused`]);
      expect(errors).toEqual([]);
    });

    it.each([['throws', () => { throw new TypeError('secret at /srv/x.ts'); }], ['rejects', async () => { throw new TypeError('secret at /srv/x.ts'); }]])(
      'with INTERNAL and nothing else when the handler %s', async (_how, crash) => {
        await serve<Message>(type, crash);
        const refusal = await send().catch((error: unknown) => error);
        expect(refusal).toEqual(code('INTERNAL'));
        expect(`${JSON.stringify(refusal)}${String(refusal)}${(refusal as Error).cause}`).not.toMatch(/secret|srv|TypeError/);
        expect(errors).toEqual([{ error: expect.objectContaining({ message: 'secret at /srv/x.ts' }), correlationId: 'cor-7' }]);
        expect(outcomes).toEqual([`${type.subject} failed`]);
      });

    it('by the clock that the environment has by then', async () => {
      const at: string[] = [];
      await serve<Message>(type, () => void at.push(context().now));
      const asked = send({ environment: 'moving' });
      await send({ environment: 'staging' });
      Object.assign(moving, { now: '2031-01-01T00:00:00.000Z' }).reached.resolve();
      await asked;
      expect(at).toEqual(['2030-01-01T00:00:00.000Z', '2031-01-01T00:00:00.000Z']);
    });

    it('with the refusal of a clock that cannot be known', async () => {
      await serve<Message>(type, () => 'never');
      moving.reached.reject(refuse('READ_MODEL_BEHIND'));
      await expect(send({ environment: 'moving' })).rejects.toEqual(code('READ_MODEL_BEHIND'));
      expect(outcomes).toEqual([`${type.subject} refused`]);
    });

    it('with INTERNAL when it cannot even be begun', async () => {
      await serve<Message>(type, () => 'never');
      const refusal = await send({ environment: 'nowhere' }).catch((error: unknown) => error);
      expect(refusal).toEqual(code('INTERNAL'));
      expect(String(refusal)).not.toMatch('nowhere');
      expect(errors).toEqual([{ error: expect.objectContaining({ message: 'no clock for nowhere' }), correlationId: expect.anything() }]);
    });

    it('with UNAVAILABLE when nobody serves it', async () => {
      await expect(send()).rejects.toEqual(code('UNAVAILABLE'));
    });

    it('with UNAVAILABLE when the answer does not come in time', async () => {
      const never = Promise.withResolvers<unknown>();
      await serve<Message>(type, () => never.promise);
      await expect(send({ timeoutMs: 20 })).rejects.toEqual(code('UNAVAILABLE'));
      never.resolve(undefined);
    });
  });

  it('answers INTERNAL when the answer cannot be written as JSON', async () => {
    await serve(Ask, () => ({ big: 1n }));
    await expect(asking(() => client.send(Ask, { question: 1 }))).rejects.toEqual(code('INTERNAL'));
    expect(errors).toHaveLength(1);
  });

  describe('opens a context for each message', () => {
    const told: (keyof MessageContext)[] = ['environment', 'actor', 'commandId', 'commandAt', 'correlationId', 'causationId', 'retry', 'traceparent'];
    const caller: MessageContext = {
      environment: 'production', commandId: 'cmd-1', commandAt: start, now: start, correlationId: 'cor-1', causationId: 'cmd-0', retry: true, ifRevision: 4,
      traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
      actor: { type: 'api-key', id: 'key_Zoë', role: 'support', permissions: ['license.read', 'license.issue'] },
    };
    const sent = (options?: Parameters<MessageClient['send']>[2]) => client.send(Ask, { question: '' }, options) as Promise<MessageContext>;
    beforeEach(() => serve(Ask, () => ({ ...context() })));

    it('that is the caller\'s but for the time, which is the receiver\'s, and If-Match, which was for the caller', async () => {
      const seen = await runIn(caller, () => sent());
      expect(seen).toMatchObject({ ...Object.fromEntries(told.map((name) => [name, caller[name]])), now: received });
      expect(seen.ifRevision).toBeUndefined();
    });

    it('with what is said explicitly instead', async () => {
      const seen = await runIn(caller, () => sent({ environment: 'staging', context: { ifRevision: 9, commandId: 'cmd-2', retry: false } }));
      expect(seen).toMatchObject({ environment: 'staging', now: '2030-01-01T00:00:00.000Z', ifRevision: 9, commandId: 'cmd-2', causationId: 'cmd-1', retry: false, correlationId: 'cor-1' });
    });

    it('only for a sender who says everything when there is no caller', async () => {
      await expect(sent()).rejects.toThrow('needs a complete context');
      await expect(sent({ environment: 'production' })).rejects.toThrow('needs a complete context');
      expect(await sent({ context: caller })).toMatchObject({ commandId: 'cmd-1', ifRevision: 4, now: received });
    });

    it('and passes it on through a chain of services', async () => {
      await serve(Forward, () => client.send(Ask, { question: '' }));
      expect(await runIn(caller, () => client.send(Forward, { name: 'x' }))).toMatchObject({ environment: 'production', commandId: 'cmd-1', correlationId: 'cor-1', actor: caller.actor });
    });
  });

  it('keeps a thousand interleaved requests of three environments apart', async () => {
    const environments = ['production', 'staging', 'test'];
    await serve(Forward, async ({ name }) => {
      await new Promise((resolve) => setImmediate(resolve));
      const inner = await client.send(Ask, { question: name });
      return [context().environment, context().correlationId, inner];
    });
    await serve(Ask, async ({ question }) => {
      if (String(question).length % 2) await new Promise((resolve) => setImmediate(resolve));
      return [context().environment, context().correlationId, question];
    });
    const requests = Array.from({ length: 1000 }, async (_, n) => {
      const environment = environments[n % 3] as string;
      const answer = await asking(() => client.send(Forward, { name: `n${n}` }), { environment, correlationId: `cor-${n}` });
      expect(answer).toEqual([environment, `cor-${n}`, [environment, `cor-${n}`, `n${n}`]]);
    });
    await Promise.all(requests);
  });

  it('lets the servers of one queue take turns', async () => {
    const count = [0, 0];
    await serve(Ask, () => (count[0] = (count[0] ?? 0) + 1));
    server = await network.connect();
    await serve(Ask, () => (count[1] = (count[1] ?? 0) + 1));
    await asking(() => Promise.all(Array.from({ length: 200 }, () => client.send(Ask, { question: '' }))));
    expect((count[0] ?? 0) + (count[1] ?? 0)).toBe(200);
    // By chance, in bundles of sixteen.
    expect(Math.min(...count)).toBeGreaterThan(0);
  });

  it('finishes what it has begun when it closes, with all that belongs to it, and takes nothing new', async () => {
    const begun = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    const inner = new MessageClient(server);
    await serve(Ask, ({ question }) => question);
    await serve(Forward, async ({ name }) => {
      begun.resolve();
      await goOn.promise;
      return inner.send(Ask, { question: name });
    });
    const inFlight = asking(() => client.send(Forward, { name: 'in flight' }));
    await begun.promise;
    let closed = false;
    const closing = server.close().then(() => { closed = true; });
    // On a network what is asked in the same moment may still come in before others know.
    const refused = () => asking(() => client.send(Ask, { question: 'new' }, { timeoutMs: 200 })).then(() => undefined, (error: unknown) => error);
    let refusal: unknown;
    while (!refusal) refusal = await refused();
    expect(refusal).toEqual(code('UNAVAILABLE'));
    expect(closed).toBe(false);
    goOn.resolve();
    expect(await inFlight).toBe('in flight');
    await closing;
    await expect(asking(() => client.send(Ask, { question: '' }, { timeoutMs: 200 }))).rejects.toEqual(code('UNAVAILABLE'));
  });

  it('continues a trace on the other side', async () => {
    const exporter = new InMemorySpanExporter();
    const tracing = await startTracing({ service: 'contract', exporter });
    try {
      await serve(Ask, ({ question }) => question);
      await serve(Forward, ({ name }) => client.send(Ask, { question: name }));
      await traced('POST /x', {}, () => asking(() => client.send(Forward, { name: 'x' })));
      const spans = new Map(exporter.getFinishedSpans().map((span) => [span.name, span]));
      expect([...spans.keys()]).toEqual(['contract.ask', 'contract.forward', 'POST /x']);
      const parent = (name: string) => spans.get(name)?.parentSpanContext?.spanId;
      const id = (name: string) => spans.get(name)?.spanContext().spanId;
      expect([parent('contract.ask'), parent('contract.forward'), parent('POST /x')]).toEqual([id('contract.forward'), id('POST /x'), undefined]);
      expect(new Set([...spans.values()].map((span) => span.spanContext().traceId)).size).toBe(1);
    } finally {
      await tracing.stop();
    }
  });
});
