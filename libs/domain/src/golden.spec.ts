import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import type { EventOrigin, EventShape, JsonObject } from '@keyledger/kernel';
import * as domain from './index.ts';

/** One line per event type and schema version ever stored. Lines are added, never edited: each is somebody's history. Those of licenses have a spec of their own. */
const lines = JSON.parse(readFileSync(new URL('./golden/events.json', import.meta.url), 'utf8')) as
  { category: string; type: string; schema: number; data: JsonObject }[];

interface Readable {
  readonly category: string;
  readonly shapes: Readonly<Record<string, EventShape>>;
  initial(): unknown;
  evolve(state: unknown, event: { type: string }, origin: EventOrigin): unknown;
}
const isAggregate = (value: unknown): value is Readable => typeof value === 'object' && value !== null && 'category' in value && 'shapes' in value;
const aggregates = Object.values<unknown>(domain).filter(isAggregate).filter(({ category }) => category !== 'license');

const at = '2026-11-21T12:00:00.000Z';
const origin: EventOrigin = { at, actor: { type: 'system', id: 'keyledger' } };
const id = (prefix: string) => `${prefix}_01938000-0000-7000-8000-000000000001`;
const publicJwk = { kty: 'OKP', crv: 'Ed25519' };

/** By category: what all of its lines together lead to. */
const states: Readonly<Record<string, unknown>> = {
  product: { id: id('prd'), name: 'Editor Pro', code: null, metadata: { team: 'x' }, archived: true, createdAt: at },
  plan: { id: id('pln'), productId: id('prd'), name: 'Yearly', licensing: { enabled: true, activationLimit: -1, expiry: null, expiryGraceDays: 7 }, createdAt: at },
  customer: { id: id('cus'), name: 'Ada Lovelace', email: 'ada@example.org', emailHash: 'h2', metadata: { vip: true }, createdAt: at },
  order: {
    id: id('ord'), planId: id('pln'), productId: id('prd'), customerId: id('cus'), purchasedAt: '2026-11-21T10:00:00.000Z', quantity: 1, licensingEnabled: true,
    licenseIds: [id('lic')], terms: { activationLimit: 5 }, deploymentId: 'dep-1', deploymentMode: 'cloud', createdAt: at,
  },
  generator: { id: id('gen'), productId: id('prd'), name: 'Resellers', planId: id('pln'), keyFormat: { kind: 'uuid' }, terms: {}, createdAt: at },
  unique: null,
  pool: { low: false },
  apikey: {
    id: id('key'), name: 'CI', role: 'support', permissions: [], environment: 'staging', secretHash: 's2', expiresAt: null, root: false, createdAt: at, rotatedAt: at, deleted: true,
  },
  environment: { name: 'staging', createdAt: at, clock: { setTo: '2027-03-01T00:00:00.000Z', aheadMs: 8_600_400_000 } },
  webhook: {
    id: id('whk'), url: 'https://example.com/other', events: ['license.*'], description: 'CRM', disabledBy: null, createdAt: at, deleted: true,
    secrets: [{ secret: 'whsec_2', validUntil: null }, { secret: 'whsec_1', validUntil: '2026-11-22T12:00:00.000Z' }],
  },
  job: {
    id: id('job'), total: 500, by: origin.actor, state: 'cancelled', createdAt: at, startedAt: at, finishedAt: at, done: 200, failed: 1, detail: 'why', keysTakenAt: at,
    work: { kind: 'batch', productId: id('prd'), generatorId: id('gen'), planId: null, keyFormat: { kind: 'crockford', prefix: 'KL' }, terms: { activationLimit: 5 } },
  },
  signing: {
    root: { kid: 'root', publicJwk: { ...publicJwk, x: 'r' }, offline: true, createdAt: at },
    keys: new Map([['k1', {
      kid: 'k1', purpose: 'lease', state: 'revoked', publicJwk: { ...publicJwk, x: '1' }, rootKid: 'root', notBefore: '2026-11-21T11:00:00.000Z', notAfter: '2027-12-26T12:00:00.000Z',
      certificate: { payloadType: 't', environment: 'production', kid: 'root', payload: 'p', signature: 's' }, createdAt: at, activatedAt: at, retiredAt: at, revokedAt: at,
    }]]),
  },
  signatures: { count: 1, last: at },
  abuse: [{ pattern: 'activationsPerHour', limit: 2, action: 'alert' }],
  denials: { until: at },
  sweep: { number: 2, running: { number: 2, aliveAt: '2026-11-21T12:00:10.000Z' } },
};

describe.each(aggregates.map((aggregate) => [aggregate.category, aggregate] as const))('What was ever stored of %s', (category, { shapes, initial, evolve }) => {
  const own = lines.filter((line) => line.category === category);

  it('has a line for every shape', () => {
    const versions = Object.entries(shapes).flatMap(([type, { schema }]) => Array.from({ length: schema }, (_, n) => `${type} ${n + 1}`));
    expect([...new Set(own.map(({ type, schema }) => `${type} ${schema}`))].toSorted()).toEqual(versions.toSorted());
  });

  it('can still be read', () => {
    const lifted = own.map(({ type, schema, data }) => {
      let lifting = data;
      for (let version = schema; version < (shapes[type]?.schema ?? 0); version++) lifting = shapes[type]?.upcast?.[version]?.(lifting) ?? lifting;
      return { ...lifting, type };
    });
    expect(lifted.reduce((before, event) => evolve(before, event, origin), initial())).toEqual(states[category]);
  });
});

it('No line is of a category that nobody reads', () => {
  const categories = aggregates.map(({ category }) => category);
  expect(Object.keys(states).toSorted()).toEqual(categories.toSorted());
  expect(categories).toEqual(expect.arrayContaining(lines.map(({ category }) => category)));
});
