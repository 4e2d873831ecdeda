import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import { ValidateLicense } from '@keyledger/contracts';
import type { Refusal } from '@keyledger/kernel';
import { gatewayWithFakes, refusing, sampleOf, type FakedGateway } from './fakes.contract.ts';
import { Guesses, Limit, network } from './rate-limits.ts';

const verdict = sampleOf(ValidateLicense.answer) as Record<string, unknown>;
const knownKeys = new Set(['KNOWN-1', 'KNOWN-2']);
const answers = {
  'activation.validate': ({ licenseKey }: Record<string, unknown>) =>
    (licenseKey === 'OLD' ? { ...verdict, valid: false, license: null, retired: true } : { ...verdict, ...(!knownKeys.has(String(licenseKey)) && { valid: false, license: null }), retired: false }),
  'license.activate': refusing('LICENSE_NOT_FOUND'),
  'license.deactivate': refusing('LICENSE_NOT_FOUND', undefined, { retired: true }),
};

/** Only the clock that the limits read stands still; timers and promises go on. */
const stopClock = () => jest.useFakeTimers({
  doNotFake: ['Date', 'hrtime', 'nextTick', 'queueMicrotask', 'setImmediate', 'clearImmediate', 'setInterval', 'clearInterval', 'setTimeout', 'clearTimeout'],
});
const seconds = (count: number) => jest.advanceTimersByTime(count * 1000);

let gateway: FakedGateway;
const open = async (limits: Parameters<typeof gatewayWithFakes>[1]) => { gateway = await gatewayWithFakes(answers, limits); };
const validate = (licenseKey: string, { address = '10.0.0.1', headers = {} }: { address?: string; headers?: Record<string, string> } = {}) =>
  gateway.call('POST', '/license/validate', { as: '', body: { licenseKey }, address, headers });
const statuses = async (count: number, ask: (n: number) => Promise<{ status: number }>) => {
  const all: number[] = [];
  for (let n = 0; n < count; n++) all.push((await ask(n)).status);
  return all;
};
const times = (count: number, status: number) => Array<number>(count).fill(status);

beforeEach(() => void stopClock());
afterEach(async () => {
  jest.useRealTimers();
  await gateway.close();
});

describe('A license key', () => {
  beforeEach(() => open({ perLicenseKey: 3 }));

  it('may ask so often a minute, and is told how often still', async () => {
    expect((await validate('KNOWN-1')).headers).toMatchObject({ 'ratelimit-policy': '"license-key";q=3;w=60', ratelimit: '"license-key";r=2;t=60' });
    seconds(20);
    expect((await validate('KNOWN-1')).headers['ratelimit']).toBe('"license-key";r=1;t=40');
    expect((await validate('KNOWN-1')).headers['ratelimit']).toBe('"license-key";r=0;t=40');
    const { status, headers, json } = await validate('KNOWN-1');
    expect({ status, ...json }).toMatchObject({ status: 429, code: 'RATE_LIMITED', retryAfter: 40 });
    expect(headers).toMatchObject({ 'retry-after': '40', ratelimit: '"license-key";r=0;t=40', 'content-type': 'application/problem+json; charset=utf-8' });
    seconds(40);
    expect((await validate('KNOWN-1')).status).toBe(200);
  });

  it('is one, however it is spelled, and wherever it is used from', async () => {
    const spellings = ['known-1', 'KN0WN I', '  knownl', 'Known.1'];
    expect(await statuses(4, (n) => validate(spellings[n] as string, { address: `10.0.0.${n}` }))).toEqual([...times(3, 200), 429]);
  });

  it('is another one in another environment, and beside another key', async () => {
    await statuses(4, () => validate('KNOWN-1'));
    expect((await validate('KNOWN-1', { headers: { 'x-environment': 'staging' } })).status).toBe(200);
    expect((await validate('KNOWN-2')).status).toBe(200);
  });

  it('counts for everything that it asks, repeated or not, and nothing is stored for what is refused', async () => {
    const activate = () => gateway.call('POST', '/license/activate', { as: '', body: { licenseKey: 'KNOWN-1' }, headers: { 'idempotency-key': 'k' } });
    expect(await statuses(4, activate)).toEqual([404, 404, 404, 429]);
    expect(gateway.sent.filter(({ subject }) => subject === 'access.claim-request')).toHaveLength(3);
  });
});

describe('An address that guesses license keys', () => {
  beforeEach(() => open({ unknownKeysPerAddress: 3 }));
  const guess = (address?: string) => validate(`GUESS-${Math.random()}`, address ? { address } : {});

  it('is shut out for a minute, and each time for twice as long, up to an hour', async () => {
    for (const minutes of [1, 2, 4, 8, 16, 32, 60, 60]) {
      expect(await statuses(2, () => guess())).toEqual([200, 200]);
      const last = await guess();
      expect([last.status, last.headers['ratelimit']]).toEqual([200, `"unknown-license-keys";r=0;t=${minutes * 60}`]);
      const { status, headers } = await guess();
      expect(status).toBe(429);
      expect(headers).toMatchObject({ 'retry-after': String(minutes * 60), 'ratelimit-policy': '"unknown-license-keys";q=3;w=60', ratelimit: `"unknown-license-keys";r=0;t=${minutes * 60}` });
      seconds(minutes * 60 - 1);
      expect((await guess()).status).toBe(429);
      seconds(1);
    }
    seconds(25 * 3600);
    await statuses(3, () => guess());
    expect((await guess()).headers['retry-after']).toBe('60');
  });

  it('goes on with keys that it has used before, and only with those', async () => {
    await validate('KNOWN-1');
    await statuses(3, () => guess());
    expect((await validate('KNOWN-1')).status).toBe(200);
    expect((await validate('KNOWN-2')).status).toBe(429);
    expect((await validate('KNOWN-2', { address: '10.0.0.2' })).status).toBe(200);
  });

  it('has nothing stored for what it asks while it is shut out', async () => {
    await statuses(3, () => guess());
    gateway.sent.length = 0;
    const activate = { as: '', body: { licenseKey: 'KNOWN-1' }, headers: { 'idempotency-key': 'k' }, address: '10.0.0.1' };
    expect((await gateway.call('POST', '/license/activate', activate)).status).toBe(429);
    expect(gateway.sent).toEqual([]);
  });

  it('loses such a key when it is none any more', async () => {
    await validate('KNOWN-1');
    knownKeys.delete('KNOWN-1');
    expect((await statuses(4, () => validate('KNOWN-1')))).toEqual([200, 200, 200, 429]);
    knownKeys.add('KNOWN-1');
  });

  it('does not guess when it asks slowly, or for a key that was regenerated', async () => {
    expect(await statuses(10, () => { seconds(30); return guess(); })).toEqual(times(10, 200));
    expect(await statuses(10, () => validate('OLD'))).toEqual(times(10, 200));
    const deactivate = () => gateway.call('POST', '/license/deactivate', { as: '', body: { licenseKey: 'OLD', instanceId: 'act_x' } });
    expect(await statuses(10, deactivate)).toEqual(times(10, 404));
    expect((await deactivate()).text).not.toMatch('retired');
  });

  it('is counted by whatever it asks', async () => {
    expect(await statuses(4, (n) => gateway.call('POST', '/license/activate', { as: '', body: { licenseKey: `GUESS-${n}` }, address: '10.0.0.1' }))).toEqual([404, 404, 404, 429]);
  });

  it('is counted as well when it asks for all of them at once', async () => {
    gateway.fakes['activation.validate'] = async (question) => { await sleep(5); return answers['activation.validate'](question); };
    expect((await Promise.all(Array.from({ length: 100 }, () => guess()))).map(({ status }) => status).sort()).toEqual([...times(3, 200), ...times(97, 429)]);
    expect(gateway.sent.filter(({ subject }) => subject === 'activation.validate')).toHaveLength(3);
    expect((await guess('10.0.0.2')).status).toBe(200);
  });

  it('is nobody who asks with as many good keys at once, though one of them is mistyped', async () => {
    gateway.fakes['activation.validate'] = async ({ licenseKey }) => { await sleep(2); return { ...verdict, ...(licenseKey === 'GOOD-7' && { valid: false, license: null }), retired: false }; };
    const ask = async () => (await Promise.all(Array.from({ length: 100 }, (_, n) => validate(`GOOD-${n}`)))).map(({ status }) => status);
    expect(await ask()).toEqual(times(100, 200));
    gateway.fakes['activation.validate'] = refusing('UNAVAILABLE');
    expect(await ask()).toEqual(times(100, 503));
  });

  it('is a /64 of IPv6, and an address of IPv4 however it is written', async () => {
    await statuses(3, (n) => guess(`2001:db8:1:2::${n}`));
    expect((await guess('2001:db8:1:2:ffff:1:2:3')).status).toBe(429);
    expect((await guess('2001:db8:1:3::1')).status).toBe(200);
    await statuses(3, () => guess('::ffff:10.0.0.9'));
    expect((await guess('::ffff:10.0.0.9')).status).toBe(429);
    expect((await guess('::ffff:10.0.0.8')).status).toBe(200);
    await statuses(3, (n) => guess(`::${n + 1}`));
    expect((await guess('::9')).status).toBe(429);
  });

  it('cannot choose another address by a header', async () => {
    expect(await statuses(4, (n) => validate(`GUESS-${n}`, { headers: { 'x-forwarded-for': `192.0.2.${n}` } }))).toEqual([200, 200, 200, 429]);
  });
});

describe('Behind a proxy', () => {
  const guess = (n: number, address: string, forwarded: string) => validate(`GUESS-${n}`, { address, headers: { 'x-forwarded-for': forwarded } });
  beforeEach(async () => { gateway = await gatewayWithFakes(answers, { unknownKeysPerAddress: 3 }, '10.0.0.0/8'); });

  it('that is trusted, the address is the one that it saw, whatever the caller says before', async () => {
    expect(await statuses(4, (n) => guess(n, '10.0.0.1', `198.51.100.${n}, 192.0.2.1`))).toEqual([200, 200, 200, 429]);
    expect((await guess(9, '10.0.0.2', '192.0.2.2')).status).toBe(200);
  });

  it('that writes a port, it is the same on each connection', async () => {
    expect(await statuses(4, (n) => guess(n, '10.0.0.1', `192.0.2.1:${40_000 + n}`))).toEqual([200, 200, 200, 429]);
    expect(await statuses(4, (n) => guess(n, '10.0.0.1', `[2001:db8::${n}]:${40_000 + n}`))).toEqual([200, 200, 200, 429]);
    expect(await statuses(4, (n) => guess(n, '10.0.0.1', `unknown-${n}`))).toEqual([200, 200, 200, 429]);
    expect((await guess(9, '10.0.0.1', '192.0.2.2:40009')).status).toBe(200);
    for (const written of ['192.0.2.9', '192.0.2.9:1', '::ffff:192.0.2.9', '[::ffff:192.0.2.9]:443']) expect(network(written)).toBe('192.0.2.9');
    for (const written of ['2001:db8::1', '[2001:db8::2]', '[2001:db8::3]:443', '2001:db8:0:0:ffff::']) expect(network(written)).toBe('2001:db8:0:0');
    for (const written of ['', 'unknown', '_hidden:8080', '1.2.3', '1.2.3.4.5:6', '[1.2.3.4', '[]', '::ffff:x', 'cafe:40123', '1.2.3.4:x', ':'.repeat(16_000), `${'['.repeat(8_000)}]`]) expect(network(written)).toBe('');
  });

  it('that nobody knows, it is the proxy\'s', async () => {
    expect(await statuses(4, (n) => guess(n, '192.0.2.7', `192.0.2.${100 + n}`))).toEqual([200, 200, 200, 429]);
  });
});

describe('An API key', () => {
  beforeEach(() => open({ perApiKey: 3 }));
  const me = (as: string, address = '10.0.0.1') => gateway.call('GET', '/me', { as, address });

  it('may ask so often a minute', async () => {
    expect((await me('viewer@staging')).headers).toMatchObject({ 'ratelimit-policy': '"api-key";q=3;w=60', ratelimit: '"api-key";r=2;t=60' });
    expect(await statuses(3, () => me('viewer@staging', '10.0.0.2'))).toEqual([200, 200, 429]);
    seconds(60);
    expect((await me('viewer@staging')).status).toBe(200);
  });

  it('that is wrong too often is not looked up any more, while those that were right go on', async () => {
    await me('viewer@staging');
    expect(await statuses(4, (n) => me(`wrong-${n}`))).toEqual([401, 401, 401, 429]);
    const lookUps = () => gateway.sent.filter(({ subject }) => subject === 'access.authenticate').length;
    const before = lookUps();
    expect((await me('wrong-9')).status).toBe(429);
    expect(lookUps()).toBe(before);
    expect((await me('viewer@staging')).status).toBe(200);
    expect((await me('wrong-9', '10.0.0.2')).status).toBe(401);
  });

  it('that is wrong is counted as well when many are sent at once', async () => {
    gateway.fakes['access.authenticate'] = async () => { await sleep(5); return null; };
    expect((await Promise.all(Array.from({ length: 100 }, (_, n) => me(`wrong-${n}`)))).map(({ status }) => status).sort()).toEqual([...times(3, 401), ...times(97, 429)]);
  });

  it('is not missed: no key is no guess', async () => {
    expect(await statuses(10, () => me(''))).toEqual(times(10, 401));
  });
});

describe('A limit', () => {
  const silent = { getHeader: () => undefined, header: () => undefined } as never;
  beforeEach(() => open({}));

  it('of 0 is none, and says nothing', async () => {
    expect(await statuses(50, (n) => validate(`GUESS-${n}`))).toEqual(times(50, 200));
    expect((await validate('KNOWN-1')).headers).not.toHaveProperty('ratelimit');
    expect((await gateway.call('GET', '/me')).headers).not.toHaveProperty('ratelimit-policy');
  });

  it('forgets the callers of long ago when too many others come: memory is bounded', () => {
    const limit = new Limit('l', 1);
    limit.take('first', silent);
    expect(() => limit.take('first', silent)).toThrow('Try again');
    for (let n = 0; n < 50_000; n++) limit.take(`other-${n}`, silent);
    expect(() => limit.take('first', silent)).not.toThrow();
  });

  it('does not forget the busiest for all the others', () => {
    const limit = new Limit('l', 600);
    for (let n = 0; n < 600; n++) {
      limit.take('busy', silent);
      for (let m = 0; m < 200; m++) limit.take(`other-${n}-${m}`, silent);
    }
    expect(() => limit.take('busy', silent)).toThrow('Try again');
  });

  it('on guesses forgets addresses and what they have proven, too', async () => {
    const guesses = new Guesses('g', 1);
    const prove = (credential: string) => guesses.inTurn('1.1.1.1', credential, silent, async (right) => right());
    await prove('mine');
    guesses.wrong('1.1.1.1', 'x', silent);
    expect(() => guesses.admit('1.1.1.1', 'x', silent)).toThrow('Try again');
    expect(() => guesses.admit('1.1.1.1', 'mine', silent)).not.toThrow();
    seconds(60);
    for (let n = 0; n < 50_000; n++) await prove(`other-${n}`);
    guesses.wrong('1.1.1.1', 'x', silent);
    expect(() => guesses.admit('1.1.1.1', 'mine', silent)).toThrow('Try again');
    for (let n = 0; n < 50_000; n++) guesses.wrong(`10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`, 'x', silent);
    expect(() => guesses.admit('1.1.1.1', 'x', silent)).not.toThrow();
  });

  it('on guesses gives every place back, however a look-up ends, and lets nobody wait long for one that does not', async () => {
    jest.useFakeTimers();
    const guesses = new Guesses('g', 2);
    const failing = (fail: () => Promise<never>) => guesses.inTurn('1.1.1.1', 'x', silent, fail).catch(() => 'failed');
    expect(await Promise.all(Array.from({ length: 10 }, (_, n) => failing(n % 2 ? () => Promise.reject(new Error()) : () => { throw new Error(); })))).toEqual(Array(10).fill('failed'));
    for (let n = 0; n < 2; n++) void failing(() => new Promise(() => undefined));
    const looked: string[] = [];
    const late = ['y', 'z'].map((credential) => guesses.inTurn('1.1.1.1', credential, silent, async () => looked.push(credential)).catch(({ code }: Refusal) => code));
    const other = guesses.inTurn('1.1.1.2', 'y', silent, async () => 'at once');
    expect(await Promise.race([...late, other])).toBe('at once');
    await jest.advanceTimersByTimeAsync(2_000);
    // Who has made the others wait gets no further by it.
    expect([await Promise.all(late), looked]).toEqual([['UNAVAILABLE', 'UNAVAILABLE'], []]);
  });

  it('on guesses keeps nobody waiting whose credential has just been proven', async () => {
    const guesses = new Guesses('g', 1);
    const proven = Promise.withResolvers<void>();
    const first = guesses.inTurn('1.1.1.1', 'mine', silent, async (right) => { right(); await proven.promise; });
    const others = Array.from({ length: 5 }, () => guesses.inTurn('1.1.1.1', 'mine', silent, async () => 'looked up'));
    const waiting = guesses.inTurn('1.1.1.1', 'another', silent, async () => 'in turn');
    expect(await Promise.race([Promise.all(others), waiting])).toEqual(Array(5).fill('looked up'));
    proven.resolve();
    await first;
    expect(await waiting).toBe('in turn');
  });
});
