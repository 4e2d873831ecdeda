import { Injectable } from '@nestjs/common';
import { dayOf, daysOf, dueAt, endOf, HOLD_MS, MILLION, startOf, type Day, type MeterDay, type Peak, type Reading } from '@keyledger/domain';
import { context, Refusal, refuse, type LicenseId } from '@keyledger/kernel';
import { inPieces, StateDatabases, type Database, type Tables } from '@keyledger/read-models';
import { sql, type Transaction } from 'kysely';

/** A reading on its way in. */
export interface Arrival extends Reading {
  readonly licenseId: LicenseId;
  readonly meter: string;
  readonly receivedAt: number;
}
export interface KeptReading extends Reading {
  readonly receivedAt: number;
}
/** A day to be compared with its quota. */
export interface DueDay {
  readonly licenseId: LicenseId;
  readonly meter: string;
  readonly day: Day;
  readonly dueAt: number;
  readonly version: number;
}
export interface ExaminedDay extends DueDay {
  readonly peak: Peak | undefined;
}

interface Place {
  readonly dueAt: number;
  readonly id: string;
}
const beginning: Place = { dueAt: -1, id: '' };
/** Certain meters, or all others; all, if neither is given. */
export interface Among {
  readonly named?: readonly string[] | undefined;
  readonly notNamed?: readonly string[];
}
/** As one parameter: licenses of one page may name more meters than a statement may have parameters. */
const amongThem = (dialect: Database['dialect'], { named, notNamed = [] }: Among): readonly [where: string, params: readonly string[]] => {
  if (!named && notNamed.length === 0) return ['', []];
  const list = dialect === 'sqlite' ? 'select value from json_each(?)' : 'select jsonb_array_elements_text(cast(? as jsonb))';
  return [`and meter ${named ? 'in' : 'not in'} (${list})`, [JSON.stringify(named ?? notNamed)]];
};
const dueWhere = 'due_at is not null and due_at <= ? and (due_at, license_id) > (?, ?)';

interface Batch {
  readonly arrivals: readonly Arrival[];
  readonly resolve: (accepted: number) => void;
  readonly reject: (error: unknown) => void;
}

const READINGS_PER_COMMIT = 5_000;
/** More would wait too long: to write so many takes some seconds. */
const READINGS_WAITING = 50_000;
/** The event loop is busy with a page for some milliseconds. */
const PAGE = 2_000;
/** How long a page waits for its turn among the lists, at most: a page that is refused takes all of its reading with it. */
const PAGE_TURN_MS = 25_000;

/** All readings and the days they belong to, in the environment of the current message. */
@Injectable()
export class UsageLedger {
  readonly #writers = new Map<string, Writer>();

  constructor(private readonly databases: StateDatabases) {}

  /** Durable when it resolves, with the number of readings that had not been counted before. */
  record(arrivals: readonly Arrival[]): Promise<number> {
    const { environment } = context();
    let writer = this.#writers.get(environment);
    if (!writer) this.#writers.set(environment, (writer = new Writer(this.databases.of(environment))));
    return writer.write(arrivals);
  }

  /** From one moment up to another, in the order of time, page by page; refuses to go on when `performance.now()` is past `patientUntil`. */
  async *readings(licenseId: LicenseId, meter: string, from: number, to: number, patientUntil = Infinity): AsyncGenerator<readonly KeptReading[]> {
    for (let after = { at: from, id: '' }; ;) {
      const left = patientUntil - performance.now();
      if (left < 0) throw refuse('UNAVAILABLE', 'There are too many readings to be read in time; ask for a shorter time');
      const params = [licenseId, meter, to, after.at, after.id];
      const { rows } = await this.#here().listing((lists) => lists.run<{ id: string; instance_id: string; at: number; micros: number; received_at: number }>(
        `select id, instance_id, at, micros, received_at from usage_readings
          where license_id = ? and meter = ? and at < ? and (at, id) > (?, ?) order by at, id limit ${PAGE}`, params), Math.min(PAGE_TURN_MS, left));
      const page = rows.map(({ id, instance_id: instanceId, at, micros, received_at: receivedAt }) => ({ id, instanceId, at, micros, receivedAt }));
      if (page.length > 0) yield page;
      if (page.length < PAGE) return;
      after = page.at(-1) as KeptReading;
    }
  }

  /** Days of a meter that have a row; `isDue`: to be compared (again), so the peak may change. The peak is null if no reading held, or if it was never computed. */
  async days(licenseId: LicenseId, meter: string, from: Day, to: Day): Promise<readonly (MeterDay & { readonly isDue: boolean })[]> {
    const { rows } = await this.#here().run<DayRow>(
      'select day, micros, peak_micros, due_at from usage_days where license_id = ? and meter = ? and day >= ? and day <= ? order by day', [licenseId, meter, from, to]);
    return rows.map(meterDay);
  }

  /** The same for some licenses. */
  async daysOfAll(licenseIds: readonly LicenseId[], from: Day, among: Among = {}): Promise<readonly (MeterDay & { readonly licenseId: LicenseId; readonly meter: string })[]> {
    const [where, names] = amongThem(this.#here().dialect, among);
    const { rows } = await this.#here().run<DayRow & { license_id: LicenseId; meter: string }>(
      `select license_id, meter, day, micros, peak_micros, due_at from usage_days where license_id in (${licenseIds.map(() => '?').join(', ')}) and day >= ? ${where} order by license_id, meter, day`,
      [...licenseIds, from, ...names]);
    return rows.map((row) => ({ ...meterDay(row), licenseId: row.license_id, meter: row.meter }));
  }

  /** Licenses with days that fall due by then, and when, beyond a place. */
  async due(until: number, after: Place = beginning, limit: number): Promise<readonly { readonly id: LicenseId; readonly dueAt: number }[]> {
    const { rows } = await this.#here().run<{ id: LicenseId; due_at: number }>(`select distinct due_at, license_id as id from usage_days where ${dueWhere} order by due_at, license_id limit ?`, [until, after.dueAt, after.id, limit]);
    return rows.map(({ id, due_at: dueAt }) => ({ id, dueAt }));
  }

  /** The oldest due time, and the number of due days of meters, counted up to 10,000. */
  async backlog(until: number, after: Place = beginning): Promise<{ readonly oldest: number | null; readonly count: number }> {
    const { rows: [row] } = await this.#here().run<{ oldest: number | null; n: number }>(
      `select min(due_at) as oldest, count(*) as n from (select due_at from usage_days where ${dueWhere} order by due_at, license_id limit 10000) as due`, [until, after.dueAt, after.id]);
    return { oldest: row?.oldest ?? null, count: Number(row?.n ?? 0) };
  }

  /** In the order in which they fell due; at the same moment, the last day first, by which a gauge is compared. */
  async dueDays(licenseId: LicenseId, until: number, among: Among, limit = 1_000_000): Promise<readonly DueDay[]> {
    const [where, names] = amongThem(this.#here().dialect, among);
    const { rows } = await this.#here().run<{ meter: string; day: Day; due_at: number; version: number }>(
      `select meter, day, due_at, version from usage_days where license_id = ? and due_at is not null and due_at <= ? ${where} order by due_at, day desc, meter limit ?`, [licenseId, until, ...names, limit]);
    return rows.map(({ meter, day, due_at, version }) => ({ licenseId, meter, day, dueAt: due_at, version }));
  }

  /** The last day of the meter, from `from` on, that has been compared. */
  async comparedFrom(licenseId: LicenseId, meter: string, from: Day): Promise<Day | null> {
    const { rows: [row] } = await this.#here().run<{ day: Day | null }>('select max(day) as day from usage_days where license_id = ? and meter = ? and day >= ? and due_at is null', [licenseId, meter, from]);
    return row?.day ?? null;
  }

  /** Marks days as compared; a day with new readings since stays due. `again`: a day of the same meter to compare even if nothing is read on it. */
  async settle(days: readonly ExaminedDay[], again?: Pick<DueDay, 'licenseId' | 'meter' | 'day' | 'dueAt'>): Promise<void> {
    await this.#here().batch([
      {
        sql: 'update usage_days set peak_micros = ?, peak_at = ?, due_at = null where license_id = ? and meter = ? and day = ? and version = ?',
        many: days.map(({ licenseId, meter, day, version, peak }) => [peak ? Math.round(peak.value * MILLION) : null, peak?.at ?? null, licenseId, meter, day, version]),
      },
      ...(again ? [{
        sql: `insert into usage_days (license_id, meter, day, micros, due_at, version) values (?, ?, ?, 0, ?, 0)
          on conflict (license_id, meter, day) do update set due_at = coalesce(usage_days.due_at, excluded.due_at)`,
        params: [again.licenseId, again.meter, again.day, again.dueAt],
      }] : []),
    ]);
  }

  /** The day falls due at its end for each of the meters with readings in its month so far. A day just being compared stays due. */
  async compareAnew(licenseId: LicenseId, meters: readonly string[], day: Day): Promise<void> {
    if (meters.length === 0) return;
    await this.#here().batch([{
      sql: `insert into usage_days (license_id, meter, day, micros, due_at, version)
        select license_id, meter, ?, 0, cast(? as bigint), 0 from usage_days where license_id = ? and meter = ? and day >= ? and day <= ? limit 1
        on conflict (license_id, meter, day) do update set due_at = coalesce(usage_days.due_at, excluded.due_at), version = usage_days.version + 1`,
      many: meters.map((meter) => [day, endOf(day), licenseId, meter, firstOfMonth(day), day]),
    }]);
  }

  /** Settles days without computing their peaks. */
  async settleUnseen(licenseId: LicenseId, until: number, among: Among): Promise<void> {
    const [where, names] = amongThem(this.#here().dialect, among);
    await inPieces(this.#here(),
      `update usage_days set peak_micros = null, peak_at = null, due_at = null where license_id = ? and (meter, day) in
        (select meter, day from usage_days where license_id = ? and due_at is not null and due_at <= ? ${where} limit ?)`, [licenseId, licenseId, until, ...names]);
  }

  async forget(licenseId: LicenseId): Promise<void> {
    for (const [table, key] of [['usage_readings', 'id'], ['usage_days', 'meter, day']]) {
      await inPieces(this.#here(), `delete from ${table} where license_id = ? and (${key}) in (select ${key} from ${table} where license_id = ? limit ?)`, [licenseId, licenseId]);
    }
  }

  #here(): Database {
    return this.databases.here();
  }
}

interface DayRow {
  day: Day;
  micros: number;
  peak_micros: number | null;
  due_at: number | null;
}
const meterDay = ({ day, micros, peak_micros: peak, due_at }: DayRow) => ({ day, peak: peak === null ? null : peak / MILLION, sum: micros / MILLION, isDue: due_at !== null });

/** All batches that arrive while one transaction runs become the next: one fsync for all, not one each. */
class Writer {
  readonly #database: Database;
  readonly #waiting: Batch[] = [];
  #size = 0;
  #busy = false;

  constructor(database: Database) {
    this.#database = database;
  }

  write(arrivals: readonly Arrival[]): Promise<number> {
    if (this.#size + arrivals.length > READINGS_WAITING) return Promise.reject(refuse('UNAVAILABLE', 'Usage arrives faster than it can be written; try again'));
    return new Promise((resolve, reject) => {
      this.#size += arrivals.length;
      this.#waiting.push({ arrivals, resolve, reject });
      if (!this.#busy) void this.#work();
    });
  }

  async #work(): Promise<void> {
    this.#busy = true;
    while (this.#waiting.length > 0) await this.#commit(this.#next());
    this.#busy = false;
  }

  #next(): Batch[] {
    let size = 0;
    const fits = this.#waiting.findIndex(({ arrivals }) => (size += arrivals.length) > READINGS_PER_COMMIT);
    return this.#take(fits < 0 ? this.#waiting.length : Math.max(1, fits));
  }

  #take(count: number): Batch[] {
    const batches = this.#waiting.splice(0, count);
    for (const { arrivals } of batches) this.#size -= arrivals.length;
    return batches;
  }

  /**
   * If it fails, each batch is tried alone, so that a batch the database refuses costs no other. If the database is away, all waiting batches fail
   * at once: they would wait as long again for the same error.
   */
  async #commit(batches: readonly Batch[]): Promise<void> {
    try {
      const counted = await this.#store(batches.flatMap(({ arrivals }) => arrivals));
      // If two batches have the same reading, it counts for the first.
      for (const { arrivals, resolve } of batches) resolve(arrivals.filter((arrival) => counted.delete(nameOf(arrival))).length);
    } catch (error) {
      if (error instanceof Refusal && error.code === 'UNAVAILABLE') for (const { reject } of [...batches, ...this.#take(Infinity)]) reject(error);
      else if (batches.length === 1) batches[0]?.reject(error);
      else for (const batch of batches) await this.#commit([batch]);
    }
  }

  /** Returns the names of readings not counted before. Always written in the same order, so that two processes never deadlock. */
  async #store(arrivals: readonly Arrival[]): Promise<Set<string>> {
    const once = new Map<string, Arrival>();
    for (const arrival of arrivals) if (!once.has(nameOf(arrival))) once.set(nameOf(arrival), arrival);
    const sorted = [...once].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, arrival]) => arrival);
    return this.#database.transaction(async (transaction) => {
      const counted = await insert(transaction, this.#database.dialect, sorted);
      await addToDays(transaction, this.#database.dialect, sorted.filter((arrival) => counted.has(nameOf(arrival))));
      return counted;
    });
  }
}

const nameOf = ({ licenseId, id }: Pick<Arrival, 'licenseId' | 'id'>): string => `${licenseId} ${id}`;

/** Rows of a JSON document, one statement for all of them whatever their number. */
const rowsOf = (dialect: Database['dialect'], rows: readonly (readonly (string | number)[])[]) => {
  const json = JSON.stringify(rows);
  return dialect === 'sqlite' ? sql`json_each(${json}) as r` : sql`jsonb_array_elements(${json}::jsonb) as r (value)`;
};
const text = (n: number) => sql`value ->> ${sql.lit(n)}`;
const whole = (n: number) => sql`cast(value ->> ${sql.lit(n)} as bigint)`;
const real = (n: number) => sql`cast(value ->> ${sql.lit(n)} as double precision)`;

async function insert(transaction: Transaction<Tables>, dialect: Database['dialect'], arrivals: readonly Arrival[]): Promise<Set<string>> {
  const rows = arrivals.map(({ licenseId, id, instanceId, meter, at, micros, receivedAt }) => [licenseId, id, instanceId, meter, at, micros, receivedAt]);
  const inserted = await sql<{ license_id: LicenseId; id: string }>`insert into usage_readings (license_id, id, instance_id, meter, at, micros, received_at)
    select ${text(0)}, ${text(1)}, ${text(2)}, ${text(3)}, ${whole(4)}, ${real(5)}, ${whole(6)} from ${rowsOf(dialect, rows)} where true
    on conflict (license_id, id) do nothing returning license_id, id`.execute(transaction);
  return new Set(inserted.rows.map(({ license_id: licenseId, id }) => nameOf({ licenseId, id })));
}

/** A day not due already falls due at its end; one that is over, at once. */
async function addToDays(transaction: Transaction<Tables>, dialect: Database['dialect'], arrivals: readonly Arrival[]): Promise<void> {
  const days = new Map<string, [licenseId: string, meter: string, day: Day, micros: number, due: number]>();
  for (const { licenseId, meter, at, micros, receivedAt } of arrivals) {
    for (const day of daysOf(at, HOLD_MS)) {
      const key = `${licenseId} ${day} ${meter}`;
      const known = days.get(key) ?? [licenseId, meter, day, 0, dueAt(day, receivedAt)];
      known[3] += day === dayOf(at) ? micros : 0;
      days.set(key, known);
    }
  }
  if (days.size === 0) return;
  const rows = [...days].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, row]) => row);
  await sql`insert into usage_days (license_id, meter, day, micros, due_at, version)
    select ${text(0)}, ${text(1)}, ${text(2)}, ${real(3)}, ${whole(4)}, 1 from ${rowsOf(dialect, rows)} where true
    on conflict (license_id, meter, day) do update set micros = usage_days.micros + excluded.micros, due_at = coalesce(usage_days.due_at, excluded.due_at), version = usage_days.version + 1`
    .execute(transaction);
}

/** Readings from before the first moment matter too, as long as they hold. */
export const leadIn = (from: number): number => from - HOLD_MS + 1;
export const firstOfMonth = (day: Day): Day => dayOf(startOf(`${day.slice(0, 7)}-01`));
