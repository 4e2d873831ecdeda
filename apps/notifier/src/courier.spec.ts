import { expect, it } from '@jest/globals';
import { systemClock } from '@keyledger/kernel';
import { until } from '@keyledger/testing';
import { Courier } from './courier.ts';
import type { Answer } from './egress.ts';
import type { ClaimedParcel, Outbox } from './outbox.ts';

it('The courier comes to every target in turn, however many with much to be sent never answer', async () => {
  const targets = Array.from({ length: 120 }, (_, n) => `whk_${n}`);
  const outbox = {
    dueTargets: async () => targets, settle: async () => null, release: async () => undefined,
    claim: async (target: string) => [{ id: 'whd', target, type: 'license.issued', timestamp: '', body: '', attempts: 0, claimedUntil: 0 }],
  } as unknown as Outbox;
  const tried: string[] = [];
  const giveUp: (() => void)[] = [];
  const attempt = ({ target }: ClaimedParcel, signal: AbortSignal) => new Promise<Answer>((resolve, reject) => {
    tried.push(target);
    giveUp.push(() => resolve({ status: null, text: null, error: 'no answer within 15 s' }));
    signal.addEventListener('abort', reject);
  });
  const ignore = () => undefined;
  const courier = new Courier(outbox, { attempt, giveUp: async () => undefined }, undefined, systemClock, { delivery: ignore } as never, { warn: ignore, error: ignore } as never);
  courier.wake('staging');
  await until(() => tried.length === 96);
  for (let n = 0; n < 24; n++) {
    giveUp[n]?.();
    await until(() => tried.length === 97 + n);
  }
  expect(new Set(tried).size).toBe(120);
  await courier.close();
});
