import { reasons, Verifier, type FileType, type KeySet, type LicensedTerms, type Reason } from '@keyledger/license-file';
import { FeatureMissing, type Activation, type Deactivation, type LicenseEvents, type LicenseOptions, type SeatOptions, type Validation } from './api.ts';
import { Changes } from './changes.ts';
import { held, msOf, processClock, type Clock } from './clock.ts';
import { defined } from './defined.ts';
import { fakeState, type FakeOptions } from './fake.ts';
import { Heartbeats } from './heartbeats.ts';
import { inherited, joined, kidOf, nothingKept, readKept, timeIn, written, type Checks, type Kept } from './kept.ts';
import { installing, verifiedOffline, verifyOffline, verifyToken, type OfflineOptions, type OfflineResult, type TokenOptions, type TokenResult } from './offline.ts';
import { harmless, openState, quietly, type Opened } from './opening.ts';
import { Quotas, type UsableQuota } from './quotas.ts';
import { notActivated, noServer, unreachable, untrusted, type Refusal } from './refusal.ts';
import { Reports } from './reports.ts';
import { Sharing } from './sharing.ts';
import { Server, type Refused, type Unreachable } from './server.ts';
import {
  apply, firstTickMs, infoOf, isClockBack, judge, nextTick, reservedFor, reserving, saidAt, termsOf, ticked, timeOf, type Judgement, type LicenseEvent, type LicenseInfo, type Limits, type Reading, type State,
} from './state.ts';
import { memoryStore, spelled, type Store } from './store.ts';
import type { Counted, Feature } from './usage.ts';

const keysForMs = 86_400_000;

/**
 * A license, as the software sees it that it is for. Whatever a server, a network or a disk does, nothing here throws for it: every method
 * answers, and `judgement()` says at any moment and without waiting what the software may do.
 */
export class License {
  readonly heartbeat: Heartbeats;
  /** Changes of the license as they happen. Where it runs, a revocation is known at once, and not with the next heartbeat. */
  readonly changes: Changes;
  /** What was in the store: nothing, what this instance has known before, or something that it did not write. */
  readonly opened: Opened['opened'];
  readonly #options: LicenseOptions;
  readonly #fingerprint: string;
  readonly #clock: Clock;
  readonly #server: Server | undefined;
  readonly #verifier: Checks;
  readonly #store: Store;
  readonly #seal: (text: string) => Promise<string>;
  readonly #listeners = new Map<keyof LicenseEvents, Set<(event: never) => void>>();
  readonly #disposed = new AbortController();
  readonly #reports: Reports;
  readonly #quotas: Quotas;
  readonly #sharing: Sharing | undefined;
  readonly #limits: Limits;
  #kept: Kept;
  #last: Judgement;
  #clockIsBack = false;
  #asking: Promise<Refusal | null> | undefined;
  #seating: Promise<unknown> = Promise.resolve();
  #writing: Promise<boolean> = Promise.resolve(true);
  #wantsWrite = false;
  #isStored = true;
  #isOver = false;
  #tickMs = firstTickMs;

  /** Rejects only for roots that are no keys, and where there is no WebCrypto with Ed25519. */
  static async open({ key: typed, logger, ...given }: LicenseOptions): Promise<License> {
    const key = typed === undefined ? undefined : spelled(typed);
    const options: LicenseOptions = { ...given, ...(key !== undefined && { key }), ...(logger && { logger: harmless(logger) }) };
    const { environment = 'production', roots } = options;
    const trust = await Verifier.open({ environment, roots });
    if (!trust.ok) throw new Error(`The roots cannot be pinned: ${reasons[trust.reason]}. They are what your server answers to /.well-known/keyledger-root.json, or PEM`);
    const { clock = processClock(), store = memoryStore() } = options;
    const opened = await openState(typed ?? '', trust.verifier, { ...options, clock, store });
    const license = new License({ ...options, environment, clock, store }, opened);
    license.#apply({ type: 'Restarted' });
    // What waits there is sent by who has written it.
    if (!(await license.#leads())) {
      license.#sharing?.leave();
      license.#keep({ outbox: [], sent: [] });
    }
    await license.#persist();
    return license;
  }

  protected constructor(
    options: LicenseOptions & Required<Pick<LicenseOptions, 'environment' | 'clock' | 'store'>>,
    { kept, fingerprint, verifier, seal, unseal, text, opened }: Opened,
  ) {
    const { server: url, environment, clock, store, timeoutMs = 10_000, attempts = 3 } = options;
    this.#options = options;
    this.#clock = clock;
    this.#store = store;
    this.#kept = kept;
    this.#fingerprint = fingerprint;
    this.#verifier = verifier;
    this.#seal = seal;
    this.opened = opened;
    this.#server = url === undefined || options.key === undefined ? undefined : new Server({ url, environment, clock, timeoutMs, attempts, fetch: options.fetch ?? ((to, init) => fetch(to, init)) });
    this.#limits = { asksNobody: this.#server === undefined, ...(options.offlineGraceDays !== undefined && { offlineGraceMs: options.offlineGraceDays * 86_400_000 }) };
    this.#last = judge(kept.state, clock.read(), this.#limits);
    const { shared } = store;
    this.#sharing = shared && new Sharing({
      clock, store, shared, read: (sealed) => unseal(sealed, this.#kept.keys.keys), learn: (theirs) => this.#learn(theirs), inherit: (theirs) => this.#inherit(theirs),
      persist: () => this.#persist(), written: () => this.#writing, leading: (besideOthers) => this.heartbeat.takeOver(besideOthers),
      failed: (error) => options.logger?.warn('the other processes of this installation cannot be looked after', { error }),
    }, text);
    const server = this.#server;
    this.#reports = new Reports({
      kept: () => this.#kept, keep: (changes) => this.#keep(changes), persist: () => this.#persist(), now: () => this.#now(), info: () => this.info, logger: options.logger,
      refusal: (reply) => this.#refusal(reply), ask: () => this.#ask(), waitsForSeat: () => this.terms?.seats === 'floating',
      send: server && ((instanceId, records) => server.ask('POST', '/license/usage', { licenseKey: options.key, instanceId, records })),
    });
    this.#quotas = new Quotas({
      info: () => this.info, enforcement: () => this.judgement().enforcement, counted: () => this.#counted(), use: (name, value, isGauge) => this.#reports.use(name, value, isGauge),
      exceeded: (quota) => this.#emit('exceeded', quota), onExceeded: (listener) => this.on('exceeded', listener),
    });
    this.heartbeat = new Heartbeats(this.#heartbeatPort());
    this.changes = new Changes({
      clock, kept: () => this.#kept, judgement: () => this.judgement(), ask: () => this.#askAndBeat(), persist: () => this.#persist(),
      open: (licenseId, instanceId, signal) => this.#server?.open(`/licenses/${encodeURIComponent(licenseId)}/stream?activationId=${encodeURIComponent(instanceId)}`, options.key, signal),
      acknowledge: (licenseId, activationId, seq) => this.#server?.ask('POST', `/licenses/${encodeURIComponent(licenseId)}/stream/ack`, { seq, activationId }, options.key),
    });
    void this.#keepTime();
  }

  /** Checks the text of a license file or an offline validation file against the pinned roots, with no network and no state. */
  static verifyOffline(text: string, options: OfflineOptions): Promise<OfflineResult> {
    return verifyOffline(text, options);
  }

  /** Checks a lease or a verdict, as answers carry them, for who handles them himself. `keys`: of the server, each with its certificate. */
  static verifyToken(type: 'lease' | 'verdict', token: string, options: TokenOptions): Promise<TokenResult> {
    return verifyToken(type, token, options);
  }

  /** For the tests of your software: a license that is what you say, with no server and no signature. */
  static fake(options: FakeOptions = {}): FakeLicense {
    return new FakeLicense(options);
  }

  get fingerprint(): string {
    return this.#fingerprint;
  }

  /** The newest of what was signed about the license; null before anything was. */
  get info(): LicenseInfo | null {
    return infoOf(this.#kept.state);
  }

  /** The newest signed terms: those of a lease or a file. */
  get terms(): LicensedTerms | null {
    return termsOf(this.#kept.state);
  }

  get licenseId(): string | null {
    return this.#kept.state.licenseId;
  }

  get instanceId(): string | null {
    return this.#kept.state.instanceId;
  }

  /** All that was known at the last attempt to write it is in the store. */
  get isStored(): boolean {
    return this.#isStored;
  }

  /** The wall clock is behind what it must be, as `clock-rollback` has told. */
  get isClockBack(): boolean {
    return isClockBack(this.#kept.state.time, this.#clock.read());
  }

  /** What the software may do now. Asks nobody, and is cheap enough to ask on every request. */
  judgement(): Judgement {
    return judge(this.#kept.state, this.#clock.read(), this.#limits);
  }

  /** Takes a seat. The same machine again has the same one. */
  activate(seat: SeatOptions = {}): Promise<Activation> {
    return held(this.#activate(seat));
  }

  async #activate(seat: SeatOptions = {}): Promise<Activation> {
    const { name, metadata, installationId } = seat;
    const { key, product: productId, deploymentId, deploymentMode } = this.#options;
    if (!this.#server) return noServer;
    const reply = await this.#server.ask('POST', '/license/activate', {
      licenseKey: key, fingerprint: this.#fingerprint, ...defined({ instanceName: name, metadata, installationId, productId, deploymentId, deploymentMode }),
    });
    if (reply.kind !== 'answered') {
      // Its words are not signed. What they mean for a license that was good is asked for.
      if (reply.kind === 'refused' && this.licenseId !== null) await this.#ask();
      return this.#refusal(reply);
    }
    const { instance, token } = reply.body as { instance?: { id?: unknown }; token?: unknown };
    const instanceId = instance?.id;
    if (typeof instanceId !== 'string') return untrusted('The answer names no instance');
    const fault = typeof token === 'string' ? await this.#lease(token, instanceId) : null;
    if (fault && fault !== 'STALE') return this.#distrust(fault);
    // Without a signature it is only where there is nothing better.
    if (typeof token !== 'string' && !this.#kept.state.lease) this.#apply({ type: 'Seated', instanceId });
    this.#keep({ seat });
    this.heartbeat.forget();
    this.changes.again();
    // A seat whose heartbeats are counted is renewed by one, not by being taken again.
    if (fault === 'STALE') await this.heartbeat.together();
    // What a verdict has refused, only a verdict gives back.
    const { enforcement } = this.judgement();
    if (typeof token !== 'string' || enforcement === 'LOCKED' || enforcement === 'READ_ONLY') await this.#ask();
    await this.#persist();
    return { ok: true, instanceId: this.instanceId ?? instanceId, created: reply.status === 201, judgement: this.judgement() };
  }

  /** Is this license good? Asks the server, unless it has said yes within `maxAge` (milliseconds, or `30s`, `5m`, `1h`, `1d`; 0 by default). */
  async validate({ maxAge = 0 }: { readonly maxAge?: number | string } = {}): Promise<Validation> {
    const oldest = msOf(maxAge);
    const { said } = this.#kept.state;
    const before = this.judgement();
    const isRecent = said?.from === 'network' && Date.parse(before.at) - said.at < oldest;
    if (isRecent && before.valid) return { ...before, source: 'cache', problem: null };
    const shared = oldest > 0 ? (this.#asking ??= this.#askAndBeat().finally(() => (this.#asking = undefined))) : this.#askAndBeat();
    const problem = await held(shared);
    await this.#persist();
    const judgement = this.judgement();
    const source = !problem ? 'network' : this.#kept.state.said?.from === 'offline-file' || (this.#kept.state.file && !this.#kept.state.lease) ? 'offline-file' : 'cache';
    return { ...judgement, source, problem };
  }

  feature(name: string): Feature {
    return this.#quotas.feature(name);
  }

  /** Throws FeatureMissing, for those who would rather be interrupted. */
  require(name: string): Feature {
    const feature = this.feature(name);
    if (!feature.enabled) throw new FeatureMissing(name, this.judgement().enforcement === 'LOCKED' ? this.judgement().code : 'FEATURE_MISSING');
    return feature;
  }

  /** A quota, or a feature with a cap per day or month. */
  quota(name: string): UsableQuota {
    return this.#quotas.of(name);
  }

  /** How many readings have not been sent yet. */
  get waiting(): number {
    return this.#kept.outbox.length;
  }

  /**
   * Takes readings that were made elsewhere, to be sent like those of `quota`. When it answers, all of them are in the store, or (NOT_STORED,
   * TOO_MANY_WAITING) none is taken. An id that waits already counts once; the server knows all that it has ever been sent.
   */
  record(readings: readonly { readonly meter: string; readonly value: number; readonly id?: string; readonly at?: string }[]): Promise<{ readonly ok: true; readonly accepted: number; readonly duplicates: number } | Refusal> {
    return this.#reports.take(readings);
  }

  /** Sends what was used. Goes along with heartbeats by itself. */
  reportUsage(): Promise<{ readonly ok: true; readonly accepted: number } | Refusal> {
    return held(this.#reports.send());
  }

  /** Checks a file for this machine, this license and the time that it is by all that is known. Nothing is kept. */
  verifyOffline(text: string, { type }: { readonly type?: FileType } = {}): Promise<OfflineResult> {
    return verifiedOffline(this.#verifier, text, this.#expected(type), this.#clock.read(), this.#kept.state, this.#limits);
  }

  /** Checks a file, and goes by it from now on. `replace`: also if it is another license; what was known of the one before is forgotten then, but not the time. */
  async install(text: string, { type, replace = false }: { readonly type?: FileType; readonly replace?: boolean } = {}): Promise<OfflineResult> {
    const replaced = apply(this.#kept.state, { type: 'Replaced' }, this.#clock.read());
    const base = replace && replaced.ok ? replaced.state : this.#kept.state;
    const { license: _, ...anyLicense } = this.#expected(type);
    const result = await verifiedOffline(this.#verifier, text, replace ? anyLicense : this.#expected(type), this.#clock.read(), base, this.#limits);
    if (!result.ok) return result;
    if (replace && result.file.license.id !== this.licenseId) this.#apply({ type: 'Replaced' });
    this.#apply(installing(result, text));
    await this.#persist();
    return { ...result, judgement: this.judgement() };
  }

  /** Gives the seat back. Where nobody could be told, it has it still, and all goes on as before. */
  deactivate(): Promise<Deactivation> {
    return held(this.#deactivate());
  }

  async #deactivate(): Promise<Deactivation> {
    if (!this.#server) return noServer;
    if (this.instanceId === null) return notActivated;
    const [heartbeats, changes] = [this.heartbeat.pause(), this.changes.pause()];
    // Nobody takes a seat anew behind the back of who gives it up.
    await this.#seating;
    const { instanceId } = this;
    this.#keep({ leaving: instanceId ?? undefined });
    if (this.#sharing) await this.#persist();
    const reply = await this.#server.ask('POST', '/license/deactivate', { licenseKey: this.#options.key, instanceId });
    // A key that is no more, of a license that was erased or has a new one, has no seats.
    const isGone = reply.kind === 'answered' ? reply.body['deactivated'] === true : (reply.kind === 'refused' && (reply.code === 'INSTANCE_NOT_FOUND' || reply.code === 'LICENSE_NOT_FOUND'));
    if (!isGone) {
      this.#keep({ leaving: undefined });
      if (this.#sharing) await this.#persist();
      if (!this.#disposed.signal.aborted) for (const goOn of [heartbeats, changes]) goOn();
      return reply.kind === 'answered' ? untrusted('The answer does not say that the seat was given back') : this.#refusal(reply);
    }
    this.#apply({ type: 'Released' });
    this.#keep({ seat: undefined, leaving: undefined, beat: { seq: 0, nonce: '', acks: [], answered: true }, acks: [] });
    await this.#persist();
    // Not before the others can read it: who takes over must not take the seat again.
    this.heartbeat.stop();
    return { ok: true };
  }

  /** Returns how to stop listening. */
  on<E extends keyof LicenseEvents>(event: E, listener: (event: LicenseEvents[E]) => void): () => void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener as (event: never) => void));
    return () => void listeners.delete(listener as (event: never) => void);
  }

  /** Ends heartbeats and timers, and writes down what time it is. The seat stays. */
  async dispose(): Promise<void> {
    this.heartbeat.stop();
    this.changes.stop();
    this.#disposed.abort();
    const written = this.#persist();
    // What is still under way writes nothing any more: another may have the store by then.
    this.#isOver = true;
    await written;
    await this.#sharing?.close();
  }

  protected assume(state: State): void {
    this.#keep({ state });
  }

  /** Said with a signature: it had a seat that floats, and was not heard of for too long. */
  #hasLostSeat(): boolean {
    return this.terms?.seats === 'floating' && this.instanceId !== null && this.judgement().code === 'INSTANCE_NOT_FOUND';
  }

  #takeSeatAnew(): Promise<Activation> {
    const seating = this.#activate(this.#kept.seat);
    this.#seating = seating.catch(() => undefined);
    return seating;
  }

  // ---- asking ----

  async #askAndBeat(): Promise<Refusal | null> {
    const problem = await this.#ask();
    // The server waits for a heartbeat, and here is somebody who can send one.
    return !problem && this.judgement().code === 'HEARTBEAT_OVERDUE' && (await this.heartbeat.together()).ok ? this.#ask() : problem;
  }

  /** A question with a nonce, whose signed answer decides. Null when there is one. */
  async #ask({ afterRefusal = false } = {}): Promise<Refusal | null> {
    const { key, product: productId, deploymentId, deploymentMode } = this.#options;
    if (!this.#server) return noServer;
    const nonce = crypto.randomUUID();
    const asked = this.#clock.read();
    const { instanceId } = this;
    const reply = await this.#server.ask('POST', '/license/validate', {
      licenseKey: key, fingerprint: this.#fingerprint, nonce, ...defined({ instanceId: instanceId ?? undefined, productId, deploymentId, deploymentMode }),
    });
    // The server answers 200 to every question that is well-formed: no refusal here is about the license, and the offline grace runs.
    if (reply.kind !== 'answered') return this.#unheard(reply);
    return this.#verdict(String(reply.body['token'] ?? ''), nonce, asked, { ...defined({ audience: productId }), afterRefusal });
  }

  async #verdict(token: string, nonce: string, asked: Reading, { afterRefusal = false, ...expected }: { readonly audience?: string; readonly afterRefusal?: boolean } = {}): Promise<Refusal | null> {
    const verdict = await this.#withKeys(() => this.#verifier.verdict(token, { ...expected, now: timeIn(token), nonce, fingerprint: this.#fingerprint }));
    if (!verdict.ok) return this.#distrust(verdict.reason);
    // Given back since it was asked: what was true of the seat says nothing about who has none.
    if (verdict.claims.instanceId !== null && verdict.claims.instanceId !== this.instanceId) return notActivated;
    const askedAt = timeOf(this.#kept.state.time, asked);
    const fault = this.#apply({ type: 'Answered', text: token, claims: verdict.claims, asked, afterRefusal });
    if (fault) return this.#distrust(fault);
    // What was signed before a vendor's clock was put back is ahead of it: the license never goes behind that, but the server judges readings by its clock.
    this.#reports.areKnown(askedAt, this.#kept.state.time.at - saidAt(verdict.claims));
    return null;
  }

  /** The reason why it was not taken. */
  async #lease(token: string, instanceId: string, { renews = false } = {}): Promise<Reason | null> {
    const { product } = this.#options;
    const lease = await this.#withKeys(() => this.#verifier.lease(token, {
      now: timeIn(token), subject: instanceId, fingerprint: this.#fingerprint, ...(product !== undefined && { audience: product }),
    }));
    return lease.ok ? this.#apply({ type: 'Leased', text: token, claims: lease.claims, renews }) : lease.reason;
  }

  /** Keys come with certificates of the root, so wherever they come from, they are those of the vendor. */
  async #withKeys<T extends { readonly ok: true }>(check: () => Promise<T | { readonly ok: false; readonly reason: Reason }>): Promise<T | { readonly ok: false; readonly reason: Reason }> {
    if (Math.abs(this.#now() - this.#kept.keysAt) > keysForMs) await this.#refreshKeys();
    const result = await check();
    if (result.ok || result.reason !== 'UNKNOWN_KEY') return result;
    await this.#refreshKeys();
    return check();
  }

  async #refreshKeys(): Promise<void> {
    const reply = await this.#server?.ask('GET', '/.well-known/jwks.json');
    const { keys, revocations } = (reply?.kind === 'answered' ? reply.body : {}) as Partial<KeySet>;
    if (!Array.isArray(keys)) return;
    const learned = await this.#verifier.learn({ keys: [...this.#kept.keys.keys, ...keys], ...(revocations !== undefined && { revocations }) });
    if (!learned.ok) return;
    // What the root has not certified takes no known key's place: nobody has signed this list.
    const refused = new Set(learned.refused.map(({ kid }) => kid));
    const certified = keys.filter((key) => !refused.has(kidOf(key)));
    this.#keep({ keys: joined(this.#kept.keys, { keys: certified, revoked: this.#verifier.revoked }), keysAt: this.#now() });
    await this.#readAnew();
  }

  /** Learns the keys, and reads what was signed anew: some of it may be by a key that was revoked. */
  async #readAnew(): Promise<void> {
    const again = await readKept(written(this.#kept), this.#verifier, this.#kept.keys.keys);
    if (again) this.#keep({ state: { ...this.#kept.state, lease: again.state.lease && this.#kept.state.lease, said: again.state.said && this.#kept.state.said, file: again.state.file && this.#kept.state.file } });
  }

  // ---- other processes with the same state ----

  async #leads(): Promise<boolean> {
    return (await quietly(() => this.#sharing?.leads(), 'it is not known who leads', this.#options.logger)) ?? true;
  }

  #learn({ state, keys, keysAt }: Kept): void {
    const revoked = this.#kept.keys.revoked?.length;
    this.#apply({ type: 'Followed', state });
    this.#keep({ keys: joined(this.#kept.keys, keys), keysAt: Math.max(keysAt, this.#kept.keysAt) });
    if (this.#kept.keys.revoked?.length !== revoked) void this.#readAnew();
  }

  #inherit(theirs: Kept): void {
    this.#keep(inherited(this.#kept, theirs));
    this.#learn(theirs);
  }

  #heartbeatPort(): ConstructorParameters<typeof Heartbeats>[0] {
    return {
      kept: () => this.#kept, keep: (changes) => this.#keep(changes), persist: () => this.#persist(), clock: this.#clock, logger: this.#options.logger,
      version: this.#options.version, fingerprint: this.#fingerprint,
      send: (licenseId, body) => this.#server?.ask('POST', `/licenses/${encodeURIComponent(licenseId)}/heartbeat`, body, this.#options.key),
      ask: (options) => this.#ask(options), lease: (token, instanceId) => this.#lease(token, instanceId, { renews: true }), verdict: (token, nonce, asked) => this.#verdict(token, nonce, asked),
      refusal: (reply) => this.#refusal(reply), unheard: (reply) => this.#unheard(reply), distrust: (reason) => this.#distrust(reason),
      judgement: () => this.judgement(), reportUsage: () => this.#reports.send(),
      isLeading: () => this.#sharing?.isLeading ?? false, isLeadAssumed: () => this.#sharing?.isAssumed ?? false,
      contend: () => {
        this.#sharing?.contend();
        return () => this.#sharing?.retire();
      },
      leads: async () => {
        await this.#sharing?.settled();
        return this.#leads();
      },
      follow: async () => this.#sharing?.follow(),
      hasLostSeat: () => this.#hasLostSeat(),
      takeSeatAnew: async () => {
        // One that another process gives back, or has given back by now, is not lost.
        const { instanceId, epoch } = this.#kept.state;
        const isGivenBack = (theirs: Kept) => theirs.leaving === instanceId || theirs.state.epoch > epoch;
        return (await quietly(() => this.#sharing?.hears(isGivenBack), 'the other processes cannot be heard', this.#options.logger)) ? notActivated : this.#takeSeatAnew();
      },
      intervalMs: () => (this.terms?.heartbeatIntervalSeconds ?? 3600) * 1000, refreshKeys: () => this.#refreshKeys(),
      directive: (directive) => this.#emit('directive', directive), conflict: (lastSeq, seq) => this.#emit('conflict', { lastSeq, seq }),
    };
  }

  #refusal(reply: Refused | Unreachable): Refusal {
    if (reply.kind === 'refused') return { ok: false, code: reply.code, detail: reply.detail, docUrl: reply.docUrl, members: reply.body, retryAfterMs: null };
    return this.#failed(unreachable(reply.detail, reply.retryAfterMs, reply.status));
  }

  /** Where a refusal tells no more of the license than no answer would. */
  #unheard(reply: Refused | Unreachable): Refusal {
    const refusal = this.#refusal(reply);
    return reply.kind === 'refused' ? this.#failed(refusal) : refusal;
  }

  /** Whoever has answered, it was not the vendor's server, or an older answer of it. */
  #distrust(reason: Reason): Refusal {
    this.#options.logger?.warn('an answer was not taken', { reason });
    return this.#failed(untrusted(reasons[reason], { reason }));
  }

  #failed(refusal: Refusal): Refusal {
    this.#apply({ type: 'Unreachable' });
    this.#emit('unreachable', refusal);
    return refusal;
  }

  // ---- knowing ----

  #now(): number {
    return timeOf(this.#kept.state.time, this.#clock.read());
  }

  #expected(type: FileType | undefined): Omit<OfflineOptions, 'roots' | 'environment'> {
    return { ...defined({ type, product: this.#options.product, license: this.licenseId ?? undefined }), fingerprint: this.#fingerprint };
  }

  #counted(): Counted {
    const { outbox, sent, state: { said } } = this.#kept;
    return { records: [...sent, ...outbox], since: said ? new Date(said.at).toISOString() : null, now: new Date(this.#now()).toISOString() };
  }

  #keep(changes: Partial<Kept>): void {
    this.#kept = { ...this.#kept, ...changes };
    this.#notice();
  }

  /** Why it is not taken; null when it is. */
  #apply(event: LicenseEvent): Reason | null {
    const before = this.#kept.state;
    const applied = apply(before, event, this.#clock.read());
    if (!applied.ok) return applied.reason;
    this.#keep({ state: applied.state });
    const { lease, said, file } = applied.state;
    if (lease !== before.lease || said !== before.said || file !== before.file) {
      const isMissed = event.type === 'Answered' && applied.state.unreachable;
      if (!isMissed && event.type !== 'Released' && event.type !== 'Replaced' && event.type !== 'Seated' && this.judgement().enforcement !== 'LOCKED') this.#emit('renewed', this.judgement());
    }
    return null;
  }

  /** What software acts upon, and the clock. */
  #notice(): void {
    const reading = this.#clock.read();
    const [before, now] = [this.#last, judge(this.#kept.state, reading, this.#limits)];
    this.#last = now;
    if (before.enforcement !== now.enforcement || before.code !== now.code || before.state !== now.state) this.#emit('state', { before, now });
    // Timers stand still while a machine sleeps, and the grace does not: the server may be there, and the next heartbeat an interval away.
    if (before.code !== now.code && (now.code === 'HEARTBEAT_OVERDUE' || this.#hasLostSeat())) this.heartbeat.hurry();
    this.#quotas.notice();
    const isBack = isClockBack(this.#kept.state.time, reading);
    if (isBack && !this.#clockIsBack) this.#emit('clock-rollback', { wall: reading.wall, atLeast: Date.parse(now.at) });
    this.#clockIsBack = isBack;
  }

  #emit<E extends keyof LicenseEvents>(event: E, value: LicenseEvents[E]): void {
    for (const listener of this.#listeners.get(event) ?? []) {
      try {
        (listener as (event: LicenseEvents[E]) => void)(value);
      } catch (error) {
        this.#options.logger?.warn('a listener failed', { event, error });
      }
    }
  }

  async #keepTime(): Promise<void> {
    const { signal } = this.#disposed;
    for (;;) {
      await this.#clock.sleep(this.#tickMs, signal);
      if (signal.aborted) return;
      this.#tickMs = nextTick(this.#tickMs);
      this.#keep({ state: ticked(this.#kept.state, this.#clock.read()) });
      await this.#persist();
    }
  }

  /** Resolves when all that is known at the call is in the store (true), or could not be written. */
  #persist(): Promise<boolean> {
    if (this.#isOver) return Promise.resolve(false);
    if (this.#wantsWrite) return this.#writing;
    this.#wantsWrite = true;
    this.#writing = this.#writing.then(async () => {
      this.#wantsWrite = false;
      const isWritten = await quietly(async () => {
        const mayWrite = await this.#sharing?.mayWrite();
        const state = reserving(this.#kept.state, this.#clock.read(), this.#disposed.signal.aborted ? 0 : reservedFor(this.#tickMs));
        const text = await this.#seal(written({ ...this.#kept, state }));
        await (this.#sharing && mayWrite !== undefined ? this.#sharing.write(text, mayWrite) : this.#store.write(text));
        return true;
      }, 'the license state could not be written', this.#options.logger);
      this.#isStored = isWritten ?? false;
      return this.#isStored;
    });
    return this.#writing;
  }
}

/** Answers like a server that finds everything in order, but for the state that it was given. Sends no heartbeats. */
export class FakeLicense extends License {
  readonly #fake: FakeOptions;
  readonly #reads: Clock;

  constructor(options: FakeOptions = {}) {
    const clock = processClock();
    const kept = { ...nothingKept(clock.read(), 'fake'), state: fakeState(options, clock.read()) };
    super({ roots: [], environment: 'fake', clock, store: memoryStore() }, { kept, fingerprint: 'fake', verifier: trustsNobody, seal: (text) => Promise.resolve(text), unseal: () => Promise.resolve(undefined), text: null, opened: 'new' });
    this.#fake = options;
    this.#reads = clock;
  }

  become(state: Judgement['state']): void {
    this.assume(fakeState({ ...this.#fake, state }, this.#reads.read()));
  }

  override activate(): Promise<Activation> {
    return Promise.resolve({ ok: true, instanceId: 'act_fake', created: false, judgement: this.judgement() });
  }

  override validate(): Promise<Validation> {
    return Promise.resolve({ ...this.judgement(), source: 'network', problem: null });
  }

  override deactivate(): Promise<Deactivation> {
    return Promise.resolve({ ok: true });
  }
}

const untrustedRoot = () => Promise.resolve({ ok: false, reason: 'UNTRUSTED_ROOT' } as const);
const trustsNobody: Checks = { learn: untrustedRoot, distrust: () => undefined, revoked: [], lease: untrustedRoot, verdict: untrustedRoot, licenseFile: untrustedRoot, offlineFile: untrustedRoot };
