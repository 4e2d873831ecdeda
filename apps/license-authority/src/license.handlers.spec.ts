import { describe, expect, it } from '@jest/globals';
import type { IssueLicense } from '@keyledger/contracts';
import { License, type LicenseCommand, type TermsInput } from '@keyledger/domain';
import { runIn, systemContext } from '@keyledger/kernel';
import { idOf, licenseKey, scenarios } from '@keyledger/testing';
import { IssueCommands } from './license.handlers.ts';

const now = '2026-11-21T12:00:00.000Z';
const { story, stateOf } = scenarios(License, now);
const aYear = { value: 1, unit: 'years' } as const;

/** What comes of it where the plan says this. */
function issued(plan: TermsInput, asked: object) {
  const create = async (_id: string, command: LicenseCommand, view: (state: unknown, revision: number) => unknown) => view(stateOf(story(command)), 0);
  const licenses = { done: async () => undefined, create };
  const offer = { planId: idOf('pln'), terms: plan, meters: [], keyFormat: { kind: 'crockford' } };
  const commands = new IssueCommands(licenses as never, { make: () => licenseKey(), remember: () => undefined } as never, { send: async () => offer } as never);
  return runIn(systemContext('staging', now), () => commands.execute({ productId: idOf('prd'), planId: idOf('pln'), ...asked } as IssueLicense));
}

describe('A license that is issued', () => {
  it('has the terms of its plan, and those that are asked for before them', async () => {
    expect(await issued({ activationLimit: 3, expiry: aYear }, {})).toMatchObject({ activationLimit: 3, expiresAt: '2027-11-21T12:00:00.000Z' });
    expect(await issued({ activationLimit: 3, expiry: aYear }, { expiresAt: '2026-12-01T00:00:00Z' })).toMatchObject({ activationLimit: 3, expiresAt: '2026-12-01T00:00:00.000Z' });
  });
  it('is for a lifetime when that is asked for, whatever the plan says', async () => {
    for (const expiryBasis of ['purchase', 'firstActivation'] as const) {
      expect(await issued({ activationLimit: 3, expiry: aYear, expiryBasis }, { expiresAt: null })).toMatchObject({ activationLimit: 3, expiresAt: null, expiry: null });
    }
  });
});
