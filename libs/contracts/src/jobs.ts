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
  done: Type.Integer({ description: 'Rows worked through, those that failed among them' }),
  total: Type.Integer(),
  failed: Type.Integer(),
  createdAt: instant,
  startedAt: nullable(instant),
  finishedAt: nullable(instant),
  resultUrl: nullable(Type.String({ description: 'Once it is finished' })),
  detail: nullable(Type.String({ description: 'Why it has failed' })),
  productId: optional(ids.product),
  generatorId: optional(ids.generator),
  keysDownloadedAt: optional(nullable(instant)),
  dryRun: optional(Type.Boolean()),
}));
export type JobView = Static<typeof JobView>;

const result = {
  row: Type.Integer({ description: 'The first one is 1; the header of a file is none' }),
  outcome: oneOf('issued', 'assigned', 'unchanged', 'failed'),
  code: nullable(Type.String({ description: 'Why it has failed' })),
  detail: nullable(Type.String()),
  licenseId: nullable(ids.license),
  customerId: nullable(ids.customer),
};
/** What a row has come to. In a dry run: what it would have. */
export const JobResult = named('JobResult', Type.Object(result));
export type JobResult = Static<typeof JobResult>;

/** So many licenses, each with the key format and the terms that the generator has now. */
export class StartBatch extends command('job.start-batch', { generatorId: ids.generator, count: Type.Integer({ minimum: 1, maximum: 100_000 }) }, JobView) {}

/** A row of an import as it was read: whose key goes to whom, or what is wrong with it. */
const importRow = Type.Object({ licenseKey: Type.String(), customerEmail: Type.String(), fault: optional(Type.String()) });
export type ImportRow = Static<typeof importRow>;
/** Rows to a message, and to a step of the work. Everything that has so many rows is numbered by chunks from 0. */
export const ROWS_PER_CHUNK = 100;
/** A file comes chunk by chunk, then the job is started. What is said twice is there once. */
export class StageImport extends command('job.stage-import', { jobId: ids.job, chunk: Type.Integer(), rows: listOf(importRow) }, Type.Null()) {}
export class StartImport extends command('job.start-import', { jobId: ids.job, total: Type.Integer(), dryRun: Type.Boolean() }, JobView) {}

export class GetJob extends query('job.get', { jobId: ids.job }, JobView) {}
/** Answers when the job has got beyond `after`, or is over, or so many milliseconds have passed. */
export class FollowJob extends query('job.follow', { jobId: ids.job, after: optional(Type.String()), waitMs: Type.Integer() }, Type.Object({
  job: JobView, place: Type.String({ description: 'Of the job as it is now, for `after`' }), ended: Type.Boolean(),
})) {}
export class ListJobs extends query('job.list', {
  state: optional(listOf(state)), kind: optional(kind), sort: optional(oneOf('createdAt', '-createdAt')), ...paging,
}, pageOf(JobView)) {}
export class CancelJob extends command('job.cancel', { jobId: ids.job }, JobView) {}

/** Some rows of the result, after a row. With keys only for who has taken them; the first ones can be had ready for that. */
export class ReadJobResult extends query('job.result', { jobId: ids.job, after: Type.Integer(), withKeys: Type.Boolean() }, Type.Object({
  data: listOf(Type.Object({ ...result, key: optional(nullable(Type.String())) })), last: Type.Boolean(),
})) {}
/** The keys of a batch, once: KEYS_ALREADY_DOWNLOADED for the second who asks. */
export class TakeJobKeys extends command('job.take-keys', { jobId: ids.job }, Type.Null()) {}

/** A license with the names that people know it by. */
const exportedLicense = Type.Object({ license: LicenseView, productName: nullable(Type.String()), customerName: nullable(Type.String()), customerEmail: nullable(Type.String()) });
export type ExportedLicense = Static<typeof exportedLicense>;
/** The next licenses that fit, in the order of the list. */
export class ExportLicenses extends query('license.export', { ...licenseFilters, sort: licenseSort, cursor: optional(Type.String()) }, Type.Object({
  data: listOf(exportedLicense), next: Type.String(), last: Type.Boolean(),
})) {}

/** Whose addresses these are, for those that are somebody's. */
export class FindCustomers extends query('catalog.find-customers', { emails: listOf(Type.String()) }, Type.Object({
  data: listOf(Type.Object({ email: Type.String(), customerId: ids.customer })),
})) {}

/** How many licenses of each product are nobody's yet, and could be somebody's. */
export class CountAvailable extends query('license.count-available', { productIds: listOf(ids.product) }, Type.Object({
  data: listOf(Type.Object({ productId: ids.product, available: Type.Integer() })),
})) {}
