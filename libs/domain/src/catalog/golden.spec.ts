import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import type { EventOrigin, EventShape, JsonObject } from '@keyledger/kernel';
import { ApiKey } from '../access/apiKey.ts';
import { Environment } from '../access/environment.ts';
import { Customer } from './customer.ts';
import { Generator } from './generator.ts';
import { Order } from './order.ts';
import { Plan } from './plan.ts';
import { Pool } from './pool.ts';
import { Product } from './product.ts';
import { Unique } from './unique.ts';

/** One line per event type and schema version ever stored. Lines are added, never edited: each is somebody's history. */
const golden = JSON.parse(readFileSync(new URL('./golden/catalog-events.json', import.meta.url), 'utf8')) as
  { category: string; type: string; schema: number; data: JsonObject }[];

interface Readable {
  readonly category: string;
  readonly shapes: Readonly<Record<string, EventShape>>;
  initial(): unknown;
  evolve(state: unknown, event: { type: string }, origin: EventOrigin): unknown;
}
const readable = (aggregate: object) => aggregate as Readable;

const at = '2026-11-21T12:00:00.000Z';
const origin: EventOrigin = { at, actor: { type: 'system', id: 'keyledger' } };
const id = (prefix: string) => `${prefix}_01938000-0000-7000-8000-000000000001`;

describe.each([
  [readable(Product), { id: id('prd'), name: 'Editor Pro', code: null, metadata: { team: 'x' }, archived: true, createdAt: at }],
  [readable(Plan), { id: id('pln'), productId: id('prd'), name: 'Yearly', licensing: { enabled: true, activationLimit: -1, expiry: null, expiryGraceDays: 7 }, createdAt: at }],
  [readable(Customer), { id: id('cus'), name: 'Ada Lovelace', email: 'ada@example.org', emailHash: 'h2', metadata: { vip: true }, createdAt: at }],
  [readable(Order), {
    id: id('ord'), planId: id('pln'), productId: id('prd'), customerId: id('cus'), purchasedAt: '2026-11-21T10:00:00.000Z', quantity: 1, licensingEnabled: true,
    licenseIds: [id('lic')], terms: { activationLimit: 5 }, deploymentId: 'dep-1', deploymentMode: 'cloud', createdAt: at,
  }],
  [readable(Generator), { id: id('gen'), productId: id('prd'), name: 'Resellers', planId: id('pln'), keyFormat: { kind: 'uuid' }, terms: {}, createdAt: at }],
  [readable(Unique), null],
  [readable(Pool), { low: false }],
  [readable(ApiKey), {
    id: id('key'), name: 'CI', role: 'support', permissions: [], environment: 'staging', secretHash: 's2', expiresAt: null, root: false,
    createdAt: at, rotatedAt: at, deleted: true,
  }],
  [readable(Environment), { name: 'staging', createdAt: at, clock: { setTo: '2027-03-01T00:00:00.000Z', aheadMs: 8_600_400_000 } }],
])('$category', ({ category, shapes, initial, evolve }, state) => {
  const own = golden.filter((line) => line.category === category);

  it('has a line for every shape ever stored', () => {
    const versions = Object.entries(shapes).flatMap(([type, { schema }]) => Array.from({ length: schema }, (_, i) => `${type} ${i + 1}`));
    expect(own.map(({ type, schema }) => `${type} ${schema}`).toSorted()).toEqual(versions.toSorted());
  });

  it('can still be read', () => {
    const lifted = own.map(({ type, schema, data }) => {
      let lifting = data;
      for (let version = schema; version < (shapes[type]?.schema ?? 0); version++) lifting = shapes[type]?.upcast?.[version]?.(lifting) ?? lifting;
      return { ...lifting, type };
    });
    expect(lifted.reduce((before, event) => evolve(before, event, origin), initial())).toEqual(state);
  });
});
