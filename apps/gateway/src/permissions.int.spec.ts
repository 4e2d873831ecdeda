import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Conformance } from './conformance.contract.ts';
import { gatewayWithFakes, sampleId, sampleOf, type FakedGateway } from './fakes.contract.ts';
import { permissionTable } from './permissions.table.ts';

const [columns = '', ...lines] = permissionTable.split('\n').filter(Boolean);
const roles = columns.trim().split(/\s+/);
const isRow = (line: string): boolean => /^ {2}[A-Z]/.test(line);
const rows = lines.filter(isRow).map((line) => {
  const [method = '', path = '', ...cells] = line.trim().split(/\s+/);
  const section = lines.slice(0, lines.indexOf(line)).findLast((other) => !isRow(other)) ?? '';
  return {
    method, path, allowed: roles.filter((_, n) => cells[n] === 'x'), byLicenseKey: section.endsWith("or the license's own key"), isOpen: cells.length === 0,
    isWhole: cells.length === 0 || (cells.length === roles.length && cells.every((cell) => 'x.'.includes(cell))),
  };
});

describe('The permission table', () => {
  let gateway: FakedGateway;
  let conformance: Conformance;
  beforeAll(async () => {
    gateway = await gatewayWithFakes();
    conformance = new Conformance((await gateway.call('GET', '/openapi.json')).json);
  });
  afterAll(() => gateway.close());

  const idIn = (path: string): string => path
    .replace(':instanceId', sampleId('act'))
    .replace(':kid', 'A'.repeat(43))
    .replace(':id', sampleId(({ products: 'prd', plans: 'pln', customers: 'cus', orders: 'ord', generators: 'gen', jobs: 'job', 'api-keys': 'key', 'webhook-endpoints': 'whk', 'webhook-deliveries': 'whd' } as Record<string, string>)[path.split('/')[1] ?? ''] ?? 'lic'));
  const bodyFor = (method: string, path: string): unknown => {
    const { operation } = conformance.operations.find((one) => one.method === method && one.path === path.replaceAll(/:(\w+)/g, '{$1}')) ?? {};
    const { content } = (operation?.['requestBody'] ?? {}) as { content?: Record<string, { schema: object }> };
    if (content?.['text/csv']) return 'licenseKey,customerEmail\nK,ada@example.com\n';
    return content ? requiredOf(content['application/json']?.schema ?? {}) : undefined;
  };
  const requiredOf = (schema: { required?: string[]; properties?: Record<string, object> }) =>
    Object.fromEntries((schema.required ?? []).map((name) => [name, '$ref' in (schema.properties?.[name] ?? {}) ? { kind: 'crockford' } : sampleOf(schema.properties?.[name] ?? {})]));
  const query = (path: string) => ({ suggest: '?q=a', usage: '?meter=cores', explain: '?meter=cores&day=2026-03-12' })[path.split('/').at(-1) ?? ''] ?? '';
  const ask = (method: string, path: string, as: string, headers = {}) => {
    const body = method === 'GET' ? undefined : bodyFor(method, path);
    return gateway.call(method, idIn(path) + (method === 'POST' ? '' : query(path)), { as, body, headers: { ...(typeof body === 'string' && { 'content-type': 'text/csv' }), ...headers } });
  };

  it('has a row for every route, and a route for every row', () => {
    const served = conformance.operations.map(({ method, path }) => `${method} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`);
    expect(rows.map(({ method, path }) => `${method} ${path}`).sort()).toEqual(served.sort());
    expect(rows.filter(({ isWhole }) => !isWhole)).toEqual([]);
    expect(roles).toHaveLength(6);
  });

  it.each(rows.filter(({ isOpen }) => !isOpen))('holds for $method $path', async ({ method, path, allowed }) => {
    for (const role of roles) {
      for (const [as, headers] of [[`${role}@production`, {}], [`${role}@staging`, {}], [`${role}@staging`, { 'x-environment': 'staging' }], [`${role}@root`, { 'x-environment': 'staging' }]] as const) {
        const sentBefore = gateway.sent.length;
        const { status, json } = await ask(method, path, as, headers);
        if (allowed.includes(role)) expect({ role, refused: status < 300 ? 'no' : json }).toEqual({ role, refused: 'no' });
        else expect({ role, status, code: json.code, work: gateway.sent.slice(sentBefore).map(({ subject }) => subject) }).toEqual({ role, status: 403, code: 'PERMISSION_DENIED', work: ['access.authenticate'] });
      }
      const { status, json } = await ask(method, path, `${role}@staging`, { 'x-environment': 'production' });
      expect({ role, status, code: json.code }).toEqual({ role, status: 403, code: 'ENVIRONMENT_FORBIDDEN' });
    }
    for (const as of ['', 'stranger', 'viewer@']) expect(await ask(method, path, as)).toMatchObject({ status: 401, json: { code: 'UNAUTHENTICATED' } });
    if (method === 'GET') {
      expect((await ask('HEAD', path, '')).status).toBe(401);
      expect((await ask('HEAD', path, 'super_admin@root')).status).toBe(200);
    }
  });

  it.each(rows.filter(({ isOpen }) => !isOpen))('says whether the license\'s own key will do for $method $path', async ({ method, path, byLicenseKey }) => {
    for (const headers of [{}, { 'x-environment': 'staging' }]) {
      const { status, json } = await ask(method, path, '', { authorization: 'License ABCDEFG-HIJKLMN', ...headers });
      if (byLicenseKey) expect({ refused: status < 300 ? 'no' : json }).toEqual({ refused: 'no' });
      else expect({ status, code: json.code }).toEqual({ status: 401, code: 'UNAUTHENTICATED' });
    }
  });

  it.each(rows.filter(({ isOpen }) => isOpen))('needs no API key for $method $path', async ({ method, path }) => {
    expect((await ask(method, path, '')).status).toBeLessThan(300);
  });
});
