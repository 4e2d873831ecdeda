import { expect, it, jest } from '@jest/globals';
import { ActivateAppliance, ContinueLease, Heartbeat, type HeartbeatAnswer } from '@keyledger/contracts';
import { License, type LicenseCommand, type LicenseEvent } from '@keyledger/domain';
import { addDays, addSeconds, Refusal, refuse, runIn, systemContext, type Instant, type LicenseId } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { StateDatabases, type Database } from '@keyledger/read-models';
import { onEveryDialect } from '@keyledger/read-models/contract';
import { activate, assign, at, deactivate, direct, edit, idOf, issue, laptop, loseHeartbeat, rebind, revoke, scenarios, suspend, unsuspend, type Story } from '@keyledger/testing';
import { ApplianceActivation, ApplianceTokens, Heartbeats, LeaseContinuation } from './appliance.handlers.ts';
import { LeaseLedger, leaseTables } from './leases.ts';

const start = '2026-11-21T12:00:00.000Z';
const { story, stateOf } = scenarios(License, start);
const sold = story(issue({ terms: { validationMode: 'heartbeat' } }), assign(), activate(laptop, { appliance: true }));
const licenseId: LicenseId = idOf('lic');

/** One license, one signing service, one log of what was said to others. Processes come and go. */
class World {
  now: Instant = start;
  history: Story<LicenseEvent> = sold;
  signs = true;
  /** Tokens whose key is good no more. */
  readonly revoked = new Set<string>();
  /** What the metering does not count; or why it counts nothing at all. */
  refused: readonly string[] = [];
  meteringSays: 'INSTANCE_NOT_FOUND' | undefined;
  readonly signed: { type: string; counter?: number; seconds?: number }[] = [];
  readonly sent: string[] = [];
  readonly noticed: string[] = [];
  readonly seen: string[] = [];
  readonly unreachable = new Set<string>();
  /** Instances of which the authority could not record that they are over. */
  unsaid: readonly string[] = [];

  static async open(database: Database): Promise<World> {
    const keyring = await Keyring.open({ masterKey: new Uint8Array(32), environment: 'production', dataKeys: new MemoryDataKeys() });
    await keyring.prepare([licenseId], true);
    return new World(database, keyring);
  }

  private constructor(readonly database: Database, readonly keyring: Keyring) {}

  happens(...commands: readonly LicenseCommand[]): void {
    this.history = story(this.history, ...commands.map((command) => at(this.now, command)));
  }

  process(database = this.database) {
    const known = () => ({ state: stateOf(this.history), revision: this.history.happened.length - 1 });
    const caches = { here: () => ({ get: known }) };
    const keyrings = new Keyrings([['production', this.keyring]]);
    const ledger = new LeaseLedger(new StateDatabases([['production', database]]), keyrings);
    const messages = { send: (type: { subject: string }, fields: never) => this.#answer(type.subject, fields) };
    const verdicts = { for: async () => (this.signs ? `verdict ${this.signed.push({ type: 'verdict' })}` : undefined) };
    const log = { warn: (_: object, text: string) => void this.noticed.push(text) };
    const metrics = { decision: (code: string) => void this.noticed.push(code) };
    const revoked = { signed: async (token: string) => this.revoked.has(token) };
    const tokens = new ApplianceTokens(messages as never, verdicts as never, revoked as never, log as never);
    const heartbeats = new Heartbeats(caches as never, ledger, tokens, keyrings, messages as never, metrics as never, log as never);
    const activation = new ApplianceActivation(caches as never, ledger, tokens, messages as never, { see: (id: string, instant: Instant) => void this.seen.push(`${id} ${instant}`) } as never);
    return {
      ledger,
      beat: (seq: number, fields: Partial<Heartbeat> = {}): Promise<HeartbeatAnswer> => this.in(() => heartbeats.execute(Object.assign(new Heartbeat(), {
        licenseId, activationId: laptop.activationId, fingerprint: 'fp-laptop', seq, ...fields,
      }))),
      activate: () => this.in(() => activation.execute(Object.assign(new ActivateAppliance(), { licenseId, fingerprint: 'fp-laptop' }))),
      goOn: () => this.in(() => new LeaseContinuation(caches as never, ledger, tokens).execute(Object.assign(new ContinueLease(), { licenseId, activationId: laptop.activationId }))),
      running: async () => this.in(() => ledger.running(laptop.activationId, this.now)),
      forget: () => this.in(() => ledger.forget(licenseId)),
    };
  }

  in<T>(work: () => T): T {
    return runIn(systemContext('production', this.now), work);
  }

  async #answer(subject: string, fields: { leases?: { counter: number; seconds: number }[] }): Promise<unknown> {
    if (this.unreachable.has(subject)) throw refuse('UNAVAILABLE');
    this.sent.push(subject);
    if (subject === 'license.bind-appliance') return { activationId: laptop.activationId, created: false };
    if (subject === 'license.lose-heartbeats') return { transitions: {}, failed: this.unsaid };
    if (subject === 'usage.record' && this.meteringSays) throw refuse(this.meteringSays);
    if (subject === 'usage.record') return { refused: this.refused };
    if (subject !== 'signing.leases') return null;
    if (!this.signs) throw refuse('UNAVAILABLE');
    return { tokens: (fields.leases ?? []).map(({ counter, seconds }) => `lease ${this.signed.push({ type: 'lease', counter, seconds })}`) };
  }
}

const refusalOf = (answer: Promise<unknown>) => answer.then(() => undefined, (error: unknown) => {
  if (error instanceof Refusal) return { code: error.code, ...error.members };
  throw error;
});

onEveryDialect('The lease ledger', ({ open, place }) => {
  const tables = { migrations: leaseTables, kind: 'state' } as const;
  const world = async () => World.open(await open(tables));

  it('gives a repeated heartbeat the same answer, to the letter, also from another process and after a restart', async () => {
    const here = place();
    const database = await open({ ...tables, place: here });
    const all = await World.open(database);
    all.happens(direct('message', 1, { payload: { b: 1, a: ['ü', { z: null }] } }));
    const texts: string[] = [];
    for (const process of [all.process(), all.process(), all.process(await open({ ...tables, place: here }))]) {
      for (let twice = 0; twice < 2; twice++) texts.push(JSON.stringify(await process.beat(1)));
      all.now = addSeconds(all.now, 100);
    }
    expect(new Set(texts).size).toBe(1);
    expect(JSON.parse(texts[0] ?? '')).toEqual({
      state: 'active', enforcement: 'FULL', token: 'lease 1', directives: [{ id: idOf('dir', 1), kind: 'message', payload: { b: 1, a: ['ü', { z: null }] }, issuedAt: start }],
      nextInSeconds: 3600, serverTime: start,
    });
  });

  it('lets one of many racing heartbeats with the same number win, whoever takes them', async () => {
    const all = await world();
    const processes = [all.process(), all.process(), all.process()];
    for (let seq = 1; seq <= 20; seq++) {
      const asked = Array.from({ length: 12 }, (_, n) => (processes[n % 3] as ReturnType<World['process']>).beat(seq, { nonce: `box ${n % 4}` }));
      const outcomes = await Promise.allSettled(asked);
      const accepted = outcomes.flatMap((outcome, n) => (outcome.status === 'fulfilled' ? [{ box: n % 4, text: JSON.stringify(outcome.value) }] : []));
      expect(accepted).toHaveLength(3);
      expect(new Set(accepted.map(({ box, text }) => `${box} ${text}`)).size).toBe(1);
      for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'STALE_SEQUENCE', members: { lastSeq: seq, conflict: true } });
      all.now = addSeconds(all.now, 1);
    }
    const { rows } = await all.database.run<{ seq: number; version: number }>('select seq, version from activation_leases');
    expect(rows.map(({ seq, version }) => [Number(seq), Number(version)])).toEqual([[20, 20]]);
    expect(all.noticed.filter((code) => code === 'SEQUENCE_CONFLICT')).toHaveLength(20 * 9);
  });

  it('refuses what another process has overtaken', async () => {
    const all = await world();
    const [one, other] = [all.process(), all.process()];
    await one.beat(1);
    await other.beat(2);
    for (const seq of [3, 4, 5]) await one.beat(seq);
    expect(await refusalOf(other.beat(3))).toEqual({ code: 'STALE_SEQUENCE', lastSeq: 5 });
    expect(await refusalOf(other.beat(4, { nonce: 'x' }))).toEqual({ code: 'STALE_SEQUENCE', lastSeq: 5 });
    expect(await other.beat(6)).toMatchObject({ state: 'active' });
    expect(await refusalOf(one.beat(6, { nonce: 'of a clone' }))).toEqual({ code: 'STALE_SEQUENCE', lastSeq: 6, conflict: true });
  });

  it('takes the heartbeats of many boxes in few writes', async () => {
    const all = await world();
    const ids = Array.from({ length: 100 }, (_, n) => idOf('act', n + 1));
    all.happens(...ids.map((activationId, n) => activate({ activationId, fingerprint: `fp-${n}` })));
    const process = all.process();
    const before = all.now;
    const run = jest.spyOn(all.database, 'run');
    await Promise.all(ids.map((activationId, n) => process.beat(1, { activationId, fingerprint: `fp-${n}` })));
    const { rows } = await all.database.run('select activation_id from activation_leases where lease_ends_at = ? order by activation_id', [addDays(before, 14)]);
    expect(rows.map((row) => row['activation_id'])).toEqual(ids);
    expect(run.mock.calls.filter(([text]) => text.startsWith('insert into activation_leases')).length).toBeLessThan(20);
  });

  it('knows when a lease ends, though another process has heard of the box since', async () => {
    const all = await world();
    const [one, other] = [all.process(), all.process()];
    await one.beat(1);
    await other.running();
    all.now = addDays(start, 10);
    await one.beat(2);
    all.now = addDays(start, 15);
    expect(await other.running()).toMatchObject({ endsAt: addDays(start, 24) });
    expect(await one.running()).toMatchObject({ endsAt: addDays(start, 24) });
  });

  it('holds nothing that can be read without the license\'s key, and nothing at all once it is erased', async () => {
    const all = await world();
    all.happens(direct('message', 1, { payload: { text: 'for your eyes' } }));
    const process = all.process();
    await process.beat(1, { nonce: 'a nonce' });
    const row = async () => JSON.stringify((await all.database.run('select * from activation_leases')).rows);
    for (const secret of ['fp-laptop', 'lease 1', 'for your eyes', 'a nonce']) expect(await row()).not.toContain(secret);
    await process.forget();
    expect(await row()).toBe('[]');
  });
});

onEveryDialect('A signed lease', ({ open }) => {
  const world = async () => World.open(await open({ migrations: leaseTables, kind: 'state' }));

  it('is signed once, and anew when it is outdated: not with each heartbeat', async () => {
    const all = await world();
    const process = all.process();
    expect((await process.activate()).token).toBe('lease 1');
    for (let seq = 1; seq <= 50; seq++) {
      all.now = addSeconds(all.now, 60);
      expect((await process.beat(seq)).token).toBe('lease 1');
    }
    all.now = addSeconds(all.now, 60);
    expect((await process.beat(51)).token).toBe('lease 2');
    expect(all.signed).toMatchObject([{ type: 'lease', counter: 0 }, { type: 'lease', counter: 51 }]);
    expect((await all.process().beat(52)).token).toBe('lease 2');
  });

  it('that was signed for the rest of a running one is signed anew as soon as a heartbeat has extended it', async () => {
    const all = await world();
    const process = all.process();
    await process.beat(1);
    all.now = addDays(all.now, 13);
    expect((await process.activate()).token).toBe('lease 2');
    expect(all.seen).toEqual([`${laptop.activationId} ${all.now}`]);
    all.now = addSeconds(all.now, 60);
    for (const seq of [2, 3]) expect((await process.beat(seq)).token).toBe('lease 3');
    expect(all.signed.map(({ seconds }) => seconds)).toEqual([14 * 86_400, 86_400, 14 * 86_400]);
  });

  it('is signed anew after a "no", so that nobody takes an old one for it', async () => {
    const all = await world();
    const process = all.process();
    expect((await process.beat(1)).token).toBe('lease 1');
    all.happens(suspend({ cause: 'subscription' }));
    expect(await process.beat(2)).toMatchObject({ state: 'suspended', enforcement: 'LOCKED', token: 'verdict 2' });
    expect(await process.beat(2)).toMatchObject({ state: 'suspended', token: 'verdict 2' });
    all.happens(unsuspend({ cause: 'subscription' }));
    expect(await process.beat(3)).toMatchObject({ state: 'active', token: 'lease 3' });
  });

  it('is signed anew when its key was revoked, and is none while nobody signs', async () => {
    const all = await world();
    const process = all.process();
    await process.beat(1);
    all.revoked.add('lease 1');
    expect((await process.beat(2)).token).toBe('lease 2');
    expect((await process.beat(3)).token).toBe('lease 2');
    all.signs = false;
    all.revoked.add('lease 2');
    expect(await process.beat(4)).toMatchObject({ state: 'active', token: null });
  });

  it('is asked for once more when it was signed with a key that had been revoked, and is the last one, or none, if it is again', async () => {
    const all = await world();
    const process = all.process();
    all.revoked.add('lease 1');
    expect(await process.beat(1)).toMatchObject({ state: 'active', token: 'lease 2' });
    all.now = addDays(all.now, 1);
    all.revoked.add('lease 3').add('lease 4');
    expect(await process.beat(2)).toMatchObject({ token: 'lease 2' });
    expect(all.noticed).toEqual(['a heartbeat was answered without a new lease']);
    all.revoked.add('lease 2').add('lease 5').add('lease 6');
    expect(await process.beat(3)).toMatchObject({ state: 'active', token: null });
  });

  it('that was the last one is given again while nobody signs, and none is when there was none', async () => {
    const all = await world();
    all.signs = false;
    const process = all.process();
    expect(await process.beat(1)).toMatchObject({ state: 'active', token: null });
    all.signs = true;
    expect((await process.beat(2)).token).toBe('lease 1');
    all.signs = false;
    all.now = addDays(all.now, 1);
    expect((await process.beat(3)).token).toBe('lease 1');
    expect(all.noticed).toContain('a heartbeat was answered without a new lease');
    all.happens(edit({ features: { export: true } }));
    expect(await process.beat(4)).toMatchObject({ state: 'active', token: null });
  });
});

onEveryDialect('An activation once more', ({ open }) => {
  it('of a seat that is just ending has the end said, and is to be tried again: there may be another seat', async () => {
    const all = await World.open(await open({ migrations: leaseTables, kind: 'state' }));
    const process = all.process();
    await process.beat(1);
    await all.database.run('update activation_leases set version = version + 1, over_version = version + 1');
    expect(await refusalOf(process.activate())).toEqual({ code: 'TRY_AGAIN' });
    expect(all.sent).toContain('license.lose-heartbeats');
    all.unsaid = [laptop.activationId];
    expect(await refusalOf(process.beat(2))).toEqual({ code: 'TRY_AGAIN' });
    all.happens(deactivate(laptop, 'lapse'));
    expect((await process.activate()).deployment).toEqual({ state: 'locked' });
  });
});

onEveryDialect('A seat asked for again', ({ open }) => {
  it('gives no lease while the license is locked, and none of a seat that has just ended', async () => {
    const all = await World.open(await open({ migrations: leaseTables, kind: 'state' }));
    const process = all.process();
    expect([(await process.activate()).token, await process.goOn()]).toEqual(['lease 1', { token: 'lease 1' }]);
    all.happens(suspend());
    expect([(await process.activate()).token, await process.goOn()]).toEqual(['verdict 2', { token: null }]);
    all.happens(unsuspend(), deactivate(laptop));
    expect(await refusalOf(process.goOn())).toEqual({ code: 'TRY_AGAIN' });
  });
});

onEveryDialect('A heartbeat', ({ open }) => {
  const world = async () => World.open(await open({ migrations: leaseTables, kind: 'state' }));

  it('of a box that was late is reported, once it is accepted; that it cannot be is no reason to refuse it', async () => {
    const all = await world();
    const process = all.process();
    await process.beat(1);
    all.happens(loseHeartbeat());
    all.unreachable.add('license.recover-heartbeat');
    expect(await process.beat(2)).toMatchObject({ state: 'active' });
    all.unreachable.clear();
    await process.beat(2);
    expect(all.sent).not.toContain('license.recover-heartbeat');
    await process.beat(3);
    expect(all.sent.filter((subject) => subject === 'license.recover-heartbeat')).toHaveLength(1);
  });

  it('with usage is accepted when that has been counted', async () => {
    const all = await world();
    const process = all.process();
    const usage = [{ id: 'r1', meter: 'cores', value: 4, at: start }];
    all.unreachable.add('usage.record');
    expect(await refusalOf(process.beat(1, { usage }))).toEqual({ code: 'UNAVAILABLE' });
    all.unreachable.clear();
    expect(await process.beat(1, { usage })).toMatchObject({ state: 'active' });
    expect(all.sent.filter((subject) => subject === 'usage.record')).toHaveLength(1);
  });

  it('is answered by what the license says, whatever usage came along', async () => {
    const all = await world();
    const process = all.process();
    const usage = [{ id: 'r1', meter: 'cores', value: 4, at: start }, { id: 'r2', meter: 'cores', value: 4, at: addDays(start, 1) }];
    all.refused = ['r2'];
    const answer = await process.beat(1, { usage });
    expect(answer).toMatchObject({ state: 'active', token: 'lease 1', usageRefused: ['r2'] });
    expect(JSON.stringify(await process.beat(1, { usage }))).toBe(JSON.stringify(answer));
    all.refused = [];
    expect(await process.beat(2, { usage })).not.toHaveProperty('usageRefused');
    all.meteringSays = 'INSTANCE_NOT_FOUND';
    all.happens(revoke());
    expect(await process.beat(3, { usage })).toMatchObject({ state: 'revoked', enforcement: 'LOCKED', token: 'verdict 2', usageRefused: ['r1', 'r2'] });
  });

  it('that is sent again with more to say is the same one, and its usage counts', async () => {
    const all = await world();
    const process = all.process();
    const reading = (id: string) => ({ id, meter: 'cores', value: 4, at: start });
    const first = await process.beat(1, { nonce: 'a', usage: [reading('r1')], version: '1.0.0' });
    const again = await all.process().beat(1, { nonce: 'a', usage: [reading('r1'), reading('r2')], version: '1.0.1', acks: [idOf('dir')] });
    expect(JSON.stringify(again)).toBe(JSON.stringify(first));
    expect(all.sent.filter((subject) => subject === 'usage.record')).toHaveLength(2);
    expect(await refusalOf(process.beat(1, { nonce: 'of a clone' }))).toEqual({ code: 'STALE_SEQUENCE', lastSeq: 1, conflict: true });
  });

  it('that is refused, or of a box that has been moved, counts nothing', async () => {
    const all = await world();
    const process = all.process();
    const usage = [{ id: 'r1', meter: 'cores', value: 4, at: start }];
    await process.beat(5);
    expect(await refusalOf(process.beat(4, { usage }))).toMatchObject({ code: 'STALE_SEQUENCE' });
    expect(await refusalOf(process.beat(6, { usage, fingerprint: 'fp-stranger' }))).toMatchObject({ code: 'FINGERPRINT_MISMATCH' });
    all.happens(rebind('fp-new', laptop));
    expect(await process.beat(6, { usage })).toMatchObject({ state: 'rebound', usageRefused: ['r1'] });
    expect(all.sent).not.toContain('usage.record');
  });

  it('of a box that has been moved leaves the new one\'s row alone', async () => {
    const all = await world();
    const process = all.process();
    await process.beat(9);
    all.now = addSeconds(all.now, 60);
    all.happens(rebind('fp-new', laptop));
    expect(await process.beat(1, { fingerprint: 'fp-new' })).toMatchObject({ state: 'active' });
    expect(await process.beat(10)).toMatchObject({ state: 'rebound', enforcement: 'LOCKED' });
    expect(await process.beat(2, { fingerprint: 'fp-new' })).toMatchObject({ state: 'active' });
    all.happens(revoke());
    const over = await process.beat(3, { fingerprint: 'fp-new' });
    expect(over).toMatchObject({ state: 'revoked', enforcement: 'LOCKED' });
    expect(await process.beat(3, { fingerprint: 'fp-new' })).toEqual(over);
  });
});
