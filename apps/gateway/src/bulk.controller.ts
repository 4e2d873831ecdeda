import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { Body, Controller, Headers, Param, Query, Req, Res } from '@nestjs/common';
import {
  bodyOf, CancelJob, ExportLicenses, GetJob, JobResult, JobView, licenseFilters, licenseSort, LicenseView, ListJobs, oneOf, optional, ReadJobResult, ROWS_PER_CHUNK, StageImport, StartBatch,
  StartImport, TakeJobKeys, type ExportedLicense, type ImportRow,
} from '@keyledger/contracts';
import { context, isTransient, newId, refuse, runIn, type GeneratorId, type JobId } from '@keyledger/kernel';
import type { Fields, ResultOf } from '@keyledger/messaging';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { csvOf, importRows, jsonOf, type Cells } from './csv.ts';
import { Edge } from './edge.ts';
import { JobStreams } from './job-streams.ts';
import { Route } from './operation.ts';
import { IdOf } from './params.ts';

const JobParam = () => Param('id', IdOf('job', 'JOB_NOT_FOUND'));
/** A page of a long file may take its time: only the client that reads the file waits for it. */
const patience = { timeoutMs: 30_000 };
const askAgainAfterMs = 250;
const CHUNKS_AT_ONCE = 8;
const csvText = Type.String({ description: 'RFC 4180; a field that a spreadsheet would read as a formula is prefixed with \'' });
const format = optional(oneOf('csv', 'json'));
type Exporting = Omit<Fields<ExportLicenses>, 'cursor'> & { readonly format?: 'csv' | 'json' };
type ResultRow = ResultOf<ReadJobResult>['data'][number];

/** Work on many licenses at once, in the background or as a file. */
@Controller()
export class BulkController {
  constructor(private readonly edge: Edge, private readonly streams: JobStreams) {}

  @Route('POST /generators/:id/batches', {
    needs: 'jobs.manage', summary: 'Issue many licenses in the background; their keys can be downloaded once', body: bodyOf(StartBatch, 'generatorId'), answer: JobView, status: 202, location: true,
    refuses: ['GENERATOR_NOT_FOUND', 'REFERENCE_NOT_FOUND', 'PRODUCT_ARCHIVED', 'LIMIT_OUT_OF_RANGE', 'EXPIRY_IN_PAST', 'TRIAL_TOO_LONG'],
  })
  async startBatch(@Param('id', IdOf('gen', 'GENERATOR_NOT_FOUND')) generatorId: GeneratorId, @Body() body: StartBatch, @Res({ passthrough: true }) reply: FastifyReply) {
    return accepted(reply, await this.edge.send(StartBatch, { ...body, generatorId }));
  }

  @Route('POST /imports', {
    needs: 'jobs.manage', summary: 'Assign licenses to customers from a file (licenseKey,customerEmail), in the background. A dry run reports what would happen to each row and changes nothing',
    file: 'text/csv', query: { dryRun: optional(Type.Boolean()) }, answer: JobView, status: 202, location: true,
  })
  async startImport(@Body() file: unknown, @Query() { dryRun = false }: { dryRun?: boolean }, @Res({ passthrough: true }) reply: FastifyReply) {
    const jobId = newId('job');
    const total = await this.#stage(jobId, importRows(Buffer.isBuffer(file) ? file : Buffer.alloc(0)));
    if (total === 0) throw refuse('VALIDATION_FAILED', 'The file has a header and no rows', { errors: [{ pointer: '', detail: 'has no rows' }] });
    return accepted(reply, await this.edge.send(StartImport, { jobId, total, dryRun }));
  }

  @Route('GET /jobs', { needs: 'jobs.manage', summary: 'Jobs, newest first', query: ListJobs.fields, answer: ListJobs.answer })
  listJobs(@Query() query: ListJobs) {
    return this.edge.send(ListJobs, query);
  }

  @Route('GET /jobs/:id', { needs: 'jobs.manage', summary: 'One job and its progress', answer: JobView, refuses: ['JOB_NOT_FOUND'] })
  getJob(@JobParam() jobId: JobId) {
    return this.edge.send(GetJob, { jobId });
  }

  @Route('GET /jobs/:id/events', {
    needs: 'jobs.manage', summary: 'Stream of the job\'s progress (server-sent events `progress` and, when it is over, `end`)', contentType: 'text/event-stream', refuses: ['JOB_NOT_FOUND'],
    answer: Type.String({ description: 'Each event is the job at that moment. A stream resumed with Last-Event-ID begins with the next change' }),
  })
  async followJob(@JobParam() jobId: JobId, @Headers('last-event-id') lastEventId: string | undefined, @Req() { method }: FastifyRequest, @Res() reply: FastifyReply) {
    const stream = await this.streams.open(jobId, lastEventId, method);
    void reply.headers({ 'Content-Type': 'text/event-stream', 'X-Accel-Buffering': 'no' }).send(stream);
  }

  @Route('POST /jobs/:id/cancel', { needs: 'jobs.manage', summary: 'Cancel; rows already processed stay processed', answer: JobView, refuses: ['JOB_NOT_FOUND', 'INVALID_TRANSITION'] })
  cancelJob(@JobParam() jobId: JobId) {
    return this.edge.send(CancelJob, { jobId });
  }

  @Route('GET /jobs/:id/result', {
    needs: 'jobs.manage', summary: 'The result of each row, as JSON or CSV. The CSV of a batch contains the keys and can be downloaded once',
    answer: Type.Object({ data: Type.Array(JobResult) }), otherwise: { 'text/csv': csvText }, refuses: ['JOB_NOT_FOUND', 'JOB_NOT_FINISHED', 'KEYS_ALREADY_DOWNLOADED'],
  })
  async getJobResult(@JobParam() jobId: JobId, @Headers('accept') accept: string | undefined, @Req() { method }: FastifyRequest, @Res() reply: FastifyReply) {
    const { kind } = await this.edge.send(GetJob, { jobId });
    const asCsv = prefersCsv(accept);
    const withKeys = asCsv && kind === 'batch' && method !== 'HEAD';
    const read = (after: number) => this.edge.send(ReadJobResult, { jobId, after, withKeys }, patience);
    const first = await read(0);
    // Only once the keys can be delivered: they can be downloaded only this once.
    if (withKeys) await this.edge.send(TakeJobKeys, { jobId });
    const rows = rowsOf(first, ({ data }) => read(data.at(-1)?.row ?? 0));
    this.#download(reply, method, `${jobId}.${asCsv ? 'csv' : 'json'}`, asCsv ? csvOf(kind === 'batch' ? batchCells : importCells, rows) : jsonOf(rows, ['{"data":[', ']}']));
  }

  @Route('GET /licenses/export', {
    needs: 'license.export', summary: 'Export all licenses that match the filters. Keys are included, searchable and sortable only with license.read', query: { ...licenseFilters, sort: licenseSort, format }, answer: Type.Array(LicenseView), otherwise: { 'text/csv': csvText },
  })
  async exportLicenses(@Query() { format: wanted, ...filters }: Exporting, @Headers('accept') accept: string | undefined, @Req() { method }: FastifyRequest, @Res() reply: FastifyReply) {
    const asCsv = wanted === undefined ? prefersCsv(accept) : wanted === 'csv';
    const read = (cursor?: string) => this.edge.send(ExportLicenses, { ...filters, ...(cursor !== undefined && { cursor }) }, patience);
    const shown = context().actor.permissions.includes('license.read') ? asTheyAre : withoutKey;
    const rows = only(rowsOf(await read(), ({ next }) => read(next)), shown);
    this.#download(reply, method, `licenses.${asCsv ? 'csv' : 'json'}`, asCsv ? csvOf(licenseCells, rows) : jsonOf(only(rows, ({ license }) => license)));
  }

  /** In chunks, a few of them in flight at a time: a large file is held in memory only here. */
  async #stage(jobId: JobId, rows: AsyncIterable<ImportRow>): Promise<number> {
    const chunks: ImportRow[][] = [];
    let total = 0;
    const send = () => Promise.all(chunks.splice(0).map((some, n, { length }) =>
      this.edge.send(StageImport, { jobId, chunk: Math.ceil(total / ROWS_PER_CHUNK) - length + n, rows: some }, patience)));
    for await (const row of rows) {
      if (total % ROWS_PER_CHUNK === 0) {
        if (chunks.length === CHUNKS_AT_ONCE) await send();
        chunks.push([]);
      }
      chunks.at(-1)?.push(row);
      total += 1;
    }
    await send();
    return total;
  }

  /** If reading fails, the connection is cut: half a file must not look complete. */
  #download(reply: FastifyReply, method: string, name: string, text: AsyncIterable<string>): void {
    const type = name.endsWith('.csv') ? 'text/csv; charset=utf-8; header=present' : 'application/json; charset=utf-8';
    void reply.headers({ 'Content-Type': type, 'Content-Disposition': `attachment; filename="${name}"` }).send(Readable.from(method === 'HEAD' ? [] : text));
  }
}

function accepted(reply: FastifyReply, job: JobView): JobView {
  void reply.header('Location', `/jobs/${job.id}`);
  return job;
}

/**
 * Page after page, in the context of the request, whatever context the stream is read in. A page that cannot be read just now is asked for again: half
 * a file is worth nothing, and the keys of a batch are not delivered twice.
 */
function rowsOf<P extends { readonly data: readonly unknown[]; readonly last: boolean }>(first: P, next: (page: P) => Promise<P>): AsyncGenerator<P['data']> {
  const own = context();
  return (async function* pages() {
    for (let page = first; ; page = await runIn(own, () => patiently(() => next(page)))) {
      yield page.data;
      if (page.last) return;
    }
  })();
}

async function patiently<T>(read: () => Promise<T>): Promise<T> {
  for (const until = performance.now() + patience.timeoutMs; ;) {
    try {
      return await read();
    } catch (error) {
      if (!isTransient(error) || performance.now() > until) throw error;
      await sleep(askAgainAfterMs);
    }
  }
}

async function* only<T, U>(pages: AsyncIterable<readonly T[]>, part: (item: T) => U): AsyncGenerator<U[]> {
  for await (const page of pages) yield page.map(part);
}

const asTheyAre = (exported: ExportedLicense): ExportedLicense => exported;
const withoutKey = ({ license, ...names }: ExportedLicense): ExportedLicense => ({ ...names, license: { ...license, key: null } });

/** The type with more weight (RFC 9110, 12.4.2), of equals the one named first, and JSON for a client without a preference. */
function prefersCsv(accept = ''): boolean {
  const named = accept.toLowerCase().split(',').filter((range) => /^\s*(text\/csv|application\/json)\s*(;|$)/.test(range));
  const weighed = named.map((range) => ({ isCsv: range.includes('text/csv'), weight: Number(/;\s*q=([\d.]+)/.exec(range)?.[1] ?? 1) }));
  const [first] = weighed.filter(({ weight }) => weight > 0).toSorted((a, b) => b.weight - a.weight);
  return first?.isCsv === true;
}

const batchCells: Cells<ResultRow> = {
  row: ({ row }) => row, outcome: ({ outcome }) => outcome, code: ({ code }) => code, detail: ({ detail }) => detail, licenseId: ({ licenseId }) => licenseId, licenseKey: ({ key }) => key ?? null,
};
const importCells: Cells<ResultRow> = {
  row: ({ row }) => row, outcome: ({ outcome }) => outcome, code: ({ code }) => code, detail: ({ detail }) => detail, licenseId: ({ licenseId }) => licenseId, customerId: ({ customerId }) => customerId,
};

const text = (value: unknown): string | null => (value === null ? null : JSON.stringify(value));
/** Names for people beside ids for machines. A cell with -1 would look like the beginning of a formula. */
const licenseCells: Cells<ExportedLicense> = {
  id: ({ license }) => license.id, key: ({ license }) => license.key, status: ({ license }) => license.status,
  productId: ({ license }) => license.productId, productName: ({ productName }) => productName, planId: ({ license }) => license.planId,
  customerId: ({ license }) => license.customerId, customerName: ({ customerName }) => customerName, customerEmail: ({ customerEmail }) => customerEmail, orderId: ({ license }) => license.orderId,
  activationCount: ({ license }) => license.activationCount, activationLimit: ({ license }) => (license.activationLimit < 0 ? 'unlimited' : license.activationLimit),
  effectiveAt: ({ license }) => license.effectiveAt, expiresAt: ({ license }) => license.expiresAt, graceEndsAt: ({ license }) => license.graceEndsAt, createdAt: ({ license }) => license.createdAt,
  features: ({ license }) => text(license.features), featureFlags: ({ license }) => text(license.featureFlags), quotas: ({ license }) => text(license.quotas), metadata: ({ license }) => text(license.metadata),
};
