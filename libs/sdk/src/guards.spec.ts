import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { describe, expect, it } from '@jest/globals';
import { blockedBy, LicenseGuard, licenseMiddleware, type GuardOptions } from './guards.ts';
import { License } from './license.ts';

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

  it('asks who knows better what a write is, and always lets some pass', () => {
    const options: GuardOptions = { isWrite: ({ url }) => !url?.startsWith('/search'), always: ({ url }) => url === '/api/license' };
    const [restricted, locked] = [License.fake({ state: 'restricted' }), License.fake({ state: 'locked' })];
    expect(blockedBy(restricted, { method: 'POST', url: '/search?q=1' }, options)).toBeUndefined();
    expect(blockedBy(restricted, { method: 'GET', url: '/jobs/start' }, options)).toMatchObject({ code: 'RESTRICTED' });
    expect(blockedBy(locked, { method: 'PUT', url: '/api/license' }, options)).toBeUndefined();
    expect(blockedBy(locked, { method: 'GET', url: '/search' }, options)).toMatchObject({ code: 'REVOKED' });
  });

  it('wants a feature, where it is told to', () => {
    const license = License.fake({ features: ['sso'] });
    expect(blockedBy(license, { method: 'GET' }, { feature: 'sso' })).toBeUndefined();
    expect(blockedBy(license, { method: 'GET' }, { feature: 'audit' })).toMatchObject({ code: 'FEATURE_MISSING' });
    expect(new LicenseGuard(license, { feature: 'audit' }).canActivate(contextOf({ method: 'GET' }))).toBe(false);
  });

  it('blocks a request that arrives over HTTP, and says why', async () => {
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
