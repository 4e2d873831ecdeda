import { describe, expect, it } from '@jest/globals';
import { addSeconds, instantOf, type ErrorCode, type JsonObject } from '@keyledger/kernel';
import { at, idOf, scenarios } from '@keyledger/testing';
import { Customer, customerView, isErased, normaliseEmail, type CustomerCommand } from './customer.ts';
import { Generator, generatorView, type GeneratorCommand } from './generator.ts';
import { Order, orderView, type OrderCommand } from './order.ts';
import { Plan, planView, type Licensing, type PlanCommand } from './plan.ts';
import { Pool, type PoolCommand } from './pool.ts';
import { mustBeActive, Product, productView, type ProductCommand } from './product.ts';
import { CLAIM_SETTLES_SECONDS, Unique, uniqueId, type UniqueCommand } from './unique.ts';

const now = '2026-11-21T12:00:00.000Z';
const later = '2026-11-22T12:00:00.000Z';
const [editor, yearly, ada, resellers] = [idOf('prd'), idOf('pln'), idOf('cus'), idOf('gen')];
const tooLarge: JsonObject = { text: 'x'.repeat(10_240) };
const refused = (code: ErrorCode, members: object = expect.anything()) => expect.objectContaining({ code, members });

describe('A product', () => {
  const { given, story, stateOf } = scenarios(Product, now);
  type Of<T extends ProductCommand['type']> = ProductCommand & { type: T };
  const create = (fields: Partial<Of<'Create'>> = {}): Of<'Create'> => ({ type: 'Create', productId: editor, name: 'Editor', code: 'editor', metadata: { team: 'x' }, ...fields });
  const update = (fields: Omit<Of<'Update'>, 'type'>): Of<'Update'> => ({ type: 'Update', ...fields });
  const archive: ProductCommand = { type: 'Archive' };
  const product = story(create());

  it('is created once', () => {
    given().when(create()).thenEvents({ type: 'ProductCreated', productId: editor, name: 'Editor', code: 'editor', metadata: { team: 'x' } });
    given(product).when(create()).thenNothing();
  });

  it('needs neither code nor metadata', () => given().when({ type: 'Create', productId: editor, name: 'Editor' }).thenEvents({ type: 'ProductCreated', code: null, metadata: {} }));

  it('is told only what changes', () => {
    given(product).when(update({ name: 'Pro', code: 'editor' })).thenEvents({ type: 'ProductChanged', name: 'Pro' });
    expect(Product.decide(stateOf(product), update({ name: 'Pro', code: 'editor' }), now)).toEqual([{ type: 'ProductChanged', name: 'Pro' }]);
    given(story(product, update({ name: 'Pro' }))).when(update({ name: 'Pro' })).thenNothing();
    given(product).when(update({ metadata: { team: 'x' } })).thenNothing();
    given(product).when(update({ metadata: { team: 'y' } })).thenEvents({ type: 'ProductChanged', metadata: { team: 'y' } });
    given(product).when(update({})).thenNothing();
  });

  it('says what its meters are, each once', () => {
    const meters = [{ meter: 'api_calls', per: 'month', unit: 'calls' }, { meter: 'cores' }] as const;
    given().when({ type: 'Create', productId: editor, name: 'Editor', meters }).thenEvents({ type: 'ProductCreated', meters });
    given(story(create({ meters }))).when(update({ meters })).thenNothing();
    given(product).when(update({ meters })).thenEvents({ type: 'ProductChanged', meters }, (state) => expect(productView(state as NonNullable<typeof state>)).toMatchObject({ meters }));
    given(product).when(update({ meters: [] })).thenNothing();
    given(product).when(update({ meters: [{ meter: 'cores' }, { meter: 'cores', per: 'day' }] })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/meters' }] });
    given().when({ type: 'Create', productId: editor, name: 'Editor', meters: [{ meter: 'cores' }, { meter: 'cores' }] }).thenRefused('VALIDATION_FAILED');
  });
  it('may want licenses in store, and no longer', () => {
    given().when({ type: 'Create', productId: editor, name: 'Editor', pool: { buffer: 50 } }).thenEvents({ type: 'ProductCreated', pool: { buffer: 50 } });
    given(story(create({ pool: { buffer: 50 } }))).when(update({ pool: { buffer: 50 } })).thenNothing();
    const stocked = story(product, update({ pool: { buffer: 50 } }));
    given(stocked).when(update({ pool: { buffer: 50 } })).thenNothing();
    given(stocked).when(update({ pool: null })).thenEvents({ type: 'ProductChanged', pool: null }, (state) => expect(productView(state as NonNullable<typeof state>)).toMatchObject({ pool: null }));
    given(product).when(update({ pool: null })).thenNothing();
    expect(productView(stateOf(stocked) as NonNullable<ReturnType<typeof stateOf>>)).toMatchObject({ pool: { buffer: 50 } });
  });
  it('can lose its code', () => given(product).when(update({ code: null })).thenEvents({ type: 'ProductChanged', code: null }));

  it('is archived once', () => {
    given(product).when(archive).thenEvents({ type: 'ProductArchived' });
    given(story(product, archive)).when(archive).thenNothing();
  });

  it('has no more than 10 KB of metadata', () => {
    given().when(create({ metadata: tooLarge })).thenRefused('METADATA_TOO_LARGE');
    given(product).when(update({ metadata: tooLarge })).thenRefused('METADATA_TOO_LARGE');
  });

  it('is unknown before it is created', () => {
    given().when(update({ name: 'Pro' })).thenRefused('PRODUCT_NOT_FOUND');
    given().when(archive).thenRefused('PRODUCT_NOT_FOUND');
  });

  it('has new things made of it only while it is there and active', () => {
    expect(() => mustBeActive(stateOf(product))).not.toThrow();
    expect(() => mustBeActive(stateOf(story(product, archive)))).toThrow(refused('PRODUCT_ARCHIVED', { productId: editor }));
    expect(() => mustBeActive(null)).toThrow(refused('REFERENCE_NOT_FOUND', { field: 'productId' }));
    expect(() => mustBeActive(null, 'PRODUCT_NOT_FOUND')).toThrow(refused('PRODUCT_NOT_FOUND', {}));
  });

  it('is shown with its status', () => {
    expect(productView(stateOf(product) as NonNullable<ReturnType<typeof stateOf>>).status).toBe('active');
    const state = stateOf(story(product, at(later, archive)));
    expect(state && productView(state)).toEqual({ id: editor, name: 'Editor', code: 'editor', metadata: { team: 'x' }, meters: [], pool: null, status: 'archived', createdAt: now });
  });
});

describe('A pool', () => {
  const { given, story } = scenarios(Pool, now);
  const note = (available: number, buffer = 50): PoolCommand => ({ type: 'Note', available, buffer });
  const low = story(note(49));

  it('is news when it runs low, and when it is filled again, once', () => {
    given().when(note(50)).thenNothing();
    given().when(note(49)).thenEvents({ type: 'PoolRanLow', available: 49, buffer: 50 });
    given(low).when(note(0)).thenNothing();
    given(low).when(note(50)).thenEvents({ type: 'PoolRefilled', available: 50, buffer: 50 });
    given(story(low, note(50))).when(note(1)).thenEvents({ type: 'PoolRanLow', available: 1 });
  });
  it('is low by what is wanted now', () => {
    given(low).when(note(49, 49)).thenEvents({ type: 'PoolRefilled' });
    given().when(note(80, 100)).thenEvents({ type: 'PoolRanLow' });
  });
});

describe('A plan', () => {
  const { given, story, stateOf } = scenarios(Plan, now);
  const create = (licensing?: Licensing): PlanCommand => ({ type: 'Create', planId: yearly, productId: editor, name: 'Yearly', licensing });
  const update = (fields: Omit<PlanCommand & { type: 'Update' }, 'type'>): PlanCommand => ({ type: 'Update', ...fields });
  const plan = story(create({ enabled: true, activationLimit: 5, expiry: { value: 1, unit: 'years' } }));

  it('is created once', () => {
    given().when(create({ enabled: true })).thenEvents({ type: 'PlanCreated', planId: yearly, productId: editor, name: 'Yearly' });
    given(plan).when(create()).thenNothing();
  });

  it('issues nothing unless told so; then unlimited keys for a lifetime, unless told otherwise', () => {
    expect(stateOf(story(create()))?.licensing).toEqual({ enabled: false, activationLimit: -1, expiry: null });
    expect(stateOf(story(create({ enabled: true, overageGraceDays: 3 })))?.licensing).toEqual({ enabled: true, activationLimit: -1, expiry: null, overageGraceDays: 3 });
  });

  it('keeps of its licensing what a change does not name', () => {
    const changed = story(plan, update({ licensing: { activationLimit: 3, trial: { days: 90 } } }));
    expect(stateOf(changed)?.licensing).toEqual({ enabled: true, activationLimit: 3, expiry: { value: 1, unit: 'years' }, trial: { days: 90 } });
    given(changed).when(update({ licensing: { activationLimit: 3 } })).thenNothing();
    given(changed).when(update({ name: 'Yearly', licensing: { enabled: true } })).thenNothing();
    expect(stateOf(story(changed, update({ licensing: { enabled: false } })))?.licensing).toMatchObject({ enabled: false, activationLimit: 3 });
    expect(stateOf(story(changed, update({ licensing: { expiry: null } })))?.licensing).toMatchObject({ enabled: true, expiry: null });
    given(changed).when(update({ licensing: { activationLimit: undefined, trial: undefined } })).thenNothing();
    expect(Plan.decide(stateOf(plan), update({ name: 'Annual' }), now)).toEqual([{ type: 'PlanChanged', name: 'Annual' }]);
  });

  it.each<[Partial<Licensing>, ErrorCode]>([
    [{ activationLimit: 0 }, 'LIMIT_OUT_OF_RANGE'], [{ activationLimit: -2 }, 'LIMIT_OUT_OF_RANGE'], [{ activationLimit: 10_001 }, 'LIMIT_OUT_OF_RANGE'],
    [{ trial: { days: 91 } }, 'TRIAL_TOO_LONG'],
    [{ expiry: { value: 0, unit: 'days' } }, 'VALIDATION_FAILED'], [{ expiry: { value: 1e9, unit: 'days' } }, 'VALIDATION_FAILED'],
  ])('refuses %j with %s', (licensing, code) => {
    given().when(create({ enabled: true, ...licensing })).thenRefused(code);
    given(plan).when(update({ licensing })).thenRefused(code);
  });

  it.each<Partial<Licensing>>([{ activationLimit: 1 }, { activationLimit: 10_000 }, { activationLimit: -1 }, { trial: { days: 90 } }, { expiry: { value: 1, unit: 'days' } }])('takes %j', (licensing) =>
    given().when(create({ enabled: true, ...licensing })).thenEvents({ type: 'PlanCreated', licensing: expect.objectContaining(licensing) }));

  it('ends at a date to come, and has another name though it has run out since', () => {
    const ending = (expiresAt: string) => ({ licensing: { expiresAt } });
    for (const over of [now, '2020-01-01T00:00:00Z']) {
      given().when(create({ enabled: true, expiresAt: over })).thenRefused('EXPIRY_IN_PAST');
      given(plan).when(update(ending(over))).thenRefused('EXPIRY_IN_PAST', { expiresAt: instantOf(over) });
    }
    const runOut = given(story(plan, update(ending(addSeconds(now, 1)))), addSeconds(now, 1));
    runOut.when(update({ name: 'Annual' })).thenEvents({ type: 'PlanChanged', name: 'Annual' });
    runOut.when(update({ ...ending(addSeconds(now, 1)), name: 'Annual' })).thenEvents({ type: 'PlanChanged', name: 'Annual' });
    runOut.when(update({ licensing: { activationLimit: 3 } })).thenEvents({ type: 'PlanChanged', licensing: { activationLimit: 3 } });
  });

  it('keeps dates in one spelling', () =>
    given().when(create({ enabled: true, effectiveAt: '2027-01-01T01:00:00+01:00' })).thenEvents({ type: 'PlanCreated', licensing: { effectiveAt: '2027-01-01T00:00:00.000Z' } }));

  it('is unknown before it is created', () => given().when(update({ name: 'Annual' })).thenRefused('PLAN_NOT_FOUND'));

  it('is shown as it is', () => {
    const state = stateOf(story(create()));
    expect(state && planView(state)).toEqual({ id: yearly, productId: editor, name: 'Yearly', licensing: { enabled: false, activationLimit: -1, expiry: null }, createdAt: now });
  });
});

describe('A customer', () => {
  const { given, story, stateOf } = scenarios(Customer, now);
  const create = (metadata?: JsonObject): CustomerCommand => ({ type: 'Create', customerId: ada, name: 'Ada', email: 'ada@example.com', emailHash: 'h1', metadata });
  const customer = story(create());

  it('is created once', () => {
    given().when(create({ vip: true })).thenEvents({ type: 'CustomerCreated', customerId: ada, name: 'Ada', email: 'ada@example.com', emailHash: 'h1', metadata: { vip: true } });
    given(customer).when(create()).thenNothing();
  });

  it('is told only what changes, an address with its hash', () => {
    const move: CustomerCommand = { type: 'Update', name: 'Ada', email: 'ada@example.org', emailHash: 'h2' };
    expect(Customer.decide(stateOf(customer), move, now)).toEqual([{ type: 'CustomerChanged', email: 'ada@example.org', emailHash: 'h2' }]);
    given(story(customer, move)).when(move).thenNothing();
    given(customer).when({ type: 'Update' }).thenNothing();
  });

  it('has no more than 10 KB of metadata', () => {
    given().when(create(tooLarge)).thenRefused('METADATA_TOO_LARGE');
    given(customer).when({ type: 'Update', metadata: tooLarge }).thenRefused('METADATA_TOO_LARGE');
  });

  it('has all that is personal sealed', () => {
    const personal = ['name', 'email', 'metadata'];
    expect(Customer.shapes).toEqual({ CustomerCreated: { schema: 1, sealed: personal }, CustomerChanged: { schema: 1, sealed: personal } });
  });

  it('is a mere id once its key is destroyed', () => {
    const origin = { at: now, actor: { type: 'system', id: 'keyledger' } } as const;
    const created = Customer.evolve(null, { type: 'CustomerCreated', customerId: ada, emailHash: 'h1', name: null, email: null, metadata: null }, origin);
    const state = Customer.evolve(created, { type: 'CustomerChanged', emailHash: 'h2', name: null, email: null, metadata: null }, origin);
    expect(state && isErased(state)).toBe(true);
    expect(state && customerView(state)).toEqual({ id: ada, name: null, email: null, metadata: null, createdAt: now });
    expect(() => Customer.decide(state, { type: 'Update', name: 'Ada' }, now)).toThrow(refused('CUSTOMER_NOT_FOUND'));
    expect(Customer.decide(state, create(), now)).toEqual([]);
  });

  it('is unknown before it is created', () => given().when({ type: 'Update', name: 'Ada' }).thenRefused('CUSTOMER_NOT_FOUND'));
  it('has one address, however it is spelled', () => expect(normaliseEmail(' Ada@Example.COM ')).toBe('ada@example.com'));
  it('has one address, whatever its letters are composed of', () => expect(normaliseEmail('ju\u0308rgen@example.com')).toBe('j\u00fcrgen@example.com'));
});

describe('An order', () => {
  const { given, story, stateOf } = scenarios(Order, now);
  const place = (fields: Partial<OrderCommand> = {}): OrderCommand => ({
    type: 'Place', orderId: idOf('ord'), planId: yearly, productId: editor, customerId: ada, licensingEnabled: true, licenseIds: [idOf('lic')], terms: { activationLimit: 5 }, ...fields,
  });
  const licenses = (n: number) => Array.from({ length: n }, (_, i) => idOf('lic', i));

  it('is placed once, with the terms and license ids of that moment', () => {
    given().when(place()).thenEvents({ type: 'OrderPlaced', purchasedAt: now, quantity: 1, licenseIds: [idOf('lic')], terms: { activationLimit: 5 }, deploymentId: null, deploymentMode: null });
    given(story(place())).when(place()).thenNothing();
    given(story(place())).at(later).when(place({ terms: {} })).thenNothing();
  });

  it('can be backdated, and serve a deployment', () => given().when(place({ purchasedAt: '2026-01-31T00:00:00Z', deploymentId: 'd', deploymentMode: 'cloud' }))
    .thenEvents({ type: 'OrderPlaced', purchasedAt: '2026-01-31T00:00:00.000Z', deploymentId: 'd', deploymentMode: 'cloud' }));

  it.each([1, 2, 100])('takes %d pieces', (quantity) => given().when(place({ quantity, licenseIds: licenses(quantity) })).thenEvents({ type: 'OrderPlaced', quantity }));
  it.each([0, -1, 101, 1.5])('refuses %d pieces', (quantity) => given().when(place({ quantity, licenseIds: licenses(1) })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/quantity' }] }));
  it('is not placed at no time', () => given().when(place({ purchasedAt: 'yesterday' })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/purchasedAt' }] }));

  it('has no licenses without licensing', () => given().when(place({ licensingEnabled: false, licenseIds: [], quantity: 3 })).thenEvents({ type: 'OrderPlaced', quantity: 3, licenseIds: [] }));

  it.each([[[]], [licenses(2)], [[idOf('lic'), idOf('lic')]]])('is a bug with other licenses than pieces: %j', (licenseIds) => {
    expect(() => Order.decide(null, place({ quantity: licenseIds.length === 2 && licenseIds[0] === licenseIds[1] ? 2 : 1, licenseIds }), now)).toThrow('license ids expected');
    expect(() => Order.decide(null, place({ licensingEnabled: false, licenseIds: licenses(1) }), now)).toThrow('0 license ids expected');
    expect(() => Order.decide(null, place({ licenseIds: [idOf('lic'), idOf('lic')] }), now)).toThrow('1 license ids expected');
  });

  it('is listed with the ids of its licenses', () => {
    const state = stateOf(story(place()));
    expect(state && orderView(state)).toEqual({
      id: idOf('ord'), planId: yearly, productId: editor, customerId: ada, purchasedAt: now, quantity: 1, licenseIds: [idOf('lic')], createdAt: now,
    });
  });
});

describe('A generator', () => {
  const { given, story, stateOf } = scenarios(Generator, now);
  type Of<T extends GeneratorCommand['type']> = GeneratorCommand & { type: T };
  const create = (fields: Partial<Of<'Create'>> = {}): Of<'Create'> => ({ type: 'Create', generatorId: resellers, productId: editor, name: 'Resellers', keyFormat: { kind: 'crockford' }, ...fields });
  const update = (fields: Omit<Of<'Update'>, 'type'>): Of<'Update'> => ({ type: 'Update', ...fields });
  const generator = story(create({ terms: { activationLimit: 2 } }));

  it('is created once', () => {
    given().when(create()).thenEvents({ type: 'GeneratorCreated', generatorId: resellers, productId: editor, planId: null, terms: {} });
    given(generator).when(create()).thenNothing();
  });

  it('says of the terms only what it was told', () => expect(stateOf(generator)?.terms).toEqual({ activationLimit: 2 }));

  it('is told only what changes', () => {
    const change = update({ name: 'Resellers', planId: yearly, keyFormat: { kind: 'uuid' }, terms: {} });
    expect(Generator.decide(stateOf(generator), change, now)).toEqual([{ type: 'GeneratorChanged', planId: yearly, keyFormat: { kind: 'uuid' }, terms: {} }]);
    given(story(generator, change)).when(change).thenNothing();
    given(story(generator, change)).when(update({ planId: null })).thenEvents({ type: 'GeneratorChanged', planId: null });
  });

  it('makes no keys that could be guessed', () => {
    const weak = { keyFormat: { kind: 'chunks', chunks: 3, chunkLength: 4 } } as const;
    given().when(create(weak)).thenRefused('KEY_FORMAT_TOO_WEAK', { bits: 60, minimum: 96 });
    given(generator).when(update(weak)).thenRefused('KEY_FORMAT_TOO_WEAK');
  });

  it('has possible terms only', () => {
    given().when(create({ terms: { activationLimit: 0 } })).thenRefused('LIMIT_OUT_OF_RANGE');
    given(generator).when(update({ terms: { trial: { days: 91 } } })).thenRefused('TRIAL_TOO_LONG');
  });

  it('ends at a date to come, and changes otherwise though it has run out since', () => {
    const soon = addSeconds(now, 1);
    given().when(create({ terms: { expiresAt: now } })).thenRefused('EXPIRY_IN_PAST');
    given(generator).when(update({ terms: { expiresAt: now } })).thenRefused('EXPIRY_IN_PAST');
    given(story(generator, update({ terms: { expiresAt: soon } })), soon).when(update({ name: 'Old', terms: { expiresAt: soon, activationLimit: 3 } })).thenEvents({ type: 'GeneratorChanged', name: 'Old' });
  });

  it('is unknown before it is created', () => given().when(update({ name: 'x' })).thenRefused('GENERATOR_NOT_FOUND'));

  it('is shown as it is', () => {
    const state = stateOf(generator);
    expect(state && generatorView(state)).toEqual({ id: resellers, name: 'Resellers', productId: editor, planId: null, keyFormat: { kind: 'crockford' }, terms: { activationLimit: 2 }, createdAt: now });
  });
});

describe('A value that only one may have', () => {
  const { given, story } = scenarios(Unique, now);
  const [mine, yours] = [idOf('prd', 1), idOf('prd', 2)];
  const claim = (ownerId: string, insteadOf?: string): UniqueCommand => ({ type: 'Claim', ownerId, taken: 'PRODUCT_CODE_TAKEN', insteadOf });
  const release = (ownerId: string): UniqueCommand => ({ type: 'Release', ownerId });
  const taken = story(claim(mine));
  const settled = addSeconds(now, CLAIM_SETTLES_SECONDS + 1);

  it('is claimed', () => given().when(claim(mine)).thenEvents({ type: 'ValueClaimed', ownerId: mine }));

  it('is claimed anew by its owner, who has as long again to bear it out', () => {
    given(taken, settled).when(claim(mine)).thenEvents({ type: 'ValueClaimed', ownerId: mine });
    given(story(taken, at(settled, claim(mine))), addSeconds(settled, CLAIM_SETTLES_SECONDS)).when(claim(yours, mine)).thenRefused('PRODUCT_CODE_TAKEN', { id: mine });
  });

  it('is refused to another, who learns whose it is', () => {
    given(taken).when(claim(yours)).thenRefused('PRODUCT_CODE_TAKEN', { id: mine });
    given(taken).when({ type: 'Claim', ownerId: yours, taken: 'CUSTOMER_EXISTS' }).thenRefused('CUSTOMER_EXISTS', { id: mine });
  });

  it('is free again after its release, which only its owner can ask for', () => {
    given(taken).when(release(yours)).thenNothing();
    given(taken).when(release(mine)).thenEvents({ type: 'ValueReleased', ownerId: mine });
    given(story(taken, release(mine))).when(release(mine)).thenNothing();
    given(story(taken, release(mine))).when(claim(yours)).thenEvents({ type: 'ValueClaimed', ownerId: yours });
    given().when(release(mine)).thenNothing();
  });

  it('is taken over from an owner that does not bear it out', () => given(taken, settled).when(claim(yours, mine)).thenEvents({ type: 'ValueClaimed', ownerId: yours }));
  it('is not taken over while its owner may still be about to appear', () => given(taken, addSeconds(now, CLAIM_SETTLES_SECONDS)).when(claim(yours, mine)).thenRefused('PRODUCT_CODE_TAKEN'));
  it('is not taken over from somebody who was quicker', () => {
    const third = idOf('prd', 3);
    given(story(taken, at(settled, claim(third, mine))), addSeconds(settled, 600)).when(claim(yours, mine)).thenRefused('PRODUCT_CODE_TAKEN', { id: third });
    given(taken, settled).when(claim(yours)).thenRefused('PRODUCT_CODE_TAKEN');
  });

  it('has a stream by kind', () => expect(uniqueId('customer-email', 'abc')).toBe('customer-email:abc'));
});
