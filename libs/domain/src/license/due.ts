import { addDays, type Instant } from '@keyledger/kernel';
import type { LicenseEvent } from './events.ts';
import type { Hold, IssuedLicense, LicenseState } from './state.ts';

/** An event that time alone causes, and when. */
interface Due {
  readonly dueAt: Instant;
  readonly event: LicenseEvent;
}

/** Days before the expiry. */
const reminderDays = [30, 14, 7] as const;

/** When the next event that only time causes falls due for the license; null if none is to be expected. */
export const nextDue = (license: LicenseState): Instant | null => (license.existence === 'issued' ? (pending(license)[0]?.dueAt ?? null) : null);

/** All events due by an instant, in the order in which they fell due. */
export const dueBy = (license: IssuedLicense, until: Instant): readonly LicenseEvent[] => pending(license).filter(({ dueAt }) => dueAt <= until).map(({ event }) => event);

/** None of these events causes or prevents another, so it does not matter how often the sweep runs. */
function pending(license: IssuedLicense): readonly Due[] {
  if (license.revokedAt) return [];
  return [...reminders(license), ...expiry(license), ...restrictions(license), ...ends(license)].sort((a, b) => (a.dueAt < b.dueAt ? -1 : a.dueAt > b.dueAt ? 1 : 0));
}

/** Reminders of the present expiry not given yet, without those whose day was over when the expiry was set. */
function reminders({ expired, reminded, expirySince, terms: { expiresAt } }: IssuedLicense): readonly Due[] {
  if (!expiresAt || expired) return [];
  return reminderDays.filter((days) => reminded === null || days < reminded)
    .map((days) => ({ days, dueAt: addDays(expiresAt, -days) }))
    .filter(({ dueAt }) => dueAt > expirySince)
    .map(({ days, dueAt }) => ({ dueAt, event: { type: 'ExpiryReminderDue', days, expiresAt, dueAt } }));
}

/** The end of a trial is one of these. */
function expiry({ expired, worksUntil, terms: { expiresAt } }: IssuedLicense): readonly Due[] {
  return expired || !expiresAt || !worksUntil ? [] : [{ dueAt: worksUntil, event: { type: 'LicenseExpired', expiresAt, graceEndedAt: worksUntil } }];
}

function restrictions({ meters }: IssuedLicense): readonly Due[] {
  return [...meters].flatMap(([meter, { state, graceEndsAt }]) =>
    (state === 'exceeded' && graceEndsAt ? [{ dueAt: graceEndsAt, event: { type: 'LicenseRestricted', meter, dueAt: graceEndsAt } as const }] : []));
}

/** Ends of holds that have one. */
function ends({ holds }: IssuedLicense): readonly Due[] {
  return holds.flatMap((hold) => (hold.until === undefined ? [] : [{ dueAt: hold.until, event: endOfHold(hold) }]));
}

export const endOfHold = ({ kind, cause, until }: Hold): LicenseEvent =>
  ({ type: kind === 'suspended' ? 'LicenseUnsuspended' : 'LicenseReactivated', cause, reason: null, ...(until !== undefined && { dueAt: until }) });
