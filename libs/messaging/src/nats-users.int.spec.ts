import { afterEach, describe, expect, it } from '@jest/globals';
import { connect, type Msg, type NatsConnection } from '@nats-io/transport-node';
import { Query } from '@nestjs/cqrs';
import { runIn, systemClock, systemContext } from '@keyledger/kernel';
import { describeWith } from '@keyledger/servers/contract';
import { stopwatch, until } from '@keyledger/testing';
import { packed, unpacked } from './bundles.ts';
import { MessageClient } from './client.ts';
import { natsUsers } from './nats-users.ts';
import { NatsTransport } from './nats.ts';
import { handlerOf } from './server.ts';

const question = (subject: string) => class extends Query<unknown> {
  static readonly subject = subject;
  question!: unknown;
};
const FindBook = question('book.find');
const LendBook = question('book.lend');
const OpenVault = question('vault.open');

/** A reader asks the library, which asks the vault; a guest may only look. */
const bus = { library: { reader: ['book.find', 'book.lend'], guest: ['book.find'] }, vault: { library: ['vault.open'], reader: ['vault.look'] } };
const users = ['library', 'vault', 'reader', 'guest'] as const;
type User = (typeof users)[number];
const passwordOf = (user: string) => `password-of-${user}`;
const unavailable = expect.objectContaining({ name: 'Refusal', code: 'UNAVAILABLE', status: 503 });
/** Before it would give up waiting. */
const soonMs = 2_000;

describeWith('nats', 'Who may speak to whom', (server) => {
  const open: { close(): Promise<void> }[] = [];
  const denied: string[] = [];
  const errors: string[] = [];
  const urlOf = (user: User) => server().url.replace('//', `//${user}:${passwordOf(user)}@`);

  afterEach(async () => {
    await Promise.all(open.splice(0).map((one) => one.close()));
    denied.length = 0;
    errors.length = 0;
  });

  async function as(user: User): Promise<NatsTransport> {
    const transport = await NatsTransport.connect({ url: urlOf(user), name: user, onDenied: (operation, subject) => denied.push(`${user}: ${operation} ${subject}`) });
    open.push(transport);
    return transport;
  }
  /** Somebody who has a service's password and does what he likes. */
  async function thief(user: User): Promise<NatsConnection> {
    const connection = await connect({ servers: new URL(server().url).host, user, pass: passwordOf(user), reconnect: false });
    open.push(connection);
    return connection;
  }
  const serve = (transport: NatsTransport, type: typeof FindBook, answer: (asked: unknown) => unknown, queue = 'library') =>
    transport.serve(type.subject, queue, handlerOf(type, (message) => answer((message as InstanceType<typeof FindBook>).question), { clock: systemClock, onError: (error) => errors.push(String(error)) }));
  const ask = (transport: NatsTransport, type: typeof FindBook, asked: unknown = 1) => runIn(systemContext('production', systemClock.now('production')), () => new MessageClient(transport).send(type, { question: asked }));
  async function library(): Promise<NatsTransport> {
    const transport = await as('library');
    await serve(transport, FindBook, (asked) => `found ${String(asked)}`);
    await serve(transport, LendBook, () => ask(transport, OpenVault));
    return transport;
  }

  it('lets those talk that the table names, and their answers back', async () => {
    await library();
    await serve(await as('vault'), OpenVault, () => 'open', 'vault');
    const [reader, guest] = [await as('reader'), await as('guest')];
    expect(await Promise.all([ask(reader, FindBook, 'Emma'), ask(reader, LendBook), ask(guest, FindBook, 'Ulysses')])).toEqual(['found Emma', 'open', 'found Ulysses']);
    expect(denied).toEqual([]);
  });

  it('refuses soon, and says loudly, what somebody may not ask; what he may goes on', async () => {
    await library();
    const guest = await as('guest');
    const took = stopwatch();
    await expect(ask(guest, LendBook)).rejects.toEqual(unavailable);
    await expect(ask(guest, OpenVault)).rejects.toEqual(unavailable);
    expect(took()).toBeLessThan(soonMs);
    expect(denied).toEqual(['guest: publish book.lend', 'guest: publish vault.open']);
    expect(await ask(guest, FindBook, 'Emma')).toBe('found Emma');
  });

  it('does not start a service that may not answer: it would wait for ever', async () => {
    await expect(serve(await as('vault'), FindBook, () => 1, 'vault')).rejects.toThrow('does not let this user listen on book.find');
    await expect(serve(await as('library'), FindBook, () => 1, 'another')).rejects.toThrow('does not let this user listen on book.find');
    await expect(NatsTransport.connect({ url: urlOf('guest'), name: 'reader' })).rejects.toThrow('does not let this user listen on _INBOX.reader.');
    expect(denied).toEqual(['vault: subscription book.find', 'library: subscription book.find']);
  });

  it.each(['', 'nobody:password-of-reader@', 'reader:password-of-guest@', 'reader@'])('lets in nobody as "%s"', async (user) => {
    await expect(NatsTransport.connect({ url: server().url.replace('//', `//${user}`) })).rejects.toThrow(/authorization/i);
  });

  it('lets nobody hear what others ask, and what they are answered', async () => {
    await library();
    const [reader, spy] = [await as('reader'), await thief('guest')];
    const heard: string[] = [];
    const refused: string[] = [];
    for (const [subject, queue] of [['>'], ['*.*'], ['_INBOX.>'], ['_INBOX.*.*.*'], ['_INBOX.reader.>'], ['book.find'], ['book.*'], ['$SYS.>'], ['book.find', 'library'], ['book.find', 'guest'], ['>', 'library']] as const) {
      spy.subscribe(subject, { ...(queue && { queue }), callback: (error, message) => void (error ? refused.push(`${subject} ${queue ?? ''}`) : heard.push(message.subject)) });
    }
    await spy.flush();
    for (let n = 0; n < 20; n++) await ask(reader, FindBook, n);
    await spy.flush();
    expect(refused).toHaveLength(11);
    expect(heard).toEqual([]);
  });

  it('lets nobody answer for another, though he may answer the same service', async () => {
    const [reader, vault] = [await as('reader'), await thief('vault')];
    const LookIntoVault = question('vault.look');
    const asked: Msg[] = [];
    vault.subscribe('vault.look', { queue: 'vault', callback: (_, message) => void asked.push(message) });
    await vault.flush();
    const never = Promise.withResolvers<void>();
    await serve(await as('library'), FindBook, () => never.promise.then(() => 'true'));
    const toVault = ask(reader, LookIntoVault);
    const toLibrary = ask(reader, FindBook);
    await until(() => asked.length === 1);
    // What he was asked has the number 0. Of the other question he knows the number, and nothing of where its answer goes.
    const forged = [0, 1].map((id) => ({ id, head: {}, body: '"forged"' }));
    (asked[0] as Msg).respond(packed(forged));
    expect(await toVault).toBe('forged');
    never.resolve();
    expect(await toLibrary).toBe('true');
    expect(unpacked((asked[0] as Msg).string())?.[0]?.id).toBe(0);
  });

  describe('A message that is none', () => {
    const text = packed([{ id: 1, head: { environment: 'production' }, body: '{"question":1}' }]);
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
    const one = (head: unknown, body: string) => packed([{ id: 1, head: head as object, body }]);
    it.each<[string, string | Uint8Array]>([
      ['nothing', ''], ['no JSON', 'GET / HTTP/1.1\r\n\r\n'], ['half of one', text.slice(0, -3)], ['bytes', new Uint8Array([0xff, 0xfe, 0x00, 0x0a, 0x80])], ['null', 'null\n'], ['none at all', '[]\n'],
      ['a million of them', `[${'[1],'.repeat(999_999)}[1]]\n`], ['a giant', 'x'.repeat(8_000_000)], ['no context', one(null, '{}')], ['a list for a context', one([], '{}')], ['a text for a context', one('x', '{}')],
      ['no fields', one({ environment: 'production' }, '')], ['null for fields', one({ environment: 'production' }, 'null')], ['fields that end too soon', one({ environment: 'production' }, '{"question":')],
      ['a number for fields', one({ environment: 'production' }, '5')], ['depth', one({ environment: 'production' }, deep.slice(0, -1))], ['a deep context', `[[1,0,${deep}]]\n`], ['lengths that lie', '[[1,1e9,{}]]\n'], ['lengths that are none', '[[1,"0",{}],[1,null,{}]]\n{}'],
      ['another class', one({ environment: 'production' }, '{"__proto__":{"question":1}}')],
    ])('is answered with a refusal, and the next is answered: %s', async (_, message) => {
      await library();
      const reader = await thief('reader');
      const answers: Msg[] = [];
      reader.subscribe('_INBOX.reader.x', { callback: (error, answer) => void (error ?? answers.push(answer)) });
      reader.publish('book.find', message, { reply: '_INBOX.reader.x' });
      await until(() => answers.length === 1);
      expect(unpacked((answers[0] as Msg).string())?.map(({ head }) => head)).toEqual([{ refused: 'INTERNAL' }]);
      expect(errors).toHaveLength(1);
      expect(await ask(await as('reader'), FindBook, 'Emma')).toBe('found Emma');
    });
  });
}, { settings: natsUsers(bus, (user) => JSON.stringify(passwordOf(user))) });

describe('The users of a NATS server', () => {
  it('have nothing where the table has nothing: an empty list would let them do everything', () => {
    const settings = natsUsers({ mute: {} }, () => '$PASSWORD');
    expect(settings).toContain('user: mute, password: $PASSWORD');
    expect(settings).toContain('publish: { deny: ">" }');
  });
});
