import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from '@jest/globals';
import { ValidateLicense } from '@keyledger/contracts';
import { refuse, type ErrorCode } from '@keyledger/kernel';
import Fastify from 'fastify';
import { LastKnownVerdicts, questionOf } from './last-known.ts';
import { RateLimits } from './rate-limits.ts';
import { StoredVerdicts } from './stored-verdicts.ts';
import { serveValidation } from './validate.route.ts';
import { validatorCompiler } from './validation.ts';

const at = '2026-11-21T12:00:00.000Z';
/** Of this process, when it was answered. The environment's may be another one. */
const here = Date.parse('2020-01-01T00:00:00.000Z');
const question = { licenseKey: 'K', fingerprint: 'fp' } as ValidateLicense;
const kept = (over: object = {}, license: object = {}) => {
  const known = new LastKnownVerdicts();
  known.keep(questionOf('production', question), JSON.stringify({ valid: true, conclusive: true, checkedAt: at, graceEndsAt: null, license: { expiresAt: null, effectiveAt: null, ...license }, ...over }), here);
  return known;
};
const after = (from: number, minutes: number) => from + minutes * 60_000;
const later = (minutes: number) => after(here, minutes);
const there = (minutes: number) => new Date(after(Date.parse(at), minutes)).toISOString();

describe('The last known verdict', () => {
  it('is what was answered, when it was, and says that it is not conclusive', () => {
    const found = JSON.parse(kept({ token: 'signed' }).find(questionOf('production', question), later(10)) ?? '');
    expect(found).toEqual({ valid: true, conclusive: false, checkedAt: at, graceEndsAt: null, license: { expiresAt: null, effectiveAt: null } });
  });

  it.each([
    ['question', 'production', { ...question, fingerprint: 'another' }],
    ['key', 'production', { ...question, licenseKey: 'L' }],
    ['environment', 'staging', question],
  ])('is of the same %s only', (_, environment, asked) => {
    expect(kept().find(questionOf(environment, asked), later(1))).toBeUndefined();
  });

  it('is that of the same question with another nonce', () => {
    expect(kept().find(questionOf('production', { ...question, nonce: 'n' } as ValidateLicense), later(1))).toBeDefined();
  });

  it.each([['graceEndsAt', true], ['expiresAt', false], ['effectiveAt', false]])('is not used once its %s has passed', (name, isOuter) => {
    const instant = { [name]: there(30) };
    const known = isOuter ? kept(instant) : kept({}, instant);
    expect(known.find(questionOf('production', question), later(29))).toBeDefined();
    expect(known.find(questionOf('production', question), later(30))).toBeUndefined();
  });

  it('is used when an instant had passed before', () => {
    expect(kept({ valid: false }, { expiresAt: there(-30) }).find(questionOf('production', question), later(1))).toBeDefined();
  });

  it('is forgotten when the question was answered by "there is no such license"', () => {
    const known = kept();
    known.forget(questionOf('production', { ...question, nonce: 'n' } as ValidateLicense));
    expect(known.find(questionOf('production', question), later(1))).toBeUndefined();
  });

  it('is forgotten after a day', () => {
    expect(kept().find(questionOf('production', question), later(24 * 60))).toBeUndefined();
  });

  it.each([['questions', 500_000, 10, 9], ['answers', 10, 500_000, 49]])('is kept for so many as fit, with long %s', (_, questionLength, answerLength, fitting) => {
    const known = new LastKnownVerdicts();
    const asked = (n: number) => ({ ...question, fingerprint: `${n}`.padEnd(questionLength, 'x') }) as ValidateLicense;
    for (let n = 0; n < 100; n++) known.keep(questionOf('production', asked(n)), JSON.stringify({ valid: true, checkedAt: at, graceEndsAt: null, n, detail: 'x'.repeat(answerLength) }), here);
    const found = Array.from({ length: 100 }, (__, n) => known.find(questionOf('production', asked(n)), later(1)));
    expect(found.map((text) => text && (JSON.parse(text) as { n: number }).n)).toEqual(Array.from({ length: 100 }, (__, n) => (n < 100 - fitting ? undefined : n)));
  });

  it('is not driven out by a question that is asked again and again', () => {
    const known = kept();
    for (let n = 0; n < 60_000; n++) known.keep(questionOf('production', { ...question, licenseKey: 'busy' } as ValidateLicense), JSON.stringify({ checkedAt: at, graceEndsAt: null, n, detail: 'x'.repeat(1_000) }), here);
    expect(known.find(questionOf('production', question), later(1))).toBeDefined();
  });

  it('is the last of many, letter for letter', () => {
    const known = new LastKnownVerdicts();
    for (let n = 0; n < 50_000; n++) known.keep(questionOf('production', question), JSON.stringify({ checkedAt: at, graceEndsAt: null, name: `${n} Zoë 🔑 ${'é'.repeat(n % 400)}` }), here);
    expect(JSON.parse(known.find(questionOf('production', question), later(1)) ?? '')).toMatchObject({ name: `49999 Zoë 🔑 ${'é'.repeat(399)}` });
  });

  it('is not kept, nor the one before it, if it is larger than all of them together may be', () => {
    const known = kept();
    known.keep(questionOf('production', question), JSON.stringify({ checkedAt: at, detail: 'x'.repeat(26_000_000) }), here);
    expect(known.find(questionOf('production', question), later(1)) === undefined).toBe(true);
  });
});

it('Of a bundle nothing is kept but the answer', () => {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;
  const known = new LastKnownVerdicts();
  const used = () => (gc(), process.memoryUsage().heapUsed);
  const before = used();
  for (let n = 0; n < 300; n++) known.keep(questionOf('production', { ...question, fingerprint: `${n}` } as ValidateLicense), `${'x'.repeat(200_000)}{"checkedAt":"${at}"}`.slice(200_000), here);
  expect(used() - before).toBeLessThan(10_000_000);
});

describe('A validation', () => {
  const verdict = { valid: true, conclusive: true, checkedAt: new Date().toISOString(), graceEndsAt: null, license: { expiresAt: null, effectiveAt: null } };
  const gone = { ...verdict, valid: false, license: null };
  const stored = { ...verdict, decisionId: 'lic.1.0.hash', seq: 1, instance: null };
  const storable = { ...stored, stands: { until: null } };
  const unchanged = { now: verdict.checkedAt, position: 1, changed: [] };
  const repeated = { ...stored, decisionId: `lic.1.${Date.parse(verdict.checkedAt).toString(36)}.hash` };
  /** The route, with these answers of the activation service, one after the other. */
  function served(answers: (object | ErrorCode)[], unknownKeysPerAddress = 0) {
    const fastify = Fastify().setValidatorCompiler(validatorCompiler());
    const send = async () => {
      const answer = answers.shift();
      if (typeof answer === 'string') throw refuse(answer as ErrorCode);
      return answer;
    };
    const messages = { send, sendForText: async () => ValidateLicense.written?.(await send() as never) } as never;
    const last = new LastKnownVerdicts();
    const problems = { answer: (error: { code: string }, _: unknown, reply: { send(body: object): void }) => reply.send({ code: error.code }) };
    serveValidation(fastify, messages, new RateLimits({ perLicenseKey: 0, perApiKey: 0, unknownKeysPerAddress }), problems as never, { last, stored: new StoredVerdicts(messages, { decision: () => undefined } as never, last) });
    return async (body: object = {}, remoteAddress = '192.0.2.1') => (await fastify.inject({ method: 'POST', url: '/license/validate', remoteAddress, payload: { licenseKey: 'K', ...body } })).json<unknown>();
  }

  /** What a client gets for each of the answers. */
  async function seen(...answers: (object | ErrorCode)[]) {
    const ask = served(answers);
    const all: unknown[] = [];
    while (answers.length > 0) all.push(await ask());
    return all;
  }

  it('is answered as before while the service is away, and only then', async () => {
    expect(await seen(verdict, 'UNAVAILABLE', 'INTERNAL')).toEqual([verdict, { ...verdict, conclusive: false }, { code: 'INTERNAL' }]);
  });

  it('of a license whose metadata looks like none is its own', async () => {
    const looking = { ...verdict, license: { ...verdict.license, metadata: { license: null } } };
    expect(await seen(looking, 'UNAVAILABLE')).toEqual([looking, { ...looking, conclusive: false }]);
  });

  it('says nothing of what is for services only', async () => {
    expect(await seen({ ...gone, retired: true })).toEqual([gone]);
    expect(await seen(verdict, { ...gone, retired: true })).toEqual([verdict, gone]);
    expect(await seen(verdict, storable)).toEqual([verdict, stored]);
  });

  it('that comes again and again is repeated while its license does not change', async () => {
    expect(await seen(verdict, storable, unchanged, unchanged)).toEqual([verdict, stored, repeated, repeated]);
    expect(await seen(verdict, storable, { ...unchanged, changed: ['lic'] }, { ...stored, seq: 2 })).toEqual([verdict, stored, { ...stored, seq: 2 }]);
    expect(await seen(verdict, storable, unchanged, 'UNAVAILABLE')).toEqual([verdict, stored, repeated, { ...repeated, conclusive: false }]);
  });

  it('that is repeated proves that its client does not guess', async () => {
    const ask = served([verdict, storable, unchanged, gone, verdict], 1);
    expect([await ask(), await ask(), await ask({}, '192.0.2.2'), await ask({ licenseKey: 'guessed' }, '192.0.2.2')]).toEqual([verdict, stored, repeated, gone]);
    expect([await ask({ fingerprint: 'fp' }, '192.0.2.2'), await ask({ licenseKey: 'another' }, '192.0.2.2')]).toEqual([verdict, { code: 'RATE_LIMITED' }]);
  });

  it('that is repeated does not wait for the look-ups of other keys', async () => {
    const lookedUp = Promise.withResolvers<object>();
    const ask = served([verdict, storable, lookedUp.promise, unchanged], 1);
    expect([await ask(), await ask()]).toEqual([verdict, stored]);
    const another = ask({ licenseKey: 'another' }, '192.0.2.2');
    await new Promise(setImmediate);
    expect(await ask({}, '192.0.2.2')).toEqual(repeated);
    lookedUp.resolve(verdict);
    expect(await another).toEqual(verdict);
  });

  it('cannot be asked for as services ask', async () => {
    expect(await served([])({ repeatable: true })).toEqual({ code: 'FST_ERR_VALIDATION' });
  });

  it('is not answered by a license that is gone', async () => {
    expect(await seen(verdict, gone, 'UNAVAILABLE')).toEqual([verdict, gone, { code: 'UNAVAILABLE' }]);
  });
});
