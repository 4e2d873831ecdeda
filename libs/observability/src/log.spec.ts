import { describe, expect, it, jest } from '@jest/globals';
import fc from 'fast-check';
import { refuse, runIn, systemContext } from '@keyledger/kernel';
import { createLog, nowAndThen } from './log.ts';
import { cut, mask, maskLine } from './mask.ts';

function logged(write: (log: ReturnType<typeof createLog>) => void, level: 'info' | 'debug' = 'info') {
  const lines: string[] = [];
  write(createLog({ level, service: 'gateway', destination: { write: (line) => void lines.push(line) } }));
  return lines;
}

const alphabet = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const letters = (length: number, of = alphabet) => fc.string({ unit: fc.constantFrom(...of), minLength: length, maxLength: length });
const groups = fc.tuple(letters(7), letters(7), letters(7), letters(7));
const urlSafe = `${alphabet}abcdefghijklmnopqrstuvwxyz-_`;

const licenseKey = fc.oneof(
  groups.map((four) => four.join('-')),
  fc.tuple(letters(4), groups).map(([prefix, four]) => [prefix, ...four].join('-')),
  groups.map((four) => four.join('-').toLowerCase()),
  groups.map((four) => four.join(' ')),
  groups.map((four) => four.join('')),
);
const apiKey = fc.tuple(fc.constantFrom('production', 'staging', 'eu-west-1'), fc.uuid({ version: 7 }), letters(43, urlSafe)).map(([env, id, secret]) => `lk_${env}_${id}_${secret}`);
const webhookSecret = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => `whsec_${Buffer.from(bytes).toString('base64')}`);

/** Every place in a line where somebody once logged a secret. */
const places: Record<string, (secret: string) => (log: ReturnType<typeof createLog>) => void> = {
  'the message': (secret) => (log) => log.info(`${secret} is not valid`),
  'an argument of the message': (secret) => (log) => log.info('key %s refused', secret),
  'a URL': (secret) => (log) => log.info({ url: `https://x.example/licenses/${encodeURIComponent(secret)}/validate?next=%2Fby-key%2F${encodeURIComponent(secret)}` }),
  'a field': (secret) => (log) => log.info({ body: secret }),
  'the end of a sentence': (secret) => (log) => log.info(`unknown key:\n${secret}. Is it "${secret}"?\t${secret}\n`),
  'a list in an object in a list': (secret) => (log) => log.info({ a: [{ b: [[secret], { c: `<${secret}>` }] }] }),
  'the name of a field': (secret) => (log) => log.info({ byKey: { [secret]: 1 } }),
  'an error': (secret) => (log) => log.error(new Error(`no such license: ${secret}`)),
  'the cause of an error': (secret) => (log) => log.error({ err: new Error('outer', { cause: new Error(`inner ${secret}`) }) }),
  'a field of an error': (secret) => (log) => log.error({ error: Object.assign(new Error('x'), { request: { path: `/${secret}` } }) }),
  'a refusal': (secret) => (log) => log.warn({ err: refuse('LICENSE_NOT_FOUND', `no ${secret}`, { given: secret }) }),
  'bindings of a child': (secret) => (log) => log.child({ about: secret }).info('x'),
  'JSON inside of a text': (secret) => (log) => log.info({ body: JSON.stringify({ nested: JSON.stringify({ value: secret }) }) }),
};

describe('A log line', () => {
  it('says when, how bad, who, and about which message, without being told', () => {
    const context = { ...systemContext('staging', '2026-11-21T01:35:00.000Z'), correlationId: 'cor-1' };
    const [line = ''] = logged((log) => runIn(context, () => log.info({ status: 200 }, 'answered')));
    expect(JSON.parse(line)).toEqual({ time: expect.stringMatching(/^\d{4}-.*Z$/), level: 'info', service: 'gateway', environment: 'staging', correlationId: 'cor-1', status: 200, msg: 'answered' });
  });

  it('is written outside of messages too, and only from its level on', () => {
    const lines = logged((log) => { log.debug('x'); log.warn('starting'); });
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0] ?? '')).toEqual({ time: expect.anything(), level: 'warn', service: 'gateway', msg: 'starting' });
  });

  it.each(Object.keys(places))('shows no more than 8 characters of a key in %s', (place) => {
    fc.assert(fc.property(fc.oneof(licenseKey, apiKey, webhookSecret), (secret) => {
      const text = logged(places[place]?.(secret) ?? (() => undefined)).join('');
      expect(text).not.toBe('');
      for (const form of [secret, encodeURIComponent(secret)]) expect(text).not.toContain(form.slice(0, 9));
      expect(text).not.toContain(secret.slice(-9));
      expect(text).toContain('…');
    }), { numRuns: 200 });
  });

  it.each(['licenseKey', 'license_key', 'key', 'secret', 'authorization', 'Authorization', 'x-api-key', 'apiKey', 'password', 'cookie', 'token'])(
    'hides %s by its name, whatever the value looks like', (name) => {
      fc.assert(fc.property(fc.oneof(fc.uuid(), fc.string({ minLength: 4 }).filter((text) => text.trim().length > 3)), (secret) => {
        const [line = ''] = logged((log) => log.info({ request: { [name]: secret, list: [{ [name]: [secret, { value: secret, n: 1 }] }] } }));
        const { request } = JSON.parse(line) as { request: Record<string, unknown> };
        expect(request).toEqual({ [name]: cut(secret), list: [{ [name]: [cut(secret), { value: cut(secret), n: '…' }] }] });
        expect(cut(secret).length - 1).toBeLessThanOrEqual(Math.min(8, secret.length / 2));
      }));
    });

  it('hides a key that is a UUID where its name is in the text', () => {
    const key = '3f2b8c1e-4d5a-4abc-9def-001122334455';
    for (const text of [`?key=${key}`, `/v?a=1&licenseKey=${key}#x`, `{"licenseKey":"${key}"}`, `licenseKey: '${key}'`, `licenseKey=${key}`, JSON.stringify({ a: `{"license_key": "${key}"}` })]) {
      expect(logged((log) => log.info(text)).join('')).not.toContain(key.slice(0, 9));
    }
    expect(mask('Authorization: Bearer abcdefghijklmnopqrstuvwxyz')).toBe('Authorization: Bearer abcdefgh…');
    expect(mask('got Bearer abcdefghijklmnopqrstuvwxyz')).toBe('got Bearer abcdefgh…');
    expect(mask('postgres://keyledger:hunter2@db:5432/x')).toBe('postgres://keyledger:…@db:5432/x');
  });

  it('leaves alone what is no secret', () => {
    const fields = {
      fingerprint: 'sha256:9f86d081884c7d659a2feaa0c55ad015', keyPrefix: 'K7Q2M9X4', licenseId: 'lic_0197f3b2-7c1a-7d3e-8a1b-123456789abc',
      traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', hash: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
      url: 'https://x.example/licenses?limit=25&sort=-createdAt', detail: 'License Suspended', monkey: 'see', at: '2026-11-21T01:35:00.000Z', n: 12345678901,
    };
    const [line = ''] = logged((log) => log.info(fields, 'The key is not valid'));
    expect(JSON.parse(line)).toMatchObject({ ...fields, msg: 'The key is not valid' });
  });

  it('is masked even where it is no JSON, and stays one line', () => {
    expect(maskLine('boot ABCDEFG-HJKMNPQ-RSTVWXY-Z012345\n')).toBe('boot ABCDEFG-…\n');
    expect(logged((log) => log.info('a\nb lk_production_1_abcdefgh'))[0]?.match(/\n/g)).toHaveLength(1);
  });

  it('costs no more than its length, however hostile', () => {
    const hostile = ['a'.repeat(1e5), 'lk_a_'.repeat(2e4), 'ABCDEFG-'.repeat(12_000), 'key='.repeat(25_000), '://a:'.repeat(2e4), 'bearer '.repeat(15_000), 'aaaaaaaa-'.repeat(11_000), 'token"\'"'.repeat(12_000), ' '.repeat(1e5), `bearer${' '.repeat(1e5)}x`];
    const start = process.cpuUsage().user;
    for (const text of hostile) mask(text);
    expect((process.cpuUsage().user - start) / 1000).toBeLessThan(1000);
  });
});

it('What is tried again and again is told of at once, and then every half minute', () => {
  jest.useFakeTimers();
  try {
    const told: number[] = [];
    const tell = nowAndThen((second: number) => void told.push(second));
    for (let second = 0; second < 70; second++, jest.advanceTimersByTime(1_000)) tell(second);
    expect(told).toEqual([0, 30, 60]);
  } finally {
    jest.useRealTimers();
  }
});
