import { DueLicenseBacklog, DueLicenses, LoseHeartbeats, SweepLicenses, type Backlog } from '@keyledger/contracts';
import { License, type LicenseCommand, type LicenseEvent } from '@keyledger/domain';
import { context, Refusal, runIn, type ErrorCode, type Instant, type LicenseId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Projectors } from '@keyledger/read-models';
import { Licenses } from './streams.ts';

/** Found by the index on `due_at`: what is not due costs nothing, however much there is. */
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

/** Time itself asks, so whoever's license has gone in the meantime is no refusal. */
@Handles(SweepLicenses, LoseHeartbeats)
export class SweepCommands {
  constructor(private readonly licenses: Licenses) {}

  async execute(asked: SweepLicenses | LoseHeartbeats) {
    const { now: here } = context();
    // The clocks of two machines differ by a little, and the sweeper has seen this instant.
    const now = asked instanceof SweepLicenses && asked.until > here ? asked.until : here;
    const events = await runIn({ ...context(), now }, () => Promise.all(commandsOf(asked).map(([id, command]) => this.#eventsOf(id, command, asked.dryRun, now).catch(noneIfGone))));
    return countByType(events.flat());
  }

  #eventsOf(id: LicenseId, command: LicenseCommand, dryRun: boolean, now: Instant): Promise<readonly LicenseEvent[]> {
    return dryRun ? this.licenses.load(id, (state) => License.decide(state, command, now)) : this.licenses.run(id, command, (_state, _revision, events) => events);
  }
}

const commandsOf = (asked: SweepLicenses | LoseHeartbeats): readonly (readonly [LicenseId, LicenseCommand])[] => (asked instanceof SweepLicenses
  ? asked.licenseIds.map((id) => [id, { type: 'Sweep', until: asked.until }])
  : asked.instances.map(({ licenseId, activationId, dueAt }) => [licenseId, { type: 'LoseHeartbeat', activationId, dueAt }]));

const gone: readonly ErrorCode[] = ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'];
function noneIfGone(error: unknown): readonly LicenseEvent[] {
  if (error instanceof Refusal && gone.includes(error.code)) return [];
  throw error;
}

function countByType(events: readonly { readonly type: string }[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { type } of events) counts[type] = (counts[type] ?? 0) + 1;
  return counts;
}
