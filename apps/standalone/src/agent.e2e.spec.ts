import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { InstanceView } from '@keyledger/contracts';
import { agentConfig, startAgent, type Surroundings } from '@keyledger/license-agent';
import { Box } from '@keyledger/license-agent/contract';
import { TestClock } from '@keyledger/sdk/contract';
import { stopwatch, until } from '@keyledger/testing';
import { FaultProxy } from '@keyledger/testing/fault-proxy';
import { offer, Product, sell, type Client, type Sold } from '@keyledger/testing/process';

const hour = 3_600_000;
const day = 24 * hour;

let product: Product;
let root: Client;
let folder: string;
let proxy: FaultProxy;
const boxes = new Set<Box>();
beforeAll(async () => {
  product = await Product.start();
  ({ root } = product);
  folder = mkdtempSync(join(tmpdir(), 'keyledger-agent-e2e-'));
  proxy = await FaultProxy.open(product.url);
});
afterAll(async () => {
  await Promise.all([...boxes].map((box) => box.close()));
  await proxy.close();
  rmSync(folder, { recursive: true, force: true });
  await product.stop();
});

/** Begins at the real time, and goes on as the test says. */
class BoxClock extends TestClock {
  override wall = Date.now();

  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return ms <= 600 ? Promise.resolve() : super.sleep(ms, signal);
  }
}

const quiet: Surroundings['log'] = { info: () => undefined, warn: () => undefined };
const terms = { activationLimit: 1, validationMode: 'heartbeat', heartbeatIntervalSeconds: 3600, features: { sso: true }, quotas: [{ meter: 'max_dp_cores', limit: 8 }], expiry: { value: 1, unit: 'years' } };
const ordered = async (): Promise<Sold> => sell(root, (await offer(root, terms)).plan.id);
const act = (license: Sold, action: string, body: object = {}) => root.post(`/licenses/${license.id}/${action}`, body);
const instances = (license: Sold) => root.all<InstanceView & { lease?: { seq: number } }>(`/licenses/${license.id}/activations`);

/** An agent on a machine of its own, behind a network that can be cut. */
async function anAgent(machine: string, env: NodeJS.ProcessEnv, clock: TestClock): Promise<Box> {
  const roots = await product.app.get('/.well-known/keyledger-root.json');
  const config = agentConfig({
    AGENT_PORT: '0', AGENT_DATA_DIR: join(folder, machine), AGENT_TOKEN: 'token', KEYLEDGER_SERVER_URL: proxy.url, KEYLEDGER_ROOT_PUBLIC_KEY: JSON.stringify(roots), LICENSE_MACHINE_ID: machine, ...env,
  });
  const box = new Box(await startAgent(config, { clock, log: quiet }), () => boxes.delete(box));
  boxes.add(box);
  return box;
}
/** Up to two hours pass until it is so: more than from any heartbeat to the next. */
async function passUntil(clock: TestClock, box: Box, isSo: Parameters<Box['until']>[0]): Promise<void> {
  for (let n = 0; n < 40; n++) {
    const found = await box.until(isSo, 100).catch(() => undefined);
    if (found) return;
    clock.pass(2 * hour / 40);
  }
  await box.until(isSo);
}

describe('A license agent', () => {
  it('activates what was ordered, lives through an outage of thirteen days and 23 hours, locks after fourteen, comes back, moves to new hardware, and is locked by a revocation at once', async () => {
    const [license, clock] = [await ordered(), new BoxClock()];
    const box = await anAgent('box-1', { LICENSE_KEY: license.key }, clock);
    const first = await box.until(({ status, server }) => status === 'active' && server.connected);
    expect(first).toMatchObject({ source: 'key', enforcement: 'FULL', maxDpCores: 8, features: { sso: true }, daysRemaining: 365, validationMode: 'heartbeat', activeActivations: 1, activationLimit: 1 });
    expect(await instances(license)).toMatchObject([{ id: first.activationId, fingerprint: first.hardwareId, installationId: first.installationId }]);

    expect(await box.ask('POST', '/api/usage', { id: 'r-1', meter: 'max_dp_cores', value: 5 })).toMatchObject({ status: 200 });
    await box.until(({ usageQueued }) => usageQueued === 0);
    clock.pass(90 * 60_000);
    await box.until(({ server }) => server.reachable === true);
    for (let tries = 0; tries < 100 && Number((await instances(license))[0]?.lease?.seq) < 2; tries++) clock.pass(60_000);
    expect(Number((await instances(license))[0]?.lease?.seq)).toBeGreaterThanOrEqual(2);

    proxy.cut();
    const endsAt = Date.parse(String((await box.license()).offlineGraceEndsAt));
    const passTo = async (ms: number) => clock.pass(ms - Date.parse((await box.license()).now));
    await passTo(endsAt - 4 * hour);
    await passUntil(clock, box, ({ server }) => server.reachable === false);
    await passTo(endsAt - hour);
    const left = await box.license();
    expect(left).toMatchObject({ enforcement: 'WARN', status: 'grace', runtimeState: 'normal', problems: [{ code: 'IN_OFFLINE_GRACE' }, { code: 'NO_OUTBOUND_ACCESS' }] });
    expect(left.offlineGraceSeconds).toBeLessThanOrEqual(3600);
    expect(await box.ask('POST', '/api/license/refresh')).toMatchObject({ status: 502, body: { code: 'NO_OUTBOUND_ACCESS' } });
    // The clock is set back, and the agent started anew: that lengthens nothing.
    clock.wall -= 10 * day;
    await box.close();
    const again = await anAgent('box-1', { LICENSE_KEY: license.key }, clock);
    expect(await again.license()).toMatchObject({ enforcement: expect.stringMatching(/FULL|WARN/) });
    clock.pass(hour);
    await again.until(({ enforcement }) => enforcement === 'LOCKED');
    // That answer may be some milliseconds old.
    expect(await until(() => again.enforcement(), ({ enforcement }) => enforcement === 'LOCKED')).toMatchObject({ reasons: ['HEARTBEAT_OVERDUE'] });

    await proxy.pass();
    await passUntil(clock, again, ({ enforcement, server }) => enforcement === 'FULL' && server.connected);
    // What was counted as time in the dark is put right by the first signed answer.
    expect(Math.abs(Date.parse((await again.license()).now) - Date.now())).toBeLessThan(hour);

    const replacement = await anAgent('box-2', { LICENSE_KEY: license.key }, new BoxClock());
    expect(await replacement.until(({ problems }) => problems.some(({ code }) => /LIMIT|FINGERPRINT/.test(code)))).toMatchObject({ status: 'none', enforcement: 'LOCKED' });
    await act(license, 'rebind', { fingerprint: (await replacement.license()).hardwareId, reason: 'new hardware' });
    await again.until(({ enforcement }) => enforcement === 'LOCKED');
    expect(await replacement.put(license.key)).toMatchObject({ status: 200, body: { status: 'active', activationId: first.activationId } });
    await replacement.until(({ server }) => server.connected);

    await act(license, 'revoke', { reason: 'charged back' });
    const took = stopwatch();
    await replacement.until(({ enforcement }) => enforcement === 'LOCKED');
    expect(took()).toBeLessThan(1_000);
    expect(await replacement.enforcement()).toMatchObject({ enforcement: 'LOCKED', reasons: expect.arrayContaining(['REVOKED']) });
    expect(await replacement.put(license.key)).toMatchObject({ status: 403, body: { code: 'LICENSE_REVOKED' } });
  }, 120_000);

  it('tells a clone from the box at the next contact', async () => {
    const [license, clock] = [await ordered(), new BoxClock()];
    const box = await anAgent('cloned', { LICENSE_KEY: license.key }, clock);
    await box.until(({ status, server }) => status === 'active' && server.connected);
    for (let tries = 0; tries < 100 && !((await instances(license))[0]?.lease?.seq); tries++) await box.until(() => true);
    cpSync(join(folder, 'cloned'), join(folder, 'clone'), { recursive: true });
    const clone = await anAgent('cloned', { AGENT_DATA_DIR: join(folder, 'clone'), LICENSE_KEY: license.key }, clock);
    const isTold = async () => [...(await box.problems()), ...(await clone.problems())].includes('STATE_CLONED');
    for (let tries = 0; tries < 40 && !(await isTold()); tries++) {
      clock.pass(90 * 60_000);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(await isTold()).toBe(true);
    // The very same folder on another machine is nothing.
    cpSync(join(folder, 'cloned'), join(folder, 'copied'), { recursive: true });
    const copy = await anAgent('another machine', { AGENT_DATA_DIR: join(folder, 'copied') }, clock);
    expect(await copy.license()).toMatchObject({ enforcement: 'LOCKED', problems: [{ code: 'STATE_OF_ANOTHER_MACHINE' }, { code: 'NO_LICENSE' }] });
  }, 60_000);

  it('needs nobody for a license file, and says for how long it is good', async () => {
    const license = await ordered();
    const { content } = await root.post<{ content: string }>(`/licenses/${license.id}/license-file`);
    const box = await anAgent('air-gapped', { KEYLEDGER_SERVER_URL: '' }, new BoxClock());
    expect(await box.put(content, '?dry-run=all')).toMatchObject({ status: 200, body: { applied: false, enforcement: 'WARN', code: 'IN_OFFLINE_GRACE', offlineGraceEndsAt: expect.any(String) } });
    expect(await box.put(content)).toMatchObject({ status: 200, body: { source: 'file', status: 'grace', customer: expect.stringMatching(/^Customer/), expirationDate: license.expiresAt } });
    expect(await instances(license)).toEqual([]);
  });
});
