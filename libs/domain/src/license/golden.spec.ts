import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import type { EventShape, Json, JsonObject } from '@keyledger/kernel';
import { activate, ada, desktop, exceedQuota, issue, laptop, loseHeartbeat, scenarios, suspend, inactivate } from '@keyledger/testing';
import { licenseShapes, type LicenseEvent, type LicenseEventType } from './events.ts';
import { License } from './license.ts';
import { issued, type LicenseState } from './state.ts';
import { licenseView } from './view.ts';

/** One line for each event type and schema version that was ever stored. Lines are added, never edited. */
interface Line { type: LicenseEventType; schema: number; data: JsonObject; changes: JsonObject }
const lines = JSON.parse(readFileSync(new URL('../golden/license-events.json', import.meta.url), 'utf8')) as Line[];

const at = '2026-11-21T12:00:00.000Z';
const { story, stateOf } = scenarios(License, at);
const quotas = [{ meter: 'cores', limit: 8 }, { meter: 'users', limit: 3 }];
/** A license in the middle of its life, so that every event changes something. */
const lively = () => stateOf(story(
  issue({ customerId: ada, terms: { quotas, expiry: { value: 1, unit: 'years' } } }), activate(laptop), activate(desktop), loseHeartbeat(desktop),
  suspend({ cause: 'abuse' }), inactivate(), exceedQuota(9, 8, 'cores'),
));

function lifted({ type, schema, data }: Line): LicenseEvent {
  const { upcast = {}, schema: newest }: EventShape = licenseShapes[type];
  let newer = data;
  for (let version = schema; version < newest; version++) newer = (upcast[version] ?? (() => { throw new Error(`No upcaster for ${type} ${version}`); }))(newer);
  return { ...newer, type } as LicenseEvent;
}

/** What the event changes in the state: path → new value, null for what is gone. */
function fold(line: Line): JsonObject {
  const before = line.type === 'LicenseIssued' ? License.initial() : lively();
  const was = plain(before);
  return changes(was, plain(License.evolve(before, lifted(line), { at: '2026-12-01T00:00:00.000Z', actor: { type: 'system', id: 'keyledger' } })));
}

const plain = (state: LicenseState) => JSON.parse(JSON.stringify(state, (_, value: unknown) => (value instanceof Map ? Object.fromEntries(value) : value))) as JsonObject;

function changes(was: JsonObject, is: JsonObject, path = ''): JsonObject {
  return Object.assign({}, ...[...new Set([...Object.keys(was), ...Object.keys(is)])].map((name) => {
    const [old, now] = [was[name], is[name]];
    if (isRecord(old) && isRecord(now)) return changes(old, now, `${path}${name}.`);
    return JSON.stringify(old) === JSON.stringify(now) ? {} : { [path + name]: now ?? null };
  })) as JsonObject;
}
const isRecord = (value: Json | undefined): value is JsonObject => typeof value === 'object' && value !== null && !Array.isArray(value);

describe('Every event that was ever stored', () => {
  it('has a line here, in each of its versions', () => {
    const versions = Object.entries(licenseShapes).flatMap(([type, { schema }]) => Array.from({ length: schema }, (_, n) => `${type} ${n + 1}`));
    expect(lines.map(({ type, schema }) => `${type} ${schema}`).toSorted()).toEqual(versions.toSorted());
  });

  it.each(lines.map((line) => [line.type, line.schema, line] as const))('%s %d means what it meant', (_, __, line) => {
    expect(fold(line)).toMatchObject(line.changes);
    expect(line.changes).not.toEqual({});
  });

  it('holds no clear key and no personal data outside the sealed fields', () => {
    const sealed = Object.fromEntries(Object.entries(licenseShapes).map(([type, shape]: [string, EventShape]) => [type, shape.sealed ?? []]));
    for (const { type, data } of lines) {
      const clear = JSON.stringify(Object.entries(data).filter(([name]) => !sealed[type]?.includes(name)));
      for (const secret of ['KEY0001', 'KEY0002', 'fp-', 'in-server', 'build server', 'ada@', 'hw-']) expect(clear.replace(/"keyPrefix","KEY000\d1"/g, '')).not.toContain(secret);
    }
  });

  it('seals, as it is stored today, every field in which a vendor or a client may have put personal data', () => {
    const theirs = ['key', 'name', 'metadata', 'fingerprint', 'installationId', 'hardwareId', 'payload', 'featureFlags', 'serialNumber', 'deploymentId'];
    const open = lines.filter(({ type, schema }) => schema === licenseShapes[type].schema).flatMap(({ type, data }) => {
      const { sealed = [] }: EventShape = licenseShapes[type];
      const within = Object.keys((data['terms'] ?? {}) as JsonObject);
      return [...Object.keys(data).filter((field) => !sealed.includes(field)), ...within].filter((field) => theirs.includes(field)).map((field) => `${type}.${field}`);
    });
    expect(open).toEqual([]);
  });

  it.each(lines.filter(({ type }) => 'sealed' in licenseShapes[type]).map((line) => [line.type, line.schema, line] as const))('%s %d is folded without harm once all that it sealed is null', (type, _, line) => {
    const { sealed = [] }: EventShape = licenseShapes[type];
    const shredded = { ...lifted(line), ...Object.fromEntries(sealed.map((field) => [field, null])) } as LicenseEvent;
    const state = License.evolve(type === 'LicenseIssued' ? License.initial() : lively(), shredded, { at, actor: { type: 'system', id: 'keyledger' } });
    const { metadata, featureFlags } = licenseView(issued(state), at);
    expect([metadata, featureFlags]).not.toContain(null);
  });

  it('starts from a license in which there is something to change', () => expect(issued(lively()).holds).toHaveLength(2));
});
