import Type, { type Static } from 'typebox';
import { instant, listOf, named, nullable, oneOf, optional, pageOf, paging } from './fields.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';

/** What time has brought about, made explicit: events by their type. */
const transitions = Type.Record(Type.String(), Type.Integer(), { description: 'Events by type, for example LicenseExpired; empty when nothing was due' });
const outcome = { examined: Type.Integer({ description: 'Subjects that were due, or looked so' }), transitions };

export const SweepReport = named('SweepReport', Type.Object({
  number: nullable(Type.Integer({ description: 'Of the run; a dry run has none' })), dryRun: Type.Boolean(), startedAt: instant, durationMs: Type.Integer(), ...outcome,
}));
export type SweepReport = Static<typeof SweepReport>;
export const SweepView = named('Sweep', Type.Object({
  number: Type.Integer(), trigger: oneOf('schedule', 'request', 'clock'), state: oneOf('running', 'finished', 'interrupted'),
  startedAt: instant, finishedAt: nullable(instant), durationMs: nullable(Type.Integer()), ...outcome,
}));
export type SweepView = Static<typeof SweepView>;

/** Everything that is due now is done when this is answered. A dry run says what that would be. */
export class RunSweep extends command('sweep.run', { dryRun: optional(Type.Boolean()), trigger: oneOf('request', 'clock') }, SweepReport) {}
export class ListSweeps extends query('sweep.list', { ...paging }, pageOf(SweepView)) {}

/** The licenses of which something is due by `until`, the longest due first, from a place on. */
export class DueLicenses extends query('license.due', {
  until: instant, after: optional(Type.Object({ id: ids.license, dueAt: instant })), limit: Type.Integer(),
}, Type.Object({ data: listOf(Type.Object({ id: ids.license, dueAt: instant })) })) {}
/** Says in these licenses' streams what was due there by `until`; answers the events by type. */
export class SweepLicenses extends command('license.sweep', { licenseIds: listOf(ids.license), until: instant, dryRun: Type.Boolean() }, transitions) {}
