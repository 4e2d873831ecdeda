import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from '@jest/globals';
import { Heartbeat, LapsedLeaseBacklog, LapsedLeases, LapseLeases, type LoseHeartbeats } from '@keyledger/contracts';
import { issued, License, lookAtOf, openLease, type LicenseCommand, type LicenseEvent } from '@keyledger/domain';
import { EventStores, SqliteEventStores, type NewEvent } from '@keyledger/event-store';
import { addDays, addSeconds, eventId, newCommandId, refuse, runIn, systemContext, type ActivationId, type Instant } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { reactionsTable, StateDatabases, type Database } from '@keyledger/read-models';
import { onEveryDialect } from '@keyledger/read-models/contract';
import { activate, assign, at, desktop, idOf, issue, laptop, rebind, recoverHeartbeat, revoke, scenarios, type Story } from '@keyledger/testing';
import { ApplianceTokens, Heartbeats } from './appliance.handlers.ts';
import { LapseCommand, LapseQueries, LeaseOpening } from './lapses.ts';
import { LeaseLedger, leaseTables } from './leases.ts';

const start = '2026-11-21T12:00:00.000Z';
const { story, stateOf } = scenarios(License, start);
const licenseId = idOf('lic');
/** So seldom are heartbeats due that none is missed before the end. */
const week = 7 * 86_400;
const sold = story(issue({ terms: { validationMode: 'heartbeat', heartbeatIntervalSeconds: week, offlineGraceDays: 14 } }), assign(), activate(laptop), activate(desktop));

/** One license with two boxes; what is said of it is decided by its own rules. */
class World {
  now: Instant = start;
  history: Story<LicenseEvent> = sold;
  /** By validations. */
  seen: Record<string, Instant> = {};
  /** Cannot be read, neither here nor there. */
  unreadable = { here: new Set<string>(), there: new Set<string>() };
  /** So often nobody answers. */
  away = 0;
  readonly logged: unknown[] = [];
  /** Of the process. */
  upSince: Instant = start;
  /** What comes between the look at the rows and the one at the license, before the authority's decision, and between that and its answer. The first two come once. */
  whileLooked: () => unknown = () => undefined;
  beforehand: () => unknown = () => undefined;
  afterwards: () => void | Promise<void> = () => undefined;
  readonly ledger: LeaseLedger;

  static async open(database: Database): Promise<World> {
    const keyring = await Keyring.open({ masterKey: new Uint8Array(32), environment: 'production', dataKeys: new MemoryDataKeys() });
    await keyring.prepare([licenseId], true);
    return new World(database, keyring);
  }

  private constructor(readonly database: Database, readonly keyring: Keyring) {
    this.ledger = this.process();
  }

  /** Another one that answers heartbeats. */
  process(): LeaseLedger {
    return new LeaseLedger(this.#databases, new Keyrings([['production', this.keyring]]));
  }

  get #databases(): StateDatabases {
    return new StateDatabases([['production', this.database]]);
  }

  happens(...commands: readonly LicenseCommand[]): void {
    this.history = story(this.history, ...commands.map((command) => at(this.now, command)));
  }

  /** The box is heard of: its lease begins anew. */
  hear(id: ActivationId): Promise<null> {
    const lease = openLease(issued(stateOf(this.history)), id, undefined, this.now);
    return this.in(() => this.ledger.change(id, (_, isCertain) => (isCertain ? { answer: null, keep: { licenseId, lease, token: null, toldSeq: 0, agentVersion: null, lookAt: lookAtOf(issued(stateOf(this.history)), id, lease) } } : undefined)));
  }

  /** What the box is told. `whileJudged`: what comes between the first look at its license and what is decided by that. */
  async beat(seq: number, { ledger = this.ledger, whileJudged = (): unknown => undefined } = {}): Promise<string> {
    const get = async () => {
      const known = { state: stateOf(this.history), revision: this.history.happened.length - 1 };
      const first = whileJudged;
      whileJudged = () => undefined;
      await first();
      return known;
    };
    const caches = { here: () => ({ get }) } as never;
    const messages = { send: ({ subject }: { subject: string }, fields: never) => (subject === 'signing.leases' ? { tokens: ['lease'] } : this.#authority(fields)) } as never;
    const tokens = new ApplianceTokens(messages, { for: async () => 'no' } as never, { signed: async () => false } as never, this.#log);
    const heartbeats = new Heartbeats(caches, ledger, tokens, new Keyrings([['production', this.keyring]]), messages, { decision: () => {} } as never, this.#log);
    const { state, enforcement } = await this.in(() => heartbeats.execute(Object.assign(new Heartbeat(), { licenseId, activationId: laptop.activationId, fingerprint: 'fp-laptop', seq })));
    return `${state} ${enforcement}`;
  }

  async due(until = this.now, now = until): Promise<readonly string[]> {
    const queries = new LapseQueries(this.#databases, { done: async () => undefined } as never);
    const query = Object.assign(new LapsedLeases(), { until, limit: 10 });
    const ask = <Q extends LapsedLeases | LapsedLeaseBacklog>(asked: Q) => runIn(systemContext('production', now), () => queries.execute(asked));
    const { data } = (await ask(query)) as { data: { id: ActivationId; dueAt: Instant }[] };
    const backlog = await ask(Object.assign(new LapsedLeaseBacklog(), { until }));
    expect(backlog).toEqual({ oldest: data[0]?.dueAt ?? null, count: data.length });
    const [first] = data;
    if (first) expect(await ask(Object.assign(new LapsedLeases(), { until, limit: 10, after: first }))).toEqual({ data: data.slice(1) });
    return data.map(({ id }) => id);
  }

  lapse({ until = this.now, dryRun = false, ids = [laptop.activationId, desktop.activationId] } = {}) {
    const lastSeen = { of: async () => this.seen } as never;
    const command = new LapseCommand(this.#databases, this.#caches, lastSeen, { send: (_: unknown, fields: never) => this.#authority(fields) } as never, this.#log, { now: () => this.upSince });
    return this.in(() => command.execute(Object.assign(new LapseLeases(), { activationIds: ids, until, dryRun })));
  }

  said(type: string) {
    return this.history.happened.map(({ event }) => event).filter((event) => event.type === type);
  }

  in<T>(work: () => Promise<T>): Promise<T> {
    return runIn(systemContext('production', this.now), work);
  }

  /** As if the process had just begun. */
  opening(events: EventStores): Promise<LeaseOpening> {
    return LeaseOpening.start(events, this.#databases, { now: () => this.now }, this.#caches, this.ledger, this.#log);
  }

  get #caches() {
    return { here: () => ({ get: async (id: string) => (await this.#once('whileLooked'), this.#read(id)) }) } as never;
  }

  get #log() {
    return { error: (told: unknown) => this.logged.push(told) } as never;
  }

  #read(id: string) {
    if (this.away-- > 0) throw refuse('UNAVAILABLE');
    if (this.unreadable.here.has(id)) throw new Error('no such event');
    return { state: stateOf(this.history) };
  }

  async #once(moment: 'whileLooked' | 'beforehand'): Promise<void> {
    const { [moment]: happens } = this;
    this[moment] = () => undefined;
    await happens();
  }

  async #authority({ instances, dryRun }: LoseHeartbeats) {
    await this.#once('beforehand');
    const transitions: Record<string, number> = {};
    const failed = instances.flatMap(({ activationId }) => (this.unreadable.there.has(activationId) ? [activationId] : []));
    for (const { activationId, missedAt, dueAt } of instances) {
      if (failed.includes(activationId)) continue;
      for (const [type, at] of [['MissHeartbeat', missedAt], ['LoseHeartbeat', dueAt]] as const) {
        if (at === undefined) continue;
        const events = License.decide(stateOf(this.history), { type, activationId, dueAt: at }, this.now);
        for (const event of events) transitions[event.type] = (transitions[event.type] ?? 0) + 1;
        if (!dryRun && events.length > 0) this.happens({ type, activationId, dueAt: at });
      }
    }
    await this.afterwards();
    return { transitions, failed };
  }
}

onEveryDialect('Leases that are over', ({ open }) => {
  const world = async () => {
    const all = await World.open(await open({ migrations: leaseTables, kind: 'state' }));
    await all.hear(laptop.activationId);
    all.now = addDays(start, 1);
    await all.hear(desktop.activationId);
    return all;
  };

  it('are found from their end on, the longest over first', async () => {
    const all = await world();
    expect(await all.due(addSeconds(addDays(start, 14), -0.001))).toEqual([]);
    expect(await all.due(addDays(start, 14))).toEqual([laptop.activationId]);
    expect(await all.due(addDays(start, 15))).toEqual([laptop.activationId, desktop.activationId]);
  });

  it('are said to be over once, and cost nothing from then on', async () => {
    const all = await world();
    all.now = addDays(start, 15);
    expect(await all.lapse({ dryRun: true })).toEqual({ HeartbeatLost: 2 });
    expect(all.said('HeartbeatLost')).toEqual([]);
    expect(await all.lapse()).toEqual({ HeartbeatLost: 2 });
    expect(all.said('HeartbeatLost')).toMatchObject([{ activationId: laptop.activationId, dueAt: addDays(start, 14) }, { activationId: desktop.activationId, dueAt: addDays(start, 15) }]);
    expect(await all.due('2099-01-01T00:00:00.000Z')).toEqual([]);
    expect(await all.lapse()).toEqual({});
  });

  it('are looked at again when whoever looked died before it was noted, and it is already so', async () => {
    const all = await world();
    all.now = addDays(start, 14);
    all.afterwards = () => { throw refuse('UNAVAILABLE'); };
    await expect(all.lapse()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await all.due()).toEqual([laptop.activationId]);
    all.afterwards = () => undefined;
    expect([await all.lapse(), await all.due(), all.said('HeartbeatLost').length]).toEqual([{}, [], 1]);
  });

  it('begin again with the next heartbeat, even with one that comes while it is being said', async () => {
    const all = await world();
    all.now = addDays(start, 14);
    all.afterwards = async () => void await all.hear(laptop.activationId);
    await all.lapse({ ids: [laptop.activationId] });
    expect([await all.due(addDays(all.now, 13)), await all.due(addDays(all.now, 14))]).toEqual([[desktop.activationId], [desktop.activationId, laptop.activationId]]);
  });

  it('are none when the box was heard of before anybody looked', async () => {
    const all = await world();
    all.now = addDays(start, 14);
    await all.hear(laptop.activationId);
    expect([await all.lapse(), all.said('HeartbeatLost')]).toEqual([{}, []]);
  });

  it('of a box that was replaced count from the replacement', async () => {
    const all = await world();
    all.now = addDays(start, 10);
    all.happens(rebind('fp-new', laptop));
    all.now = addDays(start, 14);
    expect([await all.lapse({ ids: [laptop.activationId] }), await all.due()]).toEqual([{}, []]);
    all.now = addDays(start, 24);
    expect(await all.lapse({ ids: [laptop.activationId] })).toEqual({ HeartbeatLost: 1 });
    expect(all.said('HeartbeatLost')).toMatchObject([{ activationId: laptop.activationId, dueAt: addDays(start, 24) }]);
  });

  it('of a license that nobody can read stay due, and keep no other from being said', async () => {
    const all = await world();
    const [other, box] = [idOf('lic', 999), idOf('act', 999)];
    const lease = openLease(issued(stateOf(all.history)), laptop.activationId, undefined, start);
    await all.in(() => all.ledger.change(box, (_, isCertain) => (isCertain ? { answer: null, keep: { licenseId: other, lease, token: null, toldSeq: 0, agentVersion: null, lookAt: lease.endsAt } } : undefined)));
    all.unreadable.here.add(other);
    all.now = addDays(start, 15);
    const ids = [box, laptop.activationId, desktop.activationId];
    expect(await all.lapse({ ids })).toEqual({ HeartbeatLost: 2 });
    expect([await all.due(), all.logged]).toMatchObject([[box], [{ licenseId: other, activationId: box }]]);
  });

  it('stay due where the authority could not say it', async () => {
    const all = await world();
    all.now = addDays(start, 15);
    all.unreadable.there.add(laptop.activationId);
    expect(await all.lapse()).toEqual({ HeartbeatLost: 1 });
    expect(await all.due()).toEqual([laptop.activationId]);
  });

  it('of a floating seat give it back, unless its instance owes no heartbeats and has asked', async () => {
    const floating = (validationMode: 'online' | 'offline' | 'heartbeat') => story(issue({ terms: { validationMode, seats: 'floating', heartbeatIntervalSeconds: 600 } }), assign(), activate(laptop), activate(desktop));
    for (const mode of ['online', 'offline'] as const) {
      const all = await World.open(await open({ migrations: leaseTables, kind: 'state' }));
      all.history = floating(mode);
      for (const { activationId } of [laptop, desktop]) await all.hear(activationId);
      all.seen = { [laptop.activationId]: addSeconds(start, 1200) };
      all.now = addSeconds(start, 1800);
      expect(await all.lapse()).toEqual({ InstanceDeactivated: 1 });
      expect(all.said('InstanceDeactivated')).toMatchObject([{ activationId: desktop.activationId, by: 'lapse', dueAt: addSeconds(start, 1800) }]);
      expect([await all.due(addSeconds(start, 2999)), await all.due(addSeconds(start, 3000))]).toEqual([[], [laptop.activationId]]);
      all.now = addSeconds(start, 3000);
      await all.lapse();
      expect(all.said('InstanceDeactivated').at(-1)).toMatchObject({ activationId: laptop.activationId, dueAt: addSeconds(start, 3000) });
    }
    const owing = await World.open(await open({ migrations: leaseTables, kind: 'state' }));
    owing.history = floating('heartbeat');
    await owing.hear(laptop.activationId);
    owing.seen = { [laptop.activationId]: addSeconds(start, 1200) };
    owing.now = addSeconds(start, 1800);
    await owing.lapse();
    expect(owing.said('InstanceDeactivated')).toMatchObject([{ activationId: laptop.activationId }]);
  });

  /** A floating seat whose box has been heard of once, and whose three intervals are over. */
  const silent = async (validationMode: 'heartbeat' | 'online' = 'heartbeat') => {
    const all = await World.open(await open({ migrations: leaseTables, kind: 'state' }));
    all.history = story(issue({ terms: { validationMode, seats: 'floating', heartbeatIntervalSeconds: 600 } }), assign(), activate(laptop));
    expect(await all.beat(1)).toBe('active FULL');
    all.now = addSeconds(start, 1800);
    return all;
  };

  it.each(['the same', 'another'])('of a floating seat are over for a heartbeat that %s process answers before the license says so', async (which) => {
    const all = await silent();
    const told: string[] = [];
    all.beforehand = async () => told.push(await all.beat(2, which === 'another' ? { ledger: all.process() } : {}));
    await all.lapse();
    expect([told, all.said('InstanceDeactivated').length]).toEqual([['locked LOCKED'], 1]);
    expect([await all.beat(2), await all.beat(3)]).toEqual(['locked LOCKED', 'locked LOCKED']);
  });

  it('of a floating seat are over for a heartbeat that had seen them while they were not', async () => {
    const all = await silent();
    expect(await all.beat(2, { whileJudged: () => all.lapse() })).toBe('locked LOCKED');
    expect(all.said('InstanceDeactivated')).toMatchObject([{ by: 'lapse', dueAt: all.now }]);
  });

  it('of a floating seat begin again with a heartbeat that comes while they are looked at', async () => {
    const all = await silent();
    const told: string[] = [];
    all.whileLooked = async () => told.push(await all.beat(2, { ledger: all.process() }));
    expect([await all.lapse(), told, await all.due(), await all.beat(3)]).toEqual([{}, ['active FULL'], [], 'active FULL']);
    all.now = addSeconds(all.now, 1800);
    expect([await all.due(), await all.lapse()]).toEqual([[laptop.activationId], { InstanceDeactivated: 1 }]);
  });

  it('of a floating seat stay over when whoever decided that died before it was said, which the next heartbeat does, or the next look', async () => {
    for (const next of ['heartbeat', 'look'] as const) {
      const all = await silent();
      all.beforehand = () => { throw refuse('UNAVAILABLE'); };
      await expect(all.lapse()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      expect([await all.due(), all.said('InstanceDeactivated')]).toEqual([[laptop.activationId], []]);
      if (next === 'heartbeat') expect(await all.beat(2)).toBe('locked LOCKED');
      else expect(await all.lapse()).toEqual({ InstanceDeactivated: 1 });
      expect([all.said('InstanceDeactivated'), await all.lapse(), await all.due()]).toMatchObject([[{ by: 'lapse', dueAt: all.now }], {}, []]);
    }
  });

  it('of a floating seat that owes no heartbeats are none when it was validated while they could not be said', async () => {
    const all = await silent('online');
    all.beforehand = () => { throw refuse('UNAVAILABLE'); };
    await expect(all.lapse()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    all.seen = { [laptop.activationId]: all.now };
    all.now = addSeconds(all.now, 60);
    expect([await all.lapse(), all.said('InstanceDeactivated'), await all.due(), await all.beat(2)]).toEqual([{}, [], [], 'active FULL']);
  });

  it('of a floating seat that is moved to another box while they are said are none of the new one’s', async () => {
    const all = await silent();
    all.beforehand = () => {
      all.now = addSeconds(all.now, 1);
      all.happens(rebind('fp-new', laptop));
    };
    expect([await all.lapse(), all.said('InstanceDeactivated')]).toEqual([{}, []]);
  });

  it('end by the clock that they were written with, however far ahead the sweeper’s is', async () => {
    const all = await silent();
    all.now = addSeconds(all.now, -1);
    expect([await all.lapse({ until: addDays(start, 1) }), await all.due(addDays(start, 1), all.now)]).toEqual([{}, []]);
    all.now = addSeconds(all.now, 1);
    expect([await all.due(addDays(start, 1), all.now), await all.lapse({ until: addDays(start, 1) })]).toEqual([[laptop.activationId], { InstanceDeactivated: 1 }]);
  });

  const hourly = async (upSince = start) => {
    const all = await World.open(await open({ migrations: leaseTables, kind: 'state' }));
    Object.assign(all, { upSince, history: story(issue({ terms: { validationMode: 'heartbeat', heartbeatIntervalSeconds: 3600, offlineGraceDays: 14 } }), assign(), activate(laptop)) });
    await all.hear(laptop.activationId);
    return all;
  };

  it('are late long before their end, which is said once, and then at the end', async () => {
    const all = await hourly();
    expect(await all.due(addSeconds(start, 7199))).toEqual([]);
    all.now = addSeconds(start, 7260);
    expect([await all.due(), await all.lapse({ dryRun: true }), await all.lapse(), await all.lapse()]).toEqual([[laptop.activationId], { HeartbeatMissed: 1 }, { HeartbeatMissed: 1 }, {}]);
    expect(all.said('HeartbeatMissed')).toMatchObject([{ activationId: laptop.activationId, dueAt: addSeconds(start, 7200) }]);
    expect([await all.due(addSeconds(addDays(start, 14), -1)), await all.due(addDays(start, 14))]).toEqual([[], [laptop.activationId]]);
    all.now = addDays(start, 14);
    expect([await all.lapse(), await all.due('2099-01-01T00:00:00.000Z')]).toEqual([{ HeartbeatLost: 1 }, []]);
  });

  it('are late again after each heartbeat', async () => {
    const all = await hourly();
    all.now = addSeconds(start, 7200);
    await all.lapse();
    all.now = addSeconds(start, 9000);
    await all.hear(laptop.activationId);
    all.happens(recoverHeartbeat());
    all.now = addSeconds(start, 9000 + 7200);
    expect(await all.lapse()).toEqual({ HeartbeatMissed: 1 });
  });

  it('say both when nobody has looked for long', async () => {
    const all = await hourly();
    all.now = addDays(start, 15);
    expect(await all.lapse()).toEqual({ HeartbeatMissed: 1, HeartbeatLost: 1 });
  });

  it('are not late because the server was away: boxes have two intervals from its start', async () => {
    const back = addDays(start, 3);
    const all = await hourly(back);
    all.now = addSeconds(back, 60);
    expect([await all.lapse(), await all.due(addSeconds(back, 7199)), await all.due(addSeconds(back, 7200))]).toEqual([{}, [], [laptop.activationId]]);
    all.now = addSeconds(back, 7200);
    expect(await all.lapse()).toEqual({ HeartbeatMissed: 1 });
  });

  it('of a revoked license are nobody’s business', async () => {
    const all = await world();
    all.happens(revoke());
    all.now = addDays(start, 20);
    expect([await all.lapse(), await all.due()]).toEqual([{}, []]);
  });
});

onEveryDialect('Leases of instances that were activated', ({ open }) => {
  const [other, floating] = [idOf('lic', 999), { validationMode: 'online', seats: 'floating', heartbeatIntervalSeconds: 600 } as const];
  let folder: string;
  let logs: SqliteEventStores;
  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'lapses-'));
    logs = await SqliteEventStores.open({ production: join(folder, 'events.db') });
  });
  afterEach(async () => {
    await logs.close();
    rmSync(folder, { recursive: true });
  });

  const world = async () => {
    const all = await World.open(await open({ migrations: [...leaseTables, reactionsTable], kind: 'state' }));
    all.history = story(issue({ terms: floating }), assign(), activate(laptop), activate(desktop));
    return all;
  };
  const happened = async (license: string, type: string, data: object, occurredAt = start) =>
    void await logs.of('production').append(`license-${license}`, 'any', [{ id: eventId(newCommandId(), type), type, data, metadata: { occurredAt } } as NewEvent]);
  const lapseAt = async (all: World) => Object.fromEntries((await all.database.run<{ id: string; at: Instant }>('select activation_id as id, lapse_at as at from activation_leases')).rows.map(({ id, at: due }) => [id, due]));

  it('are opened though another license cannot be read, whose instances are looked at until it can be, and are none too early', async () => {
    const all = await world();
    all.unreadable.here.add(licenseId);
    all.now = addSeconds(start, 60);
    for (const data of [{ activationId: laptop.activationId, leaseEndsAt: addSeconds(start, 5) }, { leaseEndsAt: start }]) await happened(licenseId, 'InstanceActivated', data);
    await happened(other, 'InstanceActivated', { activationId: desktop.activationId, leaseEndsAt: addSeconds(start, 1800) });
    const opening = await all.opening(new EventStores(logs.entries()));
    await all.in(() => opening.done());
    expect(all.logged).toMatchObject([{ stream: `license-${licenseId}`, activationId: laptop.activationId }, { stream: `license-${licenseId}` }]);
    expect(await lapseAt(all)).toEqual({ [laptop.activationId]: start, [desktop.activationId]: addSeconds(start, 1800) });
    expect([await all.lapse(), await all.due()]).toEqual([{}, [laptop.activationId]]);
    // A newer release can read it.
    all.unreadable.here.clear();
    expect([await all.lapse(), await all.due(), all.said('InstanceDeactivated')]).toEqual([{}, [], []]);
    all.now = addSeconds(start, 1800);
    expect([await all.due(), await all.lapse()]).toEqual([[desktop.activationId, laptop.activationId].toSorted(), { InstanceDeactivated: 2 }]);
    await opening.close();
  });

  it('wait for a log that does not answer', async () => {
    const all = await world();
    all.away = 1;
    await happened(licenseId, 'InstanceActivated', { activationId: laptop.activationId, leaseEndsAt: addSeconds(start, 1800) });
    const opening = await all.opening(new EventStores(logs.entries()));
    await all.in(() => opening.done());
    expect([await lapseAt(all), all.logged]).toEqual([{ [laptop.activationId]: addSeconds(start, 1800) }, []]);
    await opening.close();
  });

  it('stay as they are when the process hears of the activation once more; of a replaced box they begin anew', async () => {
    const all = await world();
    const events = new EventStores(logs.entries());
    const begin = async () => {
      await all.database.run('delete from reactions');
      const opening = await all.opening(events);
      await all.in(() => opening.done());
      await opening.close();
    };
    const kept = () => all.in(() => all.ledger.change(laptop.activationId, (row, isCertain) => (isCertain ? { answer: row } : undefined)));
    await happened(licenseId, 'InstanceActivated', { activationId: laptop.activationId, leaseEndsAt: addSeconds(start, 1800) });
    await begin();
    const opened = await kept();
    if (!opened) throw new Error('no lease');
    const answer = { state: 'active', enforcement: 'FULL', token: null, directives: [], nextInSeconds: 300, serverTime: start } as const;
    await all.in(() => all.ledger.change(laptop.activationId, (_, isCertain) => (isCertain ? { answer: null, keep: { ...opened, lease: { ...opened.lease, seq: 7 }, answer } } : undefined)));
    await begin();
    expect(await kept()).toMatchObject({ lease: { boundAt: start, seq: 7 }, answer });
    all.now = addSeconds(start, 60);
    all.happens(rebind('fp-new', laptop));
    await happened(licenseId, 'InstanceRebound', { activationId: laptop.activationId }, all.now);
    await begin();
    expect(await kept()).toMatchObject({ lease: { boundAt: all.now, seq: -1 }, answer: undefined });
  });
});
