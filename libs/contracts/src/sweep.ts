import Type, { type Static } from 'typebox';
import { instant, listOf, named, nullable, oneOf, optional, pageOf, paging } from './fields.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';

/** What has fallen due, recorded: events by type. */
const transitions = Type.Record(Type.String(), Type.Integer(), { description: 'Events by type, for example LicenseExpired; empty when nothing was due' });
const outcome = { examined: Type.Integer({ description: 'Subjects examined' }), transitions };

export const SweepReport = named('SweepReport', Type.Object({
  number: nullable(Type.Integer({ description: 'Number of the run; null for a dry run' })), dryRun: Type.Boolean(), state: oneOf('running', 'finished'),
  startedAt: instant, durationMs: nullable(Type.Integer()), ...outcome,
}));
export type SweepReport = Static<typeof SweepReport>;
export const SweepView = named('Sweep', Type.Object({
  number: Type.Integer(), trigger: oneOf('schedule', 'request', 'clock'), state: oneOf('running', 'finished', 'interrupted'),
  startedAt: instant, finishedAt: nullable(instant), durationMs: nullable(Type.Integer()), ...outcome,
}));
export type SweepView = Static<typeof SweepView>;

/** Everything due now has been processed when this is answered. A dry run reports what it would do. */
export class RunSweep extends command('sweep.run', { dryRun: optional(Type.Boolean()), trigger: oneOf('request', 'clock') }, SweepReport) {}
export class ListSweeps extends query('sweep.list', { ...paging }, pageOf(SweepView)) {}

/** A place in what is due, the longest due first. */
const place = Type.Object({ id: Type.String(), dueAt: instant });
/** Every owner of due subjects is asked with the same messages. */
export const dueRange = { until: instant, after: optional(place) };
/** What of an owner's subjects is due by `until`, from a place on: since when, and how many (no more than 10,000 are counted). */
export const Backlog = Type.Object({ oldest: nullable(instant), count: Type.Integer() });
export type Backlog = Static<typeof Backlog>;

export class DueLicenseBacklog extends query('license.due-backlog', dueRange, Backlog) {}
export class DueLicenses extends query('license.due', { ...dueRange, limit: Type.Integer() }, Type.Object({ data: listOf(Type.Object({ id: ids.license, dueAt: instant })) })) {}
/** Says in these licenses' streams what was due there by `until`; answers the events by type. */
export class SweepLicenses extends command('license.sweep', { licenseIds: listOf(ids.license), until: instant, dryRun: Type.Boolean() }, transitions) {}

/** Instances of which a heartbeat is overdue, or whose lease is over by `until`, as long as nobody has looked at that. */
export class LapsedLeaseBacklog extends query('activation.lapsed-backlog', dueRange, Backlog) {}
export class LapsedLeases extends query('activation.lapsed', { ...dueRange, limit: Type.Integer() }, Type.Object({ data: listOf(Type.Object({ id: ids.activation, dueAt: instant })) })) {}
/** Records it for those that are still silent; answers the events by type. */
export class LapseLeases extends command('activation.lapse', { activationIds: listOf(ids.activation), until: instant, dryRun: Type.Boolean() }, transitions) {}
/** `missedAt`: since when a heartbeat is overdue; `dueAt`: since when the lease is over. Answers the events by type, and of whom nothing can be said, which is logged. */
export class LoseHeartbeats extends command('license.lose-heartbeats', {
  instances: listOf(Type.Object({ licenseId: ids.license, activationId: ids.activation, missedAt: optional(instant), dueAt: optional(instant) })), dryRun: Type.Boolean(),
}, Type.Object({ transitions, failed: listOf(ids.activation) })) {}
