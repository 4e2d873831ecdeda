import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { FindCustomers, type ImportRow } from '@keyledger/contracts';
import { issued, keyPrefix, normaliseKey, type JobState, type JobWork } from '@keyledger/domain';
import { EventStores, SnapshotStores } from '@keyledger/event-store';
import { derivedId, newCommandId, refuse, runIn, systemClock, systemContext, type CustomerId, type IdPrefix, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { handlerOf, InProcessTransport } from '@keyledger/messaging';
import { openHost } from '@keyledger/process';
import { StateDatabases } from '@keyledger/read-models';
import { openStores } from '@keyledger/stores';
import { authoritySchema } from './index.ts';
import { JobLedger } from './job.ledger.ts';
import { JobRows } from './job.rows.ts';
import { LicenseKeys } from './keys.ts';
import type { LicenseTable } from './license.queries.ts';
import { Licenses } from './streams.ts';

const environment = 'staging';
const now = '2026-11-21T12:00:00.000Z';
const inContext = <T>(work: () => T): T => runIn(systemContext(environment, now), work);
const id = <P extends IdPrefix>(prefix: P) => derivedId(prefix, newCommandId(), now);

/** Licenses, keys and sealing as they are; the catalog knows two customers. */
async function start(dataDir: string) {
  const transport = new InProcessTransport();
  const host = await openHost('test', { logLevel: 'silent', tracing: { endpoint: undefined, disabled: true, sampleRatio: 1 } }, transport);
  const stores = await openStores({ dataDir, databaseUrl: undefined, masterKey: { value: undefined, file: undefined }, eventStoreUrl: undefined, connections: 2 }, host, [authoritySchema]);
  const provided = <T>(type: abstract new (...args: never[]) => T): T => (stores.providers.find((one) => typeof one === 'object' && 'provide' in one && one.provide === type) as { useValue: T }).useValue;
  const [ada, bob] = [id('cus'), id('cus')];
  const customers = new Map<string, CustomerId>([['ada@example.com', ada], ['bob@example.com', bob]]);
  transport.serve(FindCustomers.subject, 'catalog', handlerOf(FindCustomers, (({ emails }: FindCustomers) => ({
    data: emails.flatMap((email) => { const customerId = customers.get(email); return customerId ? [{ email, customerId }] : []; }),
  })) as never, { clock: systemClock, onError: () => undefined }));
  const byHash = new Map<string, LicenseId>();
  const keyrings = provided(Keyrings);
  const licenses = new Licenses(provided(EventStores), keyrings, provided(SnapshotStores));
  const keys = new LicenseKeys(keyrings, { byKeyHash: async (hash: string) => byHash.get(hash), wasKey: async () => false } as unknown as LicenseTable);
  const ledger = new JobLedger(provided(StateDatabases), keyrings);
  const logged: unknown[] = [];
  const rows = new JobRows(licenses, keys, keyrings, host.messages, ledger, { error: (told: unknown) => logged.push(told) } as never);
  const job = (work: JobWork, total: number): JobState => ({
    id: id('job'), work, state: 'running', total, by: { type: 'api-key', id: 'key_tester', role: 'super_admin' }, createdAt: now, startedAt: now, finishedAt: null, done: 0, failed: 0, detail: null, keysTakenAt: null,
  });
  return {
    ada, bob, licenses, job, logged,
    /** An event that nothing here understands comes into its stream. */
    spoil: (licenseId: LicenseId) => inContext(async () => {
      const [{ metadata } = { metadata: {} }] = await provided(EventStores).here().readStream(`license-${licenseId}`);
      await provided(EventStores).here().append(`license-${licenseId}`, 0, [{ id: newCommandId(), type: 'NobodyKnowsWhat', data: {}, metadata }]);
      licenses.forget(licenseId);
    }),
    doChunk: (state: JobState, again = false) => inContext(() => rows.doChunk(state, 0, again)),
    async importOf(file: readonly ImportRow[], dryRun = false) {
      const state = job({ kind: 'import', dryRun }, file.length);
      await inContext(() => ledger.stage(state.id, 0, file));
      return state;
    },
    assign: (licenseId: LicenseId, customerId: CustomerId) => inContext(() => licenses.run(licenseId, { type: 'Assign', customerId })),
    holder: (licenseId: LicenseId) => inContext(() => licenses.load(licenseId, (state) => issued(state).customerId)),
    events: (licenseId: LicenseId) => inContext(async () => (await provided(EventStores).here().readStream(`license-${licenseId}`)).map(({ type }) => type)),
    /** A key that the index still shows of a license which has another one by now. */
    former(licenseId: LicenseId) {
      const value = `KEY-${newCommandId()}`;
      byHash.set(inContext(() => keyrings.here().keyHash(normaliseKey(value))), licenseId);
      return value;
    },
    async license() {
      const [licenseId, value] = [id('lic'), `KEY-${newCommandId()}`];
      const hash = inContext(() => keyrings.here().keyHash(normaliseKey(value)));
      byHash.set(hash, licenseId);
      await inContext(() => licenses.run(licenseId, { type: 'Issue', licenseId, productId: id('prd'), environment, terms: {}, key: { value, hash, prefix: keyPrefix(value) } }));
      return { licenseId, value };
    },
    async close() {
      await host.close();
      await stores.close();
    },
  };
}

describe('Rows of jobs', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'rows-'));
  let authority: Awaited<ReturnType<typeof start>>;
  beforeAll(async () => { authority = await start(dataDir); }, 60_000);
  afterAll(async () => {
    await authority.close();
    rmSync(dataDir, { recursive: true });
  });

  it('of an import that is done again undo nothing that came in between', async () => {
    const { ada, bob, importOf, doChunk, assign, holder, events } = authority;
    const [one, two] = [await authority.license(), await authority.license()];
    const file = [{ licenseKey: one.value, customerEmail: 'Ada@example.com' }, { licenseKey: two.value.toLowerCase(), customerEmail: 'ada@example.com' }, { licenseKey: 'none', customerEmail: 'ada@example.com' }];
    const job = await importOf(file);
    const results = await doChunk(job);
    expect(results.map(({ row, outcome, code, licenseId, customerId }) => [row, outcome, code, licenseId, customerId])).toEqual([
      [1, 'assigned', null, one.licenseId, ada], [2, 'assigned', null, two.licenseId, ada], [3, 'failed', 'LICENSE_NOT_FOUND', null, null],
    ]);
    await assign(two.licenseId, bob);
    expect(await doChunk(job, true)).toEqual(results);
    expect([await holder(one.licenseId), await holder(two.licenseId)]).toEqual([ada, bob]);
    expect(await events(one.licenseId)).toEqual(['LicenseIssued', 'LicenseAssigned']);
    expect(await events(two.licenseId)).toEqual(['LicenseIssued', 'LicenseAssigned', 'LicenseAssigned']);
  });

  it('of an import give away no license whose key was another one', async () => {
    const { licenseId } = await authority.license();
    const job = await authority.importOf([{ licenseKey: authority.former(licenseId), customerEmail: 'ada@example.com' }]);
    expect(await authority.doChunk(job)).toMatchObject([{ outcome: 'failed', code: 'LICENSE_NOT_FOUND' }]);
    expect(await authority.holder(licenseId)).toBeNull();
  });

  it('of a dry run tell what the import then does, and do nothing', async () => {
    const { ada, importOf, doChunk, events } = authority;
    const [free, hers] = [await authority.license(), await authority.license()];
    await authority.assign(hers.licenseId, ada);
    const file = [
      { licenseKey: free.value, customerEmail: 'ada@example.com' }, { licenseKey: hers.value, customerEmail: 'ada@example.com' }, { licenseKey: free.value, customerEmail: 'nobody@example.com' },
      { licenseKey: '', customerEmail: '', fault: 'licenseKey is missing' },
    ];
    const dry = await doChunk(await importOf(file, true));
    expect(await events(free.licenseId)).toEqual(['LicenseIssued']);
    expect(await doChunk(await importOf(file))).toEqual(dry);
    expect(dry.map(({ outcome, code }) => [outcome, code])).toEqual([['assigned', null], ['unchanged', null], ['failed', 'CUSTOMER_NOT_FOUND'], ['failed', 'VALIDATION_FAILED']]);
    expect(await events(free.licenseId)).toEqual(['LicenseIssued', 'LicenseAssigned']);
  });

  it('of an import that name a license that cannot be read fail by themselves, and the others are done', async () => {
    const { ada, importOf, doChunk, spoil, holder, logged } = authority;
    const [unreadable, good] = [await authority.license(), await authority.license()];
    await spoil(unreadable.licenseId);
    const row = ({ value }: { value: string }) => ({ licenseKey: value, customerEmail: 'ada@example.com' });
    const job = await importOf([row(unreadable), row(good)]);
    expect((await doChunk(job)).map(({ outcome, code }) => [outcome, code])).toEqual([['failed', 'INTERNAL'], ['assigned', null]]);
    expect([await holder(good.licenseId), logged]).toMatchObject([ada, [{ jobId: job.id, row: 1 }]]);
    expect(await doChunk(await importOf([row(unreadable)]))).toMatchObject([{ outcome: 'failed', code: 'INTERNAL' }]);
    const another = await authority.license();
    await spoil(another.licenseId);
    await expect(doChunk(await importOf([row(unreadable), row(another)]))).rejects.not.toHaveProperty('code');
  });

  it('are not at fault when nobody answers, nor one of a batch for anything: the chunk is to be done again', async () => {
    const { licenses, importOf, doChunk, license, job, ada, holder } = authority;
    const [one, two] = [await license(), await license()];
    const file = await importOf([one, two].map(({ value }) => ({ licenseKey: value, customerEmail: 'ada@example.com' })));
    jest.spyOn(licenses, 'run').mockRejectedValueOnce(refuse('UNAVAILABLE'));
    await expect(doChunk(file)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect((await doChunk(file, true)).map(({ outcome }) => outcome)).toEqual(['assigned', 'assigned']);
    expect([await holder(one.licenseId), await holder(two.licenseId)]).toEqual([ada, ada]);
    jest.spyOn(licenses, 'create').mockRejectedValueOnce(new Error('a bug'));
    await expect(doChunk(job({ kind: 'batch', productId: id('prd'), generatorId: id('gen'), planId: null, keyFormat: { kind: 'uuid' }, terms: {} }, 2))).rejects.toThrow('a bug');
  });

  it('of a batch that is done again, in part or whole, are the licenses that there are', async () => {
    const work = { kind: 'batch', productId: id('prd'), generatorId: id('gen'), planId: null, keyFormat: { kind: 'uuid' }, terms: { activationLimit: 2 } } as const;
    const job = authority.job(work, 100);
    const half = await authority.doChunk({ ...job, total: 50 });
    const whole = await authority.doChunk(job, true);
    expect(whole.slice(0, 50)).toEqual(half);
    const keys = () => Promise.all(whole.map(({ licenseId }) => inContext(() => authority.licenses.load(licenseId as LicenseId, (state) => issued(state).key))));
    const before = await keys();
    // Somebody who was taken for dead does not know that it is not the first.
    expect(await authority.doChunk(job)).toEqual(whole);
    expect(await keys()).toEqual(before);
    expect(new Set(before).size).toBe(100);
    expect(await authority.events(whole[0]?.licenseId as LicenseId)).toEqual(['LicenseIssued']);
  });
});
