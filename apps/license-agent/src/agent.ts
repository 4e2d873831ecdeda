import { createHash, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileTypeOf, maxLength } from '@keyledger/license-file';
import { License, memoryStore, type Clock, type Fetch, type Judgement, type Store } from '@keyledger/sdk';
import { Refused, type EnforcementAnswer, type FeatureAnswer, type LicenseAnswer, type MeterAnswer, type ProblemAnswer, type UsageAnswer } from './api.ts';
import { compared, judgedByFile, meterByFile, withReading, type Metered } from './by-file.ts';
import type { AgentConfig } from './config.ts';
import { DataDir, Pending, type Found, type Kept } from './data-dir.ts';
import { refusedBy, refusedFor, standingProblems, stored, titleOf } from './refusals.ts';
import { licensePart, metersOf } from './view.ts';

export const agentVersion = '0.1.0';

export interface Logger {
  info(details: object, message: string): void;
  warn(details: object, message: string): void;
}

export interface AgentOptions {
  readonly config: Pick<AgentConfig, 'dataDir' | 'server' | 'environment' | 'roots' | 'licenseKey' | 'licenseFile' | 'deploymentId' | 'deploymentMode' | 'proxy'>;
  /** Of the machine, hashed. */
  readonly fingerprint: string;
  readonly clock: Clock;
  readonly fetch?: Fetch;
  readonly log: Logger;
}

export interface Reading {
  readonly meter: string;
  readonly value: number;
  readonly id?: string;
  readonly at?: string;
}

type Source = Exclude<Kept['source'], null>;
type Topic = 'state' | 'disk' | 'key' | 'file' | 'clone' | 'clock';

const pollMs = 5_000;
/** A key that was refused may be good later; one that nobody could be asked about is tried again soon. */
const retryMs = { refused: 300_000, unreachable: [1_000, 60_000] } as const;
const deliverMs = 60_000;
/** What it was last written that the time is may be so much too early. */
const keptForMs = 3_600_000;
/** The server takes no readings from further away. */
const [skewMs, reachesBackMs] = [300_000, 399 * 86_400_000];
const closedWithinMs = 3_000;
/** The answer about enforcement is at most so old. */
const freshMs = 20;

/**
 * Stands between the product on this machine and whoever licenses it. It has one license at a time, by key or by file; what fails never takes the
 * place of what works. What a license allows is the SDK's to judge; here is where it comes from, where it is kept, and who is told.
 */
export class Agent {
  readonly #options: AgentOptions;
  readonly #dir: DataDir;
  readonly #closed = new AbortController();
  readonly #problems = new Map<Topic, ProblemAnswer>();
  #kept: Kept;
  #license: License;
  /** One change at a time. */
  #last: Promise<unknown> = Promise.resolve();
  #delivering: Promise<void> | undefined;
  #file: { readonly hash: string | null; readonly checkedAt: string | null } = { hash: null, checkedAt: null };
  #enforcement = { answer: Buffer.alloc(0), text: '', builtAt: -Infinity };

  static async open(options: AgentOptions): Promise<Agent> {
    const dir = new DataDir(options.config.dataDir, options.fingerprint);
    const { found, kept } = await dir.open();
    await dir.tidy(kept.source?.state);
    const license = await openLicense(options, kept.source, kept.source ? dir.store(kept.source.state) : memoryStore(), kept.at);
    const agent = new Agent(options, dir, kept, license);
    await agent.#restore(found);
    return agent;
  }

  private constructor(options: AgentOptions, dir: DataDir, kept: Kept, license: License) {
    this.#options = options;
    this.#dir = dir;
    this.#kept = kept;
    this.#license = license;
    this.#follow(license);
  }

  /** From now on it looks after its license by itself, until `close`. */
  start(): void {
    const { config: { licenseKey, licenseFile } } = this.#options;
    const { source, seen } = this.#kept;
    if (source?.kind === 'key' && this.#license.instanceId !== null) this.#keepInTouch();
    else if (source?.kind === 'key') void this.#acquire(source.key);
    if (licenseKey !== undefined && seen.key !== hashOf(licenseKey)) void this.#acquire(licenseKey);
    if (licenseFile !== undefined) void this.#every(pollMs, () => this.#exclusively(() => this.#poll(licenseFile)));
    void this.#every(deliverMs, () => this.#deliver());
    void this.#every(deliverMs, () => this.#exclusively(() => this.#meter([])));
  }

  async close(): Promise<void> {
    this.#closed.abort();
    // Not for as long as somebody may take who does not answer.
    await Promise.race([this.#last.catch(() => undefined), sleep(closedWithinMs, undefined, { ref: false })]);
    await this.#license.dispose();
  }

  // ---- what is asked ----

  answer(): LicenseAnswer {
    return this.#answerOf(this.#license, this.#kept.source, true);
  }

  /** JSON of `EnforcementAnswer`, made before it was asked for. */
  enforcement(): Buffer {
    const now = performance.now();
    if (now - this.#enforcement.builtAt > freshMs) this.#rebuild();
    return this.#enforcement.answer;
  }

  feature(name: string): FeatureAnswer {
    const feature = this.#license.feature(name);
    return { ...feature, enabled: feature.enabled && this.#judged(this.#license).enforcement !== 'LOCKED' };
  }

  /** The text of a license file, or a license key. A dry run tells what it would be, and changes nothing. */
  put(content: string, { dryRun }: { readonly dryRun: boolean }): Promise<LicenseAnswer> {
    return this.#exclusively(() => this.#apply(content, dryRun));
  }

  /** Asks whoever can be asked, now. */
  refresh(): Promise<LicenseAnswer> {
    return this.#exclusively(async () => {
      const { source } = this.#kept;
      const { licenseFile } = this.#options.config;
      if (source?.kind === 'key') await this.#askNow(source.key);
      else if (licenseFile !== undefined) await this.#poll(licenseFile);
      else if (!source) throw new Refused('NO_LICENSE');
      return this.answer();
    });
  }

  /** Gives the seat back, and forgets the license; what is configured counts again when it is changed. */
  deactivate(): Promise<LicenseAnswer> {
    return this.#exclusively(async () => {
      const { source } = this.#kept;
      if (!source) throw new Refused('NO_LICENSE');
      if (source.kind === 'key' && this.#license.instanceId !== null) {
        const given = await this.#license.deactivate();
        if (!given.ok) {
          this.#keepInTouch();
          throw refusedBy(given);
        }
      }
      await this.#replace(await openLicense(this.#options, null, memoryStore(), this.#now()), null);
      return this.answer();
    });
  }

  /** Answers when all of it is on the disk; it is sent by and by, each id once. By file there is nobody to send it to: the peaks of the day count. */
  async use(readings: readonly Reading[]): Promise<UsageAnswer> {
    const { source } = this.#kept;
    if (!source) throw new Refused('NO_LICENSE');
    const now = this.#now();
    const strange = readings.findIndex(({ at }) => at !== undefined && !(Date.parse(at) <= now + skewMs && Date.parse(at) > now - reachesBackMs));
    if (strange >= 0) throw new Refused('USAGE_OUT_OF_RANGE', `It is ${new Date(now).toISOString()}`, { errors: [{ pointer: `/records/${strange}/at`, detail: 'is of the future, or more than 399 days ago' }] });
    if (source.kind === 'file') {
      await this.#exclusively(() => this.#meter(readings));
      return { accepted: readings.length, duplicates: 0, queued: 0 };
    }
    const taken = await this.#license.record(readings);
    if (!taken.ok) throw new Refused(taken.code === 'TOO_MANY_WAITING' ? 'USAGE_QUEUE_FULL' : 'STORAGE_FAILED', taken.detail);
    void this.#deliver();
    return { accepted: taken.accepted, duplicates: taken.duplicates, queued: this.#license.waiting };
  }

  // ---- where a license comes from ----

  async #apply(content: string, dryRun: boolean): Promise<LicenseAnswer> {
    // White space around a file is the verifier's to judge.
    if (fileTypeOf(content)) return this.#applyFile(content, dryRun);
    const key = content.trim();
    if (!/^[\x21-\x7e]{8,255}$/.test(key)) throw new Refused('LICENSE_UNREADABLE');
    return dryRun ? this.#tryKey(key) : this.#applyKey(key);
  }

  async #tryKey(key: string): Promise<LicenseAnswer> {
    const source: Source = { kind: 'key', key, state: '' };
    const candidate = await openLicense(this.#options, source, memoryStore(), this.#now());
    try {
      const { problem, ...judgement } = await candidate.validate();
      if (problem) throw refusedBy(problem);
      const { activationLimit, activationCount } = candidate.info ?? {};
      // A license that is bound to hardware is not bound to this one before it is activated; that takes a seat. Of others it is not known who has their seats.
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

  async #applyKey(key: string): Promise<LicenseAnswer> {
    if (this.#kept.source?.kind === 'key' && this.#kept.source.key === key) {
      await this.#activate(this.#license);
      this.#keepInTouch();
      return this.answer();
    }
    const source: Source = { kind: 'key', key, state: randomUUID() };
    const store = new Pending();
    const candidate = await openLicense(this.#options, source, store, this.#now());
    try {
      await this.#activate(candidate);
      await this.#replace(candidate, source, store);
    } finally {
      if (candidate !== this.#license) await candidate.dispose();
    }
    this.#keepInTouch();
    return this.answer();
  }

  async #applyFile(text: string, dryRun: boolean): Promise<LicenseAnswer> {
    const source: Source = { kind: 'file', text, state: randomUUID() };
    const store = new Pending();
    const candidate = await openLicense(this.#options, source, store, this.#now());
    try {
      const current = this.#kept.source ? await this.#license.verifyOffline(text) : undefined;
      const isOther = !current || (!current.ok && current.reason === 'WRONG_SUBJECT');
      const result = isOther ? await candidate.install(text) : current;
      if (!result.ok) throw new Refused('LICENSE_FILE_REFUSED', result.detail, { reason: result.reason });
      this.#mustBeForHere(result.file.license);
      const judgement = isOther || this.#kept.source?.kind === 'file' ? judgedByFile(result.judgement, result.file.license, this.#kept.firstSeen[result.file.license.id], []) : result.judgement;
      if (!judgement.valid) throw refusedFor(judgement);
      if (dryRun) {
        if (!isOther) await candidate.install(text);
        return this.#answerOf(candidate, source, false);
      }
      await this.#seeFirst(result.file.license.id);
      if (isOther) await this.#replace(candidate, source, store);
      else await this.#add(text);
    } finally {
      if (candidate !== this.#license) await candidate.dispose();
    }
    return this.answer();
  }

  async #add(text: string): Promise<void> {
    await this.#license.install(text);
    const { source } = this.#kept;
    if (source?.kind === 'file' && fileTypeOf(text) === 'license-file') await stored(() => this.#keep({ source: { ...source, text } }));
  }

  /** Before it is used, so that a trial cannot begin twice. */
  async #seeFirst(licenseId: string): Promise<void> {
    if (this.#kept.firstSeen[licenseId] === undefined) await stored(() => this.#keep({ firstSeen: { ...this.#kept.firstSeen, [licenseId]: this.#license.judgement().at } }));
  }

  /** A server is told where it is deployed; of a file it is checked here. */
  #mustBeForHere({ deploymentId, deploymentMode }: { readonly deploymentId: string | null; readonly deploymentMode: string | null }): void {
    const { config } = this.#options;
    const differs = (licensed: string | null, own: string | undefined) => licensed !== null && own !== undefined && licensed !== own;
    if (differs(deploymentMode, config.deploymentMode)) throw new Refused('DEPLOYMENT_MODE_MISMATCH', undefined, { deploymentMode });
    if (differs(deploymentId, config.deploymentId)) throw new Refused('DEPLOYMENT_MISMATCH', undefined, { deploymentId });
  }

  async #activate(license: License): Promise<void> {
    const seat = await license.activate({ name: hostname(), installationId: this.#kept.installationId, metadata: { agent: agentVersion } });
    if (!seat.ok) throw refusedBy(seat);
    // How many seats there are, and what is left of them, is in a verdict only.
    await license.validate();
  }

  /** The point of no return is when the agent's own file names the new state. Then the license before gives its seat back, if anybody can be told. */
  async #replace(license: License, source: Source | null, store?: Pending): Promise<void> {
    const before = { license: this.#license, source: this.#kept.source };
    await stored(async () => {
      if (source) await store?.settle(this.#dir.store(source.state));
      await this.#keep({ source });
    });
    this.#license = license;
    this.#follow(license);
    if (source) this.#problems.delete('state');
    this.#options.log.info({ source: source?.kind ?? null, license: license.licenseId }, source ? 'a license was taken' : 'the license was given back');
    void this.#release(before, source).catch((error: unknown) => this.#options.log.warn({ err: error }, 'the license before was not given back'));
  }

  async #release({ license, source }: { readonly license: License; readonly source: Source | null }, next: Source | null): Promise<void> {
    license.heartbeat.stop();
    license.changes.stop();
    if (source?.kind === 'key') {
      await license.reportUsage();
      if (next && license.instanceId !== null && license.licenseId !== this.#license.licenseId) await license.deactivate();
    }
    await license.dispose();
    if (source) await this.#dir.remove(source.state);
  }

  /** A key that is configured, or was before its state was lost: until it is taken, or the agent ends. */
  async #acquire(key: string): Promise<void> {
    let wait: number = retryMs.unreachable[0];
    while (!this.#closed.signal.aborted) {
      const taken = this.#exclusively(async () => {
        await this.#applyKey(key);
        if (key === this.#options.config.licenseKey) await stored(() => this.#keep({ seen: { ...this.#kept.seen, key: hashOf(key) } }));
      });
      const refused = await taken.then(() => undefined, (error: unknown) => this.#refused(error));
      if (!refused) return void this.#problems.delete('key');
      this.#report('key', refused.code, `The license key ${key.slice(0, 8)}…: ${refused.message}`);
      const isLost = refused.code === 'NO_OUTBOUND_ACCESS' || refused.code === 'UNTRUSTED_ANSWER';
      wait = isLost ? Math.min(wait * 2, retryMs.unreachable[1]) : retryMs.refused;
      await this.#options.clock.sleep(isLost ? wait / 2 : wait, this.#closed.signal);
    }
  }

  /** By content: where files are mounted they change by links, of which nobody is told. What fails is told, and tried again when it changes. */
  async #poll(path: string): Promise<void> {
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => void this.#report('file', 'LICENSE_FILE_MISSING', `${path} cannot be read (${error.code ?? 'unknown error'})`));
    if (text === undefined) return void (this.#file = { ...this.#file, hash: null });
    const hash = hashOf(text);
    const isKnown = hash === this.#file.hash;
    this.#file = { hash, checkedAt: new Date(this.#now()).toISOString() };
    if (isKnown) return;
    if (hash === this.#kept.seen.file) return void this.#problems.delete('file');
    try {
      if (text.length > maxLength * 2) throw new Refused('LICENSE_UNREADABLE', 'Too large for a license');
      await this.#apply(text, false);
      await stored(() => this.#keep({ seen: { ...this.#kept.seen, file: hash } }));
      this.#problems.delete('file');
    } catch (error) {
      const { code, message, members } = this.#refused(error);
      this.#report('file', code, `${path}: ${message}${typeof members['reason'] === 'string' ? ` (${members['reason']})` : ''}`);
      if (code === 'NO_OUTBOUND_ACCESS' || code === 'STORAGE_FAILED') this.#file = { ...this.#file, hash: null };
    }
  }

  // ---- what goes on by itself ----

  async #restore(found: Found): Promise<void> {
    if (found === 'foreign') this.#report('state', 'STATE_OF_ANOTHER_MACHINE', 'The data directory is of another machine. What it holds is not used here and stays as it is: give this machine a license of its own');
    const { source } = this.#kept;
    const isLost = source !== null && this.#license.opened !== 'restored';
    if (found === 'damaged' || isLost) this.#report('state', 'STATE_DAMAGED', 'The state was lost or could not be read, and is made anew. A license by key is asked for again; if there is none now, upload it');
    if (isLost && source.kind === 'file') await this.#license.install(source.text);
    // Without a disk it goes on with what it has; what must be on one is refused.
    await stored(() => this.#keep({})).catch((error: unknown) => this.#report('disk', 'STORAGE_FAILED', this.#refused(error).message));
  }

  /** What is no refusal is a bug, and is logged whole. */
  #refused(error: unknown): Refused {
    if (error instanceof Refused) return error;
    this.#options.log.warn({ err: error }, 'a license could not be looked at');
    return new Refused('INTERNAL');
  }

  #keepInTouch(): void {
    this.#license.heartbeat.start();
    this.#license.changes.start();
  }

  async #askNow(key: string): Promise<void> {
    if (this.#license.instanceId === null) return void (await this.#applyKey(key));
    await this.#license.heartbeat.beat();
    const { problem } = await this.#license.validate();
    if (problem) throw refusedBy(problem);
  }

  #follow(license: License): void {
    const isCurrent = () => this.#license === license;
    license.on('state', ({ now }) => {
      if (!isCurrent()) return;
      this.#rebuild();
      this.#options.log.info({ code: now.code, enforcement: now.enforcement, graceUntil: now.graceUntil }, 'the license has changed');
    });
    // Who has lost its state begins to count anew, and is no clone.
    license.on('conflict', ({ seq }) => seq > 1 && isCurrent() && this.#report('clone', 'STATE_CLONED', 'Another machine sends heartbeats as this one: it was cloned, or put back from a copy. Only one of them keeps the seat'));
    license.on('clock-rollback', () => isCurrent() && this.#report('clock', 'CLOCK_SET_BACK', 'The clock of this machine was set back. It makes nothing last longer'));
    license.on('directive', ({ id, kind, payload, issuedAt }) => {
      const text = payload?.['text'] ?? payload?.['message'];
      if (kind !== 'message' || typeof text !== 'string' || !isCurrent()) return;
      this.#exclusively(() => this.#keep({ messages: [{ id, text, at: issuedAt }, ...this.#kept.messages].slice(0, 20) })).catch((error: unknown) => this.#options.log.warn({ err: error }, 'a message could not be kept'));
    });
    this.#rebuild();
  }

  /** One delivery at a time, until nothing waits or nobody listens. */
  #deliver(): Promise<void> {
    return (this.#delivering ??= (async () => {
      const license = this.#license;
      while (this.#kept.source?.kind === 'key' && license.waiting > 0 && (await license.reportUsage()).ok);
    })().finally(() => (this.#delivering = undefined)));
  }

  /** Keeps readings, and the outcome of a midnight that has passed. */
  async #meter(readings: readonly Reading[]): Promise<void> {
    const { source, metered } = this.#kept;
    if (source?.kind !== 'file') return;
    const now = this.#now();
    const next: Record<string, Metered> = { ...metered };
    for (const { meter, limit } of this.#license.info?.quotas ?? []) if (next[meter]) next[meter] = compared(next[meter], limit, now);
    for (const { meter, value } of readings) {
      const quota = this.#license.info?.quotas.find((one) => one.meter === meter);
      if (quota) next[meter] = withReading(next[meter], value, quota.limit, now);
    }
    if (JSON.stringify(next) !== JSON.stringify(metered) || now - this.#kept.at > keptForMs) await stored(() => this.#keep({ metered: next }));
  }

  async #every(ms: number, work: () => Promise<void>): Promise<void> {
    while (!this.#closed.signal.aborted) {
      await work().catch((error: unknown) => this.#options.log.warn({ err: error }, 'will be tried again'));
      await this.#options.clock.sleep(ms, this.#closed.signal);
    }
  }

  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work, work);
    this.#last = done.catch(() => undefined);
    return done;
  }

  async #keep(changes: Partial<Kept>): Promise<void> {
    const kept = { ...this.#kept, ...changes, at: this.#now() };
    await this.#dir.write(kept);
    this.#kept = kept;
    this.#problems.delete('disk');
  }

  #report(topic: Topic, code: string, detail: string): void {
    const known = this.#problems.get(topic);
    if (known?.code === code && known.detail === detail) return;
    this.#problems.set(topic, { code, severity: topic === 'clock' ? 'warning' : 'error', title: titleOf(code), detail, at: new Date(this.#now()).toISOString() });
    this.#options.log.warn({ code }, detail);
  }

  // ---- what is told ----

  #now(): number {
    return Date.parse(this.#license.judgement().at);
  }

  #metersOf(license: License, source: Kept['source']): MeterAnswer[] {
    if (source?.kind !== 'file') return metersOf(license);
    const { info, terms } = license;
    const quotas = (info?.quotas ?? []).map(({ meter, limit }) => meterByFile(meter, limit, this.#kept.metered[meter], terms?.overageGraceDays ?? 0, this.#now()));
    return [...quotas, ...metersOf(license).slice(quotas.length)];
  }

  /** Where a server is asked, its word and the SDK's count. */
  #judged(license: License, source = this.#kept.source, meters = this.#metersOf(license, source)): Judgement {
    const { terms } = license;
    const judgement = license.judgement();
    return source?.kind === 'file' && terms ? judgedByFile(judgement, terms, this.#kept.firstSeen[terms.id], meters) : judgement;
  }

  #rebuild(): void {
    const { enforcement, reasons, graceUntil: graceEndsAt } = this.#judged(this.#license);
    const text = JSON.stringify({ enforcement, reasons, graceEndsAt } satisfies EnforcementAnswer);
    this.#enforcement = { text, builtAt: performance.now(), answer: text === this.#enforcement.text ? this.#enforcement.answer : Buffer.from(text) };
  }

  #answerOf(license: License, source: Kept['source'], applied: boolean, judgement = this.#judged(license, source)): LicenseAnswer {
    const { config, fingerprint } = this.#options;
    const meters = this.#metersOf(license, source);
    const isOnline = source?.kind === 'key';
    return {
      ...licensePart({ judgement, info: license.info, terms: license.terms, meters }, { byFile: source?.kind === 'file', ...config }),
      source: source?.kind ?? null, keyPrefix: isOnline ? source.key.slice(0, 8) : null, activationId: license.instanceId,
      installationId: this.#kept.installationId, hardwareId: fingerprint,
      server: {
        url: config.server ?? null, environment: config.environment, proxy: config.proxy ? new URL(config.proxy.url).host : null,
        reachable: isOnline ? !judgement.unreachable : null, connected: license.changes.isConnected,
      },
      file: config.licenseFile === undefined ? null : { path: config.licenseFile, checkedAt: this.#file.checkedAt },
      problems: [...this.#problems.values(), ...standingProblems(judgement, source !== null)], messages: this.#kept.messages, usageQueued: license.waiting, applied, agentVersion,
    };
  }
}

function openLicense({ config, fingerprint, clock, fetch, log }: AgentOptions, source: Kept['source'], store: Store, after?: number): Promise<License> {
  const { roots, environment, server, deploymentId, deploymentMode } = config;
  return License.open({
    roots, environment, fingerprint, clock, fetch, store, version: agentVersion, attempts: 2, logger: { warn: (message, details) => log.warn(details ?? {}, message) },
    ...(after !== undefined && { after }), ...(source?.kind === 'key' && { key: source.key, server, deploymentId, deploymentMode }),
  });
}

const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex');
