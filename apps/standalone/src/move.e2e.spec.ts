import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { afterAll, expect, it } from '@jest/globals';
import type { ApiKeyView, CustomerView, InstanceView, OrderView } from '@keyledger/contracts';
import { describeWith } from '@keyledger/servers/contract';
import { offer, Product, sell, validate, type Answer, type Client, type Headers, type Mode, type Sold } from '@keyledger/testing/process';
import { dumps } from './dumps.contract.ts';

const folder = mkdtempSync(join(tmpdir(), 'keyledger-move-'));
const documented = /<!-- executed by \S+ -->\n```sh\n([\s\S]*?)```/.exec(readFileSync(new URL('../../../docs/operations/move.md', import.meta.url), 'utf8'))?.[1] ?? '';
const cli = fileURLToPath(new URL('../../../dist/cli.js', import.meta.url));

/** What a vendor and his customers have in their hands: it must mean the same wherever the product has moved to. */
interface Known {
  readonly licenses: readonly Sold[];
  /** Of licenses that have another one now. */
  readonly oldKeys: readonly string[];
  readonly erased: readonly Sold[];
  readonly apiKeys: readonly (ApiKeyView & { readonly secret: string })[];
  /** Asked for once, and answered. */
  readonly once: { readonly path: string; readonly body: unknown; readonly headers: Headers; readonly answer: Answer };
}

/** Something of everything, in one environment. */
async function live(api: Client, app: Client, mark: string): Promise<Known> {
  const { product, plan } = await offer(api, { activationLimit: 3, expiry: { value: 1, unit: 'years' } });
  await api.post('/generators', { name: `${mark} generator`, productId: product.id, keyFormat: { kind: 'chunks', prefix: 'gen' } });
  const { id: customerId } = await api.post<CustomerView>('/customers', { name: `Ünïcödé ${mark}`, email: `${mark}@example.com` });
  const { licenses } = await api.post<OrderView>('/orders', { planId: plan.id, customerId, quantity: 12 }) as { licenses: readonly Sold[] };
  for (const { key } of licenses) await app.post('/license/activate', { licenseKey: key, fingerprint: `${mark} laptop`, instanceName: `${mark} laptop`, metadata: { os: 'linux' } });
  const [suspended, inactive, revoked, edited, regenerated, left, ...others] = licenses as [Sold, Sold, Sold, Sold, Sold, Sold, ...Sold[]];
  await api.post(`/licenses/${suspended.id}/suspend`, { cause: 'payment', reason: 'unpaid' });
  await api.post(`/licenses/${inactive.id}/inactivate`, {});
  await api.post(`/licenses/${revoked.id}/revoke`, { reason: 'refunded' });
  await api.patch(`/licenses/${edited.id}`, { activationLimit: 7, metadata: { note: mark }, features: { sso: true } });
  const renewed = await api.post<Sold>(`/licenses/${regenerated.id}/regenerate-key`, {});
  const { instance } = await app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: left.key, fingerprint: `${mark} desktop` });
  await app.post('/license/deactivate', { licenseKey: left.key, instanceId: instance.id });
  const erased = [await sell(api, plan.id), others[0] as Sold];
  for (const { id } of erased) await api.delete(`/licenses/${id}`, { reason: 'asked for', force: true });
  const apiKeys = [];
  for (const role of ['viewer', 'super_admin'] as const) apiKeys.push(await api.post<Known['apiKeys'][number]>('/api-keys', { name: `${mark} ${role}`, role }));
  const [path, body, headers] = ['/orders', { planId: plan.id, customerId }, { 'idempotency-key': `${mark} once` }];
  const answer = await api.ask('POST', path, body, headers);
  return {
    licenses: [suspended, inactive, revoked, edited, renewed, left, ...others.slice(1), ...(answer.body as { licenses: Sold[] }).licenses],
    oldKeys: [regenerated.key], erased, apiKeys, once: { path, body, headers, answer },
  };
}

const lists = ['/licenses?sort=createdAt&limit=100', '/licenses?q=nicode', '/licenses/totals', '/products', '/customers', '/orders', '/generators', '/api-keys', '/.well-known/jwks.json'];

/** What the product says of it all, but for what is different in every answer. */
async function answers(product: Product, root: Client, environment: string, { licenses, oldKeys, erased, apiKeys, once }: Known): Promise<unknown> {
  const [api, app] = [root.in(environment), product.app.in(environment)];
  const verdictOf = async (key: string) => {
    const { checkedAt: _, decisionId: __, ...verdict } = await validate(app, key, { fingerprint: 'another machine' });
    return verdict;
  };
  const bodyOf = async (path: string, client = api) => {
    const { status, body } = await client.ask<Record<string, unknown>>('GET', path);
    const { requestId: _, ...rest } = body ?? {};
    return { status, ...rest };
  };
  const { status, body, headers } = await api.ask('POST', once.path, once.body, once.headers);
  return {
    licenses: await Promise.all(licenses.map(async ({ id, key }) => [await bodyOf(`/licenses/${id}`), await bodyOf(`/licenses/${id}/activations`), await bodyOf(`/licenses/${id}/events`), await verdictOf(key)])),
    gone: await Promise.all([...erased.map(({ key }) => key), ...oldKeys].map(verdictOf)),
    erased: await Promise.all(erased.map(({ id }) => bodyOf(`/licenses/${id}`))),
    callers: await Promise.all(apiKeys.map(({ secret }) => bodyOf('/me', product.as(secret).in(environment)))),
    once: { status, body, replayed: headers['idempotency-replayed'] },
    lists: Object.fromEntries(await Promise.all(lists.map(async (path) => [path, await bodyOf(path)]))),
  };
}

function keyledger(args: readonly string[], env: NodeJS.ProcessEnv): string {
  const { status, stderr } = spawnSync(process.execPath, [cli, ...args], { env: { PATH: process.env['PATH'], ...env }, encoding: 'utf8' });
  if (status !== 0) throw new Error(`keyledger ${args.join(' ')} ended with ${status}: ${stderr}`);
  return stderr.trim();
}

/** What the documentation says, in a folder whose `data` are those of an installation: it exports them to a file and imports that into a database. */
function asDocumented(dataDir: string, databaseUrl: string): Buffer {
  const home = join(folder, 'home');
  mkdirSync(home);
  symlinkSync(dataDir, join(home, 'data'));
  const example = 'postgresql://keyledger:password@db.example.com:5432/keyledger';
  expect(documented).toContain(example);
  const script = documented.replaceAll('npm run keyledger --', `'${process.execPath}' '${cli}'`).replace(example, databaseUrl);
  const { status, stderr } = spawnSync('bash', ['--norc', '-eo', 'pipefail', '-c', script], { cwd: home, env: { PATH: process.env['PATH'] }, encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 0, stderr: expect.stringMatching(/^Exported [\d,]+ events and [\d,]+ rows\nImported [\d,]+ events and [\d,]+ rows\n$/) });
  return readFileSync(join(home, 'keyledger.export'));
}

/** Events and rows of an export, but not when it was made, nor in what order a database keeps rows. */
const linesOf = (bytes: Buffer): string[] => {
  const lines = gunzipSync(bytes).toString().trimEnd().split('\n');
  expect(JSON.parse(lines.at(-1) as string)).toEqual({ sha256: expect.stringMatching(/^[0-9a-f]{64}$/) });
  const contents = lines.slice(1, -1);
  expect(contents.length).toBeGreaterThan(100);
  const inOrder = contents.map((line) => {
    const { row, ...rest } = JSON.parse(line) as { row?: Record<string, unknown> };
    return JSON.stringify(row ? { ...rest, row: Object.fromEntries(Object.entries(row).sort()) } : rest);
  });
  return [...inOrder.filter((line) => line.includes('"event":')), ...inOrder.filter((line) => !line.includes('"event":')).sort()];
};

function exported(name: string, env: NodeJS.ProcessEnv): { readonly file: string; readonly lines: readonly string[] } {
  const file = join(folder, name);
  keyledger(['export', '--to', file], env);
  return { file, lines: linesOf(readFileSync(file)) };
}

describeWith('postgres', 'An installation that outgrows its machine', (server) => {
  const products: Product[] = [];
  const started = async (env: NodeJS.ProcessEnv, as: Mode) => {
    const product = await Product.start(env, as);
    products.push(product);
    return product;
  };
  afterAll(async () => {
    for (const product of products) await product.stop();
    rmSync(folder, { recursive: true });
  });

  it('is the same on PostgreSQL, as one process and as many, and back on files', async () => {
    const home = await started({}, 'standalone');
    const known = {
      production: await live(home.root, home.app, 'one'),
      staging: await live(home.root.in('staging'), home.app.in('staging'), 'two'),
    };
    const all = async (product: Product) => {
      const root = product.as(home.rootKey);
      return { production: await answers(product, root, 'production', known.production), staging: await answers(product, root, 'staging', known.staging) };
    };
    const before = await all(home);
    for (const part of ['"replayed":"true"', ...['VALID', 'SUSPENDED', 'INACTIVE', 'REVOKED', 'NOT_FOUND'].map((code) => `"${code}"`)]) expect(JSON.stringify(before)).toContain(part);
    await home.terminate();

    const keys = { KEYLEDGER_MASTER_KEY_FILE: join(home.dataDir, 'master.key') };
    const database = { ...keys, KEYLEDGER_DATA_DIR: join(folder, 'elsewhere'), DATABASE_URL: server().url };
    const rows = await dumps({ KEYLEDGER_DATA_DIR: home.dataDir });
    const file = asDocumented(home.dataDir, server().url);
    expect(exported('arrived.gz', database).lines).toEqual(linesOf(file));
    expect(await dumps(database)).toEqual(rows);

    const asTheyWere = { ...database, KEYLEDGER_ROOT_API_KEY: home.rootKey };
    const one = await started(asTheyWere, 'standalone');
    expect(await all(one)).toEqual(before);
    await one.terminate();

    const many = await started(asTheyWere, 'distributed');
    expect(await all(many)).toEqual(before);
    const [, inactive, , license] = known.production.licenses as [Sold, Sold, Sold, Sold];
    await many.as(home.rootKey).post(`/licenses/${inactive.id}/reactivate`, {});
    const { instance } = await many.app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: license.key, fingerprint: 'made on many' });
    const after = await all(many);
    await many.terminate();

    const back = { ...keys, KEYLEDGER_DATA_DIR: join(folder, 'back') };
    const home2 = exported('back.gz', database);
    keyledger(['import', '--from', home2.file], back);
    expect(exported('returned.gz', back).lines).toEqual(home2.lines);
    const again = await started({ ...back, KEYLEDGER_ROOT_API_KEY: home.rootKey }, 'standalone');
    expect(await all(again)).toEqual(after);
    expect(await validate(again.app, license.key, { instanceId: instance.id })).toMatchObject({ valid: true, instance: { id: instance.id } });
  }, 240_000);
}, { durable: true, settings: { max_connections: 400 } });
