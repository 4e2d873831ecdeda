import { describe, expect, it } from '@jest/globals';
import { SeeInstance, type IssueLicense } from '@keyledger/contracts';
import { License, type LicenseCommand, type TermsInput } from '@keyledger/domain';
import { refuse, runIn, systemContext, type ErrorCode } from '@keyledger/kernel';
import { activate, assign, idOf, issue, laptop, licenseKey, scenarios } from '@keyledger/testing';
import { ActivateCommand, IssueCommands } from './license.handlers.ts';
import { LeaseTokens } from './signed.handlers.ts';

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

describe('An instance that asks for its seat', () => {
  /** Whom the activation service is told to have seen. */
  async function seen(fingerprint: string, send: (type: object, fields: object) => Promise<unknown>) {
    const history = story(issue(), assign(), activate(laptop));
    const licenses = {
      run: async (_id: string, command: LicenseCommand, view: (state: unknown, revision: number, events: readonly unknown[]) => unknown) => {
        const events = License.decide(stateOf(history), command, now);
        return view(stateOf(events.length > 0 ? story(history, command) : history), 2 + events.length, events);
      },
    };
    const keys = { hashOf: () => licenseKey().hash, find: async () => idOf('lic') };
    const command = new ActivateCommand(licenses as never, keys as never, { statementOf: () => undefined } as never, { complete: (view: unknown) => view } as never, { took: () => undefined } as never, { send } as never);
    return runIn(systemContext('staging', now), () => command.execute({ licenseKey: licenseKey().value, fingerprint } as never));
  }

  it('once more has been seen', async () => {
    const told: unknown[] = [];
    const send = async (type: object, fields: object) => void told.push([type, fields]);
    expect(await seen('fp-laptop', send)).toMatchObject({ created: false, instance: { lastSeenAt: now } });
    expect(told).toEqual([[SeeInstance, { activationId: laptop.activationId, at: now }]]);
    expect(await seen('another', send)).toMatchObject({ created: true });
    expect(told).toHaveLength(1);
  });
  it('has it, whether or not the activation service hears of that', async () =>
    expect(await seen('fp-laptop', () => Promise.reject(new Error('nobody answers')))).toMatchObject({ created: false }));
  it('is answered without a lease while nobody signs, but not about a seat that has ended meanwhile', async () => {
    const tokenFor = (code: ErrorCode) => new LeaseTokens({ send: () => Promise.reject(refuse(code)) } as never, { warn: () => undefined } as never).tokenFor({ licenseId: idOf('lic'), activationId: laptop.activationId });
    expect(await tokenFor('UNAVAILABLE')).toBeUndefined();
    await expect(tokenFor('TRY_AGAIN')).rejects.toMatchObject({ code: 'TRY_AGAIN' });
  });
});
