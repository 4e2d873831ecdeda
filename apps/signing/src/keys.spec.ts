import { expect, it } from '@jest/globals';
import type { RecordedEvent } from '@keyledger/event-store';
import { runIn, systemContext } from '@keyledger/kernel';
import { KeySetQuery } from './keys.handlers.ts';
import { Keys } from './keys.ts';

const now = '2026-11-21T12:00:00.000Z';
const active = (kid: string) => ({ keys: new Map([[kid, { kid, purpose: 'lease', state: 'active', notBefore: '2026-01-01T00:00:00.000Z', notAfter: '2027-01-01T00:00:00.000Z' }]]) });

it('A key that is replaced while it is read signs no more after that', async () => {
  let show: (events: readonly RecordedEvent[]) => void = () => undefined;
  const log = { head: async () => 0, subscribe: (_: number, handler: typeof show) => ((show = handler), { close: async () => undefined }) };
  let [state, meanwhile] = [active('old'), () => undefined as void];
  const load = async (_: string, view: (known: typeof state) => unknown) => {
    const read = view(state);
    meanwhile();
    return read;
  };
  const keys = new Keys({ events: new Map([['staging', log]]), keys: { load } } as never, {} as never, { now: () => now }, {} as never);
  await keys.listen();
  const signer = () => runIn(systemContext('staging', now), async () => (await keys.signer('lease')).kid);
  meanwhile = () => {
    state = active('new');
    show([{ stream: 'signing-staging' } as RecordedEvent]);
    meanwhile = () => undefined;
  };
  expect([await signer(), await signer(), await signer()]).toEqual(['old', 'new', 'new']);
});

it('What is said of revoked keys is signed once, and anew when there is another one', async () => {
  let revoked: readonly string[] = ['one'];
  let signed = 0;
  const keys = {
    load: async () => ({ keys: new Map(revoked.map((kid) => [kid, { kid, purpose: 'lease', state: 'revoked', revokedAt: now, certificate: null, publicJwk: {} }])) }),
    signer: async () => ({ kid: 'verdicts', notBefore: now }),
  };
  const plain = async (_: string, { payload }: { payload: { revoked: readonly string[] } }) => `${++signed}: ${payload.revoked.join(' ')}`;
  const query = new KeySetQuery(keys as never, { plain } as never);
  const said = () => runIn(systemContext('staging', now), async () => (await query.execute() as { revocations?: string }).revocations);
  expect([await said(), await said()]).toEqual(['1: one', '1: one']);
  revoked = ['one', 'two'];
  expect(await said()).toBe('2: one two');
});
