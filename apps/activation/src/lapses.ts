import { Injectable } from '@nestjs/common';
import { LapsedLeaseBacklog, LapsedLeases, LapseLeases, LoseHeartbeats, type Backlog } from '@keyledger/contracts';
import { isLive, isMissed, lookAtOf, missedFrom, openLease, silentFrom, type IssuedLicense } from '@keyledger/domain';
import { EventStores, originOf, subjectOf, type RecordedEvent } from '@keyledger/event-store';
import { Clock, context, environments, isPassing, Refusal, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { Reaction, StateDatabases } from '@keyledger/read-models';
import { LastSeenLedger } from './last-seen.ts';
import { LeaseLedger } from './leases.ts';
import { VerdictCaches } from './verdict-caches.ts';

/** Where it is missed when it is silent, an instance has a lease from its activation on, even if it is never heard of; and so has the box that it is moved to. */
@Injectable()
export class LeaseOpening {
  private constructor(private readonly reaction: Reaction) {}

  static async start(events: EventStores, databases: StateDatabases, clock: Clock, caches: VerdictCaches, leases: LeaseLedger, log: Log): Promise<LeaseOpening> {
    return new LeaseOpening(await Reaction.start({
      name: 'activation-leases', events, databases, clock,
      isFor: ({ type, data }) => (type === 'InstanceActivated' && data['leaseEndsAt'] !== undefined) || type === 'InstanceRebound',
      react: async (activated) => void await Promise.all(activated.map((event) => open(event, caches, leases).catch((error: unknown) => lookLater(event, error, leases, log)))),
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
  if (isPassing(error)) throw error;
  const { stream, data: { activationId } } = event;
  log.error({ err: error, stream, activationId }, 'nobody can tell what lease this instance has; it is looked at until somebody can');
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

@Handles(LapsedLeases, LapsedLeaseBacklog)
export class LapseQueries {
  constructor(private readonly databases: StateDatabases, private readonly opening: LeaseOpening) {}

  async execute(query: LapsedLeases | LapsedLeaseBacklog) {
    await this.opening.done();
    const { until, after } = query;
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

interface Lease {
  activation_id: ActivationId;
  license_id: LicenseId;
  bound_at: Instant;
  contact_at: Instant;
  lease_ends_at: Instant;
}
interface Looked {
  readonly id: ActivationId;
  readonly licenseId: LicenseId;
  /** Since when a heartbeat is overdue, and since when it is silent, or until when it is not yet. Neither for one that has ended. */
  readonly missedFrom: Instant | undefined;
  readonly silentFrom: Instant | undefined;
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

  async execute({ activationIds, until, dryRun }: LapseLeases) {
    const { rows } = await this.databases.here().run<Lease>(
      `select activation_id, license_id, bound_at, contact_at, lease_ends_at from activation_leases where lapse_at <= ? and activation_id in (${activationIds.map(() => '?').join(', ')})`, [until, ...activationIds]);
    const seen = await this.lastSeen.of(rows.map((row) => row.activation_id));
    const looked = (await Promise.all(rows.map((row) => this.#look(row, seen[row.activation_id])))).filter((one) => one !== undefined);
    const due = (at: Instant | undefined) => (at !== undefined && at <= until ? at : undefined);
    const lapsed = looked.map(({ id, licenseId, missedFrom: missed, silentFrom: silent }) => ({ licenseId, activationId: id, missedAt: due(missed), dueAt: due(silent) })).filter(({ missedAt, dueAt }) => missedAt ?? dueAt);
    const { transitions, failed } = lapsed.length > 0 ? await this.messages.send(LoseHeartbeats, { instances: lapsed, dryRun }) : { transitions: {}, failed: [] };
    if (!dryRun) await this.#note(looked.filter(({ id }) => !failed.includes(id)), until);
    return transitions;
  }

  /** Undefined for one whose license cannot be read: it keeps no other from being looked at, and stays due. Nobody can be, if nobody answers. */
  async #look({ activation_id: id, license_id: licenseId, bound_at: boundAt, contact_at: contactAt, lease_ends_at: endsAt }: Lease, seenAt: Instant | undefined): Promise<Looked | undefined> {
    try {
      const license = await licenseIn(this.caches, licenseId);
      const activation = license?.activations.get(id);
      if (!license || !isLive(activation)) return { id, licenseId, missedFrom: undefined, silentFrom: undefined };
      const lease = { boundAt, contactAt, endsAt };
      return { id, licenseId, missedFrom: missedFrom(license, activation, lease, this.#upSince.get(context().environment)), silentFrom: silentFrom(license, activation, lease, seenAt) };
    } catch (error) {
      if (isPassing(error)) throw error;
      this.log.error({ err: error, licenseId, activationId: id }, 'nobody can tell whether this instance is still heard of');
      return undefined;
    }
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
