import {
  derivedId, eventId, refuse, type Aggregate, type EventOrigin, type GeneratorId, type Instant, type JobId, type LicenseId, type PlanId, type ProductId,
} from '@keyledger/kernel';
import type { KeyFormat } from '../license-key.ts';
import type { Terms } from '../license/terms.ts';

/**
 * The work of a job, done row by row. Everything about a batch is fixed when it is requested, so that its last license is like its first one;
 * the rows of an import are personal data and are kept elsewhere, sealed, until it is over.
 */
export type JobWork =
  | { readonly kind: 'batch'; readonly productId: ProductId; readonly generatorId: GeneratorId; readonly planId: PlanId | null; readonly keyFormat: KeyFormat; readonly terms: Partial<Terms> }
  | { readonly kind: 'import'; readonly dryRun: boolean };
export type JobKind = JobWork['kind'];
export type JobPhase = 'queued' | 'running' | 'completed' | 'failed' | 'cancelled';

/** null before it was requested. The progress of a job is no event: only its outcome is. */
export type JobState = Readonly<{
  id: JobId; work: JobWork; state: JobPhase; total: number;
  /** The caller that requested it: its rows are in that caller's name. */
  by: EventOrigin['actor'];
  createdAt: Instant; startedAt: Instant | null;
  /** Set with the final numbers. A cancelled job has none until the chunk in progress is done. */
  finishedAt: Instant | null; done: number; failed: number; detail: string | null;
  keysTakenAt: Instant | null;
}>;

interface Outcome {
  /** Rows worked through, including failed ones. */
  readonly done: number;
  readonly failed: number;
  /** Why the job could not go on. */
  readonly detail?: string;
}

export type JobCommand =
  | { readonly type: 'Queue'; readonly jobId: JobId; readonly work: JobWork; readonly total: number }
  | { readonly type: 'Start' }
  | { readonly type: 'Cancel' }
  | ({ readonly type: 'Finish'; readonly outcome: 'completed' | 'failed' } & Outcome)
  | { readonly type: 'TakeKeys' };

export type JobEvent =
  | { readonly type: 'JobQueued'; readonly jobId: JobId; readonly work: JobWork; readonly total: number }
  | { readonly type: 'JobStarted' }
  | { readonly type: 'JobCancelled' }
  /** The end, whatever the outcome: the only event other services need. */
  | ({ readonly type: 'JobFinished'; readonly outcome: 'completed' | 'failed' | 'cancelled'; readonly kind: JobKind; readonly total: number } & Outcome)
  | { readonly type: 'JobKeysTaken' };

/** Bulk work: a few events, however many rows. */
export const Job: Aggregate<JobState | null, JobCommand, JobEvent> = {
  category: 'job',
  stateVersion: 1,
  shapes: { JobQueued: { schema: 1 }, JobStarted: { schema: 1 }, JobCancelled: { schema: 1 }, JobFinished: { schema: 1 }, JobKeysTaken: { schema: 1 } },
  initial: () => null,

  decide(job, command) {
    if (command.type === 'Queue') return job ? [] : [{ type: 'JobQueued', jobId: command.jobId, work: command.work, total: command.total }];
    if (!job) throw refuse('JOB_NOT_FOUND');
    switch (command.type) {
      case 'Start': return job.state === 'queued' ? [{ type: 'JobStarted' }] : [];
      case 'Cancel': return cancel(job);
      case 'Finish': return finish(job, command);
      case 'TakeKeys': return takeKeys(job);
    }
  },

  evolve(job, event, { at, actor }) {
    if (event.type === 'JobQueued') {
      const { jobId: id, work, total } = event;
      return { id, work, total, by: actor, state: 'queued', createdAt: at, startedAt: null, finishedAt: null, done: 0, failed: 0, detail: null, keysTakenAt: null };
    }
    if (!job) return null;
    switch (event.type) {
      case 'JobStarted': return { ...job, state: 'running', startedAt: at };
      case 'JobCancelled': return { ...job, state: 'cancelled' };
      case 'JobFinished': return { ...job, state: event.outcome, finishedAt: at, done: event.done, failed: event.failed, detail: event.detail ?? null };
      case 'JobKeysTaken': return { ...job, keysTakenAt: at };
    }
  },
};

function cancel({ state }: JobState): readonly JobEvent[] {
  if (state === 'cancelled') return [];
  if (state === 'completed' || state === 'failed') throw refuse('INVALID_TRANSITION', `The job is ${state}`, { from: state, requested: 'cancel', allowed: [] });
  return [{ type: 'JobCancelled' }];
}

/** The worker may not have heard yet that the job was cancelled. */
function finish({ state, work: { kind }, total, finishedAt }: JobState, { outcome, done, failed, detail }: JobCommand & { type: 'Finish' }): readonly JobEvent[] {
  if (finishedAt !== null) return [];
  return [{ type: 'JobFinished', outcome: state === 'cancelled' ? state : outcome, kind, total, done, failed, ...(detail !== undefined && { detail }) }];
}

function takeKeys({ finishedAt, keysTakenAt }: JobState): readonly JobEvent[] {
  if (finishedAt === null) throw refuse('JOB_NOT_FINISHED');
  if (keysTakenAt !== null) throw refuse('KEYS_ALREADY_DOWNLOADED', 'The keys have already been downloaded; the licenses can be listed like any other', { at: keysTakenAt });
  return [{ type: 'JobKeysTaken' }];
}

/** The command id of a row: a worker that takes the job over sends the same again, and nothing happens twice. The first row is 1. */
export const rowCommandId = (jobId: JobId, row: number): string => eventId(jobId.slice('job_'.length), row);
/** The license that a row of a batch issues. */
export const rowLicenseId = ({ id, createdAt }: Pick<JobState, 'id' | 'createdAt'>, row: number): LicenseId => derivedId('lic', rowCommandId(id, row), createdAt);

/** `progress` is the current progress, while the job is not over. */
export function jobView(job: JobState, progress: Pick<JobState, 'done' | 'failed'> = job) {
  const { id, work, state, total, createdAt, startedAt, finishedAt, detail, keysTakenAt } = job;
  const { done, failed } = finishedAt === null ? progress : job;
  return {
    id, kind: work.kind, state, done, total, failed, createdAt, startedAt, finishedAt, resultUrl: finishedAt === null ? null : `/jobs/${id}/result`, detail,
    ...(work.kind === 'batch' ? { productId: work.productId, generatorId: work.generatorId, keysDownloadedAt: keysTakenAt } : { dryRun: work.dryRun }),
  };
}
