import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server } from 'node:net';
import type { lookup } from 'node:dns';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { stopwatch } from '@keyledger/testing';
import fc from 'fast-check';
import { Egress, isPublicAddress } from './egress.ts';

const never = new AbortController().signal;
/** Names that mean what the test says: an attacker's own DNS server. */
const names: Record<string, readonly string[]> = {};
const fakeLookup = ((hostname: string, _options: object, callback: (error: Error | null, addresses: readonly { address: string; family: number }[]) => void) => {
  const addresses = names[hostname] ?? [];
  setImmediate(() => callback(addresses.length > 0 ? null : Object.assign(new Error('not found'), { code: 'ENOTFOUND' }), addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))));
}) as unknown as typeof lookup;

describe('An address of the public internet', () => {
  const from = (a: number, b: number) => fc.integer({ min: a, max: b });
  const byte = from(0, 255);
  const v4 = fc.tuple(byte, byte, byte, byte).map((bytes) => bytes.join('.'));
  const join4 = (...parts: readonly fc.Arbitrary<number>[]) => fc.tuple(...parts).map((bytes) => bytes.join('.'));

  it.each([
    ['this network', join4(fc.constant(0), byte, byte, byte)], ['private', join4(fc.constant(10), byte, byte, byte)], ['carrier-grade NAT', join4(fc.constant(100), from(64, 127), byte, byte)],
    ['loopback', join4(fc.constant(127), byte, byte, byte)], ['link-local, with all metadata services', join4(fc.constant(169), fc.constant(254), byte, byte)], ['private', join4(fc.constant(172), from(16, 31), byte, byte)],
    ['private', join4(fc.constant(192), fc.constant(168), byte, byte)], ['benchmarks', join4(fc.constant(198), from(18, 19), byte, byte)], ['multicast, reserved and broadcast', join4(from(224, 255), byte, byte, byte)],
  ])('is none of IPv4: %s', (_, address) => fc.assert(fc.property(address, (one) => !isPublicAddress(one))));

  const word = from(0, 0xffff).map((n) => n.toString(16));
  const v6 = (head: string, words: number) => fc.array(word, { minLength: words, maxLength: words }).map((rest) => [head, ...rest].join(':'));
  it.each([
    ['IPv4-mapped', v4.map((address) => `::ffff:${address}`)], ['IPv4-compatible', v4.map((address) => `::${address}`)], ['NAT64', v4.map((address) => `64:ff9b::${address}`)],
    ['local NAT64', v4.map((address) => `64:ff9b:1::${address}`)], ['6to4', v6('2002', 7)], ['Teredo', v6('2001:0', 6)], ['unique local', fc.tuple(from(0xfc00, 0xfdff), v6('0', 6)).map(([head, rest]) => `${head.toString(16)}:${rest}`)],
    ['link-local', fc.tuple(from(0xfe80, 0xfebf), v6('0', 6)).map(([head, rest]) => `${head.toString(16)}:${rest}`)], ['multicast', fc.tuple(from(0xff00, 0xffff), v6('0', 6)).map(([head, rest]) => `${head.toString(16)}:${rest}`)],
    ['documentation', v6('2001:db8', 6)], ['loopback and unspecified', fc.constantFrom('::1', '::', '0:0:0:0:0:0:0:1')],
  ])('is none of IPv6: %s', (_, address) => fc.assert(fc.property(address, (one) => !isPublicAddress(one) && !isPublicAddress(`[${one}]`))));

  it('is any other, and nothing that is no address', () => {
    for (const address of ['1.1.1.1', '8.8.8.8', '100.63.255.255', '100.128.0.0', '172.15.0.1', '172.32.0.1', '192.167.1.1', '223.255.255.255', '2606:4700:4700::1111', '[2a00:1450:4001:80b::200e]']) expect([address, isPublicAddress(address)]).toEqual([address, true]);
    for (const address of ['', 'localhost', 'example.com', '1.1.1', '0x7f000001', '2606:4700::1%eth0', 'fe80::1%1', '1.1.1.1:80', '168.63.129.16']) expect([address, isPublicAddress(address)]).toEqual([address, false]);
  });
});

describe('Egress to whatever somebody names', () => {
  let canary: Server;
  let connections = 0;
  let port = 0;
  const egress = new Egress({ allowPrivate: false, lookup: fakeLookup, timeoutMs: 1_000 });
  beforeAll(async () => {
    canary = createServer((socket) => {
      connections += 1;
      socket.destroy();
    });
    // Every address of this machine.
    canary.listen(0, '::');
    await once(canary, 'listening');
    port = (canary.address() as AddressInfo).port;
    Object.assign(names, {
      'loopback.example': ['127.0.0.1'], 'six.example': ['::1'], 'mapped.example': ['::ffff:127.0.0.1'], 'mixed.example': ['8.8.8.8', '127.0.0.1'], 'metadata.example': ['169.254.169.254'], 'lan.example': ['192.168.1.1'],
      'zero.example': ['0.0.0.0'], 'ula.example': ['fd00:ec2::254'], 'nat64.example': ['64:ff9b::7f00:1'], 'sixtofour.example': ['2002:7f00:1::'], localhost: ['127.0.0.1'], 'a.localhost': ['127.0.0.1'],
    });
  });
  afterAll(async () => {
    await egress.close();
    canary.close();
  });

  const hosts = [
    '127.0.0.1', '127.1', '127.0.1', '127.255.255.254', '2130706433', '0x7f000001', '0x7f.0x0.0x0.0x1', '0x7f.1', '017700000001', '0177.0.0.1', '0177.0x0.0.1', '127.0.0.1.', '0', '0.0.0.0', '00000000000',
    '0x0', '10.0.0.1', '012.0.0.1', '167772161', '172.16.0.1', '192.168.0.1', '0xc0a80001', '169.254.169.254', '0xa9fea9fe', '2852039166', '0251.0376.0251.0376', '100.64.0.1', '100.100.100.200', '192.0.0.192',
    '198.18.0.1', '224.0.0.1', '255.255.255.255', '168.63.129.16', '[::1]', '[::]', '[0:0:0:0:0:0:0:1]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]', '[::ffff:0:127.0.0.1]', '[::127.0.0.1]', '[64:ff9b::127.0.0.1]',
    '[64:ff9b::7f00:1]', '[2002:7f00:1::]', '[2001::1]', '[fc00::1]', '[fd00:ec2::254]', '[fe80::1]', '[fe80::1%25lo]', '[ff02::1]', '[2001:db8::1]', 'localhost', 'LOCALHOST', 'localhost.', 'a.localhost',
    'loopback.example', 'six.example', 'mapped.example', 'mixed.example', 'metadata.example', 'lan.example', 'zero.example', 'ula.example', 'nat64.example', 'sixtofour.example',
    '①②⑦.⓪.⓪.①', '127。0。0。1', '%31%32%37.0.0.1', 'ⓛocalhost',
  ];
  const urls = () => [
    ...hosts.flatMap((host) => [`https://${host}:${port}/`, `http://${host}:${port}/`]),
    `https://user:password@127.0.0.1:${port}/`, `https://example.com@127.0.0.1:${port}/`, `https://127.0.0.1:${port}#@example.com/`, `https:127.0.0.1:${port}`, `https:\\\\127.0.0.1:${port}\\`, `https://127.0.0.1:${port}\\@example.com/`,
    `https://127.0.0.1\t:${port}/`, ` https://127.0.0.1:${port}/ `, `file:///etc/passwd`, `gopher://127.0.0.1:${port}/_`, `ftp://127.0.0.1:${port}/`, `data:text/plain,hello`, `javascript:alert(1)`, `unix:/var/run/docker.sock`, '', 'https://', '//127.0.0.1/',
  ];

  it('connects to nothing of this machine, however it is spelled', async () => {
    expect(urls().length).toBeGreaterThan(120);
    for (const url of urls()) {
      await expect(egress.mustBeAllowed(url)).rejects.toMatchObject({ code: expect.stringMatching(/^(WEBHOOK_URL_REFUSED|VALIDATION_FAILED)$/) });
      expect(await egress.post(url, {}, '{}', never)).toMatchObject({ status: null, error: expect.any(String) });
    }
    expect(connections).toBe(0);
  });

  it('looks at what a name means at the moment of the connection', async () => {
    names['rebound.example'] = ['8.8.8.8'];
    await egress.mustBeAllowed(`https://rebound.example:${port}/`);
    names['rebound.example'] = ['127.0.0.1'];
    expect(await egress.post(`https://rebound.example:${port}/`, {}, '{}', never)).toEqual({ status: null, text: null, error: 'The address is not on the public internet' });
    expect(connections).toBe(0);
  });

  it('takes a name that means nothing yet', () => expect(egress.mustBeAllowed('https://unknown.example/')).resolves.toBeUndefined());

  it('is seen to connect where that is allowed, so that the canary is one', async () => {
    const open = new Egress({ allowPrivate: true, lookup: fakeLookup, timeoutMs: 1_000 });
    await open.post(`http://loopback.example:${port}/`, {}, '{}', never);
    await open.post(`http://127.1:${port}/`, {}, '{}', never);
    await open.close();
    expect(connections).toBe(2);
    connections = 0;
  });
});

describe('What is answered', () => {
  let url: string;
  let answer: (request: IncomingMessage, response: ServerResponse) => void;
  let seen = 0;
  const egress = new Egress({ allowPrivate: true, timeoutMs: 500 });
  const server = createHttpServer((request, response) => {
    seen += 1;
    answer(request, response);
  });
  beforeAll(async () => {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  });
  afterAll(async () => {
    await egress.close();
    server.closeAllConnections();
    server.close();
  });
  const post = () => egress.post(url, { 'content-type': 'application/json' }, '{"a":1}', never);

  it('is its status and its first 2 KB, though there be no end to it', async () => {
    answer = (_, response) => {
      response.writeHead(200);
      const more = () => response.write('x'.repeat(16_384)) ? setImmediate(more) : response.once('drain', more);
      response.on('error', () => undefined);
      more();
    };
    const took = stopwatch();
    const { status, text } = await post();
    expect([status, text]).toEqual([200, 'x'.repeat(2048)]);
    expect(took()).toBeLessThan(400);
  });

  it('is not followed elsewhere', async () => {
    seen = 0;
    answer = (_, response) => response.writeHead(302, { location: url }).end();
    expect(await post()).toMatchObject({ status: 302 });
    expect(seen).toBe(1);
  });

  it('is waited for so long and no longer', async () => {
    answer = () => undefined;
    expect(await post()).toEqual({ status: null, text: null, error: 'no answer within 0.5 s' });
    // Not even when every byte takes its time.
    answer = (_, response) => {
      response.writeHead(200, { 'content-length': 1000 });
      const drip = setInterval(() => response.write('.'), 100);
      response.once('close', () => clearInterval(drip));
    };
    const took = stopwatch();
    expect((await post()).status).toBe(200);
    expect(took()).toBeLessThan(2_000);
  });

  it('may be nothing', async () => {
    answer = (request) => request.socket.destroy();
    expect(await post()).toMatchObject({ status: null, error: expect.stringMatching(/^[A-Z_]+$/) });
    expect(await egress.post('http://127.0.0.1:1/', {}, '{}', never)).toMatchObject({ status: null, error: 'ECONNREFUSED' });
  });

  it('is nobody’s business when the process ends', async () => {
    const leaving = new AbortController();
    answer = () => leaving.abort();
    await expect(egress.post(url, {}, '{}', leaving.signal)).rejects.toThrow('aborted');
  });
});
