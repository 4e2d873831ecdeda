import { Injectable } from '@nestjs/common';
import {
  AbuseRules, Denials, findingsIn, issued, type AbuseRule, type AbuseRulesCommand, type AbuseRulesEvent, type AbuseRulesState, type DenialsCommand, type DenialsEvent, type DenialsState, type Sighting,
} from '@keyledger/domain';
import { Aggregates, EventStores } from '@keyledger/event-store';
import { addDays, Clock, context, Refusal, runIn, systemContext, type Instant, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Log } from '@keyledger/observability';
import { StateDatabases, type Migration } from '@keyledger/read-models';
import { Licenses } from './streams.ts';

/** Machines and addresses are keyed hashes: enough to tell one from another. `license_id` is empty where somebody came with a key that nobody has. */
export const sightingsTable: Migration = {
  name: 'authority-3-sightings',
  async up({ run }) {
    await run(`create table authority_sightings (license_id text not null, minute text not null, kind text not null, machine text not null, address text not null,
      count bigint not null, revision bigint not null, primary key (license_id, minute, kind, machine, address))`);
    await run('create index authority_sightings_minute on authority_sightings (minute)');
  },
};

export type SightingKind = 'activated' | 'denied' | 'unknown-key';
interface Seen {
  readonly licenseId: LicenseId | '';
  readonly kind: SightingKind;
  readonly machine: string;
  readonly address: string;
  readonly minute: string;
  count: number;
  revision: number;
}

/** The rules of each environment, and what is told of refused seats. */
@Injectable()
export class AbuseStreams {
  readonly rules: Aggregates<AbuseRulesState, AbuseRulesCommand, AbuseRulesEvent>;
  readonly denials: Aggregates<DenialsState, DenialsCommand, DenialsEvent>;

  constructor(events: EventStores, keyrings: Keyrings) {
    this.rules = new Aggregates(AbuseRules, events, keyrings);
    this.denials = new Aggregates(Denials, events, keyrings);
  }
}

const writeEveryMs = 1_000;
/** Memory is bounded whoever makes up machines: what does not fit into a second is not told apart any more. */
const apartAtMost = 20_000;
const keptDays = 366;
const clearEveryMs = 3_600_000;
const readAtMost = 5_000;

/**
 * Who took a seat, and who was refused one: observed, so it is rows, written once a second for all that was seen in it. Then the rules look at the
 * licenses that were seen, and what they find the license's own stream says. Seats that were taken are written down only where there are rules.
 */
@Injectable()
export class Sightings {
  readonly #fresh = new Map<string, Map<string, Seen>>();
  readonly #clearedAt = new Map<string, number>();
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(
    private readonly databases: StateDatabases, private readonly keyrings: Keyrings, private readonly licenses: Licenses, private readonly streams: AbuseStreams,
    private readonly clock: Clock, private readonly log: Log,
  ) {}

  see(licenseId: LicenseId | '', kind: SightingKind, { machine = '', address = '', count = 1, revision = -1 }: { machine?: string | undefined; address?: string | undefined; count?: number; revision?: number }): void {
    const { environment, now } = context();
    const minute = `${now.slice(0, 16)}:00.000Z`;
    let fresh = this.#fresh.get(environment);
    if (!fresh) this.#fresh.set(environment, (fresh = new Map()));
    const isFull = fresh.size >= apartAtMost;
    const seen = { licenseId, kind, machine: isFull ? '' : machine, address: isFull ? '' : address, minute, count: 0, revision };
    const name = JSON.stringify([licenseId, kind, seen.machine, seen.address, minute]);
    const known = fresh.get(name) ?? seen;
    known.count += count;
    known.revision = Math.max(known.revision, revision);
    fresh.set(name, known);
    this.#timer ??= setTimeout(() => void this.write(), writeEveryMs).unref();
  }

  /** Resolves when all that was seen up to now is written, and the rules have looked at it. */
  write(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return (this.#writing = this.#writing.then(() => this.#writeAll()));
  }

  async #writeAll(): Promise<void> {
    for (const [environment, fresh] of this.#fresh) {
      this.#fresh.delete(environment);
      try {
        await runIn(systemContext(environment, this.clock.now(environment)), () => this.#writeHere([...fresh.values()]));
      } catch (error) {
        this.log.warn({ err: error, environment, sightings: fresh.size }, 'who asked for seats was not written down');
      }
    }
  }

  async #writeHere(fresh: readonly Seen[]): Promise<void> {
    const { environment } = context();
    const rules = await this.streams.rules.load(environment, (state) => state);
    const kept = rules.length > 0 ? fresh : fresh.filter(({ kind }) => kind !== 'activated');
    if (kept.length === 0) return;
    const keyring = this.keyrings.here();
    const hashed = (value: string) => (value ? keyring.hmac('sighting', value).slice(0, 22) : '');
    await this.databases.here().batch([{
      sql: `insert into authority_sightings (license_id, minute, kind, machine, address, count, revision) values (?, ?, ?, ?, ?, ?, ?)
        on conflict (license_id, minute, kind, machine, address) do update set count = authority_sightings.count + excluded.count, revision = excluded.revision`,
      many: kept.map(({ licenseId, minute, kind, machine, address, count, revision }) => [licenseId, minute, kind, hashed(machine), hashed(address), count, revision]),
    }]);
    for (const licenseId of new Set(kept.map((seen) => seen.licenseId))) if (licenseId) await this.#look(licenseId, rules);
    await this.#clear();
  }

  async #look(licenseId: LicenseId, rules: readonly AbuseRule[]): Promise<void> {
    const { now } = context();
    const { rows } = await this.databases.here().run<{ minute: Instant; kind: SightingKind; machine: string; address: string; count: number; revision: number }>(
      'select minute, kind, machine, address, count, revision from authority_sightings where license_id = ? and minute > ? order by minute desc limit ?', [licenseId, addDays(now, -1), readAtMost]);
    const sightings = rows.toReversed().map(({ minute, count, revision, ...row }) => ({ ...row, at: minute, count: Number(count), revision: Number(revision) }));
    try {
      const { suspectedAt, seats } = await this.licenses.load(licenseId, (state) => {
        const { suspectedAt: at, terms, activationCount } = issued(state);
        return { suspectedAt: new Map(at), seats: { limit: terms.activationLimit, used: activationCount } };
      });
      for (const finding of findingsIn(rules, sightings.filter(({ kind }) => kind === 'activated'), suspectedAt, now)) {
        this.log.warn({ licenseId, ...finding }, 'abuse suspected');
        await this.licenses.run(licenseId, { type: 'SuspectAbuse', ...finding });
      }
      await this.#tellDenials(licenseId, sightings.filter(({ kind }) => kind === 'denied'), seats);
    } catch (error) {
      if (!(error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND')) throw error;
      // Erased in the meantime.
      await this.databases.here().run('delete from authority_sightings where license_id = ?', [licenseId]);
    }
  }

  async #tellDenials(licenseId: LicenseId, denied: readonly Sighting[], seats: { readonly limit: number; readonly used: number }): Promise<void> {
    if (denied.length === 0) return;
    const since = (await this.streams.denials.load(licenseId, ({ until }) => until)) ?? '';
    const fresh = denied.filter(({ at }) => at > since);
    const [first] = fresh;
    if (!first) return;
    const denials = fresh.reduce((sum, { count }) => sum + count, 0);
    await this.streams.denials.run(licenseId, { type: 'Count', denials, machines: machinesIn(fresh), ...seats, from: first.at, until: context().now });
  }

  async #clear(): Promise<void> {
    const { environment, now } = context();
    if (performance.now() - (this.#clearedAt.get(environment) ?? -Infinity) < clearEveryMs) return;
    this.#clearedAt.set(environment, performance.now());
    await this.databases.here().run('delete from authority_sightings where minute < ?', [addDays(now, -keptDays)]);
  }
}

const machinesIn = (sightings: readonly Sighting[]): number => new Set(sightings.map(({ machine }) => machine)).size;
