import { describe, expect, it } from '@jest/globals';
import type { Aggregate, JsonObject, Sealer } from '@keyledger/kernel';
import { decode, encode, fold, isSealed, originOf, sealedSubjects, subjectOf } from './codec.ts';
import type { RecordedEvent } from './port.ts';

const shapes = {
  Named: { schema: 3, sealed: ['name', 'mail'], upcast: { 1: (data: JsonObject) => ({ ...data, name: data.label, label: undefined }), 2: (data: JsonObject) => ({ mail: null, ...data }) } },
  Moved: { schema: 1 },
};
/** Not a cipher: it shows under which subject a value was sealed. */
const sealer = (destroyed: string[] = []): Sealer => ({
  seal: (subject, value) => `${subject}:${Buffer.from(JSON.stringify(value)).toString('base64')}`,
  open: (subject, text) => {
    const [sealedFor, body] = text.split(':');
    if (sealedFor !== subject) throw new Error('wrong subject');
    return destroyed.includes(subject) ? null : (JSON.parse(Buffer.from(body ?? '', 'base64').toString()) as JsonObject);
  },
});
const recorded = (type: string, data: JsonObject, schema = 3): RecordedEvent => ({
  id: 'id', type, data, stream: 'customer-cus_1', revision: 0, position: 1, recordedAt: '2026-11-21T01:35:01.000Z',
  metadata: { schema, occurredAt: '2026-11-21T01:35:00.000Z', actor: { type: 'system', id: 'keyledger' } },
});

describe('An event', () => {
  const named = { type: 'Named', id: 'cus_1', name: 'Ada', mail: 'ada@example.com' };

  it('is stored with its sealed fields as one ciphertext under the stream’s subject', () => {
    const data = encode(shapes, 'customer-cus_1', named, sealer());
    expect(data).toEqual({ id: 'cus_1', sealed: expect.stringMatching(/^cus_1:/) });
    expect(JSON.stringify(data)).not.toContain('Ada');
    expect(decode(shapes, recorded('Named', data), sealer())).toEqual(named);
  });

  it('has null for each of them once the key is destroyed', () => {
    const data = encode(shapes, 'customer-cus_1', { type: 'Named', id: 'cus_1', name: 'Ada' } as { type: string }, sealer());
    expect(decode(shapes, recorded('Named', data), sealer(['cus_1']))).toEqual({ type: 'Named', id: 'cus_1', name: null, mail: null });
  });

  it('needs no sealer when none of them is there', () => {
    expect(isSealed(shapes, { type: 'Named' })).toBe(false);
    expect(encode(shapes, 'customer-cus_1', { type: 'Named' })).toEqual({});
    expect(() => encode(shapes, 'customer-cus_1', named)).toThrow('needs a sealer');
    const data = encode(shapes, 'customer-cus_1', named, sealer());
    expect(() => decode(shapes, recorded('Named', data))).toThrow('needs a sealer');
  });

  it('is lifted from any version to the newest, sealed fields too', () => {
    const old = { sealed: sealer().seal('cus_1', { label: 'Ada' }) };
    expect(decode(shapes, recorded('Named', old, 1), sealer())).toEqual({ type: 'Named', name: 'Ada', mail: null });
    expect(decode(shapes, recorded('Named', old, 1), sealer(['cus_1']))).toEqual({ type: 'Named', name: null, mail: null });
  });

  it.each([
    ['of an unknown type', 'Renamed', 1], ['of a type that every object has', 'constructor', 1], ['of a newer version', 'Moved', 2], ['without a version', 'Moved', undefined],
  ])('%s stops the reader', (_, type, schema) => {
    expect(() => decode(shapes, recorded(type, {}, schema as number))).toThrow(/Unknown event type|this release knows/);
  });

  it('tells what it was decided on, and whose keys it needs', () => {
    expect(originOf(recorded('Moved', {}))).toEqual({ at: '2026-11-21T01:35:00.000Z', actor: { type: 'system', id: 'keyledger' } });
    expect(subjectOf('license-lic_0193-a')).toBe('lic_0193-a');
    const twice = recorded('Named', { sealed: 'cus_1:' });
    expect(sealedSubjects([twice, recorded('Moved', {}), twice])).toEqual(['cus_1']);
  });

  it('folds in order, on a given state or from the start', () => {
    type Event = { type: 'Named'; name: string } | { type: 'Moved' };
    const visits: Aggregate<string[], { type: 'Go' }, Event> = {
      category: 'customer', stateVersion: 1, shapes, initial: () => [], decide: () => [], evolve: (before, { type }, { at }) => [...before, `${type} ${at.slice(0, 4)}`],
    };
    expect(fold(visits, [recorded('Moved', {}, 1), recorded('Named', {})])).toEqual(['Moved 2026', 'Named 2026']);
    expect(fold(visits, [recorded('Moved', {}, 1)], undefined, ['before'])).toEqual(['before', 'Moved 2026']);
  });
});
