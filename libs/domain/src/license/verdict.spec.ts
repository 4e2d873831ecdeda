import { describe, expect, it } from '@jest/globals';
import {
  activate, ada, assign, at, compiler, deactivate, desktop, direct, edit, editor, erase, exceedQuota, idOf, inactivate, issue, laptop, rebind, regenerateKey,
  revoke, scenarios, server, suspend, sweep, type Story,
} from '@keyledger/testing';
import type { LicenseEvent } from './events.ts';
import { License } from './license.ts';
import { issued } from './state.ts';
import type { TermsInput } from './terms.ts';
import { changesAt, verdictOf, verdictRules, type Question, type VerdictCode } from './verdict.ts';

const now = '2026-11-21T12:00:00.000Z';
const expiry = '2027-11-21T12:00:00.000Z';
const aYear = { value: 1, unit: 'years' } as const;
const { story, stateOf } = scenarios(License, now);
const licensed = (terms: TermsInput = {}) => story(issue({ terms }), assign(), activate(laptop));
const active = licensed();
const ask = (history: Story<LicenseEvent>, question: Question = {}, instant = now, leaseEndsAt?: string) => verdictOf(stateOf(history), leaseEndsAt, question, instant);
const me = { instanceId: laptop.activationId, fingerprint: laptop.fingerprint };

describe('A good license', () => {
  const good = { valid: true, code: 'VALID', reasons: [], enforcement: 'FULL', graceEndsAt: null };
  it('is valid, with no reasons', () => expect(ask(active)).toEqual(good));
  it('is good before anybody has activated it', () => expect(ask(story(issue({ customerId: ada })))).toEqual(good));
  it('is good for an instance with a seat', () => expect(ask(active, { ...me, productId: editor })).toEqual(good));
  it('is good for an instance whose lease runs', () => expect(ask(active, me, now, '2026-11-21T12:00:00.001Z')).toEqual(good));
});

describe('A question that is answered with', () => {
  const bound = licensed({ binding: 'fingerprint', deploymentId: 'dep-1', deploymentMode: 'cloud', features: { export: true, seats: 5, calls: { limit: 9, per: 'day' } } });
  const overQuota = story(licensed({ quotas: [{ meter: 'cores', limit: 8 }] }), exceedQuota(9, 8, 'cores'));
  const graceful = licensed({ expiry: aYear, expiryGraceDays: 14 });
  const cases: [code: VerdictCode, Story<LicenseEvent>, Question, enforcement: string, instant?: string, leaseEndsAt?: string][] = [
    ['NOT_FOUND', story(), {}, 'LOCKED'],
    ['NOT_FOUND', story(issue(), erase()), {}, 'LOCKED'],
    ['REVOKED', story(active, revoke()), {}, 'LOCKED'],
    ['EXPIRED', licensed({ expiry: aYear }), {}, 'READ_ONLY', expiry],
    ['EXPIRED', licensed({ expiry: aYear, expiredEnforcement: 'LOCKED' }), {}, 'LOCKED', expiry],
    ['EXPIRED', story(licensed({ expiry: aYear }), at(expiry, sweep())), {}, 'READ_ONLY', expiry],
    ['EXPIRED', graceful, {}, 'READ_ONLY', '2027-12-05T12:00:00.000Z'],
    ['SUSPENDED', story(active, suspend()), {}, 'LOCKED'],
    ['INACTIVE', story(active, inactivate()), {}, 'LOCKED'],
    ['INACTIVE', story(active, direct('lock')), me, 'LOCKED'],
    ['INACTIVE', story(active, direct('lock', 1), direct('message', 2)), {}, 'LOCKED'],
    ['NOT_ASSIGNED', story(issue()), {}, 'LOCKED'],
    ['NOT_YET_EFFECTIVE', story(issue({ customerId: ada, terms: { effectiveAt: expiry } })), {}, 'LOCKED', '2027-11-21T11:59:59.999Z'],
    ['PRODUCT_MISMATCH', active, { productId: compiler }, 'LOCKED'],
    ['DEPLOYMENT_MODE_MISMATCH', bound, { ...me, deploymentMode: 'on-premises' }, 'LOCKED'],
    ['DEPLOYMENT_MISMATCH', bound, { ...me, deploymentId: 'dep-2' }, 'LOCKED'],
    ['INSTANCE_NOT_FOUND', active, { instanceId: desktop.activationId }, 'LOCKED'],
    ['INSTANCE_NOT_FOUND', active, { instanceId: 'anything' }, 'LOCKED'],
    ['INSTANCE_NOT_FOUND', story(active, deactivate(laptop)), me, 'LOCKED'],
    ['INSTANCE_NOT_FOUND', story(active, regenerateKey()), me, 'LOCKED'],
    ['FINGERPRINT_REQUIRED', bound, { instanceId: laptop.activationId }, 'LOCKED'],
    ['FINGERPRINT_MISMATCH', bound, { fingerprint: 'fp-stranger' }, 'LOCKED'],
    ['FINGERPRINT_MISMATCH', active, { ...me, fingerprint: 'fp-stranger' }, 'LOCKED'],
    ['FINGERPRINT_MISMATCH', story(active, rebind()), me, 'LOCKED'],
    ['HEARTBEAT_OVERDUE', active, me, 'LOCKED', now, now],
    ['HEARTBEAT_OVERDUE', active, { fingerprint: laptop.fingerprint }, 'LOCKED', now, now],
    ['FEATURE_MISSING', bound, { ...me, features: ['export', 'import'] }, 'FULL'],
    ['FEATURE_MISSING', active, { features: ['constructor'] }, 'FULL'],
    ['RESTRICTED', story(overQuota, at('2026-11-28T12:00:00.000Z', sweep())), {}, 'READ_ONLY', expiry],
    ['QUOTA_EXCEEDED', overQuota, {}, 'WARN', '2026-11-28T11:59:59.999Z'],
    ['QUOTA_EXCEEDED', overQuota, {}, 'WARN', '2026-11-28T12:00:00.000Z'],
    ['IN_EXPIRY_GRACE', graceful, {}, 'WARN', expiry],
    ['IN_EXPIRY_GRACE', graceful, {}, 'WARN', '2027-12-05T11:59:59.999Z'],
    ['VALID', bound, { ...me, productId: editor, deploymentId: 'dep-1', deploymentMode: 'cloud', features: ['export', 'seats', 'calls'] }, 'FULL'],
    ['VALID', story(issue({ customerId: ada, terms: { effectiveAt: expiry } })), {}, 'FULL', expiry],
    ['VALID', story(active, activate(server)), { instanceId: server.activationId, fingerprint: 'fp-first-seen' }, 'FULL'],
    ['VALID', active, { fingerprint: 'fp-stranger' }, 'FULL'],
    ['VALID', active, { deploymentId: 'dep-1', deploymentMode: 'cloud' }, 'FULL'],
    ['VALID', bound, { fingerprint: laptop.fingerprint }, 'FULL'],
    ['VALID', story(active, direct('lock', 1), direct('unlock', 2)), me, 'FULL'],
  ];
  it.each(cases.map((asked) => [asked[0], asked] as const))('%s', (_, [code, history, question, enforcement, instant, lease]) => {
    const verdict = ask(history, question, instant, lease);
    const valid = ['RESTRICTED', 'QUOTA_EXCEEDED', 'IN_EXPIRY_GRACE', 'VALID'].includes(code);
    expect(verdict).toMatchObject({ code, enforcement, reasons: code === 'VALID' ? [] : expect.arrayContaining([code]), valid });
    expect(verdict.reasons[0] ?? 'VALID').toBe(code);
  });
  it('each code, above', () => expect(new Set(cases.map(([code]) => code))).toEqual(new Set(Object.keys(verdictRules))));
});

describe('A license with everything wrong', () => {
  const terms: TermsInput = { effectiveAt: '2026-11-22T00:00:00Z', binding: 'fingerprint', deploymentId: 'dep-1', deploymentMode: 'cloud', expiry: { value: 1, unit: 'days' } };
  it('says it all, in order of precedence', () => {
    const wrong = story(issue({ terms: { ...terms, effectiveAt: expiry } }), revoke());
    expect(ask(wrong, { productId: compiler, deploymentId: 'x', deploymentMode: 'y', instanceId: idOf('act', 9), features: ['z'] }, '2026-11-23T00:00:00.000Z')).toEqual({
      valid: false, code: 'REVOKED', enforcement: 'LOCKED', graceEndsAt: null,
      reasons: ['REVOKED', 'EXPIRED', 'NOT_ASSIGNED', 'NOT_YET_EFFECTIVE', 'PRODUCT_MISMATCH', 'DEPLOYMENT_MODE_MISMATCH', 'DEPLOYMENT_MISMATCH', 'INSTANCE_NOT_FOUND', 'FINGERPRINT_REQUIRED', 'FEATURE_MISSING'],
    });
  });
  it('that is held twice and expired says so', () =>
    expect(ask(story(licensed({ expiry: aYear }), inactivate(), suspend()), {}, expiry)).toMatchObject({ code: 'EXPIRED', reasons: ['EXPIRED', 'SUSPENDED', 'INACTIVE'], enforcement: 'LOCKED' }));
  it('says nothing of the hardware of an instance that it does not know', () =>
    expect(ask(licensed({ binding: 'fingerprint' }), { instanceId: desktop.activationId, fingerprint: 'fp-desktop' }).reasons).toEqual(['INSTANCE_NOT_FOUND']));
  it('keeps the precedence that is written down', () => {
    const rules = Object.keys(verdictRules);
    expect(rules).toEqual([
      'NOT_FOUND', 'REVOKED', 'EXPIRED', 'SUSPENDED', 'INACTIVE', 'NOT_ASSIGNED', 'NOT_YET_EFFECTIVE', 'PRODUCT_MISMATCH', 'DEPLOYMENT_MODE_MISMATCH', 'DEPLOYMENT_MISMATCH',
      'INSTANCE_NOT_FOUND', 'FINGERPRINT_REQUIRED', 'FINGERPRINT_MISMATCH', 'HEARTBEAT_OVERDUE', 'FEATURE_MISSING', 'RESTRICTED', 'QUOTA_EXCEEDED', 'IN_EXPIRY_GRACE', 'VALID',
    ]);
  });
});

describe('A verdict may change without an event', () => {
  const next = (history: Story<LicenseEvent>, instant = now) => changesAt(issued(stateOf(history)), instant);
  const graceful = licensed({ expiry: aYear, expiryGraceDays: 14 });
  const graceEnd = '2027-12-05T12:00:00.000Z';

  it('never, if nothing of it has an end', () => expect(next(active)).toBeNull());
  it('at its expiry, and then at the end of its grace', () => expect([next(graceful), next(graceful, expiry), next(graceful, graceEnd)]).toEqual([expiry, graceEnd, null]));
  it('when it becomes effective', () => expect(next(story(issue({ terms: { effectiveAt: expiry } })))).toBe(expiry));
  it('when a hold ends', () => expect(next(story(graceful, suspend({ until: '2027-01-01T00:00:00.000Z' })))).toBe('2027-01-01T00:00:00.000Z'));
  it('when the grace of a quota ends', () => {
    const over = story(licensed({ quotas: [{ meter: 'cores', limit: 8 }] }), exceedQuota(9, 8, 'cores'));
    expect(next(over)).toBe(ask(over).graceEndsAt);
  });
});

describe('Graces', () => {
  const meters = [{ meter: 'cores', limit: 8 }, { meter: 'users', limit: 8 }];
  const both = story(licensed({ expiresAt: '2026-11-22T00:00:00Z', expiryGraceDays: 3, quotas: meters }), exceedQuota(9, 8, 'cores'));
  it('run side by side; the first to end is named', () => {
    expect(ask(both, {}, '2026-11-22T00:00:00.000Z')).toMatchObject({ valid: true, code: 'QUOTA_EXCEEDED', reasons: ['QUOTA_EXCEEDED', 'IN_EXPIRY_GRACE'], graceEndsAt: '2026-11-25T00:00:00.000Z', enforcement: 'WARN' });
    expect(ask(both, {}, '2026-11-21T12:00:00.000Z')).toMatchObject({ reasons: ['QUOTA_EXCEEDED'], graceEndsAt: '2026-11-28T12:00:00.000Z' });
  });
  it('of two meters: one may be over while the other runs', () => {
    const two = story(licensed({ quotas: meters }), exceedQuota(9, 8, 'cores'), at('2026-11-25T00:00:00.000Z', exceedQuota(9, 8, 'users')));
    const grace = { valid: true, graceEndsAt: '2026-12-02T00:00:00.000Z' };
    expect(ask(two, {}, '2026-11-28T11:59:59.999Z').graceEndsAt).toBe('2026-11-28T12:00:00.000Z');
    expect(ask(two, {}, '2026-11-28T12:00:00.000Z').graceEndsAt).toBe('2026-12-02T00:00:00.000Z');
    expect(ask(two, {}, '2026-11-29T00:00:00.000Z')).toMatchObject({ ...grace, reasons: ['QUOTA_EXCEEDED'], enforcement: 'WARN' });
    expect(ask(story(two, at('2026-11-29T00:00:00.000Z', sweep())), {}, '2026-11-29T00:00:00.000Z')).toMatchObject({ ...grace, reasons: ['RESTRICTED', 'QUOTA_EXCEEDED'], enforcement: 'READ_ONLY' });
  });
  it('are over for a quota that was raised', () => expect(ask(story(both, edit({ quotas: [{ meter: 'cores', limit: 9 }] })))).toMatchObject({ code: 'VALID' }));
});
