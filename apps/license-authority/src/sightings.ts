import { Injectable } from '@nestjs/common';
import {
  AbuseRules, Denials, findingsIn, issued, type AbuseRule, type AbuseRulesCommand, type AbuseRulesEvent, type AbuseRulesState, type DenialsCommand, type DenialsEvent, type DenialsState, type Sighting,
} from '@keyledger/domain';
import { Aggregates, EventStores } from '@keyledger/event-store';
import { addDays, addSeconds, Clock, context, environments, Refusal, runIn, systemContext, type Instant, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Log } from '@keyledger/observability';
import { inPieces, ROWS_AT_ONCE, StateDatabases, type Migration } from '@keyledger/read-models';
import { Licenses } from './streams.ts';

export const sightingsTable: Migration = {
  name: 'authority-3-sightings',
  async up({ run }) {
    await run(`create table authority_sightings (license_id text not null, minute text not null, kind text not null, machine text not null, address text not null,
      count bigint not null, revision bigint not null, primary key (license_id, minute, kind, machine, address))`);
    await run('create index authority_sightings_minute on authority_sightings (minute)');
  },
};

/**
 * Machines and addresses are keyed hashes: enough to tell one from another. A taken seat is a row; refused ones are counted by license, hour and
 * machine, and `told` of them are in an event. `license_id` is empty for a request with a key that no license has: there `machine` is the address.
 * `machine` is empty for machines that were not told apart, and `all` for a day that is long over, with the number of machines in `machines`.
 */
export const apartTables: Migration = {
  name: 'authority-4-sightings-apart',
  async up({ run }) {
    await run('create table authority_activations (license_id text not null, revision bigint not null, at text not null, machine text not null, address text not null, primary key (license_id, revision))');
    await run('create index authority_activations_at on authority_activations (at)');
    await run(`insert into authority_activations (license_id, revision, at, machine, address)
      select license_id, revision, max(minute), max(machine), max(address) from authority_sightings where kind = 'activated' group by license_id, revision`);
    await run(`create table authority_refusals (license_id text not null, hour text not null, machine text not null, first_at text not null, last_at text not null,
      count bigint not null, told bigint not null, machines bigint not null, primary key (license_id, hour, machine))`);
    await run('create index authority_refusals_hour on authority_refusals (hour)');
    await run("create index authority_refusals_untold on authority_refusals (license_id) where count > told and license_id <> ''");
    for (const [kind, machine] of [['denied', 'machine'], ['unknown-key', 'address']]) {
      await run(`insert into authority_refusals (license_id, hour, machine, first_at, last_at, count, told, machines)
        select license_id, minute, ${machine}, minute, minute, sum(count), sum(count), 0 from authority_sightings where kind = '${kind}' group by license_id, minute, ${machine}`);
    }
    await run('drop table authority_sightings');
  },
};
/** The number of different machines in rows of `authority_refusals`. */
export const machinesThere = "count(distinct case when machine in ('', 'all') then null else machine end) + coalesce(sum(machines), 0)";

interface Taken {
  readonly licenseId: LicenseId;
  readonly revision: number;
  readonly at: Instant;
  readonly machine: string;
  readonly address: string;
}
interface Refused {
  readonly licenseId: LicenseId | '';
  readonly hour: string;
  readonly machine: string;
  readonly firstAt: Instant;
  lastAt: Instant;
  count: number;
}
/** Requests of an environment that are not written yet, the machines told apart in this hour, and the licenses to check again. */
class Seen {
  taken: Taken[] = [];
  refused = new Map<string, Refused>();
  apart = { hour: '', size: 0, of: new Map<string, Set<string>>() };
  readonly again = new Set<LicenseId>();
  /** Licenses whose refusals were announced, and until when no others are. */
  readonly quiet = new Map<LicenseId, Instant>();
  clearedAt = -Infinity;
  /** Up to there each day is a number. */
  summedUpTo = '';
}

/** The rules of each environment, and the announced refusals of seats. */
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
const lookAgainEveryMs = 60_000;
/** Bounds memory and tables even if a client invents machines: so many are told apart in an hour, per license and in all. Others are counted together. */
const apartAtMost = { ofOne: 500, inAll: 50_000 };
const takenAtMost = 20_000;
const quietSeconds = 3_600;
const clearEveryMs = 3_600_000;
/** No rule looks further back than a day. */
const takenKeptDays = 2;
/** After that, one number per day is kept. */
const machinesKeptDays = 35;
const keptDays = 366;
const readAtMost = 5_000;

/**
 * Seats taken and refused: observed, so they are rows, written once a second for all requests of that second. Then the rules check the licenses
 * concerned, and their findings go to the license's own stream. Taken seats are written only where there are rules.
 */
@Injectable()
export class Sightings {
  readonly #seen = new Map<string, Seen>();
  #timer: NodeJS.Timeout | undefined;
  #again: NodeJS.Timeout | undefined;
  #working: Promise<void> = Promise.resolve();

  constructor(
    private readonly databases: StateDatabases, private readonly keyrings: Keyrings, private readonly licenses: Licenses, private readonly streams: AbuseStreams,
    private readonly clock: Clock, private readonly log: Log,
  ) {}

  begin(): void {
    this.#again = setInterval(() => void this.lookAgain(), lookAgainEveryMs).unref();
  }

  async end(): Promise<void> {
    clearInterval(this.#again);
    await this.write();
  }

  took(licenseId: LicenseId, { machine = '', address = '', revision }: { machine?: string | undefined; address?: string | undefined; revision: number }): void {
    const { environment, now: at } = context();
    const { taken } = this.#of(environment);
    if (taken.length < takenAtMost) taken.push({ licenseId, revision, at, machine, address });
    this.#soon();
  }

  /** `licenseId` is empty for a key that no license has; `machine` is the address then. */
  refused(licenseId: LicenseId | '', machine = '', count = 1): void {
    const { environment, now } = context();
    const seen = this.#of(environment);
    const refusal = { licenseId, hour: `${now.slice(0, 13)}:00:00.000Z`, machine: this.#name(seen, licenseId, machine, now.slice(0, 13)), firstAt: now, lastAt: now, count };
    add(seen, refusal);
    this.#soon();
  }

  /** Resolves when every request up to now is written, or kept for the next try, and the rules have checked it. */
  write(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return (this.#working = this.#working.then(() => this.#everywhere([...this.#seen.keys()], () => this.#write())));
  }

  /** Checks refusals not announced yet, because others were announced just before, and licenses that could not be checked. */
  lookAgain(): Promise<void> {
    return (this.#working = this.#working.then(() => this.#everywhere(environments, () => this.#lookAgain())));
  }

  async #everywhere(all: readonly string[], work: () => Promise<void>): Promise<void> {
    for (const environment of all) {
      try {
        await this.clock.current?.(environment);
        await runIn(systemContext(environment, this.clock.now(environment)), work);
      } catch (error) {
        this.log.warn({ err: error, environment }, 'requests for seats could not be recorded; it will be tried again');
      }
    }
  }

  #of(environment: string): Seen {
    let seen = this.#seen.get(environment);
    if (!seen) this.#seen.set(environment, (seen = new Seen()));
    return seen;
  }

  #soon(): void {
    this.#timer ??= setTimeout(() => void this.write(), writeEveryMs).unref();
  }

  /** The machine's hash, or '' if there are too many machines. */
  #name({ apart, refused }: Seen, licenseId: string, machine: string, hour: string): string {
    if (apart.hour !== hour) Object.assign(apart, { hour, size: 0, of: new Map() });
    const name = this.#hashed(machine);
    let names = apart.of.get(licenseId);
    if (!names) apart.of.set(licenseId, (names = new Set()));
    if (names.has(name)) return name;
    if (names.size >= apartAtMost.ofOne || Math.max(apart.size, refused.size) >= apartAtMost.inAll) return '';
    names.add(name);
    apart.size += 1;
    return name;
  }

  #hashed(value: string): string {
    return this.keyrings.here().hmac('sighting', value).slice(0, 22);
  }

  /** Rows that cannot be written are kept for the next second, without waiting for new ones. */
  async #write(): Promise<void> {
    const seen = this.#of(context().environment);
    const { taken, refused } = seen;
    if (taken.length + refused.size === 0) return;
    seen.taken = [];
    seen.refused = new Map();
    let rules: readonly AbuseRule[];
    try {
      rules = await this.streams.rules.load(context().environment, (state) => state);
      await this.#store(rules.length > 0 ? taken : [], [...refused.values()]);
    } catch (error) {
      seen.taken = [...taken, ...seen.taken].slice(0, takenAtMost);
      for (const one of refused.values()) add(seen, one);
      this.#soon();
      throw error;
    }
    for (const licenseId of new Set([...(rules.length > 0 ? taken : []), ...refused.values()].map((one) => one.licenseId))) if (licenseId) await this.#look(seen, licenseId, rules);
  }

  async #store(taken: readonly Taken[], refused: readonly Refused[]): Promise<void> {
    if (taken.length + refused.length === 0) return;
    await this.databases.here().batch([
      {
        sql: 'insert into authority_activations (license_id, revision, at, machine, address) values (?, ?, ?, ?, ?) on conflict (license_id, revision) do nothing',
        many: taken.map(({ licenseId, revision, at, machine, address }) => [licenseId, revision, at, this.#hashed(machine), this.#hashed(address)]),
      },
      {
        sql: `insert into authority_refusals (license_id, hour, machine, first_at, last_at, count, told, machines) values (?, ?, ?, ?, ?, ?, 0, 0)
          on conflict (license_id, hour, machine) do update set count = authority_refusals.count + excluded.count, last_at = excluded.last_at`,
        // Always in the same order, so that two processes do not wait for each other.
        many: refused.toSorted((a, b) => (orderOf(a) < orderOf(b) ? -1 : 1)).map(({ licenseId, hour, machine, firstAt, lastAt, count }) => [licenseId, hour, machine, firstAt, lastAt, count]),
      },
    ]);
  }

  async #lookAgain(): Promise<void> {
    const { environment, now } = context();
    const seen = this.#of(environment);
    const { rows } = await this.databases.here().run<{ license_id: LicenseId }>("select distinct license_id from authority_refusals where count > told and license_id <> '' limit ?", [readAtMost]);
    for (const [licenseId, until] of seen.quiet) if (until <= now) seen.quiet.delete(licenseId);
    const due = new Set([...seen.again, ...rows.map(({ license_id: licenseId }) => licenseId).filter((licenseId) => !seen.quiet.has(licenseId))]);
    const rules = due.size > 0 ? await this.streams.rules.load(environment, (state) => state) : [];
    for (const licenseId of due) await this.#look(seen, licenseId, rules);
    await this.#clear(seen);
  }

  /** The rows are written by now; a license that cannot be checked now is checked later, and does not stop the others. */
  async #look(seen: Seen, licenseId: LicenseId, rules: readonly AbuseRule[]): Promise<void> {
    seen.again.delete(licenseId);
    try {
      const { heldAgainst, seats } = await this.licenses.load(licenseId, (state) => {
        const { heldAgainst: held, terms, activationCount } = issued(state);
        return { heldAgainst: held, seats: { limit: terms.activationLimit, used: activationCount } };
      });
      if (rules.length > 0) await this.#suspect(licenseId, rules, heldAgainst);
      if (!((seen.quiet.get(licenseId) ?? '') > context().now)) await this.#tellDenials(seen, licenseId, seats);
    } catch (error) {
      if (error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND') return this.#forget(licenseId);
      seen.again.add(licenseId);
      this.log.warn({ err: error, licenseId }, 'requests for seats are recorded, but the abuse rules could not be applied; it will be tried again');
    }
  }

  async #suspect(licenseId: LicenseId, rules: readonly AbuseRule[], heldAgainst: ReadonlyMap<string, number>): Promise<void> {
    const { now } = context();
    const { rows } = await this.databases.here().run<Sighting>(
      'select at, machine, address, revision from authority_activations where license_id = ? and at > ? order by revision desc limit ?',
      [licenseId, addDays(now, -1), Math.max(readAtMost, ...rules.map(({ limit }) => limit + 1))]);
    const sightings = rows.toReversed().map((row) => ({ ...row, revision: Number(row.revision) }));
    for (const finding of findingsIn(rules, sightings, heldAgainst, now)) {
      this.log.warn({ licenseId, ...finding }, 'abuse suspected');
      await this.licenses.run(licenseId, { type: 'SuspectAbuse', ...finding });
    }
  }

  /** Announces all pending refusals. If the process dies in between, they are announced again an hour later; none is lost. */
  async #tellDenials(seen: Seen, licenseId: LicenseId, seats: { readonly limit: number; readonly used: number }): Promise<void> {
    const { now } = context();
    const { rows } = await this.databases.here().run<Untold>(
      "select hour, machine, first_at, count, told from authority_refusals where license_id = ? and license_id <> '' and count > told order by hour, machine limit ?", [licenseId, readAtMost]);
    const [first] = rows;
    if (!first) return;
    const toldUntil = (await this.streams.denials.load(licenseId, ({ until }) => until)) ?? '';
    const denials = rows.reduce((sum, row) => sum + untoldOf(row), 0);
    const machines = Math.max(1, new Set(rows.map(({ machine }) => machine).filter(Boolean)).size);
    const from = rows.reduce((earliest, { first_at: at }) => (at < earliest ? at : earliest), first.first_at);
    const { state, events } = await this.streams.denials.run(licenseId, { type: 'Count', denials, machines, ...seats, from: from > toldUntil ? from : toldUntil, until: now });
    if (state.until !== null) seen.quiet.set(licenseId, addSeconds(state.until, quietSeconds));
    if (events.length === 0) return;
    await this.databases.here().batch([{
      sql: 'update authority_refusals set told = told + ? where license_id = ? and hour = ? and machine = ?', many: rows.map((row) => [untoldOf(row), licenseId, row.hour, row.machine]),
    }]);
  }

  /** The license was erased in the meantime. */
  async #forget(licenseId: LicenseId): Promise<void> {
    await this.databases.here().batch(['authority_activations', 'authority_refusals'].map((table) => ({ sql: `delete from ${table} where license_id = ?`, params: [licenseId] })));
  }

  async #clear(seen: Seen): Promise<void> {
    if (performance.now() - seen.clearedAt < clearEveryMs) return;
    seen.clearedAt = performance.now();
    const { now } = context();
    const database = this.databases.here();
    for (const [table, key, time, kept] of [['authority_activations', 'license_id, revision', 'at', takenKeptDays], ['authority_refusals', 'license_id, hour, machine', 'hour', keptDays]] as const) {
      await inPieces(database, `delete from ${table} where (${key}) in (select ${key} from ${table} where ${time} < ? limit ?)`, [addDays(now, -kept)]);
    }
    for (;;) {
      const { rows: [first] } = await database.run<{ hour: string | null }>('select min(hour) as hour from authority_refusals where hour >= ? and hour < ?', [seen.summedUpTo, startOfDay(addDays(now, -machinesKeptDays))]);
      if (!first?.hour) return;
      await this.#sumUp(startOfDay(first.hour));
      seen.summedUpTo = addDays(startOfDay(first.hour), 1);
    }
  }

  /** Some licenses at a time, each of them whole: its machines are told apart throughout the day. */
  async #sumUp(day: Instant): Promise<void> {
    const database = this.databases.here();
    const raw = "hour >= ? and hour < ? and machine <> 'all'";
    const hours = [day, addDays(day, 1)];
    const { rows } = await database.run<{ license_id: string; n: number }>(`select license_id, count(*) as n from authority_refusals where ${raw} group by license_id`, hours);
    let sum = 0;
    for (const some of Map.groupBy(rows, ({ n }) => Math.floor((sum += Number(n)) / ROWS_AT_ONCE)).values()) {
      const theirs = `${raw} and license_id in (${some.map(() => '?').join(', ')})`;
      const params = [...hours, ...some.map(({ license_id: licenseId }) => licenseId)];
      await database.batch([
        {
          sql: `insert into authority_refusals (license_id, hour, machine, first_at, last_at, count, told, machines)
            select license_id, cast(? as text), 'all', min(first_at), max(last_at), sum(count), sum(told), ${machinesThere} from authority_refusals where ${theirs} group by license_id
            on conflict (license_id, hour, machine) do nothing`,
          params: [day, ...params],
        },
        { sql: `delete from authority_refusals where ${theirs}`, params },
      ]);
    }
  }
}

const startOfDay = (at: string): Instant => `${at.slice(0, 10)}T00:00:00.000Z`;

interface Untold {
  hour: string;
  machine: string;
  first_at: Instant;
  count: number | string;
  told: number | string;
}
const untoldOf = ({ count, told }: Untold): number => Number(count) - Number(told);

const orderOf = ({ licenseId, hour, machine }: Refused): string => `${licenseId} ${hour} ${machine}`;

function add({ refused }: Seen, one: Refused): void {
  const known = refused.get(orderOf(one));
  if (known) Object.assign(known, { count: known.count + one.count, lastAt: known.lastAt > one.lastAt ? known.lastAt : one.lastAt });
  else refused.set(orderOf(one), one);
}
