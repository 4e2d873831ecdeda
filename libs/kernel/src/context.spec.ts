import { describe, expect, it } from '@jest/globals';
import { context, hasContext, mayHaveOwnTime, PerEnvironment, runIn, systemContext } from './context.ts';

const staging = systemContext('staging', '2026-11-21T12:00:00.000Z');

describe('The context of a message', () => {
  it('is there while it is handled, and its absence is a bug', async () => {
    expect(hasContext()).toBe(false);
    expect(context).toThrow('No message context');
    await runIn(staging, async () => {
      await Promise.resolve();
      expect([hasContext(), context()]).toEqual([true, staging]);
    });
    expect(hasContext()).toBe(false);
  });

  it('of the system itself may do nothing that needs a permission', () =>
    expect(staging).toMatchObject({ environment: 'staging', actor: { type: 'system', id: 'keyledger', permissions: [] }, commandAt: staging.now, correlationId: staging.commandId }));
});

describe('What there is for each environment', () => {
  const each = new PerEnvironment([['production', 1], ['staging', 2]]);
  it('is that of the message here, and no other\'s', () => {
    expect(runIn(staging, () => each.here())).toBe(2);
    expect(() => each.of('elsewhere')).toThrow('Unknown environment elsewhere');
    expect(() => each.here()).toThrow('No message context');
    expect([each.names(), [...each.entries()]]).toEqual([['production', 'staging'], [['production', 1], ['staging', 2]]]);
  });
  it('is real time in production and in control', () => expect(['production', 'control', 'staging'].map(mayHaveOwnTime)).toEqual([false, false, true]));
});
