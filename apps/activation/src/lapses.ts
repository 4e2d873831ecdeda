import { Injectable } from '@nestjs/common';
import { LapsedLeaseBacklog, LapsedLeases, LapseLeases, LoseHeartbeats, type Backlog } from '@keyledger/contracts';
import { boundAtOf, isLive, isMissed, lookAtOf, missedFrom, openLease, silentFrom, type IssuedLicense } from '@keyledger/domain';
import { EventStores, originOf, subjectOf, type RecordedEvent } from '@keyledger/event-store';
import { Clock, context, environments, isTransient, Refusal, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { Reaction, StateDatabases } from '@keyledger/read-models';
import { LastSeenLedger } from './last-seen.ts';
import { LeaseLedger } from './leases.ts';
import { VerdictCaches } from './verdict-caches.ts';

/** More at once would wait for a connection to the database longer than they may, and come again all together. */
const AT_ONCE = 32;

/** Where it is missed when it is silent, an instance has a lease from its activation on, even if it is never heard of; and so has the box that it is moved to. */
@Injectable()
export class LeaseOpening {
  private constructor(private readonly reaction: Reaction) {}

  static async start(events: EventStores, databases: StateDatabases, clock: Clock, caches: VerdictCaches, leases: LeaseLedger, log: Log): Promise<LeaseOpening> {
    return new LeaseOpening(await Reaction.start({
      name: 'activation-leases', events, databases, clock,
      isFor: ({ type, data }) => (type === 'InstanceActivated' && data['leaseEndsAt'] !== undefined) || type === 'InstanceRebound',
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

/** A license that cannot be read keeps no other's instances from their leases. Its own are due until it can be: it says itself then what they have. Nobody's can be, if nobody answers. */
async function lookLater(event: RecordedEvent, error: unknown, leases: LeaseLedger, log: Log): Promise<void> {
  if (isTransient(error)) throw error;
  const { stream, data: { activationId } } = event;
  log.error({ err: error, stream, activationId }, 'the lease of an instance cannot be determined; it will be tried again');
  if (typeof activationId === 'string') await leases.lookLater(activationId as ActivationId, event);
}

/** Undefined for one that is gone. */
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
  /** Since when a heartbeat is overdue, and since when it is silent, or until when it is not yet. Neither for one that has ended. */
  readonly missedFrom: Instant | undefined;
  readonly silentFrom: Instant | undefined;
  /** Of a floating seat, which ends with its lease: since when its appliance has it. */
  readonly floatsFrom: Instant | undefined;
  /** An earlier lapse has decided its end, but could not have it said. */
  readonly isOver: boolean;
}

/** Looks whether they are still silent (no validation writes here, so the row may be behind), has it said, and then notes that it was: whoever dies in between asks again, and it is already so. */
@Handles(LapseLeases)
export class LapseCommand {
  /** By environment: nobody was heard of before. A server that was away is no fault of its boxes. */
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
    // As late as can be: a validation from here on does not keep its seat any more.
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

  /** Undefined for one whose license cannot be read: it keeps no other from being looked at, and stays due. Nobody can be, if nobody answers. */
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
   * Decides in the rows that floating seats are over, before their licenses say so: a heartbeat that is judged by the row as it was starts over, and
   * one that has been written meanwhile keeps its seat. Answers the ids of those that are kept.
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

  /** A validation has kept the seat after all, while its end could not be said. */
  async #lift(kept: readonly Looked[]): Promise<void> {
    if (kept.length === 0) return;
    await this.databases.here().batch([{
      sql: 'update activation_leases set version = version + 1 where activation_id = ? and version = ? and over_version = version', many: kept.map(({ id, version }) => [id, version]),
    }]);
  }

  /** A lease that was extended in the meantime says by itself when to look again. */
  async #note(looked: readonly Looked[], until: Instant): Promise<void> {
    if (looked.length === 0) return;
    await this.databases.here().batch([{
      sql: 'update activation_leases set lapse_at = ? where activation_id = ? and lapse_at <= ?',
      many: looked.map(({ id, missedFrom: missed, silentFrom: silent }) => [[missed, silent].find((at) => at !== undefined && at > until) ?? null, id, until]),
    }]);
  }
}
