import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { ClaimRequest, CompleteRequest } from '@keyledger/contracts';
import { environments, runIn, systemContext } from '@keyledger/kernel';
import { AccessModule } from './access.module.ts';
import { Requests } from './idempotency.handlers.ts';

const now = '2026-11-21T12:00:00.000Z';

it('A request that failed is answered without waiting for the database', async () => {
  const requests = new Requests({ here: () => ({ run: () => new Promise(() => undefined) }) } as never, { here: () => ({ hmac: () => 'x' }) } as never);
  const failed = { caller: 'key_1', route: 'POST /v1/orders', key: 'k', status: 0, body: 'unavailable', headers: {} } as unknown as CompleteRequest;
  expect(await runIn(systemContext('staging', now), () => requests.complete(failed))).toEqual({ status: 0, body: 'unavailable', headers: {} });
});

describe('A request that nobody has answered', () => {
  beforeEach(() => void jest.useFakeTimers({ now: Date.parse(now) }));
  afterEach(() => void jest.useRealTimers());

  it('is run again some seconds later, though the clock was set back meanwhile', async () => {
    const rows = [{ body_hash: 'x', command_id: 'c', command_at: now, answer: null }];
    const database = { run: async (sql: string) => ({ rows, changes: sql.startsWith('insert') ? 0 : 1 }) };
    const requests = new Requests({ here: () => database } as never, { here: () => ({ hmac: () => 'x' }) } as never);
    const claim = () => runIn(systemContext('staging', now), () => requests.claim({ caller: 'key_1', route: 'POST /v1/orders', key: 'k', bodyHash: 'x' } as ClaimRequest));
    await claim();
    jest.setSystemTime(Date.parse(now) - 3_600_000);
    const early = claim().catch((error: unknown) => error);
    await jest.advanceTimersByTimeAsync(4_002);
    expect(await early).toMatchObject({ code: 'IDEMPOTENCY_IN_PROGRESS' });
    const again = claim();
    await jest.advanceTimersByTimeAsync(2_000);
    expect(await again).toMatchObject({ state: 'run', commandId: 'c', retry: true });
  });
});

it('Requests are forgotten every few minutes, so that there are never many at a time', async () => {
  jest.useFakeTimers();
  const forgetOld = jest.fn(async () => undefined);
  const access = new AccessModule({ close: async () => undefined } as never, { forgetOld } as never, undefined as never);
  access.onApplicationBootstrap();
  await jest.advanceTimersByTimeAsync(600_000);
  await access.onModuleDestroy();
  jest.useRealTimers();
  expect(forgetOld).toHaveBeenCalledTimes(2 * environments.length);
});
