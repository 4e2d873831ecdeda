import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type { LicenseAnswer } from './api.ts';
import { bannersOf, changesOf, codesOf, connectionOf, detailsOf, expiryOf, failureText, featuresOf, freshnessOf, metersOf, previewNotesOf, runtimeOf, statusOf, supportTextOf, troubles, troublesNow } from './page/story.ts';
import { age, daysUntil, plain } from './page/words.ts';

const instant = fc.date({ min: new Date('2020-01-01'), max: new Date('2060-01-01'), noInvalidDate: true }).map((date) => date.toISOString());
const orNull = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: null });
const word = fc.string({ minLength: 1, maxLength: 12 });
const amount = fc.integer({ min: 0, max: 1_000_000 });
const limit = fc.integer({ min: -1, max: 1_000 });
const codes = fc.constantFrom('VALID', 'EXPIRED', 'RESTRICTED', 'QUOTA_EXCEEDED', 'IN_EXPIRY_GRACE', 'IN_OFFLINE_GRACE', 'HEARTBEAT_OVERDUE', 'REVOKED', 'NOT_ACTIVATED', 'OF_A_NEWER_AGENT');
const feature: fc.Arbitrary<LicenseAnswer['features'][string]> = fc.oneof(fc.constant(true as const), limit, fc.record({ limit: amount, per: fc.constantFrom('day' as const, 'month' as const), used: amount, remaining: amount }));
const meter: fc.Arbitrary<LicenseAnswer['usage'][number]> = fc.record({
  meter: fc.oneof(word, fc.constantFrom('max_dp_cores', 'users', 'servers')), limit: orNull(limit), used: orNull(amount), remaining: orNull(amount), per: orNull(fc.constantFrom('day' as const, 'month' as const)), lastPeak: orNull(amount),
  state: fc.constantFrom('normal' as const, 'exceeded' as const, 'restricted' as const), graceEndsAt: orNull(instant),
});
/** Whatever an agent may say, likely or not. */
const license: fc.Arbitrary<LicenseAnswer> = fc.record({
  serialNumber: orNull(word), customer: orNull(word), effectiveDate: orNull(instant), expirationDate: orNull(instant), maxDpCores: orNull(amount), features: fc.dictionary(fc.oneof(word, fc.constantFrom('mocks', 'mocking', 'api_endpoints')), feature), deploymentId: orNull(word),
  freeTrial: orNull(fc.boolean()), runtimeState: fc.constantFrom('normal' as const, 'dp_core_exceeded' as const, 'restricted' as const), enforcement: fc.constantFrom('FULL' as const, 'WARN' as const, 'READ_ONLY' as const, 'LOCKED' as const),
  status: fc.constantFrom('none' as const, 'active' as const, 'grace' as const, 'restricted' as const, 'expired' as const, 'suspended' as const, 'inactive' as const, 'revoked' as const, 'locked' as const),
  type: fc.constantFrom('trial' as const, 'time-based' as const, 'lifetime' as const, null), mode: word, daysRemaining: orNull(fc.integer({ min: 0, max: 4000 })), usage: fc.array(meter, { maxLength: 6 }), lastValidationAt: orNull(instant),
  validationMode: fc.constantFrom('online' as const, 'heartbeat' as const, 'offline' as const, null), deploymentMode: orNull(word), activationId: orNull(word), installationId: word, hardwareId: word,
  source: fc.constantFrom('key' as const, 'file' as const, null), keyPrefix: orNull(word), licenseId: orNull(word), productId: orNull(word), code: codes, reasons: fc.uniqueArray(codes), detail: word, graceEndsAt: orNull(instant),
  offlineGraceEndsAt: orNull(instant), offlineGraceSeconds: orNull(amount), activationLimit: orNull(limit), activeActivations: orNull(amount),
  server: fc.record({ url: orNull(word), environment: word, proxy: orNull(word), noProxy: orNull(word), reachable: orNull(fc.boolean()), connected: fc.boolean() }), file: orNull(fc.record({ path: word, checkedAt: orNull(instant) })),
  problems: fc.array(fc.record({ code: codes, severity: fc.constantFrom('error' as const, 'warning' as const, 'info' as const), title: word, detail: word, at: instant }), { maxLength: 4 }),
  messages: fc.array(fc.record({ id: word, text: word, at: instant }), { maxLength: 3 }), usageQueued: amount, access: fc.constantFrom('full' as const, 'viewer' as const), applied: fc.boolean(), agentVersion: word, now: instant,
});

describe('The page has words', () => {
  it('for whatever an agent may say', () => fc.assert(fc.property(license, license, instant, (one, other, now) => {
    const gravity = ['stop', 'warn', 'info', 'ok', 'none'];
    const tones = bannersOf(one).map(({ tone }) => gravity.indexOf(tone));
    expect(tones).toEqual([...tones].sort((a, b) => a - b));
    for (const { share, label, text } of metersOf(one)) expect({ share: share === null || (share >= 0 && share <= 1), label: label !== '', text: /NaN|undefined|null|-\d/.test(text) }).toEqual({ share: true, label: true, text: false });
    expect(featuresOf(one).filter(({ value }) => value !== 'Not included').length).toBe(Object.values(one.features).filter(Boolean).length);
    expect(featuresOf(one).slice(0, 8).map(({ label }) => label)).toEqual(['API endpoints', 'Executions per day', 'Reporting', 'Mocks', 'CI/CD', 'Analytics', 'Workflows', 'Execution']);
    expect([statusOf(one).text, runtimeOf(one).text, expiryOf(one).text, freshnessOf(one, now, now, null)].every(Boolean)).toBe(true);
    expect(detailsOf(one).map(({ label }) => label).slice(0, 6)).toEqual(['Last validation timestamp', 'Validation mode', 'Deployment mode', 'Activation ID', 'Installation ID', 'Hardware ID']);
    expect(supportTextOf(one, now)).toContain(`Hardware ID: ${one.hardwareId}`);
    expect(changesOf(one, one)).toEqual([]);
    for (const { before, after } of changesOf(one, other)) expect(before).not.toBe(after);
  })));

  it('for being restricted that say what still works', () => fc.assert(fc.property(license, (one) => {
    fc.pre(one.status !== 'none' && one.enforcement === 'READ_ONLY');
    expect(bannersOf(one)[0]).toMatchObject({ tone: 'stop' });
    expect(bannersOf(one).map(({ text }) => text).join()).toContain('reads continue, writes blocked, you can still upload a license');
  })));

  it('for what was used too much, and no number that nobody has compared', () => {
    const [base] = fc.sample(license, { numRuns: 1, seed: 1 });
    const told = (meter: string, more: Partial<LicenseAnswer['usage'][number]>, standing: Partial<LicenseAnswer> = {}) => bannersOf({
      ...(base as LicenseAnswer), status: 'grace', enforcement: 'WARN', reasons: ['QUOTA_EXCEEDED'], code: 'QUOTA_EXCEEDED', problems: [], messages: [], daysRemaining: null, server: { ...(base as LicenseAnswer).server, reachable: true },
      usage: [{ meter, limit: 16, used: 3, remaining: 13, per: null, lastPeak: null, state: 'exceeded', graceEndsAt: null, ...more }], ...standing,
    }).map(({ title, text }) => `${title}. ${text}`).join();
    expect(told('max_dp_cores', { lastPeak: 21 })).toMatch(/^DP Core Exceeded\. The last daily peak was 21 DP cores; 16 are licensed\. Use fewer cores/);
    expect(told('max_dp_cores', {})).toMatch(/^DP Core Exceeded\. More was used than is licensed \(DP cores, 16\)\./);
    expect(told('pages', { per: 'month', lastPeak: 21 })).toMatch(/^Pages exceeded\. The count of the month was 21; 16 are licensed\. Use less/);
    const restricted = told('users', { state: 'restricted' }, { status: 'restricted', enforcement: 'READ_ONLY', reasons: ['RESTRICTED'], code: 'RESTRICTED' });
    expect(restricted).toContain('(Users vs limit)');
    expect(restricted).not.toMatch(/core/i);
  });

  it('for a preview that do not tell as a change what is not known yet', () => {
    const [base] = fc.sample(license, { numRuns: 1, seed: 2 });
    const now = { ...(base as LicenseAnswer), expirationDate: '2026-08-01T12:00:00.000Z', status: 'active', type: 'trial', freeTrial: true, serialNumber: 'SN-1', customer: 'Ada', validationMode: 'heartbeat', deploymentMode: 'cloud', deploymentId: 'dep-1', source: 'key', keyPrefix: 'KEY-1', applied: true } as const;
    const tried = { ...now, expirationDate: '2026-08-01T12:00:00.000Z', type: null, freeTrial: null, serialNumber: null, customer: null, validationMode: null, deploymentMode: null, deploymentId: null, keyPrefix: 'KEY-2', applied: false };
    expect(changesOf(now, tried)).toEqual([{ label: 'Key', before: 'KEY-1…', after: 'KEY-2…' }]);
    expect(previewNotesOf(tried)).toEqual(['Type, serial number and validation mode are known after activation.']);
    // A trial that has not begun has no end yet, and neither has a license for ever.
    const unbegun = { ...tried, expirationDate: null };
    expect(changesOf({ ...now, expirationDate: '2026-07-15T12:00:00.000Z' }, unbegun).map(({ label }) => label)).not.toContain('Expires');
    expect(previewNotesOf(unbegun)).toEqual(['Expiry, type, serial number and validation mode are known after activation.']);
    expect(changesOf({ ...now, expirationDate: '2026-07-15T12:00:00.000Z' }, { ...unbegun, freeTrial: false }).map(({ label, after }) => [label, after])).toContainEqual(['Expires', 'Never']);
    expect(changesOf(now, { ...tried, applied: true }).map(({ label }) => label)).toContain('Type');
    expect(previewNotesOf({ ...now, source: 'file', applied: false, offlineGraceEndsAt: '2026-07-15T12:00:00.000Z' })).toEqual([expect.stringMatching(/^Without a newer license it works until .*2026/)]);
    expect(connectionOf({ ...now, server: { ...now.server, noProxy: '.corp.example' } })).toContainEqual({ label: 'Without proxy', value: '.corp.example', copy: '.corp.example', variable: 'NO_PROXY' });
  });

  it('for a preview that tell whether it is another license, and what it allows per day and month', () => {
    const [base] = fc.sample(license, { numRuns: 1, seed: 4 });
    const pages = { meter: 'pages', limit: 100, used: 3, remaining: 97, per: 'month', lastPeak: null, state: 'normal', graceEndsAt: null } as const;
    const reports = { ...pages, meter: 'reports', limit: 5, per: 'day' } as const;
    const now = { ...(base as LicenseAnswer), licenseId: 'lic_1', features: { reports: { limit: 5, per: 'day' } }, usage: [pages, reports] } as const;
    const changed = (more: Partial<LicenseAnswer>) => changesOf(now, { ...now, applied: false, freeTrial: false, ...more }).filter(({ label }) => label !== 'Type');
    expect(changed({ usage: [{ ...pages, limit: 10 }, reports] })).toEqual([{ label: 'Pages', before: '100 per month', after: '10 per month' }]);
    expect(changed({ usage: [{ ...pages, per: 'day' }, reports] })).toEqual([{ label: 'Pages', before: '100 per month', after: '100 per day' }]);
    expect(changed({ licenseId: 'lic_2' })).toEqual([{ label: 'License ID', before: 'lic_1', after: 'lic_2' }]);
    // Once: by the feature, or by the quota that makes it stricter.
    expect(changed({ features: { reports: { limit: 7, per: 'day' } }, usage: [pages, { ...reports, limit: 7 }] })).toEqual([{ label: 'Reporting', before: '5 per day', after: '7 per day' }]);
    expect(changed({ usage: [{ ...reports, limit: 3 }, pages, { ...reports, limit: 3 }] })).toEqual([{ label: 'Reports', before: 'Not limited', after: '3 per day' }]);
  });

  it('that differ for each kind of trouble, and say which there is now', () => {
    const failure = (code: string, members = {}) => failureText({ ok: false, status: 409, code, title: 'A title', detail: 'A detail', members });
    expect(new Set(['NO_OUTBOUND_ACCESS', 'LICENSE_SERVER_UNAVAILABLE', 'DEPLOYMENT_MODE_MISMATCH', 'LICENSE_EXPIRED', 'ACTIVATION_LIMIT_EXCEEDED'].map((code) => failure(code).text)).size).toBe(5);
    expect(failure('LICENSE_SERVER_UNAVAILABLE', { serverStatus: 503 }).text).toContain('status 503');
    expect(failure('FINGERPRINT_MISMATCH')).toEqual({ title: 'A title', text: 'A detail' });
    expect([...troublesNow(new Set(['IN_OFFLINE_GRACE', 'VALID']))]).toEqual([troubles[0]]);
    expect([...troublesNow(new Set(['IN_OFFLINE_GRACE', 'UNREACHABLE', 'LICENSE_SERVER_UNAVAILABLE']))]).toEqual([troubles[1]]);
    const [base] = fc.sample(license, { numRuns: 1, seed: 3 });
    const aging = { ...(base as LicenseAnswer), code: 'IN_OFFLINE_GRACE', reasons: ['IN_OFFLINE_GRACE'], problems: [], server: { ...(base as LicenseAnswer).server, reachable: null } };
    expect([...troublesNow(codesOf({ ...aging, source: 'key' }, null))]).toEqual([troubles[0]]);
    expect([...troublesNow(codesOf({ ...aging, source: 'file' }, null))]).toEqual([]);
    expect(troubles.every(({ text, steps }) => text !== '' && steps.length > 0)).toBe(true);
  });

  it('for amounts and ages', () => {
    expect(plain('__')).toBe('__');
    expect(plain('max_api_calls')).toBe('Max API calls');
    expect(plain('ssoEnabled')).toBe('SSO Enabled');
    expect(daysUntil('2026-01-02T00:00:01Z', '2026-01-01T00:00:00Z')).toBe(2);
    expect(daysUntil('2026-01-01T00:00:00Z', '2026-02-01T00:00:00Z')).toBe(0);
    expect(age('2026-01-01T00:00:00Z', '2026-01-03T23:00:00Z')).toMatch(/^\D*2\D*$/);
    expect(age('2026-01-01T00:01:00Z', '2026-01-01T00:00:00Z')).toMatch(/^\D*0\D*$/);
  });
});
