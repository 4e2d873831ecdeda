import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { LicenseView, OrderView, PlanView, ProductView, Verdict } from '@keyledger/contracts';
import { Pool, type Dispatcher } from 'undici';

/** How the product runs: in one process on embedded stores, or as a process per service with NATS and PostgreSQL. */
export type Mode = 'standalone' | 'distributed';
/** Set by the Jest project that runs the spec. */
export const mode: Mode = (globalThis as { keyledgerMode?: Mode }).keyledgerMode ?? 'standalone';

/** Servers that outlive the product, and the product's settings for them. */
export interface Stores {
  readonly env: NodeJS.ProcessEnv;
  stop(): Promise<void>;
}
/** The stores of every product that names no EventStoreDB, if the Jest project sets them: see `on-eventstoredb.contract.ts`. */
export const { keyledgerStores } = globalThis as { keyledgerStores?: () => Promise<Stores> };
/** A product keeps all data in files of its data directory. */
export const onFiles = mode === 'standalone' && keyledgerStores === undefined;

/** `KEYLEDGER_ROUNDS=10`: ten times as many rounds as by default, for longer runs. */
export const roundsOf = (byDefault: number): number => Math.ceil(byDefault * Number(process.env['KEYLEDGER_ROUNDS'] ?? 1));

/** `KEYLEDGER_PATIENCE=4`: time limits are this many times as long, for a machine busy with other work. */
export const patience = Number(process.env['KEYLEDGER_PATIENCE'] ?? 1);

const commands = {
  standalone: ['dist/standalone.js'],
  distributed: ['apps/distributed/dist/main.js', '--replicas', 'authority=2,activation=3,gateway=2'],
} as const;
const root = fileURLToPath(new URL('../../../', import.meta.url));
const readyWithinMs = 60_000;
/** Compiled code is the same for every product started. */
const compileCache = join(tmpdir(), 'keyledger-e2e-compile-cache');

/** No limits, because tests ask more than customers do; every line of the log, because all of it is searched for secrets. */
const defaults = {
  HOST: '127.0.0.1', PORT: '0', LOG_LEVEL: 'trace', OTEL_SDK_DISABLED: 'true',
  KEYLEDGER_RATE_LIMIT_PER_KEY: '0', KEYLEDGER_RATE_LIMIT_UNKNOWN_KEYS: '0', KEYLEDGER_RATE_LIMIT_PER_API_KEY: '0',
};

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
export type Headers = Readonly<Record<string, string>>;

export interface Answer<T = unknown> {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** Parsed when it is JSON, else the text; undefined when there is none. */
  readonly body: T;
}
/** RFC 9457, as the product answers it. */
export interface Problem {
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly detail: string;
  readonly errors?: readonly { readonly pointer: string; readonly detail: string }[];
  readonly [member: string]: unknown;
}
export interface Listed<T> {
  readonly data: readonly T[];
  readonly page: { readonly next: string | null; readonly total: number | null };
}

/** Calls the product as one caller. After a restart it finds the product at its new address. */
export class Client {
  readonly #product: Product;
  readonly #headers: Headers;

  readonly #gateway: number | undefined;

  constructor(product: Product, headers: Headers, gateway?: number) {
    this.#product = product;
    this.#headers = headers;
    this.#gateway = gateway;
  }

  with(headers: Headers): Client {
    return new Client(this.#product, { ...this.#headers, ...headers }, this.#gateway);
  }

  /** Always through the same gateway of the product. */
  through(gateway: number): Client {
    return new Client(this.#product, this.#headers, gateway);
  }

  in(environment: string): Client {
    return this.with({ 'x-environment': environment });
  }

  get<T>(path: string): Promise<T> {
    return this.#expect('GET', path);
  }

  post<T>(path: string, body?: unknown, headers?: Headers): Promise<T> {
    return this.#expect('POST', path, body, headers);
  }

  put<T>(path: string, body: unknown, headers?: Headers): Promise<T> {
    return this.#expect('PUT', path, body, headers);
  }

  patch<T>(path: string, body: unknown, headers?: Headers): Promise<T> {
    return this.#expect('PATCH', path, body, headers);
  }

  async delete(path: string, body?: unknown, headers?: Headers): Promise<void> {
    await this.#expect('DELETE', path, body, headers);
  }

  /** All pages of a list. */
  async all<T>(path: string): Promise<T[]> {
    const found: T[] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const { data, page }: Listed<T> = await this.get(`${path}${path.includes('?') ? '&' : '?'}limit=100${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
      found.push(...data);
      cursor = page.next;
    }
    return found;
  }

  /** Throws if not refused. */
  async refused(method: Method, path: string, body?: unknown, headers?: Headers): Promise<Problem> {
    const answer = await this.ask<Problem>(method, path, body, headers);
    if (answer.status < 400) throw new Error(`${method} ${path} was not refused but answered ${answer.status}`);
    return answer.body;
  }

  /** Returns any answer. Rejects when none comes. A string body is sent as it is. */
  async ask<T>(method: Method, path: string, body?: unknown, headers: Headers = {}): Promise<Answer<T>> {
    const { statusCode, headers: answered, body: stream } = await this.#product.dispatch({
      method, path,
      headers: { ...this.#headers, ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    }, this.#gateway);
    const text = await stream.text();
    const isJson = /^application\/(problem\+)?json/.test(String(answered['content-type']));
    const parsed: unknown = text === '' ? undefined : isJson ? JSON.parse(text) : text;
    this.#product.secrets.learnFrom(parsed);
    return { status: statusCode, headers: Object.fromEntries(Object.entries(answered).map(([name, value]) => [name, value?.toString()])), body: parsed as T };
  }

  async #expect<T>(method: Method, path: string, body?: unknown, headers?: Headers): Promise<T> {
    for (const deadline = performance.now() + this.#product.patientMs; ;) {
      const answer = await this.ask<T>(method, path, body, headers);
      if (answer.status < 300) return answer.body;
      if (answer.status !== 503 || performance.now() > deadline) throw new Error(`${method} ${path} → ${answer.status} ${JSON.stringify(answer.body)}`);
      await sleep(100);
    }
  }
}

/** The built product as a process of its own (or as several), on a fresh data directory. Requests go to its gateways in turn. */
export class Product {
  readonly dataDir: string;
  readonly rootKey = `root-key-of-the-tests-${crypto.randomUUID()}`;
  readonly secrets = new Secrets();
  /** How long clients that expect an answer repeat a request when none comes. */
  patientMs = 0;
  /** The root key, which reaches every environment. */
  readonly root: Client = new Client(this, { authorization: `Bearer ${this.rootKey}` });
  /** Customers' software: no API key. */
  readonly app: Client = new Client(this, {});
  /** The settings that name its stores, for specs that read them. */
  readonly stores: NodeJS.ProcessEnv;
  readonly #command: (typeof commands)[Mode];
  readonly #env: NodeJS.ProcessEnv;
  readonly #stopStores: () => void | Promise<void>;
  readonly #printed: Buffer[] = [];
  #child: ChildProcess | undefined;
  #pools: readonly Pool[] = [];
  #turn = 0;
  /** Of all gateways. */
  urls: readonly string[] = [];

  static async start(env: NodeJS.ProcessEnv = {}, as: Mode = mode): Promise<Product> {
    if (![commands[as][0], 'dist/standalone.js'].every((path) => existsSync(join(root, path)))) throw new Error('The programs are missing: build them first (npm run build)');
    const elsewhere = env['EVENTSTORE_URL'] ? undefined : await keyledgerStores?.();
    const product = new Product({ ...elsewhere?.env, ...env }, as, () => elsewhere?.stop());
    await product.restart().catch(async (error: unknown) => {
      await elsewhere?.stop();
      throw error;
    });
    return product;
  }

  private constructor(env: NodeJS.ProcessEnv, as: Mode, stopStores: () => void | Promise<void>) {
    this.#stopStores = stopStores;
    this.#command = commands[as];
    this.dataDir = mkdtempSync(join(tmpdir(), 'keyledger-e2e-'));
    this.secrets.add(this.rootKey);
    const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(KEYLEDGER_|OTEL_|NODE_OPTIONS$|JEST_)/.test(name)));
    this.#env = { ...inherited, ...defaults, NODE_COMPILE_CACHE: compileCache, TMPDIR: this.dataDir, KEYLEDGER_DATA_DIR: this.dataDir, KEYLEDGER_ROOT_API_KEY: this.rootKey, ...env };
    this.stores = Object.fromEntries(Object.entries(this.#env).filter(([name]) => /^(KEYLEDGER_DATA_DIR|DATABASE_URL|EVENTSTORE_.*)$/.test(name)));
  }

  /** Of the process started, which may have started others. */
  get pid(): number {
    return this.#child?.pid ?? -1;
  }

  /** Its whole output, over all restarts. */
  get printed(): Buffer {
    return Buffer.concat(this.#printed);
  }

  as(secret: string): Client {
    return new Client(this, { authorization: `Bearer ${secret}` });
  }

  dispatch(request: Dispatcher.RequestOptions, gateway = this.#turn++): Promise<Dispatcher.ResponseData> {
    const pool = this.#pools[gateway % this.#pools.length];
    return pool ? pool.request(request) : Promise.reject(new Error('The product is not running'));
  }

  get url(): string {
    return this.urls[0] ?? '';
  }

  /** Present processes of a service, or of a server started for it (`nats-server`, `postgres`). */
  pidsOf(program: string): readonly number[] {
    const command = new RegExp(`(^|/)${program}(\\.js|[: ]|$)`);
    return descendantsOf(this.#child?.pid).filter(({ args }) => command.test(args)).map(({ pid }) => pid);
  }

  /** The address of each process of a service, as last printed. */
  doorsOf(service: string): readonly string[] {
    const said = this.printed.toString().matchAll(new RegExp(`^(${service}\\.\\d+) \\| .* is ready at ([^\\s,]+)`, 'gm'));
    return [...new Map([...said].map(([, title, url]) => [title, url as string])).values()];
  }

  /** Of the PostgreSQL that it uses. */
  get databaseUrl(): string {
    return this.#env['DATABASE_URL'] ?? [...this.printed.toString().matchAll(/^postgres \| ready at (\S+)/gm)].at(-1)?.[1] ?? '';
  }

  /** Starts it (again) on the same data. Resolves when it says that it is ready; rejects with its output when it does not start. */
  async restart(): Promise<void> {
    if (this.#child) await this.terminate();
    const child = spawn(process.execPath, [...this.#command], { cwd: root, env: this.#env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    const orphan = () => killAll(child);
    process.once('exit', orphan);
    child.once('close', () => process.off('exit', orphan));
    this.urls = await this.#ready(child).catch((error: unknown) => {
      this.#child = undefined;
      throw error;
    });
    this.#pools = this.urls.map((url) => new Pool(url, { connections: 500, pipelining: 1, headersTimeout: 20_000, bodyTimeout: 20_000, keepAliveTimeout: 60_000 }));
  }

  /** Like a power cut, except that the operating system's buffers survive. Requests under way are rejected. */
  kill9(): Promise<void> {
    return this.#end('SIGKILL');
  }

  /** Lets it finish its work. Signalled as by Ctrl-C under npm, which repeats the terminal's signal. */
  async terminate(): Promise<void> {
    const child = this.#child;
    await this.#end('SIGTERM');
    if (child && child.exitCode !== 0) throw new Error(`The product ended with ${child.exitCode ?? child.signalCode}:\n${this.printed}`);
  }

  /** The end of the test: no output may ever have held a secret that the test has seen. */
  async stop(): Promise<void> {
    try {
      await this.terminate();
      const leaks = this.secrets.tracesIn(this.printed);
      if (leaks.length > 0) throw new Error(`The product printed secrets:\n${leaks.join('\n')}`);
    } finally {
      await this.#stopStores();
      rmSync(this.dataDir, { recursive: true, force: true });
    }
  }

  /** Every file of the data directory (or a part of it) as on the disk now. */
  files(under = ''): { readonly path: string; readonly bytes: Buffer }[] {
    const names = readdirSync(join(this.dataDir, under), { recursive: true, withFileTypes: true });
    return names.filter((entry) => entry.isFile()).map(({ parentPath, name }) => {
      const path = join(parentPath, name);
      return { path: path.slice(this.dataDir.length + 1), bytes: readFileSync(path) };
    });
  }

  async #ready(child: ChildProcess): Promise<readonly string[]> {
    const { promise, resolve, reject } = Promise.withResolvers<readonly string[]>();
    let text = '';
    const hear = (data: Buffer) => {
      this.#printed.push(data);
      if (this.#child !== child || text === 'ready') return;
      text += data.toString();
      const urls = /^Keyledger is ready at (.+?)  /m.exec(text)?.[1];
      if (!urls) return;
      text = 'ready';
      resolve(urls.split(' and '));
    };
    child.stdout?.on('data', hear);
    child.stderr?.on('data', hear);
    child.once('close', (code, signal) => reject(new Error(`The product did not start (${code ?? signal}):\n${text}`)));
    const late = setTimeout(() => {
      killAll(child);
      reject(new Error(`The product was not ready within ${readyWithinMs} ms:\n${text}`));
    }, readyWithinMs);
    return promise.finally(() => clearTimeout(late));
  }

  async #end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const child = this.#child;
    if (!child) return;
    this.#child = undefined;
    const closed = child.exitCode === null && child.signalCode === null ? once(child, 'close') : undefined;
    if (signal === 'SIGKILL') killAll(child);
    else void ask(child);
    const pools = this.#pools;
    this.#pools = [];
    await Promise.all([closed, ...pools.map((pool) => pool.destroy())]);
  }
}

async function ask(child: ChildProcess): Promise<void> {
  for (let time = 0; time < 10 && child.exitCode === null && child.signalCode === null; time++) {
    child.kill(time === 0 ? 'SIGTERM' : 'SIGINT');
    await sleep(20);
  }
}

/** It and all processes it has started: stopped first, so that it restarts none meanwhile. */
function killAll(child: ChildProcess): void {
  const others = descendantsOf(child.pid);
  signal(child.pid, 'SIGSTOP');
  for (const { pid } of [...others, ...descendantsOf(child.pid)]) signal(pid, 'SIGKILL');
  signal(child.pid, 'SIGKILL');
}

function signal(pid: number | undefined, name: NodeJS.Signals): void {
  try {
    if (pid !== undefined) process.kill(pid, name);
  } catch {
    // It has ended in the meantime.
  }
}

function descendantsOf(ancestor: number | undefined): { readonly pid: number; readonly args: string }[] {
  if (ancestor === undefined) return [];
  const { stdout } = spawnSync('ps', ['-e', '-ww', '-o', 'pid=,ppid=,args='], { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
  const all = stdout.split('\n').map((line) => /^ *(\d+) +(\d+) (.*)$/.exec(line)).filter((found) => found !== null)
    .map(([, pid, parent, args]) => ({ pid: Number(pid), parent: Number(parent), args: args as string }));
  const below = (pid: number): typeof all => all.filter(({ parent }) => parent === pid).flatMap((child) => [child, ...below(child.pid)]);
  return below(ancestor);
}

/** License keys and API keys that a test has seen, and whether any part of them can be read somewhere. */
export class Secrets {
  readonly #known = new Set<string>();

  add(...secrets: readonly string[]): void {
    for (const secret of secrets) this.#known.add(secret);
  }

  /** Fields of answers that hold secrets: `key` beside a `keyPrefix`, and `secret`. */
  learnFrom(body: unknown): void {
    if (typeof body !== 'object' || body === null) return;
    if (Array.isArray(body)) return body.forEach((item) => this.learnFrom(item));
    const { key, keyPrefix, secret } = body as Record<string, unknown>;
    if (typeof key === 'string' && keyPrefix !== undefined) this.add(key);
    if (typeof secret === 'string') this.add(secret);
    for (const value of Object.values(body)) this.learnFrom(value);
  }

  /** The secrets that can be read in the text, in any spelling: whole, or their last part, which must never be shown. */
  tracesIn(text: Buffer): string[] {
    const bare = (secret: string) => secret.replaceAll(/[^0-9a-z]/gi, '');
    return findTexts(text, new Map([...this.#known].map((secret) => {
      // A text with the whole secret has its last part, too.
      const parts = [secret.slice(-12), bare(secret).slice(8)];
      return [secret, parts.flatMap((part) => [part, part.toLowerCase(), part.toUpperCase()]).flatMap(spellings)];
    }))).map((secret) => `…${secret.slice(-4)}`);
  }
}

/** Names of the texts with any form (at least four bytes) in the bytes. One pass, however many there are. */
export function findTexts(bytes: Buffer, texts: ReadonlyMap<string, readonly Buffer[]>): string[] {
  const found = new Set<string>();
  const byStart = new Map<number, { readonly name: string; readonly form: Buffer }[]>();
  // Two bytes rule out most places without a look-up.
  const begins = new Uint8Array(65_536);
  for (const [name, forms] of texts) {
    for (const form of forms) {
      const start = form.readInt32LE();
      const alike = byStart.get(start);
      if (alike) alike.push({ name, form });
      else byStart.set(start, [{ name, form }]);
      begins[form.readUInt16LE()] = 1;
    }
  }
  for (let at = 0; at + 3 < bytes.length; at++) {
    const begin = (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
    if (begins[begin] === 0) continue;
    for (const { name, form } of byStart.get(begin | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24)) ?? []) {
      if (!found.has(name) && bytes.subarray(at, at + form.length).equals(form)) found.add(name);
    }
  }
  return [...found];
}

/** The bytes that a text could have become in a file or a log: UTF-8, UTF-16, JSON with escapes, percent-encoding, hex and base64. */
export function spellings(text: string): Buffer[] {
  const utf16 = Buffer.from(text, 'utf16le');
  const ascii = (escaped: string) => [Buffer.from(escaped), Buffer.from(escaped.toUpperCase()), Buffer.from(escaped.toLowerCase())];
  const escape = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  const forms = [
    Buffer.from(text), utf16, Buffer.from(utf16).swap16(),
    Buffer.from(JSON.stringify(text).slice(1, -1)), ...ascii(encodeURIComponent(text)), ...ascii(Buffer.from(text).toString('hex')),
    Buffer.from(text.replaceAll(/[^\x20-\x7e]/g, escape)), ...inBase64(Buffer.from(text)), ...inBase64(utf16),
  ];
  return [...new Map(forms.map((form) => [form.toString('latin1'), form])).values()];
}

/** Base64 of any data with these bytes inside, wherever they begin; characters that depend on neighbours are cut off. */
function inBase64(bytes: Buffer): Buffer[] {
  return [0, 1, 2].flatMap((before) => {
    const whole = Buffer.concat([Buffer.alloc(before), bytes]);
    const [from, to] = [before === 0 ? 0 : before + 1, Math.floor((whole.length * 8) / 6)];
    return (['base64', 'base64url'] as const).map((encoding) => Buffer.from(whole.toString(encoding).slice(from, to)));
  });
}

// ---- the start of most stories ----

export interface Offer {
  readonly product: ProductView;
  readonly plan: PlanView;
}

/** A product with one plan. */
export async function offer(api: Client, licensing: Readonly<Record<string, unknown>> = {}): Promise<Offer> {
  const product = await api.post<ProductView>('/products', { name: `Product ${crypto.randomUUID()}` });
  const plan = await api.post<PlanView>(`/products/${product.id}/plans`, { name: 'Plan', licensing: { enabled: true, ...licensing } });
  return { product, plan };
}

/** The answer of `GET /licenses/:id`, always with its key. */
export type Sold = LicenseView & { readonly key: string };

/** One license of a new order, for a new customer if none is named. */
export async function sell(api: Client, planId: string, order: Readonly<Record<string, unknown>> = {}): Promise<Sold> {
  const name = `Customer ${crypto.randomUUID()}`;
  const { licenses } = await api.post<OrderView>('/orders', { planId, ...('customerId' in order ? {} : { customer: { name, email: `${name.slice(9)}@example.com` } }), ...order });
  return licenses[0] as Sold;
}

export const validate = (app: Client, licenseKey: string, question: Readonly<Record<string, unknown>> = {}): Promise<Verdict> =>
  app.post<Verdict>('/license/validate', { licenseKey, ...question });
