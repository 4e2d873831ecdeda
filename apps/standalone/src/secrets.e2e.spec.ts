import { afterAll, describe, expect, it } from '@jest/globals';
import type { InstanceView } from '@keyledger/contracts';
import { rowsIn } from '@keyledger/testing/kept';
import { offer, onFiles, Product, Secrets, sell, type Answer, type Method, type Sold } from '@keyledger/testing/process';

/** Here, as in every other end-to-end test, `stop` looks for the secrets in all that the product has printed, at LOG_LEVEL=trace. */
const products: Product[] = [];
async function start(): Promise<Product> {
  const product = await Product.start();
  products.push(product);
  return product;
}
afterAll(() => Promise.all(products.map((product) => product.stop())));

interface Known {
  readonly secrets: readonly string[];
  readonly license: Sold;
  readonly instance: string;
}

/** One license key of each look, and an API key. */
async function makeSecrets({ root, app, rootKey }: Product): Promise<Known> {
  const { product: made, plan } = await offer(root);
  const formats = [{ kind: 'crockford', prefix: 'paint' }, { kind: 'uuid' }, { kind: 'chunks' }, { kind: 'pattern', pattern: '####.####.####.####.####.####.####.####' }];
  const generated = await Promise.all(formats.map(async (keyFormat) => {
    const { id: generatorId } = await root.post<{ id: string }>('/generators', { name: 'g', productId: made.id, keyFormat });
    return (await root.post<Sold>('/licenses', { productId: made.id, generatorId })).key;
  }));
  const license = await sell(root, plan.id);
  const { secret } = await root.post<{ secret: string }>('/api-keys', { name: 'k', role: 'support' });
  const { instance } = await app.post<{ instance: InstanceView }>('/license/activate', { licenseKey: license.key });
  return { secrets: [...generated, license.key, secret, rootKey], license, instance: instance.id };
}

interface Asked {
  readonly method: Method;
  readonly path: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

const get = (...paths: readonly string[]): Asked[] => paths.map((path) => ({ method: 'GET', path }));
const send = (method: Method, path: string, ...bodies: readonly unknown[]): Asked[] => bodies.map((body) => ({ method, path, body }));
const withHeaders = (path: string, body: unknown, ...headers: readonly Readonly<Record<string, string>>[]): Asked[] => headers.map((own) => ({ method: body ? 'POST' : 'GET', path, body, headers: own }));

/** The secret where it belongs, where it does not, and where nobody would look for it; not as Request-Id, which is logged because its sender wants it to be. */
function places(secret: string, { license: { id }, instance }: Known): Asked[] {
  const encoded = encodeURIComponent(secret);
  const clientBodies = [
    { licenseKey: secret }, { licenseKey: [secret] }, { licenseKey: { key: secret } }, { licenseKey: `${secret}!`.repeat(20) }, { licenseKey: secret, [secret]: secret }, { key: secret }, [secret],
    { licenseKey: secret, instanceId: secret }, { licenseKey: secret, fingerprint: 1, instanceName: [secret] }, { licenseKey: secret, metadata: { [secret]: secret } }, { licenseKey: secret, metadata: secret },
    secret, `{"licenseKey":"${secret}"`, `"${secret}"`, `licenseKey=${encoded}`, `{"licenseKey":"${secret}","licenseKey":"\u0000"}`, `{"__proto__":"${secret}"}`, `{"licenseKey":"${secret}\\ud800"}`,
  ];
  return [
    ...get(
      `/licenses/${encoded}`, `/licenses?q=${encoded}`, `/licenses/suggest?q=${encoded}`, `/licenses?cursor=${encoded}`, `/licenses?key=${encoded}`, `/license/validate?licenseKey=${encoded}`, `/${encoded}`,
      `/licenses?status=${encoded}`, `/licenses?sort=${encoded}`, `/licenses?createdAfter=${encoded}`, `/me?api_key=${encoded}`, `/licenses/${id}/activations?cursor=${encoded}`,
      `/licenses/${id}/events?cursor=${encoded}`, `/docs/${encoded}`, `/openapi.json?token=${encoded}`, `/%zz${encoded}`, `/licenses/${encoded.repeat(8)}`,
    ),
    ...['validate', 'activate', 'deactivate'].flatMap((action) => send('POST', `/license/${action}`, ...clientBodies)),
    ...withHeaders('/license/validate', { licenseKey: secret },
      { 'content-type': 'text/plain' }, { 'content-type': secret }, { 'idempotency-key': secret }, { 'idempotency-key': secret.repeat(20) }, { 'x-environment': secret },
      { traceparent: secret }, { authorization: secret }, { authorization: `Basic ${Buffer.from(`${secret}:`).toString('base64')}` }, { authorization: `License ${secret}` }, { cookie: `key=${secret}` },
      { 'user-agent': secret }, { 'x-api-key': secret }, { accept: secret }, { 'if-match': secret }),
    ...withHeaders('/me', undefined, { authorization: `Bearer ${secret}` }, { authorization: `Bearer ${secret}x` }, { authorization: `Bearer ${secret}`, 'x-environment': 'staging' }),
    ...send('POST', '/products', { name: secret, code: secret }, { nam: secret }),
    ...send('POST', '/orders', { planId: secret, customer: { name: secret, email: secret } }),
    ...send('PATCH', `/licenses/${id}`, { key: secret }, { metadata: { a: secret.repeat(1000) } }),
    ...send('POST', `/licenses/${id}/suspend`, { cause: secret }),
    ...send('POST', `/licenses/${id}/renew`, { expiresAt: secret, reason: secret }),
    ...send('DELETE', `/licenses/${id}/activations/${encoded}`, undefined),
    ...send('DELETE', `/licenses/${id}/activations/${instance}`, secret),
    ...send('DELETE', `/api-keys/${encoded}`, undefined),
    ...send('POST', '/api-keys', { name: secret, role: secret }, { name: secret, role: 'viewer', environment: secret }),
  ];
}

/** Some of the places are no HTTP: whether the client sends them or refuses to is all the same here. */
async function sendAll(product: Product, known: Known): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const secret of known.secrets) {
    const sent = places(secret, known).map(({ method, path, body, headers }) => product.root.ask(method, path, body, headers).catch(() => undefined));
    answers.push(...(await Promise.all(sent)).filter((answer) => answer !== undefined));
  }
  return answers;
}

/** Takes the tables from under the services. */
async function breakStores(product: Product): Promise<void> {
  const owned = (name: string) => ['authority', 'access', 'catalog'].map((service) => `${name} like '${service}%'`).join(' or ');
  for (const [kind, what, type] of [['state', 'table', 'BASE TABLE'], ['read', 'view', 'VIEW']] as const) {
    const tables = onFiles
      ? rowsIn<{ name: string }>(product, 'production', kind, `select name from sqlite_master where type = ? and (${owned('name')})`, [what])
      : rowsIn<{ name: string }>(product, 'production', kind, `select table_name as name from information_schema.tables where table_schema = current_schema() and table_type = ? and (${owned('table_name')})`, [type]);
    for (const { name } of await tables) await rowsIn(product, 'production', kind, `drop ${what} "${name}"`);
  }
}

describe('The log', () => {
  it('holds no license key and no API key, wherever somebody puts one', async () => {
    const product = await start();
    const answers = await sendAll(product, await makeSecrets(product));
    expect(answers.length).toBeGreaterThan(500);
    expect(answers.filter(({ status }) => status >= 500)).toEqual([]);
    expect([...new Set(answers.map(({ status }) => status))]).toEqual(expect.arrayContaining([200, 201, 400, 401, 404, 415, 422]));
    const metrics = await product.app.get<string>('/metrics');
    expect(product.secrets.tracesIn(Buffer.from(metrics))).toEqual([]);
    expect(product.secrets.tracesIn(product.printed)).toEqual([]);
  });

  it('holds none either when the stores fail, which it tells at length', async () => {
    const product = await start();
    const known = await makeSecrets(product);
    await breakStores(product);
    const answers = await sendAll(product, known);
    const failed = answers.filter(({ status }) => status === 500);
    expect(failed.length).toBeGreaterThan(20);
    for (const { body } of failed) {
      expect(Object.keys(body as object).sort()).toEqual(['code', 'detail', 'instance', 'requestId', 'status', 'title', 'type']);
      expect(JSON.stringify(body)).not.toMatch(/no such|does not exist|select |sqlite|postgres|\bat /i);
    }
    expect(product.printed.toString().match(/"level":"error"/g)?.length).toBeGreaterThan(20);
    expect(product.secrets.tracesIn(product.printed)).toEqual([]);
  });

  it('is searched for every spelling: a leak would be seen', () => {
    const known = new Secrets();
    const key = 'PAINT-Q1ZKN7F-M2TH9XA-0B4CD6E-8GHJKMN';
    known.add(key);
    const bare = key.replaceAll('-', '');
    for (const leak of [key, key.toLowerCase(), bare, bare.toLowerCase(), encodeURIComponent(key), Buffer.from(key).toString('hex'), Buffer.from(`{"licenseKey":"${key}"}`).toString('base64'), `…${key.slice(-13)}`]) {
      expect({ leak, found: known.tracesIn(Buffer.from(`before ${leak} after`)).length }).toEqual({ leak, found: 1 });
    }
    expect(known.tracesIn(Buffer.from('{"licenseKey":"PAINT-Q1…","keyPrefix":"Q1ZKN7FM"}'))).toEqual([]);
  });
});
