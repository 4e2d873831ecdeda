import { describe, expect, it } from '@jest/globals';
import { ValidateLicense } from '@keyledger/contracts';
import { License, openLease, issued, type Lease } from '@keyledger/domain';
import { addDays, runIn, systemContext } from '@keyledger/kernel';
import { activate, assign, issue, laptop, licenseKey, scenarios } from '@keyledger/testing';
import { Validation } from './validation.handlers.ts';
import type { Found } from './verdict-cache.ts';

const start = '2026-11-21T12:00:00.000Z';
const { story, stateOf } = scenarios(License, start);
const state = stateOf(story(issue({ terms: { validationMode: 'heartbeat', offlineGraceDays: 7 } }), assign(), activate(laptop)));
const license = { state, revision: 2 };
const late = addDays(start, 8);

/** The verdict at a moment, with that found under the key, and the lease read like this. */
function validated(at: string, running: () => Promise<Lease | undefined>, found: Found = { license, retired: false, conclusive: true }) {
  const validation = new Validation(
    { here: () => ({ find: () => found }) } as never, { see: () => undefined } as never, { decision: () => undefined } as never, {} as never, { running } as never, { of: () => undefined } as never,
  );
  const question = Object.assign(new ValidateLicense(), { licenseKey: licenseKey().value, instanceId: laptop.activationId, fingerprint: 'fp-laptop' });
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
