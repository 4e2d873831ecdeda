import { describe, expect, it } from '@jest/globals';
import { gatewayConfig } from './config.ts';

const trusted = (text: string) => gatewayConfig({ KEYLEDGER_TRUST_PROXY: text }).trustProxy;

describe('The proxies that are trusted', () => {
  it('are nobody, or private ones', () => {
    expect(['', 'false'].map(trusted)).toEqual([false, false]);
    expect(trusted('true')).toBe('loopback,linklocal,uniquelocal');
  });

  it.each(['10.0.0.5', '10.0.0.5, fd00::/8', '192.0.2.0/24', '10.0.0.0/255.0.0.0', '::1', 'loopback,203.0.113.7'])('are %s', (text) => expect(trusted(text)).toBe(text));

  it.each(['yes', 'proxy.example.com', '10.0.0', '10.0.0.0/33', '0.0.0.0/0', '::/0', '10.0.0.5,', '10.0.0.5/', 'loopback/8', '10.0.0.0/255.0.255.0', 'fd00::/255.0.0.0'])('are never %s, which is named', (text) => {
    expect(() => trusted(text)).toThrow(`KEYLEDGER_TRUST_PROXY must be addresses or networks like 10.0.0.5,fd00::/8, or true or false, not "${text}"`);
  });
});

it.each([['5', 5_000], ['', 0]])('A gateway that is told to stop in %j s answers on for %i ms', (text, ms) => expect(gatewayConfig({ KEYLEDGER_STOP_DELAY: text }).stopDelayMs).toBe(ms));
it.each(['6', '-1', '1.5', 'soon'])('A gateway that is to stop in %j s says what it could do', (text) => {
  expect(() => gatewayConfig({ KEYLEDGER_STOP_DELAY: text })).toThrow(`KEYLEDGER_STOP_DELAY must be a whole number from 0 to 5, not "${text}"`);
});
