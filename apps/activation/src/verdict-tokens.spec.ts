import { describe, expect, it } from '@jest/globals';
import type { SignVerdicts } from '@keyledger/contracts';
import { context, refuse, runIn, systemContext } from '@keyledger/kernel';
import type { MessageClient } from '@keyledger/messaging';
import { createLog } from '@keyledger/observability';
import { VerdictTokens } from './verdict-tokens.ts';

type Statement = SignVerdicts['verdicts'][number];
const statement = (nonce: string) => ({ nonce }) as Statement;

/** A signing service that answers each nonce with where and what it signed; `z` is too large for it. */
function tokens(fails = false) {
  const messages: { environment: string; nonces: string[] }[] = [];
  const send = async (_type: unknown, { verdicts }: Pick<SignVerdicts, 'verdicts'>) => {
    const { environment } = context();
    messages.push({ environment, nonces: verdicts.map(({ nonce }) => nonce) });
    if (fails) throw refuse('UNAVAILABLE');
    return { tokens: verdicts.map(({ nonce }) => (nonce === 'z' ? null : `${environment} ${nonce}`)) };
  };
  const signing = new VerdictTokens({ send } as unknown as MessageClient, createLog({ level: 'silent', service: 'test' }));
  const ask = (nonce: string, environment = 'production') => runIn(systemContext(environment, '2026-11-21T12:00:00.000Z'), () => signing.for(statement(nonce)));
  return { messages, ask };
}

describe('Verdict tokens', () => {
  it('that are asked for together go in one message, and each asker gets its own', async () => {
    const { messages, ask } = tokens();
    expect(await Promise.all(['a', 'b', 'c'].map((nonce) => ask(nonce)))).toEqual(['production a', 'production b', 'production c']);
    expect(messages).toEqual([{ environment: 'production', nonces: ['a', 'b', 'c'] }]);
    expect(await ask('d')).toBe('production d');
    expect(messages).toHaveLength(2);
  });

  it('never travel with those of another environment', async () => {
    const { messages, ask } = tokens();
    expect(await Promise.all([ask('a'), ask('b', 'staging'), ask('c')])).toEqual(['production a', 'staging b', 'production c']);
    expect(messages).toEqual([{ environment: 'production', nonces: ['a', 'c'] }, { environment: 'staging', nonces: ['b'] }]);
  });

  it('are sixteen to a message at most, which goes at once then', async () => {
    const { messages, ask } = tokens();
    const nonces = Array.from({ length: 40 }, (_, n) => `n${n}`);
    const asked = nonces.map((nonce) => ask(nonce));
    expect(messages.map((message) => message.nonces.length)).toEqual([16, 16]);
    expect(await Promise.all(asked)).toEqual(nonces.map((nonce) => `production ${nonce}`));
    expect(messages.map((message) => message.nonces.length)).toEqual([16, 16, 8]);
  });

  it('are none while nobody signs, nor of what is too large: the verdict is given without', async () => {
    expect(await Promise.all(['a', 'b'].map((nonce) => tokens(true).ask(nonce)))).toEqual([undefined, undefined]);
    const { ask } = tokens();
    expect(await Promise.all([ask('z'), ask('a')])).toEqual([undefined, 'production a']);
  });
});
