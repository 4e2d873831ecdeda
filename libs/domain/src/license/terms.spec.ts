import { describe, expect, it } from '@jest/globals';
import { Refusal, type ErrorCode } from '@keyledger/kernel';
import { defaultTerms, expiresAtFirstActivation, expiresAtIssue, expiryGraceEnd, termsOf, termsOver, type Terms, type TermsInput } from './terms.ts';

const bought = '2026-01-31T10:00:00.000Z';
const terms = (input: TermsInput): Terms => termsOf(input);
const codeOf = (input: unknown): ErrorCode | undefined => {
  try {
    termsOf(input as TermsInput);
    return undefined;
  } catch (error) {
    return error instanceof Refusal ? error.code : 'INTERNAL';
  }
};

describe('Terms', () => {
  it('are unlimited, for a lifetime, when nothing is said', () => {
    expect(terms({})).toEqual(defaultTerms);
    expect(defaultTerms).toMatchObject({ activationLimit: -1, expiry: null, expiresAt: null, expiryGraceDays: 0, overageGraceDays: 7, offlineGraceDays: 14, binding: 'none' });
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
    expect(termsOver({ expiresAt: null }, { expiry: twoYears, expiresAt })).toEqual({ expiresAt, expiry: twoYears });
  });
  it.each([-1, 1, 10_000])('may have an activation limit of %p', (activationLimit) => expect(terms({ activationLimit }).activationLimit).toBe(activationLimit));
  it.each([0, -2, 10_001, 2.5, Number.NaN, Number.POSITIVE_INFINITY, null, '5'])('may not have an activation limit of %p', (activationLimit) =>
    expect(codeOf({ activationLimit })).toBe('LIMIT_OUT_OF_RANGE'));
  it.each([
    ['a trial of 91 days', { trial: { days: 91 } }, 'TRIAL_TOO_LONG'],
    ['a trial of no days', { trial: { days: 0 } }, 'VALIDATION_FAILED'],
    ['a trial of half a day', { trial: { days: 0.5 } }, 'VALIDATION_FAILED'],
    ['a term of no months', { expiry: { value: 0, unit: 'months' } }, 'VALIDATION_FAILED'],
    ['a term of half a year', { expiry: { value: 0.5, unit: 'years' } }, 'VALIDATION_FAILED'],
    ['a negative grace', { expiryGraceDays: -1 }, 'VALIDATION_FAILED'],
    ['a grace of eleven years', { overageGraceDays: 4000 }, 'VALIDATION_FAILED'],
    ['a heartbeat every second', { heartbeatIntervalSeconds: 1 }, 'VALIDATION_FAILED'],
    ['a date that is none', { expiresAt: 'soon' }, 'VALIDATION_FAILED'],
    ['a fixed date that is missing', { expiryBasis: 'fixed', expiry: { value: 1, unit: 'years' } }, 'VALIDATION_FAILED'],
    ['a negative quota', { quotas: [{ meter: 'cores', limit: -1 }] }, 'VALIDATION_FAILED'],
    ['a meter twice', { quotas: [{ meter: 'cores', limit: 1 }, { meter: 'cores', limit: 1 }] }, 'VALIDATION_FAILED'],
    ['a feature that is not in', { features: { export: false } }, 'VALIDATION_FAILED'],
    ['more features than fit into an answer', { features: Object.fromEntries(Array.from({ length: 400 }, (_, n) => [`${n}`.padEnd(90, 'ü'), true])) }, 'VALIDATION_FAILED'],
    ['a feature without a number', { features: { export: { per: 'day' } } }, 'VALIDATION_FAILED'],
  ] as const)('refuse %s', (_, input, code) => expect(codeOf(input)).toBe(code));
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
