import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { EventStores, SqliteEventStores, type NewEvent } from '@keyledger/event-store';
import { eventId, newCommandId, refuse } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { openDatabases, reactionsTable, StateDatabases } from '@keyledger/read-models';
import { idOf, until } from '@keyledger/testing';
import { Fulfilment } from './order.handlers.ts';
import { OrderCompletion } from './reactions.ts';
import { CatalogStreams } from './streams.ts';

const environment = 'staging';
const now = '2026-11-21T12:00:00.000Z';

describe('Orders that nobody has finished', () => {
  let directory: string;
  let logs: SqliteEventStores;
  let state: StateDatabases;
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'orders-'));
    logs = await SqliteEventStores.open({ [environment]: join(directory, 'events.db') });
    state = new StateDatabases((await openDatabases({ environments: [environment], at: { directory }, kind: 'state', entities: [], migrations: [reactionsTable] })).entries());
  });
  afterEach(async () => {
    await state.of(environment).close();
    await logs.close();
    rmSync(directory, { recursive: true });
  });

  it('get their licenses though one of them cannot be read, or issued, and as soon as somebody answers, or has stumbled often enough', async () => {
    const orders = [1, 2, 3, 4, 5].map((n) => ({ orderId: idOf('ord', n), licenseIds: [idOf('lic', n)] }));
    type Order = (typeof orders)[number];
    const [unreadable, broken, waiting, stumbling, good] = orders as [Order, Order, Order, Order, Order];
    const log = logs.of(environment);
    for (const { orderId, licenseIds } of orders) {
      const metadata = { occurredAt: now, actor: { type: 'system', id: 'keyledger' }, schema: orderId === unreadable.orderId ? 99 : 1 };
      await log.append(`order-${orderId}`, 'any', [{ id: eventId(newCommandId(), orderId), type: 'OrderPlaced', data: { orderId, licenseIds, terms: {}, planId: idOf('pln'), productId: idOf('prd'), customerId: idOf('cus'), quantity: 1, purchasedAt: now }, metadata } as unknown as NewEvent]);
    }
    const [issued, logged]: [string[], unknown[]] = [[], []];
    let away = 1;
    let stumbles = 3;
    const messages = {
      send: async (_: unknown, { licenseId }: { licenseId: string }) => {
        if (broken.licenseIds.some((id) => id === licenseId)) throw refuse('INTERNAL');
        if (stumbling.licenseIds.some((id) => id === licenseId) && stumbles-- > 0) throw refuse('INTERNAL');
        if (waiting.licenseIds.some((id) => id === licenseId) && away-- > 0) throw refuse('UNAVAILABLE');
        issued.push(licenseId);
      },
    };
    const keyrings = new Keyrings([[environment, await Keyring.open({ masterKey: new Uint8Array(32), environment, dataKeys: new MemoryDataKeys() })]]);
    const events = new EventStores(logs.entries());
    const completion = await OrderCompletion.start(events, state, { now: () => now }, new CatalogStreams(events, keyrings), new Fulfilment(messages as never), { error: (told: unknown) => logged.push(told) } as never);
    await until(async () => logged.length >= 2 && [waiting, stumbling, good].flatMap(({ licenseIds }) => licenseIds).every((id) => issued.includes(id)));
    expect(logged).toEqual(expect.arrayContaining([expect.objectContaining({ stream: `order-${unreadable.orderId}` }), expect.objectContaining({ stream: `order-${broken.orderId}` })]));
    await completion.close();
    expect((await state.of(environment).run('select position from reactions')).rows).toMatchObject([{ position: await log.head() }]);
  });
});
