import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Verifier } from '@keyledger/license-file';
import { vectorsContract } from '@keyledger/license-file/contract';
import type { LicenseOptions } from './api.ts';
import { License } from './license.ts';
import { memoryStore, sealerFor, type Store } from './store.ts';
import { problem, TestClock, ticks, Vendor } from './vendor.contract.ts';

const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;

let clock: TestClock;
let vendor: Vendor;
let store: Store;
const open_: License[] = [];
beforeEach(async () => {
  clock = new TestClock();
  vendor = await Vendor.open(clock);
  store = memoryStore();
});
afterEach(() => void jest.restoreAllMocks());
afterEach(() => Promise.all(open_.splice(0).map((license) => license.dispose())));

async function open(options: Partial<LicenseOptions> = {}): Promise<License> {
  const license = await License.open({ key: vendor.licenseKey, server: 'https://licenses.example', roots: vendor.roots, store, clock, fetch: vendor.fetch, fingerprint: 'machine-1', attempts: 1, ...options });
  open_.push(license);
  return license;
}
async function activated(options: Partial<LicenseOptions> = {}): Promise<License> {
  const license = await open(options);
  expect(await license.activate({ name: 'web-1' })).toMatchObject({ ok: true, instanceId: 'act_1', created: true, judgement: { valid: true, state: 'active' } });
  return license;
}
/** Ends without writing, as by a power cut. */
const restarted = (options: Partial<LicenseOptions> = {}): Promise<License> => open({ ...options });
const questions = () => vendor.asked.filter(({ path }) => path === '/license/validate').length;
const beats = () => vendor.asked.filter(({ path }) => path.endsWith('/heartbeat'));

describe('A license', () => {
  it('is locked before it is activated, and good afterwards, with its features', async () => {
    const license = await open();
    expect(license.opened).toBe('new');
    expect(license.judgement()).toMatchObject({ valid: false, code: 'NOT_ACTIVATED', enforcement: 'LOCKED' });
    expect(license.feature('sso').enabled).toBe(false);
    await license.activate();
    expect(license.judgement()).toMatchObject({ valid: true, code: 'VALID', enforcement: 'FULL' });
    expect([license.feature('sso'), license.feature('projects'), license.feature('audit')]).toMatchObject([{ enabled: true, limit: null }, { enabled: true, limit: 10 }, { enabled: false }]);
    expect(() => license.require('audit')).toThrow('does not allow "audit"');
    expect(license.licenseId).toBe('lic_1');
    expect(vendor.asked[0]).toMatchObject({ path: '/license/activate', body: { licenseKey: 'KEY-1', fingerprint: 'machine-1' }, environment: 'production' });
  });

  it('pins the roots that the server publishes, as text or parsed, and says what it expects if given anything else', async () => {
    const [jwk] = vendor.roots;
    const shown = { environment: 'production', roots: [jwk] };
    for (const roots of [jwk, [jwk], shown, JSON.stringify(shown), JSON.stringify([jwk])] as LicenseOptions['roots'][]) {
      await activated({ roots, store: memoryStore() });
      expect(await License.verifyOffline(await vendor.licenseFile(), { roots, now: new Date(clock.wall) })).toMatchObject({ ok: true });
    }
    for (const roots of [undefined, 'https://licenses.example', {}, [{}], []]) {
      await expect(License.open({ roots } as LicenseOptions)).rejects.toThrow(/^The roots cannot be pinned: .+ They are what your server answers to \S+keyledger-root.json/);
    }
  });

  it('says what is missing when signatures cannot be checked: an insecure page, an old browser', async () => {
    const roots = { roots: vendor.roots };
    jest.spyOn(crypto.subtle, 'importKey').mockRejectedValue(new DOMException('Unrecognized name.', 'NotSupportedError'));
    await expect(License.open(roots)).rejects.toThrow(/Ed25519 in WebCrypto.+secure context/);
    const missing = { value: undefined, configurable: true };
    Object.defineProperties(crypto, { subtle: missing, randomUUID: missing });
    try {
      await expect(License.open(roots)).rejects.toThrow(/Ed25519 in WebCrypto.+secure context/);
    } finally {
      for (const name of ['subtle', 'randomUUID'] as const) Reflect.deleteProperty(crypto, name);
    }
  });

  it('asks the server only when its last answer is too old', async () => {
    const license = await activated();
    expect(await license.validate({ maxAge: '1h' })).toMatchObject({ valid: true, source: 'network', problem: null });
    clock.pass(59 * minute);
    expect(await license.validate({ maxAge: '1h' })).toMatchObject({ source: 'cache' });
    expect(questions()).toBe(1);
    clock.pass(2 * minute);
    expect((await Promise.all([license.validate({ maxAge: '1h' }), license.validate({ maxAge: '1h' })])).map(({ source }) => source)).toEqual(['network', 'network']);
    expect(questions()).toBe(2);
    expect(await license.validate()).toMatchObject({ source: 'network' });
    expect(questions()).toBe(3);
    await expect(license.validate({ maxAge: 'soon' })).rejects.toThrow('Not a duration');
  });

  it('is refused when it asks with an impossible key', async () => {
    const { fetch } = vendor;
    const license = await activated({ key: 'ключ-№1', fetch: (url, init) => fetch(url, { ...init, headers: new Headers(init.headers) }) });
    expect(vendor.asked[0]?.body['licenseKey']).toBe('1');
    vendor.between = () => problem(401, 'UNAUTHENTICATED');
    expect(await license.heartbeat.beat()).toMatchObject({ ok: false, code: 'UNAUTHENTICATED' });
  });

  it('tells why it was refused, and is not locked by an unsigned refusal', async () => {
    const license = await activated();
    vendor.between = (path) => (path === '/license/activate' ? problem(409, 'ACTIVATION_LIMIT_EXCEEDED', { limit: 1, used: 1 }) : undefined);
    expect(await license.activate()).toMatchObject({ ok: false, code: 'ACTIVATION_LIMIT_EXCEEDED', docUrl: 'https://licenses.example/docs/errors#ACTIVATION_LIMIT_EXCEEDED', members: { limit: 1, used: 1 } });
    expect(license.judgement()).toMatchObject({ valid: true });
    // An instance that never had a seat has only no `instanceId`: the license is as good as ever.
    const other = await open({ store: memoryStore(), fingerprint: 'machine-2' });
    expect([await other.activate(), await other.validate()]).toMatchObject([{ code: 'ACTIVATION_LIMIT_EXCEEDED' }, { valid: true, state: 'active' }]);
    expect([license.instanceId, other.instanceId]).toEqual(['act_1', null]);
  });

  it('loses nothing to an unsigned activation', async () => {
    const license = await activated();
    for (const token of [undefined, 'a.b.c', await (await Vendor.open(clock)).lease('machine-1', 0, { sub: 'act_9' })]) {
      vendor.between = (path) => (path === '/license/activate' ? [201, { instance: { id: 'act_9' }, token }] : undefined);
      await license.activate();
      expect([license.instanceId, license.judgement().valid]).toEqual(['act_1', true]);
    }
  });

  it('may be given less time without contact than was signed, and not more', async () => {
    const [less, more] = [await activated({ offlineGraceDays: 3 }), await activated({ offlineGraceDays: 30, store: memoryStore() })];
    clock.pass(3 * day);
    expect([less, more].map((license) => license.judgement().code)).toEqual(['HEARTBEAT_OVERDUE', 'VALID']);
    clock.pass(11 * day);
    expect(more.judgement().code).toBe('HEARTBEAT_OVERDUE');
  });

  it('is locked by a signed "no", and unlocked by a signed "yes"', async () => {
    const license = await activated();
    const states: string[] = [];
    license.on('state', ({ now }) => states.push(now.code));
    Object.assign(vendor, { seq: 5, verdict: { valid: false, code: 'SUSPENDED', reasons: ['SUSPENDED'], enforcement: 'LOCKED' } });
    expect(await license.validate()).toMatchObject({ valid: false, code: 'SUSPENDED', enforcement: 'LOCKED', source: 'network' });
    expect(license.feature('sso').enabled).toBe(false);
    vendor.cut();
    expect(await license.validate()).toMatchObject({ valid: false, code: 'SUSPENDED', source: 'cache' });
    vendor.mend();
    Object.assign(vendor, { seq: 6, verdict: {} });
    expect(await license.activate()).toMatchObject({ ok: true, judgement: { valid: true } });
    expect(states).toEqual(['SUSPENDED', 'VALID']);
  });

  it('gives its seat back', async () => {
    const license = await activated();
    expect(await license.deactivate()).toEqual({ ok: true });
    expect(license.judgement()).toMatchObject({ code: 'NOT_ACTIVATED' });
    expect(await license.deactivate()).toMatchObject({ ok: false, code: 'NOT_ACTIVATED' });
    expect((await restarted()).judgement()).toMatchObject({ code: 'NOT_ACTIVATED' });
  });

  it.each([
    ['heartbeat', (license: License) => license.heartbeat.beat()],
    ['validate', (license: License) => license.validate()],
  ] as const)('stays given back when an earlier question is answered late (%s)', async (path, asked) => {
    const [onItsWay, held] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let isFirst = true;
    const license = await activated({ fetch: async (url, init) => {
      const answer = await vendor.fetch(url, init);
      if (url.endsWith(`/${path}`) && isFirst) {
        isFirst = false;
        onItsWay.resolve();
        await held.promise;
      }
      return answer;
    } });
    const asking = asked(license);
    await onItsWay.promise;
    expect(await license.deactivate()).toEqual({ ok: true });
    held.resolve();
    expect(await asking).toMatchObject({ code: 'NOT_ACTIVATED' });
    expect([license.instanceId, license.terms, license.judgement().code]).toEqual([null, null, 'NOT_ACTIVATED']);
  });

  it.each(['INSTANCE_NOT_FOUND', 'LICENSE_NOT_FOUND'])('is deactivated if the server knows no such seat (%s)', async (code) => {
    const license = await activated();
    vendor.between = (path) => (path === '/license/deactivate' ? problem(404, code) : undefined);
    expect(await license.deactivate()).toEqual({ ok: true });
    expect([license.instanceId, license.judgement().code]).toEqual([null, 'NOT_ACTIVATED']);
  });

  it('only forgets a seat that the vendor has moved to another machine', async () => {
    const license = await activated();
    vendor.between = (path) => (path === '/license/validate' ? new TypeError('fetch failed') : undefined);
    expect(await license.deactivate()).toMatchObject({ ok: false, code: 'UNREACHABLE' });
    vendor.mend();
    vendor.verdict = { valid: false, code: 'SUSPENDED', reasons: ['SUSPENDED', 'FINGERPRINT_MISMATCH'], enforcement: 'LOCKED' };
    expect(await license.deactivate()).toEqual({ ok: true });
    expect([license.instanceId, license.judgement().code]).toEqual([null, 'NOT_ACTIVATED']);
    expect(vendor.asked.map(({ path }) => path)).not.toContain('/license/deactivate');
  });

  it.each([
    ['said before, but the seat was taken since', ['FINGERPRINT_MISMATCH']], ['unknown so far', []],
  ])('is not deactivated by an answer that decides nothing, where a move to another machine was %s', async (_, reasons) => {
    const license = await open();
    if (reasons.length > 0) vendor.verdict = { valid: false, code: 'FINGERPRINT_MISMATCH', reasons, enforcement: 'LOCKED' };
    await license.validate();
    vendor.between = (path) => (path === '/license/validate' ? new TypeError('fetch failed') : undefined);
    expect(await license.activate()).toMatchObject({ ok: true });
    vendor.mend();
    vendor.verdict = { conclusive: false };
    expect(await license.deactivate()).toMatchObject({ ok: false, code: 'UNREACHABLE' });
    expect([license.instanceId, vendor.asked.at(-1)?.path]).toEqual(['act_1', '/license/validate']);
    vendor.verdict = {};
    expect(await license.deactivate()).toEqual({ ok: true });
    expect([license.instanceId, vendor.asked.at(-1)]).toMatchObject([null, { path: '/license/deactivate', body: { instanceId: 'act_1' } }]);
  });

  it('keeps its seat and goes on when the server cannot be told of its return', async () => {
    const license = await activated();
    license.heartbeat.start({ interval: 7 * minute, jitter: 0 });
    license.changes.start();
    await until(() => beats().length === 1 && license.changes.isConnected && clock.slept.includes(7 * minute));
    for (const answer of [new TypeError('fetch failed'), problem(403, 'PERMISSION_DENIED'), [200, { status: 'ok' }] as const]) {
      vendor.between = (path) => (path === '/license/deactivate' ? answer : undefined);
      const before = beats().length;
      clock.slept.length = 0;
      expect(await license.deactivate()).toMatchObject({ ok: false });
      expect(license.heartbeat.isRunning).toBe(true);
      await until(() => beats().length === before + 1 && license.changes.isConnected && clock.slept.includes(7 * minute));
    }
    license.heartbeat.stop();
    license.changes.stop();
    expect(await license.deactivate()).toMatchObject({ ok: false });
    expect(license.heartbeat.isRunning).toBe(false);
  });

  it('goes by its file without a key or a server', async () => {
    vendor.terms = { ...vendor.terms, validationMode: 'offline' };
    const license = await open({ key: undefined, server: undefined });
    expect(await license.activate()).toMatchObject({ ok: false, code: 'NO_SERVER' });
    expect(await license.install(await vendor.licenseFile())).toMatchObject({ ok: true, type: 'license-file', judgement: { valid: true } });
    expect(await license.validate()).toMatchObject({ valid: true, source: 'offline-file', problem: { code: 'NO_SERVER' } });
    clock.pass(400 * day);
    expect((await restarted({ key: undefined, server: undefined })).judgement()).toMatchObject({ valid: true });
  });
});

describe('A missing answer', () => {
  it.each([
    ['a cut network', () => new TypeError('fetch failed')], ['a 500', () => problem(500, 'INTERNAL')], ['a 503', () => problem(503, 'UNAVAILABLE')], ['a 429', () => problem(429, 'RATE_LIMITED')],
    ['a page of a captive portal', () => [200, '<html>Welcome</html>']], ['a 404 that is not of the product', () => [404, 'Not found']], ['a 401 of a proxy', () => [401, { error: 'who are you' }]],
    ['a 404 with a code', () => problem(404, 'ENVIRONMENT_NOT_FOUND')], ['a 403 with a code of whatever stands in front of the server', () => [403, { code: 'WAF_BLOCKED' }]],
    ['a "no" without a signature', () => [200, { valid: false, code: 'REVOKED', enforcement: 'LOCKED' }]], ['nonsense for a token', () => [200, { token: 'a.b.c' }]],
  ] as [string, () => never][])('may be %s: the license goes on within the grace, and locks after it', async (_name, answer) => {
    const license = await activated();
    await license.validate();
    vendor.between = (path) => (path.startsWith('/.well-known') ? undefined : answer());
    const unreachable = jest.fn();
    license.on('unreachable', unreachable);
    expect(await license.validate()).toMatchObject({ valid: true, code: 'IN_OFFLINE_GRACE', enforcement: 'WARN', source: 'cache', unreachable: true, problem: { ok: false } });
    expect(unreachable).toHaveBeenCalledTimes(1);
    expect(await license.activate()).toMatchObject({ ok: false });
    expect(await license.heartbeat.beat()).toMatchObject({ ok: false });
    clock.pass(13 * day + 23 * hour);
    expect(license.judgement()).toMatchObject({ valid: true, graceUntil: new Date(clock.wall + hour).toISOString() });
    clock.pass(hour);
    expect(await license.validate()).toMatchObject({ valid: false, code: 'HEARTBEAT_OVERDUE', enforcement: 'LOCKED' });
    vendor.mend();
    expect(await license.validate()).toMatchObject({ valid: true, code: 'VALID', source: 'network' });
  });

  it('is retried with growing waits, and not before the server wants', async () => {
    const license = await activated({ attempts: 3 });
    clock.slept.length = 0;
    vendor.between = () => [503, { code: 'UNAVAILABLE' }, { 'retry-after': '4' }];
    const asking = license.validate();
    const settled = jest.fn();
    void asking.then(settled);
    while (settled.mock.calls.length === 0) {
      clock.pass(5_000);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(vendor.asked.filter(({ path }) => path === '/license/validate')).toHaveLength(3);
    expect(new Set(vendor.asked.slice(-3).map(({ body }) => body['nonce'])).size).toBe(1);
    expect(clock.slept.filter((ms) => ms >= 4_000 && ms <= 5_000)).toHaveLength(2);
  });
});

describe('An answer', () => {
  it('is refused if it is older than one seen before', async () => {
    const license = await activated();
    vendor.seq = 9;
    await license.validate();
    vendor.seq = 8;
    expect(await license.validate()).toMatchObject({ valid: true, source: 'cache', problem: { code: 'UNTRUSTED_ANSWER', members: { reason: 'STALE' } } });
  });

  it('is refused if it is to another question, for another machine or product, or from another vendor', async () => {
    const license = await activated({ product: 'prd_1' });
    await license.validate();
    const first = vendor.answered.at(-1)?.answer;
    const somebody = await Vendor.open(clock);
    somebody.verdict = { valid: false, code: 'REVOKED', reasons: ['REVOKED'], enforcement: 'LOCKED' };
    const faults = {
      WRONG_NONCE: first, WRONG_FINGERPRINT: (body: Record<string, unknown>) => vendor.verdictFor({ ...body, fingerprint: 'machine-2' }), WRONG_AUDIENCE: (body: Record<string, unknown>) => vendor.verdictFor({ ...body, productId: 'prd_2' }),
      UNKNOWN_KEY: (body: Record<string, unknown>) => somebody.verdictFor(body),
    };
    for (const [reason, answer] of Object.entries(faults)) {
      const { fetch } = vendor;
      const asking = await open({
        product: 'prd_1', fetch: async (url, init) => {
          if (!url.endsWith('/validate') || answer === first) return url.endsWith('/validate') ? new Response(JSON.stringify(first?.[1])) : fetch(url, init);
          return new Response(JSON.stringify({ token: await (answer as (body: object) => Promise<string>)(JSON.parse(String(init.body)) as object) }));
        },
      });
      expect(await asking.validate()).toMatchObject({ valid: true, problem: { members: { reason } } });
    }
  });

  it('is taken from a new key once that is known, and no more from a revoked one', async () => {
    const license = await activated();
    await vendor.rotate('verdict');
    expect(await license.validate()).toMatchObject({ source: 'network' });
    vendor.revoked.push(vendor.kid('lease'));
    clock.pass(2 * day);
    vendor.between = (path) => (path === '/license/validate' ? undefined : path.startsWith('/.well-known') ? undefined : new TypeError('fetch failed'));
    expect(await license.validate()).toMatchObject({ source: 'network' });
    expect(license.terms).toBeNull();
  });

  it('is good although a proxy says that its key is revoked', async () => {
    const license = await activated();
    const jwks = await vendor.jwks();
    const all = (['lease', 'verdict', 'license-file'] as const).map((purpose) => vendor.kid(purpose));
    vendor.between = (path) => (path.startsWith('/.well-known') ? [200, { ...jwks, revoked: all }] : undefined);
    clock.pass(2 * day);
    expect(await license.validate()).toMatchObject({ valid: true, source: 'network' });
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true });
    expect(license.terms).not.toBeNull();
    expect((await restarted()).judgement()).toMatchObject({ valid: true });
  });

  it('is good although a proxy replaces its key', async () => {
    const license = await activated();
    const keys = (await vendor.jwks()).keys as { kid: string; kl_cert: object }[];
    for (const forged of [keys.map(({ kid }) => ({ kid })), Array.from({ length: 200 }, (_, n) => ({ kid: `junk-${n}` })), [null, 1, ...keys.map((key) => ({ ...key, kl_cert: keys[0]?.kl_cert }))]]) {
      vendor.between = (path) => (path.startsWith('/.well-known') ? [200, { keys: forged }] : undefined);
      clock.pass(2 * day);
      expect(await license.validate()).toMatchObject({ valid: true, source: 'network' });
      expect(license.terms).not.toBeNull();
      expect((await restarted()).judgement()).toMatchObject({ valid: true });
    }
  });

  it.each(['lease', 'verdict', 'webhook'] as const)('is good after any number of new keys, also after a restart without the server (%s)', async (purpose) => {
    const license = await activated();
    await license.validate();
    for (let n = 0; n < 60; n++) await vendor.rotate('verdict');
    for (let n = 0; n < 60; n++) await vendor.rotate(purpose);
    clock.pass(2 * day);
    expect(await license.validate()).toMatchObject({ valid: true, source: 'network', problem: null });
    // The lease is still signed by the first key, until there is a heartbeat.
    vendor.cut();
    expect([(await restarted()).judgement().valid, (await restarted()).terms?.id]).toEqual([true, 'lic_1']);
    vendor.mend();
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true });
    vendor.cut();
    const asked = vendor.asked.length;
    const next = await restarted();
    expect([next.judgement().valid, next.terms?.id, vendor.asked.length]).toEqual([true, 'lic_1', asked]);
    expect(((JSON.parse(String(await store.read()).slice(65)) as { keys: { keys: unknown[] } }).keys.keys).length).toBeLessThanOrEqual(102);
  });

  it('of a revoked key stays refused after a restart, also from an outdated list of keys', async () => {
    const license = await activated();
    const before = await vendor.jwks();
    vendor.revoked.push(vendor.kid('lease'));
    clock.pass(2 * day);
    await license.validate();
    expect(license.terms).toBeNull();
    await license.dispose();
    vendor.between = (path) => (path.startsWith('/.well-known') ? [200, before] : undefined);
    const next = await restarted();
    clock.pass(2 * day);
    await next.validate();
    expect(await next.heartbeat.beat()).toMatchObject({ ok: false, code: 'UNTRUSTED_ANSWER', members: { reason: 'KEY_REVOKED' } });
  });

  it('is taken by a machine whose clock is years wrong', async () => {
    for (const wrong of [-2000 * day, 900 * day]) {
      const real = clock.wall;
      const away = new TestClock();
      away.wall = real + wrong;
      const license = await open({ clock: away, store: memoryStore() });
      expect(await license.activate()).toMatchObject({ ok: true, judgement: { valid: true, state: 'active' } });
      expect(await license.validate()).toMatchObject({ valid: true, source: 'network', at: new Date(real).toISOString() });
      away.pass(13 * day);
      expect(license.judgement()).toMatchObject({ valid: true });
      away.pass(day);
      expect(license.judgement()).toMatchObject({ valid: false });
      clock.wall = real;
    }
  });
});

describe('What is kept', () => {
  it('lets the next process go on from there, with no network', async () => {
    await activated();
    vendor.cut();
    clock.pass(10 * day);
    const next = await restarted();
    expect(next.opened).toBe('restored');
    expect(next.judgement()).toMatchObject({ valid: true, code: 'VALID' });
    expect(next.feature('projects').limit).toBe(10);
    clock.pass(4 * day);
    expect(next.judgement()).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
  });

  it('keeps counting time when the clock is put back between two processes', async () => {
    const first = await activated();
    vendor.cut();
    clock.pass(10 * day);
    await first.validate();
    Object.assign(clock, { wall: clock.wall - 60 * day, boot: 'boot-2', mono: 0 });
    const next = await restarted();
    const rollback = jest.fn();
    next.on('clock-rollback', rollback);
    expect(next.judgement().valid).toBe(true);
    clock.pass(4 * day);
    expect(next.judgement()).toMatchObject({ valid: false, code: 'HEARTBEAT_OVERDUE' });
  });

  it('by a killed process costs the next one no less time than it lasted, and little more', async () => {
    const license = await activated();
    vendor.cut();
    const begun = clock.wall;
    let text = String(await store.read());
    await license.dispose();
    /** Runs a process on a rebooted machine, with its clock put back. */
    const ran = async (ms: number) => {
      Object.assign(clock, { boot: crypto.randomUUID(), mono: 0, wall: begun });
      const kept = memoryStore(text);
      const next = await open({ store: kept });
      const { at } = next.judgement();
      for (let lasted = 0; lasted < ms; lasted += 50) {
        const [isDue, slept] = [clock.wakes(50), clock.slept.length];
        clock.pass(50);
        if (isDue) await until(() => clock.slept.length > slept);
      }
      text = String(await kept.read());
      await next.dispose();
      return Date.parse(at);
    };
    for (const ms of [50, 50, 100, 150, 350, 1_000, 7_000, 29_950, 30_000, 61_000, 200_000]) {
      const before = await ran(ms);
      const cost = (await ran(0)) - before;
      expect([ms, cost >= ms, cost <= 3 * ms + 200]).toEqual([ms, true, true]);
    }
  });

  it('tells when the clock was put back', async () => {
    const license = await activated();
    const rollback = jest.fn();
    license.on('clock-rollback', rollback);
    clock.wall -= hour;
    vendor.cut();
    await license.validate();
    await license.validate();
    expect(rollback).toHaveBeenCalledTimes(1);
  });

  it('is not taken when it was edited anywhere, or is of another machine or key', async () => {
    const license = await activated();
    await license.dispose();
    const text = String(await store.read());
    const opened = async (changed: string, options: Partial<LicenseOptions> = {}) => {
      const next = await open({ ...options, store: memoryStore(changed) });
      return [next.opened, next.judgement().code];
    };
    expect(await opened(text)).toEqual(['restored', 'VALID']);
    for (let at = 0; at < text.length; at += 97) {
      const flipped = text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ 1) + text.slice(at + 1);
      expect(await opened(flipped)).toEqual(['tampered', 'NOT_ACTIVATED']);
    }
    for (const wrong of ['', 'nonsense', text.slice(0, -1), `${text}\n`]) expect(await opened(wrong)).toEqual(['tampered', 'NOT_ACTIVATED']);
    expect(await opened(text, { fingerprint: 'machine-2' })).toEqual(['tampered', 'NOT_ACTIVATED']);
    expect(await opened(text, { key: 'KEY-2' })).toEqual(['tampered', 'NOT_ACTIVATED']);
    expect(text).not.toContain(vendor.licenseKey);
  });

  it('can be read with every spelling of the key, also if it was sealed before spellings were unified', async () => {
    const license = await activated({ key: ' pro‑abcd-O123 ' });
    await license.heartbeat.beat();
    expect(vendor.asked[0]?.body['licenseKey']).toBe('PRO-ABCD-O123');
    expect(beats()[0]?.authorization).toBe('License PRO-ABCD-O123');
    await license.dispose();
    for (const key of ['PRO-ABCD-0123', 'pro abcd o123', 'PROABCD0123', '“PRO—ABCD–O123”\n']) expect([key, (await open({ key })).opened]).toEqual([key, 'restored']);
    expect((await open({ key: 'PRO-ABCD-0124' })).opened).toBe('tampered');
    const text = String(await store.read()).slice(65);
    const before = await sealerFor('machine-1', 'Pro-abcd-o123');
    const old = memoryStore(await before.seal(text));
    expect((await open({ key: 'Pro-abcd-o123', store: old })).opened).toBe('restored');
    expect((await open({ key: 'PRO-ABCD-0123', store: old })).opened).toBe('restored');
  });

  it('holds an id that identifies the instance where the machine has nothing better', async () => {
    const license = await open({ fingerprint: undefined });
    expect(license.fingerprint).toMatch(/^[A-Za-z0-9_-]{43}$/);
    await license.activate();
    expect(await restarted({ fingerprint: undefined })).toMatchObject({ fingerprint: license.fingerprint, opened: 'restored' });
    expect((await open({ fingerprint: undefined, store: memoryStore() })).fingerprint).not.toBe(license.fingerprint);
  });

  it('is done without when it cannot be read or written', async () => {
    const warn = jest.fn();
    const broken: Store = { read: () => Promise.reject(new Error('EIO')), write: () => { throw new Error('ENOSPC'); } };
    const license = await open({ store: broken, logger: { warn } });
    expect(await license.activate()).toMatchObject({ ok: true, judgement: { valid: true } });
    expect(warn).toHaveBeenCalledWith('the license state could not be written', expect.anything());
  });

  it('is written again once it can be, even if the logger threw', async () => {
    let isFull = true;
    const filling: Store = { read: () => null, write: () => { if (isFull) throw new Error('ENOSPC'); } };
    const license = await open({ store: filling, logger: { warn: () => { throw new Error('EPIPE'); } } });
    await license.activate();
    expect(license.isStored).toBe(false);
    isFull = false;
    expect(await license.validate()).toMatchObject({ valid: true });
    expect(license.isStored).toBe(true);
  });
});

describe('Heartbeats', () => {
  it('renew the lease, each with a number of its own, at the pace of the license', async () => {
    vendor.terms = { ...vendor.terms, validationMode: 'heartbeat' };
    const license = await activated({ version: '1.2.3' });
    const renewed = jest.fn();
    license.on('renewed', renewed);
    clock.pass(5 * day);
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true, nextInMs: hour, judgement: { valid: true, offlineUntil: new Date(clock.wall + 14 * day).toISOString() } });
    await license.heartbeat.beat();
    expect(beats().map(({ body, authorization }) => [body['seq'], body['version'], body['activationId'], authorization])).toEqual([[1, '1.2.3', 'act_1', 'License KEY-1'], [2, '1.2.3', 'act_1', 'License KEY-1']]);
    expect(renewed).toHaveBeenCalled();
    license.heartbeat.start();
    const beaten = beats().length;
    await until(() => beats().length === beaten + 1);
    await until(() => clock.slept.some((ms) => ms >= 0.8 * hour && ms <= 1.2 * hour));
    clock.pass(1.2 * hour);
    await until(() => beats().length === beaten + 2);
    license.heartbeat.stop();
  });

  it.each([
    ['of one interval', { offlineGraceDays: 1, heartbeatIntervalSeconds: 86_400 }, {}, day / 2], ['of none, by the signed terms', { offlineGraceDays: 0, validationMode: 'online' }, {}, hour], ['of none, by the options', {}, { offlineGraceDays: 0 }, hour],
  ] as const)('come in time for an offline grace %s, and for one more try', async (_name, terms, options, most) => {
    vendor.terms = { ...vendor.terms, validationMode: 'heartbeat', ...terms };
    const license = await activated(options);
    const locked = jest.fn();
    license.on('state', ({ now }) => now.enforcement === 'LOCKED' && locked());
    license.heartbeat.start({ jitter: 0 });
    const planned = () => clock.slept.findLast((ms) => ms > 10 * minute) ?? 0;
    for (let beaten = 1; beaten < 4; beaten++) {
      await until(() => beats().length === beaten && planned() > 0);
      expect(planned()).toBe(most);
      clock.slept.length = 0;
      clock.pass(most);
    }
    await until(() => planned() > 0);
    vendor.cut();
    jest.spyOn(Math, 'random').mockReturnValue(0.999);
    for (let [wait, left] = [most as number, 2 * most]; (left -= wait) > minute;) {
      clock.slept.length = 0;
      clock.pass(wait);
      const tried = () => clock.slept.find((ms) => !ticks.has(ms));
      await until(() => tried() !== undefined);
      wait = tried() ?? 0;
      expect(wait).toBeLessThanOrEqual(left / 2 + 1);
    }
    expect(locked).not.toHaveBeenCalled();
    license.heartbeat.stop();
  });

  it('ask for a verdict when they get a repeated lease that would end too soon', async () => {
    vendor.terms = { ...vendor.terms, validationMode: 'heartbeat' };
    vendor.repeatsLeases = true;
    const license = await activated({ offlineGraceDays: 0 });
    const states: string[] = [];
    license.on('state', ({ now }) => states.push(now.enforcement));
    license.heartbeat.start({ jitter: 0 });
    for (let beaten = 1; beaten < 8; beaten++) {
      await until(() => beats().length === beaten && clock.slept.some((ms) => ms > 10 * minute));
      clock.slept.length = 0;
      clock.pass(hour);
    }
    expect([states, license.judgement().enforcement]).toEqual([[], 'FULL']);
    license.heartbeat.stop();
  });

  it('are the same again when their answer was lost, also after a restart; and the next one follows at once', async () => {
    const license = await activated();
    await license.heartbeat.beat();
    await license.dispose();
    const { fetch } = vendor;
    const losing = await restarted({ fetch: async (url, init) => {
      await fetch(url, init);
      throw new TypeError('socket hang up');
    } });
    expect(await losing.heartbeat.beat()).toMatchObject({ ok: false, code: 'UNREACHABLE' });
    clock.pass(day);
    const next = await restarted();
    expect(await next.heartbeat.beat()).toMatchObject({ ok: true, judgement: { offlineUntil: new Date(clock.wall + 14 * day).toISOString() } });
    const [, second, again, third] = beats().map(({ body }) => body);
    expect(again).toEqual(second);
    expect([second?.['seq'], third?.['seq']]).toEqual([2, 3]);
  });

  it('lock with a signed verdict only; unsigned answers are a reason to ask', async () => {
    const license = await activated();
    vendor.verdict = { valid: false, code: 'REVOKED', reasons: ['REVOKED'], enforcement: 'LOCKED' };
    const { fetch } = vendor;
    const lying = await restarted({ fetch: async (url, init) => {
      if (url.endsWith('/heartbeat')) return new Response(JSON.stringify({ state: 'revoked', enforcement: 'LOCKED', token: null, directives: [], nextInSeconds: 60 }));
      if (url.endsWith('/validate')) throw new TypeError('fetch failed');
      return fetch(url, init);
    } });
    await lying.heartbeat.beat();
    expect(lying.judgement()).toMatchObject({ valid: true });
    vendor.seq = 5;
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: false, code: 'REVOKED', enforcement: 'LOCKED' } });
  });

  it('answered READ_ONLY come with a lease, so the reason is asked for', async () => {
    const license = await activated();
    Object.assign(vendor, { seq: 5, verdict: { valid: true, code: 'RESTRICTED', reasons: ['RESTRICTED'], enforcement: 'READ_ONLY' } });
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: true, code: 'RESTRICTED', enforcement: 'READ_ONLY', state: 'restricted' } });
    vendor.verdict = {};
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true, judgement: { code: 'VALID', enforcement: 'FULL' } });
  });

  it.each(['heartbeat', 'online'] as const)('that are refused for no reason that a verdict names count as missed if the license needs them (%s)', async (validationMode) => {
    vendor.terms = { ...vendor.terms, validationMode };
    const license = await activated();
    const unreachable = jest.fn();
    license.on('unreachable', unreachable);
    vendor.between = (path) => (path.endsWith('/heartbeat') ? problem(404, 'NOT_FOUND') : undefined);
    license.heartbeat.start({ jitter: 0 });
    const isMissed = validationMode === 'heartbeat';
    await until(() => clock.slept.some((ms) => (isMissed ? ms >= minute && ms <= 3 * minute && !ticks.has(ms) : ms === hour)));
    expect([license.judgement().code, license.judgement().graceUntil]).toEqual(isMissed ? ['IN_OFFLINE_GRACE', new Date(clock.wall + 14 * day).toISOString()] : ['VALID', null]);
    expect(unreachable.mock.calls).toEqual(isMissed ? [[expect.objectContaining({ code: 'NOT_FOUND' })]] : []);
    vendor.mend();
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true, judgement: { code: 'VALID', unreachable: false } });
    license.heartbeat.stop();
  });

  it('that are refused again and again tell it once, and wait longer each time', async () => {
    vendor.terms = { ...vendor.terms, validationMode: 'heartbeat' };
    const license = await activated();
    const told: string[] = [];
    license.on('state', ({ before, now }) => told.push(`${before.code} > ${now.code}`));
    license.on('renewed', () => told.push('renewed'));
    license.on('unreachable', ({ code }) => told.push(code));
    vendor.between = (path) => (path.endsWith('/heartbeat') ? problem(400, 'VALIDATION_FAILED') : undefined);
    license.heartbeat.start();
    const waited = () => clock.slept.filter((ms) => !ticks.has(ms));
    await until(() => waited().length === 1);
    for (let n = 2; n <= 10; n++) {
      clock.pass(waited().at(-1) ?? 0);
      await until(() => waited().length === n);
    }
    expect(waited()).toEqual(waited().toSorted((a, b) => a - b));
    expect([Math.min(...waited()) >= minute, Math.max(...waited()) <= hour, questions()]).toEqual([true, true, 10]);
    expect(told).toEqual(['VALID > IN_OFFLINE_GRACE', 'VALIDATION_FAILED']);
    Object.assign(vendor, { seq: 5, verdict: { valid: false, code: 'SUSPENDED', reasons: ['SUSPENDED'], enforcement: 'LOCKED' } });
    expect(await license.heartbeat.beat()).toMatchObject({ ok: false, code: 'VALIDATION_FAILED' });
    expect(license.judgement()).toMatchObject({ code: 'SUSPENDED', unreachable: false });
  });

  it('that are refused with all other requests are retried with growing waits', async () => {
    const license = await activated();
    vendor.between = () => problem(404, 'ENVIRONMENT_NOT_FOUND');
    license.heartbeat.start({ jitter: 0 });
    await until(() => clock.slept.some((ms) => ms >= minute && ms <= 3 * minute));
    expect(license.judgement()).toMatchObject({ code: 'IN_OFFLINE_GRACE', unreachable: true });
    license.heartbeat.stop();
  });

  it('are sent at once when the grace has ended while the machine slept, and with growing waits while there is no network yet', async () => {
    const license = await activated();
    license.heartbeat.start({ jitter: 0 });
    for (const isThere of [true, false]) {
      await until(() => clock.slept.includes(hour));
      const before = beats().length;
      if (!isThere) vendor.cut();
      // Timers do not count what a machine sleeps; its clocks do.
      clock.suspend(20 * day);
      clock.slept.length = 0;
      clock.pass(minute);
      await until(() => beats().length > before && clock.slept.some((ms) => !ticks.has(ms)));
      expect(license.judgement().code).toBe(isThere ? 'VALID' : 'HEARTBEAT_OVERDUE');
      expect(beats()).toHaveLength(before + 1);
    }
    license.heartbeat.stop();
  });

  it('deliver each directive once, and acknowledge it', async () => {
    const license = await activated();
    const told = jest.fn();
    license.on('directive', told);
    vendor.directives = [{ id: 'dir_1', kind: 'message', payload: { text: 'hello' }, issuedAt: 'now' }, { id: 'dir_2', kind: 'refresh', issuedAt: 'now' }];
    await license.heartbeat.beat();
    expect(told.mock.calls.map(([directive]) => (directive as { id: string }).id)).toEqual(['dir_1', 'dir_2']);
    expect(questions()).toBe(1);
    vendor.directives = [];
    await license.heartbeat.beat();
    expect(beats().at(-1)?.body['acks']).toEqual(['dir_1', 'dir_2']);
    await license.heartbeat.beat();
    expect(beats().at(-1)?.body['acks']).toEqual([]);
    expect(told).toHaveBeenCalledTimes(2);
  });

  it('go on when a proxy changes the answers: a late next one, the highest number, an id that the server would refuse', async () => {
    const license = await activated();
    vendor.between = (path) => (path.endsWith('/heartbeat') ? [409, { code: 'STALE_SEQUENCE', lastSeq: Number.MAX_SAFE_INTEGER }] : undefined);
    expect(await license.heartbeat.beat()).toMatchObject({ ok: false });
    vendor.mend();
    vendor.directives = [{ id: 'd'.repeat(65), kind: 'message', issuedAt: 'now' }];
    vendor.terms = { ...vendor.terms, heartbeatIntervalSeconds: 1e9 };
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true, nextInMs: hour });
    vendor.directives = [];
    await license.heartbeat.beat();
    expect(beats().slice(-2).map(({ body: { seq, acks } }) => ({ seq, acks }))).toEqual([{ seq: 2, acks: [] }, { seq: 3, acks: [] }]);
  });

  it('of two instances with one state: one goes on, the other lives on its lease', async () => {
    vendor.terms = { ...vendor.terms, validationMode: 'heartbeat' };
    const original = await activated();
    await original.heartbeat.beat();
    await original.dispose();
    const copy = String(await store.read());
    const [first, clone] = [await open({ store: memoryStore(copy) }), await open({ store: memoryStore(copy) })];
    const conflict = jest.fn();
    first.on('conflict', conflict);
    expect(await first.heartbeat.beat()).toMatchObject({ ok: true });
    expect(await clone.heartbeat.beat()).toMatchObject({ ok: true });
    clock.pass(day);
    expect(await first.heartbeat.beat()).toMatchObject({ ok: false, code: 'STALE_SEQUENCE' });
    expect(conflict).toHaveBeenCalledWith({ lastSeq: 3, seq: 3 });
    expect(await clone.heartbeat.beat()).toMatchObject({ ok: true });
    clock.pass(13 * day);
    expect(await first.validate()).toMatchObject({ valid: false, code: 'HEARTBEAT_OVERDUE' });
    expect(clone.judgement()).toMatchObject({ valid: true });
  });
});

describe('A seat that floats', () => {
  const seats = () => vendor.asked.filter(({ path }) => path === '/license/activate').map(({ body }) => body);
  beforeEach(() => {
    vendor.terms = { ...vendor.terms, seats: 'floating' };
  });
  const away = async (license: License) => {
    vendor.cut();
    clock.slept.length = 0;
    license.heartbeat.start({ interval: hour, jitter: 0 });
    await until(() => license.judgement().unreachable && clock.slept.some((ms) => !ticks.has(ms)));
    vendor.lapse();
    clock.pass(3 * hour);
    vendor.mend();
  };

  it('and was lost is taken anew by the heartbeats, with the same options, also by another process', async () => {
    const license = await open();
    await license.activate({ name: 'web-1', metadata: { rack: 7 }, installationId: 'inst-1' });
    await license.record([{ meter: 'cores', value: 3 }]);
    license.changes.start();
    await away(license);
    await until(() => license.instanceId === 'act_2' && license.judgement().valid);
    expect(seats()).toEqual([seats()[0], seats()[0]]);
    await until(() => license.changes.isConnected);
    // Usage is reported by the instance that has the seat now.
    await license.heartbeat.beat();
    expect(vendor.asked.findLast(({ path }) => path === '/license/usage')?.body).toMatchObject({ instanceId: 'act_2', records: [{ meter: 'cores', value: 3 }] });
    vendor.lapse();
    await license.validate();
    await license.dispose();
    expect(license.judgement()).toMatchObject({ code: 'INSTANCE_NOT_FOUND', enforcement: 'LOCKED' });
    const next = await restarted();
    next.heartbeat.start();
    await until(() => next.judgement().valid);
    expect([next.instanceId, seats()[2]]).toEqual(['act_3', seats()[0]]);
  });

  it('is taken anew as soon as the instance hears that it was lost', async () => {
    const license = await activated();
    license.heartbeat.start({ interval: hour, jitter: 0 });
    await until(() => clock.slept.includes(hour));
    vendor.lapse();
    // Usage meanwhile is reported by the instance that then has the seat.
    license.quota('reports').tryConsume();
    expect(await license.reportUsage()).toMatchObject({ ok: false, code: 'INSTANCE_NOT_FOUND' });
    expect(license.waiting).toBe(1);
    expect(await license.validate()).toMatchObject({ valid: false, code: 'INSTANCE_NOT_FOUND' });
    await until(() => license.judgement().valid);
    expect(license.instanceId).toBe('act_2');
  });

  it('is asked for with growing waits while all are taken', async () => {
    const license = await activated();
    jest.spyOn(Math, 'random').mockReturnValue(0.5);
    license.heartbeat.start({ interval: hour, jitter: 0 });
    await until(() => clock.slept.includes(hour));
    vendor.lapse();
    vendor.between = (path) => (path === '/license/activate' ? problem(409, 'ACTIVATION_LIMIT_EXCEEDED') : undefined);
    const waited = () => clock.slept.filter((ms) => !ticks.has(ms));
    clock.slept.length = 0;
    const taken = seats().length;
    for (let n = 1; n <= 12; n++) {
      clock.pass(hour);
      await until(() => seats().length === taken + n && waited().length === n);
    }
    expect(waited().slice(0, 4)).toEqual([2_000, 3_500, 5_750, 9_125]);
    expect(Math.max(...waited())).toBeGreaterThan(100_000);
    vendor.mend();
    clock.pass(hour);
    await until(() => license.judgement().valid);
    expect(license.instanceId).toBe('act_2');
  });

  it('stays given back, even while another one is being taken', async () => {
    const license = await activated();
    vendor.lapse();
    const { fetch } = vendor;
    const held = Promise.withResolvers<void>();
    let leaving: Promise<unknown> | undefined;
    await license.dispose();
    const next = await restarted({ fetch: async (url, init) => {
      if (url.endsWith('/license/activate')) {
        void Promise.resolve().then(() => (leaving = next.deactivate()));
        await held.promise;
      }
      return fetch(url, init);
    } });
    next.heartbeat.start();
    await until(() => leaving !== undefined);
    held.resolve();
    expect(await leaving).toEqual({ ok: true });
    expect([next.instanceId, next.heartbeat.isRunning, next.judgement().code]).toEqual([null, false, 'NOT_ACTIVATED']);
    expect(vendor.asked.at(-1)).toMatchObject({ path: '/license/deactivate', body: { instanceId: 'act_2' } });
    clock.pass(day);
    await new Promise((resolve) => setImmediate(resolve));
    expect(seats()).toHaveLength(2);
  });

  it('is unlike a node-locked one, which stays lost until it is activated', async () => {
    vendor.terms = { ...vendor.terms, seats: 'node-locked' };
    const license = await activated();
    await away(license);
    await until(() => license.judgement().code === 'INSTANCE_NOT_FOUND' && clock.slept.includes(hour));
    clock.pass(hour);
    await until(() => clock.slept.filter((ms) => ms === hour).length > 1);
    expect([seats().length, license.judgement().enforcement]).toEqual([1, 'LOCKED']);
  });
});

describe('What is used', () => {
  const usage = () => vendor.asked.filter(({ path }) => path === '/license/usage').map(({ body }) => body['records'] as { id: string; meter: string; value: number }[]);

  it('is counted here, sent once with a heartbeat, and kept until then', async () => {
    const license = await activated();
    await license.validate();
    const taken = Array.from({ length: 6 }, () => license.quota('reports').tryConsume());
    expect(taken).toEqual([true, true, true, true, true, false]);
    expect(license.feature('reports')).toMatchObject({ limit: 5, per: 'day', used: 5, remaining: 0 });
    license.quota('cores').report(6);
    expect(license.quota('cores')).toMatchObject({ limit: 8, used: 6, remaining: 2, state: 'normal' });
    vendor.cut();
    await license.reportUsage();
    vendor.between = (path) => (path === '/license/usage' ? [200, { status: 'ok' }] : undefined);
    expect(await license.reportUsage()).toMatchObject({ ok: false, code: 'UNTRUSTED_ANSWER' });
    vendor.mend();
    const next = await restarted();
    expect(next.quota('reports').tryConsume()).toBe(false);
    await next.heartbeat.beat();
    await next.heartbeat.beat();
    const sent = vendor.asked.filter(({ path }) => path === '/license/usage').map(({ body }) => (body['records'] as { id: string; meter: string }[]));
    expect(sent).toHaveLength(3);
    expect(sent.slice(1)).toEqual([sent[0], sent[0]]);
    expect(sent[0]).toMatchObject([{ meter: 'reports', value: 5 }, { meter: 'cores', value: 6 }]);
    expect(next.feature('reports').remaining).toBe(0);
    clock.pass(day);
    expect(next.feature('reports').remaining).toBe(5);
  });

  it('of a quota without a period is what is in use: it fills up, and blocks', async () => {
    const license = await activated();
    const cores = license.quota('cores');
    expect(Array.from({ length: 5 }, () => cores.tryConsume())).toEqual([true, true, true, true, true]);
    clock.pass(minute);
    expect(Array.from({ length: 5 }, () => cores.tryConsume())).toEqual([true, true, true, false, false]);
    await license.reportUsage();
    expect(license.quota('cores')).toMatchObject({ used: 8, remaining: 0 });
    expect(usage()).toMatchObject([[{ meter: 'cores', value: 5 }, { meter: 'cores', value: 8 }]]);
    cores.report(2);
    expect([cores.tryConsume(7), cores.tryConsume(6)]).toEqual([false, true]);
    // A sent reading is not changed any more.
    await license.reportUsage();
    expect(usage().at(-1)).toMatchObject([{ meter: 'cores', value: 8 }]);
    expect(new Set(usage().flat().map(({ id }) => id)).size).toBe(3);
  });

  it('up emits `exceeded` once, until some of it is free again', async () => {
    const license = await activated();
    const [told, other, anywhere] = [jest.fn(), jest.fn(), jest.fn()];
    const stop = license.quota('reports').on('exceeded', told);
    license.quota('cores').on('exceeded', other);
    license.on('exceeded', anywhere);
    for (let n = 0; n < 8; n++) license.quota('reports').tryConsume();
    expect(told.mock.calls).toEqual([[expect.objectContaining({ name: 'reports', limit: 5, used: 5, remaining: 0 })]]);
    clock.pass(day);
    expect(license.quota('reports').tryConsume(6)).toBe(false);
    expect(license.quota('reports').tryConsume(5)).toBe(true);
    expect(license.quota('reports').tryConsume(6)).toBe(false);
    expect(told).toHaveBeenCalledTimes(2);
    clock.pass(day);
    license.quota('reports').tryConsume(5);
    license.quota('reports').tryConsume();
    expect(told).toHaveBeenCalledTimes(3);
    stop();
    for (const cores of [8, 9, 10, 7, 9]) license.quota('cores').report(cores);
    expect(other.mock.calls).toEqual([[expect.objectContaining({ used: 9 })], [expect.objectContaining({ used: 9 })]]);
    expect(anywhere).toHaveBeenCalledTimes(5);
    // The server counts all instances.
    license.quota('cores').report(1);
    vendor.terms = { ...vendor.terms, quotas: [{ meter: 'cores', limit: 8, state: 'exceeded', graceEndsAt: '2026-08-01T00:00:00.000Z' } as never] };
    vendor.seq = 5;
    await license.validate();
    await license.validate();
    expect(other).toHaveBeenCalledTimes(3);
  });

  it('is combined by the minute: a sum, or the highest and the last reading of a gauge', async () => {
    const license = await activated();
    license.quota('reports').tryConsume(2);
    for (const cores of [3, 7, 5, 6, 8, 4, 1]) license.quota('cores').report(cores);
    license.quota('reports').tryConsume();
    clock.pass(minute);
    license.quota('reports').tryConsume();
    license.quota('cores').report(2);
    await license.reportUsage();
    expect(usage()[0]?.map(({ meter, value }) => [meter, value])).toEqual([['reports', 3], ['cores', 8], ['cores', 1], ['reports', 1], ['cores', 2]]);
  });

  it('is combined by the day, not lost, when very much waits while the server is away', async () => {
    vendor.terms = { ...vendor.terms, features: { exports: { limit: 1e6, per: 'month' } } };
    const license = await activated();
    vendor.cut();
    await license.record(Array.from({ length: 10_000 }, () => ({ meter: 'exports', value: 1 })));
    for (let minutes = 0; minutes < 30; minutes++) {
      clock.pass(minute);
      license.quota('exports').tryConsume();
    }
    expect(license.quota('exports').used).toBe(10_030);
    expect(license.waiting).toBe(10_001);
    vendor.mend();
    await license.reportUsage();
    expect([license.waiting, usage().flat().reduce((sum, { value }) => sum + value, 0)]).toEqual([0, 10_030]);
  });

  it('of a gauge keeps its highest and its last reading when very much waits', async () => {
    const license = await activated();
    vendor.cut();
    await license.record(Array.from({ length: 9_997 }, () => ({ meter: 'exports', value: 1 })));
    for (const cores of [3, 7, 5, 2]) {
      clock.pass(minute);
      license.quota('cores').report(cores);
    }
    expect([license.waiting, license.quota('cores').used]).toEqual([10_000, 2]);
    vendor.mend();
    await license.reportUsage();
    expect(usage().flat().filter(({ meter }) => meter === 'cores').map(({ value }) => value)).toEqual([3, 7, 2]);
  });

  it('is sent in batches that fit, however long the names are and whatever a proxy allows', async () => {
    const license = await activated();
    const most = { bytes: 256 * 1024, records: Infinity };
    const sizes: number[] = [];
    vendor.between = (path, body) => {
      if (path !== '/license/usage') return undefined;
      const bytes = Buffer.byteLength(JSON.stringify(body));
      sizes.push(bytes);
      return bytes > most.bytes ? most.records < Infinity ? [413, '<html>'] : problem(413, 'BODY_TOO_LARGE') : undefined;
    };
    const record = (prefix: string, n: number) => license.record(Array.from({ length: n }, (_, at) => ({ id: `${prefix}${at}`.padEnd(255, 'ä'), meter: 'cores'.padEnd(255, 'é'), value: at })));
    await record('a', 1500);
    expect(await license.reportUsage()).toEqual({ ok: true, accepted: 1500 });
    expect([license.waiting, Math.max(...sizes) <= most.bytes]).toEqual([0, true]);
    Object.assign(most, { bytes: 64 * 1024, records: 0 });
    await record('b', 300);
    expect(await license.reportUsage()).toEqual({ ok: true, accepted: 300 });
    most.bytes = 100;
    await record('c', 2);
    expect(await license.reportUsage()).toMatchObject({ ok: false });
    expect(license.waiting).toBe(2);
  });

  it('of a month is a handful of sums in the store, and counts as before', async () => {
    vendor.terms = { ...vendor.terms, features: { ...vendor.terms.features, exports: { limit: 1e6, per: 'month' } } };
    const license = await activated();
    const use = async () => {
      await license.record([{ meter: 'exports', value: 2 }, { meter: 'reports', value: 1 }, { meter: 'cores', value: 7 }, { meter: 'of-no-interest', value: 3 }]);
      await license.reportUsage();
    };
    for (let hours = 0; hours < 24 * 20; hours++) {
      clock.pass(hour);
      await use();
    }
    expect(license.quota('exports')).toMatchObject({ used: 2 * 24 * 20 });
    expect(license.quota('reports').used).toBe(13);
    expect(license.quota('cores').used).toBe(7);
    expect(String(await store.read()).length).toBeLessThan(20_000);
    clock.pass(12 * day);
    await use();
    expect(license.quota('exports')).toMatchObject({ used: 2 });
  });

  it('and sent before a verdict was asked for is what that says; a gauge keeps its reading', async () => {
    const license = await activated();
    license.quota('reports').tryConsume(2);
    license.quota('cores').report(6);
    await license.reportUsage();
    vendor.terms = { ...vendor.terms, features: { ...vendor.terms.features, reports: { limit: 5, per: 'day', used: 3 } as never } };
    vendor.seq = 5;
    await license.validate();
    expect([license.quota('reports').used, license.quota('cores').used]).toEqual([3, 6]);
    license.quota('reports').tryConsume();
    await license.reportUsage();
    expect(license.quota('reports').used).toBe(4);
    clock.pass(hour);
    await license.reportUsage();
    expect([license.quota('reports').used, license.quota('cores').used]).toEqual([4, 6]);
  });

  it('is sent once, although several calls send it at the same time', async () => {
    const license = await activated();
    await license.validate();
    license.quota('reports').tryConsume();
    const both = [license.reportUsage(), license.reportUsage()];
    license.quota('reports').tryConsume();
    const beat = license.heartbeat.beat();
    expect(await Promise.all(both)).toMatchObject([{ ok: true }, { ok: true }]);
    await beat;
    const ids = vendor.asked.filter(({ path }) => path === '/license/usage').flatMap(({ body }) => (body['records'] as { id: string }[]).map(({ id }) => id));
    expect(new Set(ids).size).toBe(ids.length);
    expect([license.quota('reports').used, license.waiting]).toEqual([2, 0]);
  });

  describe('after a clock that was an hour behind was put right', () => {
    /** Afterwards the license's time is an hour ahead. */
    async function ahead(): Promise<License> {
      vendor.now = () => clock.wall + hour;
      const license = await activated();
      await license.validate();
      clock.wall += hour;
      vendor.now = () => clock.wall;
      expect(Date.parse(license.judgement().at)).toBe(clock.wall + hour);
      return license;
    }

    it('is kept until a verdict tells the time, and then counts; except readings that the software itself has dated in the future', async () => {
      const license = await ahead();
      license.quota('cores').report(3);
      await license.record([{ meter: 'reports', value: 2, id: 'r-1' }, { meter: 'reports', value: 1, id: 'r-2', at: new Date(clock.wall + 30 * minute).toISOString() }]);
      vendor.between = (path) => (path === '/license/validate' ? problem(503, 'UNAVAILABLE') : undefined);
      expect(await license.reportUsage()).toMatchObject({ ok: false, code: 'UNREACHABLE' });
      expect(license.waiting).toBe(3);
      vendor.mend();
      expect(await license.reportUsage()).toEqual({ ok: true, accepted: 2 });
      expect(usage().at(-1)).toEqual([expect.objectContaining({ meter: 'cores', value: 3, at: new Date(clock.wall - 1).toISOString() }), { id: 'r-1', meter: 'reports', value: 2, at: new Date(clock.wall).toISOString() }]);
      expect([license.waiting, license.judgement().at]).toEqual([0, new Date(clock.wall).toISOString()]);
    });

    it('is dated as of now by the next heartbeat', async () => {
      const license = await ahead();
      license.quota('cores').report(3);
      const before = questions();
      await license.heartbeat.beat();
      await license.heartbeat.beat();
      expect([questions() - before, license.judgement().at, license.waiting]).toEqual([1, new Date(clock.wall).toISOString(), 0]);
      expect(usage()).toEqual([[expect.objectContaining({ meter: 'cores', value: 3, at: new Date(clock.wall).toISOString() })]]);
    });
  });

  it('counts as of now after the vendor’s clock was an hour ahead and was corrected', async () => {
    vendor.now = () => clock.wall + hour;
    const license = await activated();
    await license.validate();
    vendor.now = () => clock.wall;
    clock.pass(10 * minute);
    await license.record([{ meter: 'reports', value: 2, id: 'r-1' }]);
    expect(await license.reportUsage()).toEqual({ ok: true, accepted: 1 });
    expect([usage().at(-1), license.waiting]).toEqual([[{ id: 'r-1', meter: 'reports', value: 2, at: new Date(clock.wall).toISOString() }], 0]);
  });

  it('is refused while writes are blocked', async () => {
    expect(License.fake({ features: { reports: { limit: 5, per: 'day' } }, state: 'restricted' }).quota('reports').tryConsume()).toBe(false);
  });
});

describe('A file', () => {
  it('is checked with nothing but the pinned root', async () => {
    vendor.terms = { ...vendor.terms, expiresAt: '2027-01-01T00:00:00.000Z' };
    const text = await vendor.licenseFile();
    const ask = (options = {}) => License.verifyOffline(text, { roots: vendor.roots, now: new Date(clock.wall), ...options });
    expect(await ask()).toMatchObject({ ok: true, type: 'license-file', file: { license: { id: 'lic_1' } }, judgement: { valid: true, daysRemaining: 184 } });
    expect(await ask({ product: 'prd_2' })).toMatchObject({ ok: false, reason: 'WRONG_AUDIENCE' });
    expect(await ask({ license: 'lic_2' })).toMatchObject({ ok: false, reason: 'WRONG_SUBJECT' });
    expect(await ask({ environment: 'staging' })).toMatchObject({ ok: false, reason: 'WRONG_ENVIRONMENT' });
    expect(await ask({ roots: (await Vendor.open(clock)).roots })).toMatchObject({ ok: false, reason: 'UNTRUSTED_ROOT' });
    const ahead = { now: new Date(clock.wall - 60_000) };
    expect([await ask(ahead), await ask({ ...ahead, maxSkew: '1m' })]).toMatchObject([{ ok: true }, { ok: true }]);
    expect(await ask({ ...ahead, maxSkew: '59s' })).toMatchObject({ ok: false, reason: 'NOT_YET_VALID' });
    expect(await ask({ now: new Date(clock.wall - 301_000), maxSkew: '1h' })).toMatchObject({ ok: false, reason: 'NOT_YET_VALID' });
    expect(await ask({ roots: [] })).toMatchObject({ ok: false, reason: 'UNTRUSTED_ROOT' });
    expect(await ask({ now: 'never' })).toMatchObject({ ok: false });
    expect(await ask({ now: new Date('2027-02-01T00:00:00Z') })).toMatchObject({ ok: true, judgement: { valid: false } });
  });

  it('carries a verdict to a machine without network, for a day, and never an older one', async () => {
    const license = await activated();
    await license.validate();
    vendor.cut();
    clock.pass(14 * day);
    expect(license.judgement()).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
    const text = await vendor.offlineFile({ fingerprint: 'machine-1' });
    expect(await license.verifyOffline(text)).toMatchObject({ ok: true, judgement: { valid: true } });
    expect(license.judgement()).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
    expect(await license.install(text)).toMatchObject({ ok: true, type: 'offline-file' });
    expect(await license.validate()).toMatchObject({ valid: true, source: 'offline-file' });
    expect((await restarted()).judgement()).toMatchObject({ valid: true });
    expect(await license.install(await vendor.offlineFile({ fingerprint: 'machine-2' }))).toMatchObject({ ok: false, reason: 'WRONG_FINGERPRINT' });
    expect(await license.install(await vendor.offlineFile({ seq: 3 }))).toMatchObject({ ok: false, reason: 'STALE' });
    clock.pass(day);
    expect(license.judgement()).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
    expect(await license.install(text)).toMatchObject({ ok: false, reason: 'EXPIRED' });
  });

  it('of an online license starts its grace at once where there is no server to ask', async () => {
    const alone = { key: undefined, server: undefined };
    const license = await open(alone);
    const ends = new Date(clock.wall + 14 * day).toISOString();
    const grace = { valid: true, code: 'IN_OFFLINE_GRACE', enforcement: 'WARN', state: 'grace', graceUntil: ends, offlineUntil: ends };
    const text = await vendor.licenseFile();
    expect(await License.verifyOffline(text, { roots: vendor.roots, now: new Date(clock.wall) })).toMatchObject({ judgement: grace });
    expect(await license.verifyOffline(text)).toMatchObject({ judgement: grace });
    expect(await license.install(text)).toMatchObject({ ok: true, judgement: grace });
    const changed = jest.fn();
    license.on('state', changed);
    clock.pass(14 * day - minute);
    expect(license.judgement()).toMatchObject(grace);
    clock.pass(minute);
    await until(() => changed.mock.calls.length > 0);
    expect(license.judgement()).toMatchObject({ valid: false, code: 'HEARTBEAT_OVERDUE', enforcement: 'LOCKED' });
    // With a server to ask, the grace starts only once it is unreachable.
    const asking = await open({ store: memoryStore() });
    expect(await asking.install(await vendor.licenseFile())).toMatchObject({ judgement: { code: 'VALID', enforcement: 'FULL' } });
  });

  it('of another license replaces the first only with `replace`', async () => {
    const license = await activated();
    const text = await vendor.licenseFile({ license: { ...vendor.terms, id: 'lic_2', features: { audit: true } }, seq: 1 });
    expect(await license.install(text)).toMatchObject({ ok: false, reason: 'WRONG_SUBJECT' });
    expect(await license.install(text, { replace: true })).toMatchObject({ ok: true });
    expect([license.licenseId, license.feature('audit').enabled, license.feature('sso').enabled]).toEqual(['lic_2', true, false]);
    expect(await license.install('nonsense', { replace: true })).toMatchObject({ ok: false, reason: 'MALFORMED' });
    expect(license.licenseId).toBe('lic_2');
  });
});

describe('A fake', () => {
  it('is what a test says', async () => {
    const license = License.fake({ features: { sso: true, projects: 3 } });
    expect(license.judgement()).toMatchObject({ valid: true, state: 'active' });
    expect(license.feature('projects')).toMatchObject({ enabled: true, limit: 3 });
    for (const state of ['grace', 'restricted', 'locked', 'active'] as const) {
      license.become(state);
      expect(license.judgement().state).toBe(state);
      expect((await license.validate()).state).toBe(state);
    }
    expect(await license.activate()).toMatchObject({ ok: true });
    expect(License.fake({ features: ['a'] }).feature('a').enabled).toBe(true);
    await license.dispose();
  });

  it('answers like a server that finds everything in order', async () => {
    const license = License.fake({ features: { reports: { limit: 5, per: 'day' } } });
    license.quota('reports').tryConsume(2);
    expect(await license.record([{ meter: 'cores', value: 3 }])).toEqual({ ok: true, accepted: 1, duplicates: 0 });
    expect(await license.reportUsage()).toEqual({ ok: true, accepted: 2 });
    license.quota('reports').tryConsume();
    expect(await license.heartbeat.beat()).toMatchObject({ ok: true, nextInMs: 3_600_000, judgement: { code: 'VALID' } });
    expect([license.waiting, license.quota('reports').used]).toEqual([0, 3]);
  });

  it('leaves no timer to fake timers, whatever it is told to start', async () => {
    jest.useFakeTimers();
    try {
      const license = License.fake();
      license.heartbeat.start({ leader: 'auto' });
      license.changes.start();
      setTimeout(() => license.become('locked'), 1_000);
      for (const step of [() => license.reportUsage(), () => license.heartbeat.beat()]) {
        const done = step();
        expect(jest.getTimerCount()).toBe(1);
        await done;
      }
      await jest.runAllTimersAsync();
      expect([jest.getTimerCount(), license.judgement().state, license.heartbeat.isRunning]).toEqual([0, 'locked', true]);
      await license.dispose();
    } finally {
      jest.useRealTimers();
    }
  });

  it.each([null, '2020-01-01T00:00:00.000Z', '2090-01-01T00:00:00.000Z'])('is restricted when its grace ends (license until %s)', (expiresAt) => {
    jest.useFakeTimers({ now: Date.parse('2026-07-01T12:00:00.000Z') });
    try {
      const license = License.fake({ features: ['sso'], state: 'grace', expiresAt });
      expect(license.judgement()).toMatchObject({ valid: true, code: 'IN_EXPIRY_GRACE', state: 'grace', graceUntil: '2026-07-08T12:00:00.000Z', daysRemaining: 0 });
      jest.advanceTimersByTime(8 * day);
      expect(license.judgement()).toMatchObject({ valid: false, code: 'EXPIRED', enforcement: 'READ_ONLY', state: 'restricted', graceUntil: null });
      license.become('active');
      expect(license.judgement().expiresAt).toBe(expiresAt);
    } finally {
      jest.useRealTimers();
    }
  });
});

vectorsContract('The SDK', ({ pins, jwks }) => Promise.resolve(async ({ type, text, expected }) => {
  if (type === 'public-key') {
    const result = await Verifier.open({ ...pins, roots: [JSON.parse(text)] });
    return result.ok ? 'ACCEPTED' : result.reason;
  }
  const { now, audience: product, subject, fingerprint, counter, nonce } = expected;
  const common = { ...pins, keys: jwks, now, product, fingerprint };
  const result = type === 'lease' || type === 'verdict' ? await License.verifyToken(type, text, { ...common, subject, counter, nonce }) : await License.verifyOffline(text, { ...common, type, license: subject });
  return result.ok ? 'ACCEPTED' : result.reason;
}));

async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setImmediate(resolve));
}
