import { describe, expect, it } from '@jest/globals';
import { at, idOf, scenarios } from '@keyledger/testing';
import { Job, jobView, rowCommandId, rowLicenseId, type JobCommand, type JobEvent, type JobState, type JobWork } from './job.ts';

const now = '2026-11-21T12:00:00.000Z';
const later = '2026-11-21T12:05:00.000Z';
const { given, story, stateOf } = scenarios(Job, now);
const batch: JobWork = { kind: 'batch', productId: idOf('prd'), generatorId: idOf('gen'), planId: null, keyFormat: { kind: 'crockford' }, terms: { activationLimit: 2 } };
const queue = (work: JobWork = batch): JobCommand => ({ type: 'Queue', jobId: idOf('job'), work, total: 500 });
const [start, cancel, takeKeys] = (['Start', 'Cancel', 'TakeKeys'] as const).map((type) => ({ type })) as [JobCommand, JobCommand, JobCommand];
const finish: JobCommand = { type: 'Finish', outcome: 'completed', done: 500, failed: 3 };

const queued = story(queue());
const running = story(queued, start);
const cancelled = story(running, cancel);
const completed = story(running, at(later, finish));
const failed = story(running, at(later, { ...finish, outcome: 'failed', done: 200, detail: 'INTERNAL' }));
const ended = story(cancelled, at(later, { ...finish, done: 100 }));
const taken = story(completed, takeKeys);

describe('A job', () => {
  it('is asked for once, and is the doing of who asked', () => {
    given().when(queue()).thenEvents({ type: 'JobQueued', jobId: idOf('job'), work: batch, total: 500 }, (state) => expect(state).toMatchObject({ state: 'queued', by: { id: 'key_tester' } }));
  });

  const nothing: readonly string[] = [];
  const invalid = ['INVALID_TRANSITION'];
  const early = ['JOB_NOT_FINISHED'];
  const gone = ['KEYS_ALREADY_DOWNLOADED'];
  const unknown = ['JOB_NOT_FOUND'];
  it.each<[string, ReturnType<typeof story> | undefined, ...(readonly string[])[]]>([
    ['unknown', undefined, ['JobQueued'], unknown, unknown, unknown, unknown],
    ['queued', queued, nothing, ['JobStarted'], ['JobCancelled'], ['JobFinished'], early],
    ['running', running, nothing, nothing, ['JobCancelled'], ['JobFinished'], early],
    ['cancelled, the last row under way', cancelled, nothing, nothing, nothing, ['JobFinished'], early],
    ['cancelled for good', ended, nothing, nothing, nothing, nothing, ['JobKeysTaken']],
    ['completed', completed, nothing, nothing, invalid, nothing, ['JobKeysTaken']],
    ['failed', failed, nothing, nothing, invalid, nothing, ['JobKeysTaken']],
    ['completed, its keys downloaded', taken, nothing, nothing, invalid, nothing, gone],
  ])('that is %s', (_, history, ...outcomes) => {
    [queue(), start, cancel, finish, takeKeys].forEach((command, n) => {
      const [outcome = ''] = outcomes[n] ?? [];
      if (outcome === '') given(history).when(command).thenNothing();
      else if (outcome.startsWith('Job')) given(history).when(command).thenEvents({ type: outcome as JobEvent['type'] });
      else given(history).when(command).thenRefused(outcome as 'JOB_NOT_FOUND');
    });
  });

  it('says at its end, in one event, all there is to tell', () => {
    given(running).when(finish).thenEvents({ type: 'JobFinished', outcome: 'completed', kind: 'batch', total: 500, done: 500, failed: 3 });
    given(cancelled).when({ ...finish, done: 120 } as JobCommand).thenEvents({ type: 'JobFinished', outcome: 'cancelled', kind: 'batch', total: 500, done: 120, failed: 3 });
    given(story(queue({ kind: 'import', dryRun: true }), start)).when(finish).thenEvents({ type: 'JobFinished', outcome: 'completed', kind: 'import' });
  });

  it('cannot be cancelled afterwards, and says so in the words of a license', () =>
    given(completed).when(cancel).thenRefused('INVALID_TRANSITION', { from: 'completed', requested: 'cancel', allowed: [] }));

  it('says when its keys were downloaded to whoever comes for them again', () => given(taken).when(takeKeys).thenRefused('KEYS_ALREADY_DOWNLOADED', { at: now }));

  it('is shown with its progress, and after its end with what it has come to', () => {
    const view = (history: typeof queued) => jobView(stateOf(history) as JobState, { done: 40, failed: 1 });
    expect(view(running)).toEqual({
      id: idOf('job'), kind: 'batch', state: 'running', done: 40, total: 500, failed: 1, createdAt: now, startedAt: now, finishedAt: null, resultUrl: null, detail: null,
      productId: idOf('prd'), generatorId: idOf('gen'), keysDownloadedAt: null,
    });
    expect(jobView(stateOf(running) as JobState)).toMatchObject({ done: 0, failed: 0 });
    expect(view(cancelled)).toMatchObject({ state: 'cancelled', done: 40, finishedAt: null, resultUrl: null });
    expect(view(ended)).toMatchObject({ state: 'cancelled', done: 100, failed: 3, finishedAt: later, resultUrl: `/jobs/${idOf('job')}/result` });
    expect(view(failed)).toMatchObject({ state: 'failed', done: 200, detail: 'INTERNAL' });
    expect(view(taken)).toMatchObject({ state: 'completed', keysDownloadedAt: now });
    expect(view(story(queue({ kind: 'import', dryRun: false })))).toMatchObject({ kind: 'import', dryRun: false });
  });
});

describe('A row of a job', () => {
  it('is the same command whoever works on it, and no other row\'s', () => {
    const job = stateOf(queued) as JobState;
    const rows = Array.from({ length: 1_000 }, (_, n) => n + 1);
    expect(rows.map((row) => rowLicenseId(job, row))).toEqual(rows.map((row) => rowLicenseId({ ...job, state: 'running' } as JobState, row)));
    expect(new Set(rows.flatMap((row) => [rowCommandId(idOf('job', 1), row), rowCommandId(idOf('job', 2), row)])).size).toBe(2_000);
    expect(new Set(rows.map((row) => rowLicenseId(job, row))).size).toBe(1_000);
  });
});
