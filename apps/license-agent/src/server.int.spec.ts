import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer, request as requestBy } from 'node:http';
import { request as requestByTls } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Bench } from './agent.contract.ts';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.open();
});
afterEach(() => bench.close());
const byFile = { LICENSE_KEY: '', KEYLEDGER_SERVER_URL: '' };

describe('The API', () => {
  it('is for who has the token', async () => {
    const box = await bench.start(byFile);
    for (const path of ['/api/license', '/api/license/request', '/api/enforcement', '/api/features/x', '/api/nothing']) {
      for (const authorization of ['', 'Bearer', 'Bearer ', 'Bearer tok', 'Bearer tokenn', 'Basic token', 'token']) {
        const { status, headers, body } = await box.ask('GET', path, undefined, { authorization });
        expect([path, authorization, status, headers.get('content-type'), headers.get('www-authenticate'), body['code']]).toEqual([path, authorization, 401, 'application/problem+json; charset=utf-8', 'Bearer', 'UNAUTHENTICATED']);
      }
    }
    expect(await box.ask('PUT', '/api/license', { license: 'x' }, { authorization: 'Bearer no' })).toMatchObject({ status: 401 });
    expect(await box.ask('GET', '/api/enforcement', undefined, { authorization: 'bearer token' })).toMatchObject({ status: 200 });
    for (const path of ['/health/live', '/health/ready', '/metrics']) expect(await box.ask('GET', path, undefined, { authorization: '' })).toMatchObject({ status: 200 });
  });

  it('shows everything to who has the token of a viewer, and lets him change nothing', async () => {
    const box = await bench.start({ ...byFile, AGENT_VIEWER_TOKEN: 'viewer' });
    const authorization = 'Bearer viewer';
    for (const path of ['/api/license', '/api/license/request', '/api/enforcement', '/api/features/x']) expect([path, (await box.ask('GET', path, undefined, { authorization })).status]).toEqual([path, 200]);
    expect((await box.ask('GET', '/api/license', undefined, { authorization })).body).toMatchObject({ access: 'viewer' });
    expect((await box.ask('GET', '/api/license')).body).toMatchObject({ access: 'full' });
    const license = await bench.vendor.licenseFile();
    for (const [method, path, body] of [['PUT', '/api/license', { license }], ['PUT', '/api/license?dry-run=all', { license }], ['POST', '/api/license/refresh'], ['POST', '/api/license/deactivate'], ['POST', '/api/usage', { meter: 'm', value: 1 }]] as const) {
      expect([method, path, await box.ask(method, path, body, { authorization })]).toMatchObject([method, path, { status: 403, body: { code: 'VIEWER_TOKEN', title: 'This token may look, and change nothing' } }]);
    }
    expect(await box.ask('GET', '/api/nothing', undefined, { authorization })).toMatchObject({ status: 404 });
    expect(await box.license()).toMatchObject({ status: 'none' });
    const without = await bench.start({ ...byFile, AGENT_DATA_DIR: join(bench.folder, 'without') });
    for (const authorization of ['Bearer viewer', 'Bearer undefined', 'Bearer']) expect(await without.ask('GET', '/api/license', undefined, { authorization })).toMatchObject({ status: 401 });
  });

  it.each([
    ['GET', '/api/nothing', undefined, 404, 'NOT_FOUND'], ['DELETE', '/api/license', undefined, 405, 'METHOD_NOT_ALLOWED'], ['POST', '/api/enforcement', {}, 405, 'METHOD_NOT_ALLOWED'], ['PUT', '/api/features/a', {}, 405, 'METHOD_NOT_ALLOWED'],
    ['PUT', '/api/license', '{', 400, 'MALFORMED_JSON'], ['PUT', '/api/license', {}, 400, 'VALIDATION_FAILED'], ['PUT', '/api/license', { license: 1 }, 400, 'VALIDATION_FAILED'], ['PUT', '/api/license', [], 400, 'VALIDATION_FAILED'],
    ['PUT', '/api/license', { license: 'x', more: 1 }, 400, 'VALIDATION_FAILED'], ['PUT', '/api/license', { license: ' ' }, 400, 'VALIDATION_FAILED'], ['PUT', '/api/license', { license: 'x'.repeat(300_000) }, 413, 'BODY_TOO_LARGE'],
    ['POST', '/api/usage', { meter: 'm' }, 400, 'VALIDATION_FAILED'], ['POST', '/api/usage', { meter: 'm', value: -1 }, 400, 'VALIDATION_FAILED'], ['POST', '/api/usage', { records: [] }, 400, 'VALIDATION_FAILED'],
    ['POST', '/api/usage', { records: [{ meter: 'm', value: 1, at: 'yesterday' }] }, 400, 'VALIDATION_FAILED'], ['POST', '/api/usage', { records: [{ meter: 'a\u0000', value: 1 }] }, 400, 'VALIDATION_FAILED'],
  ])('%s %s with %j is refused: %i %s', async (method, path, body, status, code) => {
    const box = await bench.start(byFile);
    expect(await box.ask(method, path, body)).toMatchObject({ status, body: { status, code, type: `/docs/errors#${code}`, title: expect.any(String), detail: expect.any(String), instance: path } });
    expect(await box.ask('GET', '/api/enforcement')).toMatchObject({ status: 200 });
  });

  it('takes JSON only, and no more of it than there may be', async () => {
    const box = await bench.start(byFile);
    expect(await box.ask('PUT', '/api/license', 'license=x', { 'content-type': 'application/x-www-form-urlencoded' })).toMatchObject({ status: 415, body: { code: 'UNSUPPORTED_MEDIA_TYPE' } });
    const { port } = new URL(box.agent.url);
    const status = await new Promise((resolve, reject) => {
      const request = requestBy({ port, host: '127.0.0.1', method: 'PUT', path: '/api/license', headers: { authorization: 'Bearer token', 'content-type': 'application/json', 'transfer-encoding': 'chunked' } }, (response) => resolve(response.statusCode));
      request.on('error', reject);
      for (let n = 0; n < 5; n++) request.write('x'.repeat(65_536));
      request.end();
    });
    expect(status).toBe(413);
  });

  it('says where a body is wrong', async () => {
    const box = await bench.start(byFile);
    expect(await box.ask('POST', '/api/usage', { records: [{ meter: 'm', value: 1 }, { meter: 'm', value: 'x' }] })).toMatchObject({ body: { errors: [{ pointer: '/records/1/value' }] } });
  });

  it('takes no reading that the server would not take', async () => {
    const box = await bench.start(byFile);
    const use = async (reading: object) => (await box.ask('POST', '/api/usage', { meter: 'm', value: 1, ...reading })).body['code'];
    const nowhere = ['2026-02-30T10:00:00Z', '2026-04-31T10:00:00+02:00', '2026-02-29T10:00:00Z', '2026-02-28T24:00:00Z', '2026-13-01T10:00:00Z', '2026-02-28T10:00Z', '2026-02-28T10:00:60Z', '2026-02-28T10:00:00+24:00', '2026-02-28T10:00:00'];
    for (const at of nowhere) expect([at, await use({ at })]).toEqual([at, 'VALIDATION_FAILED']);
    for (const at of ['2024-02-29T23:59:59.999Z', '2026-02-28t10:00:00.123456z', '2026-02-28T00:30:00+05:30']) expect([at, await use({ at })]).toEqual([at, 'NO_LICENSE']);
    for (const half of ['\ud83d', 'a\udc00b']) expect([await use({ meter: half }), await use({ id: half })]).toEqual(['VALIDATION_FAILED', 'VALIDATION_FAILED']);
    expect(await use({ meter: '\ud83d\ude00', id: '\ud83d\ude00' })).toBe('NO_LICENSE');
  });

  it('refuses whatever it does not know in a query, so that a misspelt dry run installs nothing', async () => {
    const box = await bench.start(byFile);
    const license = await bench.vendor.licenseFile({ license: { ...bench.vendor.terms, validationMode: 'offline' } });
    for (const query of ['?dryRun=all', '?dry_run=all', '?DRY-RUN=all', '?dry-run=all&more', '?dry-run=yes', '?dry-run=no&dry-run=all', '?dry-run', '??dryRun=all', '?dry-run=all?']) {
      expect([query, await box.put(license, query)]).toMatchObject([query, { status: 400, body: { code: 'VALIDATION_FAILED' } }]);
    }
    expect(await box.license()).toMatchObject({ status: 'none' });
    expect(await box.put(license, '?dry-run=all')).toMatchObject({ status: 200, body: { applied: false } });
    for (const [method, path] of [['GET', '/api/license'], ['GET', '/api/license/request'], ['GET', '/api/enforcement'], ['GET', '/api/features/x'], ['POST', '/api/license/refresh'], ['POST', '/api/license/deactivate'], ['POST', '/api/usage']] as const) {
      expect([path, await box.ask(method, `${path}?dry-run=all`)]).toMatchObject([path, { status: 400, body: { code: 'VALIDATION_FAILED', instance: path, errors: [{ pointer: '/dry-run' }] } }]);
    }
    expect((await box.ask('GET', '/api/enforcement?x', undefined, { authorization: '' })).status).toBe(401);
  });

  it('answers HEAD wherever it answers GET, without the body', async () => {
    const box = await bench.start(byFile);
    for (const path of ['/api/license', '/api/license/request', '/api/enforcement', '/api/features/x', '/health/live', '/metrics', '/']) {
      const response = await fetch(box.agent.url + path, { method: 'HEAD', headers: { authorization: 'Bearer token' } });
      expect([path, response.status, Number(response.headers.get('content-length')) > 0, await response.text()]).toEqual([path, 200, true, '']);
    }
    expect((await fetch(`${box.agent.url}/api/enforcement`, { method: 'HEAD' })).status).toBe(401);
  });
});

describe('The page', () => {
  it('is served without the token, with a policy that lets in nobody else\'s code, and nothing beside it', async () => {
    const box = await bench.start(byFile);
    const { status, headers, body } = await box.ask<string>('GET', '/', undefined, { authorization: '' });
    expect([status, headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8']);
    expect(body).toMatch('<h1>License Management</h1>');
    expect(headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self'; .*frame-ancestors 'none'$/);
    expect((await box.ask('GET', '/page.css', undefined, { authorization: '' })).headers.get('content-type')).toBe('text/css; charset=utf-8');
    for (const path of ['/main.ts', '/../server.ts', '/..%2fserver.ts', '/%2e%2e/server.ts', '/page/', '/__proto__', '//index.html']) expect([path, (await box.ask('GET', path)).status]).toEqual([path, 404]);
    expect(await box.ask('POST', '/', {})).toMatchObject({ status: 405 });
    expect((await box.ask('HEAD', '/')).status).toBe(200);
  });
});

describe('Over the network', () => {
  const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
  (hasOpenssl ? it : it.skip)('it speaks TLS', async () => {
    const [cert, key] = [join(bench.folder, 'cert.pem'), join(bench.folder, 'key.pem')];
    spawnSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', cert]);
    const box = await bench.start({ ...byFile, AGENT_TLS_CERT: cert, AGENT_TLS_KEY: key });
    const { port, protocol } = new URL(box.agent.url);
    const status = await new Promise((resolve, reject) => {
      requestByTls({ host: '127.0.0.1', servername: 'localhost', port, path: '/api/enforcement', ca: readFileSync(cert), headers: { authorization: 'Bearer token' } }, (response) => resolve(response.statusCode)).on('error', reject).end();
    });
    expect([protocol, status]).toEqual(['https:', 200]);
  });

  it('goes through the proxy, but to whom it must not', async () => {
    const asked: string[] = [];
    const proxy = createServer((request, response) => {
      asked.push(`${request.url} ${request.headers['proxy-authorization']}`);
      response.writeHead(404, { 'content-type': 'application/problem+json' }).end('{"code":"LICENSE_NOT_FOUND","detail":"not here"}');
    }).on('connect', (request, socket) => {
      asked.push(`${request.url} ${request.headers['proxy-authorization']}`);
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    }).listen(0, '127.0.0.1');
    await once(proxy, 'listening');
    const own = `Basic ${Buffer.from('user:hidden').toString('base64')}`;
    const env = { LICENSE_KEY: '', HTTPS_PROXY: `http://user:hidden@127.0.0.1:${(proxy.address() as AddressInfo).port}` };
    const start = (name: string, more: object) => bench.start({ ...env, AGENT_DATA_DIR: join(bench.folder, name), ...more }, { fetch: undefined });
    const plain = await start('plain', { KEYLEDGER_SERVER_URL: 'http://licenses.invalid' });
    expect(await plain.license()).toMatchObject({ server: { proxy: expect.stringContaining('127.0.0.1'), noProxy: null } });
    expect(await plain.put('LICENSE-KEY')).toMatchObject({ status: 404, body: { code: 'LICENSE_NOT_FOUND', detail: 'not here' } });
    expect(asked.splice(0)).toEqual([`http://licenses.invalid/license/activate ${own}`]);
    const secure = await start('secure', { KEYLEDGER_SERVER_URL: 'https://licenses.invalid' });
    expect(await secure.put('LICENSE-KEY')).toMatchObject({ status: 502, body: { code: 'NO_OUTBOUND_ACCESS' } });
    expect(new Set(asked.splice(0))).toEqual(new Set([`licenses.invalid:443 ${own}`]));
    expect(JSON.stringify(await secure.license())).not.toMatch('hidden');
    const straight = await start('straight', { KEYLEDGER_SERVER_URL: 'https://licenses.invalid', NO_PROXY: 'licenses.invalid' });
    expect(await straight.license()).toMatchObject({ server: { noProxy: 'licenses.invalid' } });
    expect(await straight.put('LICENSE-KEY')).toMatchObject({ status: 502, body: { code: 'NO_OUTBOUND_ACCESS' } });
    expect(asked).toEqual([]);
    proxy.closeAllConnections();
    proxy.close();
  }, 20_000);
});

describe('The process', () => {
  const running = new Set<ChildProcess>();
  afterEach(() => running.forEach((child) => child.kill('SIGKILL')));

  /** Resolves to what it has printed when it is ready, or has ended. */
  async function start(env: NodeJS.ProcessEnv): Promise<{ printed: string; url: string; ended: Promise<unknown[]>; child: ChildProcess }> {
    const child = spawn(process.execPath, [fileURLToPath(new URL('../dist/main.js', import.meta.url))], { env: { PATH: process.env['PATH'], AGENT_PORT: '0', AGENT_DATA_DIR: join(bench.folder, 'data'), ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    const ended = once(child, 'close').finally(() => running.delete(child));
    let printed = '';
    const ready = new Promise<void>((resolve) => {
      for (const stream of [child.stdout, child.stderr]) stream?.on('data', (data: Buffer) => (printed += String(data)).includes('is ready at') && resolve());
    });
    await Promise.race([ready, ended]);
    return { printed, url: /ready at (\S+)/.exec(printed)?.[1] ?? '', ended, child };
  }

  it('makes a token, prints it once, keeps it for its owner only, and ends in order', async () => {
    const KEYLEDGER_ROOT_PUBLIC_KEY = JSON.stringify(bench.vendor.roots[0]);
    const { printed, url, child, ended } = await start({ KEYLEDGER_ROOT_PUBLIC_KEY });
    const token = /^Agent token \(.+\): (\S{43})$/m.exec(printed)?.[1] ?? '';
    expect(readFileSync(join(bench.folder, 'data/token'), 'utf8').trim()).toBe(token);
    expect(statSync(join(bench.folder, 'data/token')).mode & 0o777).toBe(0o600);
    expect((await fetch(`${url}/api/enforcement`, { headers: { authorization: `Bearer ${token}` } })).status).toBe(200);
    child.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
    const again = await start({ KEYLEDGER_ROOT_PUBLIC_KEY });
    expect(again.printed).not.toMatch(token);
    expect((await fetch(`${again.url}/api/enforcement`, { headers: { authorization: `Bearer ${token}` } })).status).toBe(200);
  });

  it('does not start where another one answers, and leaves what that one has alone', async () => {
    const KEYLEDGER_ROOT_PUBLIC_KEY = JSON.stringify(bench.vendor.roots[0]);
    const first = await start({ KEYLEDGER_ROOT_PUBLIC_KEY });
    const before = readdirSync(join(bench.folder, 'data'));
    const { printed, ended } = await start({ KEYLEDGER_ROOT_PUBLIC_KEY, AGENT_PORT: new URL(first.url).port, LICENSE_MACHINE_ID: 'other' });
    expect(await ended).toEqual([1, null]);
    expect(printed).toMatch('EADDRINUSE');
    expect(readdirSync(join(bench.folder, 'data'))).toEqual(before);
  });

  it('does not start with a wrong variable, and names it', async () => {
    const { printed, ended } = await start({ AGENT_HOST: '0.0.0.0' });
    expect(printed).toMatch(/^AGENT_HOST is 0\.0\.0\.0/);
    expect(await ended).toEqual([1, null]);
    rmSync(join(bench.folder, 'data'), { recursive: true, force: true });
  });
});
