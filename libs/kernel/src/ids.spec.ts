import { describe, expect, it } from '@jest/globals';
import { newId, runIn, systemContext } from './context.ts';
import { derivedId, eventId, idPattern, isId } from './ids.ts';

const commandId = '01938000-0000-7000-8000-000000000001';
const at = '2026-11-21T12:00:00.000Z';

describe('The id of what a command creates', () => {
  it('is the same in every release, or a command that died half way would create it twice', () => {
    expect([derivedId('lic', commandId, at), derivedId('lic', commandId, at, 1), derivedId('act', commandId, at)])
      .toEqual(['lic_01a1fdfa-4600-7a9a-b277-e3425462febf', 'lic_01a1fdfa-4600-70e9-bac4-a5b4b0291ecd', 'act_01a1fdfa-4600-73d9-8e65-4bcfe0dc0068']);
    expect([eventId(commandId, 0), eventId(commandId, 1)]).toEqual(['53472bc8-1c26-59c7-9aa6-d95864c8df69', 'ff76e162-99b8-5259-bded-8fa85f17bfd5']);
  });

  it('is that of the command whose message is being handled', () => {
    runIn(systemContext('staging', at, commandId), () => {
      expect([newId('lic'), newId('lic', 1)]).toEqual([derivedId('lic', commandId, at), derivedId('lic', commandId, at, 1)]);
    });
  });
});

describe('An id', () => {
  const id = derivedId('lic', commandId, at);
  it('is its prefix and a UUID of version 7', () => {
    expect(isId('lic', id)).toBe(true);
    expect(id).toMatch(new RegExp(idPattern('lic')));
  });
  it.each([
    id.replace('lic', 'act'), id.slice(4), `${id}0`, id.slice(0, -1), `${id}\n`, ` ${id}`, id.replace('_', '-'), id.replace('-7', 'x7'), `lic_${'x'.repeat(36)}`, '', undefined, null, 1, { id },
  ])('is not %j', (other) => {
    expect(isId('lic', other)).toBe(false);
    if (typeof other === 'string') expect(other).not.toMatch(new RegExp(idPattern('lic')));
  });
});
