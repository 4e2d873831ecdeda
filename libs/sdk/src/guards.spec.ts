import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { describe, expect, it, jest } from '@jest/globals';
import { blockedBy, LicenseGuard, licenseMiddleware, RequireFeature, requireFeature, type GuardOptions } from './guards.ts';
import { License } from './license.ts';
import { LicenseProvider } from './openfeature.ts';

const contextOf = (request: object) => ({ switchToHttp: () => ({ getRequest: <T>() => request as T }) });

describe('A guard', () => {
  const rows = [
    ['active', 'GET', true], ['active', 'POST', true], ['grace', 'DELETE', true],
    ['restricted', 'GET', true], ['restricted', 'HEAD', true], ['restricted', 'OPTIONS', true], ['restricted', 'POST', false], ['restricted', 'PUT', false], ['restricted', 'PATCH', false], ['restricted', 'DELETE', false],
    ['locked', 'GET', false], ['locked', 'POST', false],
  ] as const;
  it.each(rows)('lets %s %s pass: %s', (state, method, passes) => {
    const license = License.fake({ state });
    expect(blockedBy(license, { method }) === undefined).toBe(passes);
    expect(new LicenseGuard(license).canActivate(contextOf({ method }))).toBe(passes);
  });

  it('lets options say what a write is, and what always passes', () => {
    const options: GuardOptions = { isWrite: ({ url }) => !url?.startsWith('/search'), always: ({ url }) => url === '/api/license' };
    const [restricted, locked] = [License.fake({ state: 'restricted' }), License.fake({ state: 'locked' })];
    expect(blockedBy(restricted, { method: 'POST', url: '/search?q=1' }, options)).toBeUndefined();
    expect(blockedBy(restricted, { method: 'GET', url: '/jobs/start' }, options)).toMatchObject({ code: 'RESTRICTED' });
    expect(blockedBy(locked, { method: 'PUT', url: '/api/license' }, options)).toBeUndefined();
    expect(blockedBy(locked, { method: 'GET', url: '/search' }, options)).toMatchObject({ code: 'REVOKED' });
  });

  it('requires a feature if told to', () => {
    const license = License.fake({ features: ['sso'] });
    expect(blockedBy(license, { method: 'GET' }, { feature: 'sso' })).toBeUndefined();
    expect(blockedBy(license, { method: 'GET' }, { feature: 'audit' })).toMatchObject({ code: 'FEATURE_MISSING' });
    expect(new LicenseGuard(license, { feature: 'audit' }).canActivate(contextOf({ method: 'GET' }))).toBe(false);
  });

  it('requires the features of a controller and of its methods', () => {
    @RequireFeature('sso')
    class Users {
      @RequireFeature('audit', 'export')
      history() {}
      list() {}
    }
    const guarded = (license: License, handler: object, options: GuardOptions = {}) =>
      new LicenseGuard(license, options).canActivate({ ...contextOf({ method: 'GET', url: '/users' }), getClass: () => Users, getHandler: () => handler });
    const { history, list } = Users.prototype;
    const all = License.fake({ features: ['sso', 'audit', 'export'] });
    expect([history, list].map((handler) => guarded(all, handler))).toEqual([true, true]);
    expect([history, list].map((handler) => guarded(License.fake({ features: ['sso', 'audit'] }), handler))).toEqual([false, true]);
    expect([history, list].map((handler) => guarded(License.fake({ features: ['audit', 'export'] }), handler))).toEqual([false, false]);
    expect(guarded(License.fake(), history, { always: ({ url }) => url === '/users' })).toBe(true);
    expect(guarded(License.fake({ features: ['sso', 'audit', 'export'], state: 'locked' }), history)).toBe(false);
  });

  it('requires the features of a controller in its subclasses too, unless they name their own', () => {
    @RequireFeature('sso')
    class Base {}
    class Inheriting extends Base {}
    @RequireFeature('audit')
    class Own extends Inheriting {}
    const guarded = (feature: string, controller: object) => new LicenseGuard(License.fake({ features: [feature] })).canActivate({ ...contextOf({ method: 'GET' }), getClass: () => controller, getHandler: () => () => undefined });
    expect([Base, Inheriting, Own].map((controller) => [guarded('sso', controller), guarded('audit', controller)])).toEqual([[true, false], [true, false], [false, true]]);
  });

  it('checks a message that does not come over HTTP like a write', () => {
    const query = (license: License, options: GuardOptions = {}) =>
      ['graphql', undefined].map((type) => new LicenseGuard(license, options).canActivate({ switchToHttp: () => ({ getRequest: <T>() => undefined as T }), ...(type && { getType: () => type }), getClass: () => Object, getHandler: () => () => undefined }));
    expect(query(License.fake({ features: ['sso'] }), { feature: 'sso' })).toEqual([true, true]);
    expect(query(License.fake({ features: ['audit'] }), { feature: 'sso' })).toEqual([false, false]);
    for (const state of ['restricted', 'locked'] as const) expect(query(License.fake({ state }))).toEqual([false, false]);
    expect(query(License.fake({ state: 'restricted' }), { isWrite: () => false })).toEqual([true, true]);
    // The payload of a message is no HTTP request, even if it looks like one.
    const message = { ...contextOf({ method: 'GET' }), getType: () => 'rpc' };
    expect(new LicenseGuard(License.fake({ state: 'restricted' })).canActivate(message)).toBe(false);
  });

  it('for one feature blocks requests without it, and no writes', () => {
    const answered = (license: License, method: string) => {
      const response = { statusCode: 200, setHeader: () => undefined, end: () => undefined };
      const next = jest.fn();
      requireFeature(license, 'sso')({ method }, response, next);
      return [response.statusCode, next.mock.calls.length];
    };
    expect(answered(License.fake({ features: ['sso'], state: 'restricted' }), 'POST')).toEqual([200, 1]);
    expect(answered(License.fake({ features: ['audit'] }), 'GET')).toEqual([403, 0]);
    expect(answered(License.fake({ features: ['sso'], state: 'locked' }), 'GET')).toEqual([403, 0]);
  });

  it('blocks an HTTP request, and says why', async () => {
    const license = License.fake({ state: 'restricted' });
    const guard = licenseMiddleware(license);
    const server = createServer((request, response) => guard(request, response, () => response.end('done'))).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    expect(await (await fetch(url)).text()).toBe('done');
    const blocked = await fetch(url, { method: 'POST' });
    expect([blocked.status, blocked.headers.get('content-type')]).toEqual([403, 'application/problem+json; charset=utf-8']);
    expect(await blocked.json()).toMatchObject({ code: 'RESTRICTED', enforcement: 'READ_ONLY' });
    license.become('active');
    expect((await fetch(url, { method: 'POST' })).status).toBe(200);
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
});

/** As OpenFeature declares it. */
enum ErrorCode { TypeMismatch = 'TYPE_MISMATCH' }

describe('A provider for OpenFeature', () => {
  const flags = { features: { sso: true, projects: 10, reports: { limit: 5, per: 'day' } }, featureFlags: { theme: 'dark', beta: true, ratio: 0.5, limits: { cpu: 2 }, none: null } } as const;
  const provider: { resolveNumberEvaluation(flag: string, otherwise: number): Promise<{ value: number; errorCode?: ErrorCode }> } & LicenseProvider = new LicenseProvider(License.fake(flags));

  it('answers from the features and the flags of a license', async () => {
    expect(await Promise.all(['sso', 'projects', 'reports', 'beta'].map((flag) => provider.resolveBooleanEvaluation(flag, false)))).toEqual(Array.from({ length: 4 }, () => ({ value: true, reason: 'STATIC' })));
    expect(await Promise.all(['projects', 'reports', 'ratio'].map((flag) => provider.resolveNumberEvaluation(flag, 1)))).toMatchObject([{ value: 10 }, { value: 5 }, { value: 0.5 }]);
    expect(await provider.resolveStringEvaluation('theme', 'light')).toEqual({ value: 'dark', reason: 'STATIC' });
    expect(await provider.resolveObjectEvaluation('limits', { cpu: 1 })).toEqual({ value: { cpu: 2 }, reason: 'STATIC' });
  });

  it('gives the default for what the license does not name, or names with another type', async () => {
    expect(await Promise.all([provider.resolveBooleanEvaluation('audit', false), provider.resolveStringEvaluation('toString', 'x'), provider.resolveNumberEvaluation('audit', 3)]))
      .toEqual([{ value: false, reason: 'DEFAULT' }, { value: 'x', reason: 'DEFAULT' }, { value: 3, reason: 'DEFAULT' }]);
    expect(await Promise.all([provider.resolveNumberEvaluation('sso', 3), provider.resolveBooleanEvaluation('theme', false), provider.resolveObjectEvaluation('none', {}), provider.resolveStringEvaluation('sso', 'x')]))
      .toMatchObject([3, false, {}, 'x'].map((value) => ({ value, reason: 'ERROR', errorCode: ErrorCode.TypeMismatch })));
  });

  it('switches features off while the license is locked, whatever the default is', async () => {
    const locked = new LicenseProvider(License.fake({ ...flags, state: 'locked' }));
    expect(await locked.resolveBooleanEvaluation('sso', true)).toEqual({ value: false, reason: 'DISABLED' });
    expect(await locked.resolveNumberEvaluation('projects', 9)).toEqual({ value: 0, reason: 'DISABLED' });
  });
});
