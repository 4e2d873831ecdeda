import { describe, expect, it } from '@jest/globals';
import { Query } from '@nestjs/cqrs';
import { refuse, runIn, systemClock, systemContext } from '@keyledger/kernel';
import { MessageClient } from './client.ts';
import { InProcessTransport } from './in-process.ts';
import { messagingContract } from './messaging.contract.ts';
import { handlerOf } from './server.ts';
import { openAnswer, requestEnvelope } from './transport.ts';

messagingContract('InProcessTransport', async () => {
  const transport = new InProcessTransport();
  return { connect: async () => transport, close: () => transport.close(), sharesMemory: true };
});

class Ask extends Query<string> {
  static readonly subject = 'ask';
}
const answering = (execute: () => string | Promise<string>) =>
  handlerOf(Ask, execute, { clock: systemClock, onError: () => undefined });

describe('InProcessTransport', () => {
  const inContext = <T>(work: () => T): T => runIn(systemContext('production', systemClock.now('production')), work);

  it('refuses a second service for one subject: on a network both would run the command', () => {
    const transport = new InProcessTransport();
    transport.serve('ask', 'catalog', answering(() => ''));
    expect(() => transport.serve('ask', 'access', answering(() => ''))).toThrow('ask is served by catalog and access');
  });

  it('gives up waiting for a handler that never ends', async () => {
    const transport = new InProcessTransport({ drainLimitMs: 10 });
    const begun = Promise.withResolvers<void>();
    transport.serve('ask', 'q', answering(() => {
      begun.resolve();
      return new Promise<string>(() => undefined);
    }));
    const stuck = inContext(() => new MessageClient(transport).send(Ask, {}, { timeoutMs: 30 }));
    const refused = expect(stuck).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await begun.promise;
    await transport.close();
    await refused;
  });

  it('runs no handler of a copied message on the stack of its sender', async () => {
    const transport = new InProcessTransport();
    const order: string[] = [];
    transport.serve('ask', 'q', answering(() => { order.push('handler'); return ''; }));
    const sent = inContext(() => new MessageClient(transport).send(Ask, {}));
    order.push('sender');
    await sent;
    expect(order).toEqual(['sender', 'handler']);
  });
});

describe('An envelope', () => {
  it.each([['has no context', {}, '{}'], ['has no fields', { environment: 'production' }, 'null'], ['would be of another class', { environment: 'production' }, '{"__proto__":{"question":1}}']])('that %s begins nothing', async (_, head, body) => {
    let ran = false;
    const answer = await answering(() => { ran = true; return ''; }).answer({ head: { ...requestEnvelope({}, systemContext('', systemClock.now(''))).head, environment: undefined, ...head }, body });
    expect(answer.head).toEqual({ refused: 'INTERNAL' });
    expect(ran).toBe(false);
  });

  it('with a refusal of a later release is still a refusal', () => {
    const body = JSON.stringify({ ...refuse('NOT_FOUND').toJSON(), code: 'OF_A_LATER_RELEASE' });
    expect(() => openAnswer({ head: { refused: 'OF_A_LATER_RELEASE' }, body })).toThrow(refuse('INTERNAL'));
  });
});
