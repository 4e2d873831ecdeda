import { afterEach, describe, expect, it, jest } from '@jest/globals';
import { Revalidate, ValidateLicense } from '@keyledger/contracts';
import { context, RecentChanges, refuse, runIn, systemContext, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import type { Fields, ResultOf } from '@keyledger/messaging';
import { idOf } from '@keyledger/testing';
import fc from 'fast-check';
import { LastKnownVerdicts, questionOf } from './last-known.ts';
import { StoredVerdicts } from './stored-verdicts.ts';

const start = Date.parse('2026-11-21T12:00:00.000Z');
const instance = { id: idOf('act'), name: 'Zoë "one","license":{\\' };
const question = (n: number, more: object = {}) => ({ licenseKey: `KEY-${n}`, ...more }) as ValidateLicense;

/** An activation service: licenses that change, each named by its key, and what it was asked. */
class Service {
  readonly revisions = new Map<string, number>();
  readonly asked = { plain: 0, repeatable: 0, revalidations: [] as Fields<Revalidate>[] };
  /** Of the answers. */
  now = start;
  until: Instant | null = null;
  stands = true;
  away: 'UNAVAILABLE' | 'READ_MODEL_BEHIND' | undefined;
  padding = '';
  /** Comes before the question arrives, and before the answer does. */
  underway: (what: string) => Promise<void> = async () => undefined;
  #position = 100;
  /** Those who began to follow the log at different times. */
  #replicas = [new RecentChanges<LicenseId>(this.#position)];

  static idOf = (n: string): LicenseId => idOf('lic', Number(n.slice(4)));

  change(key: string): number {
    const revision = (this.revisions.get(key) ?? 0) + 1;
    this.revisions.set(key, revision);
    this.#position++;
    for (const replica of this.#replicas) replica.add(Service.idOf(key), this.#position);
    return revision;
  }

  restart(): void {
    this.#replicas = [new RecentChanges(this.#position)];
  }

  /** Another log, which lacks the last events. */
  fallBack(by: number): void {
    this.#position -= by;
    this.restart();
  }

  anotherBegins(): void {
    this.#replicas.push(new RecentChanges(this.#position));
  }

  readonly messages = {
    send: async (type: unknown, fields: object): Promise<object> => {
      const name = type === Revalidate ? 'revalidation' : 'validation';
      await this.underway(`${name} arrives`);
      if (this.away && (this.away === 'UNAVAILABLE' || type === Revalidate)) throw refuse(this.away);
      const answer = type === Revalidate ? this.#revalidate(fields as Fields<Revalidate>) : this.#validate(fields as ValidateLicense);
      await this.underway(`${name} is answered`);
      return answer;
    },
    sendForText: async (type: unknown, fields: object) => ValidateLicense.written?.(await this.messages.send(type, fields) as never),
  };

  #validate({ licenseKey, instanceId, repeatable }: ValidateLicense): ResultOf<ValidateLicense> {
    this.asked[repeatable ? 'repeatable' : 'plain']++;
    const checkedAt = new Date(this.now).toISOString() as Instant;
    const seq = this.revisions.get(licenseKey) ?? 0;
    return {
      valid: true, code: 'VALID', detail: 'License valid', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null,
      decisionId: `${Service.idOf(licenseKey)}.${seq}.${this.now.toString(36)}.hash-_`, seq, checkedAt,
      instance: instanceId ? { ...instance, lastSeenAt: checkedAt } : null,
      license: { id: Service.idOf(licenseKey), metadata: { sly: `","checkedAt":"${checkedAt}","license":{`, '\\': 1, stands: { until: null }, padding: this.padding } } as never,
      ...(repeatable && this.stands && { stands: { until: this.until } }),
    };
  }

  #revalidate(question: Fields<Revalidate>): ResultOf<Revalidate> {
    this.asked.revalidations.push(question);
    const replica = this.#replicas[this.asked.revalidations.length % this.#replicas.length];
    const changed = question.since === null ? undefined : replica?.since(question.since);
    return { now: new Date(this.now).toISOString(), position: this.#position, changed: changed ? [...changed] : null };
  }
}

function gateway(service = new Service(), messages: Service['messages'] = service.messages) {
  const lastKnown = new LastKnownVerdicts();
  const decisions: string[] = [];
  const stored = new StoredVerdicts(messages as never, { decision: (code: string) => void decisions.push(code) } as never, lastKnown);
  /** As the route does it. */
  const right: string[] = [];
  const ask = async (environment: string, asked: ValidateLicense, address = '192.0.2.1'): Promise<string> => {
    const name = questionOf(environment, asked);
    const repeated = await stored.repeated(environment, name, asked, address, () => right.push(address));
    if (repeated !== undefined) return repeated;
    const text = await stored.fresh(environment, name, asked);
    lastKnown.keep(name, text, Date.now());
    return text;
  };
  const verdict = async (n: number, more?: object, environment = 'production') => JSON.parse(await ask(environment, question(n, more))) as ResultOf<ValidateLicense>;
  const questions = () => ({ ...service.asked, revalidations: service.asked.revalidations.length });
  return { service, lastKnown, decisions, right, ask, verdict, questions };
}
const times = async <T>(count: number, work: () => Promise<T>): Promise<T[]> => {
  const all: T[] = [];
  for (let n = 0; n < count; n++) all.push(await work());
  return all;
};

afterEach(() => void jest.useRealTimers());

describe('A question that is asked again and again', () => {
  it('is answered by what the service said, at the time at which it says that nothing has changed', async () => {
    const { service, verdict, questions, decisions } = gateway();
    for (const more of [{}, { instanceId: instance.id }]) {
      await times(3, () => verdict(1, more));
      service.now += 12_345;
      const repeated = await verdict(1, more);
      const now = new Date(service.now).toISOString();
      expect(repeated).toMatchObject({ checkedAt: now, decisionId: `${idOf('lic')}.0.${service.now.toString(36)}.hash-_`, instance: 'instanceId' in more ? { ...instance, lastSeenAt: now } : null });
      service.now += 5;
      const { checkedAt: _, decisionId: __, instance: ___, license, ...same } = await service.messages.send(ValidateLicense, question(1, more)) as ResultOf<ValidateLicense>;
      expect(repeated).toMatchObject(same);
      expect(repeated.license).toEqual({ ...license, metadata: expect.anything() });
      expect([Object.keys(repeated), Object.keys((repeated.license as { metadata?: object }).metadata ?? {})]).toEqual([expect.not.arrayContaining(['stands']), ['sly', '\\', 'stands', 'padding']]);
    }
    // The first of all tells from where on changes are followed.
    expect(questions()).toEqual({ plain: 4, repeatable: 3, revalidations: 4 });
    expect(decisions).toEqual(['VALID', 'VALID', 'VALID']);
  });

  it('is asked of the service anew after a change, and answered by itself again after that', async () => {
    const { service, verdict, questions } = gateway();
    await times(4, () => verdict(1));
    await times(4, () => verdict(2));
    service.change('KEY-1');
    const before = questions();
    expect(await times(3, async () => [(await verdict(1)).seq, (await verdict(2)).seq])).toEqual([[1, 0], [1, 0], [1, 0]]);
    expect(questions()).toEqual({ ...before, repeatable: before.repeatable + 1, revalidations: before.revalidations + 6 });
  });

  it('costs one question for all that come in a turn, sixteen at most, and names their instances', async () => {
    const { service, verdict } = gateway();
    const all = Array.from({ length: 20 }, (_, n) => n);
    await times(4, () => Promise.all(all.map((n) => verdict(n, { instanceId: instance.id }))));
    service.asked.revalidations.length = 0;
    await Promise.all(all.map((n) => verdict(n)));
    expect(service.asked.revalidations).toEqual([]);
    await Promise.all(all.map((n) => verdict(n, { instanceId: instance.id })));
    expect(service.asked.revalidations).toHaveLength(2);
    await times(2, () => verdict(1));
    expect(service.asked.revalidations.pop()?.seen).toEqual([]);
    expect(service.asked.revalidations.map(({ seen }) => seen)).toEqual([[{ licenseId: idOf('lic', 15), activationId: instance.id }], [{ licenseId: idOf('lic', 19), activationId: instance.id as ActivationId }]]);
  });

  it.each<[string, (service: Service) => void]>([
    ['the license has changed', () => undefined],
    ['any license may have changed', (service) => service.restart()],
  ])('is not stored if it is learned, while it is on its way, that %s', async (_, happens) => {
    const { service, verdict } = gateway();
    await times(4, () => verdict(2));
    await verdict(1);
    const onItsWay = Promise.withResolvers<void>();
    service.underway = (what) => (what === 'validation is answered' ? onItsWay.promise : Promise.resolve());
    const first = verdict(1);
    await new Promise(setImmediate);
    service.change('KEY-1');
    happens(service);
    const another = verdict(2);
    await new Promise(setImmediate);
    onItsWay.resolve();
    expect((await first).seq).toBe(0);
    await another;
    expect((await verdict(1)).seq).toBe(1);
  });

  it.each<[string, (service: Service) => void]>([
    ['says that it does not stand', (service) => { service.stands = false; }],
    ['is over', (service) => { service.until = new Date(start).toISOString(); }],
    ['comes from a clock that is ahead', (service) => { service.underway = async (what) => { service.now = what.startsWith('revalidation') ? start : start + 1; }; }],
  ])('is asked of the service each time if its answer %s', async (_, change) => {
    const { service, verdict, questions, decisions } = gateway();
    change(service);
    await times(6, () => verdict(1));
    const { plain, repeatable } = questions();
    expect([plain + repeatable, decisions]).toEqual([6, []]);
  });

  it('is asked of the service each time if it wants a token, also when one without is stored', async () => {
    const { verdict, questions } = gateway();
    await times(3, () => verdict(1, { nonce: 'n' }));
    await times(4, () => verdict(1));
    const { plain } = questions();
    await times(3, () => verdict(1, { nonce: 'n' }));
    expect(questions().plain).toBe(plain + 3);
  });

  it('is only stored when it comes within five seconds', async () => {
    jest.useFakeTimers({ doNotFake: ['setImmediate', 'clearImmediate', 'nextTick', 'performance'] });
    const { verdict, questions } = gateway();
    await times(5, async () => {
      await verdict(1);
      jest.advanceTimersByTime(5_000);
    });
    expect(questions()).toEqual({ plain: 5, repeatable: 0, revalidations: 0 });
  });

  it('is noted as the last known verdict, and its address as one that knows the key, once a second and when another address asks', async () => {
    jest.useFakeTimers({ doNotFake: ['setImmediate', 'clearImmediate', 'nextTick', 'performance'] });
    const { service, ask, lastKnown, right } = gateway();
    const known = () => (JSON.parse(lastKnown.find(questionOf('production', question(1)), Date.now()) ?? '{}') as { checkedAt?: string }).checkedAt;
    const [here, there] = ['192.0.2.1', '192.0.2.2'];
    const seen: unknown[] = [];
    await times(3, () => ask('production', question(1), here));
    for (const address of [here, here, here, here, there, there, here]) {
      jest.advanceTimersByTime(400);
      service.now += 400;
      await ask('production', question(1), address);
      seen.push([Date.parse(known() ?? '') - start, ...right.splice(0)]);
    }
    expect(seen).toEqual([[400, here], [400], [400], [1_600, here], [2_000, there], [2_000], [2_800, here]]);
  });

  it('is stored with so many others as fit into the memory for them', async () => {
    const { service, verdict, questions } = gateway();
    service.padding = 'x'.repeat(1_000_000);
    const all = Array.from({ length: 30 }, (_, n) => n);
    for (const n of all) await times(4, () => verdict(n));
    const before = questions().revalidations;
    // From the last to the first, so that none drives out one that is still to come.
    for (const n of all.toReversed()) await verdict(n);
    expect(questions().revalidations - before).toBe(24);
  });

  it('stays stored while others are asked for no longer', async () => {
    const { service, ask, verdict, questions } = gateway();
    service.padding = 'x'.repeat(1_000_000);
    const all = Array.from({ length: 30 }, (_, n) => n);
    for (const n of all) {
      await times(4, () => verdict(n));
      const before = questions();
      await ask('production', question(0), `192.0.2.${n}`);
      expect(questions()).toEqual({ ...before, revalidations: before.revalidations + 1 });
    }
  });

  it('is not answered while nobody answers, and asked of the service in full after that', async () => {
    const { service, verdict, questions } = gateway();
    await times(4, () => verdict(1));
    service.away = 'UNAVAILABLE';
    await expect(verdict(1)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    service.away = undefined;
    const before = questions();
    expect((await verdict(1)).seq).toBe(service.change('KEY-1') - 1);
    expect(await times(3, async () => (await verdict(1)).seq)).toEqual([1, 1, 1]);
    // What it knew of the log is gone as well.
    expect(service.asked.revalidations[before.revalidations]?.since).toBeNull();
  });

  it('is asked of the service in full, which may know what was last, when that cannot say what has changed', async () => {
    const { service, verdict, questions } = gateway();
    await times(4, () => verdict(1));
    service.away = 'READ_MODEL_BEHIND';
    service.stands = false;
    const before = questions();
    await times(3, () => verdict(1));
    expect(questions()).toEqual({ ...before, repeatable: before.repeatable + 3 });
  });

  it('is not taken for unchanged by what was learned of a log that has been replaced since', async () => {
    jest.useFakeTimers({ doNotFake: ['setImmediate', 'clearImmediate', 'nextTick', 'performance'] });
    const { service, verdict } = gateway();
    await times(4, () => verdict(1));
    service.fallBack(5);
    expect(service.change('KEY-1')).toBe(1);
    for (let n = 0; n < 20; n++) service.change('KEY-2');
    jest.advanceTimersByTime(5_000);
    expect((await verdict(1)).seq).toBe(1);
  });

  it('is another one in another environment, whose log has positions of its own', async () => {
    const services = { production: new Service(), staging: new Service() };
    services.staging.change('KEY-1');
    services.staging.fallBack(50);
    const there = () => services[context().environment as keyof typeof services].messages;
    const { verdict } = gateway(services.production, { send: (...asked) => there().send(...asked), sendForText: (...asked) => there().sendForText(...asked) });
    const both = () => Promise.all((['production', 'staging'] as const).map((environment) => runIn(systemContext(environment, '2026-11-21T12:00:00.000Z'), async () => (await verdict(1, {}, environment)).seq)));
    expect(await times(4, both)).toEqual(Array(4).fill([0, 1]));
    services.staging.change('KEY-1');
    services.production.change('KEY-1');
    services.production.change('KEY-1');
    expect(await times(3, both)).toEqual(Array(3).fill([2, 2]));
    services.staging.change('KEY-1');
    expect(await times(3, both)).toEqual(Array(3).fill([2, 3]));
  });
});

it('No answer is older than a change that was acknowledged before the question, whatever overtakes what', async () => {
  jest.useFakeTimers({ doNotFake: ['setImmediate', 'clearImmediate', 'nextTick'] });
  let repeated = 0;
  const step = fc.record({
    what: fc.oneof({ weight: 10, arbitrary: fc.constant('ask') }, { weight: 6, arbitrary: fc.constant('change') }, { weight: 1, arbitrary: fc.constantFrom('begin', 'lose') }),
    n: fc.integer({ min: 1, max: 2 }), arrivals: fc.nat(3),
  });
  await fc.assert(fc.asyncProperty(fc.scheduler(), fc.array(step, { minLength: 10, maxLength: 60 }), async (scheduler, steps) => {
    const { service, verdict, decisions } = gateway();
    await times(4, async () => Promise.all([verdict(1), verdict(2)]));
    service.underway = (what) => scheduler.schedule(Promise.resolve(), what);
    const asked: Promise<void>[] = [];
    for (const { what, n, arrivals } of steps) {
      const key = `KEY-${n}`;
      if (what === 'change') service.change(key);
      else if (what === 'begin') service.anotherBegins();
      else if (what === 'lose') service.away = 'UNAVAILABLE';
      else {
        const acknowledged = service.revisions.get(key) ?? 0;
        asked.push(verdict(n).then(({ seq }) => expect(seq).toBeGreaterThanOrEqual(acknowledged), (error: { code?: string }) => expect(error.code).toBe('UNAVAILABLE')));
      }
      for (let arrived = 0; arrived < arrivals; arrived++) {
        await new Promise(setImmediate);
        if (scheduler.count() > 0) await scheduler.waitOne();
      }
      // It answers again, and the rest is over.
      if (service.away) jest.advanceTimersByTime(10_000);
      service.away = undefined;
    }
    await scheduler.waitFor(Promise.all(asked));
    repeated += decisions.length;
  }), { numRuns: 1_000 });
  expect(repeated).toBeGreaterThan(1_000);
});
