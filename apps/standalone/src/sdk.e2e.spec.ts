import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { License, memoryStore, type LicenseOptions } from '@keyledger/sdk';
import { TestClock } from '@keyledger/sdk/contract';
import { until } from '@keyledger/testing';
import { offer, Product, sell, type Client, type Sold } from '@keyledger/testing/process';

let product: Product;
let root: Client;
let folder: string;
beforeAll(async () => {
  product = await Product.start();
  ({ root } = product);
  folder = mkdtempSync(join(tmpdir(), 'keyledger-sdk-e2e-'));
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await product.stop();
});

const day = 86_400_000;
const roots = async () => (await product.app.get<{ roots: readonly unknown[] }>('/.well-known/keyledger-root.json')).roots;
const terms = { activationLimit: 2, features: { export: true, projects: 10, reports: { limit: 3, per: 'day' } }, expiry: { value: 1, unit: 'years' } };
const licensed = async (more: object = {}): Promise<Sold> => sell(root, (await offer(root, { ...terms, ...more })).plan.id);
const act = (license: Sold, action: string, body: object = {}) => root.post(`/licenses/${license.id}/${action}`, body);

/** Begins at the real time, and goes on as the test says. */
function aClock(): TestClock {
  const clock = new TestClock();
  clock.wall = Date.now();
  return clock;
}

const open_: License[] = [];
afterEach(() => Promise.all(open_.splice(0).map((license) => license.dispose())));
async function open({ key }: Sold, options: Partial<LicenseOptions> = {}): Promise<License> {
  // Wherever the product is after a restart, and whichever gateway it is.
  const fetch_: LicenseOptions['fetch'] = (url, init) => fetch(url.replace('http://product', product.url), init);
  const license = await License.open({ key, server: 'http://product', roots: await pinned, fingerprint: `machine-${crypto.randomUUID()}`, clock: aClock(), fetch: fetch_, attempts: 1, ...options });
  open_.push(license);
  return license;
}
let pinned: Promise<readonly unknown[]>;
beforeAll(() => {
  pinned = roots();
});

describe('The SDK', () => {
  it('runs like its README says, as it is published', async () => {
    const readme = readFileSync(new URL('../../../libs/sdk/README.md', import.meta.url), 'utf8');
    const example = /<!-- executed by \S+ -->\n```js\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
    const node = (args: readonly string[], env = {}) => {
      const { stdout, stderr, status } = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8', env: { PATH: process.env['PATH'], ...env } });
      return { status, stderr, stdout };
    };
    const packed = join(folder, 'node_modules/@keyledger/sdk');
    for (const time of ['made', 'made anew']) expect([time, node([fileURLToPath(new URL('../../../libs/sdk/pack.mjs', import.meta.url)), packed])]).toEqual([time, { stdout: '', stderr: '', status: 0 }]);
    const { exports } = JSON.parse(readFileSync(join(packed, 'package.json'), 'utf8')) as { exports: object };
    expect(new Set(readme.match(/@keyledger\/sdk\b[/\w]*/g))).toEqual(new Set(Object.keys(exports).map((path) => `@keyledger/sdk${path.slice(1)}`)));
    writeFileSync(join(folder, 'example.mjs'), example);
    const sold = await licensed({ activationLimit: 1 });
    const shown = await (await fetch(`${product.url}/.well-known/keyledger-root.json`)).text();
    const env = { LICENSE_KEY: sold.key, LICENSE_SERVER_URL: product.url, LICENSE_ROOTS: shown, LICENSE_STATE: join(folder, 'state/license'), LICENSE_MACHINE_ID: 'web-1' };
    const printed = (left: number) => ({ status: 0, stderr: '', stdout: `true VALID active 365\ntrue 10\na report, ${left} left\n` });
    expect(node(['example.mjs'], env)).toEqual(printed(2));
    expect(node(['example.mjs'], env)).toEqual(printed(1));
    const another = { LICENSE_STATE: join(folder, 'state/another'), LICENSE_MACHINE_ID: 'web-2' };
    expect(node(['example.mjs'], { ...env, ...another })).toEqual({ status: 1, stderr: expect.stringContaining('ACTIVATION_LIMIT_EXCEEDED'), stdout: '' });
    // With the server away, who has a seat goes on and who never had one stops.
    const away = { LICENSE_SERVER_URL: 'http://127.0.0.1:9' };
    expect(node(['example.mjs'], { ...env, ...away })).toMatchObject({ status: 0, stdout: expect.stringMatching(/^true IN_OFFLINE_GRACE grace 365\ntrue 10\na report, 0 left\n$/) });
    expect(node(['example.mjs'], { ...env, ...another, ...away })).toMatchObject({ status: 1, stderr: expect.stringContaining('UNREACHABLE'), stdout: '' });
  });

  it('activates, asks, lives on while the server is gone, and locks after the grace', async () => {
    const license = await open(await licensed());
    const clock = aClock();
    const store = memoryStore();
    const sold = await licensed();
    const box = await open(sold, { clock, store, fingerprint: 'box' });
    expect(await license.activate({ name: 'other' })).toMatchObject({ ok: true, created: true });
    expect(await box.activate({ name: 'box' })).toMatchObject({ ok: true, created: true, judgement: { valid: true, state: 'active' } });
    expect(await box.activate({ name: 'box' })).toMatchObject({ ok: true, created: false });
    expect(await box.validate()).toMatchObject({ valid: true, code: 'VALID', source: 'network', problem: null });
    expect(box.feature('projects')).toMatchObject({ enabled: true, limit: 10 });
    await product.kill9();

    expect(await box.validate()).toMatchObject({ valid: true, code: 'IN_OFFLINE_GRACE', state: 'grace', source: 'cache', problem: { code: 'UNREACHABLE' } });
    clock.pass(13 * day + 23 * 3_600_000);
    const next = await open(sold, { clock, store, fingerprint: 'box' });
    expect(next).toMatchObject({ opened: 'restored' });
    expect(await next.validate()).toMatchObject({ valid: true, state: 'grace' });
    clock.wall -= 10 * day;
    clock.pass(3_600_000);
    expect(await next.validate()).toMatchObject({ valid: false, code: 'HEARTBEAT_OVERDUE', enforcement: 'LOCKED' });

    await product.restart();
    expect(await next.validate()).toMatchObject({ valid: true, code: 'VALID', source: 'network' });
  }, 180_000);

  it('is locked by a revocation, and unlocked by nothing that was said before', async () => {
    const sold = await licensed();
    const recorded: [string, string][] = [];
    const replaying: LicenseOptions['fetch'] = async (url, init) => {
      const response = await fetch(url.replace('http://product', product.url), init);
      const text = await response.text();
      recorded.push([new URL(url).pathname, text]);
      return new Response(text, { status: response.status, headers: response.headers });
    };
    const [store, clock, fingerprint] = [memoryStore(), aClock(), 'recorded'];
    const box = await open(sold, { fetch: replaying, store, clock, fingerprint });
    await box.activate();
    expect(await box.heartbeat.beat()).toMatchObject({ ok: true });
    expect(await box.validate()).toMatchObject({ valid: true });
    const before = String(await store.read());
    await act(sold, 'suspend');
    expect(await box.heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: false, code: 'SUSPENDED', enforcement: 'LOCKED' } });
    await act(sold, 'unsuspend');
    expect(await box.heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: true, code: 'VALID' } });
    await act(sold, 'revoke');
    expect(await box.validate()).toMatchObject({ valid: false, code: 'REVOKED', enforcement: 'LOCKED', source: 'network' });
    await box.dispose();

    const played = await open(sold, {
      store, clock, fingerprint,
      fetch: (url) => Promise.resolve(new Response(recorded.find(([path]) => path === new URL(url).pathname)?.[1] ?? '', { status: 200 })),
    });
    expect(await played.validate()).toMatchObject({ valid: false, code: 'REVOKED', problem: { code: 'UNTRUSTED_ANSWER' } });
    await played.activate();
    await played.heartbeat.beat();
    expect(played.judgement()).toMatchObject({ valid: false, code: 'REVOKED' });

    // A state from before knows nothing of it, until the first contact.
    const restored = await open(sold, { store: memoryStore(before), clock, fingerprint });
    expect(restored.judgement()).toMatchObject({ valid: true });
    const conflict = jest.fn();
    restored.on('conflict', conflict);
    expect(await restored.heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: false, code: 'REVOKED' } });
    expect(conflict).toHaveBeenCalledTimes(1);
  });

  it('sends the heartbeats that a license wants, and comes back from a silence', async () => {
    const sold = await licensed({ validationMode: 'heartbeat', offlineGraceDays: 7 });
    const box = await open(sold);
    expect(await box.activate()).toMatchObject({ ok: true });
    expect(await box.heartbeat.beat()).toMatchObject({ ok: true, nextInMs: expect.any(Number), judgement: { valid: true } });
    await root.post(`/licenses/${sold.id}/directives`, { kind: 'message', payload: { text: 'hello' } });
    const told = jest.fn();
    box.on('directive', told);
    await box.heartbeat.beat();
    await box.heartbeat.beat();
    expect(told).toHaveBeenCalledTimes(1);
    expect(told).toHaveBeenCalledWith(expect.objectContaining({ kind: 'message', payload: { text: 'hello' } }));
    expect(await box.deactivate()).toEqual({ ok: true });
    expect(await box.validate()).toMatchObject({ source: 'network' });
  });

  it('takes a floating seat anew that it has lost, as soon as there is one', async () => {
    const sold = await licensed({ seats: 'floating', activationLimit: 1 });
    const [box, other] = [await open(sold), await open(sold)];
    const clock = aClock();
    const late = await open(sold, { clock, fingerprint: 'late' });
    await late.activate({ name: 'late' });
    const lost = late.instanceId;
    await root.delete(`/licenses/${sold.id}/activations/${lost}`);
    expect(await box.activate()).toMatchObject({ ok: true });
    expect(await other.activate()).toMatchObject({ ok: false, code: 'ACTIVATION_LIMIT_EXCEEDED' });
    late.heartbeat.start();
    await until(() => late.judgement().code === 'INSTANCE_NOT_FOUND');
    expect(late.quota('reports').tryConsume()).toBe(false);
    expect(await box.deactivate()).toEqual({ ok: true });
    await until(() => {
      clock.pass(60_000);
      return late.judgement().valid && late.instanceId !== lost;
    });
    expect(await late.heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: true } });
    expect(await late.deactivate()).toEqual({ ok: true });
  });

  it('counts what is used by all instances', async () => {
    const sold = await licensed();
    const [one, two] = [await open(sold), await open(sold)];
    for (const license of [one, two]) await license.activate();
    expect([one.quota('reports').tryConsume(), one.quota('reports').tryConsume()]).toEqual([true, true]);
    expect(await one.reportUsage()).toEqual({ ok: true, accepted: 1 });
    await two.validate();
    expect(two.feature('reports')).toMatchObject({ limit: 3, used: 2, remaining: 1 });
    expect([two.quota('reports').tryConsume(), two.quota('reports').tryConsume()]).toEqual([true, false]);
  });

  it('goes by files where nobody can be asked', async () => {
    const sold = await licensed();
    const { content: text } = await root.post<{ content: string }>(`/licenses/${sold.id}/license-file`);
    expect(await License.verifyOffline(text, { roots: await pinned })).toMatchObject({ ok: true, type: 'license-file', judgement: { valid: true, daysRemaining: 365 } });
    const alone = await open(sold, { key: undefined, server: undefined });
    expect(await alone.install(text)).toMatchObject({ ok: true, judgement: { valid: true } });
    expect(alone.feature('export').enabled).toBe(true);
    await act(sold, 'suspend');
    const { content: refused } = await root.post<{ content: string }>(`/licenses/${sold.id}/offline-file`);
    expect(await alone.install(refused)).toMatchObject({ ok: true, type: 'offline-file', judgement: { valid: false, code: 'SUSPENDED', enforcement: 'LOCKED' } });
    expect(await alone.install(text)).toMatchObject({ ok: false, reason: 'STALE' });
  });
});
