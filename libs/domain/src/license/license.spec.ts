import { describe, expect, it } from '@jest/globals';
import {
  activate, ada, assign, at, compiler, deactivate, desktop, direct, edit, editor, erase, exceedQuota, grace, idOf, inactivate, issue, laptop, licenseKey,
  loseHeartbeat, missHeartbeat, machine, reactivate, rebind, recoverHeartbeat, regenerateKey, renew, restoreQuota, revoke, scenarios, server, suspend,
  sweep, unsuspend,
} from '@keyledger/testing';
import { addDays, addSeconds } from '@keyledger/kernel';
import { DEFAULT_KEY_FORMAT } from '../license-key.ts';
import { nextDue } from './due.ts';
import { License } from './license.ts';
import { allowedActions, isLive, issued, meterState, statusOf, type LicenseState } from './state.ts';
import { clientLicenseView, instanceView, licensedTerms, licenseView, mustBeGoodForFile } from './view.ts';

const now = '2026-11-21T12:00:00.000Z';
const nextYear = '2027-11-21T12:00:00.000Z';
const later = '2028-01-31T00:00:00.000Z';
const inDays = (days: number) => addDays(now, days);
const aYear = { value: 1, unit: 'years' } as const;
const { story, given, stateOf } = scenarios(License, now);
const status = (state: LicenseState, instant = now) => statusOf(issued(state), instant);

describe('Issuing', () => {
  it('starts a license that anybody may be given', () => given().when(issue()).thenEvents({ type: 'LicenseIssued', purchasedAt: now, customerId: null }, (license) => expect(status(license)).toBe('available')));
  it('can hand it to its holder at once', () => given().when(issue({ customerId: ada })).thenEvents({ type: 'LicenseIssued', customerId: ada }, (license) => expect(status(license)).toBe('assigned')));
  it('is already so the second time', () => given(story(issue())).when(issue({ key: licenseKey(2) })).thenNothing());
  it('keeps the key sealed, its hash and its first characters readable', () => given().when(issue())
    .thenEvents({ type: 'LicenseIssued', key: licenseKey().value, keyHash: licenseKey().hash, keyPrefix: licenseKey().prefix }));
  it('counts the term from the purchase', () => given().when(issue({ purchasedAt: '2026-08-31T08:00:00+02:00', terms: { expiry: { value: 6, unit: 'months' } } }))
    .thenEvents({ type: 'LicenseIssued', purchasedAt: '2026-08-31T06:00:00.000Z', terms: { expiresAt: '2027-02-28T06:00:00.000Z' } }));
  it('of a purchase long ago makes a license that is expired', () => given().when(issue({ customerId: ada, purchasedAt: '2024-01-01T00:00:00Z', terms: { expiry: aYear } }))
    .thenEvents({ type: 'LicenseIssued' }, (license) => expect(status(license)).toBe('expired')));
  it('with a date in the past, or with now, is refused', () => {
    for (const expiresAt of ['2026-11-21T11:59:59.000Z', now]) given().when(issue({ terms: { expiresAt } })).thenRefused('EXPIRY_IN_PAST', { expiresAt });
  });
  it('of a purchase at no time is refused', () => given().when(issue({ purchasedAt: 'tomorrow' })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/purchasedAt' }] }));
  it('with 10 KB of metadata is fine, with a byte more is not', () => {
    const metadata = (size: number) => ({ a: 'x'.repeat(size - '{"a":""}'.length) });
    given().when(issue({ metadata: metadata(10_240) })).thenEvents({ type: 'LicenseIssued' });
    given().when(issue({ metadata: metadata(10_241) })).thenRefused('METADATA_TOO_LARGE');
  });
  it.each([0, -2, 1.5, 10_001, Number.NaN])('with an activation limit of %p is refused', (activationLimit) =>
    given().when(issue({ terms: { activationLimit } })).thenRefused('LIMIT_OUT_OF_RANGE', { limit: activationLimit }));
});

describe('A license that is not there', () => {
  it('answers every command alike', () => {
    for (const command of [assign(), edit({}), activate(), suspend(), renew(nextYear), revoke(), erase(), sweep()]) given().when(command).thenRefused('LICENSE_NOT_FOUND');
  });
});

describe('A holder', () => {
  const assigned = story(issue(), assign(ada));
  it('gets an available license', () => given(story(issue())).when(assign(ada)).thenEvents({ type: 'LicenseAssigned', customerId: ada }));
  it('can be another one later', () => given(assigned).when(assign(grace)).thenEvents({ type: 'LicenseAssigned', customerId: grace }));
  it('that has it already keeps it', () => given(assigned).when(assign(ada)).thenNothing());
  it('can be changed by an edit as well', () => given(assigned).when(edit({ customerId: grace })).thenEvents({ type: 'LicenseAssigned', customerId: grace }));
  it('cannot be taken away', () => given(assigned).when(edit({ customerId: null as never })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/customerId' }] }));
  it('does not change once the license is expired, not by an edit either', () => {
    const expired = given(story(issue({ terms: { expiry: aYear } }), assign(ada)), later);
    expired.when(assign(grace)).thenRefused('INVALID_TRANSITION', { from: 'expired', requested: 'assign' });
    expired.when(edit({ customerId: grace })).thenRefused('INVALID_TRANSITION', { from: 'expired', requested: 'assign' });
    expired.when(assign(ada)).thenNothing();
  });
});

describe('An edit', () => {
  const active = story(issue({ terms: { activationLimit: 2, expiry: aYear } }), assign(), activate(laptop), activate(desktop));
  it('writes one event for each fact that changes', () => given(active)
    .when(edit({ activationLimit: 3, expiresAt: '2027-01-01T01:00:00+01:00', features: { export: true }, featureFlags: { beta: { on: true } }, quotas: [{ meter: 'cores', limit: 8 }], metadata: { crm: 7 } }))
    .thenEvents(
      { type: 'ActivationLimitChanged', activationLimit: 3 }, { type: 'ExpiryChanged', expiresAt: '2027-01-01T00:00:00.000Z', by: 'edit' },
      { type: 'FeaturesChanged', features: { export: true } }, { type: 'FeatureFlagsChanged', featureFlags: { beta: { on: true } } },
      { type: 'QuotaChanged', quotas: [{ meter: 'cores', limit: 8 }] }, { type: 'MetadataChanged', metadata: { crm: 7 } },
    ));
  it('writes nothing when all is as asked for, however it is spelled', () => {
    const edited = story(active, edit({ metadata: { a: 1, b: [2] }, featureFlags: { x: null } }));
    given(edited).when(edit({ activationLimit: 2, expiresAt: '2027-11-21T13:00:00+01:00', metadata: { b: [2], a: 1 }, featureFlags: { x: null }, customerId: ada })).thenNothing();
    given(edited).when(edit({})).thenNothing();
  });
  it('that lowers the limit below the live instances evicts nobody and blocks new ones', () => {
    const lowered = story(active, edit({ activationLimit: 1 }));
    given(lowered).when(activate(laptop)).thenNothing();
    given(lowered).when(activate(server)).thenRefused('ACTIVATION_LIMIT_EXCEEDED', { limit: 1, used: 2 });
  });
  it('makes it a lifetime license with a null', () => given(active).when(edit({ expiresAt: null })).thenEvents({ type: 'ExpiryChanged', expiresAt: null }));
  it('keeps the term it was sold with beside the new date', () => given(active).when(edit({ expiresAt: later })).thenEvents({ type: 'ExpiryChanged' }, (license) => expect(issued(license).terms.expiry).toEqual(aYear)));
  it('does not end it in the past, nor right now', () => {
    given(active).when(edit({ expiresAt: '2026-11-21T12:00:00Z' })).thenRefused('EXPIRY_IN_PAST');
    given(active).when(edit({ expiresAt: '2020-01-01T00:00:00Z' })).thenRefused('EXPIRY_IN_PAST');
  });
  it('is refused whole when one field is wrong', () => {
    given(active).when(edit({ metadata: {}, activationLimit: 0 })).thenRefused('LIMIT_OUT_OF_RANGE');
    given(active).when(edit({ expiresAt: 'tomorrow' })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/expiresAt' }] });
    given(active).when(edit({ metadata: { a: 'x'.repeat(10_240) } })).thenRefused('METADATA_TOO_LARGE');
    given(active).when(edit({ quotas: [{ meter: 'cores', limit: 1 }, { meter: 'cores', limit: 2 }] })).thenRefused('VALIDATION_FAILED');
    given(active).when(edit({ features: { seats: -1 } })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/features/seats' }] });
  });
  it.each(['id', 'key', 'productId', 'environment'])('never changes the %s', (field) => given(active).when(edit({ [field]: 'other' })).thenRefused('IMMUTABLE_FIELD', { field }));
  it('cannot move the expiry of an expired license, but everything else', () => {
    given(active, later).when(edit({ expiresAt: '2029-01-01T00:00:00Z' })).thenRefused('INVALID_TRANSITION', { from: 'expired', requested: 'edit' });
    given(active, later).when(edit({ expiresAt: nextYear, activationLimit: 9 })).thenEvents({ type: 'ActivationLimitChanged' });
  });
  it('can still move the expiry during the grace after it', () => {
    const graceful = story(issue({ terms: { expiry: aYear, expiryGraceDays: 14 } }), assign());
    given(graceful, '2027-12-05T11:59:59.999Z').when(edit({ expiresAt: later })).thenEvents({ type: 'ExpiryChanged' });
    given(graceful, '2027-12-05T12:00:00.000Z').when(edit({ expiresAt: later })).thenRefused('INVALID_TRANSITION');
  });
});

describe('An instance', () => {
  const assigned = story(issue({ terms: { activationLimit: 2 } }), assign());
  const active = story(assigned, activate(laptop));

  it('gets a seat, and the first one makes the license active', () => given(assigned).when(activate(laptop)).thenEvents({ type: 'InstanceActivated', fingerprint: 'fp-laptop', name: 'laptop' }, (license) => expect(status(license)).toBe('active')));
  it('is known by its fingerprint: the same machine has its seat already', () => given(active).when(activate(laptop, { activationId: idOf('act', 77) })).thenNothing());
  it('is known by its installation id when it has no fingerprint', () =>
    given(story(active, activate(server))).when(activate(server, { activationId: idOf('act', 77) })).thenNothing());
  it('takes a seat of its own when it names hardware, whosever installation id it has', () => {
    for (const one of [laptop, { ...laptop, fingerprint: undefined }].map((first) => ({ ...first, installationId: 'in-1' }))) {
      given(story(assigned, activate(one))).when(activate({ ...desktop, installationId: 'in-1' })).thenEvents({ type: 'InstanceActivated', activationId: desktop.activationId });
    }
  });
  it('is still known by its installation id when another one that came with it has gone', () => {
    const copies = [laptop, desktop, machine(3)].map((one) => ({ ...one, installationId: 'in-1' }));
    const [first, second, third] = copies as [typeof laptop, typeof laptop, typeof laptop];
    const copied = story(issue(), assign(), ...copies.map((one) => activate(one)));
    const anybody = activate({ activationId: idOf('act', 77), installationId: 'in-1' });
    for (const gone of [[third], [second, third], [third, second], [first, third], [first, second]]) given(story(copied, ...gone.map((one) => deactivate(one)))).when(anybody).thenNothing();
    given(story(copied, ...copies.map((one) => deactivate(one)))).when(anybody).thenEvents({ type: 'InstanceActivated' });
  });
  it('with neither is a new one each time, but the same activation never counts twice', () => {
    const anonymous = { activationId: idOf('act', 5) };
    given(story(active, activate(anonymous))).when(activate(anonymous)).thenNothing();
    given(active).when(activate(anonymous)).thenEvents({ type: 'InstanceActivated' });
  });
  it('too many is refused, with the numbers', () => given(story(active, activate(desktop))).when(activate(server)).thenRefused('ACTIVATION_LIMIT_EXCEEDED', { limit: 2, used: 2 }));
  it('gives its seat back once, and may take it again', () => {
    const gone = story(active, activate(desktop), deactivate(laptop));
    given(gone).when(deactivate(laptop)).thenNothing();
    given(gone).when(activate(laptop, { activationId: idOf('act', 78) })).thenEvents({ type: 'InstanceActivated' });
    given(gone).when(activate(machine(3))).thenEvents({ type: 'InstanceActivated' });
  });
  it('brings 10 KB of metadata at most', () => given(assigned).when(activate(laptop, { metadata: { a: 'x'.repeat(10_240) } })).thenRefused('METADATA_TOO_LARGE'));
  it('that never was cannot be deactivated', () => given(active).when(deactivate(desktop)).thenRefused('INSTANCE_NOT_FOUND'));
  it('keeps its record when it has ended, without what identifies the machine', () => {
    const known = activate(laptop, { installationId: 'in-laptop', hardwareId: 'hw-laptop', metadata: { os: 'linux' } });
    const license = issued(stateOf(story(assigned, known, loseHeartbeat(laptop), deactivate(laptop, 'admin'))));
    expect(license.activations.get(laptop.activationId)).toMatchObject({
      name: 'laptop', fingerprint: null, installationId: null, hardwareId: null, metadata: null, late: false, lost: false, endedAt: now, endedBy: 'admin',
    });
    expect(license.activationCount).toBe(0);
    expect(status(license)).toBe('active');
  });
  it('without a limit there is always one more', () => {
    const many = story(issue(), assign(), ...Array.from({ length: 40 }, (_, n) => activate(machine(n))));
    given(many).when(activate(laptop)).thenEvents({ type: 'InstanceActivated' });
  });
  it.each([
    ['a license nobody holds', story(issue()), 'LICENSE_NOT_ASSIGNED'],
    ['a license that starts later', story(issue({ customerId: ada, terms: { effectiveAt: nextYear } })), 'LICENSE_NOT_YET_EFFECTIVE'],
    ['a suspended license', story(active, suspend()), 'LICENSE_SUSPENDED'],
    ['an inactive license', story(active, inactivate()), 'LICENSE_INACTIVE'],
    ['a license that is both', story(active, inactivate(), suspend()), 'LICENSE_SUSPENDED'],
    ['a revoked license', story(active, suspend(), revoke()), 'LICENSE_REVOKED'],
    ['an erased license', story(assigned, erase()), 'LICENSE_NOT_FOUND'],
  ] as const)('cannot be activated on %s', (_, history, code) => {
    given(history).when(activate(desktop)).thenRefused(code);
    given(history).when(activate(laptop)).thenRefused(code);
  });
  it('works through the grace after expiry and not a millisecond longer', () => {
    const graceful = story(issue({ customerId: ada, terms: { expiry: aYear, expiryGraceDays: 7 } }));
    given(graceful, '2027-11-28T11:59:59.999Z').when(activate()).thenEvents({ type: 'InstanceActivated' });
    given(graceful, '2027-11-28T12:00:00.000Z').when(activate()).thenRefused('LICENSE_EXPIRED', { expiresAt: nextYear });
  });
  it('starts at the very instant at which the license does', () => {
    const future = story(issue({ customerId: ada, terms: { effectiveAt: nextYear } }));
    given(future, addSeconds(nextYear, -0.001)).when(activate()).thenRefused('LICENSE_NOT_YET_EFFECTIVE', { effectiveAt: nextYear });
    given(future, nextYear).when(activate()).thenEvents({ type: 'InstanceActivated' });
  });
  it('must be of the product and deployment that the license is for, as far as it says', () => {
    const bound = story(issue({ customerId: ada, terms: { deploymentId: 'dep-1', deploymentMode: 'on-premises' } }));
    given(bound).when(activate(laptop, { productId: compiler, deploymentId: 'dep-2', deploymentMode: 'cloud' })).thenRefused('PRODUCT_MISMATCH');
    given(bound).when(activate(laptop, { deploymentId: 'dep-2', deploymentMode: 'cloud' })).thenRefused('DEPLOYMENT_MODE_MISMATCH', { deploymentMode: 'on-premises' });
    given(bound).when(activate(laptop, { deploymentId: 'dep-2', deploymentMode: 'on-premises' })).thenRefused('DEPLOYMENT_MISMATCH');
    given(bound).when(activate(laptop, { productId: editor, deploymentId: 'dep-1', deploymentMode: 'on-premises' })).thenEvents({ type: 'InstanceActivated', deploymentId: 'dep-1' });
    given(bound).when(activate(laptop)).thenEvents({ type: 'InstanceActivated' });
    given(assigned).when(activate(laptop, { deploymentId: 'dep-1', deploymentMode: 'cloud' })).thenEvents({ type: 'InstanceActivated' });
  });
  it('must show a fingerprint when the license is bound to it', () =>
    given(story(issue({ customerId: ada, terms: { binding: 'fingerprint' } }))).when(activate(server)).thenRefused('FINGERPRINT_REQUIRED'));
  it('hears what is wrong with the license before what is wrong with itself', () =>
    given(story(issue({ terms: { binding: 'fingerprint' } }))).when(activate(server, { productId: compiler })).thenRefused('LICENSE_NOT_ASSIGNED'));
});

describe('Moving an instance to new hardware', () => {
  const active = story(issue({ terms: { activationLimit: 2 } }), assign(), activate(laptop));
  it('keeps the seat, and the old machine loses it', () => {
    const moved = story(active, activate(desktop), rebind('fp-new', laptop));
    given(moved).when(activate({ activationId: idOf('act', 9), fingerprint: 'fp-new' })).thenNothing();
    given(moved).when(activate({ activationId: idOf('act', 9), fingerprint: 'fp-laptop' })).thenRefused('ACTIVATION_LIMIT_EXCEEDED');
    expect(issued(stateOf(moved)).activations.get(laptop.activationId)).toMatchObject({ fingerprint: 'fp-new', reboundAt: now });
  });
  it('needs no name when there is only one', () => given(active).when(rebind()).thenEvents({ type: 'InstanceRebound', activationId: laptop.activationId, fingerprint: 'fp-new' }));
  it('needs one when there are more', () => given(story(active, activate(desktop))).when(rebind()).thenRefused('INSTANCE_REQUIRED', { errors: [{ pointer: '/activationId' }] }));
  it('to the hardware it has is already so', () => given(active).when(rebind('fp-laptop')).thenNothing());
  it('to the hardware of another instance is refused', () => given(story(active, activate(desktop))).when(rebind('fp-desktop', laptop)).thenRefused('FINGERPRINT_MISMATCH', { activationId: desktop.activationId }));
  it('without a word of the new hardware is refused', () => given(active).when(rebind('')).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/fingerprint' }] }));
  it('is not possible for one that has ended or never was', () => {
    given(story(active, deactivate(laptop))).when(rebind('fp-new', laptop)).thenRefused('INSTANCE_NOT_FOUND');
    given(story(active, deactivate(laptop))).when(rebind()).thenRefused('INSTANCE_NOT_FOUND');
    given(active).when(rebind('fp-new', desktop)).thenRefused('INSTANCE_NOT_FOUND');
    given(story(active, revoke())).when(rebind('fp-new', laptop)).thenRefused('TERMINAL_STATE');
  });
});

describe('An appliance', () => {
  const box = (who = laptop) => activate(who, { appliance: true });
  const sold = story(issue({ terms: { activationLimit: 1 } }), assign());
  it('is bound to its fingerprint by its first run, and gets its seat again', () => {
    given(sold).when(box()).thenEvents({ type: 'InstanceActivated', fingerprint: 'fp-laptop' });
    given(story(sold, box())).when(activate({ ...machine(9), fingerprint: 'fp-laptop' }, { appliance: true })).thenNothing();
  });
  it('on other hardware hears that it is the hardware, once every seat is taken', () => {
    given(story(sold, box())).when(box(desktop)).thenRefused('FINGERPRINT_MISMATCH', { limit: 1, used: 1 });
    given(story(sold, edit({ activationLimit: 2 }), box())).when(box(desktop)).thenEvents({ type: 'InstanceActivated' });
    given(story(sold, box(), rebind('fp-desktop'))).when(box(desktop)).thenNothing();
    given(story(sold, box(), rebind('fp-desktop'))).when(box({ ...machine(9), fingerprint: 'fp-laptop' })).thenRefused('FINGERPRINT_MISMATCH');
  });
});

describe('A directive', () => {
  const active = story(issue(), assign(), activate());
  const directives = (state: LicenseState) => issued(state).directives;
  it('is kept with what it carries, in the order of the log', () => {
    const queued = story(active, direct('message', 1, { payload: { text: 'Service on Sunday' } }), direct('refresh', 2));
    expect(directives(stateOf(queued))).toEqual([
      { id: idOf('dir', 1), kind: 'message', payload: { text: 'Service on Sunday' }, issuedAt: now }, { id: idOf('dir', 2), kind: 'refresh', payload: null, issuedAt: now },
    ]);
  });
  it('is queued once', () => given(story(active, direct('refresh'))).when(direct('refresh')).thenNothing());
  it('locks until another one unlocks', () => {
    const locked = story(active, direct('lock', 1), direct('message', 2));
    expect([active, locked, story(locked, direct('unlock', 3))].map((history) => issued(stateOf(history)).locked)).toEqual([false, true, false]);
  });
  it('carries 10 KB at most', () => given(active).when(direct('message', 1, { payload: { text: 'x'.repeat(10_240) } })).thenRefused('METADATA_TOO_LARGE'));
  it('is no more to be had for a license that is revoked', () => given(story(active, revoke())).when(direct('refresh')).thenRefused('TERMINAL_STATE', { requested: 'directive' }));
  it('is dropped when twenty later ones are there', () => {
    const many = story(active, ...Array.from({ length: 21 }, (_, n) => direct(n === 0 ? 'lock' : 'refresh', n + 1)));
    expect(directives(stateOf(many)).map(({ id }) => id)).toEqual(Array.from({ length: 20 }, (_, n) => idOf('dir', n + 2)));
    expect(issued(stateOf(many)).locked).toBe(true);
  });
});

describe('Holds', () => {
  const active = story(issue({ terms: { expiry: aYear } }), assign(), activate());
  it('are manual unless a cause is said, and remember who, why and when', () => {
    const license = issued(stateOf(story(active, suspend({ reason: 'odd traffic' }))));
    expect(license.holds).toEqual([{ kind: 'suspended', cause: 'manual', reason: 'odd traffic', at: now, actor: { type: 'api-key', id: 'key_tester', role: 'super_admin' } }]);
  });
  it('are lifted one by one: restoring a subscription leaves the abuse', () => {
    const held = story(active, suspend({ cause: 'subscription' }), suspend({ cause: 'abuse' }));
    given(held).when(unsuspend({ cause: 'subscription' })).thenEvents({ type: 'LicenseUnsuspended', cause: 'subscription' }, (license) => expect(status(license)).toBe('suspended'));
    given(story(held, unsuspend({ cause: 'subscription' }))).when(unsuspend({ cause: 'abuse' })).thenEvents({ type: 'LicenseUnsuspended' }, (license) => expect(status(license)).toBe('active'));
  });
  it('end by themselves when that was said, from that very instant, and the sweep says so', () => {
    const paused = story(active, inactivate({ until: inDays(3) }));
    expect(issued(stateOf(paused)).holds).toMatchObject([{ kind: 'inactive', cause: 'manual', until: inDays(3) }]);
    expect([inDays(2), inDays(3)].map((instant) => status(stateOf(paused), instant))).toEqual(['inactive', 'active']);
    expect([inDays(2), inDays(3)].map((instant) => allowedActions(issued(stateOf(paused)), instant).includes('reactivate'))).toEqual([true, false]);
    expect(nextDue(stateOf(paused))).toBe(inDays(3));
    given(paused, inDays(5)).when(sweep(inDays(5))).thenEvents({ type: 'LicenseReactivated', cause: 'manual', reason: null, dueAt: inDays(3) }, (license) => expect(issued(license).holds).toEqual([]));
    given(story(active, suspend({ until: inDays(3) })), inDays(5)).when(sweep(inDays(5))).thenEvents({ type: 'LicenseUnsuspended', dueAt: inDays(3) });
    given(paused, inDays(5)).when(reactivate()).thenNothing();
  });
  it('can be given another end, or none, and never one in the past', () => {
    const paused = story(active, inactivate({ until: inDays(3) }));
    given(paused).when(inactivate({ until: inDays(3) })).thenNothing();
    given(paused).when(inactivate({ until: inDays(4) })).thenEvents({ type: 'LicenseInactivated', until: inDays(4) }, (license) => expect(issued(license).holds).toHaveLength(1));
    given(paused).when(inactivate()).thenEvents({ type: 'LicenseInactivated' }, (license) => expect(nextDue(license)).not.toBe(inDays(3)));
    given(active).when(inactivate({ until: now })).thenRefused('EXPIRY_IN_PAST', { until: now });
    given(active).when(inactivate({ until: 'tomorrow' })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/until' }] });
  });
  it('that have ended are said to have before there are others', () =>
    given(story(active, suspend({ until: inDays(3) })), inDays(5)).when(suspend({ until: inDays(9) })).thenEvents({ type: 'LicenseUnsuspended', dueAt: inDays(3) }, { type: 'LicenseSuspended', until: inDays(9) }));
  it('of the same kind and cause are one', () => given(story(active, suspend({ cause: 'abuse' }))).when(suspend({ cause: 'abuse', reason: 'again' })).thenNothing());
  it('that are not there are lifted already', () => {
    given(story(active, suspend({ cause: 'abuse' }))).when(unsuspend()).thenNothing();
    given(active).when(reactivate()).thenNothing();
  });
  it('of both kinds: suspended shows, inactive is underneath', () => {
    const both = story(active, inactivate(), suspend());
    expect(status(stateOf(both))).toBe('suspended');
    expect(status(stateOf(story(both, unsuspend())))).toBe('inactive');
    expect(status(stateOf(story(both, reactivate())))).toBe('suspended');
    expect(status(stateOf(story(both, reactivate(), unsuspend())))).toBe('active');
  });
  it('lead back to what the license was before, also when it was never activated', () =>
    expect(status(stateOf(story(issue(), assign(), inactivate(), reactivate())))).toBe('assigned'));
  it('leave the instances their seats', () => expect(issued(stateOf(story(active, inactivate()))).activationCount).toBe(1));
  it('do not stop the clock', () => expect(status(stateOf(story(active, suspend())), later)).toBe('expired'));
  it('can be lifted while the license is expired, and stay lifted after the renewal', () => {
    const held = story(active, suspend({ cause: 'subscription' }));
    const restored = story(held, at(later, unsuspend({ cause: 'subscription' })));
    expect(status(stateOf(restored), later)).toBe('expired');
    expect(status(stateOf(story(restored, at(later, renew('2029-01-01T00:00:00Z')))), later)).toBe('active');
    expect(status(stateOf(story(held, at(later, renew('2029-01-01T00:00:00Z')))), later)).toBe('suspended');
    given(story(active, inactivate()), later).when(reactivate()).thenEvents({ type: 'LicenseReactivated' });
  });
});

describe('Time', () => {
  const active = story(issue({ terms: { expiry: aYear, expiryGraceDays: 14 } }), assign(), activate());
  const graceOver = '2027-12-05T12:00:00.000Z';
  it('ends a license by itself, to the millisecond', () => {
    expect(status(stateOf(active), '2027-12-05T11:59:59.999Z')).toBe('active');
    expect(status(stateOf(active), graceOver)).toBe('expired');
  });
  it('is made explicit once, and not early', () => {
    const ended = { type: 'LicenseExpired', expiresAt: nextYear, graceEndedAt: graceOver } as const;
    const reminded = story(active, at(nextYear, sweep()));
    given(reminded, '2027-12-05T11:59:59.999Z').when(sweep()).thenNothing();
    given(reminded, graceOver).when(sweep()).thenEvents(ended);
    given(story(reminded, at(graceOver, sweep())), later).when(sweep()).thenNothing();
    // By another clock, which is behind, too.
    expect(status(stateOf(story(reminded, at(graceOver, sweep()))), addSeconds(graceOver, -1))).toBe('expired');
  });
  it('does nothing to a lifetime license', () => given(story(issue())).at('2099-01-01T00:00:00.000Z').when(sweep()).thenNothing());
  it('counts from the first activation where the terms say so', () => {
    const pending = story(issue({ customerId: ada, terms: { expiry: { value: 1, unit: 'months' }, expiryBasis: 'firstActivation' } }));
    expect(status(stateOf(pending), later)).toBe('assigned');
    given(pending, '2027-01-31T00:00:00.000Z').when(activate())
      .thenEvents({ type: 'InstanceActivated' }, { type: 'ExpiryChanged', expiresAt: '2027-02-28T00:00:00.000Z', by: 'firstActivation' });
    const started = story(pending, at('2027-01-31T00:00:00.000Z', activate()));
    given(started, '2027-02-01T00:00:00.000Z').when(activate(desktop)).thenEvents({ type: 'InstanceActivated' });
  });
  it('does not start a term over that an edit has set', () => {
    const dated = story(issue({ customerId: ada, terms: { expiry: aYear, expiryBasis: 'firstActivation' } }), edit({ expiresAt: later }));
    given(dated).when(activate()).thenEvents({ type: 'InstanceActivated' });
  });
  it('never begins where an edit has said "never", before its time or after a date', () => {
    const waiting = story(issue({ customerId: ada, terms: { expiry: aYear, expiryBasis: 'firstActivation' } }));
    const never = { type: 'ExpiryChanged', expiresAt: null, by: 'edit' } as const;
    given(waiting).when(edit({ expiresAt: null })).thenEvents(never);
    given(story(waiting, edit({ expiresAt: null }))).when(edit({ expiresAt: null })).thenNothing();
    for (const history of [story(waiting, edit({ expiresAt: null })), story(waiting, edit({ expiresAt: nextYear }), edit({ expiresAt: null }))]) {
      given(history).when(activate()).thenEvents({ type: 'InstanceActivated' });
    }
  });
});

describe('A trial', () => {
  const trial = story(issue({ customerId: ada, terms: { trial: { days: 30 } } }));
  const started = story(trial, activate());
  it('starts with the first activation', () => given(trial).when(activate()).thenEvents({ type: 'InstanceActivated' }, { type: 'ExpiryChanged', expiresAt: '2026-12-21T12:00:00.000Z' }));
  it('does not outlast a date that comes earlier', () =>
    given(story(issue({ customerId: ada, terms: { trial: { days: 30 }, expiresAt: '2026-12-01T00:00:00Z' } }))).when(activate()).thenEvents({ type: 'InstanceActivated' }));
  it('is 90 days at most, extended or renewed', () => {
    given().when(issue({ terms: { trial: { days: 91 } } })).thenRefused('TRIAL_TOO_LONG', { limit: 90 });
    given(started).when(edit({ expiresAt: '2027-02-19T12:00:00.000Z' })).thenEvents({ type: 'ExpiryChanged' });
    given(started).when(edit({ expiresAt: '2027-02-19T12:00:00.001Z' })).thenRefused('TRIAL_TOO_LONG');
    given(started).when(renew('2027-02-19T12:00:00.001Z')).thenRefused('TRIAL_TOO_LONG');
    given(started).when(edit({ expiresAt: null })).thenRefused('TRIAL_TOO_LONG');
  });
  it('is counted from the first activation, whoever comes later', () => {
    const extended = story(started, edit({ expiresAt: '2027-02-19T12:00:00Z' }));
    given(extended, '2027-01-01T00:00:00.000Z').when(activate(desktop)).thenEvents({ type: 'InstanceActivated' });
    given(story(extended, at('2027-01-01T00:00:00.000Z', activate(desktop)))).when(edit({ expiresAt: '2027-02-20T12:00:00Z' })).thenRefused('TRIAL_TOO_LONG');
  });
});

describe('A renewal', () => {
  const active = story(issue({ terms: { expiry: aYear } }), assign(), activate());
  const said = story(active, at(nextYear, sweep()));
  it('moves the expiry later', () => given(active).when(renew('2028-11-21T12:00:00Z')).thenEvents({ type: 'LicenseRenewed', expiresAt: '2028-11-21T12:00:00.000Z' }));
  it('brings an expired license back to what it was, with its seats', () => {
    for (const expired of [active, said]) {
      given(expired, later).when(renew('2029-01-01T00:00:00Z')).thenEvents({ type: 'LicenseRenewed' }, (license) => {
        expect(status(license, later)).toBe('active');
        expect(issued(license).activationCount).toBe(1);
      });
    }
  });
  it('that does not end later is refused', () => {
    given(active).when(renew(nextYear)).thenRefused('EXPIRY_NOT_LATER', { expiresAt: nextYear });
    given(active).when(renew('2027-01-01T00:00:00Z')).thenRefused('EXPIRY_NOT_LATER');
  });
  it('that ends later, but not in the future all the same, is refused', () => {
    for (const end of ['2028-01-01T00:00:00Z', later]) given(active, later).when(renew(end)).thenRefused('EXPIRY_IN_PAST');
    given(active).when(renew('tomorrow')).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/expiresAt' }] });
  });
  it('given twice is one', () => given(story(active, renew(later))).when(renew('2028-01-31T01:00:00+01:00')).thenNothing());
  it('given again after an edit has taken it back is another one', () => given(story(active, renew(later), edit({ expiresAt: nextYear }))).when(renew(later)).thenEvents({ type: 'LicenseRenewed', expiresAt: later }));
  it('given again after that one has run out is refused', () => given(story(active, renew(later)), later).when(renew(later)).thenRefused('EXPIRY_NOT_LATER'));
  it('of a lifetime license makes no sense', () => {
    given(story(issue())).when(renew(later)).thenRefused('INVALID_TRANSITION', { from: 'available', requested: 'renew', allowed: ['assign', 'edit', 'regenerateKey', 'revoke', 'erase'] });
  });
});

describe('Feature flags', () => {
  const large = { blob: 'x'.repeat(11_000) };
  it('are as small as metadata', () => {
    given().when(issue({ terms: { featureFlags: large } })).thenRefused('METADATA_TOO_LARGE');
    given(story(issue())).when(edit({ featureFlags: large })).thenRefused('METADATA_TOO_LARGE');
  });
});

describe('A new key', () => {
  const active = story(issue(), assign(), activate(laptop), activate(desktop));
  it('lets nobody in with a key that it had before', () => {
    given(active).when({ ...activate(server), keyHash: 'of the old key' }).thenRefused('LICENSE_NOT_FOUND', { retired: true });
    given(active).when({ ...activate(machine(7)), keyHash: licenseKey().hash }).thenEvents({ type: 'InstanceActivated' });
  });

  it('remembers how its key was made, for the one that follows it', () => {
    const uuid = { kind: 'uuid' } as const;
    expect(stateOf(story(issue({ key: { ...licenseKey(), format: uuid } })))).toMatchObject({ keyFormat: uuid });
    expect(stateOf(story(issue()))).toMatchObject({ keyFormat: DEFAULT_KEY_FORMAT });
  });

  it('replaces the old one and ends every activation', () => given(active).when(regenerateKey())
    .thenEvents({ type: 'KeyRegenerated', keyHash: licenseKey(2).hash, keyPrefix: licenseKey(2).prefix, keyVersion: 2, reason: 'it leaked', activationsEnded: 2 }, (license) => {
      expect(issued(license)).toMatchObject({ key: licenseKey(2).value, keyHash: licenseKey(2).hash, keyVersion: 2, activationCount: 0 });
      expect([...issued(license).activations.values()].map(({ endedBy }) => endedBy)).toEqual(['regenerated', 'regenerated']);
      expect(status(license)).toBe('active');
    }));
  it('is the key already, when it comes twice', () => given(story(active, regenerateKey())).when(regenerateKey()).thenNothing());
  it('lets the same machines in again, however they are known', () => {
    for (const one of [laptop, server]) given(story(active, activate(server), regenerateKey())).when(activate(one, { activationId: idOf('act', 6) })).thenEvents({ type: 'InstanceActivated' });
  });
});

describe('A revoked license', () => {
  const active = story(issue({ terms: { expiry: aYear } }), assign(), activate(laptop), activate(desktop), suspend({ cause: 'abuse' }));
  const revoked = story(active, revoke());
  it('has lost every instance', () => {
    const license = issued(stateOf(revoked));
    expect(license.activationCount).toBe(0);
    expect([...license.activations.values()].some(isLive)).toBe(false);
    given(revoked).when(deactivate(laptop)).thenNothing();
  });
  it('leaves the end of those that had gone before as it was', () => {
    const { activations } = issued(stateOf(story(active, deactivate(laptop), at(later, revoke()))));
    expect([...activations.values()]).toMatchObject([{ endedAt: now, endedBy: 'client' }, { endedAt: later, endedBy: 'revoked' }]);
  });
  it('stays revoked', () => {
    for (const command of [assign(), edit({}), suspend({ cause: 'abuse' }), unsuspend({ cause: 'abuse' }), inactivate(), reactivate(), renew(later), regenerateKey()]) {
      given(revoked).when(command).thenRefused('TERMINAL_STATE', { from: 'revoked', allowed: ['erase'] });
    }
    expect(status(stateOf(revoked), later)).toBe('revoked');
  });
  it('is not bothered by the clock', () => given(revoked, later).when(sweep()).thenNothing());
  it('says why it was', () => given(active).when({ ...revoke('stolen card'), cause: 'payment' }).thenEvents({ type: 'LicenseRevoked', reason: 'stolen card', cause: 'payment', activationsEnded: 2 }));
  it('is revoked once', () => given(revoked).when(revoke('again')).thenNothing());
});

describe('Erasing', () => {
  const used = story(issue(), assign(), activate(), deactivate());
  it('leaves nothing but a trace', () => given(story(issue(), assign())).when(erase()).thenEvents({ type: 'LicenseErased', keyPrefix: licenseKey().prefix, everActivated: false }, (license) => expect(license).toEqual({ existence: 'erased', id: idOf('lic'), keyPrefix: licenseKey().prefix, erasedAt: now })));
  it('needs force once the license was ever activated', () => given(used).when(erase()).thenRefused('LICENSE_EVER_ACTIVATED'));
  it('with force needs the permission', () => given(used).when(erase({ force: true })).thenRefused('PERMISSION_DENIED', { permission: 'license.erase' }));
  it('with both is done', () => given(used).when(erase({ force: true, mayEraseActivated: true })).thenEvents({ type: 'LicenseErased', everActivated: true }));
  it('makes it unknown to everybody, for ever', () => {
    for (const command of [issue(), assign(), erase(), revoke(), sweep()]) given(story(issue(), erase())).when(command).thenRefused('LICENSE_NOT_FOUND');
  });
});

describe('Heartbeats that stay out', () => {
  const active = story(issue(), assign(), activate(laptop), activate(desktop));
  it('make an instance late, once, and then lost, once', () => {
    given(active).when(missHeartbeat(laptop, now)).thenEvents({ type: 'HeartbeatMissed', activationId: laptop.activationId, dueAt: now });
    given(story(active, missHeartbeat())).when(missHeartbeat()).thenNothing();
    given(story(active, missHeartbeat())).when(loseHeartbeat()).thenEvents({ type: 'HeartbeatLost', activationId: laptop.activationId });
    given(active).when(loseHeartbeat(laptop, now)).thenEvents({ type: 'HeartbeatLost', activationId: laptop.activationId, dueAt: now });
    for (const command of [loseHeartbeat(), missHeartbeat()]) given(story(active, loseHeartbeat())).when(command).thenNothing();
  });
  it('come back, once, and may stay out again', () => {
    for (const silence of [[missHeartbeat()], [loseHeartbeat()], [missHeartbeat(), loseHeartbeat()]]) {
      given(story(active, ...silence)).when(recoverHeartbeat()).thenEvents({ type: 'HeartbeatRecovered', activationId: laptop.activationId });
      given(story(active, ...silence, recoverHeartbeat())).when(missHeartbeat()).thenEvents({ type: 'HeartbeatMissed' });
      given(story(active, ...silence, recoverHeartbeat())).when(loseHeartbeat()).thenEvents({ type: 'HeartbeatLost' });
    }
    given(active).when(recoverHeartbeat()).thenNothing();
  });
  it('of the box that is there after a rebind are its own', () => {
    const silent = story(active, missHeartbeat(), loseHeartbeat());
    given(silent).when(rebind('fp-new', laptop)).thenEvents({ type: 'HeartbeatRecovered', activationId: laptop.activationId }, { type: 'InstanceRebound' });
    const moved = story(silent, rebind('fp-new', laptop));
    given(moved).when(recoverHeartbeat()).thenNothing();
    given(moved).when(missHeartbeat()).thenEvents({ type: 'HeartbeatMissed' });
    given(moved).when(loseHeartbeat()).thenEvents({ type: 'HeartbeatLost' });
    for (const command of [missHeartbeat(laptop, addSeconds(now, -1)), loseHeartbeat(laptop, addSeconds(now, -1))]) given(moved).when(command).thenNothing();
  });
  it('are nobody’s business once the instance has ended', () => {
    for (const command of [missHeartbeat(), loseHeartbeat()]) given(story(active, deactivate(laptop))).when(command).thenNothing();
    given(active).when(loseHeartbeat(server)).thenRefused('INSTANCE_NOT_FOUND');
  });
  it('that is lost gives a floating seat back, once', () => {
    const floating = story(issue({ terms: { seats: 'floating', activationLimit: 1 } }), assign(), activate(laptop));
    given(floating).when(loseHeartbeat(laptop, now)).thenEvents({ type: 'InstanceDeactivated', activationId: laptop.activationId, by: 'lapse', dueAt: now }, (license) => expect(issued(license).activationCount).toBe(0));
    given(floating).when(missHeartbeat()).thenNothing();
    const lapsed = story(floating, loseHeartbeat());
    given(lapsed).when(loseHeartbeat()).thenNothing();
    given(lapsed).when(recoverHeartbeat()).thenNothing();
    given(lapsed).when(activate(desktop)).thenEvents({ type: 'InstanceActivated' });
  });
  it('is waited for from the activation on, where the terms say so', () => {
    const waiting = (terms: object) => given(story(issue({ customerId: ada, terms: { validationMode: 'heartbeat', heartbeatIntervalSeconds: 60, ...terms } }))).when(activate());
    waiting({ offlineGraceDays: 2 }).thenEvents({ type: 'InstanceActivated', leaseEndsAt: '2026-11-23T12:00:00.000Z' });
    waiting({ seats: 'floating' }).thenEvents({ type: 'InstanceActivated', leaseEndsAt: '2026-11-21T12:03:00.000Z' });
    for (const validationMode of ['online', 'offline']) waiting({ seats: 'floating', validationMode }).thenEvents({ type: 'InstanceActivated', leaseEndsAt: '2026-11-21T12:03:00.000Z' });
    expect(License.decide(stateOf(story(issue({ customerId: ada }))), activate(), now)[0]).not.toHaveProperty('leaseEndsAt');
  });
});

describe('A quota', () => {
  const meter = 'max_dp_cores';
  const licensed = story(issue({ terms: { quotas: [{ meter, limit: 8 }], overageGraceDays: 7 } }), assign(), activate());
  const exceeded = story(licensed, exceedQuota(10, 8));
  const graceOver = '2026-11-28T12:00:00.000Z';
  const stateAfter = (history: typeof licensed) => meterState(issued(stateOf(history)), meter).state;

  it('is exceeded by a peak above it, with a grace of seven days', () =>
    given(licensed).when({ ...exceedQuota(10, 8), readings: { day: '2026-11-20' } }).thenEvents({ type: 'QuotaExceeded', meter, peak: 10, limit: 8, graceEndsAt: graceOver, readings: { day: '2026-11-20' } }));
  it('is not exceeded by a peak that just fits, whatever limit the metering had in mind', () => given(licensed).when(exceedQuota(8, 4)).thenNothing());
  it('is exceeded once: the same peak is no news, another one does not start the grace again', () => {
    given(exceeded, '2026-11-22T00:00:00.000Z').when(exceedQuota(10, 8)).thenNothing();
    given(exceeded, '2026-11-22T00:00:00.000Z').when(exceedQuota(12, 8)).thenEvents({ type: 'QuotaExceeded', peak: 12, graceEndsAt: graceOver });
  });
  it('restricts when the grace is over, to the millisecond, and says so once', () => {
    expect(stateAfter(exceeded)).toBe('exceeded');
    expect(stateAfter(story(exceeded, at(graceOver, sweep())))).toBe('restricted');
    given(exceeded, '2026-11-28T11:59:59.999Z').when(sweep()).thenNothing();
    given(exceeded, graceOver).when(sweep()).thenEvents({ type: 'LicenseRestricted', meter, dueAt: graceOver });
    given(story(exceeded, at(graceOver, sweep())), later).when(sweep()).thenNothing();
    given(story(exceeded, at(graceOver, sweep()), at(later, exceedQuota(12, 8))), later).when(sweep()).thenNothing();
  });
  it('is back to normal after a lower peak', () => {
    given(exceeded).when(restoreQuota(7)).thenEvents({ type: 'QuotaRestored', meter, peak: 7, limit: 8 }, (license) => expect(meterState(issued(license), meter).state).toBe('normal'));
    given(exceeded).when(restoreQuota(9)).thenNothing();
    given(licensed).when(restoreQuota(7)).thenNothing();
    given(story(exceeded, restoreQuota(7))).when(restoreQuota(7)).thenNothing();
    expect(meterState(issued(stateOf(story(exceeded, restoreQuota(7), at(later, exceedQuota(9, 8))))), meter)).toEqual({ state: 'exceeded', lastPeak: 9, graceEndsAt: addDays(later, 7) });
  });
  it('is back to normal at once when it is raised to the peak, or goes away', () => {
    for (const history of [exceeded, story(exceeded, at(graceOver, sweep()))]) {
      given(history, graceOver).when(edit({ quotas: [{ meter, limit: 10 }] })).thenEvents({ type: 'QuotaChanged' }, { type: 'QuotaRestored', meter, limit: 10 });
      given(history, graceOver).when(edit({ quotas: [] })).thenEvents({ type: 'QuotaChanged' }, { type: 'QuotaRestored', meter, limit: null });
      given(history, graceOver).when(edit({ quotas: [{ meter, limit: 9 }] })).thenEvents({ type: 'QuotaChanged' });
    }
    given(story(exceeded, exceedQuota(12, 8))).when(edit({ quotas: [{ meter, limit: 10 }] })).thenEvents({ type: 'QuotaChanged' });
  });
  it('is exceeded again by the same peak once it has been raised to it and lowered again', () => {
    const again = story(exceeded, edit({ quotas: [{ meter, limit: 10 }] }), edit({ quotas: [{ meter, limit: 8 }] }));
    given(again, later).when(exceedQuota(10, 8)).thenEvents({ type: 'QuotaExceeded', peak: 10, graceEndsAt: addDays(later, 7) });
  });
  it('keeps what its meter is when only its limit is said', () => {
    const counted = story(issue({ terms: { quotas: [{ meter, limit: 8, per: 'month' }] } }), assign());
    given(counted).when(edit({ quotas: [{ meter, limit: 8 }] })).thenNothing();
    given(counted).when(edit({ quotas: [{ meter, limit: 9 }, { meter: 'users', limit: 1 }] })).thenEvents({ type: 'QuotaChanged', quotas: [{ meter, limit: 9, per: 'month' }, { meter: 'users', limit: 1 }] });
    given(counted).when(edit({ quotas: [{ meter, limit: 9, per: 'day' }] })).thenEvents({ type: 'QuotaChanged', quotas: [{ meter, limit: 9, per: 'day' }] });
  });
  it('is what the product says of its meter where neither it nor the license does', () => {
    const counted = story(issue({ terms: { quotas: [{ meter, limit: 8, per: 'month' }] } }), assign());
    given(counted).when(edit({ quotas: [{ meter, limit: 9 }, { meter: 'calls', limit: 1 }, { meter: 'users', limit: 1 }], meters: [{ meter, per: 'day' }, { meter: 'calls', per: 'day' }, { meter: 'users' }] }))
      .thenEvents({ type: 'QuotaChanged', quotas: [{ meter, limit: 9, per: 'month' }, { meter: 'calls', limit: 1, per: 'day' }, { meter: 'users', limit: 1 }] });
    // A gauge of the license stays one, whatever the product has made of it since.
    given(licensed).when(edit({ quotas: [{ meter, limit: 9 }], meters: [{ meter, per: 'month' }] })).thenEvents({ type: 'QuotaChanged', quotas: [{ meter, limit: 9 }] });
  });
  it('that a license does not have cannot be exceeded', () => given(licensed).when(exceedQuota(10, 8, 'users')).thenNothing());
});

describe('What is shown', () => {
  it('of a license is every term, what is left of its features, and where its quotas stand', () => {
    const terms = { activationLimit: 3, expiry: aYear, expiryGraceDays: 14, features: { export: true, users: 5, calls: { limit: 9, per: 'day' } }, quotas: [{ meter: 'cores', limit: 8 }] } as const;
    const view = licenseView(issued(stateOf(story(issue({ terms, customerId: ada, metadata: { crm: 7 } }), activate(), exceedQuota(9, 8, 'cores')))), now);
    expect(view).toMatchObject({
      id: idOf('lic'), key: licenseKey().value, keyPrefix: licenseKey().prefix, status: 'active', productId: editor, planId: null, customerId: ada, orderId: null,
      environment: 'production', activationLimit: 3, activationCount: 1, expiresAt: nextYear, effectiveAt: null, graceEndsAt: '2027-12-05T12:00:00.000Z', holds: [], locked: false,
      features: { export: true, users: 5, calls: { limit: 9, per: 'day' } }, metadata: { crm: 7 }, createdAt: now, allowedActions: expect.arrayContaining(['renew', 'revoke']),
      quotas: [{ meter: 'cores', limit: 8, state: 'exceeded', lastPeak: 9, graceEndsAt: '2026-11-28T12:00:00.000Z' }],
    });
  });
  it('of a license without a grace after its expiry is none', () => expect(licenseView(issued(stateOf(story(issue({ terms: { expiry: aYear } })))), now)).toMatchObject({ expiresAt: nextYear, graceEndsAt: null }));
  it('of a license with a grace of a day is its end', () => expect(licenseView(issued(stateOf(story(issue({ terms: { expiry: aYear, expiryGraceDays: 1 } })))), now).graceEndsAt).toBe(addDays(nextYear, 1)));
  it('to its own software is nothing of the vendor’s side', () => {
    const view = clientLicenseView(issued(stateOf(story(issue({ customerId: ada, terms: { quotas: [{ meter: 'cores', limit: 8 }] } }), suspend({ reason: 'fraud' })))), now);
    expect(view).toMatchObject({ id: idOf('lic'), status: 'suspended', productId: editor, quotas: [{ meter: 'cores', limit: 8, state: 'normal' }] });
    for (const name of ['key', 'holds', 'customerId', 'orderId', 'allowedActions', 'purchasedAt']) expect(view).not.toHaveProperty(name);
  });
  it('of an instance is all but when it was seen', () => {
    const known = { installationId: 'in-1', hardwareId: 'hw-1', deploymentId: 'dep-1', deploymentMode: 'cloud', metadata: { os: 'linux' } };
    const { activations } = issued(stateOf(story(issue({ customerId: ada }), activate(laptop, known), loseHeartbeat(laptop))));
    expect([...activations.values()].map(instanceView)).toEqual([{ id: laptop.activationId, name: 'laptop', fingerprint: 'fp-laptop', ...known, createdAt: now, reboundAt: null, late: true, endedAt: null, endedBy: null }]);
  });
  it('to a machine without a network is what the license allows, and not how that came about', () => {
    const license = issued(stateOf(story(issue({ planId: idOf('pln'), terms: { expiry: aYear } }))));
    const { expiry: _, expiryBasis: __, ...allowed } = license.terms;
    expect(licensedTerms(license)).toEqual({ id: idOf('lic'), productId: editor, planId: idOf('pln'), ...allowed });
  });
});

describe('A license file', () => {
  const active = story(issue({ terms: { expiry: aYear } }), assign(), activate());
  const refused = (history: ReturnType<typeof story>, instant = now) => {
    try {
      mustBeGoodForFile(issued(stateOf(history)), instant);
      return undefined;
    } catch (refusal) {
      return refusal;
    }
  };
  it.each([['available', story(issue())], ['assigned', story(issue(), assign())], ['active', active]])('is to be had of a license that is %s', (_, history) => expect(refused(history)).toBeUndefined());
  it.each([
    ['TERMINAL_STATE', 'revoked', story(active, revoke()), now], ['INVALID_TRANSITION', 'expired', active, later], ['INVALID_TRANSITION', 'suspended', story(active, suspend()), now],
    ['INVALID_TRANSITION', 'inactive', story(active, inactivate()), now], ['INVALID_TRANSITION', 'active', story(active, direct('lock')), now],
  ])('is refused with %s of one that is %s, or locked', (code, from, history, instant) => {
    const allowed = allowedActions(issued(stateOf(history)), instant);
    expect(refused(history, instant)).toMatchObject({ code, members: { from, requested: 'issueFile', allowed } });
  });
});

it('offers what the state allows, in one order', () => {
  const offered = (history: ReturnType<typeof story>, instant = now) => allowedActions(issued(stateOf(history)), instant).join(' ');
  const active = story(issue({ terms: { expiry: aYear } }), assign(), activate());
  expect(offered(story(issue({ terms: { expiry: aYear } })))).toBe('assign edit renew regenerateKey revoke erase');
  expect(offered(story(issue(), assign()))).toBe('assign edit inactivate suspend regenerateKey revoke erase');
  expect(offered(active)).toBe('assign edit inactivate suspend renew regenerateKey revoke erase');
  expect(offered(story(active, inactivate()))).toBe('assign edit inactivate reactivate suspend renew regenerateKey revoke erase');
  expect(offered(story(active, suspend()))).toBe('assign edit inactivate suspend unsuspend renew regenerateKey revoke erase');
  expect(offered(active, later)).toBe('edit renew regenerateKey revoke erase');
  expect(offered(story(active, suspend()), later)).toBe('edit unsuspend renew regenerateKey revoke erase');
  expect(offered(story(active, revoke()))).toBe('erase');
});
