import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { TestClock, Vendor } from '@keyledger/sdk/contract';
import { describeInChromium } from '@keyledger/servers/chromium';
import jsQR from 'jsqr';
import type { Page } from 'playwright-core';
import type { LicenseAnswer } from './api.ts';
import { agentConfig, startAgent } from './index.ts';
import { requestOf } from './request.ts';

const at = (days: number, from = Date.now()) => new Date(from + days * 86_400_000).toISOString();
const meter = (name: string, limit: number, used: number, more: Partial<LicenseAnswer['usage'][number]> = {}): LicenseAnswer['usage'][number] =>
  ({ meter: name, limit, used, remaining: Math.max(0, limit - used), per: null, lastPeak: null, state: 'normal', graceEndsAt: null, ...more });

/** A license in good health; a state is what differs from it. */
const licensed = (more: Partial<LicenseAnswer> = {}): LicenseAnswer => ({
  serialNumber: 'KL-2026-004711', customer: 'Northwind Logistics', effectiveDate: at(-200), expirationDate: at(164.5), maxDpCores: 16,
  features: { api_endpoints: 250, executions_per_day: { limit: 10_000, per: 'day', used: 1834, remaining: 8166 }, reporting: true, mocks: true, ci_cd: true, workflows: 20, sso: true },
  deploymentId: 'dep-eu-central-1', freeTrial: false, runtimeState: 'normal', enforcement: 'FULL', status: 'active', type: 'time-based', mode: 'on-premises', daysRemaining: 165,
  usage: [meter('max_dp_cores', 16, 11), meter('servers', 8, 5), meter('users', 250, 212)], lastValidationAt: at(-0.002), validationMode: 'heartbeat', deploymentMode: 'on-premises',
  activationId: 'act_01JD3Q9ZK4T8W2B7N6M5H1R0XC', installationId: 'f3c1c1f2-7a50-4a44-9d8e-2f4be94a4f1d', hardwareId: '9f2d1c0b8a7e6f5d4c3b2a190817263544536271809fae1dbc2c3b4a5f6e7d8c',
  source: 'key', keyPrefix: 'KL7Q-M2XD', licenseId: 'lic_01JD3Q9ZK4T8W2B7N6M5H1R0XA', productId: 'prd_01JD3Q9ZK4T8W2B7N6M5H1R0XB', code: 'VALID', reasons: [], detail: 'License valid', graceEndsAt: null,
  offlineGraceEndsAt: at(14), offlineGraceSeconds: 14 * 86_400, activationLimit: 5, activeActivations: 2,
  server: { url: 'https://licenses.vendor.example', environment: 'production', proxy: 'http://proxy.corp.example:3128', noProxy: 'localhost,.corp.example', reachable: true, connected: true },
  file: null, problems: [], messages: [], usageQueued: 0, access: 'full', applied: true, agentVersion: '0.1.0', now: at(0), ...more,
});

const offline = { ...licensed().server, reachable: false, connected: false };
const readOnly = { enforcement: 'READ_ONLY', runtimeState: 'restricted' } as const;
const states = {
  normal: () => licensed(),
  exceeded: () => licensed({
    enforcement: 'WARN', status: 'grace', runtimeState: 'dp_core_exceeded', code: 'QUOTA_EXCEEDED', reasons: ['QUOTA_EXCEEDED'], detail: 'Over quota; within the grace', graceEndsAt: at(4.5),
    usage: [meter('max_dp_cores', 16, 12, { state: 'exceeded', lastPeak: 21, graceEndsAt: at(4.5) }), meter('servers', 8, 5), meter('users', 250, 212)],
  }),
  restricted: () => licensed({
    ...readOnly, status: 'restricted', code: 'RESTRICTED', reasons: ['RESTRICTED'], detail: 'Over quota for longer than the grace: read only',
    usage: [meter('max_dp_cores', 16, 21, { state: 'restricted' }), meter('servers', 8, 5), meter('users', 250, 212)],
  }),
  expired: () => licensed({ ...readOnly, status: 'expired', code: 'EXPIRED', reasons: ['EXPIRED'], detail: 'License Expired', expirationDate: at(-2), daysRemaining: 0 }),
  revoked: () => licensed({ enforcement: 'LOCKED', runtimeState: 'restricted', status: 'revoked', code: 'REVOKED', reasons: ['REVOKED'], detail: 'License Revoked' }),
  'offline grace': () => licensed({ enforcement: 'WARN', status: 'grace', code: 'IN_OFFLINE_GRACE', reasons: ['IN_OFFLINE_GRACE'], detail: 'The license server is not reached; within the grace', lastValidationAt: at(-3), offlineGraceEndsAt: at(10.5), graceEndsAt: at(10.5), server: offline }),
  'a file in its grace': () => licensed({ source: 'file', keyPrefix: null, enforcement: 'WARN', status: 'grace', code: 'IN_OFFLINE_GRACE', reasons: ['IN_OFFLINE_GRACE'], detail: 'No license server is asked: the license file is good for its offline grace', offlineGraceEndsAt: at(10.5), graceEndsAt: at(10.5), server: { ...licensed().server, url: null, reachable: null, connected: false } }),
  'a clock moved back': () => licensed({ problems: [{ code: 'CLOCK_SET_BACK', severity: 'warning', title: 'The clock was set back', detail: 'It is behind what the license server has signed. Dates are reckoned without it.', at: at(0) }] }),
  'a bad file': () => licensed({ problems: [{ code: 'LICENSE_FILE_REFUSED', severity: 'error', title: 'The license file is not accepted', detail: 'The signature does not match', at: at(0) }] }),
  trial: () => licensed({ type: 'trial', freeTrial: true, expirationDate: at(20.5), daysRemaining: 21 }),
  lifetime: () => licensed({ type: 'lifetime', expirationDate: null, daysRemaining: null, usage: [], maxDpCores: null, activationLimit: -1, features: {} }),
  'no license': () => licensed({
    status: 'none', enforcement: 'LOCKED', runtimeState: 'restricted', code: 'NOT_ACTIVATED', reasons: ['NOT_ACTIVATED'], detail: 'Nothing signed has been seen of this license yet', type: null, serialNumber: null, customer: null,
    effectiveDate: null, expirationDate: null, daysRemaining: null, maxDpCores: null, features: {}, usage: [], activationId: null, lastValidationAt: null, validationMode: null, source: null, keyPrefix: null,
    licenseId: null, productId: null, activationLimit: null, activeActivations: null, offlineGraceEndsAt: null, offlineGraceSeconds: null, deploymentMode: null, deploymentId: null,
  }),
} as const satisfies Record<string, () => LicenseAnswer>;

const token = 'a-token-of-the-agent';
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const types = { html: 'text/html; charset=utf-8', css: 'text/css; charset=utf-8', js: 'text/javascript; charset=utf-8', svg: 'image/svg+xml' } as const;
const root = fileURLToPath(new URL('../../..', import.meta.url));
const here = fileURLToPath(new URL('.', import.meta.url));

function assetOf(url: string): { readonly body: Buffer; readonly type: string } | undefined {
  const [, name, kind] = /^\/(?:([a-z]+)\.(html|css|js|svg))?$/.exec(url) ?? [];
  const path = kind === 'js' ? `${here}../dist/page/${name}.js` : `${here}page/${name ?? 'index'}.${kind ?? 'html'}`;
  return /^\/([a-z.]*)$/.test(url) && existsSync(path) ? { body: readFileSync(path), type: types[(kind ?? 'html') as keyof typeof types] } : undefined;
}

/** The agent as the page sees it, in a state that the test sets. */
class FakeAgent {
  license: LicenseAnswer = licensed();
  /** What the next keys are for, by key; others are not found. */
  readonly licenses = new Map<string, LicenseAnswer>();
  /** Answered instead, by "METHOD path". */
  readonly refusals = new Map<string, { readonly status: number; readonly code: string; readonly title: string; readonly detail?: string; readonly [member: string]: unknown }>();
  /** Answers wait for it, with what was true when they were asked for. */
  readonly held = new Map<string, Promise<unknown>>();
  readonly asked: string[] = [];
  readonly served = new Map<string, number>();
  readonly #server: Server = createServer((request, response) => {
    void this.#answer(request).then(({ status, type, body }) => {
      response.writeHead(status, { 'content-type': type, 'content-security-policy': csp, 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' });
      response.end(body);
    });
  });
  port = 0;

  async start(): Promise<void> {
    this.#server.listen(this.port, '127.0.0.1');
    await once(this.#server, 'listening');
    this.port = (this.#server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, 'close');
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/`;
  }

  reset(state: LicenseAnswer): void {
    this.license = state;
    this.licenses.clear();
    this.refusals.clear();
    this.held.clear();
    this.asked.length = 0;
  }

  async #answer(request: IncomingMessage): Promise<{ readonly status: number; readonly type: string; readonly body: string | Buffer }> {
    const { method = '', url = '' } = request;
    const asset = method === 'GET' ? assetOf(url) : undefined;
    if (asset) {
      this.served.set(url, gzipSync(asset.body).length);
      return { status: 200, ...asset };
    }
    const what = `${method} ${url}`;
    this.asked.push(what);
    const problem = (status: number, more: object) => ({ status, type: 'application/problem+json', body: JSON.stringify({ type: 'about:blank', status, ...more }) });
    const answer = (license: LicenseAnswer) => ({ status: 200, type: 'application/json', body: JSON.stringify({ ...license, now: at(0) }) });
    if (request.headers.authorization !== `Bearer ${token}`) return problem(401, { code: 'UNAUTHENTICATED', title: 'The agent token is required' });
    const refusal = this.refusals.get(what);
    if (refusal) return problem(refusal.status, refusal);
    if (what === 'POST /api/license/deactivate') this.license = states['no license']();
    if (what === 'POST /api/license/refresh') this.license = { ...this.license, lastValidationAt: at(0) };
    if (method === 'PUT') {
      const { license } = JSON.parse(Buffer.concat(await request.toArray()).toString()) as { license: string };
      const known = this.licenses.get(license);
      if (!known) return problem(422, { code: 'LICENSE_UNREADABLE', title: 'Neither a license file nor a license key', detail: 'It begins like neither.' });
      await this.held.get(what);
      if (url.endsWith('?dry-run=all')) return answer({ ...known, applied: false });
      this.license = known;
    }
    if (what === 'GET /api/license/request') return { status: 200, type: 'application/json', body: JSON.stringify(requestOf(this.license)) };
    const { license } = this;
    await this.held.get(what);
    return answer(license);
  }
}

const axe = readFileSync(`${root}node_modules/axe-core/axe.min.js`, 'utf8');
type Violations = readonly { readonly id: string; readonly nodes: readonly { readonly target: readonly string[]; readonly failureSummary: string }[] }[];

describeInChromium('The License Management page', (browser) => {
  const agent = new FakeAgent();
  /** All tests share one page, which is opened anew for each; who has a hand on the clock has one of his own. */
  let shared: Page;
  let page: Page;
  let faults: string[];
  let requests: string[];
  /** Of the page. */
  let url: string;

  beforeAll(async () => {
    const { status, stdout } = spawnSync(`${root}node_modules/.bin/tsc`, ['-b', `${here}page`], { encoding: 'utf8' });
    if (status !== 0) throw new Error(stdout);
    await agent.start();
    shared = await newPage();
  }, 60_000);
  afterAll(() => agent.stop());

  beforeEach(() => {
    agent.reset(states.normal());
    [faults, requests, url] = [[], [], agent.url];
  });

  /** What the browser complains of fails the test; that a refused request was refused is no complaint. */
  afterEach(async () => {
    await page.evaluate('sessionStorage.clear(); localStorage.clear()');
    await (page === shared ? page.goto('about:blank') : page.context().close());
    expect(requests.filter((request) => !request.startsWith(url) && request !== 'about:blank' && !request.startsWith(`blob:${url}`))).toEqual([]);
    expect(faults.filter((text) => !/^Failed to load resource: (the server responded with a status of|net::ERR_CONNECTION_REFUSED)/.test(text))).toEqual([]);
  });

  async function newPage(): Promise<Page> {
    const context = await browser().newContext({ locale: 'en-GB', timezoneId: 'UTC', permissions: ['clipboard-read', 'clipboard-write'] });
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    page.on('console', (message) => void (message.type() === 'error' || message.type() === 'warning' ? faults.push(message.text()) : 0));
    page.on('pageerror', (error) => void faults.push(error.message));
    page.on('request', (request) => void requests.push(request.url()));
    return page;
  }

  interface Circumstances {
    readonly width?: number;
    readonly height?: number;
    readonly reducedMotion?: 'reduce' | 'no-preference';
    /** Time passes when the test says so, too. */
    readonly clock?: boolean;
  }

  async function open({ width = 1280, height = 900, reducedMotion = 'no-preference', clock = false }: Circumstances = {}): Promise<void> {
    page = clock ? await newPage() : shared;
    if (clock) await page.clock.install();
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: 'light', reducedMotion });
    await page.goto(url);
  }

  async function signIn(circumstances: Circumstances = {}): Promise<void> {
    await open(circumstances);
    await page.getByLabel('Agent token').fill(token);
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'License details' }).waitFor();
  }

  async function refresh(): Promise<void> {
    await Promise.all([page.waitForResponse(/refresh$/), page.getByRole('button', { name: 'Refresh' }).click()]);
    await page.locator('[data-action="refresh"]:not([aria-busy])').waitFor();
  }

  const field = (name: string) => page.locator('dl.facts > div').filter({ has: page.locator(`dt:text-is("${name}")`) }).locator('dd');
  const banner = () => page.locator('#banners');
  const announced = (text: string) => page.locator('[role="status"]').filter({ hasText: text }).waitFor({ state: 'attached' });
  const focused = () => page.evaluate<string>('document.activeElement.id || document.activeElement.textContent.trim()');

  async function accessible(): Promise<void> {
    if (await page.evaluate("typeof axe === 'undefined'")) await page.evaluate(axe);
    const violations = await page.evaluate<Violations>("axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa'] }).then(({ violations }) => violations)");
    expect(violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id} ${target.join(' ')}: ${failureSummary}`))).toEqual([]);
  }

  describe('shows', () => {
    it('everything that a license is, with its labels to the letter', async () => {
      await signIn();
      expect(await page.title()).toBe('License Management');
      const text = await page.innerText('body');
      for (const label of [
        'Settings', 'Licensing & Users', 'License Management', 'Manage your API Platform license and features.', 'Deactivate license', 'Refresh',
        'Current license status', 'Status', 'Type', 'Mode', 'Expires', 'Days remaining',
        'Usage metrics', 'Servers allocated', 'Users vs limit', 'Validation mode', 'Activation limits', 'Active activations', 'Runtime state', 'Core quota',
        'Available features', 'API endpoints', 'Executions per day', 'Reporting', 'Mocks', 'CI/CD', 'Analytics', 'Workflows', 'Execution',
        'License details', 'Last validation timestamp', 'Deployment mode', 'Activation ID', 'Installation ID', 'Hardware ID', 'Copy all for support',
        'Change license', 'License key', '+ Update license', 'Troubleshooting', 'No outbound access', 'Wrong deployment mode', 'License expired', 'Activation limit reached',
        'Server and proxy', 'Server URL', 'Proxy', 'KEYLEDGER_SERVER_URL', 'HTTPS_PROXY', 'NO_PROXY', 'localhost,.corp.example', 'Recommended workflow', 'Related',
      ]) expect(text).toContain(label);
      const shown = async (name: string) => (await field(name).innerText()).split('\n')[0];
      expect(await shown('Status')).toBe('Active');
      expect(await shown('Type')).toBe('Time-based');
      expect(await shown('Mode')).toBe('On-premises');
      expect(await shown('Expires')).toBe(new Intl.DateTimeFormat('en-GB', { dateStyle: 'long', timeZone: 'UTC' }).format(new Date(agent.license.expirationDate ?? '')));
      expect(await shown('Days remaining')).toBe('165');
      expect(await shown('Runtime state')).toBe('Normal');
      expect(await shown('Core quota')).toBe('16 DP cores');
      expect(await shown('Validation mode')).toBe('Heartbeat');
      expect(await shown('Activation limits')).toBe('5');
      expect((await page.locator('#meters li').allInnerTexts()).map((row) => row.split('\n').slice(0, 2))).toEqual([['Servers allocated', '5 of 8'], ['Users vs limit', '212 of 250'], ['DP cores', '11 of 16'], ['Active activations', '2 of 5']]);
      expect(await page.locator('#features li').allInnerTexts()).toEqual([
        'API endpoints\nUp to 250', 'Executions per day\n10,000 per day, 1,834 used', 'Reporting\nIncluded', 'Mocks\nIncluded', 'CI/CD\nIncluded', 'Analytics\nNot included', 'Workflows\nUp to 20', 'Execution\nNot included', 'SSO\nIncluded',
      ]);
      expect(await banner().innerText()).toBe('');
      expect(await page.evaluate("[...document.querySelectorAll('.bar i')].map((bar) => 100 * bar.offsetWidth / bar.parentElement.offsetWidth)")).toEqual([62.5, 84.8, 68.75, 40].map((share) => expect.closeTo(share, 0)));
    });

    it('what there is to know of every state, once', async () => {
      await signIn();
      for (const [name, status, texts] of [
        ['trial', 'Active', ['License expires in 21 days']],
        ['exceeded', 'Active, in grace', ['DP Core Exceeded: 5 days left', '21 DP cores; 16 are licensed']],
        ['restricted', 'Restricted', ['Restricted', 'reads continue, writes blocked, you can still upload a license']],
        ['expired', 'Expired', ['License Expired', 'reads continue, writes blocked, you can still upload a license']],
        ['revoked', 'Revoked', ['Revoked', 'the product is locked, you can still upload a license']],
        ['offline grace', 'Active, in grace', ['Offline grace: 11 days left', 'last heard of 3 days ago']],
        ['a file in its grace', 'Active, in grace', ['License file: 11 days left', 'No license server is asked']],
        ['a clock moved back', 'Active', ['The clock was set back']],
        ['a bad file', 'Active', ['The license file is not accepted', 'The signature does not match. The license in use was not changed.']],
        ['lifetime', 'Active', []],
      ] as const) {
        agent.license = states[name]();
        if (name !== 'offline grace') await refresh();
        else await page.reload();
        const rows = banner().locator('.banner');
        await field('Status').getByText(status, { exact: true }).waitFor();
        expect({ name, banners: await rows.count() }).toEqual({ name, banners: Math.min(1, texts.length) });
        for (const text of texts) expect(await banner().innerText()).toContain(text);
        if (name === 'trial') expect(await field('Type').innerText()).toBe('Trial');
      }
      expect([await field('Expires').innerText(), await field('Days remaining').innerText(), await field('Activation limits').innerText()]).toEqual(['Never\nA lifetime license', 'No end', 'Unlimited']);
    });

    it('a reminder that grows with its gravity, 30, 14 and 7 days before', async () => {
      await signIn();
      const tones: (string | null)[] = [];
      for (const days of [31, 30, 15, 14, 8, 7, 1]) {
        agent.license = licensed({ expirationDate: at(days - 0.5), daysRemaining: days });
        await refresh();
        tones.push(await page.evaluate<string | null>("document.querySelector('.banner')?.className ?? null"));
      }
      expect(tones).toEqual([null, 'banner info', 'banner info', 'banner warn', 'banner warn', 'banner stop', 'banner stop']);
      expect(await banner().innerText()).toContain('License expires in 1 day\n');
    });

    it('the one thing to do where there is no license', async () => {
      agent.license = states['no license']();
      await signIn();
      expect(await page.getByRole('heading', { name: 'No license installed' }).isVisible()).toBe(true);
      expect(await focused()).toBe('key');
      expect(await page.getByRole('button', { name: 'Deactivate license' }).count()).toBe(0);
      expect(await page.locator('#details').innerText()).toContain(agent.license.hardwareId);
      expect(await page.getByText('Current license status').isVisible()).toBe(false);
    });

    it('the last known state, its age and why, while the license server or the agent cannot be reached', async () => {
      agent.license = states['offline grace']();
      await signIn({ clock: true });
      expect(await page.locator('[data-freshness]').innerText()).toMatch(/^Last known state, from 3 days ago \(.+\): the license server cannot be reached\.$/);
      expect(await page.getByText('Applies now').count()).toBe(1);
      agent.license = states.normal();
      await refresh();
      expect(await page.getByText('Applies now').count()).toBe(0);
      await agent.stop();
      try {
        await page.keyboard.press('r');
        await banner().getByText('The license agent cannot be reached').waitFor();
        await page.clock.runFor(80_000);
        await page.getByText(/^Last known state, from 1 minute ago .+: the license agent cannot be reached\.$/).waitFor();
        expect(await field('Status').innerText()).toBe('Active');
      } finally {
        await agent.start();
      }
      await page.clock.runFor(16_000);
      await announced('The license agent answers again. Status: Active.');
      expect(await banner().innerText()).toBe('');
    });

    it('why a refresh failed, beside what the agent knows, and even before it ever knew', async () => {
      agent.refusals.set('POST /api/license/refresh', { status: 502, code: 'NO_OUTBOUND_ACCESS', title: 'The license server cannot be reached' });
      await signIn();
      await page.getByRole('button', { name: 'Refresh' }).click();
      await announced('Not refreshed. No outbound access.');
      expect(await page.locator('details[open] summary').innerText()).toContain('No outbound access');
      expect(await banner().innerText()).toMatch(/^Not refreshed: No outbound access\n/);
      expect(await page.locator('[data-freshness]').innerText()).toMatch(/^Up to date/);
      agent.refusals.clear();
      await refresh();
      expect(await banner().innerText()).toBe('');
      agent.refusals.set('GET /api/license', { status: 500, code: 'INTERNAL', title: 'Something went wrong' });
      await page.reload();
      await page.getByText(/^Last known state, from .+: something went wrong\.$/).waitFor();
      expect(await field('Status').innerText()).toBe('Active');
      await page.evaluate("sessionStorage.setItem('license-agent.last', '{}')");
      await page.reload();
      await page.getByText('Nothing is known yet.').waitFor();
      expect(await banner().innerText()).toContain('Something went wrong');
      expect(await page.getByLabel('License key').isVisible()).toBe(true);
    });
  });

  describe('asks for the token', () => {
    it('once, keeps it in this tab only, and asks again when it is not accepted', async () => {
      await open();
      expect(agent.asked).toEqual([]);
      expect(await focused()).toBe('token');
      for (const wrong of ['wrong', 'naïve – token']) {
        await page.getByLabel('Agent token').fill(wrong);
        await page.getByRole('button', { name: 'Continue' }).click();
        await page.getByRole('alert').getByText('The token was not accepted').waitFor();
      }
      await page.getByLabel('Agent token').fill(token);
      await page.getByRole('button', { name: 'Continue' }).click();
      await announced('Status: Active.');
      await page.reload();
      await field('Status').getByText('Active').waitFor();
      expect(await page.evaluate('[sessionStorage.length, localStorage.length, document.cookie]')).toEqual([2, 0, '']);
      agent.refusals.set('POST /api/license/refresh', { status: 401, code: 'UNAUTHENTICATED', title: 'The agent token is required' });
      await page.keyboard.press('r');
      await page.getByRole('alert').getByText('The token was not accepted').waitFor();
      expect(await page.evaluate("sessionStorage.getItem('license-agent.token')")).toBeNull();
      expect(await page.locator('#page').isVisible()).toBe(false);
    });

    it('and with that of a viewer shows the same, with nothing to do', async () => {
      agent.license = { ...states.exceeded(), access: 'viewer' };
      await signIn();
      expect(await field('Status').innerText()).toBe('Active, in grace');
      expect(await page.locator('#details').innerText()).toContain(agent.license.hardwareId);
      for (const state of [states.exceeded(), states['no license']()]) {
        agent.license = { ...state, access: 'viewer' };
        await page.reload();
        await page.getByText('Your token is for looking').waitFor();
        const buttons = (await page.getByRole('button').allInnerTexts()).map((text) => text.trim()).filter(Boolean);
        expect(buttons).toEqual(['Copy all for support', 'Forget the token']);
        expect(await page.locator('textarea:visible, input:visible').count()).toBe(0);
        await page.keyboard.press('r');
        await page.keyboard.press('u');
        await accessible();
      }
      expect(new Set(agent.asked)).toEqual(new Set(['GET /api/license']));
    });

    it('after it was told to forget it', async () => {
      await signIn();
      await page.getByRole('button', { name: 'Forget the token' }).click();
      expect(await focused()).toBe('token');
      expect(await page.evaluate('sessionStorage.length')).toBe(0);
    });
  });

  describe('changes the license', () => {
    const bigger = () => licensed({ maxDpCores: 32, usage: [meter('max_dp_cores', 32, 11)], expirationDate: at(530), daysRemaining: 530, features: { api_endpoints: 500, analytics: true }, keyPrefix: 'KL9X-N5RT' });

    it('with the keyboard alone: compare, activate, refresh, deactivate', async () => {
      agent.licenses.set('KL9X-N5RT-AAAA-BBBB', bigger());
      await signIn();
      await page.keyboard.press('u');
      expect(await focused()).toBe('key');
      await page.keyboard.type('KL9X-N5RT-AAAA-BBBB');
      await page.keyboard.press('Enter');
      const dialog = page.getByRole('dialog', { name: 'Review the new license' });
      await dialog.waitFor();
      expect(await focused()).toBe('preview-title');
      const rows = await page.evaluate<string[]>('[...document.querySelectorAll("#diff tr")].map((row) => [...row.cells].map((cell) => cell.textContent).join(" | "))');
      expect(rows).toEqual(expect.arrayContaining(['Max DP cores | 16 DP cores | 32 DP cores', 'API endpoints | Up to 250 | Up to 500', 'Analytics | Not included | Included', 'Reporting | Included | Not included', 'Servers allocated | 8 | Not limited', 'SSO | Included | Not included', 'Executions per day | 10,000 per day | Not included']));
      expect(rows.join()).not.toContain('Status');
      expect(agent.asked.filter((what) => what.startsWith('PUT'))).toEqual(['PUT /api/license?dry-run=all']);

      await page.keyboard.press('r');
      await page.keyboard.press('Escape');
      expect(await focused()).toBe('key');
      expect(agent.license.maxDpCores).toBe(16);
      expect(agent.asked).not.toContain('POST /api/license/refresh');

      await page.keyboard.press('Enter');
      await dialog.waitFor();
      await page.keyboard.press('Tab');
      await page.keyboard.press('Tab');
      expect(await focused()).toBe('Activate');
      await page.keyboard.press('Enter');
      await announced('License activated. Status: Active.');
      expect(await focused()).toBe('status');
      expect(await field('Core quota').innerText()).toBe('32 DP cores');
      expect(await page.getByLabel('License key').inputValue()).toBe('');

      await page.keyboard.press('r');
      await announced('Refreshed. Status: Active.');
      expect(agent.asked).toContain('POST /api/license/refresh');

      const button = page.getByRole('button', { name: 'Deactivate license' }).first();
      await button.focus();
      await page.keyboard.press('Enter');
      const confirmation = page.getByRole('dialog', { name: 'Deactivate license?' });
      expect(await focused()).toBe('Cancel');
      await page.keyboard.press('Enter');
      await confirmation.waitFor({ state: 'hidden' });
      expect(agent.asked).not.toContain('POST /api/license/deactivate');
      expect(await focused()).toBe('Deactivate license');
      await page.keyboard.press('Enter');
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await announced('License deactivated. Status: No license.');
      expect(await page.getByRole('heading', { name: 'No license installed' }).isVisible()).toBe(true);
      expect(await focused()).toBe('key');
    });

    it('with a file that is chosen or dropped, whose lines stay as they are', async () => {
      const text = '-----BEGIN LICENSE FILE-----\nabc\n-----END LICENSE FILE-----\n';
      agent.licenses.set(text.trim(), bigger());
      await signIn();
      await page.locator('#file').setInputFiles({ name: 'license.txt', mimeType: 'text/plain', buffer: Buffer.from(text) });
      const dialog = page.getByRole('dialog', { name: 'Review the new license' });
      await dialog.waitFor();
      await dialog.getByRole('button', { name: 'Cancel' }).click();
      await page.getByLabel('License key').fill('');
      await page.evaluate(`(() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([${JSON.stringify(text)}], 'license.txt'));
        window.dispatchEvent(new DragEvent('dragover', { dataTransfer, cancelable: true }));
        window.dispatchEvent(new DragEvent('drop', { dataTransfer, cancelable: true }));
      })()`);
      await dialog.getByRole('button', { name: 'Activate', exact: true }).click();
      await announced('License activated.');
      expect(agent.license.maxDpCores).toBe(32);
    });

    it('with what was previewed, whatever is typed or dropped since', async () => {
      agent.licenses.set('KL9X', bigger()).set('KL8Z', licensed({ maxDpCores: 64 }));
      const checked = Promise.withResolvers<void>();
      agent.held.set('PUT /api/license?dry-run=all', checked.promise);
      await signIn();
      await page.getByLabel('License key').fill('KL9X');
      await page.keyboard.press('Enter');
      await page.getByLabel('License key').fill('KL8Z');
      checked.resolve();
      await page.getByRole('dialog', { name: 'Review the new license' }).waitFor();
      await page.evaluate(`(() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(['KL7Y'], 'license.txt'));
        window.dispatchEvent(new DragEvent('drop', { dataTransfer, cancelable: true }));
      })()`);
      await page.getByRole('button', { name: 'Activate', exact: true }).click();
      await announced('License activated.');
      expect(agent.license.maxDpCores).toBe(32);
      expect(agent.asked.filter((what) => what.startsWith('PUT'))).toEqual(['PUT /api/license?dry-run=all', 'PUT /api/license']);
    });

    it('but not one that fails, and says why in words of its own', async () => {
      await signIn();
      const [problem, field] = [page.locator('#key-problem'), page.getByLabel('License key')];
      for (const [refusal, ...texts] of [
        [{ status: 502, code: 'NO_OUTBOUND_ACCESS', title: 'The license server cannot be reached' }, 'No outbound access', 'cannot reach the license server'],
        [{ status: 409, code: 'DEPLOYMENT_MODE_MISMATCH', title: 'The license is for another deployment mode' }, 'Wrong deployment mode', 'issued for another deployment mode'],
        [{ status: 403, code: 'LICENSE_EXPIRED', title: 'License Expired' }, 'License expired', 'passed its expiry date'],
        [{ status: 409, code: 'ACTIVATION_LIMIT_EXCEEDED', title: 'Limit Exceeded', limit: 5, used: 5 }, 'Activation limit reached', '5 of 5 activations are in use'],
        [{ status: 422, code: 'LICENSE_UNREADABLE', title: 'Neither a license file nor a license key', detail: 'It begins like neither.' }, 'Neither a license file nor a license key', 'It begins like neither.'],
      ] as const) {
        agent.refusals.set('PUT /api/license?dry-run=all', refusal);
        await field.fill('KL0');
        await page.getByRole('button', { name: '+ Update license' }).click();
        await problem.getByText(texts[0], { exact: true }).waitFor();
        expect(await problem.innerText()).toContain(texts[1]);
        expect(await problem.innerText()).toContain('The license in use was not changed.');
        expect([await focused(), await field.getAttribute('aria-invalid')]).toEqual(['key', 'true']);
        expect(await page.locator('summary').filter({ hasText: 'Applies now' }).allInnerTexts()).toEqual(refusal.status === 422 ? [] : [expect.stringContaining(texts[0])]);
        await page.keyboard.type('1');
        expect(await problem.isVisible()).toBe(false);
      }
      expect(agent.license.keyPrefix).toBe('KL7Q-M2XD');
    });

    it('and shows it, whatever was asked before and answers only now', async () => {
      agent.licenses.set('KL9X', bigger());
      await signIn({ clock: true });
      const [late, release] = [Promise.withResolvers<void>(), page.waitForResponse((response) => response.request().method() === 'GET' && response.url().endsWith('license'))];
      agent.held.set('GET /api/license', late.promise);
      await Promise.all([page.waitForRequest(/license$/), page.clock.runFor(16_000)]);
      await page.getByLabel('License key').fill('KL9X');
      await page.keyboard.press('Enter');
      await page.getByRole('button', { name: 'Activate', exact: true }).click();
      await page.getByRole('dialog').waitFor({ state: 'hidden' });
      late.resolve();
      await release;
      await page.clock.runFor(1000);
      expect(await field('Core quota').innerText()).toBe('32 DP cores');
    });

    it('not when what was previewed is refused in the end', async () => {
      agent.licenses.set('KL9X', bigger());
      agent.refusals.set('PUT /api/license', { status: 409, code: 'ACTIVATION_LIMIT_EXCEEDED', title: 'Limit Exceeded' });
      await signIn();
      await page.getByLabel('License key').fill('KL9X');
      await page.keyboard.press('Enter');
      await page.getByRole('button', { name: 'Activate', exact: true }).click();
      await page.getByRole('dialog').getByText('Activation limit reached').waitFor();
      expect(await field('Core quota').innerText()).toBe('16 DP cores');
    });
  });

  describe('is for everybody:', () => {
    it.each([1280, 390])('no fault that axe knows of, in light and dark, %d pixels wide', async (width) => {
      const inBoth = async () => {
        for (const colorScheme of ['light', 'dark'] as const) {
          await page.emulateMedia({ colorScheme });
          await accessible();
        }
      };
      agent.license = states.exceeded();
      agent.licenses.set('KL9X', licensed({ maxDpCores: 32 }));
      // Colours fade into each other otherwise.
      await open({ width, reducedMotion: 'reduce' });
      await inBoth();
      await page.getByLabel('Agent token').fill(token);
      await page.keyboard.press('Enter');
      await field('Status').waitFor();
      expect(await page.evaluate('document.documentElement.scrollWidth <= innerWidth')).toBe(true);
      await page.getByRole('button', { name: 'Deactivate license' }).first().click();
      await inBoth();
      await page.keyboard.press('Escape');
      await page.keyboard.press('u');
      await page.keyboard.type('KL0');
      await page.keyboard.press('Enter');
      await page.locator('#key-problem').waitFor();
      await inBoth();
      await page.getByLabel('License key').fill('KL9X');
      await page.keyboard.press('Enter');
      await page.getByRole('dialog').waitFor();
      await inBoth();
      await page.keyboard.press('Escape');
      agent.license = states[width === 390 ? 'no license' : 'expired']();
      await refresh();
      await inBoth();
    });

    it('at 400 % zoom nothing is cut off or lies beside the screen', async () => {
      agent.license = states.exceeded();
      agent.licenses.set('KL9X', licensed({ maxDpCores: 32 }));
      await signIn({ width: 320, height: 256 });
      expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(320);
      await page.getByLabel('License key').fill('KL9X');
      await page.keyboard.press('Enter');
      const box = await page.getByRole('dialog').boundingBox();
      expect(box && box.x >= 0 && box.x + box.width <= 320 && box.y >= 0 && box.y + box.height <= 256).toBe(true);
      await page.getByRole('button', { name: 'Activate', exact: true }).click();
      await announced('License activated.');
    });

    it('keys do nothing while somebody types, with another key held, or when they are switched off', async () => {
      await signIn();
      agent.asked.length = 0;
      await page.getByLabel('License key').focus();
      await page.keyboard.type('ru');
      expect(await page.getByLabel('License key').inputValue()).toBe('ru');
      await page.keyboard.press('Escape');
      expect(await focused()).not.toBe('key');
      await page.keyboard.press('Alt+u');
      await page.getByLabel('Single-key shortcuts').uncheck();
      await page.keyboard.press('u');
      await page.keyboard.press('r');
      expect(await focused()).toBe('shortcuts');
      await page.reload();
      await field('Status').getByText('Active').waitFor();
      await page.keyboard.press('u');
      expect(await focused()).not.toBe('key');
      expect(agent.asked).toEqual(['GET /api/license']);
    });

    it('nothing moves for those who want no motion', async () => {
      await signIn({ reducedMotion: 'reduce' });
      expect(await page.evaluate('document.getAnimations().length + [...document.querySelectorAll("*")].filter((element) => parseFloat(getComputedStyle(element).transitionDuration) > 0).length')).toBe(0);
    });

    it('every value can be copied, one by one or all at once', async () => {
      await signIn();
      await page.getByRole('button', { name: 'Copy Hardware ID' }).click();
      await announced('Hardware ID copied.');
      expect(await page.evaluate('navigator.clipboard.readText()')).toBe(agent.license.hardwareId);
      await page.getByRole('button', { name: 'Copy all for support' }).click();
      await announced('lines copied.');
      const text = await page.evaluate<string>('navigator.clipboard.readText()');
      for (const value of ['Status: active (VALID, FULL)', `Hardware ID: ${agent.license.hardwareId}`, 'Server URL: https://licenses.vendor.example', 'Users vs limit: 212 of 250']) expect(text).toContain(value);
      expect(text).not.toContain(token);
    });

    it('a machine without a network can ask for a license file, by copy or by file', async () => {
      agent.license = states['no license']();
      await signIn();
      await page.getByText('Without a network: request a license file').click();
      await page.getByRole('img', { name: 'QR code of the request' }).waitFor();
      await page.getByRole('button', { name: 'Copy request' }).click();
      await announced('Request copied.');
      const text = await page.evaluate<string>('navigator.clipboard.readText()');
      for (const value of ['License request', `Hardware ID: ${agent.license.hardwareId}`, `Installation ID: ${agent.license.installationId}`]) expect(text.split('\n')).toContain(value);
      const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save as a file' }).click()]);
      expect([download.suggestedFilename(), readFileSync(await download.path(), 'utf8')]).toEqual(['license-request.txt', text]);
      await accessible();
    });

    it('a camera reads the request off the screen, whatever its colours', async () => {
      await signIn({ width: 390 });
      await page.emulateMedia({ colorScheme: 'dark' });
      await page.getByText('Without a network: request a license file').click();
      const picture = page.getByRole('img', { name: 'QR code of the request' });
      await picture.waitFor();
      const shot = `data:image/png;base64,${(await picture.screenshot()).toString('base64')}`;
      const text = await page.locator('#request').innerText();
      await accessible();
      // As it was drawn, seen by somebody who knows nothing of it.
      const camera = await newPage();
      const { seen, width, height } = await camera.evaluate<{ seen: string; width: number; height: number }>(`(async () => {
        const image = new Image();
        image.src = ${JSON.stringify(shot)};
        await image.decode();
        const context = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height }).getContext('2d');
        context.drawImage(image, 0, 0);
        const { data, width, height } = context.getImageData(0, 0, image.width, image.height);
        return { seen: data.filter((_, n) => n % 4 === 0).join(), width, height };
      })()`);
      await camera.context().close();
      const pixels = Uint8ClampedArray.from(seen.split(',').flatMap((grey) => [Number(grey), Number(grey), Number(grey), 255]));
      expect(jsQR.default(pixels, width, height)?.data).toBe(text);
    });

    it('a request that cannot be had is told where it would be, and one that was had stays', async () => {
      await signIn();
      const summary = page.getByText('Without a network: request a license file');
      agent.refusals.set('GET /api/license/request', { status: 500, code: 'INTERNAL', title: 'Something went wrong' });
      await summary.click();
      await page.locator('#request-problem').getByText('Something went wrong').waitFor();
      expect(await page.getByRole('button', { name: 'Copy request' }).isVisible()).toBe(false);
      agent.refusals.clear();
      await summary.click();
      await summary.click();
      await page.getByRole('button', { name: 'Copy request' }).waitFor();
      expect(await page.locator('#request-problem').isVisible()).toBe(false);
    });

    it('text of a license or a server is shown as text', async () => {
      const evil = '<img src=x onerror=document.title=1>';
      agent.license = licensed({ customer: evil, detail: evil, features: { [evil]: true }, mode: evil, messages: [{ id: 'm', text: evil, at: at(0) }], problems: [{ code: 'X', severity: 'error', title: evil, detail: evil, at: at(0) }] });
      await signIn();
      expect(await page.locator('img').count()).toBe(0);
      expect(await banner().innerText()).toContain(evil);
      expect(await page.title()).toBe('License Management');
    });
  });

  it('works over the real agent: no license, a key, no way out, a file, and none again', async () => {
    const clock = new TestClock();
    const vendor = await Vendor.open(clock);
    vendor.terms = { ...vendor.terms, expiresAt: at(20.5, clock.wall), features: { api_endpoints: 250, reporting: true }, quotas: [{ meter: 'max_dp_cores', limit: 16 }] };
    const folder = mkdtempSync(join(tmpdir(), 'license-agent-page-'));
    // Whoever waits before he asks again waits a hundredth of it.
    const time = setInterval(() => clock.pass(1000), 10);
    const running = await startAgent(agentConfig({
      AGENT_PORT: '0', AGENT_DATA_DIR: folder, AGENT_TOKEN: token, AGENT_PRODUCT_NAME: 'Orders & <Co>', AGENT_STYLE: ':root { --lm-radius: 3px; }', HTTPS_PROXY: 'http://somebody:p4ssw0rd@proxy.corp.example:3128',
      KEYLEDGER_SERVER_URL: 'https://licenses.vendor.example', KEYLEDGER_ROOT_PUBLIC_KEY: JSON.stringify(vendor.roots[0]),
    }), { clock, fingerprint: 'f'.repeat(64), fetch: vendor.fetch, log: { info: () => undefined, warn: () => undefined } });
    try {
      url = `${running.url}/`;
      await signIn();
      expect(await page.innerText('header')).toContain('Manage your Orders & <Co> license and features.');
      expect(await page.evaluate("getComputedStyle(document.querySelector('.card')).borderRadius")).toBe('3px');
      expect(await page.getByRole('heading', { name: 'No license installed' }).isVisible()).toBe(true);
      expect(await page.locator('#connection').innerText()).toContain('proxy.corp.example:3128');
      expect(await page.content()).not.toContain('p4ssw0rd');
      const dialog = page.getByRole('dialog', { name: 'Review the new license' });

      await page.keyboard.type('KL7Q-M2XD-8RWT-5KPN');
      await page.keyboard.press('Enter');
      await dialog.getByText('16 DP cores').waitFor();
      expect(vendor.asked.map(({ path }) => path)).not.toContain('/license/activate');
      await dialog.getByRole('button', { name: 'Activate', exact: true }).click();
      await announced('License activated. Status: Active.');
      await banner().getByText('License expires in 21 days').waitFor();
      expect([await field('Days remaining').innerText(), await page.locator('#details').innerText()]).toEqual(['21', expect.stringContaining('act_1')]);

      vendor.cut();
      await page.keyboard.press('r');
      await announced('Not refreshed. No outbound access.');
      expect(await page.locator('details[open] summary').innerText()).toContain('No outbound access');
      expect(await field('Status').innerText()).toMatch(/^Active/);
      expect(await banner().locator('.banner').count()).toBe(2);
      await accessible();

      vendor.terms = { ...vendor.terms, expiresAt: null, quotas: [{ meter: 'max_dp_cores', limit: 32 }] };
      vendor.seq += 1;
      await page.locator('#file').setInputFiles({ name: 'license.txt', mimeType: 'text/plain', buffer: Buffer.from(await vendor.licenseFile({ customer: { id: 'cus_1', name: 'Northwind' } })) });
      await dialog.getByText('32 DP cores').waitFor();
      await dialog.getByRole('button', { name: 'Activate', exact: true }).click();
      await announced('License activated.');
      expect([await field('Expires').innerText(), await field('Core quota').innerText()]).toEqual([expect.stringContaining('Never'), '32 DP cores']);

      vendor.mend();
      await page.getByRole('button', { name: 'Deactivate license' }).first().click();
      await page.getByRole('dialog').getByRole('button', { name: 'Deactivate license' }).click();
      await announced('License deactivated. Status: No license.');
    } finally {
      await running.close();
      clearInterval(time);
      rmSync(folder, { recursive: true });
    }
  });

  it('is small, and needs nobody but the agent', async () => {
    agent.served.clear();
    await signIn();
    expect([...agent.served.keys()].sort()).toEqual(expect.arrayContaining(['/', '/main.js', '/page.css']));
    expect([...agent.served.values()].reduce((sum, size) => sum + size, 0)).toBeLessThan(28 * 1024);
  });
});
