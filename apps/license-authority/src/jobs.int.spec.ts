import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { JobResult } from '@keyledger/contracts';
import type { JobState, JobWork } from '@keyledger/domain';
import { EventStores } from '@keyledger/event-store';
import { derivedId, newCommandId, refuse, runIn, systemClock, systemContext, type JobId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { InProcessTransport } from '@keyledger/messaging';
import { openHost, Stopping } from '@keyledger/process';
import { StateDatabases } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { openStores } from '@keyledger/stores';
import { stopwatch } from '@keyledger/testing';
import { authoritySchema } from './index.ts';
import { JobLedger } from './job.ledger.ts';
import type { JobRows } from './job.rows.ts';
import { Jobs, JobWorker } from './job.worker.ts';

const environment = 'staging';
const now = '2026-11-21T12:00:00.000Z';
const inContext = <T>(work: () => T): T => runIn(systemContext(environment, now), work);
const batch = { kind: 'batch', productId: 'prd_x', generatorId: 'gen_x', planId: null, keyFormat: { kind: 'uuid' }, terms: {} } as const satisfies JobWork;

/** The state tables and the log of a license-authority; workers as many as a test wants, each in a process of its own as far as they know. */
async function start(at: { readonly dataDir: string; readonly databaseUrl?: string | undefined }) {
  const host = await openHost('test', { logLevel: 'silent', tracing: { endpoint: undefined, disabled: true, sampleRatio: 1 } }, new InProcessTransport());
  const stores = await openStores({ ...at, databaseUrl: at.databaseUrl, masterKey: { value: undefined, file: undefined }, eventStoreUrl: undefined, connections: 2 }, host, [authoritySchema]);
  const provided = <T>(type: abstract new (...args: never[]) => T): T => {
    const provider = stores.providers.find((one) => typeof one === 'object' && 'provide' in one && one.provide === type) as { useValue: T };
    return provider.useValue;
  };
  const [events, keyrings, states] = [provided(EventStores), provided(Keyrings), provided(StateDatabases)];
  const ledger = new JobLedger(states, keyrings);
  const jobs = new Jobs(events, keyrings);
  return {
    ledger, jobs, events,
    worker(doChunk: JobRows['doChunk']) {
      const stopping = new Stopping();
      const own = new JobWorker(new Jobs(events, keyrings), ledger, { doChunk } as JobRows, systemClock, host.log, stopping);
      return { begin: () => own.begin(), look: () => own.look(environment), stop: () => { stopping.begin(); return own.end(); } };
    },
    async queue(total: number, work: JobWork = batch): Promise<JobId> {
      const jobId = derivedId('job', newCommandId(), now);
      await inContext(() => ledger.reserve(jobId));
      await inContext(() => jobs.run(jobId, { type: 'Queue', jobId, work, total }));
      await inContext(() => ledger.open(jobId));
      return jobId;
    },
    sql: (text: string, params: readonly unknown[] = []) => states.of(environment).run(text, params),
    async ended(jobId: JobId): Promise<JobState> {
      for (;;) {
        const { state } = await inContext(() => jobs.load(jobId));
        if (state?.finishedAt) return state;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    async close() {
      await host.close();
      await stores.close();
    },
  };
}

const resultsOf = ({ total }: JobState, chunk: number, failing: readonly number[] = []): JobResult[] =>
  Array.from({ length: Math.min(100, total - chunk * 100) }, (_, n) => chunk * 100 + n + 1)
    .map((row) => ({ row, outcome: failing.includes(row) ? 'failed' : 'issued', code: null, detail: null, licenseId: null, customerId: null }));

function suite(at: () => Parameters<typeof start>[0]): void {
  let authority: Awaited<ReturnType<typeof start>>;
  beforeAll(async () => { authority = await start(at()); }, 60_000);
  afterAll(() => authority.close());
  let done: string[];
  beforeEach(() => { done = []; });
  const working = (name: string): JobRows['doChunk'] => async (job, chunk) => {
    done.push(`${name} ${job.id} ${chunk}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
    return resultsOf(job, chunk, [250]);
  };

  /** A worker whose process ends in order, while it is at work. */
  async function stopInTheFirstChunk(): Promise<void> {
    const stopped = Promise.withResolvers<void>();
    const worker = authority.worker(async (job, chunk) => {
      worker.stop().then(stopped.resolve, stopped.reject);
      return resultsOf(job, chunk);
    });
    await worker.begin();
    await stopped.promise;
  }

  it('do each chunk of each job once, however many there are', async () => {
    const ids = await Promise.all([450, 100, 1, 250].map((total) => authority.queue(total)));
    // On files there is one process, which takes all claims for those of its former self.
    const workers = (at().databaseUrl === undefined ? ['a'] : ['a', 'b', 'c']).map((name) => authority.worker(working(name)));
    await Promise.all(workers.map((worker) => worker.begin()));
    const states = await Promise.all(ids.map((id) => authority.ended(id)));
    expect(states.map(({ state, done: count, failed }) => [state, count, failed])).toEqual([['completed', 450, 1], ['completed', 100, 0], ['completed', 1, 0], ['completed', 250, 1]]);
    expect(done.map((one) => one.slice(2)).toSorted()).toEqual([[5, 0], [1, 1], [1, 2], [3, 3]].flatMap(([chunks, job]) => Array.from({ length: chunks as number }, (_, n) => `${ids[job as number]} ${n}`)).toSorted());
    await Promise.all(workers.map((worker) => worker.stop()));
    expect((await authority.sql('select id from authority_jobs')).rows).toEqual([]);
    expect((await inContext(() => authority.ledger.results(ids[0] as JobId, 0, 10))).map(({ row, outcome }) => [row, outcome])).toEqual([[250, 'failed']]);
  });

  it('take over from one that is silent, which then has no say any more', async () => {
    const id = await authority.queue(300);
    const [reached, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const slept: number[] = [];
    const sleeper = authority.worker(async (job, chunk) => {
      slept.push(chunk);
      if (chunk === 1) {
        reached.resolve();
        await goOn.promise;
      }
      return resultsOf(job, chunk, [1, 150]);
    });
    await sleeper.begin();
    await reached.promise;
    await authority.sql('update authority_jobs set alive_at = 0 where id = ?', [id]);
    const again: boolean[] = [];
    const other = authority.worker(async (job, chunk, isAgain) => {
      again.push(isAgain);
      if (chunk === 2) {
        goOn.resolve();
        // Time for the other to go on, which it must not.
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return resultsOf(job, chunk);
    });
    await other.begin();
    expect(await authority.ended(id)).toMatchObject({ state: 'completed', done: 300, failed: 1 });
    expect(again).toEqual([true, false]);
    expect(slept).toEqual([0, 1]);
    await Promise.all([sleeper.stop(), other.stop()]);
  });

  it('give a job back when they are stopped, and another goes on where it was', async () => {
    const id = await authority.queue(300);
    const took = stopwatch();
    await stopInTheFirstChunk();
    const second = authority.worker(working('second'));
    expect((await authority.sql('select done, worker from authority_jobs where id = ?', [id])).rows).toEqual([{ done: 100, worker: null }]);
    await second.begin();
    expect(await authority.ended(id)).toMatchObject({ done: 300 });
    expect(took()).toBeLessThan(5_000);
    expect(done).toEqual([`second ${id} 1`, `second ${id} 2`]);
    await second.stop();
  });

  it('go on when somebody can be asked again, and give up what goes wrong again and again', async () => {
    const [passing, hopeless] = [await authority.queue(200), await authority.queue(200)];
    await authority.sql('update authority_jobs set attempts = 3 where id = ?', [hopeless]);
    let refusals = 1;
    const worker = authority.worker(async (job, chunk) => {
      if (job.id === passing && chunk === 1 && refusals-- > 0) throw refuse('UNAVAILABLE');
      if (job.id === hopeless && chunk === 0) throw new TypeError('a bug');
      return resultsOf(job, chunk);
    });
    await worker.begin();
    expect(await authority.ended(passing)).toMatchObject({ state: 'completed', done: 200 });
    expect(await authority.ended(hopeless)).toMatchObject({ state: 'failed', done: 0, detail: expect.stringMatching('kept failing') });
    await worker.stop();
    expect((await authority.sql('select id from authority_jobs')).rows).toEqual([]);
  });

  it('leave one that cannot be read to whoever can, and go on with the others', async () => {
    const id = derivedId('job', newCommandId(), now);
    await inContext(() => authority.ledger.reserve(id));
    const metadata = { commandId: crypto.randomUUID(), correlationId: 'x', actor: { type: 'system', id: 'keyledger' }, occurredAt: now, environment, schema: 99 };
    await authority.events.of(environment).append(`job-${id}`, 'any', [{ id: crypto.randomUUID(), type: 'JobQueued', data: {}, metadata }]);
    await inContext(() => authority.ledger.open(id));
    const later = await authority.queue(1);
    const worker = authority.worker(working('x'));
    await worker.begin();
    expect(await authority.ended(later)).toMatchObject({ state: 'completed', done: 1 });
    await worker.stop();
    expect((await authority.sql('select id, worker from authority_jobs')).rows).toEqual([{ id, worker: null }]);
    await inContext(() => authority.ledger.end(id));
  });

  it('hear of a cancelled job between two chunks', async () => {
    const id = await authority.queue(100_000);
    const worker = authority.worker(async (job, chunk) => {
      if (chunk === 1) await inContext(() => authority.jobs.run(id, { type: 'Cancel' }));
      return resultsOf(job, chunk);
    });
    await worker.begin();
    expect(await authority.ended(id)).toMatchObject({ state: 'cancelled', done: 200 });
    await worker.stop();
  });

  it('do a chunk to its end that somebody died over, though the job is cancelled: of some of its rows nobody would know otherwise', async () => {
    const id = await authority.queue(500);
    const [reached, never] = [Promise.withResolvers<void>(), Promise.withResolvers<never>()];
    const dead = authority.worker(async (job, chunk) => {
      if (chunk < 2) return resultsOf(job, chunk);
      reached.resolve();
      return never.promise;
    });
    await dead.begin();
    await reached.promise;
    await inContext(() => authority.jobs.run(id, { type: 'Cancel' }));
    await authority.sql('update authority_jobs set alive_at = 1 where id = ?', [id]);
    const heir = authority.worker(working('heir'));
    await heir.begin();
    expect(await authority.ended(id)).toMatchObject({ state: 'cancelled', done: 300, failed: 1 });
    expect(done).toEqual([`heir ${id} 2`]);
    never.reject(refuse('UNAVAILABLE'));
    await Promise.all([dead.stop(), heir.stop()]);
  });

  it('do nothing more for a cancelled job that was given back between two chunks', async () => {
    const id = await authority.queue(300);
    await stopInTheFirstChunk();
    await inContext(() => authority.jobs.run(id, { type: 'Cancel' }));
    const second = authority.worker(working('second'));
    await second.begin();
    expect(await authority.ended(id)).toMatchObject({ state: 'cancelled', done: 100 });
    expect(done).toEqual([]);
    await second.stop();
  });

  it('finish a cancelled job at once, though all are busy', async () => {
    const release = Promise.withResolvers<void>();
    const worker = authority.worker(async (job, chunk) => {
      await release.promise;
      return resultsOf(job, chunk);
    });
    const long = [await authority.queue(100), await authority.queue(100)];
    await worker.begin();
    const waiting = await authority.queue(100);
    await inContext(() => authority.jobs.run(waiting, { type: 'Cancel' }));
    worker.look();
    expect(await authority.ended(waiting)).toMatchObject({ state: 'cancelled', done: 0, startedAt: null });
    release.resolve();
    expect(await Promise.all(long.map((id) => authority.ended(id)))).toMatchObject([{ state: 'completed' }, { state: 'completed' }]);
    await worker.stop();
  });

  it('leave alone what is only being asked for, and find it should that have been cut short', async () => {
    const id = derivedId('job', newCommandId(), now);
    await inContext(() => authority.ledger.reserve(id));
    const worker = authority.worker(working('x'));
    await worker.begin();
    await inContext(() => authority.jobs.run(id, { type: 'Queue', jobId: id, work: batch, total: 1 }));
    worker.look();
    await worker.stop();
    expect(done).toEqual([]);
    await authority.sql('update authority_jobs set alive_at = alive_at - 80000 where id = ?', [id]);
    const another = authority.worker(working('y'));
    await another.begin();
    expect(await authority.ended(id)).toMatchObject({ state: 'completed', done: 1 });
    await another.stop();
  });

  it('that were taken for dead change nothing for the one that has the job now', async () => {
    const { queue, ledger, sql } = authority;
    const jobId = await queue(1);
    await inContext(() => ledger.claim(jobId, 'new'));
    await sql('update authority_jobs set alive_at = alive_at - 5000 where id = ?', [jobId]);
    const row = async () => (await sql('select * from authority_jobs where id = ?', [jobId])).rows;
    const before = await row();
    await inContext(() => ledger.showLife(jobId, 'old'));
    await inContext(() => ledger.release(jobId, 'old'));
    expect(await inContext(() => ledger.abandon(jobId, 'old', true))).toBe(false);
    expect(await inContext(() => ledger.save(jobId, 'old', 0, [], { done: 1, failed: 0 }))).toBe(false);
    expect(await row()).toEqual(before);
    await inContext(() => ledger.end(jobId));
  });

  it('keep a job that is asked for once more meanwhile', async () => {
    const jobId = await authority.queue(1);
    await inContext(() => authority.ledger.claim(jobId, 'me'));
    await inContext(() => authority.ledger.reserve(jobId));
    await inContext(() => authority.ledger.open(jobId));
    expect(await inContext(() => authority.ledger.waiting(10))).toEqual([]);
    expect(await inContext(() => authority.ledger.save(jobId, 'me', 0, [], { done: 1, failed: 0 }))).toBe(true);
    await inContext(() => authority.ledger.end(jobId));
  });

  it('take over from one that died before the clock was set back, and still leave alone what is only being asked for', async () => {
    const [dead, asked, left] = [await authority.queue(1), derivedId('job', newCommandId(), now), derivedId('job', newCommandId(), now)];
    const later = (ms: number) => Date.now() + ms;
    await authority.sql("update authority_jobs set worker = 'dead', alive_at = ? where id = ?", [later(5_000), dead]);
    for (const id of [asked, left]) await inContext(() => authority.ledger.stage(id, 0, []));
    await authority.sql('update authority_jobs set alive_at = ? where id = ?', [later(86_500_000), left]);
    const ids = async () => (await inContext(() => authority.ledger.waiting(10))).map(({ id }) => id);
    expect([await ids(), await inContext(() => authority.ledger.claim(dead, 'me'))]).toEqual([[left], false]);
    await authority.sql('update authority_jobs set alive_at = ? where id = ?', [later(60_000), dead]);
    expect([(await ids()).toSorted(), await inContext(() => authority.ledger.claim(dead, 'me'))]).toEqual([[dead, left].toSorted(), true]);
    for (const id of [dead, asked, left]) await inContext(() => authority.ledger.end(id));
  });

  it.each([-60_000, 60_000])('are left to whoever is at them by a process whose clock is %d ms off', async (ms) => {
    const id = await authority.queue(1);
    const ids = async () => (await inContext(() => authority.ledger.waiting(10))).map((waiting) => waiting.id);
    expect([await ids(), await inContext(() => authority.ledger.claim(id, 'one'))]).toEqual([[id], true]);
    const now = Date.now();
    const clock = jest.spyOn(Date, 'now').mockImplementation(() => now + ms);
    try {
      expect([await ids(), await inContext(() => authority.ledger.claim(id, 'other'))]).toEqual([[], false]);
      await inContext(() => authority.ledger.showLife(id, 'one'));
      await inContext(() => authority.ledger.save(id, 'one', 0, [], { done: 0, failed: 0 }));
    } finally {
      clock.mockRestore();
    }
    expect(await ids()).toEqual([]);
    await inContext(() => authority.ledger.end(id));
  });

  it('clear away files that never came to their end, and keep the rows of the others sealed', async () => {
    const [left, fresh] = [derivedId('job', newCommandId(), now), derivedId('job', newCommandId(), now)];
    const rows = [{ licenseKey: 'SECRET-KEY', customerEmail: 'ada@example.com' }];
    for (const id of [left, fresh]) for (let twice = 0; twice < 2; twice++) await inContext(() => authority.ledger.stage(id, 0, rows));
    expect(JSON.stringify((await authority.sql('select * from authority_job_input')).rows)).not.toMatch(/SECRET|ada@/);
    expect(await inContext(() => authority.ledger.staged(fresh, 0))).toEqual(rows);
    await authority.sql('update authority_jobs set alive_at = alive_at - 86500000 where id = ?', [left]);
    const worker = authority.worker(working('x'));
    await worker.begin();
    await worker.stop();
    expect((await authority.sql('select job_id from authority_job_input')).rows).toEqual([{ job_id: fresh }]);
    expect(done).toEqual([]);
    await inContext(() => authority.ledger.end(fresh));
  });
}

describe('Workers at jobs (SQLite)', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'jobs-'));
  suite(() => ({ dataDir }));
  afterAll(() => rmSync(dataDir, { recursive: true }));
});
describeWith('postgres', 'Workers at jobs', (server) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'jobs-'));
  suite(() => ({ dataDir, databaseUrl: server().url }));
  afterAll(() => rmSync(dataDir, { recursive: true }));
}, { durable: true });
