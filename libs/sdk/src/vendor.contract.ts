import { createHash, createPrivateKey, createPublicKey, randomBytes, sign as signWith } from 'node:crypto';
import type { Certificate, KeyStatement, LeaseClaims, LicensedTerms, LicenseFile, OfflineFile, PublicJwk, Purpose, RevocationClaims, SignedVerdict, VerdictClaims } from '@keyledger/license-file';
import { signed } from '@keyledger/license-file/sign';
import type { Clock } from './clock.ts';
import type { Fetch } from './server.ts';
import type { Reading } from './time.ts';

/** How long a license sleeps before it stores the time again. */
export const ticks: ReadonlySet<number> = new Set([...Array.from({ length: 9 }, (_, n) => 100 * 2 ** n), 30_000]);

/** Time that passes only when the test says so, and wakes sleepers. */
export class TestClock implements Clock {
  wall = Date.parse('2026-07-01T12:00:00.000Z');
  mono = 1_000;
  boot = 'boot-1';
  readonly slept: number[] = [];
  #suspended = 0;
  readonly #sleepers = new Set<{ readonly until: number; readonly wake: () => void }>();

  read(): Reading {
    return { wall: this.wall, mono: this.mono, boot: this.boot };
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    this.slept.push(ms);
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const sleeper = { until: this.#awake + ms, wake: resolve };
      this.#sleepers.add(sleeper);
      signal?.addEventListener('abort', () => {
        this.#sleepers.delete(sleeper);
        resolve();
      });
    });
  }

  /** Whether a sleeper wakes within that time. */
  wakes(ms: number): boolean {
    return [...this.#sleepers].some(({ until }) => until <= this.#awake + ms);
  }

  /** Timers count the time that the machine is awake. */
  get #awake(): number {
    return this.mono - this.#suspended;
  }

  suspend(ms: number): void {
    this.#suspended += ms;
    this.mono += ms;
    this.wall += ms;
  }

  pass(ms: number): void {
    this.mono += ms;
    this.wall += ms;
    for (const sleeper of this.#sleepers) {
      if (sleeper.until > this.#awake) continue;
      this.#sleepers.delete(sleeper);
      sleeper.wake();
    }
  }
}

interface Key {
  readonly kid: string;
  readonly jwk: PublicJwk;
  readonly sign: (text: string) => Uint8Array;
}

function newKey(): Key {
  const privateKey = createPrivateKey({ key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), randomBytes(32)]), format: 'der', type: 'pkcs8' });
  const jwk: PublicJwk = { kty: 'OKP', crv: 'Ed25519', x: String(createPublicKey(privateKey).export({ format: 'jwk' }).x) };
  return { jwk, kid: thumbprint(jwk), sign: (text) => signWith(null, Buffer.from(text), privateKey) };
}
const thumbprint = ({ x }: PublicJwk): string => createHash('sha256').update(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`).digest('base64url');

const environment = 'production';
const isoOf = (ms: number): string => new Date(ms).toISOString();
type Certified = Key & { readonly certificate: Certificate };

type Answer = readonly [status: number, body: unknown, headers?: Readonly<Record<string, string>>];

/** A vendor's server with one license, which signs like the product and can be told what to answer. */
export class Vendor {
  readonly #root = newKey();
  #keys = new Map<Purpose, Certified>();
  readonly #published: object[] = [];
  readonly revoked: string[] = [];
  readonly licenseKey = 'KEY-1';
  terms: LicensedTerms = {
    id: 'lic_1', productId: 'prd_1', planId: null, serialNumber: null, effectiveAt: null, expiresAt: null, expiryGraceDays: 0, overageGraceDays: 7, offlineGraceDays: 14, expiredEnforcement: 'READ_ONLY',
    trial: null, validationMode: 'online', heartbeatIntervalSeconds: 3600, deploymentMode: null, deploymentId: null, binding: 'fingerprint', seats: 'node-locked', activationLimit: 1,
    features: { sso: true, projects: 10, reports: { limit: 5, per: 'day' } }, featureFlags: {}, quotas: [{ meter: 'cores', limit: 8 }],
  };
  seq = 4;
  /** Seats that are taken. */
  taken = 1;
  /** The instance that has the seat, and those that had it. */
  instance = 'act_1';
  readonly #gone = new Set<string>();
  verdict: Partial<SignedVerdict> = {};
  /** The server's clock. */
  now: () => number;
  /** Answers in place of the vendor, if it has one: a cut network, a proxy. */
  between: ((path: string, body: Record<string, unknown>) => Answer | Error | undefined) | undefined;
  directives: readonly object[] = [];
  /** As the server does, which signs a lease anew only once it has become a little shorter. */
  repeatsLeases = false;
  #given: string | undefined;
  readonly asked: { readonly path: string; readonly body: Record<string, unknown>; readonly authorization: string | null; readonly environment: string | null }[] = [];
  readonly answered: { readonly path: string; readonly answer: Answer }[] = [];
  #last = { seq: -1, said: '', answer: {} as unknown };
  readonly #streams = new Set<ReadableStreamDefaultController<Uint8Array>>();

  private constructor(clock: TestClock) {
    this.now = () => clock.wall;
  }

  static async open(clock: TestClock): Promise<Vendor> {
    const vendor = new Vendor(clock);
    for (const purpose of ['license-file', 'lease', 'verdict'] as const) await vendor.rotate(purpose);
    return vendor;
  }

  get roots(): readonly PublicJwk[] {
    return [this.#root.jwk];
  }

  kid(purpose: Purpose): string {
    return this.#key(purpose).kid;
  }

  async rotate(purpose: Purpose): Promise<void> {
    const key = newKey();
    const payload: KeyStatement = { kid: key.kid, purpose, environment, publicJwk: key.jwk, notBefore: isoOf(Date.parse('2026-01-01') + this.#published.length * 60_000), notAfter: '2030-01-01T00:00:00.000Z' };
    const certificate = JSON.parse(await signed({ type: 'key-certificate', payload }, this.#root.kid, this.#root.sign)) as Certificate;
    this.#keys.set(purpose, { ...key, certificate });
    this.#published.push({ ...key.jwk, kid: key.kid, alg: 'Ed25519', use: 'sig', kl_cert: certificate });
  }

  /** The list of revoked keys is signed by the key for verdicts. */
  async jwks(): Promise<{ readonly keys: readonly object[]; readonly revoked: readonly string[]; readonly revocations: string }> {
    const payload: RevocationClaims = { iss: 'keyledger', env: environment, iat: Math.floor(this.now() / 1000), revoked: this.revoked };
    return { keys: this.#published, revoked: this.revoked, revocations: await signed({ type: 'revocations', payload }, this.kid('verdict'), this.#key('verdict').sign) };
  }

  /** For `fetch`. */
  readonly fetch: Fetch = async (url, init) => {
    const { pathname: path } = new URL(url);
    const body = (init.body ? JSON.parse(String(init.body)) : {}) as Record<string, unknown>;
    const headers = new Headers(init.headers);
    this.asked.push({ path, body, authorization: headers.get('authorization'), environment: headers.get('x-environment') });
    const told = this.between?.(path, body);
    if (told instanceof Error) throw told;
    if (!told && path.endsWith('/stream')) return this.#stream(init.signal);
    const answer = told ?? (await this.#answer(path, body));
    this.answered.push({ path, answer });
    const [status, content, more = {}] = answer;
    return new Response(typeof content === 'string' ? content : JSON.stringify(content), { status, headers: { 'content-type': 'application/json', ...more } });
  };

  /** The seat ends, as without signs of life; the next instance gets another. */
  lapse(): void {
    this.#gone.add(this.instance);
    this.instance = `act_${this.#gone.size + 1}`;
    this.#last = { seq: -1, said: '', answer: {} };
    this.seq++;
  }

  cut(): void {
    this.between = () => new TypeError('fetch failed');
    for (const stream of this.#streams) stream.error(new TypeError('terminated'));
    this.#streams.clear();
  }

  get listeners(): number {
    return this.#streams.size;
  }

  /** Sends to all open streams. */
  tell(text: string): void {
    for (const stream of this.#streams) stream.enqueue(new TextEncoder().encode(text));
  }

  tellChange(enforcement = this.verdict.enforcement ?? 'FULL'): void {
    this.tell(`id: ${this.seq}\nevent: change\ndata: ${JSON.stringify({ seq: this.seq, type: 'LicenseChanged', enforcement })}\n\n`);
  }

  hangUp(): void {
    for (const stream of this.#streams) stream.close();
    this.#streams.clear();
  }

  mend(): void {
    this.between = undefined;
  }

  async lease(fingerprint: string, counter: number, changes: Partial<LeaseClaims> = {}): Promise<string> {
    const iat = Math.floor(this.now() / 1000);
    const payload: LeaseClaims = {
      ...claims(iat), exp: iat + (this.terms.offlineGraceDays * 86_400 || 2 * this.terms.heartbeatIntervalSeconds), aud: this.terms.productId, sub: this.instance, fingerprint, counter, seq: this.seq, license: this.terms, ...changes,
    };
    return signed({ type: 'lease', payload }, this.kid('lease'), this.#key('lease').sign);
  }

  async verdictFor({ nonce, fingerprint, productId, activationId, instanceId = activationId }: Record<string, unknown>, changes: Partial<VerdictClaims> = {}): Promise<string> {
    const iat = Math.floor(this.now() / 1000);
    const gone = this.#gone.has(String(instanceId)) && ({ valid: false, code: 'INSTANCE_NOT_FOUND', reasons: ['INSTANCE_NOT_FOUND'], enforcement: 'LOCKED' } as const);
    const verdict: SignedVerdict = { valid: true, code: 'VALID', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null, decisionId: 'd', checkedAt: isoOf(this.now()), ...gone, ...this.verdict };
    const { id, productId: product, features, featureFlags, quotas, expiresAt, effectiveAt, activationLimit } = this.terms;
    const payload: VerdictClaims = {
      ...claims(iat), exp: iat + 86_400, aud: String(productId ?? product), sub: id, fingerprint: String(fingerprint), counter: this.seq, nonce: String(nonce), instanceId: instanceId === undefined ? null : String(instanceId), verdict,
      license: { id, productId: product, status: 'active', features, featureFlags, quotas, expiresAt, effectiveAt, activationLimit, activationCount: this.taken }, ...changes,
    };
    return signed({ type: 'verdict', payload }, this.kid('verdict'), this.#key('verdict').sign);
  }

  licenseFile(changes: Partial<LicenseFile> = {}): Promise<string> {
    const payload: LicenseFile = { environment, issuedAt: isoOf(this.now()), seq: this.seq, status: 'active', customer: null, license: this.terms, ...changes };
    const { certificate, kid, sign } = this.#key('license-file');
    return signed({ type: 'license-file', payload, certificate }, kid, sign);
  }

  offlineFile(changes: Partial<OfflineFile> = {}): Promise<string> {
    const verdict: SignedVerdict = { valid: true, code: 'VALID', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null, decisionId: 'd', checkedAt: isoOf(this.now()), ...this.verdict };
    const payload: OfflineFile = { environment, issuedAt: isoOf(this.now()), expiresAt: isoOf(this.now() + 86_400_000), seq: this.seq, activationId: null, fingerprint: null, verdict, license: this.terms, ...changes };
    const { certificate, kid, sign } = this.#key('license-file');
    return signed({ type: 'offline-file', payload, certificate }, kid, sign);
  }

  #stream(signal: AbortSignal | null | undefined): Response {
    let open: ReadableStreamDefaultController<Uint8Array>;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#streams.add((open = controller));
        controller.enqueue(new TextEncoder().encode(`event: state\ndata: ${JSON.stringify({ seq: this.seq, enforcement: this.verdict.enforcement ?? 'FULL' })}\n\n`));
      },
    });
    signal?.addEventListener('abort', () => this.#streams.delete(open) && open.error(signal.reason));
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
  }

  async #answer(path: string, body: Record<string, unknown>): Promise<Answer> {
    if (path === '/.well-known/jwks.json') return [200, await this.jwks()];
    if (path === '/license/activate') return [201, { activated: true, instance: { id: this.instance }, license: {}, token: await this.lease(String(body['fingerprint']), 0) }];
    if (path === '/license/deactivate') return [200, { deactivated: true }];
    if (path === '/license/usage' && this.#gone.has(String(body['instanceId']))) return problem(404, 'INSTANCE_NOT_FOUND');
    const errors = path === '/license/usage' ? (body['records'] as { at: string }[]).flatMap(({ at }, n) => (Date.parse(at) > this.now() + 300_000 ? [{ pointer: `/records/${n}/at` }] : [])) : [];
    if (errors.length > 0) return problem(422, 'USAGE_OUT_OF_RANGE', { errors });
    if (path === '/license/usage') return [200, { accepted: 1, duplicates: 0, quotas: [] }];
    if (path === '/license/validate') return [200, { valid: true, token: await this.verdictFor(body) }];
    if (path === `/licenses/${this.terms.id}/heartbeat`) return this.#heartbeat(body);
    if (path === `/licenses/${this.terms.id}/stream/ack`) return [200, { acknowledged: body['seq'] }];
    return problem(404, 'NOT_FOUND');
  }

  async #heartbeat(body: Record<string, unknown>): Promise<Answer> {
    const { seq } = body as { seq: number };
    const said = JSON.stringify(body);
    if (seq === this.#last.seq && said === this.#last.said) return [200, this.#last.answer];
    if (seq <= this.#last.seq) return problem(409, 'STALE_SEQUENCE', { lastSeq: this.#last.seq, ...(seq === this.#last.seq && { conflict: true }) });
    const enforcement = this.#gone.has(String(body['activationId'])) ? 'LOCKED' : (this.verdict.enforcement ?? 'FULL');
    const token = enforcement === 'LOCKED' ? await this.verdictFor(body) : ((this.repeatsLeases ? this.#given : undefined) ?? await this.lease(String(body['fingerprint']), seq));
    if (enforcement !== 'LOCKED') this.#given = token;
    const answer = { state: 'active', enforcement, token, directives: this.directives, nextInSeconds: this.terms.heartbeatIntervalSeconds, serverTime: isoOf(this.now()) };
    this.#last = { seq, said, answer };
    return [200, answer];
  }

  #key(purpose: Purpose): Certified {
    const key = this.#keys.get(purpose);
    if (!key) throw new Error(`There is no key for ${purpose}`);
    return key;
  }
}

const claims = (iat: number) => ({ iss: 'keyledger', env: environment, iat, nbf: iat, jti: 'j' }) as const;
export const problem = (status: number, code: string, members: object = {}): Answer => [status, { type: `/docs/errors#${code}`, title: code, status, detail: code, code, ...members }, { 'content-type': 'application/problem+json' }];
