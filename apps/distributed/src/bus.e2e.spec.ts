import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import * as contracts from '@keyledger/contracts';
import { offer, Product, sell, validate } from '@keyledger/testing/process';
import { connect, type Msg, type NatsConnection } from '@nats-io/transport-node';
import fc from 'fast-check';
import { services, type ServiceName } from './services.ts';

/*
 * What somebody can do who has come by a service's password for NATS: no more than that service, and nobody falls over. He writes what he likes
 * to all whom the gateway may ask, under the gateway's name.
 */
let product: Product;
const open: NatsConnection[] = [];
beforeAll(async () => {
  product = await Product.start();
});
afterAll(async () => {
  await Promise.all(open.map((one) => one.close()));
  await product.stop();
});

const lines = () => product.printed.toString().split('\n');
/** As the services' own passwords stand in the settings of the NATS server that runs for them. */
const settings = () => product.files().filter(({ path }) => /keyledger-nats-\w+\/nats\.conf$/.test(path)).map(({ bytes }) => bytes.toString()).join('');
async function connectAs(user?: ServiceName): Promise<NatsConnection> {
  const servers = new URL(/^nats \| ready at (\S+)/m.exec(product.printed.toString())?.[1] ?? '').host;
  const pass = new RegExp(`user: ${user}, password: "([^"]+)"`).exec(settings())?.[1];
  const connection = await connect({ servers, reconnect: false, ...(user && pass && { user, pass }) });
  open.push(connection);
  return connection;
}

const head = { environment: 'production', actor: { type: 'system', id: 'thief' }, commandId: 'cmd-1', commandAt: '2026-11-21T00:00:00.000Z', correlationId: 'cor-1' };
const packed = (heads: unknown, body: string) => `[[1,${body.length},${JSON.stringify(heads)}]]\n${body}`;

const texts = ['', '*', '>', 'a.b', '_INBOX.>', 'license.*', ' ', '\u0000', '\ud800', '__proto__', '../../etc/passwd', "' OR 1=1 --", 'x'.repeat(100_000), 'lic_00000000-0000-0000-0000-000000000000', '9999-12-31T23:59:60Z'];
const hostile = fc.oneof(fc.constantFrom<unknown>(...texts, null, true, -1, 1.5, 1e21, 2 ** 53, [], {}, [null], [[[]]], { length: -1 }, { then: 1 }, { constructor: 1 }, { toJSON: 1 }), fc.jsonValue({ maxDepth: 3 }));
const heads = fc.oneof(
  { weight: 3, arbitrary: fc.constant<unknown>(head) },
  fc.record(Object.fromEntries([...Object.keys(head), 'causationId', 'retry', 'ifRevision', 'traceparent'].map((name) => [name, hostile])), { requiredKeys: ['environment'] }).map((wrong) => ({ ...head, ...wrong })),
  hostile.map((environment) => ({ ...head, environment })),
);

interface MessageClass {
  readonly subject: string;
  readonly fields: object;
}
const classes: ReadonlyMap<string, MessageClass> = new Map(Object.values(contracts as Readonly<Record<string, unknown>>).flatMap((type) =>
  (typeof type === 'function' && 'subject' in type ? [[type.subject as string, type as unknown as MessageClass]] : [])));
const asked = Object.values<Readonly<Record<string, readonly string[]>>>(contracts.bus).flatMap(({ gateway = [] }) => gateway);
/** How many make up their minds to do so much work that others would have to wait. */
const laborious = new Set(['count', 'total', 'limit', 'amount']);

const messagesTo = (subject: string, count: number): readonly string[] => {
  const names = Object.keys(classes.get(subject)?.fields ?? {}).filter((name) => !laborious.has(name));
  const fields = fc.record(Object.fromEntries(names.map((name) => [name, hostile])), { requiredKeys: [] });
  return fc.sample(fc.tuple(heads, fc.oneof({ weight: 4, arbitrary: fields as fc.Arbitrary<unknown> }, hostile)), { numRuns: count, seed: 1 })
    .map(([sent, body]) => packed(sent, JSON.stringify(body) ?? ''));
};

describe('A NATS server under the table of who asks whom', () => {
  it('lets in nobody without a password', async () => {
    await expect(connectAs()).rejects.toThrow(/authorization/i);
    expect(settings().match(/user: /g)).toHaveLength(services.length);
  });

  it.each(services.map(({ name }) => name))('lets %s neither listen to others nor ask what it has no business with', async (name) => {
    const connection = await connectAs(name);
    const refused: string[] = [];
    const heard: string[] = [];
    void (async () => {
      for await (const status of connection.status()) if (status.type === 'error') refused.push(status.error.message);
    })();
    const foreign = [...classes.keys()].filter((subject) => !Object.values<Readonly<Record<string, readonly string[]>>>(contracts.bus).some(({ [name]: own = [] }) => own.includes(subject)));
    for (const subject of ['>', '*.*', '_INBOX.>', ...services.filter((other) => other.name !== name).map((other) => `_INBOX.${other.name}.>`), ...foreign]) {
      connection.subscribe(subject, { callback: (error, message) => void (error ?? heard.push(message.subject)) });
    }
    for (const subject of [...foreign, '$SYS.REQ.SERVER.PING', 'made.up', '_INBOX.x.y']) connection.publish(subject, packed(head, '{}'));
    await Promise.all([connection.flush(), validate(product.app, 'a key that nobody has')]);
    await connection.flush();
    expect(heard).toEqual([]);
    expect(refused.filter((what) => /Subscription to/.test(what))).toHaveLength(3 + services.length - 1 + foreign.length);
    expect(refused.filter((what) => /Publish to/.test(what))).toHaveLength(foreign.length + 3);
  });
});

describe('Messages that no gateway sends', () => {
  it('are answered one and all, and nobody falls over', async () => {
    const { plan } = await offer(product.root);
    const gateway = await connectAs('gateway');
    const answers = new Map<string, (message: Msg) => void>();
    gateway.subscribe('_INBOX.gateway.thief.*', { callback: (error, message) => void (error ?? answers.get(message.subject)?.(message)) });
    const silent: string[] = [];
    let sent = 0;
    const ask = (subject: string, message: string) => new Promise<void>((resolve) => {
      const reply = `_INBOX.gateway.thief.${sent++}`;
      const late = setTimeout(() => void (silent.push(`${subject} ${message.slice(0, 500)}`), resolve()), 5_000);
      answers.set(reply, () => void (clearTimeout(late), resolve()));
      gateway.publish(subject, message, { reply });
    });
    for (const subject of asked) {
      const messages = ['', 'no message', packed(head, '{'), packed(head, '['.repeat(50_000)), packed(head, `{"licenseId":${'['.repeat(50_000)}${']'.repeat(50_000)}}`), ...messagesTo(subject, 20)];
      await Promise.all(messages.map((message) => ask(subject, message)));
      expect(silent).toEqual([]);
    }
    expect(sent).toBeGreaterThan(2_000);
    expect(lines().filter((line) => /\| ended with/.test(line))).toEqual([]);
    for (const { name } of services) for (const door of product.doorsOf(name)) expect({ name, status: (await fetch(`${door}/health/ready`)).status }).toEqual({ name, status: 200 });
    const license = await sell(product.root, plan.id);
    expect(await validate(product.app, license.key)).toMatchObject({ valid: true, code: 'VALID', conclusive: true });
    for (const { name } of services) for (const pid of product.pidsOf(name)) expect({ name, MB: residentMB(pid) < 500 }).toEqual({ name, MB: true });
  }, 300_000);
});

const residentMB = (pid: number): number => Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
