import { DueLicenseBacklog, DueLicenses, LoseHeartbeats, SweepLicenses, type Backlog } from '@keyledger/contracts';
import { License, type LicenseCommand, type LicenseEvent } from '@keyledger/domain';
import { context, eventId, isTransient, Refusal, runIn, type ErrorCode, type Instant, type LicenseId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { Projectors } from '@keyledger/read-models';
import { Licenses } from './streams.ts';

/** Found by the index on `due_at`: licenses that are not due cost nothing, however many there are. */
@Handles(DueLicenses, DueLicenseBacklog)
export class DueQueries {
  constructor(private readonly projectors: Projectors) {}

  async execute(query: DueLicenses | DueLicenseBacklog) {
    const database = await this.projectors.current();
    const { until, after } = query;
    const where = `due_at <= ?${after ? ' and (due_at, id) > (?, ?)' : ''} order by due_at, id`;
    const params = after ? [until, after.dueAt, after.id] : [until];
    if (query instanceof DueLicenses) {
      const { rows } = await database.run<{ id: LicenseId; dueAt: Instant }>(`select id, due_at as "dueAt" from authority_license where ${where} limit ?`, [...params, query.limit]);
      return { data: rows };
    }
    const { rows: [row] } = await database.run<Backlog>(`select min(due_at) as oldest, count(*) as count from (select due_at from authority_license where ${where} limit 10000) as due`, params);
    return { oldest: row?.oldest ?? null, count: Number(row?.count ?? 0) };
  }
}

/**
 * No caller asks, only time, so a license that is gone by now is no refusal. A license that cannot be read, or decided, does not hold up the
 * others: it is logged, and stays due. A transient error fails them all.
 */
@Handles(SweepLicenses, LoseHeartbeats)
export class SweepCommands {
  constructor(private readonly licenses: Licenses, private readonly log: Log) {}

  async execute(asked: SweepLicenses | LoseHeartbeats) {
    const { now: here, commandId } = context();
    if (asked instanceof LoseHeartbeats) {
      // Each with its own command id: on a retry, other instances of the license may no longer be in the list.
      const said = await Promise.all(asked.instances.map((instance) =>
        runIn({ ...context(), commandId: eventId(commandId, instance.activationId) }, () => this.#silence(instance, asked.dryRun, here))));
      return { transitions: countByType(said), failed: asked.instances.flatMap(({ activationId }, n) => (said[n] ? [] : [activationId])) };
    }
    // The clocks of two machines differ by a little, and the sweeper has seen this instant.
    const now = asked.until > here ? asked.until : here;
    return countByType(await runIn({ ...context(), now }, () => Promise.all(asked.licenseIds.map((id) => this.#eventsOf(id, { type: 'Sweep', until: asked.until }, asked.dryRun, now)))));
  }

  /** Overdue first, and then over, as if each had been checked in its time. Undefined if it failed. */
  async #silence({ licenseId, activationId, missedAt, dueAt }: LoseHeartbeats['instances'][number], dryRun: boolean, now: Instant): Promise<readonly LicenseEvent[] | undefined> {
    const missed = missedAt === undefined ? [] : await this.#eventsOf(licenseId, { type: 'MissHeartbeat', activationId, dueAt: missedAt }, dryRun, now);
    const lost = dueAt === undefined || !missed ? missed && [] : await this.#eventsOf(licenseId, { type: 'LoseHeartbeat', activationId, dueAt }, dryRun, now);
    return missed && lost && [...missed, ...lost];
  }

  /** Undefined if it failed. */
  async #eventsOf(licenseId: LicenseId, command: LicenseCommand, dryRun: boolean, now: Instant): Promise<readonly LicenseEvent[] | undefined> {
    try {
      if (dryRun) return await this.licenses.load(licenseId, (state) => License.decide(state, command, now));
      return await this.licenses.run(licenseId, command, (_state, _revision, events) => events);
    } catch (error) {
      if (error instanceof Refusal && gone.includes(error.code)) return [];
      if (isTransient(error)) throw error;
      this.log.error({ err: error, licenseId }, 'what is due for a license could not be determined');
      return undefined;
    }
  }
}

const gone: readonly ErrorCode[] = ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'];

function countByType(said: readonly (readonly { readonly type: string }[] | undefined)[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { type } of said.flatMap((events) => events ?? [])) counts[type] = (counts[type] ?? 0) + 1;
  return counts;
}
