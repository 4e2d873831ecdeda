import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { FindCustomers, ROWS_PER_CHUNK, type ImportRow, type JobResult } from '@keyledger/contracts';
import { issued, License, normaliseEmail, rowCommandId, rowLicenseId, type JobState, type JobWork, type LicenseCommand } from '@keyledger/domain';
import { context, isTransient, Refusal, refuse, runIn, type CustomerId, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { JobLedger } from './job.ledger.ts';
import { LicenseKeys } from './keys.ts';
import { Licenses } from './streams.ts';

/** Some ten milliseconds of work; then a rest, in which other requests are served. */
const ROWS_AT_ONCE = 50;
const LONGEST_REST_MS = 5;

type Work<K extends JobWork['kind']> = JobWork & { readonly kind: K };
type Outcome = Omit<JobResult, 'row'>;

/** Executes rows of jobs. Each is its own command, with an id derived from the row, so repeating it changes nothing. */
@Injectable()
export class JobRows {
  constructor(
    private readonly licenses: Licenses, private readonly keys: LicenseKeys, private readonly keyrings: Keyrings, private readonly messages: MessageClient, private readonly ledger: JobLedger,
    private readonly log: Log,
  ) {}

  /** All rows of a chunk. `again`: a worker may have done some of them before. */
  async doChunk(job: JobState, chunk: number, again: boolean): Promise<readonly JobResult[]> {
    const rows = rowsOf(job, chunk);
    const outcomeOf = job.work.kind === 'batch' ? await this.#issuing(job, job.work, chunk) : await this.#assigning(job, job.work, chunk);
    const results: JobResult[] = [];
    const broken: unknown[] = [];
    for (let from = 0; from < rows.length; from += ROWS_AT_ONCE) {
      const startedMs = performance.now();
      results.push(...await Promise.all(rows.slice(from, from + ROWS_AT_ONCE).map(async (row) => ({ row, ...await this.#asRow(job, row, again, () => outcomeOf(row), broken) }))));
      await sleep(Math.min(performance.now() - startedMs, LONGEST_REST_MS));
    }
    // An error of every row is not the fault of any row.
    if (broken.length > 1 && broken.length === rows.length) throw broken[0];
    return results;
  }

  /**
   * In the name of the caller that requested the job. A refusal is the row's fault; so is an error of the license that a row of a file names, for
   * example one that cannot be read: that row is `broken`, and the rows after it still run. A transient error is no row's fault.
   */
  async #asRow(job: JobState, row: number, retry: boolean, work: () => Promise<Outcome>, broken: unknown[]): Promise<Outcome> {
    const { environment, now } = context();
    const own = { environment, now, actor: { ...job.by, permissions: [] }, commandId: rowCommandId(job.id, row), commandAt: job.createdAt, correlationId: job.id, retry };
    try {
      return await runIn(own, work);
    } catch (error) {
      if (error instanceof Refusal && error.status < 500) return { ...nothing, outcome: 'failed', code: error.code, detail: error.message };
      if (job.work.kind === 'batch' || isTransient(error)) throw error;
      broken.push(error);
      this.log.error({ err: error, jobId: job.id, row }, 'a row of an import failed unexpectedly');
      const { code, message } = refuse('INTERNAL');
      return { ...nothing, outcome: 'failed', code, detail: message };
    }
  }

  async #issuing(job: JobState, { productId, generatorId, planId, keyFormat, terms }: Work<'batch'>, chunk: number) {
    const { environment } = context();
    const keyring = this.keyrings.here();
    await keyring.prepare(rowsOf(job, chunk).map((row) => rowLicenseId(job, row)), true);
    // The data keys of the next chunk are made while this one is appended; if that fails, they are requested again.
    void Promise.resolve(keyring.prepare(rowsOf(job, chunk + 1).map((row) => rowLicenseId(job, row)), true)).catch(() => undefined);
    return async (row: number): Promise<Outcome> => {
      const licenseId = rowLicenseId(job, row);
      const command: LicenseCommand = { type: 'Issue', licenseId, productId, generatorId, planId, environment, terms, key: this.keys.make(keyFormat) };
      await this.licenses.create(licenseId, command, () => undefined);
      // No request needs this license yet, and other licenses are requested all the time.
      this.licenses.forget(licenseId);
      return { ...nothing, outcome: 'issued', licenseId };
    };
  }

  async #assigning(job: JobState, { dryRun }: Work<'import'>, chunk: number) {
    const rows = await this.ledger.staged(job.id, chunk);
    const { data } = await this.messages.send(FindCustomers, { emails: [...new Set(rows.filter(({ fault }) => fault === undefined).map(({ customerEmail }) => normaliseEmail(customerEmail)))] });
    const customers = new Map(data.map(({ email, customerId }) => [email, customerId]));
    return (row: number): Promise<Outcome> => {
      const read = rows[row - 1 - chunk * ROWS_PER_CHUNK];
      if (!read) throw new Error(`${job.id} has no row ${row}`);
      return this.#assign(read, customers, dryRun);
    };
  }

  async #assign({ licenseKey, customerEmail, fault }: ImportRow, customers: ReadonlyMap<string, CustomerId>, dryRun: boolean): Promise<Outcome> {
    if (fault !== undefined) throw refuse('VALIDATION_FAILED', fault);
    const keyHash = this.keys.hashOf(licenseKey);
    const licenseId = await this.keys.find(keyHash);
    // The key index may be outdated; the license itself is checked.
    if (!licenseId || !(await this.#bears(licenseId, keyHash))) throw refuse('LICENSE_NOT_FOUND', 'There is no license with this key');
    const customerId = customers.get(normaliseEmail(customerEmail));
    if (!customerId) throw refuse('CUSTOMER_NOT_FOUND', 'There is no customer with this e-mail address');
    const command: LicenseCommand = { type: 'Assign', customerId };
    const { now } = context();
    const changes = dryRun
      ? await this.licenses.load(licenseId, (state) => License.decide(state, command, now).length)
      : await this.licenses.run(licenseId, command, (_state, _revision, { length }) => length);
    // For a repeated row it is unknown whether the state is from before the job, or from the job.
    const isOwn = changes > 0 || (!dryRun && context().retry === true);
    return { ...nothing, outcome: isOwn ? 'assigned' : 'unchanged', licenseId, customerId };
  }

  #bears(licenseId: LicenseId, hash: string): Promise<boolean> {
    return this.licenses.load(licenseId, (state) => issued(state).keyHash === hash);
  }
}

function rowsOf({ total }: JobState, chunk: number): number[] {
  const first = chunk * ROWS_PER_CHUNK + 1;
  return Array.from({ length: Math.max(0, Math.min(ROWS_PER_CHUNK, total - first + 1)) }, (_, n) => first + n);
}

const nothing = { code: null, detail: null, licenseId: null, customerId: null } as const;
