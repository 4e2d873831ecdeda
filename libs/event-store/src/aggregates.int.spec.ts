import { createCipheriv, createDecipheriv, randomBytes, randomUUID } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { describeWith } from '@keyledger/servers/contract';
import { PerEnvironment, refuse, runIn, systemContext, type Aggregate, type JsonObject, type MessageContext, type Sealer, type Sealing } from '@keyledger/kernel';
import { Aggregates, type AggregatesOptions } from './aggregates.ts';
import { NO_STREAM, WrongExpectedRevision, type EventStore, type NewEvent } from './port.ts';
import { startTracing } from '@keyledger/observability';
import { InMemorySpanExporter } from '@opentelemetry/sdk-trace';
import { PostgresSnapshotStores } from './postgres-snapshots.ts';
import { packState, SqliteSnapshots, type Snapshot, type SnapshotStore } from './snapshots.ts';
import { SqliteEventStores } from './sqlite.ts';

/** A room with so many seats: the smallest thing that can be oversold. It changes its state in place, as an aggregate may. */
interface Room { seats: number; readonly guests: Map<string, string | null>; readonly log: string[] }
type RoomCommand = { type: 'Open'; seats: number } | { type: 'Sit'; guest: string; name?: string } | { type: 'Leave'; guest: string } | { type: 'Ring'; times: number } | { type: 'Break' };
type RoomEvent = { type: 'Opened'; seats: number } | { type: 'Seated'; guest: string; name: string | null } | { type: 'Left'; guest: string } | { type: 'Rang' };

const room: Aggregate<Room, RoomCommand, RoomEvent> = {
  category: 'room',
  stateVersion: 1,
  shapes: { Opened: { schema: 1 }, Seated: { schema: 1, sealed: ['name'] }, Left: { schema: 1 }, Rang: { schema: 1 } },
  initial: () => ({ seats: 0, guests: new Map(), log: [] }),
  decide({ seats, guests }, command) {
    switch (command.type) {
      case 'Open': return seats ? [] : [{ type: 'Opened', seats: command.seats }];
      case 'Sit':
        if (guests.has(command.guest)) return [];
        if (guests.size >= seats) throw refuse('ACTIVATION_LIMIT_EXCEEDED');
        return [{ type: 'Seated', guest: command.guest, name: command.name ?? null }];
      case 'Leave': return guests.has(command.guest) ? [{ type: 'Left', guest: command.guest }] : [];
      case 'Ring': return Array.from({ length: command.times }, () => ({ type: 'Rang' }));
      case 'Break': throw new TypeError('a bug');
    }
  },
  evolve(state, event, { at, actor }) {
    switch (event.type) {
      case 'Opened': state.seats = event.seats; break;
      case 'Seated': state.guests.set(event.guest, event.name); break;
      case 'Left': state.guests.delete(event.guest); break;
      case 'Rang': break;
    }
    state.log.push(`${event.type} ${at} ${actor.id}`);
    return state;
  },
};

/** Data keys in memory. */
class Keys implements Sealing {
  readonly keys = new Map<string, Buffer>();
  destroyed = false;

  async prepare(subjects: readonly string[], create = false): Promise<Sealer> {
    for (const subject of subjects) if (create && !this.keys.has(subject)) this.keys.set(subject, randomBytes(32));
    return {
      seal: (subject, value) => {
        if (this.destroyed) throw refuse('NOT_FOUND', `${subject} has been erased`);
        const iv = randomBytes(12);
        const cipher = createCipheriv('aes-256-gcm', this.keys.get(subject) as Buffer, iv);
        return [iv, Buffer.concat([cipher.update(JSON.stringify(value)), cipher.final()]), cipher.getAuthTag()].map((part) => part.toString('base64')).join('.');
      },
      open: (subject, sealed) => {
        const key = this.keys.get(subject);
        if (!key) return null;
        const [iv, body, tag] = sealed.split('.').map((part) => Buffer.from(part, 'base64')) as [Buffer, Buffer, Buffer];
        const decipher = createDecipheriv('aes-256-gcm', key, iv).setAuthTag(tag);
        return JSON.parse(Buffer.concat([decipher.update(body), decipher.final()]).toString()) as JsonObject;
      },
    };
  }
}

/** Counts, and lets a test come between. */
class Watched implements EventStore {
  appends = 0;
  reads = 0;
  beforeAppend: (stream: string, events: readonly NewEvent[]) => Promise<unknown> | undefined = () => undefined;
  readonly #store: EventStore;

  constructor(store: EventStore) { this.#store = store; }
  async append(...args: Parameters<EventStore['append']>) {
    this.appends++;
    await this.beforeAppend(args[0], args[2]);
    return this.#store.append(...args);
  }
  readStream(...args: Parameters<EventStore['readStream']>) {
    this.reads++;
    return this.#store.readStream(...args);
  }
  readAll(...args: Parameters<EventStore['readAll']>) { return this.#store.readAll(...args); }
  subscribe(...args: Parameters<EventStore['subscribe']>) { return this.#store.subscribe(...args); }
  head() { return this.#store.head(); }
  close() { return this.#store.close(); }
}

const now = '2026-11-21T01:35:00.000Z';
const message = (more: Partial<MessageContext> = {}): MessageContext => ({ ...systemContext('production', now, randomUUID()), ...more });
const id = 'r1';
const open = (seats: number): RoomCommand => ({ type: 'Open', seats });
const sit = (guest: string, name?: string): RoomCommand => ({ type: 'Sit', guest, name });
const ring = (times = 1): RoomCommand => ({ type: 'Ring', times });

describe('Aggregates', () => {
  let folder: string;
  let stores: SqliteEventStores;
  let store: Watched;
  let keys: Keys;
  /** What one process has; `another` is the next process on the same log. */
  let rooms: Aggregates<Room, RoomCommand, RoomEvent>;

  const another = (options?: AggregatesOptions, rules = room) =>
    new Aggregates(rules, new PerEnvironment<EventStore>([['production', store], ['staging', stores.of('staging')]]), new PerEnvironment<Sealing>([['production', keys], ['staging', new Keys()]]), options);
  const run = (command: RoomCommand, more?: Partial<MessageContext>, by = rooms) => runIn(message(more), () => by.run(id, command));
  const load = (by = rooms, more?: Partial<MessageContext>) => runIn(message(more), () => by.load(id));
  const stored = () => store.readStream(`room-${id}`);
  const refused = (code: string) => expect.objectContaining({ name: 'Refusal', code });

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'aggregates-'));
    stores = await SqliteEventStores.open({ production: join(folder, 'production.db'), staging: join(folder, 'staging.db') });
    store = new Watched(stores.of('production'));
    keys = new Keys();
    rooms = another();
  });
  afterEach(async () => {
    await stores.close();
    rmSync(folder, { recursive: true });
  });

  describe('run a command', () => {
    it('and answer with what has become of it', async () => {
      expect(await run(open(2))).toMatchObject({ revision: 0, position: 1, events: [{ type: 'Opened', seats: 2 }], state: { seats: 2 } });
      expect(await run(ring(3))).toMatchObject({ revision: 3, position: 4 });
      expect(await run(open(2))).toMatchObject({ revision: 3, position: 4, events: [] });
      expect(await load(another())).toMatchObject({ revision: 3, position: 4, state: { seats: 2 } });
    });

    it('and store who did it, when and why', async () => {
      const sent = message({ causationId: 'cause', traceparent: 'trace', actor: { type: 'api-key', id: 'key_1', role: 'support', permissions: ['license.manage'] } });
      await runIn(sent, () => rooms.run(id, open(2)));
      expect((await stored())[0]).toMatchObject({
        type: 'Opened', data: { seats: 2 },
        metadata: {
          commandId: sent.commandId, correlationId: sent.correlationId, causationId: 'cause', traceparent: 'trace',
          actor: { type: 'api-key', id: 'key_1', role: 'support' }, occurredAt: now, environment: 'production', schema: 1,
        },
      });
      expect((await load(another())).state.log).toEqual([`Opened ${now} key_1`]);
    });

    it('in the environment of the message, and nowhere else', async () => {
      await run(open(2));
      await run(open(5), { environment: 'staging' });
      expect((await load()).state.seats).toBe(2);
      expect((await load(rooms, { environment: 'staging' })).state.seats).toBe(5);
      await expect(run(open(5), { environment: 'elsewhere' })).rejects.toThrow('Unknown environment');
      await expect(rooms.run(id, open(2))).rejects.toThrow('No message context');
    });

    it('of a stream that is not there', async () => {
      expect(await load()).toMatchObject({ revision: NO_STREAM, position: 0, state: { seats: 0 } });
      await expect(run(sit('ada'))).rejects.toEqual(refused('ACTIVATION_LIMIT_EXCEEDED'));
      expect(await stored()).toEqual([]);
    });

    it('twice in one message without mistaking the second for the first', async () => {
      await runIn(message(), async () => {
        await rooms.run(id, open(9));
        await rooms.run(id, ring(2));
        await rooms.run(id, ring(2));
        await Promise.all([rooms.run(id, sit('ada')), rooms.run(id, sit('bob')), rooms.run('r2', open(1))]);
      });
      expect((await stored()).map(({ type }) => type)).toEqual(['Opened', 'Rang', 'Rang', 'Rang', 'Rang', 'Seated', 'Seated']);
      expect(await store.readStream('room-r2')).toHaveLength(1);
    });

    it('and let a bug fail alone, with everything else of the batch as it should be', async () => {
      await run(open(2));
      const outcomes = await Promise.allSettled([run(ring()), run(sit('ada')), run({ type: 'Break' }), run(sit('bob')), run(sit('eve'))]);
      expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled', 'rejected']);
      expect([...(await load(another())).state.guests.keys()]).toEqual(['ada', 'bob']);
    });
  });

  describe('under a rush on one stream', () => {
    it('append far fewer times than there are commands, give each its own answer, and never oversell', async () => {
      await run(open(200));
      store.appends = 0;
      const guests = Array.from({ length: 500 }, (_, n) => `guest-${n % 250}`);
      const outcomes = await Promise.allSettled(guests.map((guest) =>
        runIn(message(), () => rooms.run(id, sit(guest), ({ guests }, revision, events) => ({ taken: guests.size, has: guests.has(guest), revision, events: events.length })))));
      expect(store.appends).toBeLessThan(10);
      const answers = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
      const firsts = answers.filter(({ events }) => events === 1);
      expect(firsts.map(({ taken, revision }) => [taken, revision])).toEqual(Array.from({ length: 200 }, (_, n) => [n + 1, n + 1]));
      expect(answers.every(({ has }) => has)).toBe(true);
      expect(answers).toHaveLength(400);
      for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toEqual(refused('ACTIVATION_LIMIT_EXCEEDED'));
      expect((await stored()).filter(({ type }) => type === 'Seated')).toHaveLength(200);
      expect((await load(another())).state.guests.size).toBe(200);
    });

    it('fold every event once, whatever comes behind it in the batch', async () => {
      const steps = { rings: () => run(ring()), already: () => run(open(9)), refused: () => run(sit('eve')).catch(() => undefined), looks: () => load() };
      await run(open(1));
      await run(sit('ada'));
      const names = Object.keys(steps) as (keyof typeof steps)[];
      for (const one of names) for (const two of names) for (const three of names) {
        const [here, batch] = [another(), [one, two, three]];
        rooms = here;
        await load();
        await Promise.all(batch.map((name) => steps[name]()));
        expect({ batch, log: (await load(here)).state.log }).toEqual({ batch, log: (await load(another())).state.log });
      }
    });

    it('of several processes too', async () => {
      await run(open(40));
      const processes = [rooms, another(), another()];
      const outcomes = await Promise.allSettled(Array.from({ length: 300 }, (_, n) => run(sit(`guest-${n}`), {}, processes[n % 3])));
      expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(40);
      for (const process of [...processes, another()]) expect((await load(process)).state.guests.size).toBe(40);
      expect(new Set((await stored()).map(({ data }) => data.guest)).size).toBe(41);
    });

    it('answer nobody before the append is durable', async () => {
      await run(open(5));
      let goOn = () => {};
      store.beforeAppend = () => new Promise<void>((resolve) => (goOn = resolve));
      const answers: string[] = [];
      const all = [
        run(sit('ada')).then(() => answers.push('ada')),
        run(sit('ada')).then(() => answers.push('ada again')),
        load().then(({ state }) => answers.push(`load ${state.guests.size}`)),
      ];
      await new Promise(setImmediate);
      expect(answers).toEqual([]);
      goOn();
      await Promise.all(all);
      expect(answers).toEqual(['ada', 'ada again', 'load 1']);
    });

    it('tell all of a batch that cannot be stored, and start afresh', async () => {
      await run(open(5));
      store.beforeAppend = () => Promise.reject(new Error('no disk'));
      const outcomes = await Promise.allSettled([run(sit('ada')), run(sit('bob')), run(sit('bob')), run(sit('eve'))]);
      expect(outcomes.map((outcome) => outcome.status === 'rejected' && String(outcome.reason))).toEqual(Array.from({ length: 4 }, () => 'Error: no disk'));
      store.beforeAppend = () => undefined;
      expect(await run(sit('bob'))).toMatchObject({ revision: 1 });
      expect([...(await load()).state.guests.keys()]).toEqual(['bob']);
    });

    it('find out from the stream that another process has destroyed the key meanwhile', async () => {
      await run(open(1));
      await run(sit('ada'));
      await run({ type: 'Leave', guest: 'ada' });
      await run(sit('bob', 'Bob'), {}, another());
      keys.destroyed = true;
      await expect(run(sit('eve', 'Eve'))).rejects.toEqual(refused('ACTIVATION_LIMIT_EXCEEDED'));
    });

    it('do not let who queues behind wait as long again for a store that does not answer', async () => {
      await run(open(5));
      let asked = 0;
      store.beforeAppend = async () => {
        asked++;
        await new Promise(setImmediate);
        throw refuse('UNAVAILABLE');
      };
      const first = run(sit('ada'));
      const behind = [run(sit('ada')), run(sit('bob')), load()];
      for (const waiting of [first, ...behind]) await expect(waiting).rejects.toEqual(refused('UNAVAILABLE'));
      expect(asked).toBe(1);
      store.beforeAppend = () => undefined;
      expect(await run(sit('bob'))).toMatchObject({ revision: 1 });
    });
  });

  describe('with a fold that is out of date', () => {
    const other = () => another();
    beforeEach(async () => { await run(open(1)); });

    it('do not refuse what has become possible', async () => {
      await run(sit('ada'));
      await run({ type: 'Leave', guest: 'ada' }, {}, other());
      expect(await run(sit('bob'))).toMatchObject({ revision: 3 });
    });

    it('do not call done what has been undone', async () => {
      await run(sit('ada'));
      await run({ type: 'Leave', guest: 'ada' }, {}, other());
      expect((await run(sit('ada'))).events).toHaveLength(1);
      await run({ type: 'Leave', guest: 'ada' }, {}, other());
      expect((await load()).state.guests.size).toBe(0);
    });

    it('do not allow what has become impossible', async () => {
      await run(sit('ada'), {}, other());
      await expect(run(sit('bob'))).rejects.toEqual(refused('ACTIVATION_LIMIT_EXCEEDED'));
    });

    it('confirm without a read when an append does', async () => {
      store.reads = 0;
      await run(ring());
      expect(store.reads).toBe(0);
    });

    it('start over with the whole batch when it loses the race', async () => {
      const intruder = other();
      store.beforeAppend = (_, events) => {
        if (events.length === 1) return undefined;
        store.beforeAppend = () => undefined;
        return run(sit('eve'), {}, intruder);
      };
      const outcomes = await Promise.allSettled([run(ring()), run(sit('ada')), run(sit('bob')), run(ring())]);
      expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled']);
      expect((await stored()).map(({ type }) => type).toSorted()).toEqual(['Opened', 'Rang', 'Rang', 'Seated']);
      expect((await load()).state).toEqual((await load(another())).state);
    });

    it('start over after a lost race, and give up after twenty', async () => {
      let races = 3;
      const intruder = other();
      store.beforeAppend = () => {
        const intrude = store.beforeAppend;
        if (races-- <= 0) return undefined;
        store.beforeAppend = () => undefined;
        return run(ring(), {}, intruder).then(() => (store.beforeAppend = intrude));
      };
      expect(await run(sit('ada'))).toMatchObject({ revision: 4 });
      races = Infinity;
      await expect(run(ring())).rejects.toEqual(refused('TRY_AGAIN'));
      races = 0;
      expect((await run(ring())).revision).toBe((await stored()).length - 1);
    });
  });

  describe('asked to hold to a revision', () => {
    beforeEach(async () => { await run(open(5)); });

    it('do so', async () => {
      expect(await run(ring(), { ifRevision: 0 })).toMatchObject({ revision: 1 });
      await expect(run(ring(), { ifRevision: 0 })).rejects.toMatchObject({ code: 'VERSION_CONFLICT', members: { revision: 1 } });
      await expect(run(open(5), { ifRevision: 0 })).rejects.toEqual(refused('VERSION_CONFLICT'));
      await run(ring(), {}, another());
      expect(await run(ring(), { ifRevision: 2 })).toMatchObject({ revision: 3 });
    });

    it('let one of many win', async () => {
      const outcomes = await Promise.allSettled(Array.from({ length: 20 }, () => run(ring(), { ifRevision: 0 })));
      expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    });
  });

  describe('asked again by a message that had been answered', () => {
    const sent = message();
    beforeEach(async () => { await run(open(2)); });

    it('do not do it twice, even when the rules would', async () => {
      await run(ring(2), sent);
      await run(ring());
      expect(await run(ring(2), { ...sent, retry: true })).toMatchObject({ revision: 3, events: [] });
      expect(await run(ring(2), sent)).toMatchObject({ revision: 3, events: [] });
      expect(await stored()).toHaveLength(4);
    });

    it('answer with the state since, though another process did it', async () => {
      await run(ring(2), sent, another());
      expect(await run(ring(2), { ...sent, retry: true })).toMatchObject({ revision: 2, events: [] });
    });

    it('find their own doing behind the refusal', async () => {
      const lastSeat = message();
      await run(sit('ada'));
      await run(sit('bob'), lastSeat);
      await run({ type: 'Leave', guest: 'bob' });
      await run(sit('eve'));
      await expect(run(sit('bob'), lastSeat)).rejects.toEqual(refused('ACTIVATION_LIMIT_EXCEEDED'));
      expect(await run(sit('bob'), { ...lastSeat, retry: true })).toMatchObject({ revision: 4, events: [] });
      expect(await run(sit('bob'), { ...lastSeat, retry: true, ifRevision: 0 })).toMatchObject({ revision: 4 });
      await expect(run(sit('kim'), { retry: true })).rejects.toEqual(refused('ACTIVATION_LIMIT_EXCEEDED'));
    });

    it('do not refuse the second copy of a message for what the first has just done, in whatever process', async () => {
      expect(await run(ring(), { ...sent, ifRevision: 0 })).toMatchObject({ revision: 1 });
      expect(await run(ring(), { ...sent, ifRevision: 0 })).toMatchObject({ revision: 1, events: [] });
      expect(await run(ring(), { ...sent, ifRevision: 0 }, another())).toMatchObject({ revision: 1, events: [] });
      await expect(run(ring(), { ifRevision: 0 })).rejects.toEqual(refused('VERSION_CONFLICT'));
      expect(await stored()).toHaveLength(2);
      const two = message({ ifRevision: 1 });
      for (const events of [2, 0]) expect((await run(ring(2), two)).events).toHaveLength(events);
    });

    it('do not do it twice in a batch either', async () => {
      await run(ring(), sent);
      const outcomes = await Promise.all([run(ring()), run(ring()), run(ring(), sent), run(ring()), run(ring(), { ...sent, retry: true }), run(ring()), run(ring(), sent)]);
      expect(outcomes.map(({ events }) => events.length)).toEqual([1, 1, 0, 1, 0, 1, 0]);
      expect(await stored()).toHaveLength(6);
      expect((await load()).state).toEqual((await load(another())).state);
    });

    it('do not do it twice when both runs wait for the same append', async () => {
      const outcomes = await Promise.all([run(ring()), run(ring(2), sent), run(ring(2), sent), run(ring())]);
      expect(outcomes.map(({ events }) => events.length)).toEqual([1, 2, 0, 1]);
      expect(await stored()).toHaveLength(5);
    });

    it('tell that it has been done before anything else is asked, and only where it may have been', async () => {
      const done = (type: RoomCommand['type'], more?: Partial<MessageContext>) => runIn(message({ ...sent, ...more }), () => rooms.done(id, type, (_room, revision) => revision));
      await run(ring(), sent);
      const { reads } = store;
      expect(await done('Ring')).toBeUndefined();
      expect(store.reads).toBe(reads);
      expect(await done('Ring', { retry: true, ifRevision: 0 })).toBe(1);
      expect(await done('Sit', { retry: true })).toBeUndefined();
      expect(await done('Ring', { ...message(), retry: true })).toBeUndefined();
      expect(await stored()).toHaveLength(2);
      store.readStream = () => Promise.reject(refuse('UNAVAILABLE'));
      await expect(done('Ring', { retry: true })).rejects.toEqual(refused('UNAVAILABLE'));
    });

    it('count the run that follows as the first one, where it was not done', async () => {
      const again = () => runIn(message({ ...sent, retry: true }), async () => (await rooms.done(id, 'Ring', () => 'done')) ?? rooms.run(id, ring(), () => 'now'));
      expect([await again(), await again(), (await stored()).length]).toEqual(['now', 'done', 2]);
    });

    it('do it when it had not been done', async () => {
      expect(await run(ring(), { ...sent, retry: true })).toMatchObject({ revision: 1, events: [{ type: 'Rang' }] });
    });

    it('find both of two runs of one message done, one done, or none', async () => {
      const twice = (more?: Partial<MessageContext>) => runIn(message({ ...sent, ...more }), async () => {
        await rooms.run(id, ring());
        await rooms.run(id, ring());
      });
      await run(ring(), sent);
      await twice({ retry: true });
      expect(await stored()).toHaveLength(3);
      await twice({ retry: true });
      expect(await stored()).toHaveLength(3);
    });
  });

  describe('with sealed fields', () => {
    const name = 'Ada Canary Lovelace';
    const onDisk = () => readdirSync(folder).map((file) => readFileSync(join(folder, file), 'latin1')).join('\n');

    it('never store them in clear, snapshots included', async () => {
      const snapshots = new SqliteSnapshots(join(folder, 'snapshots.db'));
      const cached = another({ snapshots: new PerEnvironment([['production', snapshots]]) });
      await run(open(2), {}, cached);
      await run(sit('ada', name), {}, cached);
      await run(ring(600), {}, cached);
      await load(another());
      await new Promise(setImmediate);
      expect(await snapshots.get(`room-${id}`)).toMatchObject({ revision: 601 });
      expect(onDisk()).toContain('Seated');
      expect(onDisk()).not.toContain('Canary');
      expect(onDisk()).not.toContain(Buffer.from(name).toString('base64').slice(4, 20));
      expect((await load(another())).state.guests).toEqual(new Map([['ada', name]]));
      snapshots.close();
    });

    it('make a key when they write, not when they read', async () => {
      await run(open(2));
      expect(keys.keys.size).toBe(0);
      await run(sit('ada', name));
      expect([...keys.keys.keys()]).toEqual([id]);
      keys.keys.clear();
      await load(another());
      expect(keys.keys.size).toBe(0);
    });

    it('fold to null once the key is destroyed and the fold forgotten', async () => {
      await run(open(2));
      await run(sit('ada', name));
      keys.keys.delete(id);
      runIn(message(), () => rooms.forget(id));
      for (const by of [rooms, another()]) expect((await load(by)).state.guests).toEqual(new Map([['ada', null]]));
    });

    it('do not keep a fold that is forgotten while a command is under way', async () => {
      await run(open(2));
      await run(sit('ada', name));
      store.beforeAppend = async () => {
        keys.keys.delete(id);
        runIn(message(), () => rooms.forget(id));
      };
      await run(ring(40));
      await new Promise(setImmediate);
      expect((await load()).state.guests).toEqual(new Map([['ada', null]]));
    });
  });

  /** Of `production` and `staging`. */
  interface Snapshots extends PerEnvironment<SnapshotStore> { close(): Promise<void> }
  const withSnapshots = (title: string, openSnapshots: () => Promise<Snapshots>) => describe(`with snapshots in ${title}`, () => {
    class Counted implements SnapshotStore {
      readonly #store: SnapshotStore;
      readonly #second = Promise.withResolvers<void>();
      #last: Promise<void> = Promise.resolve();
      puts = 0;
      constructor(snapshotStore: SnapshotStore) { this.#store = snapshotStore; }
      get(stream: string) { return this.#store.get(stream); }
      /** In order: over two connections the older one may be the last, which costs the next reader some events. */
      put(stream: string, snapshot: Snapshot): Promise<void> {
        return (this.#last = this.#last.then(async () => {
          await this.#store.put(stream, snapshot);
          if (++this.puts === 2) this.#second.resolve();
        }));
      }
      /** Nobody else waits for them. */
      get putTwice() { return this.#second.promise; }
    }
    let opened: Snapshots;
    let snapshots: Counted;
    const keptNow = async () => await snapshots.get(`room-${id}`) as Snapshot;
    const cached = (rules = room) => another({ snapshots: new PerEnvironment<SnapshotStore>([['production', snapshots], ['staging', opened.of('staging')]]) }, rules);
    beforeEach(async () => {
      opened = await openSnapshots();
      snapshots = new Counted(opened.of('production'));
      const by = cached();
      await run(open(9), {}, by);
      for (let n = 0; n < 4; n++) {
        await run(sit(`guest-${n}`, `Guest ${n}`), {}, by);
        await run(ring(300), {}, by);
      }
      await snapshots.putTwice;
    });
    afterEach(() => opened.close());

    it('have the state that they have without', async () => {
      expect(snapshots.puts).toBe(2);
      const [fromEvents, fromSnapshot] = [await load(another()), await load(cached())];
      expect(fromSnapshot).toEqual(fromEvents);
      expect(fromSnapshot.revision).toBe(1204);
      expect(await run(ring(), {}, cached())).toMatchObject({ revision: 1205 });
    });

    it('use them', async () => {
      const kept = await keptNow();
      store.reads = 0;
      await load(cached());
      expect(kept.revision).toBeGreaterThan(1000);
      expect(store.reads).toBe(3);
    });

    it.each<[string, (kept: Snapshot) => Partial<Snapshot>]>([
      ['of another version', () => ({ version: '2-x' })],
      ['from the future', () => ({ revision: 5000 })],
      ['that is damaged', ({ sealed }) => ({ sealed: sealed.slice(0, -8) })],
    ])('ignore one %s', async (_, change) => {
      const kept = await keptNow();
      await snapshots.put(`room-${id}`, { ...kept, ...change(kept) });
      expect(await load(cached())).toEqual(await load(another()));
    });

    it('ignore one of another history', async () => {
      const kept = await keptNow();
      const sealed = (await keys.prepare([id])).seal(id, packState({ ...room.initial(), seats: 77 }));
      await snapshots.put(`room-${id}`, { ...kept, sealed });
      expect((await load(cached())).state.seats).toBe(77);
      await snapshots.put(`room-${id}`, { ...kept, sealed, eventId: randomUUID() });
      expect((await load(cached())).state.seats).toBe(9);
    });

    it('ignore one that other code has made', async () => {
      const changed = { ...room, evolve: (state: Room, event: RoomEvent, origin: Parameters<typeof room.evolve>[2]) => ({ ...room.evolve(state, event, origin), seats: 77 }) };
      expect((await load(cached(changed))).state.seats).toBe(77);
    });

    it('ignore one whose key is destroyed', async () => {
      keys.keys.clear();
      expect([...(await load(cached())).state.guests.values()]).toEqual([null, null, null, null]);
    });
  });

  withSnapshots('SQLite', async () => {
    const files = new Map(['production', 'staging'].map((name) => [name, new SqliteSnapshots(join(folder, `${name}-snapshots.db`))]));
    return Object.assign(new PerEnvironment<SnapshotStore>(files), { close: async () => { for (const file of files.values()) file.close(); } });
  });
  describeWith('postgres', 'Aggregates with snapshots', (server) => withSnapshots('PostgreSQL', async () => {
    const [production, staging] = [`e${randomUUID()}`, `e${randomUUID()}`];
    const all = await PostgresSnapshotStores.open({ url: server().url, environments: [production, staging] });
    return Object.assign(new PerEnvironment<SnapshotStore>([['production', all.of(production)], ['staging', all.of(staging)]]), { close: () => all.close() });
  }));

  it('keep a bounded number of folds, and read again what they dropped', async () => {
    const few = another({ maxFolds: 2 });
    for (const name of ['a', 'b', 'c']) await runIn(message(), () => few.run(name, open(1)));
    store.reads = 0;
    for (const name of ['a', 'b', 'c']) expect((await runIn(message(), () => few.load(name))).state.seats).toBe(1);
    expect(store.reads).toBe(3);
  });

  it('keep a stream too long for that number, too, and another beside it', async () => {
    const few = another({ maxFolds: 2 });
    await run(ring(500), {}, few);
    await runIn(message(), () => few.run('other', ring(500)));
    store.reads = 0;
    for (let n = 0; n < 2; n++) await Promise.all([load(few), runIn(message(), () => few.load('other'))]);
    expect(store.reads).toBe(4);
  });

  it('refuse what the view of it refuses', async () => {
    const view = () => { throw refuse('LICENSE_NOT_FOUND'); };
    await expect(runIn(message(), () => rooms.load(id, view))).rejects.toEqual(refused('LICENSE_NOT_FOUND'));
    await expect(runIn(message(), () => rooms.run(id, open(1), view))).rejects.toEqual(refused('LICENSE_NOT_FOUND'));
  });

  it('list all but what cannot be read, and nothing when nobody answers', async () => {
    const told: unknown[] = [];
    const list = () => runIn(message(), () => rooms.loadAll(['a', 'b', 'c'], ({ seats }) => seats || undefined, { error: (what: unknown) => void told.push(what) }));
    for (const name of ['a', 'b']) await runIn(message(), () => rooms.run(name, open(1)));
    await store.append('room-b', 0, [{ id: randomUUID(), type: 'Repainted', data: {}, metadata: { schema: 1 } }]);
    expect(await list()).toEqual([1]);
    expect(told).toMatchObject([{ id: 'b' }]);
    store.readStream = () => Promise.reject(refuse('UNAVAILABLE'));
    await expect(list()).rejects.toEqual(refused('UNAVAILABLE'));
  });

  it('stop at an event that they do not know', async () => {
    const unknown: NewEvent = { id: randomUUID(), type: 'Repainted', data: {}, metadata: { schema: 1, occurredAt: now, actor: { type: 'system', id: 'x' } } };
    await store.append(`room-${id}`, NO_STREAM, [unknown]);
    await expect(load()).rejects.toThrow('Unknown event type Repainted');
    await expect(run(open(1))).rejects.toThrow('Unknown event type Repainted');
    await expect(store.append(`room-${id}`, NO_STREAM, [{ ...unknown, id: randomUUID() }])).rejects.toThrow(WrongExpectedRevision);
  });

  it('create a stream without reading it, and find out when it is there already', async () => {
    store.reads = 0;
    const create = (command: Parameters<typeof room.decide>[1], by = another()) => runIn(message(), () => by.create(id, command));
    expect(await create(open(2))).toMatchObject({ revision: 0 });
    expect(store.reads).toBe(0);
    expect(await create(open(2))).toMatchObject({ revision: 0, events: [] });
    expect(await create(sit('ada', 'Ada'))).toMatchObject({ revision: 1 });
    expect(await store.readStream(`room-${id}`)).toHaveLength(2);
  });

  it('trace every append within the trace of its command', async () => {
    const exporter = new InMemorySpanExporter();
    const tracing = await startTracing({ service: 'test', exporter });
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    await run(open(1), { traceparent });
    await run(open(1), { traceparent });
    expect(exporter.getFinishedSpans().map((span) => [span.name, span.spanContext().traceId])).toEqual([['append', '4bf92f3577b34da6a3ce929d0e0e4736']]);
    await tracing.stop();
  });
});
