import { Injectable } from '@nestjs/common';
import { LapsedLeaseBacklog, LapsedLeases, LapseLeases, LoseHeartbeats, type Backlog } from '@keyledger/contracts';
import { boundAtOf, isLive, isMissed, License, lookAtOf, missedFrom, openLease, silentFrom, type IssuedLicense } from '@keyledger/domain';
import { EventStores, originOf, subjectOf, type RecordedEvent } from '@keyledger/event-store';
import { Clock, context, environments, isTransient, Refusal, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { Reaction, StateDatabases } from '@keyledger/read-models';
import { LastSeenLedger } from './last-seen.ts';
import { LeaseLedger } from './leases.ts';
import { VerdictCaches } from './verdict-caches.ts';

/** More at once would time out waiting for a database connection, and then be retried all together. */
const AT_ONCE = 32;

/** Where silence matters, an instance has a lease from its activation on, even if it is never heard of; so has the appliance that it is moved to. */
@Injectable()
export class LeaseOpening {
  private constructor(private readonly reaction: Reaction) {}

  static async start(events: EventStores, databases: StateDatabases, clock: Clock, caches: VerdictCaches, leases: LeaseLedger, log: Log): Promise<LeaseOpening> {
    return new LeaseOpening(await Reaction.start({
      name: 'activation-leases', events, databases, clock,
      follows: [{ category: License.category, types: ['InstanceActivated', 'InstanceRebound'] }],
      isFor: ({ type, data }) => type === 'InstanceRebound' || data['leaseEndsAt'] !== undefined,
      async react(activated) {
        for (let n = 0; n < activated.length; n += AT_ONCE) {
          await Promise.all(activated.slice(n, n + AT_ONCE).map((event) => open(event, caches, leases).catch((error: unknown) => lookLater(event, error, leases, log))));
        }
      },
    }));
  }

  /** Resolves when every instance activated up to now has its lease. */
  done(): Promise<void> {
    return this.reaction.current();
  }

  close(): Promise<void> {
    return this.reaction.close();
  }
}

async function open(event: RecordedEvent, caches: VerdictCaches, leases: LeaseLedger): Promise<void> {
  const [licenseId, activationId] = [subjectOf(event.stream) as LicenseId, event.data['activationId'] as ActivationId];
  const license = await licenseIn(caches, licenseId);
  if (!license?.activations.has(activationId) || !isMissed(license.terms)) return;
  const lease = openLease(license, activationId, undefined, originOf(event).at);
  await leases.change(activationId, (kept, isCertain) =>
    (isCertain ? { answer: null, ...(kept?.lease.boundAt !== lease.boundAt && { keep: { licenseId, lease, token: null, toldSeq: event.revision, agentVersion: null, lookAt: lookAtOf(license, activationId, lease) } }) } : undefined));
}

/** An unreadable license does not hold up the leases of others. Its own instances stay due until it can be read and decides. A transient error fails them all. */
async function lookLater(event: RecordedEvent, error: unknown, leases: LeaseLedger, log: Log): Promise<void> {
  if (isTransient(error)) throw error;
  const { stream, data: { activationId } } = event;
  log.error({ err: error, stream, activationId }, 'the lease of an instance cannot be determined; it will be tried again');
  if (typeof activationId === 'string') await leases.lookLater(activationId as ActivationId, event);
}

/** Undefined if the license is gone. */
async function licenseIn(caches: VerdictCaches, licenseId: LicenseId): Promise<IssuedLicense | undefined> {
  try {
    const { state } = await caches.here().get(licenseId);
    return state.existence === 'issued' ? state : undefined;
  } catch (error) {
    if (error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND') return undefined;
    throw error;
  }
}

/** A lease ends by the clock of the service that wrote it; the sweeper's may be ahead. */
const nowAtMost = (until: Instant): Instant => (until < context().now ? until : context().now);

@Handles(LapsedLeases, LapsedLeaseBacklog)
export class LapseQueries {
  constructor(private readonly databases: StateDatabases, private readonly opening: LeaseOpening) {}

  async execute(query: LapsedLeases | LapsedLeaseBacklog) {
    await this.opening.done();
    const { after } = query;
    const until = nowAtMost(query.until);
    const where = `lapse_at <= ?${after ? ' and (lapse_at, activation_id) > (?, ?)' : ''} order by lapse_at, activation_id`;
    const params = after ? [until, after.dueAt, after.id] : [until];
    if (query instanceof LapsedLeases) {
      const { rows } = await this.databases.here().run<{ id: ActivationId; dueAt: Instant }>(
        `select activation_id as id, lapse_at as "dueAt" from activation_leases where ${where} limit ?`, [...params, query.limit]);
      return { data: rows };
    }
    const { rows: [row] } = await this.databases.here().run<Backlog>(
      `select min(lapse_at) as oldest, count(*) as count from (select lapse_at from activation_leases where ${where} limit 10000) as due`, params);
    return { oldest: row?.oldest ?? null, count: Number(row?.count ?? 0) };
  }
}

interface Row {
  activation_id: ActivationId;
  license_id: LicenseId;
  version: number;
  bound_at: Instant;
  contact_at: Instant;
  lease_ends_at: Instant;
  over_version: number | null;
}
interface Looked {
  readonly id: ActivationId;
  readonly licenseId: LicenseId;
  readonly version: number;
  /** When a heartbeat is or will be overdue, and when the instance counts as silent. Neither for one that has ended. */
  readonly missedFrom: Instant | undefined;
  readonly silentFrom: Instant | undefined;
  /** For a floating seat, which ends with its lease: since when its appliance has it. */
  readonly floatsFrom: Instant | undefined;
  /** An earlier lapse has decided its end, but could not get it recorded. */
  readonly isOver: boolean;
}

/** Checks that they are still silent (no validation writes here, so the row may be behind), has it recorded, and then notes that: if the process dies in between, a retry changes nothing. */
@Handles(LapseLeases)
export class LapseCommand {
  /** By environment: no instance could be heard of before. Appliances do not pay for the server's downtime. */
  readonly #upSince: ReadonlyMap<string, Instant>;

  constructor(
    private readonly databases: StateDatabases, private readonly caches: VerdictCaches, private readonly lastSeen: LastSeenLedger, private readonly messages: MessageClient,
    private readonly log: Log, clock: Clock,
  ) {
    this.#upSince = new Map(environments.map((environment) => [environment, clock.now(environment)]));
  }

  async execute({ activationIds, until: asked, dryRun }: LapseLeases) {
    const until = nowAtMost(asked);
    const { rows } = await this.databases.here().run<Row>(
      `select activation_id, license_id, version, bound_at, contact_at, lease_ends_at, over_version from activation_leases where lapse_at <= ? and activation_id in (${activationIds.map(() => '?').join(', ')})`, [until, ...activationIds]);
    const read = (await Promise.all(rows.map((row) => this.#read(row)))).filter((one) => one !== undefined);
    // As late as possible: a validation after this no longer keeps its seat.
    const seen = await this.lastSeen.of(rows.map((row) => row.activation_id));
    const looked = read.map(({ row, license }) => this.#look(row, license, seen[row.activation_id])).sort((one, other) => (one.id < other.id ? -1 : 1));
    const due = (at: Instant | undefined) => (at !== undefined && at <= until ? at : undefined);
    const late = looked.filter(({ missedFrom: missed, silentFrom: silent }) => due(missed) ?? due(silent));
    const heard = dryRun ? new Set() : await this.#heard(late);
    const lapsed = late.filter(({ id }) => !heard.has(id)).map(({ id, licenseId, missedFrom: missed, silentFrom: silent }) => ({ licenseId, activationId: id, missedAt: due(missed), dueAt: due(silent) }));
    const { transitions, failed } = lapsed.length > 0 ? await this.messages.send(LoseHeartbeats, { instances: lapsed, dryRun }) : { transitions: {}, failed: [] };
    if (!dryRun) await this.#lift(looked.filter((one) => one.isOver && !late.includes(one)));
    if (!dryRun) await this.#note(looked.filter(({ id }) => !failed.includes(id) && !heard.has(id)), until);
    return transitions;
  }

  /** Undefined if the license cannot be read: the row stays due, and does not hold up the others. A transient error fails them all. */
  async #read(row: Row): Promise<{ readonly row: Row; readonly license: IssuedLicense | undefined } | undefined> {
    try {
      return { row, license: await licenseIn(this.caches, row.license_id) };
    } catch (error) {
      if (isTransient(error)) throw error;
      this.log.error({ err: error, licenseId: row.license_id, activationId: row.activation_id }, 'it cannot be determined whether an instance still sends heartbeats');
      return undefined;
    }
  }

  #look({ activation_id: id, license_id: licenseId, version, bound_at: boundAt, contact_at: contactAt, lease_ends_at: endsAt, over_version: over }: Row, license: IssuedLicense | undefined, seenAt: Instant | undefined): Looked {
    const activation = license?.activations.get(id);
    if (!license || !isLive(activation)) return { id, licenseId, version, missedFrom: undefined, silentFrom: undefined, floatsFrom: undefined, isOver: false };
    const lease = { boundAt, contactAt, endsAt };
    return {
      id, licenseId, version, missedFrom: missedFrom(license, activation, lease, this.#upSince.get(context().environment)), silentFrom: silentFrom(license, activation, lease, seenAt),
      floatsFrom: license.terms.seats === 'floating' ? boundAtOf(activation) : undefined, isOver: over === version,
    };
  }

  /**
   * Decides in the rows that floating seats are over, before their licenses record it: a heartbeat judged by the older row starts over, and
   * one that has been written meanwhile keeps its seat. Returns the ids of the seats kept.
   */
  async #heard(late: readonly Looked[]): Promise<ReadonlySet<ActivationId>> {
    const floating = late.filter(({ floatsFrom }) => floatsFrom !== undefined);
    if (floating.length === 0) return new Set();
    const ids = floating.map(({ id }) => id);
    const [, over] = await this.databases.here().batch([
      {
        sql: 'update activation_leases set version = version + 1, over_version = version + 1, bound_at = ?, lease_ends_at = ? where activation_id = ? and version = ?',
        many: floating.map(({ id, version, floatsFrom, silentFrom: silent }) => [floatsFrom as Instant, silent as Instant, id, version]),
      },
      { sql: `select activation_id from activation_leases where over_version = version and activation_id in (${ids.map(() => '?').join(', ')})`, params: ids },
    ]);
    const ends = new Set(over?.rows.map((row) => row['activation_id']));
    return new Set(ids.filter((id) => !ends.has(id)));
  }

  /** A validation has kept the seat after all, before its end could be recorded. */
  async #lift(kept: readonly Looked[]): Promise<void> {
    if (kept.length === 0) return;
    await this.databases.here().batch([{
      sql: 'update activation_leases set version = version + 1 where activation_id = ? and version = ? and over_version = version', many: kept.map(({ id, version }) => [id, version]),
    }]);
  }

  /** A lease extended in the meantime has its own time for the next look. */
  async #note(looked: readonly Looked[], until: Instant): Promise<void> {
    if (looked.length === 0) return;
    await this.databases.here().batch([{
      sql: 'update activation_leases set lapse_at = ? where activation_id = ? and lapse_at <= ?',
      many: looked.map(({ id, missedFrom: missed, silentFrom: silent }) => [[missed, silent].find((at) => at !== undefined && at > until) ?? null, id, until]),
    }]);
  }
}
