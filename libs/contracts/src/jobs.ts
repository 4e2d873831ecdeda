import Type, { type Static } from 'typebox';
import { instant, listOf, named, nullable, oneOf, optional, pageOf, paging } from './fields.ts';
import { licenseFilters, licenseSort, LicenseView } from './license.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';

const kind = oneOf('batch', 'import');
const state = oneOf('queued', 'running', 'completed', 'failed', 'cancelled');

/** Work on many licenses, done row by row in the background. */
export const JobView = named('Job', Type.Object({
  id: ids.job,
  kind,
  state,
  done: Type.Integer({ description: 'Rows processed, including failed ones' }),
  total: Type.Integer(),
  failed: Type.Integer(),
  createdAt: instant,
  startedAt: nullable(instant),
  finishedAt: nullable(instant),
  resultUrl: nullable(Type.String({ description: 'Set once the job is finished' })),
  detail: nullable(Type.String({ description: 'Why it failed' })),
  productId: optional(ids.product),
  generatorId: optional(ids.generator),
  keysDownloadedAt: optional(nullable(instant)),
  dryRun: optional(Type.Boolean()),
}));
export type JobView = Static<typeof JobView>;

const result = {
  row: Type.Integer({ description: 'Starts at 1; the header is not counted' }),
  outcome: oneOf('issued', 'assigned', 'unchanged', 'failed'),
  code: nullable(Type.String({ description: 'Why it failed' })),
  detail: nullable(Type.String()),
  licenseId: nullable(ids.license),
  customerId: nullable(ids.customer),
};
/** The result of a row. In a dry run: what it would be. */
export const JobResult = named('JobResult', Type.Object(result));
export type JobResult = Static<typeof JobResult>;

/** Issues `count` licenses, each with the key format and terms that the generator has now. */
export class StartBatch extends command('job.start-batch', { generatorId: ids.generator, count: Type.Integer({ minimum: 1, maximum: 100_000 }) }, JobView) {}

/** A row of an import as it was read: a key and its customer, or what is wrong with the row. */
const importRow = Type.Object({ licenseKey: Type.String(), customerEmail: Type.String(), fault: optional(Type.String()) });
export type ImportRow = Static<typeof importRow>;
/** Rows in a message and in a step of the work. Chunks of that many rows are numbered from 0. */
export const ROWS_PER_CHUNK = 100;
/** A file comes chunk by chunk, then the job is started. A repeated chunk is stored once. */
export class StageImport extends command('job.stage-import', { jobId: ids.job, chunk: Type.Integer(), rows: listOf(importRow) }, Type.Null()) {}
export class StartImport extends command('job.start-import', { jobId: ids.job, total: Type.Integer(), dryRun: Type.Boolean() }, JobView) {}

export class GetJob extends query('job.get', { jobId: ids.job }, JobView) {}
/** Answers when the job has moved beyond `after`, is over, or `waitMs` have passed. */
export class FollowJob extends query('job.follow', { jobId: ids.job, after: optional(Type.String()), waitMs: Type.Integer() }, Type.Object({
  job: JobView, place: Type.String({ description: 'Position of this state of the job, to pass as `after`' }), ended: Type.Boolean(),
})) {}
export class ListJobs extends query('job.list', {
  state: optional(listOf(state)), kind: optional(kind), sort: optional(oneOf('createdAt', '-createdAt')), ...paging,
}, pageOf(JobView)) {}
export class CancelJob extends command('job.cancel', { jobId: ids.job }, JobView) {}

/** Some rows of the result, after a row. With keys only for who has taken them; the first ones can be had ready for that. */
export class ReadJobResult extends query('job.result', { jobId: ids.job, after: Type.Integer(), withKeys: Type.Boolean() }, Type.Object({
  data: listOf(Type.Object({ ...result, key: optional(nullable(Type.String())) })), last: Type.Boolean(),
})) {}
/** The keys of a batch, once: the second caller gets KEYS_ALREADY_DOWNLOADED. */
export class TakeJobKeys extends command('job.take-keys', { jobId: ids.job }, Type.Null()) {}

/** A license with the names that people know it by. */
const exportedLicense = Type.Object({ license: LicenseView, productName: nullable(Type.String()), customerName: nullable(Type.String()), customerEmail: nullable(Type.String()) });
export type ExportedLicense = Static<typeof exportedLicense>;
/** The next matching licenses, in the order of the list. */
export class ExportLicenses extends query('license.export', { ...licenseFilters, sort: licenseSort, cursor: optional(Type.String()) }, Type.Object({
  data: listOf(exportedLicense), next: Type.String(), last: Type.Boolean(),
})) {}

/** The customers with these addresses; addresses without a customer are left out. */
export class FindCustomers extends query('catalog.find-customers', { emails: listOf(Type.String()) }, Type.Object({
  data: listOf(Type.Object({ email: Type.String(), customerId: ids.customer })),
})) {}

/** How many licenses of each product are unassigned and can be assigned. */
export class CountAvailable extends query('license.count-available', { productIds: listOf(ids.product) }, Type.Object({
  data: listOf(Type.Object({ productId: ids.product, available: Type.Integer() })),
})) {}
