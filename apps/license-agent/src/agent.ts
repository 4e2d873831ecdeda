import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileTypeOf } from '@keyledger/license-file';
import { inTime, memoryStore, sameKey, type Judgement, type License } from '@keyledger/sdk';
import { Refused, type Access, type EnforcementAnswer, type FeatureAnswer, type LicenseAnswer, type ProblemAnswer, type UsageAnswer } from './api.ts';
import { judgedByFile, misplacedFor } from './by-file.ts';
import { hashOf, Pending, type ByKey, type Kept } from './data-dir.ts';
import { Holder, type Reading, type Source } from './holder.ts';
import { MountedFile } from './mounted-file.ts';
import { agentVersion, type AgentOptions } from './open-license.ts';
import { Problems, refusedBy, refusedFile, refusedFor, refusedIn, retryMs, saysNothing, standingProblems } from './refusals.ts';
import { Turns } from './turns.ts';
import { licensePart } from './view.ts';

const deliverMs = 60_000;
/** The server accepts no readings further away in time. */
const [skewMs, reachesBackMs] = [300_000, 399 * 86_400_000];
const closedWithinMs = 3_000;
const severities: readonly ProblemAnswer['severity'][] = ['error', 'warning', 'info'];
/** The greatest age of the answer about enforcement. */
const freshMs = 20;

/**
 * Stands between the product on this machine and the license server or file. A failing license never replaces a working one. The SDK judges what a
 * license allows; the agent decides where it comes from, and reports it.
 */
export class Agent {
  readonly #options: AgentOptions;
  readonly #holder: Holder;
  readonly #closed = new AbortController();
  readonly #problems: Problems;
  readonly #turns: Turns;
  readonly #file: MountedFile | undefined;
  /** The seat is being given back. Usage recorded meanwhile could not be sent any more. */
  #isLeaving = false;
  /** Why the server was not reached the last time it failed. */
  #unheard: Refused | null = null;
  #enforcement = { answer: Buffer.alloc(0), text: '', builtAt: -Infinity };

  static async open(options: AgentOptions): Promise<Agent> {
    const holder = await Holder.open(options);
    const agent = new Agent(options, holder);
    const isLost = await holder.restore();
    if (holder.found === 'foreign') agent.#problems.report('state', 'STATE_OF_ANOTHER_MACHINE', 'The data directory is of another machine. What it holds is not used here and stays as it is: give this machine a license of its own');
    // A file was kept whole and is installed again: there is nothing left to do.
    if (isLost && holder.license.licenseId !== null) options.log.warn({ license: holder.license.licenseId }, 'the state of the license was lost and restored from its file');
    else if (holder.found === 'damaged' || isLost) agent.#problems.report('state', 'STATE_DAMAGED', 'The state was lost or could not be read, and is made anew. A license by key is asked for again; if there is none now, upload it');
    agent.#rebuild();
    return agent;
  }

  private constructor(options: AgentOptions, holder: Holder) {
    this.#options = options;
    this.#holder = holder;
    this.#problems = new Problems(options.log, () => holder.now);
    this.#turns = new Turns(() => holder.leaving.giveBack(), options.log);
    const { clock, log, config: { licenseFile: path } } = options;
    if (path !== undefined) this.#file = new MountedFile({ path, holder, clock, log, problems: this.#problems, turns: this.#turns, apply: (text) => this.#apply(text, false) });
    this.#follow(holder.license);
  }

  get #license(): License {
    return this.#holder.license;
  }

  get #kept(): Kept {
    return this.#holder.kept;
  }

  /** From now on the agent maintains its license by itself, until `close`. */
  start(): void {
    const { config: { licenseKey, filePollMs, mode } } = this.#options;
    const { source } = this.#kept;
    if (source?.kind === 'key' && this.#license.instanceId !== null) this.#keepInTouch();
    else if (source?.kind === 'key') this.#acquireAgain(source);
    if (licenseKey !== undefined && this.#awaitsKey) void this.#acquire(licenseKey, () => this.#awaitsKey);
    const file = this.#file;
    if (file) void this.#every(filePollMs, () => this.#turns.exclusively(() => file.poll()));
    if (mode === 'online') void this.#every(() => (this.#license.instanceId === null ? deliverMs : inTime(this.#heartbeatMs, this.#license.judgement())), () => this.#askWithoutHeartbeat());
    void this.#every(deliverMs, () => this.#license.reportUsage());
    void this.#every(deliverMs, () => this.#turns.exclusively(() => this.#lookAfter()));
  }

  async close(): Promise<void> {
    this.#closed.abort();
    // Not for as long as a server that does not answer may take.
    await Promise.race([Promise.all([this.#turns.changed(), this.#turns.givenBack()]), sleep(closedWithinMs, undefined, { ref: false })]);
    await this.#license.dispose();
  }

  // ---- what is asked ----

  answer(access: Access = 'full'): LicenseAnswer {
    return { ...this.#answerOf(this.#license, this.#kept.source, true), access };
  }

  /** JSON of `EnforcementAnswer`, made in advance. */
  enforcement(): Buffer {
    const now = performance.now();
    if (now - this.#enforcement.builtAt > freshMs) this.#rebuild();
    return this.#enforcement.answer;
  }

  feature(name: string): FeatureAnswer {
    const feature = this.#license.feature(name);
    const counted = feature.per === null ? undefined : this.#holder.metersOf().find(({ meter, per }) => meter === name && per === feature.per);
    return { ...feature, ...(counted && { used: counted.used, remaining: counted.remaining }), enabled: feature.enabled && this.#holder.judged().enforcement !== 'LOCKED' };
  }

  /** The text of a license file, or a license key. A dry run shows the result, and changes nothing. */
  put(content: string, { dryRun }: { readonly dryRun: boolean }): Promise<LicenseAnswer> {
    const work = () => (dryRun ? this.#apply(content, dryRun) : this.#endingTheWait((seen) => this.#apply(content, dryRun, seen)));
    return dryRun || fileTypeOf(content) || !isKey(keyIn(content)) ? this.#turns.exclusively(work) : this.#turns.onceGivenBack(work);
  }

  /** Reads the file and asks the server now; also tries a refused file or key again. */
  refresh(): Promise<LicenseAnswer> {
    const work = async () => {
      const { licenseKey } = this.#options.config;
      await this.#file?.poll({ atOnce: true });
      const { source } = this.#kept;
      // If another license works, an error of this key is only listed among the problems.
      if (this.#awaitsKey && licenseKey !== undefined) await this.#endingTheWait((seen) => this.#applyKey(keyIn(licenseKey), seen)).catch((error: unknown) => (source ? void refusedIn(error, this.#options.log) : Promise.reject(error)));
      const { source: current } = this.#kept;
      if (current?.kind === 'key') await this.#askNow(current.key);
      else if (!current && !this.#file) throw new Refused('NO_LICENSE');
      return this.answer();
    };
    const triesKey = this.#awaitsKey || (this.#kept.source?.kind === 'key' && this.#license.instanceId === null);
    return triesKey ? this.#turns.onceGivenBack(work) : this.#turns.exclusively(work);
  }

  /**
   * Sends what was used, gives the seat back, and forgets the license, unless one of these fails; a configured key or file counts again once it changes.
   * Where a floating seat has lapsed, and the server gives no other, there is none to give back: what was used is sent once it does.
   */
  deactivate(): Promise<LicenseAnswer> {
    return this.#turns.exclusively(async () => {
      const { source } = this.#kept;
      if (!source) throw new Refused('NO_LICENSE');
      const hasSeat = source.kind === 'key' && this.#license.instanceId !== null;
      try {
        if (hasSeat) {
          this.#isLeaving = true;
          const unsent = await this.#holder.leaving.sendRest(this.#license);
          if (unsent && !unsent.needsSeat) throw refusedBy(unsent.refusal);
          // A disk without room is found before the seat is gone.
          await this.#holder.keep({});
          const given = unsent ? undefined : await this.#license.deactivate();
          if (given?.ok === false) throw refusedBy(given);
        }
        const none = await this.#holder.candidate(null, memoryStore());
        return await this.#endingTheWait((seen) => this.#replace(none, null, seen));
      } finally {
        this.#isLeaving = false;
        // Its seat was given back, but the license is still in use: it needs one again.
        if (hasSeat && this.#kept.source === source && this.#license.instanceId === null) this.#acquireAgain(source);
      }
    });
  }

  /** Answers once all readings are on the disk; they are sent later, each id once. With a license file there is no server: they are counted here. */
  async use(readings: readonly Reading[]): Promise<UsageAnswer> {
    const { source } = this.#kept;
    if (!source) throw new Refused('NO_LICENSE');
    const now = this.#holder.now;
    const strange = readings.findIndex(({ at }) => at !== undefined && !(Date.parse(at) <= now + skewMs && Date.parse(at) > now - reachesBackMs));
    if (strange >= 0) throw new Refused('USAGE_OUT_OF_RANGE', `It is ${new Date(now).toISOString()}`, { errors: [{ pointer: `/records/${strange}/at`, detail: 'is in the future, or more than 399 days ago' }] });
    if (source.kind === 'file') {
      const duplicates = await this.#turns.exclusively(async () => (this.#kept.source?.kind === 'file' ? this.#holder.meter(readings) : undefined));
      // The file was replaced meanwhile: the readings are for the present license.
      if (duplicates === undefined) return this.use(readings);
      return { accepted: readings.length - duplicates, duplicates, queued: 0 };
    }
    if (this.#isLeaving) {
      await this.#turns.changed();
      return this.use(readings);
    }
    const taken = await this.#license.record(readings);
    if (!taken.ok) throw new Refused(taken.code === 'TOO_MANY_WAITING' ? 'USAGE_QUEUE_FULL' : 'STORAGE_FAILED', taken.detail);
    void this.#license.reportUsage();
    return { accepted: taken.accepted, duplicates: taken.duplicates, queued: this.#license.waiting };
  }

  // ---- where a license comes from ----

  async #apply(content: string, dryRun: boolean, seen = this.#kept.seen): Promise<LicenseAnswer> {
    // The verifier judges white space around a file.
    if (fileTypeOf(content)) return this.#applyFile(content, dryRun, seen);
    const key = keyIn(content);
    if (!isKey(key)) throw new Refused('LICENSE_UNREADABLE');
    return dryRun ? this.#tryKey(key) : this.#applyKey(key, seen);
  }

  async #tryKey(key: string): Promise<LicenseAnswer> {
    const source: Source = { kind: 'key', key, state: '' };
    const candidate = await this.#holder.candidate(source, memoryStore());
    try {
      const { problem, ...judgement } = await candidate.validate();
      if (problem) throw refusedBy(problem);
      const { activationLimit, activationCount } = candidate.info ?? {};
      // A license bound to hardware is bound to this machine only by activation, which takes a seat. For other licenses it is not known whose the seats are.
      const takesSeat = judgement.code === 'FINGERPRINT_MISMATCH' && judgement.reasons.length === 1;
      if (!judgement.valid && !takesSeat) throw refusedFor(judgement);
      if (takesSeat && activationLimit != null && activationLimit >= 0 && activationCount != null && activationCount >= activationLimit) {
        throw new Refused('ACTIVATION_LIMIT_EXCEEDED', undefined, { limit: activationLimit, used: activationCount });
      }
      return this.#answerOf(candidate, source, false, takesSeat ? { ...judgement, code: 'VALID', reasons: [], detail: 'License valid', enforcement: 'FULL', state: 'active', valid: true } : judgement);
    } finally {
      await candidate.dispose();
    }
  }

  async #applyKey(key: string, seen = this.#kept.seen): Promise<LicenseAnswer> {
    // `onceGivenBack` has waited already, but for a key in a mounted file, and after changes since.
    await this.#turns.givenBack();
    if (this.#kept.source?.kind === 'key' && sameKey(this.#kept.source.key) === sameKey(key)) {
      await this.#activate(this.#license);
      await this.#holder.keep({ seen });
      for (const topic of ['state', 'clone'] as const) this.#problems.settle(topic);
      this.#keepInTouch();
      return this.answer();
    }
    const { source, license } = await this.#holder.candidateByKey(key);
    try {
      const judgement = await this.#activate(license);
      const { source: current } = this.#kept;
      if (!judgement.valid && current && this.#holder.judged().valid) throw refusedFor(judgement);
      // A file of the same license goes on adding to it.
      if (current?.kind === 'file') await license.install(current.text);
      await this.#replace(license, source, seen);
    } finally {
      this.#turns.giveBack();
    }
    this.#keepInTouch();
    return this.answer();
  }

  async #applyFile(text: string, dryRun: boolean, seen: Kept['seen']): Promise<LicenseAnswer> {
    const source: Source = { kind: 'file', text, state: randomUUID() };
    const store = new Pending();
    const candidate = await this.#holder.candidate(source, store);
    try {
      const current = this.#kept.source ? await this.#license.verifyOffline(text) : undefined;
      const isOther = !current || (!current.ok && current.reason === 'WRONG_SUBJECT');
      const result = isOther ? await candidate.install(text) : current;
      if (!result.ok && result.reason === 'WRONG_AUDIENCE') throw new Refused('PRODUCT_MISMATCH');
      if (!result.ok) throw new Refused('LICENSE_FILE_REFUSED', result.detail, { reason: result.reason });
      const { license } = result.file;
      const [misplaced] = misplacedFor(license, this.#options.config);
      if (misplaced) throw new Refused(misplaced, undefined, misplaced === 'DEPLOYMENT_MODE_MISMATCH' ? { deploymentMode: license.deploymentMode } : { deploymentId: license.deploymentId });
      const judgement = isOther || this.#kept.source?.kind === 'file' ? judgedByFile(result.judgement, license, this.#kept.firstSeen[license.id], []) : result.judgement;
      if (!judgement.valid) throw refusedFile(judgement, result.file.issuedAt);
      if (dryRun) return isOther ? this.#answerOf(candidate, source, false) : await this.#tryAdding(text);
      await this.#holder.seeFirst(license.id, candidate);
      if (isOther) await this.#replace(candidate, source, seen, store);
      else await this.#holder.add(text, seen);
    } finally {
      if (candidate !== this.#license) await candidate.dispose();
    }
    return this.answer();
  }

  /** Tries the file on a copy of the present license. */
  async #tryAdding(text: string): Promise<LicenseAnswer> {
    const copy = await this.#holder.copy();
    try {
      await copy.install(text);
      return this.#answerOf(copy, this.#kept.source, false);
    } finally {
      await copy.dispose();
    }
  }

  /** Without a signed answer it is unknown which license it is, and what it allows: then it counts as none. */
  async #activate(license: License): Promise<Judgement> {
    const seat = await license.activate(this.#holder.seat);
    if (!seat.ok) throw refusedBy(seat);
    // The number of seats, and of free ones, is in a verdict only.
    const { problem, ...judgement } = await license.validate();
    if (license.licenseId === null) throw problem ? refusedBy(problem) : refusedFor(judgement);
    return judgement;
  }

  async #replace(license: License, source: Source | null, seen: Kept['seen'], store?: Pending): Promise<void> {
    await this.#holder.replace(license, source, seen, store);
    this.#follow(license);
    if (source) this.#problems.settle('state');
    this.#problems.settle('clone');
    this.#options.log.info({ source: source?.kind ?? null, license: license.licenseId }, source ? 'a license was installed' : 'the license was released');
    this.#turns.giveBack();
  }

  /** The configured key is being tried until it is good. Only an upload displaces it: a mounted file may be of the same license. */
  get #awaitsKey(): boolean {
    const { licenseKey } = this.#options.config;
    return licenseKey !== undefined && this.#kept.seen.key !== hashOf(licenseKey);
  }

  /** Once `work` has succeeded, the configured key counts again only when it changes. `work` writes `seen` together with its own outcome: a restart undoes no upload. */
  async #endingTheWait(work: (seen: Kept['seen']) => Promise<unknown>): Promise<LicenseAnswer> {
    const { licenseKey } = this.#options.config;
    const awaited = this.#awaitsKey;
    await work({ ...this.#kept.seen, ...(licenseKey !== undefined && { key: hashOf(licenseKey) }) });
    if (awaited) this.#problems.settle('key');
    return this.answer();
  }

  /** For the license in use, when it has no seat: its state was lost, or it could not be released after its seat was given back. */
  #acquireAgain({ key, state }: ByKey): void {
    void this.#acquire(key, () => this.#kept.source?.state === state);
  }

  /** Tries a key, configured or with its state lost, until it is accepted or no longer wanted, or the agent ends. */
  async #acquire(key: string, isWanted: () => boolean): Promise<void> {
    let wait: number = retryMs.unreachable[0];
    while (!this.#closed.signal.aborted) {
      const taken = this.#turns.onceGivenBack(async () => {
        if (isWanted()) await (key === this.#options.config.licenseKey ? this.#endingTheWait((seen) => this.#applyKey(keyIn(key), seen)) : this.#applyKey(keyIn(key)));
      });
      const refused = await taken.then(() => undefined, (error: unknown) => refusedIn(error, this.#options.log));
      if (!refused) return void this.#problems.settle('key');
      this.#problems.report('key', refused.code, `The license key ${key.slice(0, 8)}…: ${refused.message}`);
      const isLost = saysNothing(refused);
      wait = isLost ? Math.min(wait * 2, retryMs.unreachable[1]) : retryMs.refused;
      await this.#options.clock.sleep(isLost ? wait / 2 : wait, this.#closed.signal);
    }
  }

  // ---- what goes on by itself ----

  /** The license's interval, or the configured one if that is shorter. */
  get #heartbeatMs(): number {
    const { heartbeatIntervalSeconds = 3600 } = this.#license.terms ?? {};
    return Math.min(this.#options.config.heartbeatMs ?? Infinity, heartbeatIntervalSeconds * 1000);
  }

  /** A license that needs heartbeats, or with floating seats, ends without them. */
  #keepInTouch(): void {
    const { mode, heartbeatMs } = this.#options.config;
    const { validationMode, seats } = this.#license.terms ?? {};
    const interval = heartbeatMs === undefined ? 'server' : this.#heartbeatMs;
    if (mode !== 'online' || validationMode === 'heartbeat' || seats === 'floating') this.#license.heartbeat.start({ interval });
    this.#license.changes.start();
  }

  /** A midnight that has passed, a disk that has room again, a clock that is right again, a seat to be given back. */
  async #lookAfter(): Promise<void> {
    if (!this.#license.isClockBack) this.#problems.settle('clock');
    try {
      await this.#holder.meter([]);
      if (!this.#holder.isStored || this.#holder.hasGone) await this.#holder.keep({});
    } finally {
      this.#turns.giveBack();
    }
  }

  async #askWithoutHeartbeat(): Promise<void> {
    const license = this.#license;
    if (this.#kept.source?.kind !== 'key' || license.instanceId === null || license.heartbeat.isRunning) return;
    await license.validate();
    if (license === this.#license) this.#keepInTouch();
  }

  async #askNow(key: string): Promise<void> {
    if (this.#license.instanceId === null) return void (await this.#applyKey(key));
    await this.#license.heartbeat.beat();
    const { problem } = await this.#license.validate();
    if (problem) throw refusedBy(problem);
  }

  #follow(license: License): void {
    const isCurrent = () => this.#license === license;
    this.#unheard = null;
    license.on('unreachable', (refusal) => {
      if (isCurrent()) this.#unheard = refusedBy(refusal);
    });
    license.on('state', ({ now }) => {
      if (!isCurrent()) return;
      this.#rebuild();
      this.#options.log.info({ code: now.code, enforcement: now.enforcement, graceUntil: now.graceUntil }, 'the license has changed');
    });
    // An appliance that has lost its state starts counting anew, and is no clone.
    license.on('conflict', ({ seq }) => seq > 1 && isCurrent() && this.#problems.report('clone', 'STATE_CLONED', 'Another machine sends heartbeats as this one: it was cloned, or put back from a copy. Only one of them keeps the seat'));
    license.on('renewed', () => isCurrent() && this.#problems.settle('clock'));
    license.on('clock-rollback', () => isCurrent() && this.#problems.report('clock', 'CLOCK_SET_BACK', 'The clock of this machine was set back. It makes nothing last longer'));
    license.on('directive', ({ id, kind, payload, issuedAt }) => {
      const text = payload?.['text'] ?? payload?.['message'];
      if (kind !== 'message' || typeof text !== 'string' || !isCurrent()) return;
      this.#turns.exclusively(() => this.#holder.keep({ messages: [{ id, text, at: issuedAt }, ...this.#kept.messages].slice(0, 20) })).catch((error: unknown) => this.#options.log.warn({ err: error }, 'a message could not be kept'));
    });
    this.#rebuild();
  }

  async #every(ms: number | (() => number), work: () => Promise<unknown>): Promise<void> {
    while (!this.#closed.signal.aborted) {
      await work().catch((error: unknown) => this.#options.log.warn({ err: error }, 'will be tried again'));
      await this.#options.clock.sleep(typeof ms === 'number' ? ms : ms(), this.#closed.signal);
    }
  }

  // ---- what is told ----

  #rebuild(): void {
    const { enforcement, reasons, graceUntil: graceEndsAt } = this.#holder.judged();
    const text = JSON.stringify({ enforcement, reasons, graceEndsAt } satisfies EnforcementAnswer);
    this.#enforcement = { text, builtAt: performance.now(), answer: text === this.#enforcement.text ? this.#enforcement.answer : Buffer.from(text) };
  }

  #answerOf(license: License, source: Kept['source'], applied: boolean, judgement = this.#holder.judged(license, source)): LicenseAnswer {
    const { config, fingerprint } = this.#options;
    const meters = this.#holder.metersOf(license, source);
    const isOnline = source?.kind === 'key';
    const standing = standingProblems(judgement, { hasLicense: source !== null, isStored: this.#holder.isStored, unheard: this.#unheard });
    return {
      ...licensePart({ judgement, info: license.info, terms: license.terms, meters }, { byFile: source?.kind === 'file', ...config }),
      features: this.#holder.featuresOf(license, source),
      source: source?.kind ?? null, keyPrefix: isOnline ? source.key.slice(0, 8) : null, activationId: license.instanceId,
      installationId: this.#kept.installationId, hardwareId: fingerprint,
      server: {
        url: config.server ?? null, environment: config.environment, proxy: config.proxy ? new URL(config.proxy.url).host : null, noProxy: config.proxy?.except || null,
        reachable: isOnline ? !judgement.unreachable : null, connected: license.changes.isConnected,
      },
      file: this.#file ? { path: this.#file.path, checkedAt: this.#file.checkedAt } : null,
      problems: [...this.#problems.all, ...standing].sort((a, b) => severities.indexOf(a.severity) - severities.indexOf(b.severity)), messages: this.#kept.messages, usageQueued: license.waiting, access: 'full', applied, agentVersion,
    };
  }
}

/** Keys are pasted from mails and documents, with blanks, line ends, invisible characters, and typographic dashes. The server ignores them too. Words without a digit are no key. */
const keyIn = (text: string): string => (/\S\s+\S/.test(text) && !/\d/.test(text) ? text : text.replaceAll(/[\p{White_Space}\p{Cf}]+/gu, '').replaceAll(/\p{Pd}|\u2212/gu, '-'));

const isKey = (text: string): boolean => /^[\x21-\x7e]{8,255}$/.test(text);
