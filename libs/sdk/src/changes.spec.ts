import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { LicenseOptions } from './api.ts';
import { License } from './license.ts';
import { fileStore } from './node.ts';
import { memoryStore } from './store.ts';
import { problem, TestClock, ticks, Vendor } from './vendor.contract.ts';

let clock: TestClock;
let vendor: Vendor;
const open_: License[] = [];
beforeEach(async () => {
  clock = new TestClock();
  vendor = await Vendor.open(clock);
});
const folder = mkdtempSync(join(tmpdir(), 'keyledger-sdk-'));
afterEach(() => void jest.restoreAllMocks());
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => Promise.all(open_.splice(0).map((license) => license.dispose())));

async function open(options: Partial<LicenseOptions> = {}): Promise<License> {
  const license = await License.open({ key: vendor.licenseKey, server: 'https://licenses.example', roots: vendor.roots, clock, fetch: vendor.fetch, fingerprint: 'machine-1', attempts: 1, ...options });
  open_.push(license);
  return license;
}
async function listening(): Promise<License> {
  const license = await open();
  await license.activate();
  license.changes.start();
  await until(() => license.changes.isConnected);
  return license;
}
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setImmediate(resolve));
}
const settled = async () => {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
};
const acks = () => vendor.asked.filter(({ path }) => path.endsWith('/stream/ack')).map(({ body }) => body);
const streams = () => vendor.asked.filter(({ path }) => path.endsWith('/stream')).length;
const revoke = () => {
  vendor.verdict = { valid: false, code: 'REVOKED', reasons: ['REVOKED'], enforcement: 'LOCKED' };
  vendor.seq++;
};

describe('The stream of changes', () => {
  it('announces a revocation, which is acknowledged once the signed answer is there', async () => {
    const license = await listening();
    revoke();
    vendor.tellChange();
    await until(() => acks().length > 0);
    expect(license.judgement()).toMatchObject({ code: 'REVOKED', enforcement: 'LOCKED' });
    expect(acks()).toEqual([{ seq: 5, activationId: 'act_1' }]);
    expect(vendor.asked.find(({ path }) => path.endsWith('/stream'))?.authorization).toBe('License KEY-1');
  });

  it('does not lock by itself, and causes no question when it announces nothing new', async () => {
    const license = await listening();
    await settled();
    const asked = vendor.asked.length;
    vendor.tell(': all is as it was\n\n');
    await settled();
    expect(vendor.asked.length).toBe(asked);
    vendor.tellChange('LOCKED');
    vendor.tell('event: change\ndata: nonsense\n\nnonsense\n\n');
    await until(() => acks().length > 0);
    expect(license.judgement()).toMatchObject({ valid: true, enforcement: 'FULL' });
  });

  it.each(['on the same stream', 'on the next one'])('announces a revocation also while the disk hangs, %s', async (which) => {
    const [store, mended] = [fileStore(join(folder, which)), Promise.withResolvers<'nobody'>()];
    const { shared } = store;
    if (!shared) throw new Error('It cannot be shared');
    let hangs = false;
    const write = (text: string) => (hangs ? mended.promise.then(() => undefined) : store.write(text));
    const license = await open({ store: { ...store, write, shared: { ...shared, leader: () => (hangs ? mended.promise : shared.leader()) } } });
    await license.activate();
    license.changes.start();
    await until(() => license.changes.isConnected);
    hangs = true;
    vendor.tell(': a sign of life\n\n');
    await settled();
    vendor.seq++;
    vendor.tellChange();
    await until(() => license.judgement().seq === vendor.seq);
    if (which === 'on the next one') {
      vendor.hangUp();
      for (let seconds = 0; seconds < 60 && vendor.listeners === 0; seconds++) {
        await settled();
        clock.pass(1_000);
      }
      await settled();
    }
    revoke();
    vendor.tellChange();
    await until(() => license.judgement().code === 'REVOKED');
    expect(acks()).toEqual([]);
    mended.resolve('nobody');
    await until(() => acks().length > 0);
  });

  it('is read in whatever pieces it arrives', async () => {
    const license = await listening();
    revoke();
    for (const letter of 'event: change\r\ndata: {"seq":5,"enforcement":"LOCKED"}\r\n\r\n') vendor.tell(letter);
    await until(() => acks().length > 0);
    expect(license.judgement().code).toBe('REVOKED');
  });

  it('repeats on the next stream a change that was not acknowledged because the question failed', async () => {
    const license = await listening();
    revoke();
    vendor.between = (path) => (path === '/license/validate' ? new TypeError('fetch failed') : undefined);
    vendor.tellChange();
    await until(() => vendor.listeners === 0);
    expect([acks(), license.changes.isConnected, license.judgement().valid]).toEqual([[], false, true]);
    vendor.mend();
    clock.pass(60_000);
    await until(() => license.judgement().code === 'REVOKED');
    await until(() => acks().length > 0);
  });

  it('is opened again with growing waits after it was lost, or silent for too long', async () => {
    const license = await listening();
    vendor.cut();
    await until(() => !license.changes.isConnected);
    for (let n = 0; n < 12; n++) {
      clock.pass(60_000);
      await settled();
    }
    expect(streams()).toBeGreaterThan(5);
    expect(Math.max(...clock.slept.filter((ms) => ms <= 60_000))).toBeGreaterThan(10_000);
    vendor.mend();
    clock.pass(60_000);
    await until(() => license.changes.isConnected && acks().length > 0);
    const before = streams();
    await settled();
    clock.pass(44_000);
    await settled();
    expect(license.changes.isConnected).toBe(true);
    clock.pass(2_000);
    await until(() => !license.changes.isConnected);
    clock.pass(60_000);
    await until(() => license.changes.isConnected && streams() === before + 1);
  });

  it('shows at once, with one question, that the server is away, and when it is back', async () => {
    const license = await listening();
    const questions = () => vendor.asked.filter(({ path }) => path === '/license/validate').length;
    vendor.cut();
    const before = questions();
    for (let n = 0; n < 5; n++) {
      clock.pass(60_000);
      await settled();
    }
    expect(license.judgement()).toMatchObject({ code: 'IN_OFFLINE_GRACE', unreachable: true });
    expect(questions()).toBe(before + 1);
    vendor.mend();
    clock.pass(60_000);
    await until(() => license.judgement().code === 'VALID');
  });

  it('makes an instance send an overdue heartbeat', async () => {
    const license = await listening();
    vendor.cut();
    await until(() => !license.changes.isConnected);
    clock.pass(15 * 86_400_000);
    await settled();
    expect(license.judgement()).toMatchObject({ code: 'HEARTBEAT_OVERDUE', enforcement: 'LOCKED' });
    vendor.verdict = { valid: false, code: 'HEARTBEAT_OVERDUE', reasons: ['HEARTBEAT_OVERDUE'], enforcement: 'LOCKED' };
    vendor.between = (path) => {
      if (path.endsWith('/heartbeat')) vendor.verdict = {};
      return undefined;
    };
    clock.pass(60_000);
    await until(() => license.judgement().code === 'VALID');
  });

  it('is opened again at once when the server ends it as usual, and after minutes when it sends "end"', async () => {
    const license = await listening();
    for (let n = 0; n < 3; n++) {
      clock.pass(30_000);
      vendor.tell(': a sign of life\n\n');
      await settled();
    }
    vendor.hangUp();
    await until(() => !license.changes.isConnected);
    clock.pass(3_000);
    await until(() => license.changes.isConnected);
    vendor.tell('event: end\ndata: {}\n\n');
    await until(() => !license.changes.isConnected && vendor.listeners === 0);
    const before = streams();
    clock.pass(59_000);
    await settled();
    expect(streams()).toBe(before);
    clock.pass(180_000);
    await until(() => streams() === before + 1);
    license.changes.stop();
    await until(() => vendor.listeners === 0);
    clock.pass(900_000);
    await settled();
    expect(streams()).toBe(before + 1);
  });

  it('is opened again with growing waits when the server ends it each time right after it was opened', async () => {
    await listening();
    jest.spyOn(Math, 'random').mockReturnValue(0.5);
    const before = streams();
    for (let seconds = 0; seconds < 300; seconds++) {
      vendor.hangUp();
      await settled();
      clock.pass(1_000);
    }
    expect(streams() - before).toBeLessThan(15);
  });

  const refused = [120_000, 210_000, 345_000, 547_500, 851_250, 900_000, 900_000];
  const lost = [2_000, 3_500, 5_750, 9_125, 14_187.5, 21_781.25, 33_171.875];
  it.each([
    ['was requested too often', problem(429, 'RATE_LIMITED'), refused, 0], ['was requested too often, with a Retry-After', [429, 'slow down', { 'retry-after': '240' }], refused, 240_000],
    ['is refused', problem(404, 'INSTANCE_NOT_FOUND'), refused, 0], ['finds the server away, with a Retry-After', [503, {}, { 'retry-after': '240' }], lost, 240_000],
  ] as [string, ReturnType<typeof problem>, number[], number][])('is opened again with growing random waits when it %s', async (_name, answer, waits, retryAfterMs) => {
    const license = await open();
    await license.activate();
    vendor.between = (path) => (path.endsWith('/stream') ? answer : undefined);
    clock.slept.length = 0;
    jest.spyOn(Math, 'random').mockReturnValue(0.5);
    const waited = () => clock.slept.filter((ms) => !ticks.has(ms));
    license.changes.start();
    for (let n = 1; n < waits.length; n++) {
      await until(() => streams() === n && waited().length === n);
      clock.pass(1_200_000);
    }
    await until(() => waited().length === waits.length);
    expect(waited()).toEqual(waits.map((ms) => ms + retryAfterMs));
    // A new seat does not wait because the one before was refused.
    vendor.mend();
    await license.activate();
    await until(() => license.changes.isConnected);
  });

  it('is not taken to be open when a proxy answers with a page', async () => {
    const license = await open();
    await license.activate();
    vendor.between = (path) => (path.endsWith('/stream') ? [200, '<html>', { 'content-type': 'text/html' }] : undefined);
    license.changes.start();
    await until(() => streams() > 0);
    await settled();
    expect(license.changes.isConnected).toBe(false);
  });
});

describe('Readings that were made elsewhere', () => {
  const sent = () => vendor.asked.filter(({ path }) => path === '/license/usage').map(({ body }) => body['records'] as { id: string; meter: string }[]);

  it('are in the store when `record` answers, and sent once, with their own ids', async () => {
    const store = memoryStore();
    const license = await open({ store });
    await license.activate();
    expect(await license.record([{ id: 'a', meter: 'cores', value: 3, at: '2026-07-01T11:00:00.000Z' }, { meter: 'cores', value: 4 }, { id: 'a', meter: 'cores', value: 3 }])).toEqual({ ok: true, accepted: 2, duplicates: 1 });
    expect(await license.record([{ id: 'a', meter: 'cores', value: 3 }])).toEqual({ ok: true, accepted: 0, duplicates: 1 });
    expect(license.waiting).toBe(2);
    // The process is killed; the answer to the first attempt is lost on its way.
    const next = await open({ store });
    vendor.between = (path) => (path === '/license/usage' ? new TypeError('terminated') : undefined);
    expect(await next.reportUsage()).toMatchObject({ ok: false, code: 'UNREACHABLE' });
    vendor.mend();
    expect(await next.reportUsage()).toEqual({ ok: true, accepted: 2 });
    expect(sent()[0]).toEqual(sent()[1]);
    expect(sent()[0]?.[0]).toEqual({ id: 'a', meter: 'cores', value: 3, at: '2026-07-01T11:00:00.000Z' });
    expect(next.waiting).toBe(0);
    expect((await open({ store })).waiting).toBe(0);
  });

  it('that the server refuses by name do not keep the others from being sent', async () => {
    const license = await open();
    await license.activate();
    vendor.between = (path, { records }) => {
      if (path !== '/license/usage') return undefined;
      const errors = (records as { id: string }[]).flatMap(({ id }, n) => (id.startsWith('bad') ? [{ pointer: `/records/${n}/at`, detail: 'is in the future' }] : []));
      return errors.length > 0 ? problem(422, 'USAGE_OUT_OF_RANGE', { errors }) : undefined;
    };
    await license.record(['a', 'bad-1', 'b', 'bad-2'].map((id) => ({ id, meter: 'cores', value: 1 })));
    expect(await license.reportUsage()).toEqual({ ok: true, accepted: 2 });
    expect(sent().at(-1)?.map(({ id }) => id)).toEqual(['a', 'b']);
    expect(license.waiting).toBe(0);
    await license.record([{ id: 'bad-3', meter: 'cores', value: 1 }]);
    expect(await license.reportUsage()).toMatchObject({ ok: false, code: 'USAGE_OUT_OF_RANGE' });
    expect([license.waiting, sent().length]).toEqual([0, 3]);
  });

  it.each(['LICENSE_NOT_FOUND', 'ENVIRONMENT_NOT_FOUND', 'PERMISSION_DENIED'])('wait if not they were refused, but their sender (%s)', async (code) => {
    const license = await open();
    await license.activate();
    vendor.between = (path) => (path === '/license/usage' ? problem(404, code) : undefined);
    await license.record([{ id: 'a', meter: 'cores', value: 1 }]);
    expect(await license.reportUsage()).toMatchObject({ ok: false, code });
    expect([license.waiting, sent().length]).toEqual([1, 1]);
    vendor.mend();
    expect(await license.reportUsage()).toEqual({ ok: true, accepted: 1 });
    expect(license.waiting).toBe(0);
  });

  it('whose values cannot be counted are refused, and others are still sent', async () => {
    const license = await open();
    await license.activate();
    license.quota('reports').tryConsume(2);
    for (const value of [NaN, -1, Infinity, 2e12, '3' as unknown as number]) {
      expect(() => license.quota('things').tryConsume(value)).toThrow(RangeError);
      expect(() => license.quota('cores').report(value)).toThrow('Usage of cores is a number from 0 to 1e12, not');
      await expect(license.record([{ meter: 'cores', value: 1 }, { meter: 'cores', value }])).rejects.toThrow(RangeError);
    }
    expect(await license.reportUsage()).toEqual({ ok: true, accepted: 1 });
    expect(sent()[0]).toMatchObject([{ meter: 'reports', value: 2 }]);
  });

  it('are refused when they cannot be stored, or too many wait', async () => {
    const store = memoryStore();
    const license = await open({ store });
    const { write } = store;
    store.write = () => Promise.reject(new Error('ENOSPC'));
    expect(await license.record([{ meter: 'cores', value: 3 }])).toMatchObject({ ok: false, code: 'NOT_STORED' });
    expect(license.waiting).toBe(0);
    store.write = write;
    const readings = Array.from({ length: 10_000 }, (_, n) => ({ id: String(n), meter: 'cores', value: n }));
    expect(await license.record(readings)).toMatchObject({ ok: true, accepted: 10_000 });
    expect(await license.record([{ meter: 'cores', value: 3 }])).toMatchObject({ ok: false, code: 'TOO_MANY_WAITING' });
    expect(license.waiting).toBe(10_000);
  });
});

describe('A license that takes the place of another', () => {
  it('goes on from the time of that one, whatever the clock says', async () => {
    const license = await open({ after: clock.wall + 86_400_000 });
    expect(Date.parse(license.judgement().at)).toBe(clock.wall + 86_400_000);
    clock.pass(1000);
    expect(Date.parse(license.judgement().at)).toBe(clock.wall + 86_400_000);
    await license.activate();
    await license.validate();
    expect(Date.parse(license.judgement().at)).toBe(clock.wall);
  });
});
