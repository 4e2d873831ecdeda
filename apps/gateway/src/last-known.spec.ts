import { describe, expect, it } from '@jest/globals';
import type { ValidateLicense } from '@keyledger/contracts';
import { LastKnownVerdicts } from './last-known.ts';

const at = '2026-11-21T12:00:00.000Z';
const question = { licenseKey: 'K', fingerprint: 'fp' } as ValidateLicense;
const kept = (over: object = {}, license: object = {}) => {
  const known = new LastKnownVerdicts();
  known.keep('production', question, JSON.stringify({ valid: true, conclusive: true, checkedAt: at, graceEndsAt: null, license: { expiresAt: null, effectiveAt: null, ...license }, ...over }));
  return known;
};
const later = (minutes: number) => Date.parse(at) + minutes * 60_000;

describe('The last known verdict', () => {
  it('is what was answered, when it was, and says that it is not conclusive', () => {
    const found = JSON.parse(kept({ token: 'signed' }).find('production', question, later(10)) ?? '');
    expect(found).toEqual({ valid: true, conclusive: false, checkedAt: at, graceEndsAt: null, license: { expiresAt: null, effectiveAt: null } });
  });

  it.each([
    ['question', 'production', { ...question, fingerprint: 'another' }],
    ['key', 'production', { ...question, licenseKey: 'L' }],
    ['environment', 'staging', question],
  ])('is of the same %s only', (_, environment, asked) => {
    expect(kept().find(environment, asked, later(1))).toBeUndefined();
  });

  it('is that of the same question with another nonce', () => {
    expect(kept().find('production', { ...question, nonce: 'n' } as ValidateLicense, later(1))).toBeDefined();
  });

  it.each([['graceEndsAt', true], ['expiresAt', false], ['effectiveAt', false]])('is not used once its %s has passed', (name, isOuter) => {
    const instant = { [name]: new Date(later(30)).toISOString() };
    const known = isOuter ? kept(instant) : kept({}, instant);
    expect(known.find('production', question, later(29))).toBeDefined();
    expect(known.find('production', question, later(30))).toBeUndefined();
  });

  it('is used when an instant had passed before', () => {
    expect(kept({ valid: false }, { expiresAt: new Date(later(-30)).toISOString() }).find('production', question, later(1))).toBeDefined();
  });

  it('is forgotten after a day', () => {
    expect(kept().find('production', question, later(24 * 60))).toBeUndefined();
  });
});
