import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { DueUsage } from '@keyledger/contracts';
import { SWEEP_ABANDONED_SECONDS, type Transitions } from '@keyledger/domain';
import { EventStores, SqliteEventStores, unsealed } from '@keyledger/event-store';
import { addDays, addSeconds, context, PerEnvironment, refuse, runIn, systemContext, type Clock, type Instant } from '@keyledger/kernel';
import { createLog, Metrics } from '@keyledger/observability';
import { until } from '@keyledger/testing';
import fc from 'fast-check';
import { patiently, type Pass, type Passes, type Subject } from './passes.ts';
import { Runs } from './runs.ts';
import { Schedule } from './schedule.ts';
import { Sweeper } from './sweeper.ts';

const start = '2026-11-21T12:00:00.000Z';

/** Who owns what falls due: says each fact once, whoever asks and however often. */
class Owner implements Pass {
  readonly name = 'facts';
  readonly said: string[] = [];
  readonly #due: Map<string, Instant[]>;
  asked = 0;
  /** Comes between, before or after what is asked has been done. */
  interfere: (when: 'before' | 'after', call: number) => void | Promise<void> = () => undefined;
  /** Nothing comes of it when it is looked at. */
  quiet: string | undefined;
  /** Looks due for ever, and nothing can be done about it. */
  stuck: Subject | undefined;

  constructor(due: Readonly<Record<string, readonly Instant[]>>) {
    this.#due = new Map(Object.entries(due).map(([id, instants]) => [id, [...instants].sort()]));
  }

  async backlog(until: Instant, after?: Subject) {
    const due = this.#list(until, after);
    return { oldest: due[0]?.dueAt ?? null, count: due.length };
  }

  async due(until: Instant, after: Subject | undefined, limit: number) {
    return this.#list(until, after).slice(0, limit);
  }

  async settle(subjects: readonly Subject[], until: Instant, dryRun: boolean): Promise<Transitions> {
    const call = ++this.asked;
    await this.interfere('before', call);
    let found = 0;
    for (const { id } of subjects) {
      const facts = (this.#due.get(id) ?? []).filter((dueAt) => dueAt <= until);
      found += id === this.quiet ? 0 : facts.length;
      if (dryRun) continue;
      this.said.push(...facts.map((dueAt) => `${id} ${dueAt}`));
      this.#due.set(id, (this.#due.get(id) ?? []).filter((dueAt) => dueAt > until));
    }
    await this.interfere('after', call);
    return found > 0 ? { FactTold: found } : {};
  }

  bringAbout(id: string, dueAt: Instant): void {
    this.#due.set(id, [...(this.#due.get(id) ?? []), dueAt]);
  }

  #list(until: Instant, after: Subject | undefined): Subject[] {
    const all = [...this.#due].flatMap(([id, [dueAt]]) => (dueAt ? [{ id, dueAt }] : []));
    const behind = ({ id, dueAt }: Subject) => !after || dueAt > after.dueAt || (dueAt === after.dueAt && id > after.id);
    return [...all, ...(this.stuck ? [this.stuck] : [])].filter((subject) => subject.dueAt <= until && behind(subject))
      .sort((a, b) => (a.dueAt + a.id < b.dueAt + b.id ? -1 : 1));
  }
}

describe('A sweep', () => {
  let folder: string;
  let stores: SqliteEventStores;
  let now: Instant;
  const clock: Clock = { now: () => now };
  const stopping = new AbortController();

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'keyledger-sweeper-'));
    stores = await SqliteEventStores.open({ production: join(folder, 'p.db'), staging: join(folder, 's.db') });
    now = start;
  });
  afterEach(async () => {
    jest.useRealTimers();
    await stores.close();
    rmSync(folder, { recursive: true });
  });

  const sealings = new PerEnvironment(['production', 'staging'].map((name) => [name, { prepare: () => unsealed }] as const));
  const newRuns = () => new Runs(new EventStores(stores.entries()), sealings);
  const metrics = () => new Metrics('test', { processMetrics: false });
  const newSweeper = (owner: Pass, { signal = stopping.signal, runs = newRuns(), others = [] as Passes[] } = {}) => new Sweeper([...others, [owner]], runs, clock, metrics(), signal);
  const inEnvironment = <T>(work: () => Promise<T>, environment = 'production') => runIn(systemContext(environment, now), work);
  const run = (owner: Pass) => inEnvironment(() => newSweeper(owner).run('request'));
  const listed = (limit = 25, cursor?: string) => inEnvironment(() => newRuns().list(limit, cursor));
  const laterToday = (minutes: number) => addSeconds(start, -60 * minutes);

  it('has everything said that is due, and nothing that is not', async () => {
    const owner = new Owner({ a: [laterToday(1), addSeconds(start, 1)], b: [laterToday(2)], c: [addDays(start, 3)] });
    expect(await run(owner)).toEqual({ number: 1, dryRun: false, state: 'finished', startedAt: start, durationMs: expect.any(Number), examined: 2, transitions: { FactTold: 2 } });
    expect(owner.said).toEqual([`b ${laterToday(2)}`, `a ${laterToday(1)}`]);
    expect(await run(owner)).toMatchObject({ number: 2, examined: 0, transitions: {} });
    now = addDays(start, 3);
    expect(await run(owner)).toMatchObject({ examined: 2, transitions: { FactTold: 2 } });
    expect(owner.said).toHaveLength(4);
  });

  it('makes up for a longer absence day by day', async () => {
    const owner = new Owner({ a: [addDays(start, -3), addDays(start, -1)], b: [addDays(start, -2)], c: [addDays(start, -3)] });
    await run(owner);
    expect(owner.said).toEqual([`a ${addDays(start, -3)}`, `c ${addDays(start, -3)}`, `b ${addDays(start, -2)}`, `a ${addDays(start, -1)}`]);
  });

  it('works through more than fits into one command', async () => {
    const owner = new Owner(Object.fromEntries(Array.from({ length: 1_234 }, (_, n) => [String(n).padStart(4, '0'), [laterToday(n % 7)]])));
    expect(await run(owner)).toMatchObject({ examined: 1_234, transitions: { FactTold: 1_234 } });
    expect([new Set(owner.said).size, owner.said.length]).toEqual([1_234, 1_234]);
  });

  it('goes on until nothing more comes of it', async () => {
    const owner = new Owner({ a: [laterToday(1)] });
    owner.interfere = (when, call) => { if (when === 'after' && call < 4) owner.bringAbout('b', laterToday(10 + call)); };
    expect(await run(owner)).toMatchObject({ transitions: { FactTold: 4 } });
  });

  it('says when it is dry what it would do, and does nothing', async () => {
    const owner = new Owner({ a: [addDays(start, -3), addDays(start, -1)], b: [addDays(start, -2)] });
    expect(await inEnvironment(() => newSweeper(owner).dryRun())).toMatchObject({ number: null, dryRun: true, examined: 2, transitions: { FactTold: 3 } });
    expect([owner.said, (await listed()).data]).toEqual([[], []]);
  });

  it('ends when nothing can be done about what is due, and goes on behind it', async () => {
    const owner = new Owner({ a: [laterToday(1)] });
    owner.stuck = { id: 'x', dueAt: addDays(start, -3) };
    expect(await run(owner)).toMatchObject({ transitions: { FactTold: 1 } });
    expect(await run(owner)).toMatchObject({ examined: 1, transitions: {} });
  });

  describe('of which there are several', () => {
    /** Holds the first command of a run until the test lets go. */
    const held = (owner: Owner) => {
      const [reached, release] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      owner.interfere = (when, call) => {
        if (when !== 'before' || call !== 1) return;
        reached.resolve();
        return release.promise;
      };
      return { reached: reached.promise, release: release.resolve };
    };

    it('is done by the one that came first', async () => {
      const owner = new Owner({ a: [laterToday(1)] });
      const { reached, release } = held(owner);
      const first = run(owner);
      await reached;
      expect(await run(owner)).toBeUndefined();
      expect(await inEnvironment(() => newSweeper(new Owner({})).run('request'), 'staging')).toMatchObject({ number: 1 });
      expect((await listed()).data).toMatchObject([{ number: 1, state: 'running', durationMs: null }]);
      release();
      expect(await first).toMatchObject({ number: 1, transitions: { FactTold: 1 } });
      expect(await run(owner)).toMatchObject({ number: 2, transitions: {} });
    });

    it('waits its turn when somebody wants to know', async () => {
      const owner = new Owner({ a: [laterToday(1)] });
      const { reached, release } = held(owner);
      const first = run(owner);
      await reached;
      const second = inEnvironment(() => newSweeper(owner).runInTurn('request'));
      release();
      expect([(await first)?.transitions, (await second).transitions]).toEqual([{ FactTold: 1 }, {}]);
    });

    it('is taken over from one that died, and from one that was only stopped for a while, which then does no harm', async () => {
      jest.useFakeTimers({ now: Date.parse(start), doNotFake: ['setTimeout', 'setInterval', 'setImmediate', 'clearTimeout', 'clearInterval', 'clearImmediate', 'nextTick', 'queueMicrotask', 'performance', 'hrtime'] });
      const owner = new Owner({ a: [laterToday(1)], b: [laterToday(2)] });
      const { reached, release } = held(owner);
      const stopped = run(owner);
      await reached;
      jest.setSystemTime(Date.parse(addSeconds(start, SWEEP_ABANDONED_SECONDS - 1)));
      expect(await run(owner)).toBeUndefined();
      jest.setSystemTime(Date.parse(addSeconds(start, SWEEP_ABANDONED_SECONDS)));
      expect(await run(owner)).toMatchObject({ number: 2, transitions: { FactTold: 2 } });
      release();
      expect(await stopped).toMatchObject({ number: 1, transitions: {} });
      expect(owner.said).toHaveLength(2);
      expect((await listed()).data).toMatchObject([{ number: 2, state: 'finished' }, { number: 1, state: 'finished', transitions: {} }]);
    });
  });

  it('that is cut short says so, and the next one does what is left', async () => {
    const owner = new Owner(Object.fromEntries(Array.from({ length: 300 }, (_, n) => [String(n).padStart(3, '0'), [laterToday(1)]])));
    const leaving = new AbortController();
    owner.interfere = (when) => { if (when === 'after') leaving.abort(); };
    await expect(inEnvironment(() => newSweeper(owner, { signal: leaving.signal }).run('request'))).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect((await listed()).data).toMatchObject([{ number: 1, state: 'interrupted', examined: 50, transitions: { FactTold: 50 } }]);
    expect(await run(owner)).toMatchObject({ number: 2, transitions: { FactTold: 250 } });
  });

  it('however it is cut short, repeated or doubled, everything is said once and in order', async () => {
    const facts = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd'), fc.uniqueArray(fc.integer({ min: -9, max: 2 }), { maxLength: 4 }));
    const trouble = fc.array(fc.tuple(fc.constantFrom('before' as const, 'after' as const), fc.integer({ min: 1, max: 6 })), { maxLength: 4 });
    await fc.assert(fc.asyncProperty(facts, trouble, fc.integer({ min: 1, max: 3 }), async (days, troubles, sweepers) => {
      const due = Object.fromEntries(Object.entries(days).map(([id, list]) => [id, list.map((day) => addDays(start, day))]));
      const owner = new Owner(due);
      const left = [...troubles];
      owner.interfere = (when, call) => {
        const at = left.findIndex(([moment, n]) => moment === when && n <= call);
        if (at < 0) return;
        left.splice(at, 1);
        throw refuse('UNAVAILABLE');
      };
      for (let round = 0; round <= troubles.length; round++) {
        await Promise.allSettled(Array.from({ length: sweepers }, () => inEnvironment(() => newSweeper(owner).runInTurn('schedule'))));
      }
      const expected = Object.entries(due).flatMap(([id, list]) => list.filter((dueAt) => dueAt <= start).map((dueAt) => `${id} ${dueAt}`));
      expect(owner.said.toSorted()).toEqual(expected.sort());
      const daysSaid = owner.said.map((fact) => fact.slice(2, 12));
      expect(daysSaid).toEqual(daysSaid.toSorted());
      expect(await run(owner)).toMatchObject({ examined: 0 });
    }), { numRuns: 60 });
  });

  it('is listed newest first, page by page', async () => {
    const owner = new Owner({});
    for (let n = 0; n < 7; n++) await run(owner);
    const pages = [];
    for (let cursor: string | undefined = undefined, more = true; more;) {
      const { data, page }: Awaited<ReturnType<typeof listed>> = await listed(3, cursor);
      pages.push(data.map(({ number }) => number));
      expect(page.total).toBe(7);
      cursor = page.next ?? undefined;
      more = page.next !== null;
    }
    expect(pages).toEqual([[7, 6, 5], [4, 3, 2], [1]]);
    await expect(listed(3, 'nonsense')).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  });

  it('acts as time itself, in the name of nobody', async () => {
    const actor = { type: 'api-key' as const, id: 'key_1', permissions: [] };
    await runIn({ ...systemContext('production', now), actor, commandId: '0b8a3c0e-6f0e-4f0a-9d3e-2b1c5a7d9e01', correlationId: 'request-7', retry: true, ifRevision: 3 }, () => newSweeper(new Owner({})).run('request'));
    const [event] = await stores.of('production').readStream('sweep-production');
    expect(event?.metadata).toMatchObject({ actor: { type: 'system' }, correlationId: 'request-7', causationId: '0b8a3c0e-6f0e-4f0a-9d3e-2b1c5a7d9e01', occurredAt: start });
  });

  it('has a minute of patience with whom it asks, however long each answer takes that is none', async () => {
    let moment = 0;
    const tries: number[] = [];
    const clockOfProcess = jest.spyOn(performance, 'now').mockImplementation(() => moment);
    const send = async (_type: unknown, _fields: unknown, { timeoutMs }: { timeoutMs: number }) => {
      tries.push(timeoutMs);
      moment += Math.min(timeoutMs, 25_000);
      throw refuse('UNAVAILABLE');
    };
    await expect(patiently({ send } as never, stopping.signal)(DueUsage, { until: start, limit: 1 })).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    clockOfProcess.mockRestore();
    expect(tries).toEqual([60_000, 35_000, 10_000]);
  });

  it('asks but once who refuses, and whom it needs no more because it is to stop', async () => {
    for (const [code, signal] of [['VALIDATION_FAILED', stopping.signal], ['UNAVAILABLE', AbortSignal.abort()]] as const) {
      let tries = 0;
      const send = async () => { tries++; throw refuse(code); };
      await expect(patiently({ send } as never, signal)(DueUsage, { until: start, limit: 1 })).rejects.toMatchObject({ code });
      expect(tries).toBe(1);
    }
  });

  it('runs at the time that its environment has by then', async () => {
    const moved: Clock = { now: () => now, current: async () => void (now = addDays(start, 2)) };
    const sweeper = new Sweeper([[new Owner({ a: [addDays(start, 1)] })]], newRuns(), moved, metrics(), stopping.signal);
    expect(await inEnvironment(() => sweeper.run('request'))).toMatchObject({ startedAt: addDays(start, 2), transitions: { FactTold: 1 } });
  });

  describe('by itself', () => {
    const scheduled = (owner: Pass, intervalMs = 0, ...others: Passes[]) => {
      const lines: string[] = [];
      const log = createLog({ level: 'warn', service: 'test', destination: { write: (line) => void lines.push(line) } });
      return { schedule: new Schedule(newSweeper(owner, { others }), clock, metrics(), log, intervalMs), lines };
    };

    it('begins a run in each environment where something is due, and in no other', async () => {
      const owner = new Owner({ a: [laterToday(1)] });
      const { schedule } = scheduled(owner);
      await schedule.look();
      await schedule.look();
      expect(owner.said).toEqual([`a ${laterToday(1)}`]);
      expect((await listed()).data).toMatchObject([{ number: 1, trigger: 'schedule', state: 'finished', transitions: { FactTold: 1 } }]);
    });

    it('keeps no environment waiting for a long run in another', async () => {
      const owners: Record<string, Owner> = { production: new Owner({}), staging: new Owner({ s: [laterToday(1)] }) };
      const here = () => owners[context().environment] as Owner;
      const release = Promise.withResolvers<void>();
      const reached = Promise.withResolvers<void>();
      (owners['staging'] as Owner).interfere = () => { reached.resolve(); return release.promise; };
      const each: Pass = { name: 'facts', backlog: (...range) => here().backlog(...range), due: (...range) => here().due(...range), settle: (...subjects) => here().settle(...subjects) };
      const { schedule } = scheduled(each, 5);
      schedule.begin();
      await reached.promise;
      owners['production']?.bringAbout('p', laterToday(1));
      await until(() => owners['production']?.said.length === 1);
      expect(owners['staging']?.said).toEqual([]);
      release.resolve();
      await schedule.end();
      expect(owners['staging']?.said).toEqual([`s ${laterToday(1)}`]);
    });

    it('leaves alone what nothing can be done about, but not what falls due behind it', async () => {
      const owner = new Owner({ a: [addSeconds(start, 60)] });
      owner.stuck = { id: 'x', dueAt: laterToday(5) };
      const { schedule } = scheduled(owner);
      for (let n = 0; n < 3; n++) await schedule.look();
      expect((await listed()).data).toHaveLength(1);
      now = addSeconds(start, 60);
      await schedule.look();
      expect(owner.said).toEqual([`a ${addSeconds(start, 60)}`]);
    });

    it('looks again after an hour, or when it is no longer the same that is left', async () => {
      const owner = new Owner({});
      owner.stuck = { id: 'x', dueAt: laterToday(5) };
      const { schedule } = scheduled(owner);
      const runs = async () => {
        for (let n = 0; n < 2; n++) await schedule.look();
        return (await listed()).data.length;
      };
      expect(await runs()).toBe(1);
      owner.stuck = { id: 'y', dueAt: laterToday(30) };
      expect(await runs()).toBe(2);
      const later = jest.spyOn(Date, 'now').mockReturnValue(Date.now() + 3_600_000);
      expect(await runs()).toBe(3);
      later.mockRestore();
    });

    it('looks again at what has fallen due only just, because the clock of its owner may be behind', async () => {
      const owner = new Owner({});
      owner.stuck = { id: 'x', dueAt: addSeconds(start, -5) };
      const { schedule } = scheduled(owner);
      for (let n = 0; n < 3; n++) await schedule.look();
      expect((await listed()).data).toHaveLength(3);
    });

    it.each([['and nothing came of it', undefined], ['and something was left', { id: 'x', dueAt: laterToday(5) }]])('sees what is past due all at once when it has looked already %s', async (_, stuck) => {
      const owner = new Owner({ a: [laterToday(1)] });
      owner.quiet = 'a';
      owner.stuck = stuck;
      const { schedule } = scheduled(owner);
      for (let n = 0; n < 3; n++) await schedule.look();
      expect((await listed()).data).toHaveLength(1);
      owner.bringAbout('b', laterToday(30));
      for (let n = 0; n < 3; n++) await schedule.look();
      expect(owner.said).toEqual([`a ${laterToday(1)}`, `b ${laterToday(30)}`]);
      expect((await listed()).data).toHaveLength(2);
    });

    it.each(['backlog', 'settle'] as const)('does what does not wait for somebody who is away (%s), and the rest when he is back', async (asked) => {
      const [absent, waiting, other] = [new Owner({ a: [addDays(start, -2)] }), new Owner({ b: [addDays(start, -1)] }), new Owner({ c: [addDays(start, -3), laterToday(1)] })];
      let isAway = true;
      const leaving: Pass = {
        name: 'facts', due: (...range) => absent.due(...range), backlog: (...range) => (isAway && asked === 'backlog' ? Promise.reject(refuse('UNAVAILABLE')) : absent.backlog(...range)),
        settle: (...subjects) => (isAway ? Promise.reject(refuse('UNAVAILABLE')) : absent.settle(...subjects)),
      };
      const { schedule } = scheduled(other, 0, [leaving, waiting]);
      await schedule.look();
      expect([absent.said, waiting.said, other.said]).toEqual([[], [], [`c ${addDays(start, -3)}`, `c ${laterToday(1)}`]]);
      expect(schedule.word()).toContain('production');
      await schedule.look();
      expect(schedule.word()).toContain('production');
      isAway = false;
      await schedule.look();
      expect([absent.said, waiting.said, schedule.word()]).toEqual([[`a ${addDays(start, -2)}`], [`b ${addDays(start, -1)}`], undefined]);
    });

    it('survives what goes wrong, says so, and tries again', async () => {
      const owner = new Owner({ a: [addDays(start, -1)] });
      owner.interfere = () => { throw new Error('out of order'); };
      const { schedule, lines } = scheduled(owner);
      await schedule.look();
      expect(schedule.word()).toContain('out of order');
      expect(lines.join('')).toContain('out of order');
      owner.interfere = () => undefined;
      await schedule.look();
      expect([schedule.word(), owner.said.length]).toEqual([undefined, 1]);
    });
  });
});
