import { describe, expect, it } from '@jest/globals';
import { SeeInstance, StartBatch, type IssueLicense } from '@keyledger/contracts';
import { License, type LicenseCommand, type TermsInput } from '@keyledger/domain';
import { refuse, runIn, systemContext, type ErrorCode, type Permission } from '@keyledger/kernel';
import { activate, assign, deactivate, direct, idOf, issue, laptop, licenseKey, scenarios } from '@keyledger/testing';
import { ActivateCommand, DeactivateCommand, EraseCommand, IssueCommands, RegenerateKeyCommand } from './license.handlers.ts';
import { StartCommands } from './job.handlers.ts';
import { LicenseKeys } from './keys.ts';
import { LeaseTokens, LicenseFileCommand, OfflineFileCommand } from './signed.handlers.ts';

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

it('A batch is refused at once where each of its licenses would be', async () => {
  const offer = { productId: idOf('prd'), planId: null, keyFormat: { kind: 'uuid' }, meters: [], terms: { expiresAt: '2026-11-20T00:00:00.000Z' } };
  const commands = new StartCommands({ done: async () => undefined } as never, {} as never, {} as never, {} as never, { send: async () => offer } as never);
  const start = () => commands.execute(Object.assign(new StartBatch(), { generatorId: idOf('gen'), count: 3 }));
  await expect(runIn(systemContext('staging', now), start)).rejects.toMatchObject({ code: 'EXPIRY_IN_PAST' });
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

describe('A license that is in use', () => {
  const state = stateOf(story(issue(), assign(), activate(laptop)));
  const licenseId = idOf('lic');
  /** Decides, and stores nothing. */
  const licenses = {
    load: async (_id: string, view: (known: typeof state) => unknown) => view(state),
    run: async (_id: string, command: LicenseCommand) => License.decide(state, command, now),
  };
  const inContext = <T>(work: () => T, permissions: readonly Permission[] = []) => {
    const context = systemContext('staging', now);
    return runIn({ ...context, actor: { ...context.actor, permissions } }, work);
  };

  it('gives and takes no seat by a key that another process has replaced, though this one still finds it by that', async () => {
    const keys = { hashOf: () => licenseKey(2).hash, find: async () => licenseId };
    const activation = new ActivateCommand(licenses as never, keys as never, {} as never, {} as never, {} as never, {} as never);
    const asked = { licenseKey: licenseKey(2).value, fingerprint: 'fp-desktop', instanceId: laptop.activationId };
    for (const command of [activation, new DeactivateCommand(licenses as never, keys as never)]) {
      await expect(inContext(() => command.execute(asked as never))).rejects.toMatchObject({ code: 'LICENSE_NOT_FOUND' });
    }
  });

  it('gives a lease with the seat, and none while a directive has it locked', async () => {
    const seated = (license: typeof state) => {
      const run = async (_id: string, _command: LicenseCommand, view: (known: typeof state, revision: number, events: readonly unknown[]) => unknown) => view(license, 3, []);
      const keys = { hashOf: () => licenseKey().hash, find: async () => licenseId };
      const leases = { statementOf: () => ({}), tokenFor: async () => 'a lease' };
      const command = new ActivateCommand({ run } as never, keys as never, leases as never, { complete: (view: unknown) => view } as never, {} as never, { send: async () => undefined } as never);
      return inContext(() => command.execute({ licenseKey: licenseKey().value, fingerprint: 'fp-laptop' } as never));
    };
    expect(await seated(state)).toHaveProperty('token', 'a lease');
    expect(await seated(stateOf(story(issue(), assign(), activate(laptop), direct('lock'))))).not.toHaveProperty('token');
  });

  it('gets no file once it is locked, and none for an instance that has ended', async () => {
    const load = (license: typeof state) => ({ load: async (_id: string, view: (known: typeof state, revision: number) => unknown) => view(license, 4) });
    const messages = { send: async () => ({ content: 'signed' }) };
    const files = (...since: LicenseCommand[]) => {
      const known = load(stateOf(story(issue(), assign(), activate(laptop), ...since)));
      return [new LicenseFileCommand(known as never, messages as never), new OfflineFileCommand(known as never, messages as never)]
        .map((command) => inContext(() => command.execute({ licenseId, activationId: laptop.activationId } as never)));
    };
    for (const file of await Promise.all(files())) expect(file).toMatchObject({ content: 'signed' });
    await expect(files(direct('lock'))[0]).rejects.toMatchObject({ code: 'INVALID_TRANSITION' });
    await expect(files(deactivate(laptop))[1]).rejects.toMatchObject({ code: 'INSTANCE_NOT_FOUND' });
  });

  it('is found in its environment by a key that another has been asked for first', () => {
    const keys = new LicenseKeys({ of: (environment: string) => ({ keyHash: (key: string) => `${environment} ${key}` }) } as never, {} as never);
    const hashes = ['production', 'staging', 'production'].map((environment) => runIn(systemContext(environment, now), () => keys.hashOf('K')));
    expect(hashes).toEqual(['production K', 'staging K', 'production K']);
  });

  it('is erased by an actor who may erase licenses, and is gone when that is answered', async () => {
    const order: string[] = [];
    const command = new EraseCommand({ run: async (...asked: Parameters<typeof licenses.run>) => order.push(...(await licenses.run(...asked)).map(({ type }) => type)) } as never, { done: async () => order.push('gone') } as never);
    const erase = (...permissions: Permission[]) => inContext(() => command.execute({ licenseId, reason: 'asked for', force: true } as never), permissions);
    await expect(erase('license.manage')).rejects.toMatchObject({ code: 'PERMISSION_DENIED' });
    await erase('license.erase');
    expect(order).toEqual(['LicenseErased', 'gone']);
  });

  it('has its key retired before there is another, so that a client with the old one is never taken for guessing', async () => {
    const order: unknown[] = [];
    const keys = { retire: async (hash: string) => order.push(hash), make: () => licenseKey(2), remember: () => undefined };
    const run = async () => {
      order.push('regenerated');
      return { license: {}, hash: licenseKey(2).hash };
    };
    await inContext(() => new RegenerateKeyCommand({ ...licenses, run } as never, keys as never, { complete: () => undefined } as never).execute({ licenseId } as never));
    expect(order).toEqual([licenseKey().hash, 'regenerated']);
  });
});
