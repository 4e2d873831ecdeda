import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { ROWS_PER_CHUNK } from '@keyledger/contracts';
import { Job, type JobCommand, type JobEvent, type JobState } from '@keyledger/domain';
import { Aggregates, EventStores } from '@keyledger/event-store';
import { Clock, environments, isTransient, newCommandId, runIn, systemContext, type JobId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Log } from '@keyledger/observability';
import { Stopping } from '@keyledger/process';
import { JobLedger, SIGN_OF_LIFE_MS, type Waiting } from './job.ledger.ts';
import { JobRows } from './job.rows.ts';

/** The streams of jobs. */
@Injectable()
export class Jobs extends Aggregates<JobState | null, JobCommand, JobEvent> {
  constructor(events: EventStores, keyrings: Keyrings) {
    super(Job, events, keyrings);
  }
}

/** Per environment and process: a short job need not wait for a long one. */
const JOBS_AT_ONCE = 2;
/** For jobs that other processes have accepted, or left behind. */
const LOOK_EVERY_MS = 2_000;
const LOOKED_AT = 100;
const AGAIN_AFTER_MS = 1_000;

/**
 * Works through jobs, chunk by chunk. A job belongs to the worker that has claimed its row and shows life; a chunk's results and the progress are
 * saved together. A worker that takes over repeats the last chunk, which changes nothing, because each row is the same command.
 */
@Injectable()
export class JobWorker {
  readonly #name = newCommandId();
  readonly #atWork = new Map<JobId, { readonly environment: string; readonly work: Promise<void> }>();
  readonly #looking = new Map<string, Promise<void>>();
  /** Unreadable jobs: tried every other second, logged once. */
  readonly #unread = new Set<JobId>();
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly jobs: Jobs, private readonly ledger: JobLedger, private readonly rows: JobRows, private readonly clock: Clock, private readonly log: Log, private readonly stopping: Stopping,
  ) {}

  async begin(): Promise<void> {
    for (const environment of environments) await this.#as(environment, () => this.ledger.releaseAll());
    this.#timer = setInterval(() => environments.forEach((environment) => this.look(environment)), LOOK_EVERY_MS).unref();
    for (const environment of environments) this.look(environment);
  }

  async end(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([...this.#looking.values(), ...[...this.#atWork.values()].map(({ work }) => work)]);
  }

  /** There may be something to do. */
  look(environment: string): void {
    if (this.#timer === undefined || this.stopping.signal.aborted) return;
    const before = this.#looking.get(environment) ?? Promise.resolve();
    const look = before.then(() => this.#lookAround(environment)).catch((error: unknown) => this.log.warn({ err: error, environment }, 'jobs could not be looked up; it will be tried again'));
    this.#looking.set(environment, look);
  }

  async #lookAround(environment: string): Promise<void> {
    for (const waiting of await this.#as(environment, () => this.ledger.waiting(LOOKED_AT))) {
      if (this.#atWork.has(waiting.id) || !(await this.#as(environment, () => this.#mayBegin(environment, waiting)))) continue;
      const work = this.#work(environment, waiting).finally(() => {
        this.#atWork.delete(waiting.id);
        this.look(environment);
      });
      this.#atWork.set(waiting.id, { environment, work });
    }
  }

  /** Removes the row of a job that is over, or never came. To finish a cancelled job takes no time, unless a worker left a chunk half done. */
  async #mayBegin(environment: string, { id, abandoned }: Waiting): Promise<boolean> {
    const state = await this.#stateOf(id);
    if (state === undefined) return false;
    if (!state || state.finishedAt !== null) {
      await this.ledger.end(id);
      return false;
    }
    const isBusy = [...this.#atWork.values()].filter((own) => own.environment === environment).length >= JOBS_AT_ONCE;
    return (!isBusy || (state.state === 'cancelled' && !abandoned)) && this.ledger.claim(id, this.#name);
  }

  /** Undefined for a job that cannot be read: it waits for a process that can, and does not hold up others. */
  async #stateOf(id: JobId): Promise<JobState | null | undefined> {
    try {
      return (await this.jobs.load(id)).state;
    } catch (error) {
      if (isTransient(error)) throw error;
      if (!this.#unread.has(id)) this.log.error({ err: error, jobId: id }, 'a job cannot be read and waits');
      this.#unread.add(id);
      return undefined;
    }
  }

  async #work(environment: string, waiting: Waiting): Promise<void> {
    const { id } = waiting;
    const alive = setInterval(() => void this.#as(environment, () => this.ledger.showLife(id, this.#name)).catch(() => undefined), SIGN_OF_LIFE_MS);
    try {
      await this.#through(environment, waiting);
    } catch (error) {
      await this.#stumbled(environment, id, error).catch((another: unknown) => this.log.warn({ err: another, jobId: id }, 'a job could not be released; it will be taken over later'));
    } finally {
      clearInterval(alive);
    }
  }

  async #through(environment: string, { id, done, failed, abandoned }: Waiting): Promise<void> {
    const { state, events } = await this.#as(environment, () => this.jobs.run(id, { type: 'Start' }));
    let job = state as JobState;
    let again = events.length === 0 && job.startedAt !== null;
    // A chunk that a worker has begun is completed even if the job is cancelled; else the job would have done more than it reports.
    let isOwed = again && abandoned;
    for (; done < job.total && (job.state === 'running' || isOwed); [again, isOwed] = [false, false]) {
      if (this.stopping.signal.aborted) return void await this.#as(environment, () => this.ledger.release(id, this.#name));
      const chunk = Math.floor(done / ROWS_PER_CHUNK);
      const results = await this.#as(environment, () => this.rows.doChunk(job, chunk, again));
      done += results.length;
      failed += results.filter(({ outcome }) => outcome === 'failed').length;
      // Successful rows of a batch can be derived, so they are not stored.
      const kept = job.work.kind === 'batch' ? results.filter(({ outcome }) => outcome === 'failed') : results;
      if (!(await this.#as(environment, () => this.ledger.save(id, this.#name, chunk, kept, { done, failed })))) return;
      job = await this.#as(environment, async () => (await this.jobs.load(id)).state as JobState);
    }
    await this.#finish(environment, id, { type: 'Finish', outcome: 'completed', done, failed });
  }

  /** If a service is unavailable, the job goes on as soon as it is back; an error that keeps recurring ends the job. */
  async #stumbled(environment: string, id: JobId, error: unknown): Promise<void> {
    const passes = isTransient(error);
    if (!passes) this.log.error({ err: error, jobId: id }, 'a job failed and will be retried, unless it keeps failing');
    if (!this.stopping.signal.aborted) await sleep(AGAIN_AFTER_MS, undefined, { signal: this.stopping.signal }).catch(() => undefined);
    const isHopeless = await this.#as(environment, () => this.ledger.abandon(id, this.#name, !passes));
    if (!isHopeless) return;
    const { done, failed } = (await this.#as(environment, () => this.ledger.progress([id]))).get(id) ?? { done: 0, failed: 0 };
    await this.#finish(environment, id, { type: 'Finish', outcome: 'failed', done, failed, detail: 'The job kept failing; the log of the license-authority has the details' });
  }

  async #finish(environment: string, id: JobId, outcome: JobCommand & { type: 'Finish' }): Promise<void> {
    await this.#as(environment, async () => {
      await this.jobs.run(id, outcome);
      await this.ledger.end(id);
    });
  }

  async #as<T>(environment: string, work: () => Promise<T>): Promise<T> {
    await this.clock.current?.(environment);
    return runIn(systemContext(environment, this.clock.now(environment)), work);
  }
}
