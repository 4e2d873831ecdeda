import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { nextWait, retryAfterMs, Server, type Fetch } from './server.ts';
import { TestClock } from './vendor.contract.ts';

const asking = (fetch: Fetch) => new Server({ url: 'https://licenses.example/keyledger/', environment: 'staging', fetch, clock: new TestClock(), timeoutMs: 1000, attempts: 1 });

describe('A wait', () => {
  it('is never shorter than the shortest, longer than the longest, or more than three times the one before', () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 100_000 }), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (previous, random) => {
      const wait = nextWait(previous, [200, 5000], () => random);
      expect(wait).toBeGreaterThanOrEqual(200);
      expect(wait).toBeLessThanOrEqual(Math.min(5000, Math.max(200, previous * 3)));
    }));
  });

  it('is what the server asks for, in seconds or until a date', () => {
    const now = Date.parse('2026-07-01T12:00:00Z');
    expect(['7', ' 7 ', 'Wed, 01 Jul 2026 12:01:00 GMT', 'Wed, 01 Jul 2026 11:00:00 GMT', 'soon', '-3'].map((header) => retryAfterMs(header, now))).toEqual([7000, 7000, 60_000, 0, null, expect.anything()]);
    expect(retryAfterMs(null, now)).toBeNull();
  });
});

describe('A request', () => {
  it('goes below the given address, to the given environment, and follows no redirect', async () => {
    const seen: [string, RequestInit][] = [];
    const reply = await asking((url, init) => {
      seen.push([url, init]);
      return Promise.resolve(new Response('{"a":1}'));
    }).ask('POST', '/license/validate', { x: 1 }, 'KEY');
    expect(reply).toEqual({ kind: 'answered', status: 200, body: { a: 1 } });
    expect(seen).toMatchObject([['https://licenses.example/keyledger/license/validate', { method: 'POST', redirect: 'error', body: '{"x":1}', headers: { authorization: 'License KEY', 'x-environment': 'staging' } }]]);
  });

  it.each([
    ['refused', 404, '{"code":"LICENSE_NOT_FOUND","detail":"no"}'], ['refused', 409, '{"code":"STALE_SEQUENCE"}'],
    ['unreachable', 429, '{"code":"RATE_LIMITED"}'], ['unreachable', 408, '{"code":"REQUEST_TIMEOUT"}'], ['unreachable', 500, '{"code":"INTERNAL"}'], ['unreachable', 503, ''], ['unreachable', 404, '{"message":"no such page"}'],
    ['unreachable', 403, '{"code":7}'], ['unreachable', 200, '<html>'], ['unreachable', 200, '[]'], ['unreachable', 200, 'null'],
  ])('is %s by %d %s', async (kind, status, body) => {
    expect(await asking(() => Promise.resolve(new Response(body, { status }))).ask('GET', '/x')).toMatchObject({ kind });
  });

  it('is given up when it takes too long', async () => {
    const never: Fetch = (_url, { signal }) => new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason as Error)));
    const server = new Server({ url: 'https://x', environment: 'production', fetch: never, clock: new TestClock(), timeoutMs: 5, attempts: 1 });
    expect(await server.ask('GET', '/x')).toMatchObject({ kind: 'unreachable', detail: expect.stringContaining('timeout') });
  });

  it('reveals no key when it fails', async () => {
    const reply = await asking(() => Promise.reject(new Error('ECONNREFUSED'))).ask('POST', '/license/validate', { licenseKey: 'SECRET' }, 'SECRET');
    expect(JSON.stringify(reply)).not.toContain('SECRET');
  });
});
