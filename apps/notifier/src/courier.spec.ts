import { expect, it, jest } from '@jest/globals';
import { systemClock } from '@keyledger/kernel';
import { until } from '@keyledger/testing';
import { Courier } from './courier.ts';
import type { Answer } from './egress.ts';
import type { ClaimedParcel, Outbox } from './outbox.ts';

/** A courier whose targets always have something due and never answer, until they are told to. */
function courierOf(targets: readonly { readonly target: string; readonly isFailing: boolean }[]) {
  const claims: number[] = [];
  const outbox = {
    dueTargets: async () => targets, settle: async () => null, release: async () => undefined,
    claim: async (wanted: readonly { readonly target: string }[]) => {
      claims.push(wanted.length);
      return wanted.map(({ target }) => ({ id: 'whd', target, type: 'license.issued', timestamp: '', body: '', attempts: 0, claimedUntil: 0 }));
    },
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
  return { courier, tried, giveUp, claims };
}

it('The courier comes to every target in turn, however many with much to be sent never answer, and claims for all of them at once', async () => {
  const { courier, tried, giveUp, claims } = courierOf(Array.from({ length: 120 }, (_, n) => ({ target: `whk_${n}`, isFailing: false })));
  await until(() => tried.length === 96);
  expect(claims).toEqual([96]);
  for (let n = 0; n < 24; n++) {
    giveUp[n]?.();
    await until(() => tried.length === 97 + n);
  }
  expect(new Set(tried).size).toBe(120);
  await courier.close();
});

it('The courier leaves half of the first places to targets that have not been failing, though those that have come first', async () => {
  const { courier, tried } = courierOf(Array.from({ length: 200 }, (_, n) => ({ target: `whk_${n}`, isFailing: n < 150 })));
  await until(() => tried.length === 96);
  expect([tried.slice(0, 48), tried.slice(48)].map((some) => new Set(some.map((target) => Number(target.slice(4)) < 150)))).toEqual([new Set([true]), new Set([false])]);
  await courier.close();
});

it('The courier gives every place to somebody: one to each target before any gets more, and again what was not needed', async () => {
  const targets = Array.from({ length: 200 }, (_, n) => `whk_${n}`);
  const due = new Set(targets);
  const outbox = {
    dueTargets: async () => [...due].map((target) => ({ target, isFailing: false })), settle: async () => null, release: async () => undefined,
    // Each target has one parcel at a time.
    claim: async (wanted: readonly { readonly target: string }[]) => wanted.filter(({ target }) => due.delete(target))
      .map(({ target }) => ({ id: 'whd', target, type: 'license.issued', timestamp: '', body: '', attempts: 0, claimedUntil: 0 })),
  } as unknown as Outbox;
  let isPrompt = true;
  const tried: string[] = [];
  const attempt = async ({ target }: ClaimedParcel, signal: AbortSignal): Promise<Answer> => {
    tried.push(target);
    if (!isPrompt) await new Promise((_, reject) => signal.addEventListener('abort', reject));
    return { status: 204, text: null, error: null };
  };
  const delivered = jest.fn();
  const ignore = () => undefined;
  const courier = new Courier(outbox, { attempt, giveUp: async () => undefined }, undefined, systemClock, { delivery: delivered } as never, { warn: ignore, error: ignore } as never);
  // Two deliveries prove that a target may get four at a time.
  for (const times of [200, 400]) {
    for (const target of targets) due.add(target);
    courier.wake('staging');
    await until(() => delivered.mock.calls.length === times);
  }
  await new Promise((resolve) => setImmediate(resolve));
  isPrompt = false;
  for (const target of targets) due.add(target);
  courier.wake('staging');
  await until(() => tried.length === 400 + 128);
  await courier.close();
});

it('The courier that closes waits a moment for the answers to what it is sending, gives the rest back, and sends no more', async () => {
  const settled: string[] = [];
  const released: string[] = [];
  const answered = Promise.withResolvers<Answer>();
  const outbox = {
    dueTargets: async () => ['prompt', 'slow'].map((target) => ({ target, isFailing: false })),
    claim: async (wanted: readonly { readonly target: string }[]) => wanted.map(({ target }) => ({ id: target, target, type: 'license.issued', timestamp: '', body: '', attempts: 0, claimedUntil: 0 })),
    settle: async ({ id }: ClaimedParcel) => void settled.push(id), release: async ({ id }: ClaimedParcel) => void released.push(id),
  } as unknown as Outbox;
  let tried = 0;
  const attempt = ({ target }: ClaimedParcel, signal: AbortSignal) => {
    tried += 1;
    return target === 'prompt' ? answered.promise : new Promise<Answer>((_, reject) => signal.addEventListener('abort', reject));
  };
  const ignore = () => undefined;
  const courier = new Courier(outbox, { attempt, giveUp: async () => undefined }, undefined, systemClock, { delivery: ignore } as never, { warn: ignore, error: ignore } as never);
  courier.wake('staging');
  await until(() => tried === 2);
  const closed = courier.close();
  answered.resolve({ status: 204, text: null, error: null });
  await closed;
  expect({ settled, released, tried }).toEqual({ settled: ['prompt'], released: ['slow'], tried: 2 });
});
