import { Injectable } from '@nestjs/common';
import type { ImportRow, JobResult } from '@keyledger/contracts';
import type { JobId, JsonObject } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { StateDatabases, type Database, type Dialect, type Migration } from '@keyledger/read-models';
import { sql as literally } from 'kysely';

/**
 * The progress of jobs and the worker of each: rows, because it is observed and changes all the time. A job has a row until it is over. The rows
 * of an import are kept sealed until then; results of rows stay, and hold no key and nothing personal. Times are milliseconds since 1970, by the
 * clock of the database: two workers whose clocks differ would each take the other for dead.
 */
export const jobTables: Migration = {
  name: 'authority-2-jobs',
  async up({ run }) {
    await run('create table authority_jobs (id text primary key, queued_at bigint not null, worker text, alive_at bigint not null, done bigint not null, failed bigint not null, attempts bigint not null)');
    await run('create table authority_job_input (job_id text not null, chunk bigint not null, sealed text not null, primary key (job_id, chunk))');
    await run('create table authority_job_results (job_id text not null, chunk bigint not null, results text not null, primary key (job_id, chunk))');
  },
};

export interface Progress {
  readonly done: number;
  readonly failed: number;
}
export interface Waiting extends Progress {
  readonly id: JobId;
  /** The worker before may have done a part of the next chunk. */
  readonly abandoned: boolean;
}

/** A worker silent for that long counts as dead; it shows life three times as often. */
const ABANDONED_MS = 15_000;
export const SIGN_OF_LIFE_MS = ABANDONED_MS / 3;
/** The owner of a row until its job is requested: for a moment, or until the whole file has arrived. */
const SENDER = 'sender';
const RESERVED_MS = 60_000;
const UNFINISHED_MS = 86_400_000;
/** No worker has the job any more, but one has had it. */
const LONG_AGO = 1;
const clocks: Readonly<Record<Dialect, string>> = { sqlite: "cast(unixepoch('subsec') * 1000 as integer)", postgres: 'cast(extract(epoch from clock_timestamp()) * 1000 as bigint)' };
/** A sign of life in the future does not count, beyond what was reserved: it was given before the clock was set back. */
const isFree = (now: string): string =>
  `(worker is null or alive_at < ${now} - ${ABANDONED_MS} or alive_at - case worker when '${SENDER}' then ${UNFINISHED_MS} else 0 end > ${now} + ${ABANDONED_MS})`;
/** So many failures at the same place are no accident. */
const MAX_ATTEMPTS = 5;

/** The tables of jobs, in the environment of the current message. */
@Injectable()
export class JobLedger {
  constructor(private readonly databases: StateDatabases, private readonly keyrings: Keyrings) {}

  /** Before the job itself, which no worker would find without a row. Workers skip the row for `ms`; after that, a row without a job is removed. */
  async reserve(jobId: JobId, ms = RESERVED_MS): Promise<void> {
    await this.#here().run(
      `insert into authority_jobs (id, queued_at, worker, alive_at, done, failed, attempts) values (?, ${this.#now}, '${SENDER}', ${this.#now} + ?, 0, 0, 0)
        on conflict (id) do update set alive_at = excluded.alive_at where authority_jobs.worker = '${SENDER}'`, [jobId, ms]);
  }

  /** The job exists: it may begin. */
  async open(jobId: JobId): Promise<void> {
    await this.#here().run(`update authority_jobs set worker = null, alive_at = 0 where id = ? and worker = '${SENDER}'`, [jobId]);
  }

  /** A chunk of a file; the rest of the file may never arrive. */
  async stage(jobId: JobId, chunk: number, rows: readonly ImportRow[]): Promise<void> {
    if (chunk === 0) await this.reserve(jobId, UNFINISHED_MS);
    const sealer = await this.keyrings.here().prepare([jobId], true);
    const sealed = sealer.seal(jobId, { rows: rows as unknown as readonly JsonObject[] });
    await this.#here().run('insert into authority_job_input (job_id, chunk, sealed) values (?, ?, ?) on conflict (job_id, chunk) do nothing', [jobId, chunk, sealed]);
  }

  async staged(jobId: JobId, chunk: number): Promise<readonly ImportRow[]> {
    const { rows: [row] } = await this.#here().run<{ sealed: string }>('select sealed from authority_job_input where job_id = ? and chunk = ?', [jobId, chunk]);
    if (!row) throw new Error(`${jobId} has no chunk ${chunk}`);
    const sealer = await this.keyrings.here().prepare([jobId]);
    return sealer.open(jobId, row.sealed)?.['rows'] as unknown as readonly ImportRow[];
  }

  /** Of jobs that are not over. */
  async progress(jobIds: readonly JobId[]): Promise<ReadonlyMap<JobId, Progress>> {
    if (jobIds.length === 0) return new Map();
    const { rows } = await this.#here().run<Progress & { id: JobId }>(`select id, done, failed from authority_jobs where id in (${jobIds.map(() => '?').join(', ')})`, jobIds);
    return new Map(rows.map(({ id, done, failed }) => [id, { done, failed }]));
  }

  /** Jobs without a worker, oldest first; after a day also files that were sent only in part. */
  async waiting(limit: number): Promise<readonly Waiting[]> {
    const { rows } = await this.#here().run<Progress & { id: JobId; alive_at: number }>(
      `select id, done, failed, alive_at from authority_jobs where ${isFree(this.#now)} order by queued_at, id limit ?`, [limit]);
    return rows.map(({ alive_at: aliveAt, ...row }) => ({ ...row, abandoned: aliveAt > 0 }));
  }

  /** False if another worker was faster. */
  async claim(jobId: JobId, worker: string): Promise<boolean> {
    const { changes } = await this.#here().run(`update authority_jobs set worker = ?, alive_at = ${this.#now} where id = ? and ${isFree(this.#now)}`, [worker, jobId]);
    return changes === 1;
  }

  async showLife(jobId: JobId, worker: string): Promise<void> {
    await this.#here().run(`update authority_jobs set alive_at = ${this.#now} where id = ? and worker = ?`, [jobId, worker]);
  }

  /** Between two chunks, so that no other worker has to wait until this one counts as dead. */
  async release(jobId: JobId, worker: string): Promise<void> {
    await this.#here().run('update authority_jobs set worker = null, alive_at = 0 where id = ? and worker = ?', [jobId, worker]);
  }

  /** The worker could not go on. `isFault`: not because a service is away; true once that has happened too often. */
  async abandon(jobId: JobId, worker: string, isFault: boolean): Promise<boolean> {
    const { rows: [row] } = await this.#here().run<{ attempts: number }>(
      `update authority_jobs set worker = null, alive_at = ${LONG_AGO}, attempts = attempts + ? where id = ? and worker = ? returning attempts`, [isFault ? 1 : 0, jobId, worker]);
    return Number(row?.attempts ?? 0) >= MAX_ATTEMPTS;
  }

  /** For a single process: any worker that had a job is gone. */
  async releaseAll(): Promise<void> {
    if (this.#here().dialect === 'sqlite') await this.#here().run(`update authority_jobs set worker = null, alive_at = ${LONG_AGO} where worker <> '${SENDER}'`);
  }

  /** Saves a chunk's results together with the progress, all or nothing. False if another worker has the job by now. */
  async save(jobId: JobId, worker: string, chunk: number, results: readonly JobResult[], { done, failed }: Progress): Promise<boolean> {
    const now = literally<number>`${literally.raw(this.#now)}`;
    return this.#here().transaction(async (sql) => {
      const updated = await sql.updateTable('authority_jobs').set({ done, failed, attempts: 0, alive_at: now }).where('id', '=', jobId).where('worker', '=', worker).executeTakeFirst();
      if (Number(updated.numUpdatedRows) !== 1) return false;
      if (results.length > 0) {
        await sql.insertInto('authority_job_results').values({ job_id: jobId, chunk, results: JSON.stringify(results) }).onConflict((conflict) => conflict.doNothing()).execute();
      }
      return true;
    });
  }

  async results(jobId: JobId, fromChunk: number, toChunk: number): Promise<readonly JobResult[]> {
    const { rows } = await this.#here().run<{ results: string }>(
      'select results from authority_job_results where job_id = ? and chunk >= ? and chunk <= ? order by chunk', [jobId, fromChunk, toChunk]);
    return rows.flatMap(({ results }) => JSON.parse(results) as JobResult[]);
  }

  /** The job is over, or never began. */
  async end(jobId: JobId): Promise<void> {
    await this.#here().batch([{ sql: 'delete from authority_job_input where job_id = ?', params: [jobId] }, { sql: 'delete from authority_jobs where id = ?', params: [jobId] }]);
  }

  get #now(): string {
    return clocks[this.#here().dialect];
  }

  #here(): Database {
    return this.databases.here();
  }
}
