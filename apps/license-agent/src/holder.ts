import { createHash, randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { fileTypeOf } from '@keyledger/license-file';
import { memoryStore, type FeatureState, type Judgement, type License, type Store } from '@keyledger/sdk';
import { Refused, type MeterAnswer } from './api.ts';
import { compared, counterByFile, countedUntil, judgedByFile, meterByFile, misplacedFor, withCount, withReading, type Cap } from './by-file.ts';
import { DataDir, Pending, type ByKey, type Found, type Kept } from './data-dir.ts';
import { LeavingLicenses } from './leaving.ts';
import { agentVersion, openLicense, type AgentOptions } from './open-license.ts';
import { stored } from './refusals.ts';
import { metersOf } from './view.ts';

export interface Reading {
  readonly meter: string;
  readonly value: number;
  readonly id?: string;
  readonly at?: string;
}

export type Source = Exclude<Kept['source'], null>;

/** The last written time may be so far behind. */
const keptForMs = 3_600_000;
/** Two of the largest batches. */
const mostReadings = 2_000;

/** The one license, by key or by file, all that is kept of it, and its present judgement. The agent decides whether it is the right one. */
export class Holder {
  readonly #options: AgentOptions;
  readonly #dir: DataDir;
  readonly found: Found;
  readonly leaving: LeavingLicenses;
  #kept: Kept;
  #license: License;
  #isStored = true;
  static async open(options: AgentOptions): Promise<Holder> {
    const dir = new DataDir(options.config.dataDir, options.fingerprint);
    const { found, kept } = await dir.open();
    await dir.tidy(kept);
    const license = await openLicense(options, kept.source, kept.source ? dir.store(kept.source.state) : memoryStore(), isBlank(kept) ? 0 : kept.at);
    return new Holder(options, dir, found, kept, license);
  }

  private constructor(options: AgentOptions, dir: DataDir, found: Found, kept: Kept, license: License) {
    this.#options = options;
    this.#dir = dir;
    this.found = found;
    this.#kept = kept;
    this.#license = license;
    this.leaving = new LeavingLicenses(options, dir, this);
  }

  get license(): License {
    return this.#license;
  }

  get kept(): Kept {
    return this.#kept;
  }

  /** Whether the last writes succeeded: the agent's own, and the license's. */
  get isStored(): boolean {
    return this.#isStored && this.#license.isStored;
  }

  /** The agent's file still names a leaving license that has nothing left to do. */
  get hasGone(): boolean {
    return this.#kept.leaving.some((one) => this.leaving.hasLeft(one));
  }

  get source(): Kept['source'] {
    return this.#kept.source;
  }

  /** How this machine names itself when it takes a seat. */
  get seat() {
    return { name: hostname(), installationId: this.#kept.installationId, metadata: { agent: agentVersion } };
  }

  /** By the license's own clock. */
  get now(): number {
    return Date.parse(this.#license.judgement().at);
  }

  /** True if the license's state is missing. A license file is in the agent's own state, even if a start with other roots could not verify it. */
  async restore(): Promise<boolean> {
    const { source } = this.#kept;
    const isLost = source !== null && this.#license.opened !== 'restored';
    if (source?.kind === 'file' && this.#license.info === null) await this.#license.install(source.text);
    // Without a disk the agent goes on; requests that need the disk are refused.
    await this.keep({}).catch(() => undefined);
    return isLost;
  }

  /** A license that may replace this one. It is stored nowhere until then, and has the same time as this one, if time matters to anything kept. */
  candidate(source: Kept['source'], store: Store): Promise<License> {
    return openLicense(this.#options, source, store, isBlank(this.#kept) ? 0 : this.now);
  }

  /** A copy of the present license; its changes are written nowhere. */
  async copy(): Promise<License> {
    const { source } = this.#kept;
    const store = memoryStore();
    const text = source && (await this.#dir.store(source.state).read());
    if (text) await store.write(text);
    return this.candidate(source, store);
  }

  /** The same by key. It is among the leaving ones from the start: if it is not taken, or the agent ends before, its seat is given back. */
  async candidateByKey(key: string): Promise<{ readonly source: ByKey; readonly license: License }> {
    const source: ByKey = { kind: 'key', key, state: randomUUID() };
    await this.keep({ leaving: [...this.#kept.leaving, { ...source, since: this.now }] });
    const license = await this.candidate(source, this.#dir.store(source.state));
    this.leaving.add(source.state, license);
    return { source, license };
  }

  /** The point of no return is when the agent's own file names the new state. */
  async replace(license: License, source: Source | null, seen: Kept['seen'], store?: Pending): Promise<void> {
    const before = { license: this.#license, source: this.#kept.source };
    if (source) await stored(async () => store?.settle(this.#dir.store(source.state)));
    if (!license.isStored) throw notStored();
    const leaving = this.#kept.leaving.filter(({ state }) => state !== source?.state);
    await this.keep({ source, seen, leaving: before.source?.kind === 'key' ? [...leaving, { ...before.source, since: this.now }] : leaving }, license);
    this.#license = license;
    if (source) this.leaving.stays(source.state);
    before.license.heartbeat.stop();
    before.license.changes.stop();
    if (before.source?.kind === 'key') return this.leaving.add(before.source.state, before.license);
    await before.license.dispose();
    // What cannot be removed now is removed at the next start.
    if (before.source) await this.#dir.remove(before.source.state).catch(() => undefined);
  }

  /** Adds a file of this license. The SDK goes on without a disk, but an accepted file must be there after a restart. */
  async add(text: string, seen: Kept['seen']): Promise<void> {
    const { source } = this.#kept;
    // A disk without room is found before anything is changed, and a file that could not be stored does not count as seen.
    await this.keep({});
    await this.#license.install(text);
    if (!this.#license.isStored) throw notStored();
    await this.keep({ seen, ...(source?.kind === 'file' && fileTypeOf(text) === 'license-file' && { source: { ...source, text } }) });
  }

  /** Before the license is used, so that a trial cannot begin twice; at the time of `license`. If first seen while the clock was ahead, it is first seen now. */
  async seeFirst(licenseId: string, license: License): Promise<void> {
    const { [licenseId]: seen } = this.#kept.firstSeen;
    const { at } = license.judgement();
    if (seen === undefined || seen > at) await this.keep({ firstSeen: { ...this.#kept.firstSeen, [licenseId]: at } }, license);
  }

  /** Keeps readings of a license by file, and the outcome of a passed midnight. Resolves to the number of readings already known, by their ids. */
  async meter(readings: readonly Reading[]): Promise<number> {
    const before = this.#kept;
    // Unknown terms, such as without the right root, do not remove a limit.
    if (before.source?.kind !== 'file' || !this.#license.info) return 0;
    const { now } = this;
    const known = new Set(before.readings);
    const news = readings.filter(({ id }) => id === undefined || (!known.has(shortOf(id)) && known.add(shortOf(id))));
    const [metered, counted] = [byName(before.metered), byName(before.counted)];
    const [gauges, caps] = [gaugesOf(this.#license), capsOf(this.#license)];
    for (const meter of Object.keys(metered)) metered[meter] = compared(metered[meter], gauges.get(meter) ?? null, now);
    for (const [meter, cap] of caps) if (counted[meter]) counted[meter] = countedUntil(counted[meter], cap, now);
    // In the order they were taken: a reading of an earlier day has no effect once a later day has been compared.
    const taken = news.map(({ meter, value, at }) => ({ meter, value, at: at === undefined ? now : Date.parse(at) })).toSorted((a, b) => a.at - b.at);
    for (const { meter, ...reading } of taken) {
      const [limit, cap] = [gauges.get(meter), caps.get(meter)];
      if (limit !== undefined) metered[meter] = withReading(metered[meter], reading, limit, now);
      if (cap) counted[meter] = withCount(counted[meter], reading, cap, now);
    }
    const next = { metered, counted, readings: [...known].slice(-mostReadings) };
    const { metered: _metered, counted: _counted, readings: _readings } = before;
    if (JSON.stringify(next) !== JSON.stringify({ metered: _metered, counted: _counted, readings: _readings }) || now - before.at > keptForMs) await this.keep(next);
    return readings.length - news.length;
  }

  /** There are no concurrent writes: the agent makes one change at a time. `license`: the one in use afterwards. */
  async keep(changes: Partial<Kept>, license = this.#license): Promise<void> {
    const { at } = license.judgement();
    const next = { ...this.#kept, ...changes };
    const leaving = next.leaving.filter((one) => !this.leaving.hasLeft(one));
    // A server may have reported since that the clock was ahead.
    const firstSeen = Object.fromEntries(Object.entries(next.firstSeen).map(([id, seen]) => [id, seen > at ? at : seen]));
    const kept: Kept = { ...next, leaving, firstSeen, at: isBlank(next) ? 0 : Date.parse(at) };
    await stored(() => this.#dir.write(kept)).then(() => (this.#isStored = true), (error: unknown) => {
      this.#isStored = false;
      throw error;
    });
    this.#kept = kept;
  }

  metersOf(license = this.#license, source = this.#kept.source): MeterAnswer[] {
    if (source?.kind !== 'file') return metersOf(license);
    const { now } = this;
    const [metered, counted] = [byName(this.#kept.metered), byName(this.#kept.counted)];
    const { overageGraceDays = 0 } = license.terms ?? {};
    const caps = capsOf(license);
    return metersOf(license).map((one) => {
      const { meter, limit } = one;
      const cap = caps.get(meter);
      if (limit === null) return one;
      return cap ? counterByFile(meter, limit, cap, counted[meter], overageGraceDays, now) : meterByFile(meter, limit, metered[meter], overageGraceDays, now);
    });
  }

  /** With the rest left of counted features. */
  featuresOf(license = this.#license, source = this.#kept.source): Readonly<Record<string, FeatureState>> {
    const features = license.info?.features ?? {};
    if (source?.kind !== 'file') return features;
    const meters = new Map(this.metersOf(license, source).map((one) => [one.meter, one]));
    return Object.fromEntries(Object.entries(features).map(([name, feature]) => {
      const { used, remaining } = meters.get(name) ?? {};
      return [name, typeof feature === 'object' && used != null && remaining != null ? { ...feature, used, remaining } : feature];
    }));
  }

  /** With a server, its answers and the SDK's judgement count. */
  judged(license = this.#license, source = this.#kept.source): Judgement {
    const { terms } = license;
    const judgement = license.judgement();
    return source?.kind === 'file' && terms ? judgedByFile(judgement, terms, this.#kept.firstSeen[terms.id], this.metersOf(license, source), misplacedFor(terms, this.#options.config)) : judgement;
  }
}

const notStored = (): Refused => new Refused('STORAGE_FAILED', 'The data directory cannot be written');

/** Nothing kept depends on time, or has: then the clock counts as it is, even if it was wrong before. */
const isBlank = ({ source, firstSeen, metered, counted }: Kept): boolean => source === null && [firstSeen, metered, counted].every((known) => Object.keys(known).length === 0);

/** Without the members of every object: a meter may be called `constructor`. */
const byName = <T>(known: Readonly<Record<string, T>>): Record<string, T> => Object.assign(Object.create(null) as Record<string, T>, known);

const shortOf = (id: string): string => createHash('sha256').update(id).digest('base64url').slice(0, 16);

const gaugesOf = ({ info }: License): ReadonlyMap<string, number> => new Map((info?.quotas ?? []).filter(({ per }) => !per).map(({ meter, limit }) => [meter, limit]));

/** Caps of features, overridden by a quota of the same name. */
function capsOf({ info }: License): ReadonlyMap<string, Cap> {
  const features = Object.entries(info?.features ?? {}).flatMap(([name, feature]): [string, Cap][] => (typeof feature === 'object' ? [[name, { limit: null, per: feature.per }]] : []));
  return new Map([...features, ...(info?.quotas ?? []).flatMap(({ meter, limit, per }): [string, Cap][] => (per ? [[meter, { limit, per }]] : []))]);
}
