import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestClock, Vendor } from '@keyledger/sdk/contract';
import type { EnforcementAnswer, LicenseAnswer } from './api.ts';
import { agentConfig } from './config.ts';
import { startAgent, type RunningAgent, type Surroundings } from './run.ts';

/** A retry at once need not wait for the test to move the time. */
class BoxClock extends TestClock {
  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return ms <= 600 ? Promise.resolve() : super.sleep(ms, signal);
  }
}

/** Agents for tests: real servers on folders of their own, whose clock and vendor the test controls. */
export class Bench {
  readonly clock: TestClock = new BoxClock();
  vendor!: Vendor;
  readonly folder = mkdtempSync(join(tmpdir(), 'keyledger-agent-'));
  readonly logged: { readonly details: object; readonly message: string }[] = [];
  readonly #running = new Set<RunningAgent>();

  static async open(): Promise<Bench> {
    const bench = new Bench();
    bench.vendor = await Vendor.open(bench.clock);
    return bench;
  }

  /** By default with the vendor's license key, as `machine-1`. An empty variable is one that is not set. */
  async start(env: NodeJS.ProcessEnv = {}, surroundings: Partial<Surroundings> = {}): Promise<Box> {
    const config = agentConfig({
      AGENT_PORT: '0', AGENT_TOKEN: 'token', AGENT_DATA_DIR: join(this.folder, 'data'), KEYLEDGER_SERVER_URL: 'https://licenses.example', KEYLEDGER_ROOT_PUBLIC_KEY: JSON.stringify({ roots: this.vendor.roots }),
      LICENSE_KEY: this.vendor.licenseKey, ...env,
    });
    const log = (details: object, message: string) => void this.logged.push({ details, message });
    const agent = await startAgent(config, { clock: this.clock, fingerprint: 'machine-1', fetch: this.vendor.fetch, log: { info: log, warn: log }, ...surroundings });
    this.#running.add(agent);
    return new Box(agent, () => this.#running.delete(agent));
  }

  async close(): Promise<void> {
    await Promise.all([...this.#running].map((agent) => agent.close()));
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export interface Answered<T = Record<string, unknown>> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: T;
}

/** An agent, asked over HTTP. */
export class Box {
  constructor(readonly agent: RunningAgent, private readonly ended: () => void) {}

  async ask<T = Record<string, unknown>>(method: string, path: string, body?: unknown, headers: Readonly<Record<string, string>> = {}): Promise<Answered<T>> {
    const response = await fetch(this.agent.url + path, {
      method, headers: { authorization: `Bearer ${this.agent.token}`, ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = /json/.test(response.headers.get('content-type') ?? '');
    return { status: response.status, headers: response.headers, body: (isJson ? JSON.parse(text) : text) as T };
  }

  async license(): Promise<LicenseAnswer> {
    return (await this.ask<LicenseAnswer>('GET', '/api/license')).body;
  }

  async enforcement(): Promise<EnforcementAnswer> {
    return (await this.ask<EnforcementAnswer>('GET', '/api/enforcement')).body;
  }

  put(license: string, query = ''): Promise<Answered> {
    return this.ask('PUT', `/api/license${query}`, { license });
  }

  /** The codes of all problems. */
  async problems(): Promise<string[]> {
    return (await this.license()).problems.map(({ code }) => code);
  }

  /** The first answer for which `isSo`. */
  async until(isSo: (license: LicenseAnswer) => boolean, withinMs = 10_000): Promise<LicenseAnswer> {
    for (const deadline = performance.now() + withinMs; ;) {
      const license = await this.license();
      if (isSo(license)) return license;
      if (performance.now() > deadline) throw new Error(`It never was so: ${JSON.stringify(license)}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  async close(): Promise<void> {
    this.ended();
    await this.agent.close();
  }
}
