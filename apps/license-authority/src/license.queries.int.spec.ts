import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { paging, type CountAvailable, type ExportLicenses, type ListLicenseEvents, type ListLicenses, type SuggestLicenses, type TotalLicenses } from '@keyledger/contracts';
import { Customer, generateKey, keyPrefix, normaliseKey, Product, type KeyFormat, type LicenseCommand, type TermsInput } from '@keyledger/domain';
import { Aggregates, EventStores, SnapshotStores } from '@keyledger/event-store';
import { derivedId, newCommandId, runIn, systemContext, type CustomerId, type Instant, type LicenseId, type IdPrefix, type Permission, type ProductId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { InProcessTransport, type Fields } from '@keyledger/messaging';
import { openHost } from '@keyledger/process';
import { Projectors, ReadDatabases, StateDatabases } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { openStores } from '@keyledger/stores';
import { until } from '@keyledger/testing';
import { sql, type SqlBool } from 'kysely';
import { authorityProjections, authoritySchema } from './index.ts';
import { AvailableLicenses, LicenseEvents, LicenseExport, LicenseList, LicenseSuggestions, LicenseTable, LicenseTotals, LicenseViews } from './license.queries.ts';
import { Licenses } from './streams.ts';
import { Usage } from './usage.handlers.ts';

const environment = 'staging';
const now = '2026-11-21T12:00:00.000Z';
const inContext = <T>(work: () => T, permissions: readonly Permission[] = ['license.read']): T => {
  const system = systemContext(environment, now);
  return runIn({ ...system, actor: { ...system.actor, permissions } }, work);
};
const id = <P extends IdPrefix>(prefix: P) => derivedId(prefix, newCommandId(), now);
const key = 'ACME-7XXC90C-V60HD1W-Z53PM9S-T96AD8S';

/** What licenses are searched by, as it is: streams, read models and the questions. */
async function start(at: { readonly dataDir: string; readonly databaseUrl?: string | undefined }) {
  const host = await openHost('test', { logLevel: 'silent', tracing: { endpoint: undefined, disabled: true, sampleRatio: 1 } }, new InProcessTransport());
  const stores = await openStores({ ...at, databaseUrl: at.databaseUrl, masterKey: { value: undefined, file: undefined }, eventStoreUrl: undefined, connections: 2 }, host, [authoritySchema]);
  const provided = <T>(type: abstract new (...args: never[]) => T): T => (stores.providers.find((one) => typeof one === 'object' && 'provide' in one && one.provide === type) as { useValue: T }).useValue;
  const [events, keyrings, databases] = [provided(EventStores), provided(Keyrings), provided(ReadDatabases)];
  const licenses = new Licenses(events, keyrings, provided(SnapshotStores));
  const [customers, products] = [new Aggregates(Customer, events, keyrings), new Aggregates(Product, events, keyrings)];
  const projectors = await Projectors.start({ name: 'test', projections: authorityProjections, events, databases, sealings: keyrings, parked: () => undefined });
  const table = new LicenseTable(projectors, provided(StateDatabases), keyrings);
  const views = new LicenseViews(licenses, new Usage(host.messages), host.log);
  const [list, suggestions, totals, exported] = [new LicenseList(views, projectors, table), new LicenseSuggestions(projectors, table), new LicenseTotals(projectors, table), new LicenseExport(views, projectors, table)];
  return {
    listing: (work: () => Promise<void>) => inContext(() => projectors.listing(work)),
    lookUp: (hash: string) => inContext(() => table.byKeyHash(hash)),
    /** What is told of the licenses of a product at a moment. */
    toldOf: (productId: ProductId, at: Instant) => runIn(systemContext(environment, at), async () => {
      const having = async (status: ListLicenses['status']) => (await list.execute({ productId, status } as ListLicenses)).data.map((license) => license.id);
      return {
        available: await having(['available']), expired: await having(['expired']), totals: await totals.execute({ productId } as TotalLicenses),
        left: (await new AvailableLicenses(projectors).execute({ productIds: [productId] } as unknown as CountAvailable)).data[0]?.available,
      };
    }),
    timeline: (licenseId: LicenseId) => inContext(async () => (await new LicenseEvents(licenses, events, keyrings).execute({ licenseId } as ListLicenseEvents)).data),
    list: (asked: Fields<ListLicenses>) => inContext(() => list.execute(asked as ListLicenses)),
    suggest: (q: string) => inContext(async () => (await suggestions.execute({ q } as SuggestLicenses)).data),
    table,
    count: (q: string) => inContext(async () => (await totals.execute({ q } as TotalLicenses)).licenses),
    left: (productId: ProductId) => inContext(() => new AvailableLicenses(projectors).execute({ productIds: [productId] } as unknown as CountAvailable)),
    exported: (permissions: readonly Permission[], asked: Fields<ExportLicenses>) => inContext(async () => (await exported.execute(asked as ExportLicenses)).data.map(({ license }) => license.id), permissions),
    async license(value: string, customerId?: CustomerId, terms: TermsInput = {}, productId = id('prd')) {
      const [licenseId, hash] = [id('lic'), inContext(() => keyrings.here().keyHash(normaliseKey(value)))];
      await inContext(() => licenses.create(licenseId, { type: 'Issue', licenseId, productId, environment, terms, key: { value, hash, prefix: keyPrefix(value) }, ...(customerId && { customerId }) }));
      return licenseId;
    },
    run: (licenseId: LicenseId, command: LicenseCommand) => inContext(() => licenses.run(licenseId, command)),
    async customer(name: string, email: string) {
      const customerId = id('cus');
      await inContext(() => customers.create(customerId, { type: 'Create', customerId, name, email, emailHash: newCommandId() }));
      return customerId;
    },
    /** As by a later release, which is gone again. */
    async makeUnreadable(licenseId: LicenseId) {
      await events.of(environment).append(`license-${licenseId}`, 0, [{ id: crypto.randomUUID(), type: 'LicenseRenewed', data: {}, metadata: { schema: 99 } }]);
    },
    /** Rows of so many licenses that are gone again. */
    async fill(productId: ProductId, n: number) {
      await databases.of(environment).run(`insert into authority_license_v1 (id, revision, product_id, created_at)
        with recursive n(k) as (select 1 union all select k + 1 from n where k < ${n}) select '${productId}-' || k, 0, '${productId}', '2020' from n`);
    },
    product(name: string) {
      const productId = id('prd');
      return inContext(() => products.create(productId, { type: 'Create', productId, name }));
    },
    called: (productId: ProductId, name: string) => inContext(() => products.create(productId, { type: 'Create', productId, name })),
    async close() {
      await projectors.close();
      await host.close();
      await stores.close();
    },
  };
}

/** Closed before the server is. */
const suite = (at: () => Parameters<typeof start>[0]) => describe('questions for licenses', () => {
  let authority: Awaited<ReturnType<typeof start>>;
  beforeAll(async () => { authority = await start(at()); }, 60_000);
  afterAll(() => authority.close());

  it('take turns, and a key that is looked up does not wait for them', async () => {
    const [begun, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const before = authority.listing(() => (begun.resolve(), over.promise));
    await begun.promise;
    let answered = 0;
    const questions = [authority.list({ q: 'x' }), authority.suggest('x'), authority.count('x'), authority.exported(['license.read'], {}), authority.toldOf(id('prd'), now)]
      .map((question) => question.then(() => answered++));
    expect(await authority.lookUp('unknown')).toBeUndefined();
    await sleep(100);
    expect(answered).toBe(0);
    over.resolve();
    await Promise.all([before, ...questions]);
  });

  it('wait for their turn for as long as the answer is of use: a piece of an export longest, because the gateway does not ask again', async () => {
    const [begun, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const before = authority.listing(() => (begun.resolve(), over.promise));
    await begun.promise;
    const refused: string[] = [];
    const asked = { piece: authority.exported(['license.read'], { customerId: id('cus') }), list: authority.list({}), count: authority.left(id('prd')) };
    const all = Object.entries(asked).map(([name, answer]) => answer.then(() => undefined, () => refused.push(name)));
    await until(() => refused, ({ length }) => length >= 2);
    over.resolve();
    await Promise.all([before, ...all]);
    expect(refused).toEqual(['count', 'list']);
  });

  it('are answered without a license that nobody can read, but no file pretends to be whole', async () => {
    const customerId = await authority.customer('Ada', 'ada@example.com');
    const [unreadable, other] = [await authority.license(id('lic'), customerId), await authority.license(id('lic'), customerId)];
    await authority.makeUnreadable(unreadable);
    expect((await authority.list({ customerId })).data.map((license) => license.id)).toEqual([other]);
    await expect(authority.exported(['license.read'], { customerId })).rejects.toThrow('99');
  });

  it('find a key as it is read, whatever is between its groups', async () => {
    const licenseId = await authority.license(key);
    await authority.license('ACME-7XXC90C-V60HD1X-0000000-0000000');
    const found = async (q: string) => (await authority.list({ q })).data.map((license) => license.id);
    for (const q of [key, key.toLowerCase(), key.replaceAll('-', ''), key.replaceAll('-', ' '), key.replaceAll('-', '\u2013'), ` ${key.replaceAll('0', 'O').replaceAll('1', 'l')} `, 'V60HD1W Z53PM', 'acme7xxc90cv60hd1w', 'D1WZ53PM9ST96']) {
      expect({ q, found: await found(q) }).toEqual({ q, found: [licenseId] });
      expect(await authority.count(q)).toBe(1);
      expect(await authority.suggest(q)).toEqual([{ kind: 'key', text: key, licenseId }]);
    }
    for (const q of [key.replace('S', 'T'), 'D1WZ53PM9ST97', 'V60HD1W T96AD8S']) expect({ q, found: await found(q) }).toEqual({ q, found: [] });
    const formats: KeyFormat[] = [{ kind: 'uuid' }, { kind: 'chunks', prefix: 'LOT' }, { kind: 'pattern', pattern: 'Lot ####_????.******************' }];
    for (const format of formats) {
      const value = generateKey(format, (size) => crypto.getRandomValues(new Uint8Array(size)));
      const one = await authority.license(value);
      for (const q of [value, value.replace(/[^0-9A-Za-z]/g, ''), value.replace(/[^0-9A-Za-z]/g, '-')]) expect({ q, found: await found(q) }).toEqual({ q, found: [one] });
    }
  });

  it('tell who is shown no keys nothing of them, in an export', async () => {
    const held = await authority.license('ACME-2222222-3333333-4444444-5555555', await authority.customer('Grace Hopper', 'grace@example.com'));
    for (const q of ['ACME-2222222', 'acme 2222222 3', 'ACME-2222222-3333333-4444444-5555555']) {
      expect(await authority.exported(['license.export', 'license.read'], { q, sort: 'key' })).toEqual([held]);
      expect(await authority.exported(['license.export'], { q })).toEqual([]);
    }
    expect(await authority.exported(['license.export'], { q: 'hopper', sort: '-customer' })).toEqual([held]);
    for (const sort of ['key', '-key'] as const) await expect(authority.exported(['license.export'], { sort })).rejects.toMatchObject({ code: 'PERMISSION_DENIED', members: { permission: 'license.read' } });
  });

  it('are found in every place, each once, and none where nothing matches', async () => {
    const ofCustomer = await authority.license(id('lic'), await authority.customer('Zyxwort', 'z@example.com'));
    const productId = id('prd');
    await authority.called(productId, 'Zyxwort Pro');
    const ofProduct = await authority.license(id('lic'), undefined, {}, productId);
    const byKey = await authority.license('ZYXWORT-1111111');
    const inAll = await authority.license('ZYXWORT-2222222', await authority.customer('Zyxwort & Daughters', 'd@example.com'), {}, productId);
    const found = async (q: string) => (await authority.list({ q })).data.map((license) => license.id).sort();
    expect(await found('zyxwort')).toEqual([ofCustomer, ofProduct, byKey, inAll].sort());
    expect([await found('zyxwort p'), await found('zyxwort &'), await found('zyxwort-1')]).toEqual([[ofProduct, inAll].sort(), [inAll], [byKey]]);
    expect([await authority.count('zyxwort'), await found('zyxwortz'), await authority.count('zyxwortz'), (await authority.list({ q: 'zyxwortz' })).page.total]).toEqual([4, [], 0, 0]);
  });

  it('suggest nothing twice, and say of namesakes who is who', async () => {
    for (const [name, email] of [['Ann Lee', 'ann@one.example'], ['Ann Lee', 'lee@two.example'], ['Ann Leeds', 'ann@three.example']] as const) await authority.license(id('lic'), await authority.customer(name, email));
    for (const name of ['Ann Leeway', 'Ann Leeway']) await authority.product(name);
    const data = await authority.suggest('ann lee');
    expect(data).toEqual([
      { kind: 'customer', text: 'Ann Lee ann@one.example' }, { kind: 'customer', text: 'Ann Lee lee@two.example' }, { kind: 'customer', text: 'Ann Leeds' }, { kind: 'product', text: 'Ann Leeway' },
    ]);
    for (const { text } of data.slice(0, 3)) expect((await authority.list({ q: text })).data).toHaveLength(1);
  });

  it('cost no more when a status is asked for a thousand times', async () => {
    const customerId = await authority.customer('Rita', 'rita@example.com');
    const licenseId = await authority.license(id('lic'), customerId);
    const status = Array.from({ length: 1_200 }, (_, n) => (n % 2 ? 'assigned' : 'revoked'));
    expect((await authority.list({ customerId, status } as Fields<ListLicenses>)).data.map((license) => license.id)).toEqual([licenseId]);
  });

  it('are answered by the time of now, whether or not an event says what it has brought about', async () => {
    const productId = id('prd');
    const passing = await authority.license(id('lic'), undefined, { expiresAt: '2026-11-22T12:00:00.000Z', activationLimit: -1 }, productId);
    const staying = await authority.license(id('lic'), undefined, { activationLimit: 3 }, productId);
    const { available, ...before } = await authority.toldOf(productId, now);
    expect(available.toSorted()).toEqual([passing, staying].toSorted());
    expect(before).toMatchObject({ expired: [], left: 2, totals: { licenses: 2, byStatus: { available: 2, expired: 0 }, averageLimit: 3, maximumActivations: null } });
    expect(await authority.toldOf(productId, '2026-11-22T12:00:00.000Z')).toMatchObject({ available: [staying], expired: [passing], left: 1, totals: { byStatus: { available: 1, expired: 1 } } });
  });

  it('for what has happened to one show nothing of its key but the part that lists show', async () => {
    const told = await authority.timeline(await authority.license('ACME-3333333-3333333-4444444-5555555'));
    expect(told).toMatchObject([{ type: 'LicenseIssued', data: { keyPrefix: expect.any(String) } }]);
    expect(Object.keys(told[0]?.data ?? {}).filter((name) => /^(key|keyHash|sealed)$/.test(name))).toEqual([]);
  });

  it('for what has happened to one show what it permitted, and nothing else that is sealed', async () => {
    const permitted = { featureFlags: { beta: true }, serialNumber: 'SN-1', deploymentId: 'dep-1' };
    const licenseId = await authority.license('ACME-4444444-3333333-4444444-5555555', undefined, permitted);
    await authority.run(licenseId, { type: 'Edit', featureFlags: { beta: false }, metadata: { crm: 'ada' } });
    const [issued, ...edited] = (await authority.timeline(licenseId)).map(({ type, data }) => ({ type, ...data }));
    expect(issued).toMatchObject({ type: 'LicenseIssued', ...permitted });
    expect(edited).toEqual([{ type: 'FeatureFlagsChanged', featureFlags: { beta: false } }, { type: 'MetadataChanged' }]);
  });

  it('are answered without a total where a search finds more than can be counted at once', async () => {
    const productId = id('prd');
    await authority.called(productId, 'Ubiquitous');
    await authority.fill(productId, 10_000);
    expect((await authority.list({ q: 'ubiquitous', limit: 1 })).page).toEqual({ next: expect.any(String), total: 10_000 });
    const licenseId = await authority.license(id('lic'), undefined, {}, productId);
    const { data, page } = await authority.list({ q: 'ubiquitous', limit: 1 });
    expect({ found: data.map((license) => license.id), page }).toEqual({ found: [licenseId], page: { next: expect.any(String), total: null } });
    expect(await authority.count('ubiquitous')).toBe(10_001);
  }, 30_000);

  it('count what they list, by the same condition: many matches are not collected for either', async () => {
    const licenseId = await authority.license(id('lic'));
    jest.spyOn(authority.table, 'search').mockResolvedValueOnce({ found: sql<SqlBool>`id = ${licenseId}`, hasMany: true });
    expect(await authority.count('found in another way')).toBe(1);
  });

  it('take every cursor that they give', async () => {
    for (const name of ['\u0001'.repeat(255), '\u{20000}'.repeat(255)]) {
      const holder = await authority.customer(name, 'x@example.com');
      const ids = [await authority.license(id('lic'), holder), await authority.license(id('lic'), holder)];
      const asked = { customerId: holder, sort: '-customer', limit: 1 } as const;
      const { page: { next } } = await authority.list(asked);
      expect(next?.length).toBeGreaterThan(1024);
      expect(next?.length).toBeLessThanOrEqual((paging.cursor as { maxLength?: number }).maxLength ?? 0);
      expect((await authority.list({ ...asked, cursor: next ?? '' })).data.map((license) => license.id)).toEqual(ids.toSorted().slice(0, 1));
    }
  });
});

describe('On files', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'questions-'));
  suite(() => ({ dataDir }));
  afterAll(() => rmSync(dataDir, { recursive: true }));
});
describeWith('postgres', 'On a server', (server) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'questions-'));
  suite(() => ({ dataDir, databaseUrl: server().url }));
  afterAll(() => rmSync(dataDir, { recursive: true }));
}, { durable: true });
