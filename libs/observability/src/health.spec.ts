import { describe, expect, it } from '@jest/globals';
import { Health, projectionsKeepUp } from './health.ts';

describe('Health', () => {
  it('is good while nothing is wrong', async () => {
    const health = new Health().add('live', 'event loop', () => undefined).add('ready', 'event store', async () => 'head 12');
    expect(await health.live()).toEqual({ status: 'ok', checks: { 'event loop': { status: 'ok' } } });
    expect(await health.ready()).toEqual({ status: 'ok', checks: { 'event loop': { status: 'ok' }, 'event store': { status: 'ok', detail: 'head 12' } } });
  });

  it('names what failed, beside what did not, without secrets', async () => {
    const health = new Health()
      .add('ready', 'database', async () => { throw new Error('connect postgres://keyledger:hunter2hunter2@db refused'); })
      .add('ready', 'nats', () => { throw new Error('closed'); })
      .add('ready', 'keyring', () => undefined);
    const answer = await health.ready();
    expect(answer).toMatchObject({ status: 'unavailable', checks: { nats: { status: 'failed', detail: 'closed' }, keyring: { status: 'ok' } } });
    expect(answer.checks['database']?.detail).not.toContain('hunter2');
    expect((await health.live()).status).toBe('ok');
  });

  it('is not ready when it is not live', async () => {
    const health = new Health().add('live', 'store worker', () => { throw new Error('gone'); });
    expect((await health.ready()).status).toBe('unavailable');
  });

  it('does not wait for a check that hangs', async () => {
    const health = new Health().add('ready', 'event store', () => new Promise<void>(() => undefined), 10).add('ready', 'keyring', () => undefined);
    expect(await health.ready()).toEqual({ status: 'unavailable', checks: { 'event store': { status: 'failed', detail: 'no answer within 10 ms' }, keyring: { status: 'ok' } } });
  });

  it('knows each check by one name', () => {
    expect(() => new Health().add('live', 'a', () => undefined).add('ready', 'a', () => undefined)).toThrow('already a health check a');
  });

  it.each([
    [{ positions: 10_000_000, seconds: 5 }, 'ok'],
    [{ positions: 1, seconds: 5.1 }, 'failed'],
  ] as const)('judges a projection that is behind by %j: %s', async (lag, status) => {
    const lags = () => [
      { environment: 'production', projection: 'audit', positions: 0, seconds: 0, parked: 0 },
      { environment: 'staging', projection: 'license-list', parked: 0, ...lag },
    ];
    const answer = await new Health().add('ready', 'projections', projectionsKeepUp(lags, 5)).ready();
    expect(answer.checks['projections']).toEqual(status === 'ok' ? { status } : { status, detail: `staging/license-list is behind by ${lag.positions} positions, ${Math.round(lag.seconds)} s` });
  });
});
