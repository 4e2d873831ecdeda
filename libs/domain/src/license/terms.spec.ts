import { describe, expect, it } from '@jest/globals';
import { Refusal } from '@keyledger/kernel';
import { defaultTerms, expiresAtFirstActivation, expiresAtIssue, expiryGraceEnd, termsOf, termsOver, type Terms, type TermsInput } from './terms.ts';

const bought = '2026-01-31T10:00:00.000Z';
const terms = (input: TermsInput): Terms => termsOf(input);
/** What is wrong: the pointer of the field, or the code where there is none. */
const faultOf = (input: unknown): string | undefined => {
  try {
    termsOf(input as TermsInput);
    return undefined;
  } catch (error) {
    if (!(error instanceof Refusal)) return 'INTERNAL';
    const [first] = (error.members['errors'] ?? []) as { pointer: string }[];
    return error.code === 'VALIDATION_FAILED' ? first?.pointer : error.code;
  }
};
const featuresOf = (bytes: number): TermsInput => ({ features: { ['f'.repeat(bytes - '{"":true}'.length)]: true } });

describe('Terms', () => {
  it('are unlimited, for a lifetime, when nothing is said', () => {
    expect(terms({})).toEqual(defaultTerms);
    expect(defaultTerms).toMatchObject({ activationLimit: -1, expiry: null, expiresAt: null, expiryGraceDays: 0, overageGraceDays: 7, offlineGraceDays: 14, heartbeatIntervalSeconds: 3600, binding: 'none' });
  });
  it('take what is said, in one spelling, and nothing that is no term', () => {
    expect(terms({ effectiveAt: '2026-01-01T01:00:00+01:00', activationLimit: undefined, colour: 'red' } as TermsInput)).toEqual({ ...defaultTerms, effectiveAt: '2026-01-01T00:00:00.000Z' });
  });
  it('of one go over those of another, whole', () => {
    const plan: TermsInput = { activationLimit: 5, expiry: { value: 1, unit: 'years' }, expiresAt: '2027-01-01T00:00:00.000Z' };
    expect(termsOver(plan, { activationLimit: 2, features: { export: true } })).toEqual({ ...plan, activationLimit: 2, features: { export: true } });
    expect(termsOver(plan, {})).toEqual(plan);
  });
  it('of one whose date is null are for a lifetime, whatever the other says; its own term still counts', () => {
    const plan: TermsInput = { expiry: { value: 1, unit: 'years' }, expiryBasis: 'firstActivation' };
    expect(termsOver(plan, { expiresAt: null })).toEqual({ expiry: null, expiryBasis: 'firstActivation', expiresAt: null });
    expect(termsOver(termsOver(plan, { expiresAt: null }), { activationLimit: 1 })).toMatchObject({ expiry: null });
    expect(termsOver(plan, { expiresAt: null, expiry: { value: 2, unit: 'years' } })).toMatchObject({ expiry: { value: 2 } });
    expect(termsOver({ ...plan, expiresAt: null }, {})).toMatchObject({ expiry: { value: 1 } });
  });
  it('of one that has a length, or none, are not those of the other’s date, unless a length is but a word beside a fixed date', () => {
    const [expiresAt, twoYears] = ['2027-01-01T00:00:00.000Z', { value: 2, unit: 'years' } as const];
    expect(termsOver({ expiresAt }, { expiry: twoYears })).toEqual({ expiresAt: null, expiry: twoYears });
    expect(termsOver({ expiresAt, expiryBasis: 'fixed' }, { expiry: null })).toEqual({ expiresAt: null, expiryBasis: 'fixed', expiry: null });
    expect(termsOver({ expiresAt, expiryBasis: 'fixed' }, { expiry: twoYears })).toEqual({ expiresAt, expiryBasis: 'fixed', expiry: twoYears });
    expect(termsOver({ expiresAt }, { expiryBasis: 'fixed', expiry: twoYears })).toEqual({ expiresAt, expiryBasis: 'fixed', expiry: twoYears });
    expect(termsOver({ expiresAt: null }, { expiry: twoYears, expiresAt })).toEqual({ expiresAt, expiry: twoYears });
  });
  it.each([-1, 1, 10_000])('may have an activation limit of %p', (activationLimit) => expect(terms({ activationLimit }).activationLimit).toBe(activationLimit));
  it.each([0, -2, 10_001, 2.5, Number.NaN, Number.POSITIVE_INFINITY, null, '5'])('may not have an activation limit of %p', (activationLimit) =>
    expect(faultOf({ activationLimit })).toBe('LIMIT_OUT_OF_RANGE'));
  it.each([
    { expiryGraceDays: 3650, overageGraceDays: 3650, offlineGraceDays: 3650 }, { overageGraceDays: 0, offlineGraceDays: 0 }, { trial: { days: 1 } }, { trial: { days: 90 } },
    { expiry: { value: 1, unit: 'days' } }, { expiry: { value: 36_500, unit: 'days' } }, { heartbeatIntervalSeconds: 10 }, { heartbeatIntervalSeconds: 2_592_000 },
    { expiryBasis: 'fixed' }, { expiryBasis: 'fixed', expiry: { value: 1, unit: 'years' }, expiresAt: '2030-01-01T00:00:00.000Z' },
    { quotas: [{ meter: 'cores', limit: 0 }], features: { reports: 0, exports: { limit: 0, per: 'day' } } }, featuresOf(32_768),
  ] satisfies TermsInput[])('may be %j', (input) => expect(faultOf(input)).toBeUndefined());
  it.each([
    ['a trial of 91 days', { trial: { days: 91 } }, 'TRIAL_TOO_LONG'],
    ['a trial of no days', { trial: { days: 0 } }, '/trial/days'],
    ['a trial of half a day', { trial: { days: 0.5 } }, '/trial/days'],
    ['a term of no months', { expiry: { value: 0, unit: 'months' } }, '/expiry/value'],
    ['a term of half a year', { expiry: { value: 0.5, unit: 'years' } }, '/expiry/value'],
    ['a term without end', { expiry: { value: 36_501, unit: 'days' } }, '/expiry/value'],
    ['a negative grace', { expiryGraceDays: -1 }, '/expiryGraceDays'],
    ['a grace of more than ten years', { overageGraceDays: 3651 }, '/overageGraceDays'],
    ['half a day without contact', { offlineGraceDays: 0.5 }, '/offlineGraceDays'],
    ['a heartbeat every nine seconds', { heartbeatIntervalSeconds: 9 }, '/heartbeatIntervalSeconds'],
    ['a heartbeat in more than thirty days', { heartbeatIntervalSeconds: 2_592_001 }, '/heartbeatIntervalSeconds'],
    ['a date that is none', { expiresAt: 'soon' }, '/expiresAt'],
    ['a start that is none', { effectiveAt: 'soon' }, '/effectiveAt'],
    ['a fixed date that is missing', { expiryBasis: 'fixed', expiry: { value: 1, unit: 'years' } }, '/expiresAt'],
    ['a negative quota', { quotas: [{ meter: 'cores', limit: -1 }] }, '/quotas'],
    ['a quota without end', { quotas: [{ meter: 'cores', limit: Number.POSITIVE_INFINITY }] }, '/quotas'],
    ['a meter twice', { quotas: [{ meter: 'cores', limit: 1 }, { meter: 'cores', limit: 1 }] }, '/quotas'],
    ['a feature that is not in', { features: { export: false } }, '/features/export'],
    ['more features than fit into an answer', { features: Object.fromEntries(Array.from({ length: 400 }, (_, n) => [`${n}`.padEnd(90, 'ü'), true])) }, '/features'],
    ['a byte more of them', featuresOf(32_769), '/features'],
    ['a feature without a number', { features: { export: { per: 'day' } } }, '/features/export'],
    ['feature flags of more than 10 KB', { featureFlags: { a: 'x'.repeat(10_240) } }, 'METADATA_TOO_LARGE'],
  ] as const)('refuse %s', (_, input, fault) => expect(faultOf(input)).toBe(fault));
});

describe('The end of a license', () => {
  it.each([
    ['30 days', { value: 30, unit: 'days' }, '2026-03-02T10:00:00.000Z'],
    ['a month, cut to the month’s last day', { value: 1, unit: 'months' }, '2026-02-28T10:00:00.000Z'],
    ['25 months, into a leap year', { value: 25, unit: 'months' }, '2028-02-29T10:00:00.000Z'],
    ['two years', { value: 2, unit: 'years' }, '2028-01-31T10:00:00.000Z'],
    ['no term', null, null],
  ] as const)('is %s after the purchase', (_, expiry, end) => expect(expiresAtIssue(terms({ expiry }), bought)).toBe(end));
  it('is the date that was set, whatever the term', () => expect(expiresAtIssue(terms({ expiresAt: '2030-01-01T00:00:00Z', expiry: { value: 1, unit: 'days' } }), bought)).toBe('2030-01-01T00:00:00.000Z'));
  it.each(['firstActivation', 'deployment'] as const)('is open until the %s', (expiryBasis) => {
    const open = terms({ expiryBasis, expiry: { value: 1, unit: 'years' } });
    expect(expiresAtIssue(open, bought)).toBeNull();
    expect(expiresAtFirstActivation(open, '2028-02-29T00:00:00.000Z')).toBe('2029-02-28T00:00:00.000Z');
  });
  it('of a trial is the earlier of its days and the date', () => {
    const trial = (input: TermsInput) => expiresAtFirstActivation(terms({ trial: { days: 30 }, ...input }), bought);
    expect(trial({})).toBe('2026-03-02T10:00:00.000Z');
    expect(trial({ expiresAt: '2026-02-01T00:00:00Z' })).toBe('2026-02-01T00:00:00.000Z');
    expect(trial({ expiresAt: '2027-02-01T00:00:00Z' })).toBe('2026-03-02T10:00:00.000Z');
  });
  it('is put off by the grace, in whole days', () => {
    expect(expiryGraceEnd(terms({ expiresAt: bought, expiryGraceDays: 14 }))).toBe('2026-02-14T10:00:00.000Z');
    expect(expiryGraceEnd(terms({ expiresAt: bought }))).toBe(bought);
    expect(expiryGraceEnd(terms({ expiryGraceDays: 14 }))).toBeNull();
  });
  it('never lies beyond what compares as a string', () => {
    const last = '9999-12-31T23:59:59.999Z';
    expect(expiresAtIssue(terms({ expiry: { value: 36_500, unit: 'years' } }), bought)).toBe(last);
    expect(expiresAtIssue(terms({ expiry: { value: 36_500, unit: 'years' } }), '9000-01-01T00:00:00.000Z')).toBe(last);
    expect(expiryGraceEnd(terms({ expiresAt: last, expiryGraceDays: 3650 }))).toBe(last);
  });
});
