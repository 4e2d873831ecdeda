import { describe, expect, it } from '@jest/globals';
import { Revalidate, ValidateLicense } from '@keyledger/contracts';
import { License, openLease, issued, type Lease } from '@keyledger/domain';
import { addDays, runIn, systemContext } from '@keyledger/kernel';
import { activate, assign, idOf, issue, laptop, licenseKey, scenarios } from '@keyledger/testing';
import { Revalidation, Validation } from './validation.handlers.ts';
import type { Found } from './verdict-cache.ts';

const start = '2026-11-21T12:00:00.000Z';
const { story, stateOf } = scenarios(License, start);
const state = stateOf(story(issue({ terms: { validationMode: 'heartbeat', offlineGraceDays: 7 } }), assign(), activate(laptop)));
const license = { state, revision: 2 };
const late = addDays(start, 8);

/** The verdict at a moment, with that found under the key, and the lease read like this. */
function validated(at: string, running: () => Promise<Lease | undefined>, found: Found = { license, retired: false, conclusive: true }, asked: object = {}) {
  const validation = new Validation(
    { here: () => ({ find: () => found }) } as never, { see: () => undefined } as never, { decision: () => undefined } as never, {} as never, { running } as never, { of: () => undefined } as never,
  );
  const question = Object.assign(new ValidateLicense(), { licenseKey: licenseKey().value, instanceId: laptop.activationId, fingerprint: 'fp-laptop', ...asked });
  return runIn(systemContext('production', at), async () => validation.execute(question));
}
const never = () => Promise.reject(new Error('asked for nothing'));
const lease = (seenAt: string) => openLease(issued(state), laptop.activationId, undefined, seenAt);

describe('A verdict on an instance that owes heartbeats', () => {
  it('asks for its lease only when it would be overdue without a heartbeat', async () => {
    expect(await validated(start, never)).toMatchObject({ valid: true, conclusive: true });
    expect(await validated(late, async () => undefined)).toMatchObject({ valid: false, code: 'HEARTBEAT_OVERDUE', conclusive: true });
    expect(await validated(late, async () => ({ ...lease(start), endsAt: addDays(late, 1) }))).toMatchObject({ valid: true, conclusive: true });
  });

  it('locks nobody out while the lease cannot be read, and says that it is not conclusive', async () => {
    expect(await validated(late, never)).toMatchObject({ valid: true, conclusive: false });
  });

  it('says of a key that it was good once, so that its client is not taken for guessing', async () => {
    expect(await validated(start, never, { license: undefined, retired: true, conclusive: true })).toMatchObject({ valid: false, code: 'NOT_FOUND', retired: true });
  });
});

describe('A verdict that is wanted to be repeated', () => {
  const found = (terms: object, conclusive = true): Found => ({ license: { state: stateOf(story(issue({ terms }), assign(), activate(laptop))), revision: 2 }, retired: false, conclusive });
  const asked = (one: Found, more: object = { repeatable: true }) => validated(start, never, one, more);
  const lasting = found({ expiry: { value: 1, unit: 'years' }, expiryBasis: 'purchase' });

  it('stands until time changes it, or an event', async () => {
    expect(await asked(found({}))).toMatchObject({ valid: true, stands: { until: null } });
    expect((await asked(lasting)).stands?.until).toBe((await asked(lasting)).license?.expiresAt);
  });

  it('does not stand if anything else may change it', async () => {
    for (const one of [found({ validationMode: 'heartbeat' }), found({ quotas: [{ meter: 'cores', limit: 8 }] }), found({ features: { calls: { limit: 9, per: 'day' } } }), found({}, false), { license: undefined, retired: true, conclusive: true }]) {
      expect(await asked(one)).not.toHaveProperty('stands');
    }
  });

  it('is otherwise the same', async () => {
    const { stands: _, ...verdict } = await asked(lasting);
    expect(verdict).toEqual(await asked(lasting, {}));
  });
});

it('Who has asked again is seen, unless the license has changed: then the next validation tells whether the instance is still there', async () => {
  const [changed, same] = [idOf('lic', 1), idOf('lic', 2)];
  const seen: unknown[] = [];
  const ask = (known: ReadonlySet<string> | null) => runIn(systemContext('production', start), () => new Revalidation(
    { here: () => ({ changedSince: async (since: number | null) => ({ position: (since ?? 0) + 5, changed: known }) }) } as never, { see: (...one: unknown[]) => void seen.push(one) } as never,
  ).execute(Object.assign(new Revalidate(), { since: 7, seen: [{ licenseId: changed, activationId: idOf('act', 1) }, { licenseId: same, activationId: idOf('act', 2) }] })));
  expect(await ask(new Set([changed]))).toEqual({ now: start, position: 12, changed: [changed] });
  expect(seen).toEqual([[idOf('act', 2), start]]);
  expect(await ask(null)).toEqual({ now: start, position: 12, changed: null });
  expect(seen).toHaveLength(1);
});
