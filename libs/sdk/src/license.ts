import { reasons, Verifier, type FileType, type LicensedTerms, type Reason } from '@keyledger/license-file';
import { Answers, type Asker } from './answers.ts';
import { FeatureMissing, type Activation, type Deactivation, type LicenseEvents, type LicenseOptions, type Logger, type SeatOptions, type Validation } from './api.ts';
import { Changes } from './changes.ts';
import { held, msOf, processClock, type Clock } from './clock.ts';
import { fakeClock, fakeOpened, fakeState, type FakeOptions } from './fake.ts';
import { Heartbeats } from './heartbeats.ts';
import { infoOf, intervalMsOf, termsOf, type LicenseInfo } from './info.ts';
import { defined } from './json.ts';
import { judge, type Judgement, type Limits } from './judgement.ts';
import { inherited, written, type Checks, type Kept } from './kept.ts';
import { Keys } from './keys.ts';
import { Listeners } from './listeners.ts';
import { installing, verifiedOffline, verifyOffline, verifyToken, type OfflineOptions, type OfflineResult } from './offline.ts';
import { harmless, openState, quietly, type Opened } from './opening.ts';
import { Quotas, type UsableQuota } from './quotas.ts';
import type { Refusal } from './refusal.ts';
import { Reports, type Reported, type SendReadings } from './reports.ts';
import { Seat } from './seat.ts';
import { Server } from './server.ts';
import { Sharing } from './sharing.ts';
import { apply, type LicenseEvent, type State } from './state.ts';
import { memoryStore, spelled, type Store } from './store.ts';
import { firstTickMs, isClockBack, nextTick, reservedFor, reserving, ticked, timeOf } from './time.ts';
import type { Counted, Feature, UsageRecord } from './usage.ts';
import { Writing } from './writing.ts';

/**
 * A license, as the licensed software sees it. Nothing here throws because of a server, a network or a disk: every method answers, and
 * `judgement()` says at any moment, without waiting, what the software may do.
 */
export class License {
  readonly heartbeat: Heartbeats;
  /** Hears of changes as they happen. While it runs, a revocation is known at once, not with the next heartbeat. */
  readonly changes: Changes;
  /** What was in the store: nothing, this instance's earlier state, or a text that it did not write. */
  readonly opened: Opened['opened'];
  readonly #logger: Logger | undefined;
  readonly #clock: Clock;
  readonly #server: Server | undefined;
  readonly #verifier: Checks;
  readonly #store: Store;
  readonly #seal: (text: string) => Promise<string>;
  readonly #disposed = new AbortController();
  readonly #asker: Asker;
  readonly #listeners: Listeners;
  readonly #writing: Writing;
  readonly #keys: Keys;
  readonly #answers: Answers;
  readonly #reports: Reports;
  readonly #quotas: Quotas;
  readonly #sharing: Sharing | undefined;
  readonly #seat: Seat;
  readonly #limits: Limits;
  #kept: Kept;
  #last: Judgement;
  #clockIsBack = false;
  #asking: Promise<Refusal | null> | undefined;
  #tickMs = firstTickMs;

  /** Rejects only for roots that are no keys, and without WebCrypto with Ed25519. */
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
    // Readings that wait in the store are sent by the process that wrote them.
    if (!(await license.#leads())) {
      license.#sharing?.leave();
      license.#keep({ outbox: [], sent: [] });
    }
    await license.#writing.now();
    return license;
  }

  protected constructor(
    options: LicenseOptions & Required<Pick<LicenseOptions, 'environment' | 'clock' | 'store'>> & { readonly report?: SendReadings },
    { kept, fingerprint, verifier, seal, unseal, text, opened }: Opened,
  ) {
    const { server: url, environment, clock, store, key, product: productId, deploymentId, deploymentMode, version, logger, timeoutMs = 10_000, attempts = 3 } = options;
    this.#logger = logger;
    this.#clock = clock;
    this.#store = store;
    this.#kept = kept;
    this.#verifier = verifier;
    this.#seal = seal;
    this.opened = opened;
    this.#server = url === undefined || key === undefined ? undefined : new Server({ url, environment, clock, timeoutMs, attempts, fetch: options.fetch ?? ((to, init) => fetch(to, init)) });
    this.#limits = { asksNobody: this.#server === undefined, ...(options.offlineGraceDays !== undefined && { offlineGraceMs: options.offlineGraceDays * 86_400_000 }) };
    this.#last = judge(kept.state, clock.read(), this.#limits);
    this.#asker = { licenseKey: key, fingerprint, ...defined({ productId, deploymentId, deploymentMode }) };
    this.#listeners = new Listeners(logger);
    this.#writing = new Writing(() => this.#write(), logger);
    const [server, { shared }] = [this.#server, store];
    const leads = async () => {
      await this.#sharing?.settled();
      return this.#leads();
    };
    const port = {
      clock, logger, kept: () => this.#kept, keep: (changes: Partial<Kept>) => this.#keep(changes), persist: () => this.#writing.now(), now: () => this.#now(),
      info: () => this.info, judgement: () => this.judgement(), disposed: this.#disposed.signal,
    };
    this.#sharing = shared && new Sharing({
      ...port, store, shared, read: (sealed) => unseal(sealed, this.#kept.keys.keys), learn: (theirs) => this.#learn(theirs), inherit: (theirs) => this.#inherit(theirs),
      written: () => this.#writing.last, isUrgent: () => this.#kept.leaving !== undefined,
      leading: (besideOthers) => {
        this.heartbeat.takeOver(besideOthers);
        this.changes.again();
      },
      failed: (error) => logger?.warn('the other processes of this installation cannot be looked after', { error }),
    }, text, opened !== 'tampered');
    this.#keys = new Keys({ ...port, verifier, fetch: () => server?.ask('GET', '/.well-known/jwks.json') });
    this.#answers = new Answers({
      ...port, server, asker: this.#asker, verifier, keys: this.#keys, apply: (event) => this.#apply(event), failed: (refusal) => this.#listeners.emit('unreachable', refusal),
      answered: (askedAt, aheadMs) => this.#reports.areKnown(askedAt, aheadMs),
    });
    this.#reports = new Reports({
      ...port, answers: this.#answers, waitsForSeat: () => this.terms?.seats === 'floating',
      send: options.report ?? (server && ((instanceId, records) => server.ask('POST', '/license/usage', { licenseKey: key, instanceId, records }))),
    });
    this.#quotas = new Quotas({
      ...port, counted: () => this.#counted(), use: (name, value, isGauge) => this.#reports.use(name, value, isGauge),
      exceeded: (quota) => this.#listeners.emit('exceeded', quota), onExceeded: (listener) => this.on('exceeded', listener),
    });
    this.heartbeat = new Heartbeats({
      ...port, version, fingerprint, answers: this.#answers, keys: this.#keys, sharing: this.#sharing,
      send: (licenseId, body) => server?.ask('POST', `/licenses/${encodeURIComponent(licenseId)}/heartbeat`, body, key),
      leads, hasLostSeat: () => this.#seat.isLost, takeSeatAnew: () => this.#seat.takeAnew(), reportUsage: () => this.#reports.send(),
      directive: (directive) => this.#listeners.emit('directive', directive), conflict: (lastSeq, seq) => this.#listeners.emit('conflict', { lastSeq, seq }),
    });
    this.changes = new Changes({
      ...port, leads: async () => (await leads()) && this.#sharing?.isCrowded !== true, ask: () => this.#askAndBeat(),
      open: (licenseId, instanceId, signal) => server?.open(`/licenses/${encodeURIComponent(licenseId)}/stream?activationId=${encodeURIComponent(instanceId)}`, key, signal),
      acknowledge: (licenseId, activationId, seq) => server?.ask('POST', `/licenses/${encodeURIComponent(licenseId)}/stream/ack`, { seq, activationId }, key),
    });
    this.#seat = new Seat({ ...port, server, asker: this.#asker, answers: this.#answers, heartbeat: this.heartbeat, changes: this.changes, sharing: this.#sharing, apply: (event) => this.#apply(event) });
    void this.#keepTime();
  }

  /** Checks the text of a license file or an offline validation file against the pinned roots, with no network and no state. */
  static readonly verifyOffline = verifyOffline;

  /** Checks a lease or a verdict of an answer, for software that handles them itself. `keys`: the server's, each with its certificate. */
  static readonly verifyToken = verifyToken;

  /** For the tests of your software: a license in the state you give, with no server and no signature. */
  static fake(options: FakeOptions = {}): FakeLicense {
    return new FakeLicense(options);
  }

  get fingerprint(): string {
    return this.#asker.fingerprint;
  }

  /** What the license says, by the newest signed proof; null before there is one. */
  get info(): LicenseInfo | null {
    return infoOf(this.#kept.state);
  }

  /** The newest signed terms, of a lease or a file; null before there are any. */
  get terms(): LicensedTerms | null {
    return termsOf(this.#kept.state);
  }

  get licenseId(): string | null {
    return this.#kept.state.licenseId;
  }

  get instanceId(): string | null {
    return this.#kept.state.instanceId;
  }

  /** Whether the last attempt to write the state into the store has succeeded. */
  get isStored(): boolean {
    return this.#writing.isStored;
  }

  /** The wall clock is behind the time it must be, as `clock-rollback` has told. */
  get isClockBack(): boolean {
    return isClockBack(this.#kept.state.time, this.#clock.read());
  }

  /** What the software may do now. Asks no server, and is cheap enough to call on every request. */
  judgement(): Judgement {
    return judge(this.#kept.state, this.#clock.read(), this.#limits);
  }

  /** Takes a seat. The same machine gets the same seat again. */
  activate(seat: SeatOptions = {}): Promise<Activation> {
    return held(this.#seat.take(seat));
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
    await this.#writing.now();
    const judgement = this.judgement();
    const source = !problem ? 'network' : this.#kept.state.said?.from === 'offline-file' || (this.#kept.state.file && !this.#kept.state.lease) ? 'offline-file' : 'cache';
    return { ...judgement, source, problem };
  }

  feature(name: string): Feature {
    return this.#quotas.feature(name);
  }

  /** Throws FeatureMissing unless the feature is enabled. */
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

  /** Those readings: where the key was replaced, `record` takes them under the new one. */
  get unsent(): readonly UsageRecord[] {
    return this.#kept.outbox;
  }

  /**
   * Takes readings that were made elsewhere, to be sent like those of `quota`. When it answers, all of them are in the store, or (NOT_STORED,
   * TOO_MANY_WAITING) none is taken. An id that already waits counts once; the server knows all ids that it was ever sent.
   */
  record(readings: readonly { readonly meter: string; readonly value: number; readonly id?: string; readonly at?: string }[]): Promise<{ readonly ok: true; readonly accepted: number; readonly duplicates: number } | Refusal> {
    return this.#reports.take(readings);
  }

  /** Sends the readings that wait. Heartbeats do so by themselves. */
  reportUsage(): Promise<Reported> {
    return held(this.sendUsage());
  }

  protected sendUsage(): Promise<Reported> {
    return this.#reports.send();
  }

  /** Checks a file for this machine and this license, by the license's own reckoning of time. Nothing is kept. */
  verifyOffline(text: string, { type }: { readonly type?: FileType } = {}): Promise<OfflineResult> {
    return verifiedOffline(this.#verifier, text, this.#expected(type), this.#clock.read(), this.#kept.state, this.#limits);
  }

  /** Checks a file, and goes by it from now on. `replace`: also if it is of another license; the state of the one before is then forgotten, except the time. */
  async install(text: string, { type, replace = false }: { readonly type?: FileType; readonly replace?: boolean } = {}): Promise<OfflineResult> {
    const replaced = apply(this.#kept.state, { type: 'Replaced' }, this.#clock.read());
    const base = replace && replaced.ok ? replaced.state : this.#kept.state;
    const { license: _, ...anyLicense } = this.#expected(type);
    const result = await verifiedOffline(this.#verifier, text, replace ? anyLicense : this.#expected(type), this.#clock.read(), base, this.#limits);
    if (!result.ok) return result;
    if (replace && result.file.license.id !== this.licenseId) this.#apply({ type: 'Replaced' });
    this.#apply(installing(result, text));
    await this.#writing.now();
    return { ...result, judgement: this.judgement() };
  }

  /** Gives the seat back, unless the vendor has moved it to another machine. If the server cannot be told, the instance still has it, and all goes on as before. */
  deactivate(): Promise<Deactivation> {
    return held(this.#seat.giveBack());
  }

  /** Returns how to stop listening. */
  on<E extends keyof LicenseEvents>(event: E, listener: (event: LicenseEvents[E]) => void): () => void {
    return this.#listeners.on(event, listener);
  }

  /** Ends heartbeats, the stream of changes and timers for good, and stores the time. The seat stays. */
  async dispose(): Promise<void> {
    this.heartbeat.stop();
    this.changes.stop();
    this.#disposed.abort();
    await this.#writing.end();
    await this.#sharing?.close();
  }

  protected assume(state: State): void {
    this.#keep({ state });
  }

  async #askAndBeat(): Promise<Refusal | null> {
    const problem = await this.#answers.ask();
    // The server waits for a heartbeat, which this process can send.
    return !problem && this.judgement().code === 'HEARTBEAT_OVERDUE' && (await this.heartbeat.together()).ok ? this.#answers.ask() : problem;
  }

  // ---- other processes with the same state ----

  async #leads(): Promise<boolean> {
    return (await quietly(() => this.#sharing?.leads(), 'it is not known who leads', this.#logger)) ?? true;
  }

  #learn({ state, keys, keysAt }: Kept): void {
    const { instanceId } = this;
    this.#apply({ type: 'Followed', state });
    if (this.instanceId !== instanceId) this.changes.again();
    this.#keys.join(keys, keysAt);
  }

  #inherit(theirs: Kept): void {
    this.#keep(inherited(this.#kept, theirs));
    this.#learn(theirs);
  }

  // ---- knowing ----

  #now(): number {
    return timeOf(this.#kept.state.time, this.#clock.read());
  }

  #expected(type: FileType | undefined): Omit<OfflineOptions, 'roots' | 'environment'> {
    return { ...defined({ type, product: this.#asker.productId, license: this.licenseId ?? undefined }), fingerprint: this.fingerprint };
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
      if (!isMissed && event.type !== 'Released' && event.type !== 'Replaced' && event.type !== 'Seated' && this.judgement().enforcement !== 'LOCKED') this.#listeners.emit('renewed', this.judgement());
    }
    return null;
  }

  /** Tells changes that software acts upon, and a clock that was put back. */
  #notice(): void {
    const reading = this.#clock.read();
    const [before, now] = [this.#last, judge(this.#kept.state, reading, this.#limits)];
    this.#last = now;
    if (before.enforcement !== now.enforcement || before.code !== now.code || before.state !== now.state) this.#listeners.emit('state', { before, now });
    // Timers stand still while a machine sleeps, but the grace does not: the server may be there, and the next heartbeat an interval away.
    if (before.code !== now.code && (now.code === 'HEARTBEAT_OVERDUE' || this.#seat.isLost)) this.heartbeat.hurry();
    this.#quotas.notice();
    const isBack = isClockBack(this.#kept.state.time, reading);
    if (isBack && !this.#clockIsBack) this.#listeners.emit('clock-rollback', { wall: reading.wall, atLeast: Date.parse(now.at) });
    this.#clockIsBack = isBack;
  }

  async #keepTime(): Promise<void> {
    const { signal } = this.#disposed;
    for (;;) {
      await this.#clock.sleep(this.#tickMs, signal);
      if (signal.aborted) return;
      this.#tickMs = nextTick(this.#tickMs);
      this.#keep({ state: ticked(this.#kept.state, this.#clock.read()) });
      await this.#writing.now();
    }
  }

  async #write(): Promise<void> {
    const text = () => {
      const state = reserving(this.#kept.state, this.#clock.read(), this.#disposed.signal.aborted ? 0 : reservedFor(this.#tickMs));
      return this.#seal(written({ ...this.#kept, state }));
    };
    await (this.#sharing ? this.#sharing.write(text) : this.#store.write(await text()));
  }
}

/** Answers as if a server had found everything in order, except for the given state. Sends nothing, and has no timers. */
export class FakeLicense extends License {
  readonly #fake: FakeOptions;

  constructor(options: FakeOptions = {}) {
    const report: SendReadings = (_instanceId, records) => Promise.resolve({ kind: 'answered', status: 200, body: { accepted: records.length } });
    super({ roots: [], environment: 'fake', clock: fakeClock, store: memoryStore(), report }, fakeOpened(options, fakeClock.read()));
    this.#fake = options;
    this.heartbeat.beat = this.heartbeat.together = async () => {
      await this.sendUsage();
      return { ok: true, judgement: this.judgement(), nextInMs: intervalMsOf(this.terms) };
    };
  }

  become(state: Judgement['state']): void {
    this.assume(fakeState({ ...this.#fake, state }, fakeClock.read()));
  }

  override activate(): Promise<Activation> {
    return Promise.resolve({ ok: true, instanceId: 'act_fake', created: false, judgement: this.judgement() });
  }

  override reportUsage(): Promise<Reported> {
    return this.sendUsage();
  }

  override validate(): Promise<Validation> {
    return Promise.resolve({ ...this.judgement(), source: 'network', problem: null });
  }

  override deactivate(): Promise<Deactivation> {
    return Promise.resolve({ ok: true });
  }
}
