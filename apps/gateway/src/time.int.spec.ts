import { afterEach, describe, expect, it } from '@jest/globals';
import { RunSweep } from '@keyledger/contracts';
import { refuse } from '@keyledger/kernel';
import { gatewayWithFakes, refusing, sampleOf, type FakedGateway } from './fakes.contract.ts';

let gateway: FakedGateway;
afterEach(() => gateway.close());

const report = sampleOf(RunSweep.answer);
const running = { number: 7, trigger: 'schedule', state: 'running', startedAt: '2026-12-01T00:00:00.000Z', finishedAt: null, durationMs: null, examined: 0, transitions: {} };
const sent = () => gateway.sent.filter(({ subject }) => !subject.startsWith('access.') && subject !== 'environment.list').map(({ subject, context }) => `${subject} in ${context.environment}`);

describe('To put a clock forward', () => {
  it.each([['PUT', '', { now: '2027-01-01T00:00:00Z' }, 'environment.set-clock'], ['POST', '/advance', { seconds: 5 }, 'environment.advance-clock']])('by %s is answered when everything is done that fell due there', async (method, path, body, subject) => {
    gateway = await gatewayWithFakes();
    expect((await gateway.call(method, `/environments/staging/clock${path}`, { body })).status).toBe(200);
    expect(sent()).toEqual([`${subject} in production`, 'sweep.run in staging']);
  });

  it('asks again when who was asked has gone', async () => {
    let gone = 2;
    gateway = await gatewayWithFakes({ 'sweep.run': () => { if (gone-- > 0) throw refuse('UNAVAILABLE'); return report; } });
    expect((await gateway.call('PUT', '/environments/staging/clock', { body: { now: '2027-01-01T00:00:00Z' } })).status).toBe(200);
    expect(sent().slice(1)).toEqual(Array(3).fill('sweep.run in staging'));
  });

  it('has no sweep when it is refused', async () => {
    gateway = await gatewayWithFakes({ 'environment.set-clock': refusing('PRODUCTION_CLOCK') });
    expect((await gateway.call('PUT', '/environments/production/clock', { body: { now: '2027-01-01T00:00:00Z' } })).status).toBe(403);
    expect(sent()).toEqual(['environment.set-clock in production']);
  });
});

describe('A sweep that is asked for', () => {
  const sweep = (body: object = {}) => gateway.call('POST', '/licenses/health/sweep', { body });

  it('is answered with what it has done', async () => {
    gateway = await gatewayWithFakes({ 'sweep.run': () => report });
    expect(await sweep()).toMatchObject({ status: 200, json: report });
  });

  it('that goes on for longer is accepted, with the run that is under way', async () => {
    gateway = await gatewayWithFakes({ 'sweep.run': refusing('UNAVAILABLE'), 'sweep.list': () => ({ data: [running], page: { next: null, total: 7 } }) });
    expect(await sweep()).toMatchObject({ status: 202, json: { number: 7, dryRun: false, state: 'running' } });
  });

  it('is refused when nobody is at it', async () => {
    gateway = await gatewayWithFakes({ 'sweep.run': refusing('UNAVAILABLE'), 'sweep.list': () => ({ data: [], page: { next: null, total: 0 } }) });
    expect((await sweep()).status).toBe(503);
    expect((await sweep({ dryRun: true })).status).toBe(503);
  });
});
