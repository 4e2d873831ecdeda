import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { ListCustomers } from '@keyledger/contracts';
import { EventStores } from '@keyledger/event-store';
import { derivedId, newCommandId, runIn, systemContext } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { InProcessTransport, type Fields } from '@keyledger/messaging';
import { openHost } from '@keyledger/process';
import { Projectors, ReadDatabases } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { openStores } from '@keyledger/stores';
import { CustomerList } from './catalog.queries.ts';
import { catalogProjections, catalogSchema } from './index.ts';
import { CatalogStreams } from './streams.ts';

const environment = 'staging';
const now = '2026-11-21T12:00:00.000Z';
const inContext = <T>(work: () => T): T => runIn(systemContext(environment, now), work);

async function start(at: { readonly dataDir: string; readonly databaseUrl?: string | undefined }) {
  const host = await openHost('test', { logLevel: 'silent', tracing: { endpoint: undefined, disabled: true, sampleRatio: 1 } }, new InProcessTransport());
  const stores = await openStores({ ...at, databaseUrl: at.databaseUrl, masterKey: { value: undefined, file: undefined }, eventStoreUrl: undefined, connections: 2 }, host, [catalogSchema]);
  const provided = <T>(type: abstract new (...args: never[]) => T): T => (stores.providers.find((one) => typeof one === 'object' && 'provide' in one && one.provide === type) as { useValue: T }).useValue;
  const [events, keyrings, databases] = [provided(EventStores), provided(Keyrings), provided(ReadDatabases)];
  const streams = new CatalogStreams(events, keyrings);
  const projectors = await Projectors.start({ name: 'test', projections: catalogProjections, events, databases, sealings: keyrings, parked: () => undefined });
  const customers = new CustomerList(streams, projectors);
  return {
    list: (asked: Fields<ListCustomers>) => inContext(() => customers.execute(asked as ListCustomers)),
    async customer(name: string) {
      const customerId = derivedId('cus', newCommandId(), now);
      await inContext(() => streams.customers.create(customerId, { type: 'Create', customerId, name, email: 'x@example.com', emailHash: newCommandId() }));
      return customerId;
    },
    /** Rows of so many customers that are gone again. */
    async fill(name: string, n: number) {
      await databases.of(environment).run(`insert into catalog_customer_v1 (id, revision, created_at, name, email, search_text)
        with recursive n(k) as (select 1 union all select k + 1 from n where k < ${n}) select 'cus-' || k, 0, '2020', '${name}', '', '  ${name}' from n`);
    },
    async close() {
      await projectors.close();
      await host.close();
      await stores.close();
    },
  };
}

/** Closed before the server is. */
const suite = (at: () => Parameters<typeof start>[0]) => describe('questions for customers', () => {
  let catalog: Awaited<ReturnType<typeof start>>;
  beforeAll(async () => { catalog = await start(at()); }, 60_000);
  afterAll(() => catalog.close());

  it('count what is found, up to 10,000: more is not even collected, and the page is the same', async () => {
    const customerId = await catalog.customer('Ubiquitous Ada');
    const latest = { q: 'ubiquitous', limit: 1 };
    expect((await catalog.list(latest)).page).toEqual({ next: null, total: 1 });
    await catalog.fill('ubiquitous', 10_000);
    const { data, page } = await catalog.list(latest);
    expect({ found: data.map(({ id }) => id), page }).toEqual({ found: [customerId], page: { next: expect.any(String), total: null } });
    expect((await catalog.list({ ...latest, q: 'ubiquitous ada' })).page).toEqual({ next: null, total: 1 });
    expect((await catalog.list({ limit: 1 })).page.total).toBe(10_001);
  });
});

describe('On files', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'catalog-'));
  suite(() => ({ dataDir }));
  afterAll(() => rmSync(dataDir, { recursive: true }));
});
describeWith('postgres', 'On a server', (server) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'catalog-'));
  suite(() => ({ dataDir, databaseUrl: server().url }));
  afterAll(() => rmSync(dataDir, { recursive: true }));
}, { durable: true });
