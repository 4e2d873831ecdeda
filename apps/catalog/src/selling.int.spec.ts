import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { ArchiveProduct, CreateGenerator, CreatePlan, CreateProduct, LicenseView, PlaceOrder, ResolveOffer } from '@keyledger/contracts';
import { SqliteEventStores } from '@keyledger/event-store';
import { addSeconds, newCommandId, refuse, runIn, systemContext, type Instant, type MessageContext, type PlanId } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { Customers } from './customer.handlers.ts';
import { GeneratorCommands, Offers } from './generator.handlers.ts';
import { Fulfilment, OrderCommands } from './order.handlers.ts';
import { PlanCommands } from './plan.handlers.ts';
import { ProductCommands } from './product.handlers.ts';
import { CatalogStreams } from './streams.ts';

const environment = 'staging';
const now = '2026-11-21T12:00:00.000Z';
const tomorrow = addSeconds(now, 86_400);
const ada = { name: 'Ada', email: 'ada@example.com' };
const aYear = { value: 1, unit: 'years' } as const;

describe('What is sold', () => {
  let folder: string;
  let stores: SqliteEventStores;
  let catalog: Awaited<ReturnType<typeof open>>;
  let erased: (string | undefined)[];

  async function open() {
    const keyrings = new Keyrings([[environment, await Keyring.open({ masterKey: new Uint8Array(32), environment, dataKeys: new MemoryDataKeys() })]]);
    const streams = new CatalogStreams(stores, keyrings);
    const customers = new Customers(streams, keyrings);
    const messages = { send: async (_: unknown, { licenseId: id }: { licenseId?: string }) => (erased.includes(id) ? Promise.reject(refuse('LICENSE_NOT_FOUND')) : { id }) } as never;
    const commands = {
      product: new ProductCommands(streams, keyrings, { look: () => undefined, complete: (product: object) => product } as never),
      plan: new PlanCommands(streams), generator: new GeneratorCommands(streams), order: new OrderCommands(streams, customers, new Fulfilment(messages), messages), offer: new Offers(streams, customers),
    };
    const run = <T>(work: () => Promise<T>, at: Instant = now, more: Partial<MessageContext> = {}) => runIn({ ...systemContext(environment, at), ...more }, work);
    const { id: productId } = await run(() => commands.product.execute({ type: 'Create', name: 'P' } as CreateProduct));
    return {
      plan: async (licensing: object, more?: Partial<MessageContext>) => (await run(() => commands.plan.execute({ type: 'Create', productId, name: 'Yearly', licensing } as CreatePlan), now, more)).id,
      generator: async (fields: object, more?: Partial<MessageContext>) =>
        (await run(() => commands.generator.execute({ type: 'Create', productId, name: 'Keys', keyFormat: { kind: 'crockford' }, ...fields } as CreateGenerator), now, more)).id,
      order: (fields: object, at?: Instant, more?: Partial<MessageContext>) => run(() => commands.order.execute({ type: 'Place', ...fields } as PlaceOrder), at, more),
      archive: () => run(() => commands.product.execute({ type: 'Archive', productId } as ArchiveProduct)),
      offered: async (fields: object) => (await run(() => commands.offer.execute({ productId, ...fields } as ResolveOffer))).terms,
      find: (email: string) => run(() => customers.find(email)),
    };
  }

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'selling-'));
    erased = [];
    stores = await SqliteEventStores.open({ [environment]: join(folder, 'events.db') });
    catalog = await open();
  });
  afterEach(async () => {
    await stores.close();
    rmSync(folder, { recursive: true });
  });

  it('makes a customer of whoever buys it, and of nobody whose order is refused', async () => {
    const planId = await catalog.plan({ enabled: true, expiresAt: tomorrow });
    await expect(catalog.order({ planId, customer: ada }, tomorrow)).rejects.toMatchObject({ code: 'EXPIRY_IN_PAST' });
    expect(await catalog.find(ada.email)).toBeUndefined();
    const { customerId } = await catalog.order({ planId, customer: ada });
    expect(await catalog.find(ada.email)).toBe(customerId);
  });

  it('is answered once more to whoever has not heard of it, though it is not for sale any more', async () => {
    const sent = { commandId: newCommandId() };
    const all = async (planId: PlanId, more: Partial<MessageContext>) =>
      ({ plan: await catalog.plan({ enabled: true }, more), generator: await catalog.generator({ planId }, more), order: await catalog.order({ planId, customer: ada, quantity: 2 }, now, more) });
    const planId = await catalog.plan({ enabled: true });
    const first = await all(planId, sent);
    await catalog.archive();
    expect(await all(planId, { ...sent, retry: true })).toEqual(first);
    for (const sold of [catalog.plan({ enabled: true }, { retry: true }), catalog.generator({ planId }, { retry: true }), catalog.order({ planId, customer: ada }, now, { retry: true })]) {
      await expect(sold).rejects.toMatchObject({ code: expect.stringMatching('PRODUCT_') });
    }
    const [{ id }, kept] = first.order.licenses as unknown as [LicenseView, LicenseView];
    erased = [id];
    expect(await catalog.order({ planId, customer: ada, quantity: 2 }, now, { ...sent, retry: true })).toEqual({ ...first.order, licenses: [kept] });
  });

  it('is for a lifetime where the generator says so of its plan', async () => {
    const planId = await catalog.plan({ enabled: true, activationLimit: 3, expiry: aYear });
    const offered = async (terms: object) => catalog.offered({ generatorId: await catalog.generator({ planId, terms }) });
    expect(await offered({})).toMatchObject({ activationLimit: 3, expiry: aYear });
    expect(await offered({ expiresAt: null })).toMatchObject({ activationLimit: 3, expiry: null, expiresAt: null });
  });
});
