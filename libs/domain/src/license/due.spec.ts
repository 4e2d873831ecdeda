import { describe, expect, it } from '@jest/globals';
import { addDays, type Instant } from '@keyledger/kernel';
import { activate, ada, assign, at, edit, erase, exceedQuota, issue, laptop, renew, revoke, scenarios, suspend, sweep, type Story } from '@keyledger/testing';
import { nextDue } from './due.ts';
import type { LicenseEvent } from './events.ts';
import { License } from './license.ts';

const now = '2026-11-21T12:00:00.000Z';
const nextYear = '2027-11-21T12:00:00.000Z';
const { story, given, stateOf } = scenarios(License, now);
const before = (days: number, expiry = nextYear): Instant => addDays(expiry, -days);
const aYear = { value: 1, unit: 'years' } as const;
const sold = story(issue({ terms: { expiry: aYear, expiryGraceDays: 7 } }), assign(ada), activate(laptop));
const reminder = (days: number, expiresAt = nextYear) => ({ type: 'ExpiryReminderDue', days, expiresAt, dueAt: before(days, expiresAt) } as const);
const ended = { type: 'LicenseExpired', expiresAt: nextYear, graceEndedAt: addDays(nextYear, 7) } as const;
const due = (history: Story<LicenseEvent>) => nextDue(stateOf(history));

describe('An expiry is announced', () => {
  it('30, 14 and 7 days before, and made explicit after the grace, each at its own time', () => {
    let history = sold;
    for (const event of [reminder(30), reminder(14), reminder(7), ended]) {
      const dueAt = 'dueAt' in event ? event.dueAt : event.graceEndedAt;
      expect(due(history)).toBe(dueAt);
      given(history, new Date(Date.parse(dueAt) - 1).toISOString()).when(sweep()).thenNothing();
      given(history, dueAt).when(sweep()).thenEvents(event);
      history = story(history, at(dueAt, sweep()));
      given(history, dueAt).when(sweep()).thenNothing();
    }
    expect(due(history)).toBeNull();
  });

  it('all at once, in the order of what was due, when nobody has looked for a year', () => given(sold, '2028-11-21T12:00:00.000Z').when(sweep()).thenEvents(reminder(30), reminder(14), reminder(7), ended));
  it('up to the instant that is asked for', () => given(sold, '2028-11-21T12:00:00.000Z').when(sweep(before(14))).thenEvents(reminder(30), reminder(14)));
  it('never ahead of its time, whatever is asked for', () => given(sold, before(14)).when(sweep('2030-01-01T00:00:00.000Z')).thenEvents(reminder(30), reminder(14)));
  it('without a reminder whose day is over when it is sold', () => {
    expect(due(story(issue({ terms: { expiresAt: addDays(now, 20) } })))).toBe(addDays(now, 6));
    expect(due(story(issue({ terms: { expiresAt: addDays(now, 30) } })))).toBe(addDays(now, 16));
    given(story(issue({ terms: { expiresAt: addDays(now, 5) } })), addDays(now, 5)).when(sweep()).thenEvents({ type: 'LicenseExpired' });
  });
  it('again when it moves', () => {
    const later = '2028-06-01T00:00:00.000Z';
    const reminded = story(sold, at(before(7), sweep()));
    for (const move of [edit({ expiresAt: later }), renew(later)]) {
      given(story(reminded, at(before(3), move)), before(7, later)).when(sweep()).thenEvents(reminder(30, later), reminder(14, later), reminder(7, later));
    }
  });
  it('not when it was moved close', () => {
    const close = addDays(now, 10);
    expect(due(story(sold, edit({ expiresAt: close })))).toBe(before(7, close));
    expect(due(story(sold, at(addDays(now, 5), edit({ expiresAt: close }))))).toBe(addDays(close, 7));
  });
  it('although the license is suspended, but not when it is revoked, erased or lifetime', () => {
    expect(due(story(sold, suspend()))).toBe(before(30));
    for (const history of [story(), story(sold, revoke()), story(sold, erase({ force: true, mayEraseActivated: true })), story(issue()), story(sold, edit({ expiresAt: null }))]) {
      expect(due(history)).toBeNull();
    }
  });
  it('after the first activation where the terms count from it, a trial among them', () => {
    const trial = story(issue({ customerId: ada, terms: { trial: { days: 14 } } }));
    expect(due(trial)).toBeNull();
    const running = story(trial, activate(laptop));
    given(running, addDays(now, 14)).when(sweep()).thenEvents(reminder(7, addDays(now, 14)), { type: 'LicenseExpired', graceEndedAt: addDays(now, 14) });
  });
  it('as over when it is sold with a date in the past', () => given(story(issue({ purchasedAt: '2020-01-01T00:00:00Z', terms: { expiry: aYear } }))).when(sweep())
    .thenEvents({ type: 'LicenseExpired', expiresAt: '2021-01-01T00:00:00.000Z' }));
});

describe('The end of an overage grace', () => {
  const licensed = story(issue({ terms: { quotas: [{ meter: 'cores', limit: 8 }, { meter: 'users', limit: 3 }], overageGraceDays: 7 } }), assign());
  const both = story(licensed, exceedQuota(9, 8, 'cores'), at(addDays(now, 1), exceedQuota(4, 3, 'users')));

  it('is due by itself, one meter at a time', () => {
    expect(due(both)).toBe(addDays(now, 7));
    given(both, addDays(now, 7)).when(sweep()).thenEvents({ type: 'LicenseRestricted', meter: 'cores', dueAt: addDays(now, 7) });
    given(both, addDays(now, 9)).when(sweep()).thenEvents({ type: 'LicenseRestricted', meter: 'cores' }, { type: 'LicenseRestricted', meter: 'users', dueAt: addDays(now, 8) });
  });
  it('is not when the quota is raised', () => {
    expect(due(story(both, edit({ quotas: [{ meter: 'cores', limit: 90 }, { meter: 'users', limit: 90 }] })))).toBeNull();
    expect(due(story(both, edit({ quotas: [{ meter: 'cores', limit: 90 }, { meter: 'users', limit: 3 }] })))).toBe(addDays(now, 8));
  });
  it('is not of a revoked license', () => expect(due(story(both, revoke()))).toBeNull());
});
