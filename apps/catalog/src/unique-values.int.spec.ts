import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { CreateProduct, ProductView, UpdateProduct } from '@keyledger/contracts';
import { CLAIM_SETTLES_SECONDS } from '@keyledger/domain';
import { SqliteEventStores, type EventStore, type NewEvent } from '@keyledger/event-store';
import { addSeconds, PerEnvironment, refuse, runIn, systemContext, type ErrorCode, type MessageContext, type ProductId } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { Customers } from './customer.handlers.ts';
import { ProductCommands } from './product.handlers.ts';
import { CatalogStreams } from './streams.ts';

const environment = 'staging';
const now = '2026-11-21T12:00:00.000Z';
const settled = addSeconds(now, CLAIM_SETTLES_SECONDS + 1);
const metadata = { text: 'x'.repeat(11_000) };
const bob = { name: 'Bob', email: 'Bob@example.com' };
const message = (more: Partial<MessageContext> = {}): MessageContext => ({ ...systemContext(environment, now), ...more });
const refused = (code: ErrorCode, members: object = {}) => expect.objectContaining({ name: 'Refusal', code, members: expect.objectContaining(members) });

describe('A value that only one may have', () => {
  let folder: string;
  let stores: SqliteEventStores;
  let keyrings: Keyrings;
  /** Lets a test come between. */
  let beforeAppend: (type: string | undefined) => unknown;
  let claims: number;
  let here: ReturnType<typeof aProcess>;

  /** On the same log as the others. */
  const aProcess = (beforeRead: (stream: string) => unknown = () => undefined) => {
    const events = stores.of(environment);
    const append = async (...args: [string, never, readonly NewEvent[]]) => {
      if (args[2][0]?.type === 'ValueClaimed') claims++;
      await beforeAppend(args[2][0]?.type);
      return events.append(...args);
    };
    const readStream = async (...args: Parameters<EventStore['readStream']>) => {
      await beforeRead(args[0]);
      return events.readStream(...args);
    };
    const streams = new CatalogStreams(new PerEnvironment([[environment, { append, readStream } as Partial<EventStore> as EventStore]]), keyrings);
    const customers = new Customers(streams, keyrings);
    const products = new ProductCommands(streams, keyrings, { look: () => undefined, complete: (product: ProductView) => product } as never);
    const run = <T>(work: () => T, more?: Partial<MessageContext>) => runIn(message(more), work);
    return {
      customer: (fields: Parameters<Customers['create']>[0], more?: Partial<MessageContext>) => run(() => customers.create(fields), more),
      order: (customer: { name: string; email: string }, more?: Partial<MessageContext>) => run(() => customers.findOrCreate(customer), more),
      changeCustomer: (customerId: string, fields: object, more?: Partial<MessageContext>) => run(() => customers.update({ customerId, ...fields } as never), more),
      getCustomer: (customerId: string) => run(() => customers.require(customerId as never, 'CUSTOMER_NOT_FOUND')),
      find: (email: string) => run(() => customers.find(email)),
      product: (code: string, more?: Partial<MessageContext>, fields: object = {}) => run(() => products.execute({ type: 'Create', name: 'P', code, ...fields } as CreateProduct), more),
      changeProduct: (productId: ProductId, fields: object, more?: Partial<MessageContext>) => run(() => products.execute({ type: 'Update', productId, ...fields } as UpdateProduct), more),
    };
  };
  /** Comes before the next append of such an event. */
  const before = (event: string, work: () => unknown) => {
    beforeAppend = (type) => {
      if (type !== event) return undefined;
      beforeAppend = () => undefined;
      return work();
    };
  };
  const dies = () => { throw refuse('UNAVAILABLE'); };

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'unique-'));
    stores = await SqliteEventStores.open({ [environment]: join(folder, 'events.db') });
    keyrings = new Keyrings([[environment, await Keyring.open({ masterKey: new Uint8Array(32), environment, dataKeys: new MemoryDataKeys() })]]);
    beforeAppend = () => undefined;
    claims = 0;
    here = aProcess();
  });
  afterEach(async () => {
    await stores.close();
    rmSync(folder, { recursive: true });
  });

  it('is nobody\'s when what would have made its owner is refused', async () => {
    await expect(here.customer({ ...bob, metadata })).rejects.toEqual(refused('METADATA_TOO_LARGE'));
    expect(claims).toBe(0);
    const customerId = await here.order(bob);
    expect(await here.getCustomer(customerId)).toMatchObject(bob);
    await expect(here.customer(bob)).rejects.toEqual(refused('CUSTOMER_EXISTS', { id: customerId }));
    await expect(here.product('a', {}, { metadata })).rejects.toEqual(refused('METADATA_TOO_LARGE'));
    expect(await here.product('a')).toMatchObject({ code: 'a' });
  });

  it('is not somebody\'s whose change to it is refused', async () => {
    const [xavier, product] = [await here.customer({ name: 'Xavier', email: 'x@example.com' }), await here.product('a')];
    await expect(here.changeCustomer(xavier.id, { email: bob.email, metadata })).rejects.toEqual(refused('METADATA_TOO_LARGE'));
    await expect(here.changeProduct(product.id, { code: 'b', metadata })).rejects.toEqual(refused('METADATA_TOO_LARGE'));
    expect(claims).toBe(2);
    expect(await here.getCustomer(await here.order(bob))).toMatchObject(bob);
    expect(await here.product('b')).toMatchObject({ code: 'b' });
  });

  it('makes who asks for it wait for the owner that is about to appear: there is one', async () => {
    before('CustomerCreated', () => new Promise((resolve) => setTimeout(resolve, 50)));
    const there = aProcess();
    const orders = await Promise.all(Array.from({ length: 20 }, (_, n) => (n % 2 ? here : there).order(bob)));
    expect(new Set(orders).size).toBe(1);
    expect(await here.getCustomer(orders[0] as string)).toMatchObject(bob);
  });

  it('is given to nobody by a claim whose owner never appeared, and is free when that has settled', async () => {
    before('CustomerCreated', dies);
    await expect(here.customer(bob)).rejects.toEqual(refused('UNAVAILABLE'));
    await expect(here.order(bob)).rejects.toEqual(refused('TRY_AGAIN'));
    expect(await here.find(bob.email)).toBeUndefined();
    const customerId = await here.order(bob, { now: settled });
    expect(await here.find(bob.email)).toBe(customerId);
  });

  it('is no longer that of a message which died half way and comes again, if somebody was quicker', async () => {
    const sent = message();
    before('CustomerCreated', dies);
    await expect(here.customer(bob, sent)).rejects.toEqual(refused('UNAVAILABLE'));
    const customerId = await here.order(bob, { now: settled });
    await expect(here.customer(bob, { ...sent, now: settled, retry: true })).rejects.toEqual(refused('CUSTOMER_EXISTS', { id: customerId }));
  });

  it('does not keep a message that comes again from its answer, whoever has it now', async () => {
    const [made, changed] = [message(), message()];
    const xavier = await here.customer({ name: 'Xavier', email: 'x@example.com' }, made);
    await here.changeCustomer(xavier.id, { email: bob.email }, { ...changed, ifRevision: 0 });
    await here.changeCustomer(xavier.id, { email: 'z@example.com' });
    const again = (ifRevision?: number) => here.changeCustomer(xavier.id, { email: bob.email }, { ...changed, retry: true, ifRevision });
    for (const ifRevision of [undefined, 0]) expect(await again(ifRevision)).toMatchObject({ id: xavier.id, email: 'z@example.com' });
    const [, mine] = [await here.customer(bob, { now: settled }), await here.customer({ name: 'X', email: 'x@example.com' })];
    for (const ifRevision of [undefined, 0]) expect(await again(ifRevision)).toMatchObject({ id: xavier.id, email: 'z@example.com' });
    expect(await here.customer({ name: 'Xavier', email: 'x@example.com' }, { ...made, retry: true })).toMatchObject({ id: xavier.id });
    expect([await here.find('z@example.com'), await here.find('x@example.com')]).toEqual([xavier.id, mine.id]);
  });

  it('changes hands at the revision that the caller has seen of its owner', async () => {
    const [{ id: productId }, { id: customerId }] = [await here.product('a'), await here.customer(bob)];
    expect(await here.changeProduct(productId, { code: 'b' }, { ifRevision: 0 })).toMatchObject({ code: 'b', revision: 1 });
    expect(await here.changeProduct(productId, { code: null }, { ifRevision: 1 })).toMatchObject({ code: null, revision: 2 });
    expect(await here.changeCustomer(customerId, { email: 'new@example.com' }, { ifRevision: 0 })).toMatchObject({ revision: 1 });
    for (const code of ['a', 'b']) await here.product(code);
    await here.customer(bob);
  });

  it('is claimed by nobody who has seen an old revision, even if it has become old just now', async () => {
    const { id: productId } = await here.product('a');
    await here.changeProduct(productId, { name: 'Q' });
    await expect(here.changeProduct(productId, { code: 'b' }, { ifRevision: 0 })).rejects.toEqual(refused('VERSION_CONFLICT', { revision: 1 }));
    await here.product('b');
    before('ProductChanged', () => aProcess().changeProduct(productId, { name: 'R' }));
    await expect(here.changeProduct(productId, { code: 'c' }, { ifRevision: 1 })).rejects.toEqual(refused('VERSION_CONFLICT', { revision: 2 }));
    await here.product('c');
    await expect(here.product('a')).rejects.toEqual(refused('PRODUCT_CODE_TAKEN', { id: productId }));
  });

  it.each([true, false])('stays with whom is about to bear it when another change of the same owner to it is refused, which had seen the claim: %s', async (seen) => {
    const { id: productId } = await here.product('a');
    const [hasClaimed, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let change: Promise<unknown> | undefined;
    const claim = async () => {
      await here.changeProduct(productId, { name: 'Q' });
      before('ProductChanged', () => { hasClaimed.resolve(); return goOn.promise; });
      change = here.changeProduct(productId, { code: 'b' });
      await hasClaimed.promise;
    };
    let claimed: Promise<void> | undefined;
    const there = aProcess((stream) => (stream.startsWith('unique-') && (seen || !claimed) ? (claimed ??= claim()) : undefined));
    await expect(there.changeProduct(productId, { code: 'b' }, { ifRevision: 0 })).rejects.toEqual(refused('VERSION_CONFLICT'));
    await expect(there.product('b')).rejects.toEqual(refused('TRY_AGAIN'));
    goOn.resolve();
    expect(await change).toMatchObject({ code: 'b' });
  });

  it('is taken in spite of a change that came between, where the caller does not mind', async () => {
    const { id: productId } = await here.product('a');
    before('ProductChanged', () => aProcess().changeProduct(productId, { name: 'R' }));
    expect(await here.changeProduct(productId, { code: 'b' })).toMatchObject({ name: 'R', code: 'b' });
    await here.product('a');
  });

  it.each(['ProductChanged', 'ValueReleased'])('stays with whom bears it when two changes of one owner cross before %s', async (event) => {
    const { id: productId } = await here.product('a');
    const there = aProcess();
    before(event, async () => void await there.changeProduct(productId, { code: event === 'ProductChanged' ? 'c' : 'a' }));
    await here.changeProduct(productId, { code: 'b' });
    const { code } = await here.changeProduct(productId, { name: 'Q' });
    for (const one of ['a', 'b', 'c']) {
      if (one === code) await expect(here.product(one)).rejects.toEqual(refused('PRODUCT_CODE_TAKEN', { id: productId }));
      else await here.product(one);
    }
  });
});
