import { fileTypeOf } from '@keyledger/license-file';
import { License, memoryStore, type Clock, type Fetch, type Judgement, type Store } from '@keyledger/sdk';
import type { MeterAnswer } from './api.ts';
import { compared, judgedByFile, meterByFile, withReading, type Metered } from './by-file.ts';
import type { AgentConfig } from './config.ts';
import { DataDir, Pending, type Found, type Kept } from './data-dir.ts';
import { stored } from './refusals.ts';
import { metersOf } from './view.ts';

export const agentVersion = '0.1.0';

export interface Logger {
  info(details: object, message: string): void;
  warn(details: object, message: string): void;
}

export interface AgentOptions {
  readonly config: Pick<AgentConfig, 'dataDir' | 'server' | 'environment' | 'roots' | 'licenseKey' | 'licenseFile' | 'deploymentId' | 'deploymentMode' | 'product' | 'mode' | 'heartbeatMs' | 'filePollMs' | 'offlineGraceDays' | 'proxy'>;
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

export type Source = Exclude<Kept['source'], null>;

/** What it was last written that the time is may be so much too early. */
const keptForMs = 3_600_000;

/** The one license that there is, by key or by file, and all that is kept of it; and what it is worth just now. Whether it is the right one is the agent's to say. */
export class Holder {
  readonly #options: AgentOptions;
  readonly #dir: DataDir;
  readonly found: Found;
  #kept: Kept;
  #license: License;
  /** The last attempt to write succeeded. */
  isStored = true;

  static async open(options: AgentOptions): Promise<Holder> {
    const dir = new DataDir(options.config.dataDir, options.fingerprint);
    const { found, kept } = await dir.open();
    await dir.tidy(kept.source?.state);
    const license = await openLicense(options, kept.source, kept.source ? dir.store(kept.source.state) : memoryStore(), kept.at);
    return new Holder(options, dir, found, kept, license);
  }

  private constructor(options: AgentOptions, dir: DataDir, found: Found, kept: Kept, license: License) {
    this.#options = options;
    this.#dir = dir;
    this.found = found;
    this.#kept = kept;
    this.#license = license;
  }

  get license(): License {
    return this.#license;
  }

  get kept(): Kept {
    return this.#kept;
  }

  get source(): Kept['source'] {
    return this.#kept.source;
  }

  /** By the license's own reckoning. */
  get now(): number {
    return Date.parse(this.#license.judgement().at);
  }

  /** There should be a state of the license, and is none. A file is in the agent's own. */
  async restore(): Promise<boolean> {
    const { source } = this.#kept;
    const isLost = source !== null && this.#license.opened !== 'restored';
    if (isLost && source.kind === 'file') await this.#license.install(source.text);
    // Without a disk it goes on with what it has; what must be on one is refused.
    await this.keep({}).catch(() => undefined);
    return isLost;
  }

  /** One that may take the place of this one. It is nowhere until then, and it is as late for it as for this one. */
  candidate(source: Kept['source'], store: Store): Promise<License> {
    return openLicense(this.#options, source, store, this.now);
  }

  /** The point of no return is when the agent's own file names the new state. Resolves to how the license before is let go: it gives its seat back, if anybody can be told. */
  async replace(license: License, source: Source | null, store?: Pending): Promise<() => Promise<void>> {
    const before = { license: this.#license, source: this.#kept.source };
    if (source) await stored(async () => store?.settle(this.#dir.store(source.state)));
    await this.keep({ source });
    this.#license = license;
    return () => this.#release(before, source !== null);
  }

  /** A file of this license. */
  async add(text: string): Promise<void> {
    await this.#license.install(text);
    const { source } = this.#kept;
    if (source?.kind === 'file' && fileTypeOf(text) === 'license-file') await this.keep({ source: { ...source, text } });
  }

  /** Before it is used, so that a trial cannot begin twice. */
  async seeFirst(licenseId: string): Promise<void> {
    if (this.#kept.firstSeen[licenseId] === undefined) await this.keep({ firstSeen: { ...this.#kept.firstSeen, [licenseId]: this.#license.judgement().at } });
  }

  /** Keeps readings of a license by file, and the outcome of a midnight that has passed. */
  async meter(readings: readonly Reading[]): Promise<void> {
    const { source, metered } = this.#kept;
    if (source?.kind !== 'file') return;
    const { now } = this;
    const next: Record<string, Metered> = { ...metered };
    for (const { meter, limit } of this.#license.info?.quotas ?? []) if (next[meter]) next[meter] = compared(next[meter], limit, now);
    for (const { meter, value } of readings) {
      const quota = this.#license.info?.quotas.find((one) => one.meter === meter);
      if (quota) next[meter] = withReading(next[meter], value, quota.limit, now);
    }
    if (JSON.stringify(next) !== JSON.stringify(metered) || now - this.#kept.at > keptForMs) await this.keep({ metered: next });
  }

  /** Nobody else writes meanwhile: the agent makes one change at a time. */
  async keep(changes: Partial<Kept>): Promise<void> {
    const kept = { ...this.#kept, ...changes, at: this.now };
    await stored(() => this.#dir.write(kept)).then(() => (this.isStored = true), (error: unknown) => {
      this.isStored = false;
      throw error;
    });
    this.#kept = kept;
  }

  metersOf(license = this.#license, source = this.#kept.source): MeterAnswer[] {
    if (source?.kind !== 'file') return metersOf(license);
    const { info, terms } = license;
    const quotas = (info?.quotas ?? []).map(({ meter, limit }) => meterByFile(meter, limit, this.#kept.metered[meter], terms?.overageGraceDays ?? 0, this.now));
    return [...quotas, ...metersOf(license).slice(quotas.length)];
  }

  /** Where a server is asked, its word and the SDK's count. */
  judged(license = this.#license, source = this.#kept.source): Judgement {
    const { terms } = license;
    const judgement = license.judgement();
    return source?.kind === 'file' && terms ? judgedByFile(judgement, terms, this.#kept.firstSeen[terms.id], this.metersOf(license, source)) : judgement;
  }

  async #release({ license, source }: { readonly license: License; readonly source: Source | null }, isReplaced: boolean): Promise<void> {
    license.heartbeat.stop();
    license.changes.stop();
    if (source?.kind === 'key') {
      await license.reportUsage();
      if (isReplaced && license.instanceId !== null && license.licenseId !== this.#license.licenseId) await license.deactivate();
    }
    await license.dispose();
    if (source) await this.#dir.remove(source.state);
  }
}

function openLicense({ config, fingerprint, clock, fetch, log }: AgentOptions, source: Kept['source'], store: Store, after: number): Promise<License> {
  const { roots, environment, server, deploymentId, deploymentMode, product, offlineGraceDays } = config;
  return License.open({
    roots, environment, product, offlineGraceDays, fingerprint, clock, fetch, store, after, version: agentVersion, attempts: 2, logger: { warn: (message, details) => log.warn(details ?? {}, message) },
    ...(source?.kind === 'key' && { key: source.key, server, deploymentId, deploymentMode }),
  });
}
