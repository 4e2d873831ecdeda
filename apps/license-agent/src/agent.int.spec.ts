import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { License } from '@keyledger/sdk';
import { problem, Vendor } from '@keyledger/sdk/contract';
import { Bench, type Box } from './agent.contract.ts';
import type { LicenseAnswer } from './api.ts';

const hour = 3_600_000;
const day = 24 * hour;

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.open();
});
afterEach(() => bench.close());

const data = (name = 'data') => join(bench.folder, name);
const byFile = { LICENSE_KEY: '', KEYLEDGER_SERVER_URL: '' };
const states = () => readdirSync(data()).filter((name) => name.endsWith('.state'));
const asked = (path: string) => bench.vendor.asked.filter((request) => request.path.endsWith(path));
async function until(isSo: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 10_000; !isSo();) {
    if (performance.now() > deadline) throw new Error('It never was so');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
/** Passes time that the agent waits for. Then the work it woke up for is done. */
async function pass(ms: number): Promise<void> {
  await until(() => bench.clock.wakes(ms));
  await settled();
  bench.clock.pass(ms);
  await settled();
}
/** Passes time in steps, until the agent's next tries have succeeded. */
async function passUntil(box: Box, isSo: (license: LicenseAnswer) => boolean): Promise<void> {
  for (let tries = 0; tries < 500 && !isSo(await box.license()); tries++) {
    bench.clock.pass(10_000);
    await settled();
  }
  await box.until(isSo);
}
/** Resolves once all work in the agent is done or waits for time to pass: nothing went to sleep and no file was being written, five turns long. */
async function settled(): Promise<void> {
  for (let [turns, slept] = [0, -1]; turns < 5; turns++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    // Behind signatures that are being checked: on a busy machine they take longer than all this.
    await crypto.subtle.digest('SHA-256', new Uint8Array());
    if (slept !== bench.clock.slept.length || process.getActiveResourcesInfo().some((name) => name.startsWith('FSReq'))) [turns, slept] = [-1, bench.clock.slept.length];
  }
}
/** Requests for a path, by that key if one is given, wait until they may go on. */
function held(path: string, key = '') {
  const [reached, going] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const through: Vendor['fetch'] = async (url, init) => {
    if (url.endsWith(path) && String(init.body).includes(key)) {
      reached.resolve();
      await going.promise;
    }
    return bench.vendor.fetch(url, init);
  };
  return { fetch: through, reached: reached.promise, goOn: going.resolve };
}
/** The agent's own file cannot be written until the returned function is called. */
function unwritable(): () => void {
  const path = join(data(), readdirSync(data()).find((name) => name.startsWith('agent.')) ?? '');
  renameSync(path, join(bench.folder, 'aside'));
  mkdirSync(join(path, 'in the way'), { recursive: true });
  return () => {
    rmSync(path, { recursive: true });
    renameSync(join(bench.folder, 'aside'), path);
  };
}
/** One that has its license. */
async function activated(env: NodeJS.ProcessEnv = {}, surroundings: Parameters<Bench['start']>[1] = {}): Promise<Box> {
  const box = await bench.start(env, surroundings);
  await box.until(({ status, server }) => status === 'active' && server.connected);
  return box;
}

describe('An agent with a license key', () => {
  it('activates, and tells everything there is to know', async () => {
    bench.vendor.terms = {
      ...bench.vendor.terms, serialNumber: 'SN-7', effectiveAt: '2026-01-01T00:00:00.000Z', expiresAt: '2026-07-31T12:00:00.000Z', deploymentId: 'dep-1', deploymentMode: 'on-premises', validationMode: 'heartbeat',
      quotas: [{ meter: 'max_dp_cores', limit: 64 }],
    };
    const box = await activated({ LICENSE_DEPLOYMENT_ID: 'dep-1' });
    expect(await box.license()).toEqual({
      serialNumber: 'SN-7', customer: null, effectiveDate: '2026-01-01T00:00:00.000Z', expirationDate: '2026-07-31T12:00:00.000Z', maxDpCores: 64,
      features: { sso: true, projects: 10, reports: { limit: 5, per: 'day' } }, deploymentId: 'dep-1', freeTrial: false, runtimeState: 'normal', enforcement: 'FULL', status: 'active', type: 'time-based',
      mode: 'on-premises', daysRemaining: 30, lastValidationAt: '2026-07-01T12:00:00.000Z', validationMode: 'heartbeat', deploymentMode: 'on-premises',
      usage: [
        { meter: 'max_dp_cores', limit: 64, used: null, remaining: null, per: null, lastPeak: null, state: 'normal', graceEndsAt: null },
        { meter: 'reports', limit: 5, used: 0, remaining: 5, per: 'day', lastPeak: null, state: 'normal', graceEndsAt: null },
      ],
      activationId: 'act_1', installationId: expect.stringMatching(/^[0-9a-f-]{36}$/), hardwareId: 'machine-1', source: 'key', keyPrefix: 'KEY-1', licenseId: 'lic_1', productId: 'prd_1', code: 'VALID', reasons: [],
      detail: 'License valid', graceEndsAt: null, offlineGraceEndsAt: '2026-07-15T12:00:00.000Z', offlineGraceSeconds: 14 * 86_400, activationLimit: 1, activeActivations: 1,
      server: { url: 'https://licenses.example', environment: 'production', proxy: null, noProxy: null, reachable: true, connected: true }, file: null, problems: [], messages: [], usageQueued: 0, access: 'full', applied: true,
      agentVersion: '0.1.0', now: '2026-07-01T12:00:00.000Z',
    });
    expect(await box.enforcement()).toEqual({ enforcement: 'FULL', reasons: [], graceEndsAt: null });
    expect((await box.ask('GET', '/api/features/projects')).body).toEqual({ name: 'projects', enabled: true, limit: 10, per: null, used: null, remaining: null });
    expect((await box.ask('GET', '/api/features/tele%20port')).body).toMatchObject({ name: 'tele port', enabled: false });
    expect(asked('/license/activate')[0]?.body).toMatchObject({ licenseKey: 'KEY-1', fingerprint: 'machine-1', deploymentId: 'dep-1', installationId: expect.any(String), instanceName: expect.any(String) });
  });

  it('goes on after a restart where it was, with the next heartbeat', async () => {
    const box = await activated();
    // The next one is waited for.
    await until(() => asked('/heartbeat').length === 1 && bench.clock.slept.some((ms) => ms > hour / 2));
    await pass(2 * hour);
    await until(() => asked('/heartbeat').length === 2);
    const { installationId } = await box.license();
    await box.close();
    const again = await bench.start();
    expect(await again.license()).toMatchObject({ status: 'active', activationId: 'act_1', installationId, problems: [] });
    await until(() => asked('/heartbeat').length === 3);
    expect(asked('/heartbeat').map(({ body }) => body['seq'])).toEqual([1, 2, 3]);
    expect(new Set(asked('/heartbeat').map(({ body }) => body['nonce'])).size).toBe(3);
    expect(asked('/license/activate')).toHaveLength(1);
  });

  it('is locked by a revocation as soon as it is said, and acknowledges it', async () => {
    const box = await activated();
    bench.vendor.seq++;
    bench.vendor.verdict = { valid: false, code: 'REVOKED', reasons: ['REVOKED'], enforcement: 'LOCKED' };
    bench.vendor.tellChange();
    expect(await box.until(({ enforcement }) => enforcement === 'LOCKED')).toMatchObject({ status: 'revoked', runtimeState: 'restricted', problems: [{ code: 'REVOKED', severity: 'error' }] });
    expect(await box.enforcement()).toEqual({ enforcement: 'LOCKED', reasons: ['REVOKED'], graceEndsAt: null });
    expect((await box.ask('GET', '/api/features/sso')).body).toMatchObject({ enabled: false });
    await until(() => asked('/stream/ack').length === 1);
  });

  it('sends heartbeats more often than the license wants, if it is told so; not more rarely', async () => {
    for (const [LICENSE_HEARTBEAT_INTERVAL, slept] of [['10m', 600_000], ['1d', 3_600_000]] as const) {
      bench.clock.slept.length = 0;
      const box = await activated({ LICENSE_HEARTBEAT_INTERVAL });
      await until(() => bench.clock.slept.some((ms) => ms >= slept * 0.8 && ms <= slept * 1.2));
      await box.close();
    }
  });

  it('asks without heartbeats, if it is told so, and sends them all the same for a license that lives by them', async () => {
    const box = await activated({ LICENSE_MODE: 'online', LICENSE_KEY: 'OTHER-KEY' });
    const before = asked('/license/validate').length;
    for (let n = 1; n <= 2; n++) {
      await pass(hour);
      await until(() => asked('/license/validate').length >= before + n);
    }
    expect(asked('/heartbeat')).toEqual([]);
    expect(await box.license()).toMatchObject({ lastValidationAt: '2026-07-01T14:00:00.000Z' });
    bench.vendor.terms = { ...bench.vendor.terms, validationMode: 'heartbeat' };
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 200 });
    await until(() => asked('/heartbeat').length === 1);
  });

  it('asks without heartbeats as often as the license wants, or more often if it is told so', async () => {
    bench.vendor.terms = { ...bench.vendor.terms, heartbeatIntervalSeconds: 300 };
    for (const [LICENSE_HEARTBEAT_INTERVAL, ms] of [['', 300_000], ['1h', 300_000], ['2m', 120_000]] as const) {
      bench.clock.slept.length = 0;
      const box = await activated({ LICENSE_MODE: 'online', LICENSE_HEARTBEAT_INTERVAL });
      // Before it had a seat there was nothing to ask for.
      if (LICENSE_HEARTBEAT_INTERVAL === '') await pass(60_000);
      for (let n = 0; n < 2; n++) {
        await until(() => bench.clock.slept.includes(ms));
        const before = asked('/license/validate').length;
        bench.clock.slept.length = 0;
        await pass(ms);
        await until(() => asked('/license/validate').length > before);
      }
      await box.close();
    }
    expect(asked('/heartbeat')).toEqual([]);
  });

  it('asks in time where it may not be offline at all, without heartbeats too', async () => {
    bench.vendor.terms = { ...bench.vendor.terms, heartbeatIntervalSeconds: 600 };
    const box = await activated({ LICENSE_MODE: 'online', LICENSE_OFFLINE_GRACE_DAYS: '0' });
    for (let n = 0; n < 4; n++) {
      await pass(10 * 60_000);
      expect(await box.license()).toMatchObject({ enforcement: 'FULL', offlineGraceSeconds: 1200 });
    }
    expect(asked('/heartbeat')).toEqual([]);
    bench.vendor.cut();
    await pass(20 * 60_000);
    expect(await box.license()).toMatchObject({ enforcement: 'LOCKED' });
  });

  it('asks nobody where it works offline, though there is a server', async () => {
    const box = await bench.start({ LICENSE_KEY: '', LICENSE_MODE: 'offline' });
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 409, body: { code: 'NO_SERVER' } });
    expect(bench.vendor.asked).toEqual([]);
  });

  it('shows what the vendor tells, and acknowledges it once', async () => {
    bench.vendor.directives = [{ id: 'dir_1', kind: 'message', payload: { text: 'Maintenance on Sunday' }, issuedAt: '2026-07-01T11:00:00.000Z' }];
    const box = await activated();
    expect((await box.until(({ messages }) => messages.length > 0)).messages).toEqual([{ id: 'dir_1', text: 'Maintenance on Sunday', at: '2026-07-01T11:00:00.000Z' }]);
    await pass(2 * hour);
    await until(() => asked('/heartbeat').length === 2);
    expect(asked('/heartbeat')[1]?.body).toMatchObject({ acks: ['dir_1'] });
  });

  it('waits for a server that is not there yet, and says so', async () => {
    bench.vendor.cut();
    const box = await bench.start();
    await box.until(({ problems }) => problems.some(({ code }) => code === 'NO_OUTBOUND_ACCESS'));
    expect(await box.enforcement()).toEqual({ enforcement: 'LOCKED', reasons: ['NOT_ACTIVATED'], graceEndsAt: null });
    bench.vendor.mend();
    await passUntil(box, ({ status }) => status === 'active');
    expect(await box.problems()).toEqual([]);
  });

  it('sends usage once, whatever dies meanwhile', async () => {
    const box = await activated();
    const sent = () => asked('/license/usage').map(({ body }) => (body['records'] as { id: string }[]).map(({ id }) => id));
    bench.vendor.between = (path) => (path === '/license/usage' ? new TypeError('terminated') : undefined);
    const record = { id: 'reading-1', meter: 'max_dp_cores', value: 12, at: '2026-07-01T13:59:00+02:00' };
    expect(await box.ask('POST', '/api/usage', { records: [record, record] })).toMatchObject({ status: 200, body: { accepted: 1, duplicates: 1, queued: 1 } });
    expect(await box.ask('POST', '/api/usage', record)).toMatchObject({ status: 200, body: { accepted: 0, duplicates: 1 } });
    for (const at of ['2026-07-01T12:05:01Z', '2025-01-01T00:00:00Z']) expect(await box.ask('POST', '/api/usage', { ...record, at })).toMatchObject({ status: 422, body: { code: 'USAGE_OUT_OF_RANGE' } });
    await box.close();
    const again = await bench.start();
    expect(await again.license()).toMatchObject({ usageQueued: 1 });
    bench.vendor.mend();
    const tried = sent().length;
    await pass(60_000);
    await again.until(({ usageQueued }) => usageQueued === 0);
    expect(sent().slice(tried)).toEqual([['reading-1']]);
    expect(asked('/license/usage').at(-1)?.body).toMatchObject({ licenseKey: 'KEY-1', instanceId: 'act_1', records: [{ ...record, at: '2026-07-01T11:59:00.000Z' }] });
    await pass(2 * hour);
    expect(sent()).toHaveLength(tried + 1);
  });

  it('gives its seat back when it is told to, and takes none by itself afterwards', async () => {
    const box = await activated();
    bench.vendor.cut();
    expect(await box.ask('POST', '/api/license/deactivate')).toMatchObject({ status: 502, body: { code: 'NO_OUTBOUND_ACCESS' } });
    expect(await box.license()).toMatchObject({ source: 'key', enforcement: 'WARN' });
    bench.vendor.mend();
    expect(await box.ask('POST', '/api/license/deactivate')).toMatchObject({ status: 200, body: { source: null, status: 'none', enforcement: 'LOCKED', problems: [{ code: 'NO_LICENSE' }] } });
    expect(asked('/license/deactivate').at(-1)?.body).toEqual({ licenseKey: 'KEY-1', instanceId: 'act_1' });
    for (const path of ['license/deactivate', 'license/refresh']) expect(await box.ask('POST', `/api/${path}`)).toMatchObject({ status: 409, body: { code: 'NO_LICENSE' } });
    expect(await box.ask('POST', '/api/usage', { meter: 'a', value: 1 })).toMatchObject({ status: 409, body: { code: 'NO_LICENSE' } });
    await box.close();
    const again = await bench.start();
    await pass(day);
    expect(await again.license()).toMatchObject({ status: 'none' });
  });

  it('sends what was used before it gives its seat back', async () => {
    const box = await activated();
    bench.vendor.between = (path) => (path === '/license/usage' ? [503, 'busy'] : undefined);
    expect(await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 })).toMatchObject({ status: 200, body: { queued: 1 } });
    await settled();
    expect(await box.ask('POST', '/api/license/deactivate')).toMatchObject({ status: 503, body: { code: 'LICENSE_SERVER_UNAVAILABLE' } });
    expect(asked('/license/deactivate')).toEqual([]);
    expect(await box.license()).toMatchObject({ source: 'key', usageQueued: 1 });
    bench.vendor.mend();
    const before = bench.vendor.asked.length;
    expect(await box.ask('POST', '/api/license/deactivate')).toMatchObject({ status: 200 });
    expect(bench.vendor.asked.slice(before).map(({ path }) => path)).toEqual(['/license/usage', '/license/validate', '/license/deactivate']);
    expect(asked('/license/usage').at(-1)?.body).toMatchObject({ records: [{ id: 'r1' }] });
  });

  it('takes a floating seat that has lapsed again to send what was used, before it gives it back', async () => {
    bench.vendor.terms = { ...bench.vendor.terms, seats: 'floating' };
    const box = await activated();
    bench.vendor.between = (path) => (path === '/license/usage' ? [503, 'busy'] : undefined);
    expect(await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 })).toMatchObject({ status: 200 });
    await settled();
    bench.vendor.lapse();
    bench.vendor.between = (path) => (path === '/license/activate' ? [503, 'busy'] : undefined);
    expect(await box.ask('POST', '/api/license/deactivate')).toMatchObject({ status: 503, body: { code: 'LICENSE_SERVER_UNAVAILABLE' } });
    expect(await box.license()).toMatchObject({ source: 'key', usageQueued: 1 });
    bench.vendor.mend();
    expect(await box.ask('POST', '/api/license/deactivate')).toMatchObject({ status: 200, body: { source: null } });
    expect([asked('/license/usage').at(-1), asked('/license/deactivate').at(-1)]).toMatchObject([{ body: { instanceId: 'act_2', records: [{ id: 'r1' }] } }, { body: { instanceId: 'act_2' } }]);
  });

  it.each([[409, 'ACTIVATION_LIMIT_EXCEEDED'], [403, 'LICENSE_SUSPENDED'], [403, 'LICENSE_EXPIRED']])('leaves without a floating seat that has lapsed if the server gives no other (%i %s), and sends what was used once it does', async (status, code) => {
    bench.vendor.terms = { ...bench.vendor.terms, seats: 'floating' };
    const box = await activated();
    bench.vendor.between = (path) => (path === '/license/usage' ? [503, 'busy'] : undefined);
    expect(await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 })).toMatchObject({ status: 200 });
    await settled();
    bench.vendor.lapse();
    bench.vendor.between = (path) => (path === '/license/activate' ? problem(status, code) : undefined);
    expect(await box.ask('POST', '/api/license/deactivate')).toMatchObject({ status: 200, body: { source: null, status: 'none' } });
    for (let minutes = 0; minutes < 3; minutes++) await pass(60_000);
    expect([asked('/license/deactivate'), states().length]).toEqual([[], 1]);
    bench.vendor.mend();
    await passUntil(box, () => states().length === 0);
    expect([asked('/license/usage').at(-1), asked('/license/deactivate').at(-1)]).toMatchObject([{ body: { instanceId: 'act_2', records: [{ id: 'r1' }] } }, { body: { instanceId: 'act_2' } }]);
  });

  it.each([['before its seat is given back: then nothing is', false], ['while its seat is given back: then it takes one again', true]])('stays in use if the disk fails %s', async (_when, isGiven) => {
    const deactivating = held('/license/deactivate');
    const box = await activated({}, { fetch: deactivating.fetch });
    await settled();
    const repaired = isGiven ? undefined : unwritable();
    const given = box.ask('POST', '/api/license/deactivate');
    if (isGiven) await deactivating.reached;
    const repairedThen = repaired ?? unwritable();
    deactivating.goOn();
    expect(await given).toMatchObject({ status: 503, body: { code: 'STORAGE_FAILED' } });
    expect(asked('/license/deactivate')).toHaveLength(isGiven ? 1 : 0);
    repairedThen();
    await passUntil(box, ({ problems }) => problems.length === 0);
    expect(await box.license()).toMatchObject({ source: 'key', enforcement: 'FULL', activationId: 'act_1' });
  });

  it.each([['is given back', undefined, { status: 409, body: { code: 'NO_LICENSE' } }, 0], ['cannot be given back', [503, 'busy'] as const, { status: 200, body: { accepted: 1 } }, 1]])('takes no usage that it could not send, while its seat %s', async (_name, answer, expected, queued) => {
    const deactivating = held('/license/deactivate');
    const box = await activated({}, { fetch: deactivating.fetch });
    bench.vendor.between = (path) => (path === '/license/usage' ? [503, 'busy'] : path === '/license/deactivate' ? answer : undefined);
    const given = box.ask('POST', '/api/license/deactivate');
    await deactivating.reached;
    const used = box.ask('POST', '/api/usage', { meter: 'cores', value: 5 });
    await settled();
    deactivating.goOn();
    await given;
    expect(await used).toMatchObject(expected);
    expect(await box.license()).toMatchObject({ usageQueued: queued });
  });
});

describe('Without contact', () => {
  it('it works for fourteen days, to the hour, and says how long; then it locks; and the first contact brings it back', async () => {
    const box = await activated();
    bench.vendor.cut();
    await pass(13 * day);
    await pass(23 * hour);
    expect(await box.until(({ problems }) => problems.length === 2)).toMatchObject({
      status: 'grace', enforcement: 'WARN', runtimeState: 'normal', code: 'IN_OFFLINE_GRACE', graceEndsAt: '2026-07-15T12:00:00.000Z', offlineGraceSeconds: 3600,
      problems: [{ code: 'IN_OFFLINE_GRACE' }, { code: 'NO_OUTBOUND_ACCESS', severity: 'warning' }], server: { reachable: false, connected: false },
    });
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 502, body: { code: 'NO_OUTBOUND_ACCESS', title: 'The license server cannot be reached' } });
    await pass(hour);
    expect(await box.until(({ enforcement }) => enforcement === 'LOCKED')).toMatchObject({ status: 'locked', runtimeState: 'restricted', code: 'HEARTBEAT_OVERDUE', offlineGraceSeconds: 0 });
    bench.vendor.mend();
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 200, body: { status: 'active', enforcement: 'FULL', problems: [] } });
  });

  it('for fewer days, if it is told so; never for more', async () => {
    const box = await activated({ LICENSE_OFFLINE_GRACE_DAYS: '2' });
    expect(await box.license()).toMatchObject({ offlineGraceEndsAt: '2026-07-03T12:00:00.000Z' });
    await box.close();
    expect(await (await bench.start({ LICENSE_OFFLINE_GRACE_DAYS: '100' })).license()).toMatchObject({ offlineGraceEndsAt: '2026-07-15T12:00:00.000Z' });
  });

  it.each([['an hour', hour], ['a day', day], ['thirteen days', 13 * day], ['sixty days', 60 * day]])('a clock that is set back by %s, and a state put back with it, lengthen nothing', async (_name, back) => {
    const box = await activated();
    bench.vendor.cut();
    await pass(hour);
    cpSync(data(), data('snapshot'), { recursive: true });
    await pass(10 * day);
    bench.clock.wall -= back;
    await pass(60_000);
    await box.until(({ problems }) => problems.some(({ code }) => code === 'CLOCK_SET_BACK'));
    await box.close();
    rmSync(data(), { recursive: true });
    renameSync(data('snapshot'), data());
    const again = await bench.start();
    await again.until(({ enforcement }) => enforcement === 'WARN');
    await pass(4 * day);
    expect(await again.until(({ enforcement }) => enforcement === 'LOCKED')).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
  });
});

describe('A license key', () => {
  const terms = () => bench.vendor.terms;
  /** The vendor refuses to activate, in the server's words. */
  const refusing = (status: number, code: string, members: object = {}) => {
    bench.vendor.between = (path, body) => (body['licenseKey'] === 'OTHER-KEY' ? problem(status, code, members) : undefined);
  };

  it.each([
    [409, 'DEPLOYMENT_MODE_MISMATCH', { deploymentMode: 'cloud' }], [403, 'LICENSE_EXPIRED', { expiresAt: '2026-01-01T00:00:00.000Z' }],
    [409, 'ACTIVATION_LIMIT_EXCEEDED', { limit: 5, used: 5 }], [404, 'LICENSE_NOT_FOUND', {}],
  ])('that fails (%i %s) is told apart, and does not displace the one that works', async (status, code, members) => {
    const box = await activated();
    refusing(status, code, members);
    expect(await box.put('OTHER-KEY')).toMatchObject({ status, headers: expect.anything(), body: { type: `/docs/errors#${code}`, code, status, title: expect.any(String), instance: '/api/license', ...members } });
    expect(await box.license()).toMatchObject({ status: 'active', enforcement: 'FULL', keyPrefix: 'KEY-1', activationId: 'act_1' });
    await until(() => states().length === 1);
  });

  /** Seats are given, and nothing is signed. */
  const unsigned = (key: string) => {
    bench.vendor.between = (path, { licenseKey }) => {
      if (licenseKey !== key) return undefined;
      return path === '/license/activate' ? [201, { activated: true, instance: { id: 'act_1' }, license: {} }] : path === '/license/validate' ? [200, { valid: true, code: 'VALID' }] : undefined;
    };
  };

  it('that nobody has signed anything of does not displace the one that works, nor give its seat away, and is taken when it is signed', async () => {
    const box = await activated();
    unsigned('OTHER-KEY');
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 502, body: { code: 'UNTRUSTED_ANSWER' } });
    await settled();
    expect(await box.license()).toMatchObject({ status: 'active', enforcement: 'FULL', keyPrefix: 'KEY-1', activationId: 'act_1', server: { connected: true }, problems: [] });
    await box.close();
    const again = await bench.start({ LICENSE_KEY: 'OTHER-KEY' });
    await again.until(({ problems }) => problems.some(({ code }) => code === 'UNTRUSTED_ANSWER'));
    expect(await again.license()).toMatchObject({ status: 'active', keyPrefix: 'KEY-1', activationId: 'act_1' });
    bench.vendor.mend();
    await passUntil(again, ({ keyPrefix, problems }) => keyPrefix === 'OTHER-KE' && problems.length === 0);
    // The license is the same, and so is the seat.
    expect(asked('/license/deactivate')).toEqual([]);
  });

  it('that nobody has signed anything of is no license where there is none either', async () => {
    unsigned('OTHER-KEY');
    const box = await bench.start({ LICENSE_KEY: 'OTHER-KEY' });
    await box.until(({ problems }) => problems.some(({ code }) => code === 'UNTRUSTED_ANSWER'));
    expect(await box.license()).toMatchObject({ status: 'none', source: null });
    bench.vendor.mend();
    await passUntil(box, ({ status, problems }) => status === 'active' && problems.length === 0);
  });

  it('takes the place of one of which it is not known whether it is the same, and gives no seat away that may be its own', async () => {
    const box = await activated();
    await box.close();
    rmSync(join(data(), readdirSync(data()).find((name) => name.startsWith('license-')) ?? ''));
    unsigned('KEY-1');
    const again = await bench.start();
    await again.until(({ activationId, problems }) => activationId === 'act_1' && problems.some(({ code }) => code === 'UNTRUSTED_ANSWER'));
    expect(await again.put('OTHER-KEY')).toMatchObject({ status: 200, body: { licenseId: 'lic_1', activationId: 'act_1', enforcement: 'FULL' } });
    await until(() => states().length === 1);
    expect(asked('/license/deactivate')).toEqual([]);
  });

  it('whose verdict is a "no" does not displace one that works', async () => {
    const box = await activated();
    await settled();
    bench.vendor.terms = { ...terms(), id: 'lic_2' };
    bench.vendor.verdict = { valid: false, code: 'SUSPENDED', reasons: ['SUSPENDED'], enforcement: 'LOCKED' };
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 403, body: { code: 'LICENSE_SUSPENDED' } });
    expect(await box.license()).toMatchObject({ licenseId: 'lic_1', enforcement: 'FULL' });
    await until(() => states().length === 1);
    expect(asked('/license/deactivate').map(({ body }) => body['licenseKey'])).toEqual(['OTHER-KEY']);
  });

  it('in another spelling is the same one, and what was used waits on', async () => {
    const box = await activated({ LICENSE_KEY: 'OLD1-LICENSE-KEY' });
    bench.vendor.between = (path) => (path === '/license/usage' ? [503, 'busy'] : undefined);
    await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 });
    await settled();
    for (const typed of ['old1-license-key', '0LDi 1icensekey', 'OLD1LICENSEKEY']) expect(await box.put(typed)).toMatchObject({ status: 200, body: { keyPrefix: 'OLD1-LIC', usageQueued: 1 } });
    bench.vendor.mend();
    await pass(60_000);
    await box.until(({ usageQueued }) => usageQueued === 0);
    expect(asked('/license/usage').at(-1)?.body).toMatchObject({ records: [{ id: 'r1' }] });
  });

  it('that nobody can be asked about is told apart too', async () => {
    const box = await activated();
    bench.vendor.between = (_path, body) => (body['licenseKey'] === 'OTHER-KEY' ? new TypeError('getaddrinfo ENOTFOUND') : undefined);
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 502, body: { code: 'NO_OUTBOUND_ACCESS' } });
    expect(await box.license()).toMatchObject({ keyPrefix: 'KEY-1', enforcement: 'FULL' });
  });

  it.each([[429, 'gets too many requests (429), and asks for the next try in 120 seconds'], [503, 'is not available (503)'], [500, 'failed (500)']])('that the server cannot answer for now (%i) is no matter of the network', async (status, why) => {
    const box = await activated();
    bench.vendor.between = () => [status, 'busy', { 'retry-after': '120' }];
    for (const asking of [() => box.put('OTHER-KEY'), () => box.put('OTHER-KEY', '?dry-run=all'), () => box.ask('POST', '/api/license/refresh'), () => box.ask('POST', '/api/license/deactivate')]) {
      const { body } = await asking();
      expect(body).toMatchObject({ status: 503, code: 'LICENSE_SERVER_UNAVAILABLE', detail: expect.stringContaining(why), serverStatus: status });
    }
    expect(await box.license()).toMatchObject({ source: 'key', code: 'IN_OFFLINE_GRACE', server: { reachable: false }, problems: [{ code: 'IN_OFFLINE_GRACE' }, { code: 'LICENSE_SERVER_UNAVAILABLE', severity: 'warning', detail: expect.stringContaining(why) }] });
    bench.vendor.between = () => [407, '<html>proxy</html>'];
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 502, body: { code: 'NO_OUTBOUND_ACCESS', detail: expect.stringContaining('407') } });
    expect(await box.problems()).toContain('NO_OUTBOUND_ACCESS');
  });

  it('takes the place of another, which gives its seat back, and is kept', async () => {
    const box = await activated();
    bench.vendor.terms = { ...terms(), id: 'lic_2', features: { audit: true } };
    bench.vendor.seq = 1;
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 200, body: { licenseId: 'lic_2', keyPrefix: 'OTHER-KE', applied: true, features: { audit: true } } });
    await until(() => asked('/license/deactivate').length === 1);
    expect(asked('/license/deactivate')[0]?.body).toMatchObject({ licenseKey: 'KEY-1' });
    await until(() => states().length === 1);
    await box.close();
    expect(await (await bench.start()).license()).toMatchObject({ licenseId: 'lic_2', status: 'active' });
  });

  it('can be tried without being taken', async () => {
    const box = await activated();
    bench.vendor.terms = { ...terms(), id: 'lic_2' };
    const before = asked('/license/activate').length;
    expect(await box.put('OTHER-KEY', '?dry-run=all')).toMatchObject({ status: 200, body: { licenseId: 'lic_2', applied: false, enforcement: 'FULL', type: null, freeTrial: null, validationMode: null, serialNumber: null } });
    bench.vendor.verdict = { valid: false, code: 'EXPIRED', reasons: ['EXPIRED'], enforcement: 'READ_ONLY' };
    expect(await box.put('OTHER-KEY', '?dry-run=all')).toMatchObject({ status: 403, body: { code: 'LICENSE_EXPIRED' } });
    expect(asked('/license/activate')).toHaveLength(before);
    expect(await box.license()).toMatchObject({ licenseId: 'lic_1', applied: true });
    for (const query of ['?dry-run=none', '?dry-run=', '?dry-run=all&dry-run=x']) expect(await box.put('OTHER-KEY', query)).toMatchObject({ status: 400, body: { code: 'VALIDATION_FAILED' } });
  });

  it('that is bound to hardware can be tried where it has no seat yet, as long as there is one', async () => {
    const box = await bench.start({ LICENSE_KEY: '' });
    bench.vendor.terms = { ...terms(), activationLimit: 2 };
    bench.vendor.verdict = { valid: false, code: 'FINGERPRINT_MISMATCH', reasons: ['FINGERPRINT_MISMATCH'], enforcement: 'LOCKED' };
    expect(await box.put('OTHER-KEY', '?dry-run=all')).toMatchObject({ status: 200, body: { applied: false, activeActivations: 1 } });
    bench.vendor.taken = 2;
    expect(await box.put('OTHER-KEY', '?dry-run=all')).toMatchObject({ status: 409, body: { code: 'ACTIVATION_LIMIT_EXCEEDED', limit: 2, used: 2 } });
    // After a new installation, the seats that are taken may be this machine's own.
    bench.vendor.verdict = {};
    expect(await box.put('OTHER-KEY', '?dry-run=all')).toMatchObject({ status: 200 });
  });

  it('that is configured and waits to be good gives way to an upload, for good', async () => {
    bench.vendor.between = () => problem(403, 'LICENSE_SUSPENDED');
    const box = await bench.start();
    await box.until(({ problems }) => problems.some(({ code }) => code === 'LICENSE_SUSPENDED'));
    expect(await box.put(await bench.vendor.licenseFile({ license: { ...terms(), id: 'lic_2', validationMode: 'offline' } }))).toMatchObject({ status: 200 });
    bench.vendor.mend();
    await pass(10 * 60_000);
    await pass(10 * 60_000);
    expect(await box.license()).toMatchObject({ licenseId: 'lic_2', source: 'file', problems: [] });
    await box.close();
    const again = await bench.start();
    await pass(10 * 60_000);
    expect(await again.license()).toMatchObject({ licenseId: 'lic_2' });
  });

  it.each(['a renewal of the file that is there', 'the key that is there'])('that is configured and waits gives way to an upload of %s, also after the agent was killed', async (what) => {
    const file = () => bench.vendor.licenseFile({ license: { ...terms(), id: 'lic_2', validationMode: 'offline' } });
    bench.vendor.between = (_path, body) => (body['licenseKey'] === 'OTHER-KEY' ? problem(403, 'LICENSE_SUSPENDED') : undefined);
    const box = await bench.start({ LICENSE_KEY: '' });
    const before = what.includes('file') ? await file() : 'FIRST-KEY';
    expect(await box.put(before)).toMatchObject({ status: 200 });
    await box.close();
    const again = await bench.start({ LICENSE_KEY: 'OTHER-KEY' });
    await again.until(({ problems }) => problems.some(({ code }) => code === 'LICENSE_SUSPENDED'));
    bench.vendor.seq++;
    expect(await again.put(what.includes('file') ? await file() : 'FIRST-KEY')).toMatchObject({ status: 200, body: { problems: [] } });
    cpSync(data(), data('killed'), { recursive: true });
    bench.vendor.mend();
    await pass(10 * 60_000);
    const killed = await bench.start({ LICENSE_KEY: 'OTHER-KEY', AGENT_DATA_DIR: data('killed') });
    await pass(10 * 60_000);
    for (const one of [again, killed]) expect(await one.license()).toMatchObject(what.includes('file') ? { source: 'file', licenseId: 'lic_2' } : { keyPrefix: 'FIRST-KE' });
  });

  it('that is configured goes on waiting if an upload could not be stored', async () => {
    const file = (seq: number) => bench.vendor.licenseFile({ seq, license: { ...terms(), validationMode: 'offline' } });
    const box = await bench.start({ LICENSE_KEY: '' });
    await box.put(await file(5));
    await box.close();
    const [name = ''] = states();
    bench.vendor.between = (path) => (path === '/license/activate' ? problem(403, 'LICENSE_SUSPENDED') : undefined);
    const again = await bench.start();
    await again.until(({ problems }) => problems.some(({ code }) => code === 'LICENSE_SUSPENDED'));
    rmSync(join(data(), name));
    mkdirSync(join(data(), name, 'in the way'), { recursive: true });
    expect(await again.put(await file(6))).toMatchObject({ status: 503, body: { code: 'STORAGE_FAILED' } });
    rmSync(join(data(), name), { recursive: true });
    bench.vendor.mend();
    await passUntil(again, ({ source }) => source === 'key');
  });

  it('that is configured and was refused is tried at once by Refresh', async () => {
    bench.vendor.between = () => problem(403, 'LICENSE_SUSPENDED');
    const box = await bench.start();
    await box.until(({ problems }) => problems.some(({ code }) => code === 'LICENSE_SUSPENDED'));
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 403, body: { code: 'LICENSE_SUSPENDED' } });
    bench.vendor.mend();
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 200, body: { status: 'active', keyPrefix: 'KEY-1' } });
    await pass(5 * 60_000);
    await box.until(({ problems }) => problems.length === 0);
  });

  it('that is configured is not given up for a mounted file that is taken while nobody can be asked, also after a restart, or if the file is renewed', async () => {
    const path = data('license.txt');
    mkdirSync(data());
    writeFileSync(path, await bench.vendor.licenseFile({ customer: { id: 'cus_1', name: 'Ada' } }));
    bench.vendor.cut();
    const env = { LICENSE_FILE_PATH: path };
    const box = await bench.start(env);
    expect(await box.until(({ source }) => source === 'file')).toMatchObject({ enforcement: 'WARN', customer: 'Ada' });
    await pass(60_000);
    await box.close();
    const again = await bench.start(env);
    await again.until(({ problems }) => problems.some(({ code }) => code === 'NO_OUTBOUND_ACCESS'));
    writeFileSync(path, await bench.vendor.licenseFile({ seq: 5, customer: { id: 'cus_1', name: 'Ada Lovelace' } }));
    await pass(5_000);
    await again.until(({ customer }) => customer === 'Ada Lovelace');
    bench.vendor.mend();
    bench.vendor.seq = 5;
    await passUntil(again, ({ source, problems }) => source === 'key' && problems.length === 0);
    expect(await again.license()).toMatchObject({ activationId: 'act_1', enforcement: 'FULL', customer: 'Ada Lovelace' });
    await again.close();
    // It is processed now: what is uploaded next counts.
    const third = await bench.start(env);
    await third.put(await bench.vendor.licenseFile({ license: { ...terms(), id: 'lic_2', validationMode: 'offline' } }));
    await third.close();
    expect(await (await bench.start(env)).license()).toMatchObject({ licenseId: 'lic_2' });
  });

  it('that is configured and another one than that of the file is tried at once by Refresh', async () => {
    const path = data('license.txt');
    mkdirSync(data());
    writeFileSync(path, await bench.vendor.licenseFile({ license: { ...terms(), id: 'lic_2' } }));
    bench.vendor.cut();
    const box = await bench.start({ LICENSE_FILE_PATH: path });
    await box.until(({ source }) => source === 'file');
    bench.vendor.mend();
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 200, body: { source: 'key', licenseId: 'lic_1', enforcement: 'FULL', problems: [] } });
  });

  it('is taken as people paste it', async () => {
    const box = await bench.start({ LICENSE_KEY: '' });
    for (const typed of ['KL7Q\u2013M2XD\u20148RWT\u20115KPN', ' KL7Q - M2XD -\n 8RWT-5KPN\u00a0', '\ufeffKL7Q-\u200bM2XD-8RWT-\u00ad5KPN', 'KL7Q\u2212M2XD\u2010 8RWT-5KPN']) {
      expect(await box.put(typed)).toMatchObject({ status: 200, body: { keyPrefix: 'KL7Q-M2X' } });
      expect(asked('/license/activate').at(-1)?.body).toMatchObject({ licenseKey: 'KL7Q-M2XD-8RWT-5KPN' });
    }
    expect(asked('/license/deactivate')).toEqual([]);
    for (const typed of ['KL7Q-M2XD-8RWT-5KPÑ', 'ab cd', 'x'.repeat(256)]) expect(await box.put(typed)).toMatchObject({ status: 422, body: { code: 'LICENSE_UNREADABLE' } });
  });

  it('is never in a log or an answer, but for its beginning', async () => {
    bench.vendor.between = () => problem(404, 'LICENSE_NOT_FOUND');
    const box = await bench.start({ LICENSE_KEY: 'SECRET-KEY-THAT-NOBODY-MAY-SEE' });
    const license = await box.until(({ problems }) => problems.some(({ code }) => code === 'LICENSE_NOT_FOUND'));
    expect(JSON.stringify([license, bench.logged])).not.toMatch('SECRET-KEY');
    expect(JSON.stringify(license)).toMatch('SECRET-K');
  });
});

describe('A license that is not in use any more', () => {
  const readings = () => asked('/license/usage').flatMap(({ body }) => (body['records'] as { id: string }[]).map(({ id }) => id));
  const givenBack = () => asked('/license/deactivate').map(({ body }) => body['licenseKey']);
  const failing = (...paths: readonly string[]) => void (bench.vendor.between = (path) => (paths.includes(path) ? [503, 'busy'] : undefined));
  const notYet = () => bench.logged.filter(({ message }) => message.includes('could not give its seat back'));
  /** The vendor sells another license. */
  const other = (id = 'lic_2') => void (bench.vendor.terms = { ...bench.vendor.terms, id });
  const fileOf = (id: string) => bench.vendor.licenseFile({ license: { ...bench.vendor.terms, id, validationMode: 'offline' } });

  it('keeps the seat that it takes again while the seat is being given back', async () => {
    const deactivating = held('/license/deactivate');
    const box = await activated({ LICENSE_KEY: 'FIRST-KEY' }, { fetch: deactivating.fetch });
    other();
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 200, body: { licenseId: 'lic_2' } });
    await deactivating.reached;
    other('lic_1');
    const before = bench.vendor.asked.length;
    const put = box.put('FIRST-KEY');
    await settled();
    deactivating.goOn();
    expect(await put).toMatchObject({ status: 200, body: { licenseId: 'lic_1', enforcement: 'FULL' } });
    const paths = bench.vendor.asked.slice(before).filter(({ body }) => body['licenseKey'] === 'FIRST-KEY').map(({ path }) => path);
    expect(paths.slice(0, 2)).toEqual(['/license/deactivate', '/license/activate']);
    await until(() => givenBack().length === 2);
    expect(givenBack()).toEqual(['FIRST-KEY', 'OTHER-KEY']);
  });

  it('holds up no other change while a key waits for its seat to be given back', async () => {
    const deactivating = held('/license/deactivate');
    const box = await activated({ LICENSE_KEY: 'FIRST-KEY' }, { fetch: deactivating.fetch });
    other();
    await box.put('OTHER-KEY');
    await deactivating.reached;
    const put = box.put('FIRST-KEY');
    await settled();
    expect(await box.put(await fileOf('lic_2'), '?dry-run=all')).toMatchObject({ status: 200, body: { applied: false } });
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 200, body: { licenseId: 'lic_2' } });
    expect(await box.put(await fileOf('lic_3'))).toMatchObject({ status: 200, body: { licenseId: 'lic_3' } });
    other('lic_1');
    deactivating.goOn();
    expect(await put).toMatchObject({ status: 200, body: { licenseId: 'lic_1', keyPrefix: 'FIRST-KE' } });
  });

  it('holds up no text that is no key, nor, with a key in the mounted file, any other change', async () => {
    const deactivating = held('/license/deactivate');
    const path = join(bench.folder, 'license.txt');
    const box = await activated({ LICENSE_KEY: 'FIRST-KEY', LICENSE_FILE_PATH: path }, { fetch: deactivating.fetch });
    other();
    await box.put('OTHER-KEY');
    await deactivating.reached;
    expect(await box.put('two words')).toMatchObject({ status: 422, body: { code: 'LICENSE_UNREADABLE' } });
    writeFileSync(path, 'THIRD-KEY-1');
    await pass(5_000);
    expect(await box.put(await fileOf('lic_3'))).toMatchObject({ status: 200, body: { licenseId: 'lic_3' } });
    other('lic_4');
    deactivating.goOn();
    await passUntil(box, ({ keyPrefix }) => keyPrefix === 'THIRD-KE');
  });

  it('waits for no other one that is given back', async () => {
    const box = await activated({ LICENSE_KEY: 'FIRST-KEY' });
    failing('/license/deactivate');
    other();
    await box.put('OTHER-KEY');
    await until(() => notYet().length === 1);
    await box.put(await fileOf('lic_3'));
    await until(() => notYet().length === 2);
    await box.close();
    bench.vendor.mend();
    const deactivating = held('/license/deactivate', 'FIRST-KEY');
    const before = givenBack().length;
    await bench.start({ LICENSE_KEY: '' }, { fetch: deactivating.fetch });
    await deactivating.reached;
    await until(() => givenBack().length > before);
    expect(givenBack().slice(before)).toEqual(['OTHER-KEY']);
    deactivating.goOn();
    await until(() => states().length === 1);
  });

  it('gives its seat back for a file of the same license, too: a file has none', async () => {
    const box = await activated();
    await settled();
    bench.vendor.cut();
    for (const id of ['lic_2', 'lic_1']) expect(await box.put(await fileOf(id))).toMatchObject({ status: 200, body: { source: 'file', licenseId: id } });
    bench.vendor.mend();
    await passUntil(box, () => states().length === 1);
    expect(bench.vendor.answered.map(({ path }) => path)).toContain('/license/deactivate');
  });

  it('hands what was used to the same license, if its key was replaced', async () => {
    const box = await activated();
    bench.vendor.between = (_path, { licenseKey }) => (licenseKey === 'KEY-1' ? problem(404, 'LICENSE_NOT_FOUND') : undefined);
    expect(await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 })).toMatchObject({ status: 200, body: { queued: 1 } });
    expect(await box.put('NEW-KEY-1')).toMatchObject({ status: 200, body: { licenseId: 'lic_1' } });
    await until(() => states().length === 1);
    await pass(60_000);
    await box.until(({ usageQueued }) => usageQueued === 0);
    expect(asked('/license/usage').at(-1)?.body).toMatchObject({ licenseKey: 'NEW-KEY-1', records: [{ id: 'r1' }] });
    expect(givenBack()).toEqual([]);
    expect(bench.logged.filter(({ message }) => message.includes('lost'))).toEqual([]);
  });

  it('takes a floating seat that has lapsed again, to send what was used', async () => {
    bench.vendor.terms = { ...bench.vendor.terms, seats: 'floating' };
    const box = await activated();
    failing('/license/usage', '/license/deactivate');
    await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 });
    expect(await box.put(await fileOf('lic_2'))).toMatchObject({ status: 200, body: { source: 'file' } });
    await until(() => notYet().length === 1);
    bench.vendor.mend();
    bench.vendor.lapse();
    const before = bench.vendor.asked.length;
    await passUntil(box, () => states().length === 1);
    expect(bench.vendor.asked.slice(before).filter(({ path }) => /activate|usage/.test(path)).map(({ path, body }) => [path, body['instanceId']])).toEqual([
      ['/license/usage', 'act_1'], ['/license/activate', undefined], ['/license/usage', 'act_2'], ['/license/deactivate', 'act_2'],
    ]);
    expect(readings().at(-1)).toBe('r1');
  });

  it('sends what was used under an expired floating license once that is renewed', async () => {
    bench.vendor.terms = { ...bench.vendor.terms, seats: 'floating' };
    const box = await activated();
    failing('/license/usage', '/license/deactivate');
    await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 });
    await box.put(await fileOf('lic_2'));
    await until(() => notYet().length === 1);
    bench.vendor.lapse();
    bench.vendor.between = (path) => (path === '/license/activate' ? problem(403, 'LICENSE_EXPIRED') : undefined);
    for (let minutes = 0; minutes < 3; minutes++) await pass(60_000);
    expect([states().length, bench.logged.filter(({ message }) => message.includes('lost'))]).toEqual([2, []]);
    const before = readings().length;
    bench.vendor.mend();
    await passUntil(box, () => states().length === 1);
    expect(readings().slice(before)).toContain('r1');
  });

  it('keeps the seat that it takes again before the seat could be given back, and sends what was used before', async () => {
    const box = await activated({ LICENSE_KEY: 'FIRST-KEY' });
    failing('/license/usage', '/license/deactivate');
    await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 });
    other();
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 200 });
    other('lic_1');
    expect(await box.put('FIRST-KEY')).toMatchObject({ status: 200, body: { licenseId: 'lic_1', enforcement: 'FULL' } });
    await until(() => notYet().length === 2);
    bench.vendor.mend();
    const before = bench.vendor.asked.length;
    await pass(60_000);
    await until(() => states().length === 1);
    expect(bench.vendor.asked.slice(before).filter(({ path }) => /usage|deactivate/.test(path)).map(({ path, body }) => [path, body['licenseKey']])).toEqual([['/license/usage', 'FIRST-KEY'], ['/license/deactivate', 'OTHER-KEY']]);
    expect(readings().at(-1)).toBe('r1');
    expect(await box.license()).toMatchObject({ licenseId: 'lic_1', enforcement: 'FULL' });
  });

  it.each([['a key', 'while the server is busy', false], ['a file', 'while there is no network', false], ['a key', 'just before the agent is killed', true]])('sends what was used, then gives its seat back, even if %s took its place %s', async (by, _when, isKilled) => {
    const box = await activated();
    failing('/license/usage', '/license/deactivate');
    expect(await box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 })).toMatchObject({ status: 200 });
    other();
    if (by === 'a file') bench.vendor.cut();
    expect(await box.put(by === 'a file' ? await fileOf('lic_2') : 'OTHER-KEY')).toMatchObject({ status: 200, body: { licenseId: 'lic_2' } });
    if (isKilled) cpSync(data(), data('killed'), { recursive: true });
    await until(() => notYet().length === 1);
    bench.vendor.mend();
    const before = bench.vendor.asked.length;
    if (isKilled) await bench.start({ AGENT_DATA_DIR: data('killed') });
    else await pass(60_000);
    await until(() => asked('/license/deactivate').some((request) => bench.vendor.asked.indexOf(request) >= before));
    const leaving = bench.vendor.asked.slice(before).filter(({ path, body }) => /usage|deactivate/.test(path) && body['licenseKey'] === 'KEY-1');
    expect(leaving).toMatchObject([{ path: '/license/usage', body: { instanceId: 'act_1', records: [{ id: 'r1' }] } }, { path: '/license/deactivate', body: { instanceId: 'act_1' } }]);
    expect(bench.logged.filter(({ message }) => message.includes('lost'))).toEqual([]);
  });

  it('says how much usage is lost with it, when the server does not know its key any more, or a month has passed', async () => {
    const lost = () => bench.logged.flatMap(({ details, message }) => (message.includes('is lost') ? [details] : []));
    for (const answer of [problem(404, 'LICENSE_NOT_FOUND'), [503, 'busy'] as const]) {
      const box = await activated();
      bench.vendor.between = (path) => (path === '/license/usage' || path === '/license/deactivate' ? answer : undefined);
      await box.ask('POST', '/api/usage', { records: [1, 2].map((value) => ({ meter: 'cores', value })) });
      expect(await box.put(await fileOf('lic_2'))).toMatchObject({ status: 200 });
      if (answer[0] === 503) {
        await until(() => notYet().length === 1);
        await pass(29 * day);
        expect(lost()).toEqual([]);
        await pass(2 * day);
      }
      await until(() => lost().length === 1 && states().length === 1);
      expect(lost()).toEqual([{ readings: 2 }]);
      await box.close();
      rmSync(data(), { recursive: true });
      bench.logged.length = 0;
      bench.vendor.mend();
    }
  });

  it('is not given up for the time in which the agent was off, and says so when it is', async () => {
    const over = () => bench.logged.filter(({ message }) => message.includes('is given up')).length;
    const box = await activated();
    await settled();
    bench.vendor.cut();
    await box.put(await fileOf('lic_2'));
    await until(() => notYet().length === 1);
    await box.close();
    bench.clock.pass(31 * day);
    await bench.start({ LICENSE_KEY: '' });
    await pass(60_000);
    expect([over(), states().length]).toEqual([0, 2]);
    await pass(day);
    await pass(60_000);
    await until(() => over() === 1 && states().length === 1);
  });

  it('gives its seat back even if the disk has no room', async () => {
    const box = await activated();
    await settled();
    bench.vendor.cut();
    await box.put(await fileOf('lic_2'));
    await until(() => notYet().length === 1);
    unwritable();
    expect(await box.put(await fileOf('lic_3'))).toMatchObject({ status: 503, body: { code: 'STORAGE_FAILED' } });
    bench.vendor.mend();
    await pass(60_000);
    await until(() => bench.vendor.answered.some(({ path }) => path === '/license/deactivate'));
  });

  it('takes no seat again that does not float, nor one of a license that was revoked', async () => {
    for (const seats of ['node-locked', 'floating'] as const) {
      bench.vendor.terms = { ...bench.vendor.terms, seats };
      const box = await activated();
      failing('/license/usage', '/license/deactivate');
      // More than fit into one request.
      for (let n = 0; n < 2; n++) await box.ask('POST', '/api/usage', { records: Array.from({ length: 1000 }, () => ({ meter: 'cores', value: 5 })) });
      await box.put(await fileOf('lic_2'));
      await until(() => notYet().length === 1);
      bench.vendor.lapse();
      const before = asked('/license/activate').length;
      bench.vendor.between = (path) => (path === '/license/activate' ? problem(403, 'LICENSE_REVOKED') : undefined);
      await pass(60_000);
      await until(() => states().length === 1);
      expect(asked('/license/activate')).toHaveLength(before + (seats === 'floating' ? 1 : 0));
      await box.close();
      rmSync(data(), { recursive: true });
      bench.logged.length = 0;
      bench.vendor.mend();
    }
  });

  it('gives its seat back if it was refused after it got the seat, or the agent was killed before it was in use', async () => {
    const box = await activated();
    await settled();
    other();
    bench.vendor.verdict = { valid: false, code: 'SUSPENDED', reasons: ['SUSPENDED'], enforcement: 'LOCKED' };
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 403, body: { code: 'LICENSE_SUSPENDED' } });
    await until(() => states().length === 1);
    expect(givenBack()).toEqual(['OTHER-KEY']);
    expect(await box.license()).toMatchObject({ licenseId: 'lic_1', keyPrefix: 'KEY-1', activationId: 'act_1' });
    await box.close();
    const validating = held('/license/validate', 'THIRD-KEY');
    const again = await bench.start({}, { fetch: validating.fetch });
    const put = again.put('THIRD-KEY');
    await validating.reached;
    cpSync(data(), data('killed'), { recursive: true });
    await bench.start({ AGENT_DATA_DIR: data('killed') });
    await until(() => givenBack().length === 2);
    expect(givenBack()).toEqual(['OTHER-KEY', 'THIRD-KEY']);
    validating.goOn();
    await put;
  });
});

describe('A license file', () => {
  it('is all that is needed: nobody is asked for anything', async () => {
    const box = await bench.start({ ...byFile, KEYLEDGER_SERVER_URL: 'https://licenses.example' });
    expect(await box.license()).toMatchObject({ status: 'none', source: null, problems: [{ code: 'NO_LICENSE' }] });
    const text = await bench.vendor.licenseFile({ customer: { id: 'cus_1', name: 'Ada & Söhne' }, license: { ...bench.vendor.terms, validationMode: 'offline' } });
    expect(await box.put(text, '?dry-run=all')).toMatchObject({ status: 200, body: { applied: false, customer: 'Ada & Söhne', enforcement: 'FULL' } });
    expect(await box.license()).toMatchObject({ status: 'none' });
    expect(await box.put(text)).toMatchObject({ status: 200, body: { applied: true, source: 'file', status: 'active', type: 'lifetime', validationMode: 'offline', customer: 'Ada & Söhne', offlineGraceEndsAt: null, daysRemaining: null } });
    await pass(400 * day);
    await box.close();
    expect(await (await bench.start(byFile)).license()).toMatchObject({ status: 'active', source: 'file', problems: [] });
    expect(bench.vendor.asked).toEqual([]);
  });

  it('that is bad never displaces a good one, however it comes', async () => {
    bench.vendor.terms = { ...bench.vendor.terms, validationMode: 'offline' };
    const box = await bench.start(byFile);
    const good = await bench.vendor.licenseFile();
    await box.put(good);
    const { terms } = bench.vendor;
    const expired = await bench.vendor.licenseFile({ license: { ...terms, id: 'lic_2', expiresAt: '2026-06-01T00:00:00.000Z' } });
    const stale = await bench.vendor.licenseFile({ seq: 3 });
    const foreign = await (await Bench.open().then(async (other) => (await other.close(), other))).vendor.licenseFile();
    const cases: readonly (readonly [string, number, object])[] = [
      [good.replace('A', 'B'), 422, { code: 'LICENSE_FILE_REFUSED', reason: expect.any(String) }], [foreign, 422, { code: 'LICENSE_FILE_REFUSED', reason: 'UNTRUSTED_ROOT' }],
      [stale, 422, { code: 'LICENSE_FILE_REFUSED', reason: 'STALE' }], [expired, 403, { code: 'LICENSE_EXPIRED' }], ['two words', 422, { code: 'LICENSE_UNREADABLE' }],
      ['SOME-LICENSE-KEY', 409, { code: 'NO_SERVER' }],
    ];
    for (const [text, status, body] of cases) {
      for (const query of ['', '?dry-run=all']) expect(await box.put(text, query)).toMatchObject({ status, body });
    }
    expect(await box.license()).toMatchObject({ status: 'active', licenseId: 'lic_1' });
  });

  it('is refused where it is not for', async () => {
    const { terms } = bench.vendor;
    const text = await bench.vendor.licenseFile({ license: { ...terms, deploymentMode: 'cloud', deploymentId: 'dep-1' } });
    const mode = await bench.start({ ...byFile, LICENSE_DEPLOYMENT_MODE: 'on-premises' });
    expect(await mode.put(text)).toMatchObject({ status: 409, body: { code: 'DEPLOYMENT_MODE_MISMATCH', deploymentMode: 'cloud' } });
    const id = await bench.start({ ...byFile, LICENSE_DEPLOYMENT_MODE: 'cloud', LICENSE_DEPLOYMENT_ID: 'dep-2', AGENT_DATA_DIR: data('other') });
    expect(await id.put(text)).toMatchObject({ status: 409, body: { code: 'DEPLOYMENT_MISMATCH' } });
    const right = await bench.start({ ...byFile, LICENSE_DEPLOYMENT_MODE: 'cloud', LICENSE_DEPLOYMENT_ID: 'dep-1', AGENT_DATA_DIR: data('third') });
    expect(await right.put(text)).toMatchObject({ status: 200 });
  });

  it('that is in use is judged again when the agent is told that it is somewhere else, and is good again when that is put right', async () => {
    const { terms } = bench.vendor;
    const box = await bench.start(byFile);
    expect(await box.put(await bench.vendor.licenseFile({ license: { ...terms, validationMode: 'offline', deploymentMode: 'cloud', deploymentId: 'dep-1' } }))).toMatchObject({ status: 200, body: { enforcement: 'FULL' } });
    await box.close();
    for (const [elsewhere, reasons] of [
      [{ LICENSE_PRODUCT_ID: 'prd_2' }, ['PRODUCT_MISMATCH']], [{ LICENSE_DEPLOYMENT_ID: 'dep-2', LICENSE_DEPLOYMENT_MODE: 'on-premises' }, ['DEPLOYMENT_MODE_MISMATCH', 'DEPLOYMENT_MISMATCH']],
    ] as const) {
      const moved = await bench.start({ ...byFile, ...elsewhere });
      expect(await moved.enforcement()).toEqual({ enforcement: 'LOCKED', reasons, graceEndsAt: null });
      expect(await moved.license()).toMatchObject({ licenseId: 'lic_1', status: 'locked', problems: [{ code: reasons[0], severity: 'error' }] });
      await moved.close();
    }
    const right = await bench.start({ ...byFile, LICENSE_PRODUCT_ID: 'prd_1', LICENSE_DEPLOYMENT_ID: 'dep-1', LICENSE_DEPLOYMENT_MODE: 'cloud' });
    expect(await right.license()).toMatchObject({ status: 'active', enforcement: 'FULL', problems: [] });
  });

  it('or a key of another product is refused where it is known which one it must be for', async () => {
    const box = await bench.start({ LICENSE_KEY: '', LICENSE_PRODUCT_ID: 'prd_1' });
    const file = (productId: string) => bench.vendor.licenseFile({ license: { ...bench.vendor.terms, productId, validationMode: 'offline' } });
    for (const query of ['', '?dry-run=all']) expect(await box.put(await file('prd_2'), query)).toMatchObject({ status: 409, body: { code: 'PRODUCT_MISMATCH' } });
    bench.vendor.verdict = { valid: false, code: 'PRODUCT_MISMATCH', reasons: ['PRODUCT_MISMATCH'], enforcement: 'LOCKED' };
    expect(await box.put('OTHER-KEY', '?dry-run=all')).toMatchObject({ status: 409, body: { code: 'PRODUCT_MISMATCH' } });
    expect(asked('/license/validate')[0]?.body).toMatchObject({ productId: 'prd_1' });
    expect(await box.put(await file('prd_1'))).toMatchObject({ status: 200, body: { productId: 'prd_1' } });
  });

  it('is found where it is mounted, by its content, also behind links that are swapped', async () => {
    bench.vendor.terms = { ...bench.vendor.terms, validationMode: 'offline' };
    const path = data('mounted/license.txt');
    const mount = (name: string, text: string) => {
      mkdirSync(data(`mounted/..${name}`), { recursive: true });
      writeFileSync(data(`mounted/..${name}/license.txt`), text);
      symlinkSync(`..${name}`, data('mounted/..next'));
      renameSync(data('mounted/..next'), data('mounted/..data'));
    };
    mkdirSync(data('mounted'));
    symlinkSync('..data/license.txt', path);
    const box = await bench.start({ ...byFile, LICENSE_FILE_PATH: path });
    await box.until(({ problems }) => problems.some(({ code }) => code === 'LICENSE_FILE_MISSING'));
    mount('1', await bench.vendor.licenseFile());
    await pass(5_000);
    expect(await box.until(({ status, problems }) => status === 'active' && problems.length === 0)).toMatchObject({ licenseId: 'lic_1', file: { path, checkedAt: expect.any(String) } });
    const kept = statSync(join(data(), readdirSync(data()).find((name) => name.startsWith('agent.')) ?? '')).mtimeMs;
    for (let n = 0; n < 3; n++) await pass(5_000);
    expect(statSync(join(data(), readdirSync(data()).find((name) => name.startsWith('agent.')) ?? '')).mtimeMs).toBe(kept);

    mount('2', 'not a license at all');
    await pass(5_000);
    expect(await box.until(({ problems }) => problems.length > 0)).toMatchObject({ status: 'active', enforcement: 'FULL', problems: [{ code: 'LICENSE_UNREADABLE', severity: 'error', detail: expect.stringContaining(path) }] });
    expect((await box.ask<string>('GET', '/metrics')).body).toContain('license_problems{code="LICENSE_UNREADABLE"} 1');
    mount('3', await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, id: 'lic_2' } }));
    await pass(5_000);
    await box.until(({ licenseId, problems }) => licenseId === 'lic_2' && problems.length === 0);

    // What was uploaded since counts until the file is another one, also after a restart.
    await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, id: 'lic_3' } }));
    await box.close();
    const again = await bench.start({ ...byFile, LICENSE_FILE_PATH: path });
    await again.until(({ file }) => file?.checkedAt !== null);
    await pass(5_000);
    expect(await again.license()).toMatchObject({ licenseId: 'lic_3' });
  });

  it('that is mounted before it is good is taken when it is, and until then changes nothing', async () => {
    const path = data('license.txt');
    mkdirSync(data());
    const { terms } = bench.vendor;
    writeFileSync(path, await bench.vendor.licenseFile({ license: { ...terms, validationMode: 'offline' } }));
    const box = await bench.start({ ...byFile, LICENSE_FILE_PATH: path });
    await box.until(({ status }) => status === 'active');
    writeFileSync(path, await bench.vendor.licenseFile({ seq: 5, license: { ...terms, validationMode: 'offline', features: { audit: true }, effectiveAt: '2026-07-03T12:00:00.000Z' } }));
    await pass(5_000);
    await box.until(({ problems }) => problems.some(({ code }) => code === 'LICENSE_NOT_YET_EFFECTIVE'));
    await pass(day);
    expect(await box.license()).toMatchObject({ status: 'active', enforcement: 'FULL', features: { sso: true }, problems: [{ code: 'LICENSE_NOT_YET_EFFECTIVE' }] });
    await pass(day);
    await box.until(({ features, problems }) => 'audit' in features && problems.length === 0);
  });

  it('or a key in it, that was refused is tried again, at once by Refresh, and gives way to what is uploaded meanwhile', async () => {
    const path = data('license.txt');
    mkdirSync(data());
    writeFileSync(path, 'OTHER-KEY\n');
    const full = () => (bench.vendor.between = () => problem(409, 'ACTIVATION_LIMIT_EXCEEDED', { limit: 1, used: 1 }));
    full();
    const box = await bench.start({ LICENSE_KEY: '', LICENSE_FILE_PATH: path });
    const tries = () => asked('/license/activate').length;
    await box.until(({ problems }) => problems.some(({ code }) => code === 'ACTIVATION_LIMIT_EXCEEDED'));
    for (let n = 0; n < 3; n++) await pass(5_000);
    expect(tries()).toBe(1);
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ body: { status: 'none', problems: [{ code: 'ACTIVATION_LIMIT_EXCEEDED' }, { code: 'NO_LICENSE' }] } });
    expect(tries()).toBe(2);
    bench.vendor.mend();
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 200, body: { status: 'active', keyPrefix: 'OTHER-KE', problems: [] } });

    full();
    writeFileSync(path, 'THIRD-KEY');
    await pass(5_000);
    await box.until(({ problems }) => problems.some(({ code }) => code === 'ACTIVATION_LIMIT_EXCEEDED'));
    expect(await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, id: 'lic_2', validationMode: 'offline' } }))).toMatchObject({ status: 200 });
    bench.vendor.mend();
    await pass(10 * 60_000);
    // A key in the file is not even looked at while a seat is being given back.
    await passUntil(box, ({ problems }) => problems.length === 0);
    expect(await box.license()).toMatchObject({ licenseId: 'lic_2', source: 'file' });
  });

  it('that waits for a seat has it after five minutes', async () => {
    const path = data('license.txt');
    mkdirSync(data());
    writeFileSync(path, 'OTHER-KEY');
    bench.vendor.between = () => problem(409, 'ACTIVATION_LIMIT_EXCEEDED', { limit: 1, used: 1 });
    const box = await bench.start({ LICENSE_KEY: '', LICENSE_FILE_PATH: path });
    await box.until(({ problems }) => problems.some(({ code }) => code === 'ACTIVATION_LIMIT_EXCEEDED'));
    // What was refused leaves first: meanwhile no key is looked at.
    await until(() => states().length === 0);
    bench.vendor.mend();
    await pass(5 * 60_000);
    await box.until(({ keyPrefix, problems }) => keyPrefix === 'OTHER-KE' && problems.length === 0);
  });

  it('whose grace is over is too old, and nobody has refused it', async () => {
    const { terms } = bench.vendor;
    const old = await bench.vendor.licenseFile({ license: { ...terms, offlineGraceDays: 2 } });
    const box = await bench.start(byFile);
    expect(await box.put(old, '?dry-run=all')).toMatchObject({ status: 200, body: { applied: false, offlineGraceEndsAt: '2026-07-03T12:00:00.000Z' } });
    await pass(3 * day);
    for (const query of ['', '?dry-run=all']) {
      expect(await box.put(old, query)).toMatchObject({ status: 422, body: { code: 'LICENSE_FILE_TOO_OLD', title: 'The license file is too old', offlineGraceEndsAt: '2026-07-03T12:00:00.000Z', issuedAt: '2026-07-01T12:00:00.000Z' } });
    }
    expect(await box.put(await bench.vendor.licenseFile({ seq: 5 }))).toMatchObject({ status: 200, body: { source: 'file', offlineGraceEndsAt: '2026-07-18T12:00:00.000Z', code: 'IN_OFFLINE_GRACE', detail: expect.stringContaining('No license server is asked') } });
    await pass(14 * day);
    expect(await box.license()).toMatchObject({ status: 'locked', detail: expect.stringContaining('too old') });
  });

  it('of the license that is there by key is previewed as what it adds', async () => {
    const box = await activated();
    const before = await box.license();
    const files = states();
    const file = await bench.vendor.licenseFile({ seq: 5, customer: { id: 'cus_1', name: 'Ada' }, license: { ...bench.vendor.terms, features: { audit: true } } });
    const { status, body } = await box.put(file, '?dry-run=all');
    expect([status, body]).toEqual([200, { ...before, applied: false, customer: 'Ada', features: { audit: true }, usage: before.usage.slice(0, 1), activeActivations: null, server: { ...before.server, connected: false } }]);
    expect(await box.license()).toEqual(before);
    expect(states()).toEqual(files);
    expect(asked('/license/activate')).toHaveLength(1);
    expect((await box.put(file)).body).toMatchObject({ source: 'key', customer: 'Ada', features: { audit: true } });
  });

  it('of the license that is there by key adds to it', async () => {
    const box = await activated();
    bench.vendor.cut();
    await pass(14 * day);
    await box.until(({ enforcement }) => enforcement === 'LOCKED');
    expect(await box.put(await bench.vendor.offlineFile({ fingerprint: 'machine-1' }))).toMatchObject({ status: 200, body: { enforcement: 'WARN', source: 'key', activationId: 'act_1' } });
    expect(await box.put(await bench.vendor.offlineFile({ fingerprint: 'machine-2' }))).toMatchObject({ status: 422, body: { reason: 'WRONG_FINGERPRINT' } });
  });

  it('of a trial is good for as long as it says, from the first time that it was installed here', async () => {
    const box = await bench.start(byFile);
    const trial = await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline', trial: { days: 30 } } });
    const other = await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, id: 'lic_2', validationMode: 'offline' } });
    expect(await box.put(trial)).toMatchObject({ status: 200, body: { freeTrial: true, type: 'trial', daysRemaining: 30, expirationDate: '2026-07-31T12:00:00.000Z' } });
    await pass(29 * day);
    expect(await box.put(other)).toMatchObject({ status: 200 });
    expect(await box.put(trial)).toMatchObject({ status: 200, body: { daysRemaining: 1 } });
    await pass(day);
    expect(await box.license()).toMatchObject({ status: 'expired', enforcement: 'READ_ONLY', runtimeState: 'restricted', daysRemaining: 0 });
    expect(await box.enforcement()).toEqual({ enforcement: 'READ_ONLY', reasons: ['EXPIRED'], graceEndsAt: null });
    await box.close();
    const again = await bench.start(byFile);
    expect(await again.license()).toMatchObject({ status: 'expired' });
    expect(await again.put(trial)).toMatchObject({ status: 403, body: { code: 'LICENSE_EXPIRED' } });
    expect(await again.put(other)).toMatchObject({ status: 200, body: { enforcement: 'FULL' } });
  });

  it('of a trial that was seen while the clock was ahead begins when a server has said what time it is', async () => {
    const trial = await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, id: 'lic_2', validationMode: 'offline', trial: { days: 30 } } });
    let ahead = 3650 * day;
    bench.clock.wall += ahead;
    bench.vendor.now = () => bench.clock.wall - ahead;
    const box = await bench.start({ LICENSE_KEY: '' });
    expect(await box.put(trial)).toMatchObject({ status: 200, body: { daysRemaining: 30, expirationDate: '2036-07-28T12:00:00.000Z' } });
    bench.clock.wall -= ahead;
    ahead = 0;
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 200, body: { source: 'key', now: '2026-07-01T12:00:00.000Z' } });
    await pass(10 * day);
    expect(await box.put(trial, '?dry-run=all')).toMatchObject({ status: 200, body: { daysRemaining: 20 } });
    expect(await box.put(trial)).toMatchObject({ status: 200, body: { daysRemaining: 20, expirationDate: '2026-07-31T12:00:00.000Z' } });
  });

  it('tells of a clock that was set back until it is right again', async () => {
    const box = await bench.start(byFile);
    await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline' } }));
    bench.clock.wall -= hour;
    await pass(60_000);
    await box.until(({ problems }) => problems.some(({ code }) => code === 'CLOCK_SET_BACK'));
    await pass(60_000);
    expect(await box.problems()).toEqual(['CLOCK_SET_BACK']);
    bench.clock.wall += hour;
    await pass(60_000);
    await box.until(({ problems }) => problems.length === 0);
  });

  it('names its gravest problem first', async () => {
    const box = await bench.start(byFile);
    await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline', expiresAt: '2026-07-02T00:00:00.000Z' } }));
    bench.clock.wall -= hour;
    await pass(60_000);
    await box.until(({ problems }) => problems.some(({ code }) => code === 'CLOCK_SET_BACK'));
    await pass(day);
    expect((await box.license()).problems).toMatchObject([{ code: 'EXPIRED', severity: 'error' }, { code: 'CLOCK_SET_BACK', severity: 'warning' }]);
  });

  it('has its quota watched here: over it, a week of grace, then read only, until fewer are used or a bigger license comes', async () => {
    const box = await bench.start(byFile);
    const cores = (limit: number, seq = 4) => bench.vendor.licenseFile({ seq, license: { ...bench.vendor.terms, validationMode: 'offline', quotas: [{ meter: 'max_dp_cores', limit }] } });
    const use = (value: number) => box.ask('POST', '/api/usage', { meter: 'max_dp_cores', value });
    await box.put(await cores(8));
    expect(await use(12)).toMatchObject({ status: 200, body: { accepted: 1, queued: 0 } });
    await use(3);
    expect(await box.license()).toMatchObject({ runtimeState: 'normal', usage: [{ meter: 'max_dp_cores', limit: 8, used: 12, remaining: 0 }, {}] });
    await pass(12 * hour);
    expect(await box.license()).toMatchObject({ runtimeState: 'dp_core_exceeded', enforcement: 'WARN', status: 'grace', graceEndsAt: '2026-07-09T00:00:00.000Z', problems: [{ code: 'QUOTA_EXCEEDED', severity: 'warning' }] });
    for (let n = 0; n < 7; n++) {
      await use(9);
      await pass(day);
    }
    expect(await box.license()).toMatchObject({ runtimeState: 'restricted', enforcement: 'READ_ONLY', reasons: ['RESTRICTED'] });
    expect(await box.put(await cores(16, 5))).toMatchObject({ status: 200, body: { runtimeState: 'normal', enforcement: 'FULL' } });
  });

  it('is not freed of its quota by silence, nor by what it says late in which order, but by a license without it', async () => {
    const box = await bench.start(byFile);
    const put = async (seq: number, quotas: object[]) => box.put(await bench.vendor.licenseFile({ seq, license: { ...bench.vendor.terms, validationMode: 'offline', quotas: quotas as [] } }));
    const quotas = [{ meter: 'max_dp_cores', limit: 8 }];
    await put(4, quotas);
    await box.ask('POST', '/api/usage', { meter: 'max_dp_cores', value: 12 });
    await pass(7.5 * day);
    expect(await box.enforcement()).toMatchObject({ enforcement: 'READ_ONLY', reasons: ['RESTRICTED'] });
    const records = [3, 12, 3].map((value, n) => ({ meter: 'max_dp_cores', value, at: `2026-07-08T1${n}:00:00Z` }));
    expect(await box.ask('POST', '/api/usage', { records })).toMatchObject({ status: 200, body: { accepted: 3 } });
    expect(await box.enforcement()).toMatchObject({ reasons: ['RESTRICTED'] });
    await put(5, []);
    await pass(60_000);
    await put(6, quotas);
    expect(await box.license()).toMatchObject({ enforcement: 'FULL', usage: [{ state: 'normal', lastPeak: 12 }, {}] });
  });

  it('is compared day by day with readings that come at once, in whatever order', async () => {
    const box = await bench.start(byFile);
    await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline', quotas: [{ meter: 'max_dp_cores', limit: 8 }] } }));
    await box.ask('POST', '/api/usage', { meter: 'max_dp_cores', value: 12 });
    await pass(7 * day);
    const records = [['07T10', 3], ['05T12', 3], ['07T11', 12], ['07T12', 3], ['05T10', 2]].map(([hours, value]) => ({ meter: 'max_dp_cores', value, at: `2026-07-${hours}:00:00Z` }));
    expect(await box.ask('POST', '/api/usage', { records })).toMatchObject({ status: 200, body: { accepted: 5 } });
    expect((await box.license()).usage).toMatchObject([{ lastPeak: 12, state: 'exceeded', graceEndsAt: '2026-07-15T12:00:00.000Z' }, {}]);
  });

  it('is there again, and not freed of its quota, after a start with roots that know nothing of the license', async () => {
    const box = await bench.start(byFile);
    await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline', quotas: [{ meter: 'max_dp_cores', limit: 8 }] } }));
    await box.ask('POST', '/api/usage', { meter: 'max_dp_cores', value: 12 });
    await pass(8 * day);
    await box.close();
    const { roots } = await Vendor.open(bench.clock);
    const other = await bench.start({ ...byFile, KEYLEDGER_ROOT_PUBLIC_KEY: JSON.stringify({ roots }) });
    await pass(60_000);
    await other.close();
    expect(await (await bench.start(byFile)).enforcement()).toMatchObject({ enforcement: 'READ_ONLY', reasons: ['RESTRICTED'] });
  });
});

describe('Counters of a license by file', () => {
  it('are kept over a restart, each id once, and what is left of a feature is told', async () => {
    const box = await bench.start(byFile);
    const { terms } = bench.vendor;
    await box.put(await bench.vendor.licenseFile({ license: { ...terms, validationMode: 'offline', features: { reports: { limit: 5, per: 'day' } }, quotas: [{ meter: 'pages', limit: 100, per: 'month' }] } }));
    const records = [{ id: 'a', meter: 'pages', value: 30 }, { id: 'b', meter: 'pages', value: 31, at: '2026-06-30T23:00:00Z' }, { meter: 'reports', value: 2 }, { meter: 'reports', value: 1 }, { id: 'a', meter: 'pages', value: 30 }];
    expect(await box.ask('POST', '/api/usage', { records })).toMatchObject({ status: 200, body: { accepted: 4, duplicates: 1, queued: 0 } });
    await box.close();
    const again = await bench.start(byFile);
    expect(await again.ask('POST', '/api/usage', records[0])).toMatchObject({ status: 200, body: { accepted: 0, duplicates: 1 } });
    expect(await again.license()).toMatchObject({
      features: { reports: { limit: 5, per: 'day', used: 3, remaining: 2 } },
      usage: [{ meter: 'pages', limit: 100, used: 30, remaining: 70, per: 'month', state: 'normal' }, { meter: 'reports', limit: 5, used: 3, remaining: 2, per: 'day', state: 'normal' }],
    });
    expect((await again.ask('GET', '/api/features/reports')).body).toMatchObject({ limit: 5, used: 3, remaining: 2 });
    await again.ask('POST', '/api/usage', { meter: 'pages', value: 71 });
    await pass(12 * hour);
    expect(await again.license()).toMatchObject({ enforcement: 'WARN', reasons: ['QUOTA_EXCEEDED'], graceEndsAt: '2026-07-09T00:00:00.000Z', usage: [{ used: 101, state: 'exceeded' }, { used: 0, remaining: 5 }] });
    await pass(60_000);
    await pass(7 * day);
    expect(await again.enforcement()).toMatchObject({ enforcement: 'READ_ONLY', reasons: ['RESTRICTED'] });
  });
});

describe('Usage of a license by file', () => {
  it('is counted whatever a meter is called, and a reading in its own day', async () => {
    const box = await bench.start(byFile);
    const quotas = [{ meter: 'constructor', limit: 8 }, { meter: '__proto__', limit: 8 }, { meter: 'toString', limit: 8, per: 'month' as const }, { meter: 'valueOf', limit: 8 }];
    expect(await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline', features: {}, quotas } }))).toMatchObject({ status: 200 });
    const records = [...quotas.slice(0, 3).map(({ meter }) => ({ meter, value: 5 })), { meter: 'constructor', value: 7, at: '2026-06-30T23:00:00Z' }, { meter: 'constructor', value: 9, at: '2026-06-29T23:00:00Z' }];
    expect(await box.ask('POST', '/api/usage', { records })).toMatchObject({ status: 200, body: { accepted: 5 } });
    await box.close();
    expect((await (await bench.start(byFile)).license()).usage).toMatchObject([{ used: 7, lastPeak: 7 }, { used: 5, lastPeak: null }, { used: 5, state: 'normal' }, { used: null }]);
  });

  it('goes to the key that takes its place meanwhile', async () => {
    const activating = held('/license/activate');
    const box = await bench.start({ LICENSE_KEY: '' }, { fetch: activating.fetch });
    await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, id: 'lic_2', validationMode: 'offline' } }));
    const put = box.put('OTHER-KEY');
    await activating.reached;
    const used = box.ask('POST', '/api/usage', { id: 'r1', meter: 'cores', value: 5 });
    await settled();
    activating.goOn();
    expect(await put).toMatchObject({ status: 200, body: { source: 'key' } });
    expect(await used).toMatchObject({ status: 200, body: { accepted: 1, duplicates: 0 } });
    await until(() => asked('/license/usage').length === 1);
    expect(asked('/license/usage')[0]?.body).toMatchObject({ licenseKey: 'OTHER-KEY', records: [{ id: 'r1' }] });
  });

  it('is refused where it was given back meanwhile', async () => {
    const activating = held('/license/activate');
    const box = await bench.start({ LICENSE_KEY: '' }, { fetch: activating.fetch });
    await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline' } }));
    bench.vendor.between = (path) => (path === '/license/activate' ? problem(403, 'LICENSE_SUSPENDED') : undefined);
    const waiting = [box.put('OTHER-KEY')];
    await activating.reached;
    waiting.push(box.ask('POST', '/api/license/deactivate'));
    await settled();
    waiting.push(box.ask('POST', '/api/usage', { meter: 'cores', value: 5 }));
    await settled();
    activating.goOn();
    expect((await Promise.all(waiting)).map(({ status, body }) => [status, body['code']])).toEqual([[403, 'LICENSE_SUSPENDED'], [200, 'NOT_ACTIVATED'], [409, 'NO_LICENSE']]);
  });
});

describe('The folder', () => {
  it('is for its owner only, and shows neither the key nor the machine', async () => {
    await activated();
    await settled();
    expect(statSync(data()).mode & 0o777).toBe(0o700);
    for (const name of readdirSync(data())) {
      expect([name, statSync(join(data(), name)).mode & 0o777]).toEqual([name, 0o600]);
      if (name.startsWith('agent.')) expect(readFileSync(join(data(), name), 'utf8')).not.toMatch(/KEY-1|machine-1/);
      expect(readFileSync(join(data(), name), 'utf8')).not.toMatch('KEY-1');
    }
  });

  it('that was copied to another machine is not used there, and the machine that it is of does not notice', async () => {
    const box = await activated();
    await box.close();
    cpSync(data(), data('copy'), { recursive: true });
    const before = readdirSync(data('copy')).map((name) => readFileSync(join(data('copy'), name), 'utf8'));
    const copy = await bench.start({ ...byFile, AGENT_DATA_DIR: data('copy') }, { fingerprint: 'machine-2' });
    expect(await copy.license()).toMatchObject({ status: 'none', enforcement: 'LOCKED', problems: [{ code: 'STATE_OF_ANOTHER_MACHINE', severity: 'error' }, { code: 'NO_LICENSE' }] });
    // It may have a license of its own.
    expect(await copy.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, id: 'lic_9', validationMode: 'offline' } }))).toMatchObject({ status: 200, body: { problems: [] } });
    await copy.close();
    const after = new Set(readdirSync(data('copy')).map((name) => readFileSync(join(data('copy'), name), 'utf8')));
    expect(before.every((text) => after.has(text))).toBe(true);
    // Even in the very same folder, the first machine has all that it had.
    const original = await bench.start({ AGENT_DATA_DIR: data('copy') });
    expect(await original.license()).toMatchObject({ status: 'active', licenseId: 'lic_1', activationId: 'act_1', problems: [] });
  });

  it('of a machine that was cloned shows at the next contact, and only one of the two goes on', async () => {
    const box = await activated();
    await until(() => asked('/heartbeat').length === 1);
    cpSync(data(), data('clone'), { recursive: true });
    const clone = await bench.start({ AGENT_DATA_DIR: data('clone') });
    await until(() => asked('/heartbeat').length >= 2);
    await pass(2 * hour);
    await pass(2 * hour);
    const problems = await Promise.all([box.problems(), clone.problems()]);
    expect(problems.flat()).toContain('STATE_CLONED');
  });

  it.each([['cut off', (text: string) => text.slice(0, -20)], ['flipped', (text: string) => text.slice(0, 60) + (text[60] === 'A' ? 'B' : 'A') + text.slice(61)], ['empty', () => '']])('that is damaged (%s) is told of, and made anew with what the server says', async (_name, damage) => {
    for (const part of ['agent.', 'license-']) {
      const box = await activated();
      await box.close();
      const name = readdirSync(data()).find((file) => file.startsWith(part)) ?? '';
      writeFileSync(join(data(), name), damage(readFileSync(join(data(), name), 'utf8')));
      const again = await bench.start();
      const license = await again.until(({ status }) => status === 'active');
      expect(license).toMatchObject({ activationId: 'act_1', enforcement: 'FULL' });
      const told = bench.logged.map(({ details }) => (details as { code?: string }).code);
      expect(told).toContain('STATE_DAMAGED');
      expect(told).not.toContain('STATE_CLONED');
      expect(states()).toHaveLength(1);
      await again.close();
      rmSync(data(), { recursive: true });
      bench.logged.length = 0;
      bench.vendor = await (await import('@keyledger/sdk/contract')).Vendor.open(bench.clock);
    }
  });

  it('that lost the state of a license by key says so until it has it again', async () => {
    const box = await activated();
    await box.close();
    rmSync(join(data(), readdirSync(data()).find((name) => name.startsWith('license-')) ?? ''));
    bench.vendor.cut();
    const again = await bench.start();
    await again.until(({ problems }) => problems.some(({ code }) => code === 'NO_OUTBOUND_ACCESS'));
    expect(await again.problems()).toContain('STATE_DAMAGED');
    bench.vendor.mend();
    await passUntil(again, ({ status, problems }) => status === 'active' && problems.length === 0);
    expect(await again.license()).toMatchObject({ activationId: 'act_1' });
  });

  it('that cannot be written stops nothing, and takes nothing new', async () => {
    const box = await activated();
    await settled();
    rmSync(data(), { recursive: true });
    writeFileSync(data(), 'in the way');
    expect(await box.ask('POST', '/api/usage', { meter: 'm', value: 1 })).toMatchObject({ status: 503, headers: expect.anything(), body: { code: 'STORAGE_FAILED' } });
    bench.vendor.terms = { ...bench.vendor.terms, id: 'lic_2' };
    expect(await box.put('OTHER-KEY')).toMatchObject({ status: 503, body: { code: 'STORAGE_FAILED' } });
    expect(await box.license()).toMatchObject({ licenseId: 'lic_1', keyPrefix: 'KEY-1', enforcement: 'FULL', usageQueued: 0 });
    rmSync(data());
  });

  it('that had no room says so for as long as that is so, and until then nothing is taken that would be lost', async () => {
    const box = await activated();
    const file = (seq: number, name: string) => bench.vendor.licenseFile({ seq, customer: { id: 'cus_1', name } });
    expect(await box.put(await file(5, 'Ada'))).toMatchObject({ status: 200, body: { customer: 'Ada' } });
    await settled();
    const full = () => {
      rmSync(data(), { recursive: true });
      writeFileSync(data(), 'in the way');
    };
    const use = async () => (await box.ask('POST', '/api/usage', { meter: 'm', value: 1 })).status;
    full();
    expect([await use(), await box.problems()]).toEqual([503, ['STORAGE_FAILED']]);
    rmSync(data());
    expect([await use(), await box.problems()]).toEqual([200, []]);
    await settled();
    full();
    expect(await box.put(await file(6, 'Bob'))).toMatchObject({ status: 503, body: { code: 'STORAGE_FAILED' } });
    expect(await box.license()).toMatchObject({ customer: 'Ada', problems: [{ code: 'STORAGE_FAILED' }] });
    rmSync(data());
    await pass(60_000);
    await box.until(({ problems }) => problems.length === 0);
  });

  it.each([['while it ran', false], ['while it did not', true]])('has no time in it until there is a license: a clock that was ahead, and was put right %s, does no harm', async (_name, isStopped) => {
    const year = await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline', expiresAt: '2027-07-01T12:00:00.000Z' } });
    bench.clock.wall += 800 * day;
    const before = await bench.start(byFile);
    expect(await before.put(year)).toMatchObject({ status: 403, body: { code: 'LICENSE_EXPIRED' } });
    if (isStopped) await before.close();
    bench.clock.wall -= 800 * day;
    const box = isStopped ? await bench.start(byFile) : before;
    expect(await box.put(year)).toMatchObject({ status: 200, body: { daysRemaining: 365 } });
    await box.close();
    rmSync(join(data(), readdirSync(data()).find((name) => name.startsWith('license-')) ?? ''));
    expect(await (await bench.start(byFile)).license()).toMatchObject({ status: 'active', daysRemaining: 365 });
  });

  it('that lost the state of a license file has the file itself, and the time', async () => {
    const box = await bench.start(byFile);
    await box.put(await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline', expiresAt: '2026-07-03T00:00:00.000Z' } }));
    await pass(day + 2 * hour);
    await pass(60_000);
    await box.close();
    rmSync(join(data(), readdirSync(data()).find((name) => name.startsWith('license-')) ?? ''));
    bench.clock.wall -= 30 * day;
    const again = await bench.start(byFile);
    expect(await again.license()).toMatchObject({ status: 'active', daysRemaining: 1 });
    expect(await again.problems()).not.toContain('STATE_DAMAGED');
  });
});

describe('What a file is worth', () => {
  it('the agent says like the SDK, whatever was crafted', async () => {
    const { pins, vectors } = await import('@keyledger/license-file/contract');
    const files = vectors.filter(({ type }) => type === 'license-file' || type === 'offline-file');
    bench.clock.wall = Date.parse(files[0]?.expected.now ?? '');
    const box = await bench.start({ ...byFile, KEYLEDGER_ROOT_PUBLIC_KEY: JSON.stringify({ roots: pins.roots }) });
    const own = { ...pins, now: files[0]?.expected.now, fingerprint: 'machine-1' };
    let accepted = 0;
    for (const { name, text } of files) {
      const result = await License.verifyOffline(text, own);
      const { status, body } = await box.put(text, '?dry-run=all');
      const isFile = /^[\uFEFF\s]*(-----BEGIN KEYLEDGER LICENSE|\{)/.test(text);
      if (result.ok && result.judgement.valid) accepted++;
      // What does not even look like a file is taken for a key, of which nobody can be asked here; too much of anything is no license.
      const expected = result.ok ? (result.judgement.valid ? 'ACCEPTED' : 'INVALID') : isFile && text.trim() ? result.reason : 'NO FILE';
      const said = status === 200 ? 'ACCEPTED' : body['code'] === 'LICENSE_FILE_REFUSED' ? body['reason'] : ['NO_SERVER', 'LICENSE_UNREADABLE', 'VALIDATION_FAILED'].includes(String(body['code'])) ? 'NO FILE' : 'INVALID';
      expect([name, said]).toEqual([name, expected]);
    }
    expect(accepted).toBeGreaterThan(2);
    expect(files.length).toBeGreaterThan(60);
    for (const { text, type } of vectors.filter(({ type }) => type === 'lease' || type === 'verdict')) {
      for (const query of ['', '?dry-run=all']) expect([type, (await box.put(text || ' ', query)).status]).not.toEqual([type, 200]);
    }
    expect(await box.license()).toMatchObject({ status: 'none' });
  });
});
