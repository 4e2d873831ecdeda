import { Injectable } from '@nestjs/common';
import type { HeartbeatAnswer } from '@keyledger/contracts';
import { NO_BEAT, type DeploymentState, type Enforcement, type Lease, type LeaseToken } from '@keyledger/domain';
import { originOf, subjectOf, type RecordedEvent } from '@keyledger/event-store';
import { context, Refusal, refuse, type ActivationId, type DirectiveId, type Instant, type JsonObject, type LicenseId, type Sealer } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { StateDatabases, type Database, type Dialect, type Migration } from '@keyledger/read-models';
import { LRUCache } from 'lru-cache';

/** Leases end by themselves: the sweep finds those that have ended, or are not renewed in time, by `lapse_at`. */
const leasesTable: Migration = {
  name: 'activation-2-leases',
  async up({ run }) {
    await run(`create table activation_leases (activation_id text primary key, license_id text not null, version bigint not null, bound_at text not null, seq bigint not null,
      said text not null, state text not null, enforcement text not null, contact_at text not null, lease_ends_at text not null, acked text not null,
      told_seq bigint not null, next_in bigint, agent_version text, token_signed_at text, token_says text, sealed_token text, sealed_answer text,
      lapse_at text)`);
    await run('create index activation_leases_lapse_at on activation_leases (lapse_at, activation_id)');
    await run('create index activation_leases_license_id on activation_leases (license_id)');
  },
};
/** The version of the row with which a lapse has decided that the seat is over. Any later version is another lease, even one written by an older release, which does not know this column. */
const leaseEnds: Migration = { name: 'activation-4-lease-ends', up: ({ run }) => run('alter table activation_leases add column over_version bigint') };
export const leaseTables: readonly Migration[] = [leasesTable, leaseEnds];

/** All that is kept for one activation. */
export interface Kept {
  readonly licenseId: LicenseId;
  readonly lease: Lease;
  readonly token: (LeaseToken & { readonly text: string }) | null;
  /** The answer to the last heartbeat; undefined before the first, and where the row is only remembered. */
  readonly answer?: HeartbeatAnswer | undefined;
  /** The license revision the appliance was told of last. */
  readonly toldSeq: number;
  readonly agentVersion: string | null;
  /** When the sweep is to check it, if nothing is heard until then; null: never. */
  readonly lookAt: Instant | null;
}
/** The outcome of looking at a row: an answer, and what to keep from now on. Nothing to keep: the row stays. */
export interface Step<T> {
  readonly answer: T;
  readonly keep?: Kept;
}

interface Known {
  readonly kept: Kept;
  /** Grows with each change: a decision on an older version starts over. */
  readonly version: number;
}

interface Row {
  activation_id: ActivationId; license_id: LicenseId; version: number; bound_at: Instant; seq: number; said: string; state: DeploymentState; enforcement: Enforcement;
  contact_at: Instant; lease_ends_at: Instant; acked: string; told_seq: number; next_in: number | null; agent_version: string | null; token_signed_at: Instant | null; token_says: string | null;
  /** In a row to be written: null leaves it as it is, '' takes it away. */
  sealed_token: string | null;
  /** Null if the other columns and the lease's token contain all of it. */
  sealed_answer: string | null;
  /** When to check it next; null once its end was. */
  lapse_at: Instant | null;
}
const columns = [
  'activation_id', 'license_id', 'version', 'bound_at', 'seq', 'said', 'state', 'enforcement', 'contact_at', 'lease_ends_at', 'acked', 'told_seq', 'next_in', 'agent_version',
  'token_signed_at', 'token_says', 'sealed_token', 'sealed_answer', 'lapse_at',
] as const satisfies (keyof Row)[];
type StoredRow = Row & { readonly over_version: number | null };
const whole: readonly string[] = ['version', 'seq', 'told_seq', 'next_in'];

interface Waiting {
  readonly row: Row;
  readonly done: (written: boolean) => void;
  readonly failed: (error: unknown) => void;
}

/** Some 2 KB each. */
const remembered = 20_000;
const rowsPerWrite = 500;
/** Rows waiting in one turn of the event loop are written together; so many do not wait for its end, so that the database works meanwhile. */
const worthAWrite = 16;
/** Most writes in progress: a finished one is only noticed between two turns. */
const writesAtATime = 4;
const maxLostRaces = 20;

/**
 * Heartbeats and their answers, a row for each activation. A row is written before its heartbeat is answered; those that come together
 * are written together. Several processes may do so at once: a process replaces a row only if it has seen the version before.
 */
@Injectable()
export class LeaseLedger {
  readonly #here = new Map<string, Shelf>();

  constructor(private readonly databases: StateDatabases, private readonly keyrings: Keyrings) {}

  /**
   * Looks at the row and keeps the outcome; starts over if another process has changed the row meanwhile. A remembered row may be outdated,
   * so nothing is refused or left as it is because of it: `isCertain` is false then, and undefined asks for another look.
   */
  async change<T>(id: ActivationId, look: (kept: Kept | undefined, isCertain: boolean) => Step<T> | undefined | Promise<Step<T> | undefined>): Promise<T> {
    const shelf = this.#shelf();
    const known = shelf.known.get(id);
    if (known) {
      const step = await unlessRefused(() => look(known.kept, false));
      if (step?.keep && (await this.#keep(shelf, id, known, step.keep))) return step.answer;
    }
    for (let lost = 0; lost < maxLostRaces; lost++) {
      const certain = await this.#read(shelf, id);
      const step = await look(certain?.kept, true);
      if (!step) throw new Error(`${id}: nothing was decided on the row as it is`);
      if (!step.keep || (await this.#keep(shelf, id, certain, step.keep))) return step.answer;
    }
    throw refuse('TRY_AGAIN');
  }

  /** A lease only ever gets longer: a remembered one that still runs is good, else the row decides. */
  running(id: ActivationId, now: Instant): Lease | Promise<Lease | undefined> {
    const shelf = this.#shelf();
    const lease = shelf.known.get(id)?.kept.lease;
    return lease && lease.endsAt > now ? lease : this.#read(shelf, id).then((certain) => certain?.kept.lease);
  }

  async of(ids: readonly ActivationId[]): Promise<readonly Pick<Row, 'activation_id' | 'seq' | 'contact_at' | 'lease_ends_at' | 'told_seq' | 'agent_version'>[]> {
    if (ids.length === 0) return [];
    const { rows } = await this.databases.here().run<Row>(
      `select activation_id, seq, contact_at, lease_ends_at, told_seq, agent_version from activation_leases where activation_id in (${ids.map(() => '?').join(', ')})`, ids);
    return rows.map((row) => ({ ...row, seq: Number(row.seq), told_seq: Number(row.told_seq) }));
  }

  /** For an instance activated, or moved, while its license cannot be read. A row created here belongs to no appliance: the license decides without it. */
  async lookLater(id: ActivationId, event: RecordedEvent): Promise<void> {
    const { at } = originOf(event);
    await this.#shelf().database.run(
      `insert into activation_leases (activation_id, license_id, version, bound_at, seq, said, state, enforcement, contact_at, lease_ends_at, acked, told_seq, lapse_at)
        values (?, ?, 1, '', ?, '', 'active', 'FULL', ?, ?, '', ?, ?) on conflict (activation_id) do update set lapse_at = excluded.lapse_at`,
      [id, subjectOf(event.stream), NO_BEAT, at, event.data['leaseEndsAt'] ?? at, event.revision, at]);
  }

  async forget(licenseId: LicenseId): Promise<void> {
    const { known, database } = this.#shelf();
    for (const [id, { kept }] of known.entries()) if (kept.licenseId === licenseId) known.delete(id);
    await database.run('delete from activation_leases where license_id = ?', [licenseId]);
  }

  async #read(shelf: Shelf, id: ActivationId): Promise<Known | undefined> {
    const { rows: [row] } = await shelf.database.run<StoredRow>(`select ${columns.join(', ')}, over_version from activation_leases where activation_id = ?`, [id]);
    if (!row) {
      shelf.known.delete(id);
      return undefined;
    }
    const known = knownFrom(row, await this.keyrings.here().prepare([row.license_id]));
    shelf.remember(id, known);
    return known;
  }

  /** False if the row is no longer the one that was looked at. */
  async #keep(shelf: Shelf, id: ActivationId, before: Known | undefined, kept: Kept): Promise<boolean> {
    const version = (before?.version ?? 0) + 1;
    const sealer = this.keyrings.here().prepare([kept.licenseId]);
    const written = await shelf.write(rowFrom(id, before?.kept, kept, version, sealer instanceof Promise ? await sealer : sealer));
    if (written) shelf.remember(id, { kept, version });
    else shelf.known.delete(id);
    return written;
  }

  #shelf(): Shelf {
    const { environment } = context();
    let shelf = this.#here.get(environment);
    if (!shelf) this.#here.set(environment, (shelf = new Shelf(this.databases.here())));
    return shelf;
  }
}

/** One environment's rows: those remembered, and those on their way to the disk. */
class Shelf {
  readonly known = new LRUCache<ActivationId, Known>({ maxSize: remembered, sizeCalculation: () => 1 });
  readonly #sql: string;
  #waiting: Waiting[] = [];
  #underWay = 0;
  #next: NodeJS.Immediate | undefined;

  constructor(readonly database: Database) {
    this.#sql = writing(database.dialect);
  }

  /** Without the answer, which only a repeated heartbeat needs: that one reads the row. */
  remember(id: ActivationId, { kept: { answer: _, ...kept }, version }: Known): void {
    this.known.set(id, { kept, version });
  }

  write(row: Row): Promise<boolean> {
    return new Promise((done, failed) => {
      this.#waiting.push({ row, done, failed });
      if (this.#waiting.length >= worthAWrite) this.#work();
      else this.#next ??= setImmediate(() => this.#work());
    });
  }

  #work(): void {
    clearImmediate(this.#next);
    this.#next = undefined;
    while (this.#waiting.length > 0 && this.#underWay < writesAtATime) void this.#writeTogether(this.#take());
  }

  async #writeTogether(batch: readonly Waiting[]): Promise<void> {
    this.#underWay++;
    try {
      const { rows } = await this.database.run<Pick<Row, 'activation_id'>>(this.#sql, [JSON.stringify(batch.map(({ row }) => columns.map((name) => row[name])))]);
      const written = new Set(rows.map((row) => row.activation_id));
      for (const { row, done } of batch) done(written.has(row.activation_id));
    } catch (error) {
      for (const { failed } of batch) failed(error);
    }
    this.#underWay--;
    this.#work();
  }

  /** One statement may change a row only once: a second write for the same activation waits for the next. In order, so that two statements never deadlock. */
  #take(): Waiting[] {
    const batch = new Map<ActivationId, Waiting>();
    const rest: Waiting[] = [];
    for (const waiting of this.#waiting) {
      const { activation_id: id } = waiting.row;
      if (batch.size < rowsPerWrite && !batch.has(id)) batch.set(id, waiting);
      else rest.push(waiting);
    }
    this.#waiting = rest;
    return [...batch].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, waiting]) => waiting);
  }
}

/** Any number of rows in one statement of one parameter. It returns the rows written: those that replace the version before theirs. */
function writing(dialect: Dialect): string {
  const values = columns.map((name, at) => (whole.includes(name) ? `cast(value ->> ${at} as bigint)` : `value ->> ${at}`)).join(', ');
  const source = dialect === 'sqlite' ? 'json_each(?)' : 'jsonb_array_elements(cast(? as jsonb)) as given(value)';
  const replaced = columns.filter((name) => name !== 'activation_id' && name !== 'license_id')
    .map((name) => `${name} = ${name === 'sealed_token' ? 'coalesce(excluded.sealed_token, activation_leases.sealed_token)' : `excluded.${name}`}`);
  return `insert into activation_leases (${columns.join(', ')}) select ${values} from ${source} where true
    on conflict (activation_id) do update set ${replaced.join(', ')} where activation_leases.version = excluded.version - 1
    returning activation_id`;
}

/** Tokens and directives are sealed: unreadable once the license has been erased. */
function rowFrom(id: ActivationId, before: Kept | undefined, { licenseId, lease, token, answer, toldSeq, agentVersion, lookAt }: Kept, version: number, sealer: Sealer): Row {
  const { boundAt, seq, said, told, contactAt, endsAt, acked } = lease;
  const isPlain = !answer || (answer.token === token?.text && answer.serverTime === contactAt && answer.directives.length === 0);
  return {
    activation_id: id, license_id: licenseId, version, bound_at: boundAt, seq, said, state: told.state, enforcement: told.enforcement, contact_at: contactAt,
    lease_ends_at: endsAt, acked: acked.join(' '), told_seq: toldSeq, next_in: answer?.nextInSeconds ?? null, agent_version: agentVersion,
    token_signed_at: token?.signedAt ?? null, token_says: token?.says ?? null,
    sealed_token: token ? (token === before?.token ? null : sealer.seal(licenseId, { text: token.text })) : '',
    sealed_answer: isPlain ? null : sealer.seal(licenseId, answer as JsonObject), lapse_at: lookAt,
  };
}

function knownFrom(row: StoredRow, sealer: Sealer): Known {
  const { license_id: licenseId, bound_at: boundAt, said, state, enforcement, contact_at: contactAt, lease_ends_at: endsAt, token_signed_at: signedAt, token_says: says } = row;
  const told = { state, enforcement };
  const isOver = row.over_version === row.version;
  const acked = row.acked === '' ? [] : (row.acked.split(' ') as DirectiveId[]);
  const text = row.sealed_token ? (sealer.open(licenseId, row.sealed_token)?.['text'] as string | undefined) : undefined;
  const token = text !== undefined && signedAt !== null && says !== null ? { text, signedAt, says } : null;
  return {
    version: Number(row.version),
    kept: {
      licenseId, lease: { boundAt, seq: Number(row.seq), said, told, contactAt, endsAt, acked, ...(isOver && { isOver }) }, token, answer: answerFrom(row, token?.text ?? null, sealer),
      toldSeq: Number(row.told_seq), agentVersion: row.agent_version, lookAt: row.lapse_at,
    },
  };
}

/** With its members in the original order, so that it is the same to the letter. */
function answerFrom(row: Row, token: string | null, sealer: Sealer): HeartbeatAnswer | undefined {
  if (row.next_in === null) return undefined;
  if (row.sealed_answer !== null) return (sealer.open(row.license_id, row.sealed_answer) as HeartbeatAnswer | null) ?? undefined;
  return { state: row.state, enforcement: row.enforcement, token, directives: [], nextInSeconds: Number(row.next_in), serverTime: row.contact_at };
}

async function unlessRefused<T>(work: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Refusal) return undefined;
    throw error;
  }
}
