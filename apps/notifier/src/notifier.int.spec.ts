import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import {
  CreateWebhookEndpoint, DeleteWebhookEndpoint, GetWebhookDelivery, GetWebhookEndpoint, ListWebhookDeliveries, ListWebhookEndpoints, RecoverWebhookEndpoint, TestWebhookEndpoint, UpdateWebhookEndpoint, type WebhookDeliveryView,
} from '@keyledger/contracts';
import { Customer, License, MAX_ATTEMPTS, Product, type LicenseCommand, type WebhookFilter } from '@keyledger/domain';
import { Aggregates, EventStores } from '@keyledger/event-store';
import { addDays, addSeconds, Clock, derivedId, newCommandId, runIn, systemContext, type IdPrefix, type Instant, type LicenseId, type WebhookDeliveryId, type WebhookEndpointId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { InProcessTransport, type Fields, type Message, type MessageType, type ResultOf } from '@keyledger/messaging';
import { until } from '@keyledger/testing';
import { openHost } from '@keyledger/process';
import { StateDatabases, type Answer } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { openStores } from '@keyledger/stores';
import { Announcers } from './announcer.ts';
import { Courier } from './courier.ts';
import { NotifierModule, notifierSchema, type NotifierConfig } from './index.ts';
import { Outbox } from './outbox.ts';

const environment = 'staging';
const begin = new Date().toISOString();

/** What time it is for those that share it. */
class TestClock extends Clock {
  instant: Instant = begin;
  now(): Instant {
    return this.instant;
  }
  advance(seconds: number): void {
    this.instant = addSeconds(this.instant, seconds);
  }
}

/** A notifier on stores of its own, or beside another one on the same. */
async function start(at: { readonly dataDir: string; readonly databaseUrl?: string | undefined }, clock = new TestClock(), config: Partial<NotifierConfig> = {}) {
  const transport = new InProcessTransport();
  const host = await openHost('test', { logLevel: 'silent', tracing: { endpoint: undefined, disabled: true, sampleRatio: 1 } }, transport);
  const stores = await openStores({ ...at, databaseUrl: at.databaseUrl, masterKey: { value: undefined, file: undefined }, eventStoreUrl: undefined, connections: 2 }, host, [notifierSchema]);
  const app = await host.start('notifier', NotifierModule.with([...host.providers, ...stores.providers, { provide: Clock, useValue: clock }], { allowPrivate: true, mail: undefined, ...config }));
  const [events, keyrings] = [app.get(EventStores), app.get(Keyrings)];
  const licenses = new Aggregates(License, events, keyrings);
  const inContext = <T>(work: () => T): T => runIn(systemContext(environment, clock.now()), work);
  const ask = <M extends Message>(type: MessageType<M>, fields: Fields<M>): Promise<ResultOf<M>> => inContext(() => host.messages.send(type, fields));
  const id = <P extends IdPrefix>(prefix: P) => derivedId(prefix, newCommandId(), clock.now());
  return {
    app, clock, ask,
    /** It is then, and somebody looks. */
    at: (instant: Instant) => {
      clock.instant = instant;
      app.get(Courier).wake(environment);
    },
    listen: (url: string, filters: WebhookFilter[] = ['*']) => ask(CreateWebhookEndpoint, { url, events: filters }),
    tell: (licenseId: LicenseId, command: LicenseCommand) => inContext(() => licenses.run(licenseId, command)),
    async sell(fields: object = {}): Promise<LicenseId> {
      const licenseId = id('lic');
      const key = `KEY-${licenseId}`;
      await inContext(() => licenses.run(licenseId, { type: 'Issue', licenseId, productId: id('prd'), environment, customerId: id('cus'), terms: {}, key: { value: key, hash: key, prefix: 'KEY' }, ...fields }));
      return licenseId;
    },
    /** A customer and a product, to be written about. */
    async people(name: string, email: string) {
      const [customerId, productId] = [id('cus'), id('prd')];
      await inContext(() => new Aggregates(Customer, events, keyrings).run(customerId, { type: 'Create', customerId, name, email, emailHash: email }));
      await inContext(() => new Aggregates(Product, events, keyrings).run(productId, { type: 'Create', productId, name: 'Paint & Draw' }));
      return { customerId, productId };
    },
    deliveries: async (endpointId: WebhookEndpointId): Promise<readonly WebhookDeliveryView[]> => (await ask(ListWebhookDeliveries, { endpointId, limit: 100 })).data,
    run: (sql: string, params: readonly unknown[] = []) => app.get(StateDatabases).of(environment).run<Record<string, unknown>>(sql, params),
    metrics: () => host.metrics.expose(),
    async close() {
      await host.close();
      await stores.close();
    },
  };
}
type Notifier = Awaited<ReturnType<typeof start>>;

/** Receivers of webhooks: what each path was sent, and what it answers. */
const heard = new Map<string, string[]>();
const answers = new Map<string, () => number | Promise<number>>();
const of = (path: string): string[] => heard.get(`/${path}`) ?? [];
const receiver = createHttpServer((request, response) => {
  const path = request.url ?? '';
  heard.set(path, [...(heard.get(path) ?? []), String(request.headers['webhook-id'])]);
  request.resume().on('end', () => void Promise.resolve(answers.get(path)?.() ?? 204).then((status) => response.writeHead(status).end()));
});
let base = '';
beforeAll(async () => {
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  base = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`;
});
afterAll(() => {
  receiver.closeAllConnections();
  receiver.close();
});

it('The notifier goes on after what it has read, and not where the log ends before that', async () => {
  const startAt = async (position: number) => {
    const store = { head: () => 7, subscribe: () => ({ position, close: async () => undefined }) };
    const database = { run: async () => ({ rows: [{ position, id: null }] }) };
    const [onEach, ignore] = [<T>(one: object) => ({ of: () => one }) as T, () => undefined];
    await (await Announcers.start({ events: onEach(store), databases: onEach(database), sources: { byCategory: {} } as never, clock: new TestClock(), log: { warn: ignore } as never, mailsOf: () => ignore, wake: ignore, forget: ignore })).close();
  };
  await startAt(7);
  await expect(startAt(8)).rejects.toThrow('ends at 7 but has been read up to 8: events are missing');
});

describe('The notifier (SQLite)', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'notifier-'));
  const running = suite(() => ({ dataDir }));
  afterAll(() => rmSync(dataDir, { recursive: true }));

  it('has not read what it could not put into the outbox', async () => {
    const path = 'transaction';
    const notifier = await start({ dataDir: join(dataDir, path) });
    const { id } = await notifier.listen(`${base}/${path}`, ['license.issued']);
    await notifier.sell();
    await until(() => of(path), (ids) => ids.length === 1);
    await notifier.run("create trigger full before insert on notifier_outbox begin select raise(abort, 'the disk is full'); end");
    await notifier.sell();
    await expect(notifier.deliveries(id)).rejects.toMatchObject({ code: 'READ_MODEL_BEHIND' });
    // What the endpoints are, and what was there before, can be read and changed meanwhile.
    notifier.clock.advance(1);
    const other = await notifier.listen(`${base}/${path}/other`, ['job.*']);
    const listed = async () => (await notifier.ask(ListWebhookEndpoints, {})).data.map((one) => [one.id, one.enabled]);
    await notifier.ask(UpdateWebhookEndpoint, { endpointId: other.id, enabled: false });
    expect(await listed()).toEqual([[other.id, false], [id, true]]);
    await notifier.ask(DeleteWebhookEndpoint, { endpointId: other.id });
    expect(await listed()).toEqual([[id, true]]);
    expect(await notifier.ask(GetWebhookDelivery, { deliveryId: of(path)[0] as WebhookDeliveryId })).toMatchObject({ endpointId: id });
    await notifier.close();
    const later = await start({ dataDir: join(dataDir, path) }, notifier.clock);
    await later.run('drop trigger full');
    await until(() => later.deliveries(id).catch(() => []), (all) => all.length === 2 && all.every(({ status }) => status === 'delivered'));
    expect(new Set(of(path)).size).toBe(2);
    await later.close();
  });

  it('reads on though what waits for an endpoint that is over cannot be given up, does so when it is started again, and sends it where the endpoint is enabled before', async () => {
    const path = 'over';
    const notifier = await start({ dataDir: join(dataDir, path) });
    const [over, back] = [await notifier.listen(`${base}/${path}`, ['job.*']), await notifier.listen(`${base}/${path}/back`, ['job.*'])];
    await notifier.listen(`${base}/${path}/well`, ['license.issued']);
    await wait(notifier, over.id, 3);
    await wait(notifier, back.id, 2);
    await notifier.run("create trigger stuck before update of status on notifier_outbox when new.status = 'failed' begin select raise(abort, 'it takes too long'); end");
    for (const { id: endpointId } of [over, back]) await notifier.ask(UpdateWebhookEndpoint, { endpointId, enabled: false });
    await notifier.sell();
    await until(() => of(`${path}/well`), (ids) => ids.length === 1);
    notifier.at(addSeconds(notifier.clock.instant, 7_200));
    await notifier.ask(UpdateWebhookEndpoint, { endpointId: back.id, enabled: true });
    await until(() => notifier.deliveries(back.id), (all) => all.every(({ status }) => status === 'delivered'));
    expect(await runIn(systemContext(environment, notifier.clock.instant), () => notifier.app.get(Outbox).waiting(notifier.clock.instant))).toEqual({ pending: 0, lateMs: 0 });
    expect((await notifier.deliveries(over.id)).map(({ status }) => status)).toEqual(['pending', 'pending', 'pending']);
    expect((await notifier.run('select max(claimed_until) as claimed from notifier_outbox where target = ?', [over.id])).rows).toEqual([{ claimed: 0 }]);
    await notifier.run('drop trigger stuck');
    await notifier.close();
    const later = await start({ dataDir: join(dataDir, path) }, notifier.clock);
    await until(() => later.deliveries(over.id), (all) => all.every(({ status, error }) => status === 'failed' && error === 'the endpoint was disabled'));
    expect([of(path).length, of(`${path}/back`).length]).toEqual([0, 2]);
    await later.close();
  });

  it('lists deliveries where that keeps no write waiting', async () => {
    const listing = jest.spyOn(running().app.get(StateDatabases).of(environment), 'listing');
    const { id } = await running().listen(`${base}/list`, ['license.issued']);
    const licenseId = await running().sell();
    expect((await running().deliveries(id)).map(({ payload }) => payload)).toMatchObject([{ data: { licenseId } }]);
    expect(listing).toHaveBeenCalledTimes(1);
    listing.mockRestore();
  });

  it('recovers what takes shortest first, and leaves what another process has been asked for that has read more of the log', async () => {
    const { run, app, sell, ask } = running();
    await sell();
    await ask(ListWebhookDeliveries, {});
    const batch = jest.spyOn(app.get(StateDatabases).of(environment), 'batch');
    for (const [id, position, end] of [['whk_1', 2, 1], ['whk_2', 0, 1], ['whk_3', 3, 1], ['whk_4', 3, 1_000_000]]) await run('insert into notifier_replays (endpoint_id, since, position, until) values (?, ?, ?, ?)', [id, begin, position, end]);
    app.get(Announcers).replay();
    await until(() => run('select * from notifier_replays'), ({ rows }) => rows.length === 1);
    expect(batch.mock.calls.flatMap(([statements]) => statements).filter(({ sql }) => sql.startsWith('delete from notifier_replays')).map(({ params }) => params?.[0])).toEqual(['whk_3', 'whk_1', 'whk_2']);
    batch.mockRestore();
    await run("delete from notifier_replays where endpoint_id = 'whk_4'");
  });

  it('lists deliveries without counting them, and failed and pending ones without looking through all the others', async () => {
    expect((await running().ask(ListWebhookDeliveries, {})).page).toMatchObject({ total: null });
    const plan = async (filter: Parameters<Outbox['list']>[0]) => {
      const { sql, parameters } = runIn(systemContext(environment, begin), () => running().app.get(Outbox).list(filter).orderBy('timestamp', 'desc').orderBy('id', 'desc').limit(26).compile());
      return (await running().run(`explain query plan ${sql}`, parameters)).rows.map(({ detail }) => detail);
    };
    expect(await plan({ status: 'failed' })).toEqual(['SCAN notifier_outbox USING INDEX notifier_outbox_failed']);
    expect(await plan({ status: 'pending' })).toEqual(['SCAN notifier_outbox USING INDEX notifier_outbox_pending']);
    expect(await plan({ status: 'failed', endpointId: 'whk_1' })).toEqual(['SEARCH notifier_outbox USING INDEX notifier_outbox_failed_of_target (target=?)']);
  });

  const unreadable = async (stream: string, type: string) => {
    const metadata = { commandId: crypto.randomUUID(), correlationId: 'x', actor: { type: 'system', id: 'keyledger' }, occurredAt: running().clock.instant, environment, schema: 99 };
    await running().app.get(EventStores).of(environment).append(stream, 'any', [{ id: crypto.randomUUID(), type, data: {}, metadata }]);
  };
  it('goes on where an event cannot be read', async () => {
    const notifier = running();
    const path = 'unreadable';
    const { id } = await notifier.listen(`${base}/${path}`, ['license.*']);
    const licenseId = await notifier.sell();
    await unreadable(`license-${licenseId}`, 'LicenseSuspended');
    const other = await notifier.sell();
    await until(() => of(path), (ids) => ids.length === 2);
    expect((await notifier.deliveries(id)).map(({ payload }) => (payload as { data?: { licenseId?: string } }).data?.licenseId).sort()).toEqual([licenseId, other].sort());
  });

  it('goes on where it is one of an endpoint, which stays as it was', async () => {
    const path = 'unreadable-endpoint';
    const { id } = await running().listen(`${base}/${path}`, ['license.issued']);
    await unreadable(`webhook-${id}`, 'WebhookEndpointChanged');
    await running().listen(`${base}/${path}`, ['license.issued']);
    await running().sell();
    await until(() => of(path), (ids) => ids.length > 0);
  });
});
describeWith('postgres', 'The notifier', (server) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'notifier-'));
  const running = suite(() => ({ dataDir, databaseUrl: server().url }));
  afterAll(() => rmSync(dataDir, { recursive: true }));

  it('is several processes that share the work, and another one does what one that died has left', async () => {
    const place = { dataDir, databaseUrl: server().url };
    const one = running();
    const { clock } = one;
    const other = await start(place, clock);
    const endpoint = await one.listen(`${base}/shared`);
    const sold = await Promise.all(Array.from({ length: 60 }, (_, n) => (n % 2 ? one : other).sell()));
    await until(() => one.deliveries(endpoint.id), (all) => all.length === 60 && all.every(({ status }) => status === 'delivered'));
    expect([of('shared').length, new Set(of('shared')).size, sold.length]).toEqual([60, 60, 60]);
    // One that has claimed a delivery and never says a word again.
    await other.close();
    answers.set('/shared', () => 503);
    await one.sell();
    await until(() => one.deliveries(endpoint.id), (all) => all.some(({ status, attempts }) => status === 'pending' && attempts === 1));
    answers.delete('/shared');
    clock.advance(3600);
    const { rows: [claimed] } = await one.run("update notifier_outbox set claimed_until = ? where status = 'pending' and target = ? returning id", [Date.now() + 400, endpoint.id]);
    const late = await start(place, clock);
    await until(() => late.deliveries(endpoint.id), (all) => all.every(({ status }) => status === 'delivered'));
    expect(of('shared').filter((id) => id === claimed?.['id']).length).toBeGreaterThan(1);
    await late.close();
  });
}, { durable: true });

/** So many deliveries wait for an endpoint, for what comes of its being over. */
const wait = (notifier: Notifier, endpointId: WebhookEndpointId, count: number) => notifier.run(
  `with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < ${count}) insert into notifier_outbox (id, target, type, timestamp, body, status, attempts, next_at, claimed_until)
    select '${endpointId.replace('whk', 'whd')}-' || n, '${endpointId}', 'license.issued', '${notifier.clock.instant}', '{}', 'pending', 1, ${Date.parse(notifier.clock.instant) + 3_600_000}, 0 from numbers`);

function suite(place: () => { readonly dataDir: string; readonly databaseUrl?: string }): () => Notifier {
  let notifier: Notifier;
  beforeAll(async () => {
    notifier = await start(place());
  });
  afterAll(() => notifier?.close());
  const fresh = (name: string) => `${name}-${crypto.randomUUID()}`;

  it('tries again at the times that are said, in the environment’s time, then gives the delivery up, and the endpoint', async () => {
    const path = fresh('dead');
    answers.set(`/${path}`, () => 500);
    const { id } = await notifier.listen(`${base}/${path}`, ['license.*']);
    await notifier.sell();
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const [delivery] = await until(() => notifier.deliveries(id), ([one]) => one?.attempts === attempt);
      expect(of(path)).toHaveLength(attempt);
      if (attempt === MAX_ATTEMPTS) expect(delivery).toMatchObject({ status: 'failed', nextAttemptAt: null, responseStatus: 500 });
      else notifier.at(delivery?.nextAttemptAt as Instant);
    }
    expect(Date.parse(notifier.clock.instant) - Date.parse(begin)).toBeGreaterThan(75 * 3_600_000);
    expect(new Set(of(path)).size).toBe(1);
    await until(() => notifier.ask(GetWebhookEndpoint, { endpointId: id }), ({ disabledBy }) => disabledBy === 'failing');
    // Nothing is sent to it any more, and what happens now is not even kept for it.
    await notifier.sell();
    expect(await notifier.deliveries(id)).toHaveLength(1);
    expect(await notifier.metrics()).toMatch(/keyledger_deliveries_total\{environment="staging",channel="webhook",outcome="retry",service="test"\} [1-9]/);
  });

  it('goes on with an endpoint that takes something now and then, though a delivery is given up', async () => {
    const path = fresh('picky');
    let status = 500;
    answers.set(`/${path}`, () => status);
    const { id } = await notifier.listen(`${base}/${path}`, ['license.issued']);
    await notifier.sell();
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const all = await until(() => notifier.deliveries(id), (found) => found.some(({ attempts }) => attempts === attempt));
      if (attempt === MAX_ATTEMPTS - 1) {
        status = 200;
        await notifier.ask(TestWebhookEndpoint, { endpointId: id });
        await until(() => notifier.deliveries(id), (found) => found.some((one) => one.status === 'delivered'));
        status = 500;
      }
      if (attempt < MAX_ATTEMPTS) notifier.at(all.find(({ attempts }) => attempts === attempt)?.nextAttemptAt as Instant);
    }
    await until(() => notifier.deliveries(id), (all) => all.some((one) => one.status === 'failed'));
    expect((await notifier.ask(GetWebhookEndpoint, { endpointId: id })).enabled).toBe(true);
    await notifier.ask(DeleteWebhookEndpoint, { endpointId: id });
  });

  it('keeps nobody waiting for endpoints that never answer, and tries no more than four at a time where it is taken', async () => {
    const [stuck, well] = [fresh('stuck'), fresh('well')];
    let running = 0;
    let most = 0;
    const release = Promise.withResolvers<number>();
    answers.set(`/${stuck}`, () => release.promise);
    answers.set(`/${well}`, async () => {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setTimeout(resolve, 5));
      running -= 1;
      return 204;
    });
    const all = await Promise.all(Array.from({ length: 20 }, () => notifier.listen(`${base}/${stuck}`, ['license.issued'])));
    await notifier.listen(`${base}/${well}`, ['license.issued']);
    const sold = await Promise.all(Array.from({ length: 25 }, () => notifier.sell()));
    await until(() => of(well), (ids) => ids.length === sold.length);
    // How many there are at the same moment is up to the machine.
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(4);
    expect(of(stuck)).toHaveLength(all.length);
    release.resolve(204);
    await until(() => of(stuck), (ids) => ids.length === sold.length * all.length);
    expect(new Set(of(stuck)).size).toBe(sold.length * all.length);
    for (const { id } of all) await notifier.ask(DeleteWebhookEndpoint, { endpointId: id });
  });

  it('puts nothing there twice, and the same under the same id, if all of the log is read again', async () => {
    const path = fresh('again');
    await notifier.sell();
    notifier.clock.advance(120);
    const { id } = await notifier.listen(`${base}/${path}`, ['license.issued', 'license.suspended']);
    const licenseId = await notifier.sell();
    await notifier.tell(licenseId, { type: 'Suspend', reason: 'unpaid' });
    const before = await until(() => notifier.deliveries(id), (all) => all.length === 2 && all.every(({ status }) => status === 'delivered'));
    await notifier.close();
    notifier = await start(place(), notifier.clock);
    expect((await notifier.deliveries(id)).map(({ attempts }) => attempts)).toEqual([1, 1]);

    await notifier.run('delete from reactions');
    await notifier.run('delete from notifier_outbox where target = ? and type = ?', [id, 'license.suspended']);
    await notifier.close();
    notifier = await start(place(), notifier.clock);
    const after = await until(() => notifier.deliveries(id), (all) => all.length === 2 && all.every(({ status }) => status === 'delivered'));
    expect(after.map((one) => [one.id, one.payload])).toEqual(before.map((one) => [one.id, one.payload]));
    expect(of(path)).toHaveLength(3);
    expect((await notifier.ask(ListWebhookEndpoints, { limit: 100 })).data.filter((one) => one.id === id)).toHaveLength(1);
  });

  it('tells an endpoint what it missed, from the log, and nothing of the time before it was there', async () => {
    const path = fresh('recovered');
    await notifier.sell();
    notifier.clock.advance(7_200);
    const { id } = await notifier.listen(`${base}/${path}`, ['license.issued']);
    await notifier.ask(UpdateWebhookEndpoint, { endpointId: id, enabled: false });
    const since: Instant[] = [];
    for (let n = 0; n < 3; n++) {
      notifier.clock.advance(5_000);
      since.push(notifier.clock.instant);
      await notifier.sell();
    }
    await notifier.ask(UpdateWebhookEndpoint, { endpointId: id, enabled: true });
    await notifier.ask(RecoverWebhookEndpoint, { endpointId: id, since: since[1] as Instant });
    await until(() => of(path), (ids) => ids.length === 2);
    await notifier.ask(RecoverWebhookEndpoint, { endpointId: id, since: addDays(begin, -1) });
    await until(() => notifier.deliveries(id), (all) => all.length === 3 && all.every(({ status }) => status === 'delivered'));
    await until(() => notifier.run('select * from notifier_replays'), ({ rows }) => rows.length === 0);
    expect(of(path)).toHaveLength(3);
  });

  it('gives up what waits for an endpoint that is over, and recovers it, some thousand deliveries at a time', async () => {
    const path = fresh('backlog');
    const { id } = await notifier.listen(`${base}/${path}`, ['job.*']);
    await wait(notifier, id, 5_000);
    const database = notifier.app.get(StateDatabases).of(environment);
    const [run, batch] = [jest.spyOn(database, 'run'), jest.spyOn(database, 'batch')];
    const are = (status: string, count: number) => until(() => notifier.run('select count(*) as n from notifier_outbox where target = ? and status = ?', [id, status]), ({ rows: [row] }) => row?.['n'] === count);
    await notifier.ask(UpdateWebhookEndpoint, { endpointId: id, enabled: false });
    await are('failed', 5_000);
    expect(await notifier.deliveries(id)).toContainEqual(expect.objectContaining({ status: 'failed', error: 'the endpoint was disabled', nextAttemptAt: null }));
    answers.set(`/${path}`, () => 500);
    await notifier.ask(UpdateWebhookEndpoint, { endpointId: id, enabled: true });
    expect(await notifier.ask(RecoverWebhookEndpoint, { endpointId: id, since: addDays(begin, -1) })).toMatchObject({ requeued: 5_000 });
    await are('pending', 5_000);
    await notifier.ask(DeleteWebhookEndpoint, { endpointId: id });
    await are('failed', 5_000);
    expect(await notifier.deliveries(id)).toContainEqual(expect.objectContaining({ status: 'failed', error: 'the endpoint was deleted' }));
    const done = (await Promise.all([...run.mock.results, ...batch.mock.results].map(({ value }) => value as Promise<Answer | Answer[]>))).flat();
    for (const spy of [run, batch]) spy.mockRestore();
    expect(Math.max(...done.map(({ changes }) => changes))).toBe(2_000);
  });

  it('keeps the answer to what was being sent when its endpoint was disabled, and then gives up what was not taken', async () => {
    const path = fresh('disabled');
    const release = Promise.withResolvers<undefined>();
    const statuses = [204, 204, 500];
    answers.set(`/${path}`, async () => {
      const status = statuses.shift() ?? 204;
      if (statuses.length < 2) await release.promise;
      return status;
    });
    const { id, createdAt } = await notifier.listen(`${base}/${path}`, ['license.issued']);
    await notifier.sell();
    await until(() => notifier.deliveries(id), ([one]) => one?.status === 'delivered');
    for (let n = 0; n < 2; n++) await notifier.sell();
    await until(() => of(path), (ids) => ids.length === 3);
    await notifier.ask(UpdateWebhookEndpoint, { endpointId: id, enabled: false });
    await wait(notifier, id, 1);
    notifier.app.get(Announcers).replay();
    await until(() => notifier.deliveries(id), (all) => all.some(({ status }) => status === 'failed'));
    release.resolve(undefined);
    await until(() => notifier.deliveries(id), (all) => all.filter(({ responseStatus }) => responseStatus !== null).length === 3);
    notifier.app.get(Announcers).replay();
    const results = (all: readonly WebhookDeliveryView[]) => all.map(({ status, attempts, responseStatus }) => [status, attempts, responseStatus]).sort();
    const expected = [['delivered', 1, 204], ['delivered', 1, 204], ['failed', 1, 500], ['failed', 1, null]].sort();
    expect(results(await until(() => notifier.deliveries(id), (all) => all.every(({ status }) => status !== 'pending')))).toEqual(expected);
    await notifier.ask(UpdateWebhookEndpoint, { endpointId: id, enabled: true });
    expect(await notifier.ask(RecoverWebhookEndpoint, { endpointId: id, since: createdAt })).toMatchObject({ requeued: 2 });
    await notifier.ask(DeleteWebhookEndpoint, { endpointId: id });
  });

  it('forgets what is long over, and nothing else', async () => {
    const path = fresh('kept');
    const { id } = await notifier.listen(`${base}/${path}`, ['license.issued']);
    await notifier.sell();
    await until(() => notifier.deliveries(id), ([one]) => one?.status === 'delivered');
    answers.set(`/${path}`, () => 500);
    await notifier.sell();
    await until(() => notifier.deliveries(id), (all) => all.some(({ attempts, status }) => attempts === 1 && status === 'pending'));
    const forget = (at: Instant) => runIn(systemContext(environment, at), () => notifier.app.get(Outbox).forgetOld(at));
    await forget(addDays(notifier.clock.instant, 29));
    expect(await notifier.deliveries(id)).toHaveLength(2);
    await forget(addDays(notifier.clock.instant, 31));
    expect((await notifier.deliveries(id)).map(({ status }) => status)).toEqual(['pending']);
    await notifier.ask(DeleteWebhookEndpoint, { endpointId: id });
  });

  it('writes nothing at all where nobody listens', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'notifier-'));
    const quiet = await start({ dataDir: folder });
    const licenseId = await quiet.sell();
    for (let n = 0; n < 20; n++) await quiet.tell(licenseId, n % 2 ? { type: 'Unsuspend' } : { type: 'Suspend' });
    expect((await quiet.ask(ListWebhookDeliveries, {})).data).toEqual([]);
    const { rows } = await quiet.run('select (select count(*) from notifier_outbox) as outbox, (select max(position) from reactions) as position, (select count(*) from notifier_hours) as hours');
    // Where the first hour began, and not where the log ends.
    expect(rows).toEqual([{ outbox: 0, position: 1, hours: 1 }]);
    await quiet.close();
    rmSync(folder, { recursive: true });
  });

  describe('by mail', () => {
    /** As much of an SMTP server as a client needs. */
    const letters: { readonly to: string; readonly text: string }[] = [];
    let refuseWith = '';
    const smtp = createServer((socket) => {
      let to = '';
      let data: string | undefined;
      const say = (line: string) => socket.write(`${line}\r\n`);
      say('220 test');
      let rest = '';
      socket.on('error', () => undefined).on('data', (chunk: Buffer) => {
        rest += chunk.toString();
        for (let end = rest.indexOf('\r\n'); end >= 0; end = rest.indexOf('\r\n')) {
          const line = rest.slice(0, end);
          rest = rest.slice(end + 2);
          if (data !== undefined && line !== '.') data += `${line}\n`;
          else if (data !== undefined) {
            letters.push({ to, text: data });
            data = undefined;
            say('250 taken');
          } else if (/^DATA/i.test(line)) {
            data = '';
            say('354 go on');
          } else if (/^RCPT TO:/i.test(line) && refuseWith) say(refuseWith);
          else if (/^RCPT TO:/i.test(line)) {
            to = /<(.*)>/.exec(line)?.[1] ?? '';
            say('250 ok');
          } else if (/^QUIT/i.test(line)) socket.end('221 bye\r\n');
          else say('250 ok');
        }
      });
    });
    let mailing: Notifier;
    const folder = mkdtempSync(join(tmpdir(), 'notifier-'));
    beforeAll(async () => {
      smtp.listen(0, '127.0.0.1');
      await once(smtp, 'listening');
      await restart();
    });
    afterAll(async () => {
      await mailing?.close();
      smtp.close();
      rmSync(folder, { recursive: true });
    });
    const restart = async (config: Partial<NonNullable<NotifierConfig['mail']>> = {}) => {
      await mailing?.close();
      mailing = await start({ dataDir: folder }, mailing?.clock, { mail: { smtpUrl: `smtp://127.0.0.1:${(smtp.address() as AddressInfo).port}`, from: 'Licenses <licenses@vendor.example>', licenseKeys: true, allEnvironments: true, ...config } });
    };
    const to = (address: string) => letters.filter((letter) => letter.to === address);
    const keyIn = ({ text }: { readonly text: string }) => /KEY-lic_[-0-9a-f]+/.exec(text)?.[0];
    const settled = () => until(() => mailing.run("select id from notifier_outbox where status = 'pending'"), ({ rows }) => rows.length === 0);

    it('sends a customer the key of a new license, and reminds of its expiry, each once', async () => {
      const { customerId, productId } = await mailing.people('Ada <b>Lovelace</b>', 'ada@example.com');
      const expiresAt = addDays(mailing.clock.instant, 365);
      const licenseId = await mailing.sell({ customerId, productId, terms: { expiresAt } });
      const [issued] = await until(() => to('ada@example.com'), (all) => all.length === 1);
      expect(issued?.text).toContain(`KEY-${licenseId}`);
      expect(issued?.text).toMatch(/^Subject: \[staging\] Your license key for Paint & Draw$/m);
      expect(issued?.text).toContain('<p>Dear Ada &lt;b&gt;Lovelace&lt;/b&gt;,</p>');
      for (const days of [30, 14, 7]) {
        mailing.clock.instant = addDays(expiresAt, -days);
        await mailing.tell(licenseId, { type: 'Sweep', until: mailing.clock.instant });
        const [last] = (await until(() => to('ada@example.com'), (all) => all.some(({ text }) => text.includes(`expires in ${days} days`)))).slice(-1);
        expect(last?.text).toContain(expiresAt.slice(0, 10));
        expect(last?.text).not.toContain(`KEY-${licenseId}`);
      }
      await settled();
      expect(new Set(letters.map(({ text }) => /^Message-ID: (.*)$/m.exec(text)?.[1])).size).toBe(4);
      expect(to('ada@example.com')).toHaveLength(4);
      const { rows } = await mailing.run('select * from notifier_outbox');
      for (const secret of ['ada@', 'Ada', `KEY-${licenseId}`]) expect(JSON.stringify(rows)).not.toContain(secret);
    });

    it('begins when the log is first followed, and sends nothing of the past', async () => {
      const { customerId, productId } = await mailing.people('Alan', 'alan@example.com');
      await mailing.sell({ customerId, productId });
      await until(() => to('alan@example.com'), (all) => all.length === 1);
      await settled();
      await mailing.run('delete from reactions');
      await mailing.run('delete from notifier_outbox');
      await restart();
      await mailing.sell({ customerId, productId });
      await until(() => to('alan@example.com'), (all) => all.length === 2);
      await settled();
      expect(to('alan@example.com')).toHaveLength(2);
    });

    it('sends nothing of the past either where it is started again, or beside another one, before all of that is read', async () => {
      const { customerId, productId } = await mailing.people('Kurt', 'kurt@example.com');
      await mailing.sell({ customerId, productId });
      await until(() => to('kurt@example.com'), (all) => all.length === 1);
      await settled();
      await mailing.run('delete from reactions');
      await restart();
      await mailing.sell({ customerId, productId });
      await until(() => to('kurt@example.com'), (all) => all.length === 2);
      await settled();
      await mailing.run("update reactions set position = 1 where name = 'notifier'");
      await mailing.run('delete from notifier_outbox');
      const rest = to('kurt@example.com').slice(1);
      await restart();
      // What came after the first start is not the past: here, where the outbox has been emptied, it is sent once more.
      await until(() => to('kurt@example.com'), (all) => all.length === 3);
      await settled();
      expect(to('kurt@example.com').slice(2).map(keyIn)).toEqual(rest.map(keyIn));
    });

    it('sends the key to whom the license is assigned later, and the new one when it was regenerated', async () => {
      const [one, two] = [await mailing.people('Edsger', 'edsger@example.com'), await mailing.people('Barbara', 'barbara@example.com')];
      const licenseId = await mailing.sell({ customerId: null, productId: one.productId });
      await mailing.tell(licenseId, { type: 'Assign', customerId: one.customerId });
      const [first] = await until(() => to('edsger@example.com'), (all) => all.length === 1);
      expect(first?.text).toContain(`KEY-${licenseId}`);
      refuseWith = '451 later';
      await mailing.tell(licenseId, { type: 'RegenerateKey', key: { value: 'NEW-1', hash: 'NEW-1', prefix: 'NEW' } });
      await mailing.tell(licenseId, { type: 'RegenerateKey', key: { value: 'NEW-2', hash: 'NEW-2', prefix: 'NEW' } });
      await until(() => mailing.run("select * from notifier_outbox where status = 'pending' and attempts > 0 and type = 'license.key-regenerated'"), ({ rows }) => rows.length > 0);
      refuseWith = '';
      mailing.at(addSeconds(mailing.clock.instant, 3600));
      await settled();
      expect(to('edsger@example.com').slice(1).map(({ text }) => /^Subject: (.*)$/m.exec(text)?.[1])).toEqual(['[staging] Your new license key for Paint & Draw']);
      expect(to('edsger@example.com')[1]?.text).toContain('NEW-2');
      await mailing.tell(licenseId, { type: 'Assign', customerId: two.customerId });
      await until(() => to('barbara@example.com'), (all) => all.length === 1);
      expect(to('edsger@example.com')).toHaveLength(2);
    });

    it('does not try again what is refused for good', async () => {
      const { customerId, productId } = await mailing.people('Donald', 'donald@example.com');
      refuseWith = '550 no such mailbox';
      await mailing.sell({ customerId, productId });
      const { rows: [row] } = await until(() => mailing.run('select * from notifier_outbox where last_status = 550'), ({ rows }) => rows.length === 1);
      refuseWith = '';
      expect(row).toMatchObject({ status: 'failed', attempts: 1 });
    });

    it('sends nothing out of other environments than production unless it is asked to, not even what waits', async () => {
      const { customerId, productId } = await mailing.people('Tony', 'tony@example.com');
      refuseWith = '451 later';
      const licenseId = await mailing.sell({ customerId, productId });
      await until(() => mailing.run("select * from notifier_outbox where status = 'pending' and attempts > 0 and last_status = 451"), ({ rows }) => rows.length === 1);
      refuseWith = '';
      await restart({ allEnvironments: false });
      await mailing.tell(licenseId, { type: 'RegenerateKey', key: { value: 'N', hash: 'N', prefix: 'N' } });
      mailing.at(addSeconds(mailing.clock.instant, 3600));
      await settled();
      expect(to('tony@example.com')).toEqual([]);
      expect((await mailing.run('select * from notifier_outbox where body like ?', [`%${licenseId}%`])).rows).toMatchObject([{ status: 'failed', last_error: 'mail is sent from production only' }]);
      await restart();
    });

    it('says only what is still so', async () => {
      const { customerId, productId } = await mailing.people('Grace', 'grace@example.com');
      const sold = addDays(mailing.clock.instant, 100);
      const licenses = await Promise.all([1, 2, 3].map(() => mailing.sell({ customerId, productId, terms: { expiresAt: sold } })));
      await until(() => to('grace@example.com'), (all) => all.length === 3);
      const [late, renewed, revoked] = licenses as [LicenseId, LicenseId, LicenseId];
      mailing.clock.instant = addDays(sold, -10);
      refuseWith = '451 later';
      for (const id of licenses) await mailing.tell(id, { type: 'Sweep', until: mailing.clock.instant });
      await until(() => mailing.run("select * from notifier_outbox where status = 'pending' and attempts > 0 and last_status = 451"), ({ rows }) => rows.length === 3);
      await mailing.tell(renewed, { type: 'Renew', expiresAt: addDays(sold, 365), reason: 'paid' });
      await mailing.tell(revoked, { type: 'Revoke' });
      refuseWith = '';
      mailing.at(addSeconds(mailing.clock.instant, 3600));
      await settled();
      const reminders = to('grace@example.com').filter(({ text }) => text.includes('expires in'));
      expect(reminders.map(({ text }) => /expires in .*$/m.exec(text)?.[0])).toEqual(['expires in 10 days']);
      expect(late).toBeDefined();
    });
  });
  return () => notifier;
}
