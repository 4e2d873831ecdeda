import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import {
  CancelJob, FollowJob, GetGenerator, GetJob, ListJobs, ReadJobResult, ResolveOffer, ROWS_PER_CHUNK, StageImport, StartBatch, StartImport, TakeJobKeys, type JobResult,
} from '@keyledger/contracts';
import { issued, jobView, likeMeters, mustBeIssuable, rowLicenseId, type JobState, type JobWork } from '@keyledger/domain';
import { context, newId, Refusal, refuse, type JobId, type LicenseId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { Stopping } from '@keyledger/process';
import { page, Projectors } from '@keyledger/read-models';
import { sql } from 'kysely';
import { JobLedger } from './job.ledger.ts';
import { Jobs, JobWorker } from './job.worker.ts';
import { Licenses } from './streams.ts';

/** Jobs as they are shown: decided by their streams, with their progress. */
@Injectable()
export class JobViews {
  constructor(private readonly jobs: Jobs, private readonly ledger: JobLedger) {}

  async load(jobId: JobId) {
    const { state, revision } = await this.jobs.load(jobId);
    if (!state) throw refuse('JOB_NOT_FOUND');
    return { view: await this.of(state), revision };
  }

  async of(job: JobState) {
    const [view] = await this.ofAll([job]);
    return view as NonNullable<typeof view>;
  }

  async ofAll(jobs: readonly JobState[]) {
    const progress = await this.ledger.progress(jobs.filter(({ finishedAt }) => finishedAt === null).map(({ id }) => id));
    return jobs.map((job) => jobView(job, progress.get(job.id)));
  }
}

const queued = (state: JobState | null) => state as JobState;

@Handles(StartBatch, StageImport, StartImport)
export class StartCommands {
  constructor(private readonly jobs: Jobs, private readonly views: JobViews, private readonly ledger: JobLedger, private readonly worker: JobWorker, private readonly messages: MessageClient) {}

  async execute(command: StartBatch | StageImport | StartImport) {
    if (command instanceof StartBatch) return this.#start(newId('job'), command.count, () => this.#batch(command));
    if (command instanceof StartImport) return this.#start(command.jobId, command.total, () => ({ kind: 'import', dryRun: command.dryRun }));
    await this.ledger.stage(command.jobId, command.chunk, command.rows);
    return null;
  }

  async #batch({ generatorId }: StartBatch): Promise<JobWork> {
    const { productId } = await this.messages.send(GetGenerator, { generatorId });
    const { planId, keyFormat, meters, terms: { quotas = [], ...terms } } = await this.messages.send(ResolveOffer, { productId, generatorId });
    const work = { kind: 'batch', productId, generatorId, planId, keyFormat, terms: { ...terms, quotas: likeMeters(quotas, meters) } } as const;
    // Terms that every row would be refused for are refused now.
    mustBeIssuable(work.terms, context().now);
    return work as JobWork;
  }

  async #start(jobId: JobId, total: number, work: () => JobWork | Promise<JobWork>) {
    const job = (await this.jobs.done(jobId, 'Queue', queued)) ?? (await this.#queue(jobId, await work(), total));
    await this.ledger.open(jobId);
    this.worker.look(context().environment);
    return this.views.of(job);
  }

  async #queue(jobId: JobId, work: JobWork, total: number) {
    await this.ledger.reserve(jobId);
    return this.jobs.run(jobId, { type: 'Queue', jobId, work, total }, queued);
  }
}

const lookAgainMs = 150;
/** A running chunk is done by then, or its worker is dead. */
const endsWithinMs = 2_000;

@Handles(CancelJob, TakeJobKeys)
export class JobCommands {
  constructor(private readonly jobs: Jobs, private readonly views: JobViews, private readonly worker: JobWorker, private readonly stopping: Stopping) {}

  /** The final numbers are known once the worker has noticed the cancellation. */
  async execute(command: CancelJob | TakeJobKeys) {
    const { jobId } = command;
    if (command instanceof TakeJobKeys) return this.jobs.run(jobId, { type: 'TakeKeys' }, () => null);
    await this.jobs.run(jobId, { type: 'Cancel' });
    this.worker.look(context().environment);
    const { job } = await until(this.views, jobId, ({ ended }) => ended, endsWithinMs, this.stopping.signal);
    return job;
  }
}

@Handles(GetJob, FollowJob)
export class JobQueries {
  constructor(private readonly views: JobViews, private readonly stopping: Stopping) {}

  async execute(query: GetJob | FollowJob) {
    if (query instanceof GetJob) return (await this.views.load(query.jobId)).view;
    return until(this.views, query.jobId, ({ place, ended }) => ended || place !== query.after, query.waitMs, this.stopping.signal);
  }
}

interface Seen {
  readonly job: Awaited<ReturnType<JobViews['of']>>;
  readonly place: string;
  readonly ended: boolean;
}
async function until(views: JobViews, jobId: JobId, isEnough: (seen: Seen) => boolean, waitMs: number, signal: AbortSignal): Promise<Seen> {
  for (const late = performance.now() + waitMs; ;) {
    const { view: job, revision } = await views.load(jobId);
    const seen = { job, place: `${revision}.${job.done}`, ended: job.finishedAt !== null };
    if (isEnough(seen) || performance.now() >= late || signal.aborted) return seen;
    await sleep(lookAgainMs, undefined, { signal }).catch(() => undefined);
  }
}

@Handles(ListJobs)
export class JobList {
  constructor(private readonly jobs: Jobs, private readonly views: JobViews, private readonly projectors: Projectors, private readonly log: Log) {}

  async execute({ state, kind, sort = '-createdAt', limit = 25, cursor }: ListJobs) {
    const { data, page: position } = await this.projectors.listing((database) => {
      let query = database.sql<{ authority_job: { id: JobId } }>().selectFrom('authority_job').select('id');
      if (kind !== undefined) query = query.where(sql<boolean>`kind = ${kind}`);
      if (state?.length) query = query.where(sql<boolean>`state in (${sql.join([...new Set(state)])})`);
      return page(query, { createdAt: { column: 'created_at', kind: 'text' } }, { sort, limit, cursor });
    });
    const found = await this.jobs.loadAll(data.map(({ id }) => id), (job) => job ?? undefined, this.log);
    return { data: await this.views.ofAll(found), page: position };
  }
}

const CHUNKS_PER_READ = 5;
/** Each key is in its license's stream. As many as a list shows: more would wait for a connection to a distant PostgreSQL until they are refused. */
const CHUNKS_OF_KEYS_PER_READ = 1;

@Handles(ReadJobResult)
export class JobResults {
  constructor(private readonly jobs: Jobs, private readonly ledger: JobLedger, private readonly licenses: Licenses) {}

  async execute({ jobId, after, withKeys }: ReadJobResult) {
    const { state: job } = await this.jobs.load(jobId);
    if (!job) throw refuse('JOB_NOT_FOUND');
    if (job.finishedAt === null) throw refuse('JOB_NOT_FINISHED');
    if (withKeys && after > 0 && job.keysTakenAt === null) throw new Error(`The keys of ${jobId} have not been claimed for download`);
    const to = Math.min(after + (withKeys ? CHUNKS_OF_KEYS_PER_READ : CHUNKS_PER_READ) * ROWS_PER_CHUNK, job.done);
    const kept = new Map((await this.ledger.results(jobId, Math.floor(after / ROWS_PER_CHUNK), Math.floor(to / ROWS_PER_CHUNK))).map((result) => [result.row, result]));
    const rows = Array.from({ length: Math.max(0, to - after) }, (_, n) => kept.get(after + 1 + n) ?? issuedBy(job, after + 1 + n));
    return { data: withKeys ? await Promise.all(rows.map((row) => this.#withKey(row))) : rows, last: to >= job.done };
  }

  async #withKey(result: JobResult) {
    return { ...result, key: result.licenseId === null ? null : await this.#keyOf(result.licenseId) };
  }

  /** An erased license has no key any more. */
  async #keyOf(licenseId: LicenseId): Promise<string | null> {
    try {
      return await this.licenses.load(licenseId, (state) => issued(state).key);
    } catch (error) {
      if (error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND') return null;
      throw error;
    }
  }
}

const issuedBy = (job: JobState, row: number): JobResult => ({ row, outcome: 'issued', code: null, detail: null, licenseId: rowLicenseId(job, row), customerId: null });
