import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeEach, describe, expect, it } from '@jest/globals';
import { describeWith } from '@keyledger/servers/contract';
import { stopwatch } from '@keyledger/testing';
import pg from 'pg';
import { anEvent, eventStoreContract } from './event-store.contract.ts';
import { NO_STREAM, WrongExpectedRevision, type Appended, type EventStore, type NewEvent, type RecordedEvent } from './port.ts';
import { PostgresPool } from './postgres-pool.ts';
import { PostgresEventStores, type PostgresEventStore, type PostgresOptions } from './postgres.ts';

const unavailable = expect.objectContaining({ name: 'Refusal', code: 'UNAVAILABLE' });
const positions = (events: readonly RecordedEvent[]) => events.map(({ position }) => position);
const dense = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

async function everything(store: EventStore): Promise<RecordedEvent[]> {
  const all: RecordedEvent[] = [];
  for (let page; (page = await store.readAll(all.at(-1)?.position ?? 0)).length > 0;) all.push(...page);
  return all;
}

/** A subscriber that remembers, and can be waited for. */
function follow(store: EventStore, after = 0) {
  const events: RecordedEvent[] = [];
  let waiting: { count: number; resolve: () => void } | undefined;
  store.subscribe(after, (batch) => {
    events.push(...batch);
    if (waiting && events.length >= waiting.count) waiting.resolve();
  });
  const has = (count: number) => new Promise<void>((resolve) => {
    if (events.length >= count) resolve();
    else waiting = { count, resolve };
  });
  return { events, has };
}

/** How an operation ended, and after how many milliseconds. */
async function timed(operation: () => Promise<unknown>): Promise<{ ms: number; error: unknown }> {
  const took = stopwatch();
  const error = await operation().then(() => undefined, (reason: unknown) => reason);
  return { ms: took(), error };
}

/** The stores of one process, and `another` of a second one on the same log. */
function bench(url: () => string) {
  const opened: PostgresEventStores[] = [];
  let environment = '';
  beforeEach(() => { environment = `e${randomUUID()}`; });
  afterAll(() => Promise.all(opened.map((stores) => stores.close())));
  const open = async (options: Partial<PostgresOptions> = {}): Promise<PostgresEventStore> => {
    const stores = await PostgresEventStores.open({ url: url(), environments: [environment], allowUnsafe: true, handlerFailed: () => undefined, lost: () => undefined, ...options });
    opened.push(stores);
    return stores.of(options.environments?.[0] ?? environment);
  };
  const sql = async (text: string): Promise<unknown[][]> => {
    const client = new pg.Client({ connectionString: url() });
    client.on('error', () => undefined);
    await client.connect();
    try {
      return (await client.query({ text: text.replaceAll('SCHEMA', `"${environment.replaceAll('-', '_')}_events"`), rowMode: 'array' })).rows;
    } finally {
      await client.end();
    }
  };
  return { open, sql };
}

describeWith('postgres', 'The event store', (server) => {
  const names = new WeakMap<object, string>();
  const openNamed = async (name = `e${randomUUID()}`) => {
    const stores = await PostgresEventStores.open({ url: server().url, environments: [name], allowUnsafe: true, handlerFailed: () => undefined });
    names.set(stores.of(name), name);
    return stores.of(name);
  };
  eventStoreContract('PostgresEventStore', () => openNamed(), {
    reopen: async (store) => {
      await store.close();
      return openNamed(names.get(store));
    },
  });

  describe('PostgresEventStore', () => {
    const { open, sql } = bench(() => server().url);

    it('gives dense positions to two processes that race on the same streams, and shows each what the other writes, in order', async () => {
      const stores = [await open(), await open()];
      const followers = stores.map((store) => follow(store));
      const outcomes = await Promise.allSettled(stores.flatMap((store, process) =>
        Array.from({ length: 300 }, async (_, n) => {
          if (n % 7 === process) await sleep(n / 10);
          return store.append(`license-${n % 20}`, n % 3 ? 'any' : NO_STREAM, [anEvent({ process }), anEvent({ process })]);
        })));
      const appended = outcomes.filter(({ status }) => status === 'fulfilled').length;
      expect(appended).toBeLessThan(600);
      for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(WrongExpectedRevision);
      const all = await everything(stores[0] as EventStore);
      expect(positions(all)).toEqual(dense(appended * 2));
      expect(new Set(all.map(({ data }) => data.process))).toEqual(new Set([0, 1]));
      for (const { events, has } of followers) {
        await has(all.length);
        expect(events).toEqual(all);
      }
      for (let n = 0; n < 20; n++) {
        const own = all.filter(({ stream }) => stream === `license-${n}`).map(({ revision }) => revision);
        expect(own).toEqual(own.map((_, index) => index));
      }
    });

    it('stores an append that two processes make at the same moment once', async () => {
      const stores = [await open(), await open()];
      for (let n = 0; n < 20; n++) {
        const events = [anEvent(), anEvent()];
        const [one, other] = await Promise.all(stores.map((store) => store.append(`license-${n}`, NO_STREAM, events))) as [Appended, Appended];
        expect([one.duplicate, other.duplicate].toSorted()).toEqual([false, true]);
        expect([other.position, other.revision]).toEqual([one.position, 1]);
      }
    });

    it('is made once by all processes that start at the same moment', async () => {
      const stores = await Promise.all(Array.from({ length: 6 }, () => open()));
      await Promise.all(stores.map((store, n) => store.append(`license-${n}`, NO_STREAM, [anEvent()])));
      expect(positions(await everything(stores[0] as EventStore))).toEqual(dense(6));
    });

    it('is not opened by a release that does not know its schema', async () => {
      await open();
      await sql('update SCHEMA.schema_version set version = 3');
      await expect(open()).rejects.toThrow('this release knows 2');
    });

    const functions = () => sql("select oid::regprocedure::text, prosrc, proconfig from pg_proc where pronamespace = 'SCHEMA'::regnamespace order by 1");

    it('has the functions of this release also in a log that another has made', async () => {
      await open();
      const own = await functions();
      await sql(`update pg_proc set prosrc = 'begin end', proconfig = null where pronamespace = 'SCHEMA'::regnamespace and proname in ('append', 'restore')`);
      await open();
      expect(await functions()).toEqual(own);
    });

    it('takes up a log whose appends had other parameters, and keeps older releases from it', async () => {
      const own = await open().then(functions);
      await sql(`drop function SCHEMA.append; update SCHEMA.schema_version set version = 1;
        create function SCHEMA.append(streams text[], expected integer[], counts integer[], ids uuid[], types text[], datas text[], metadatas text[]) returns integer language sql as 'select 1'`);
      const store = await open();
      expect(await functions()).toEqual(own);
      expect(await sql('select version from SCHEMA.schema_version')).toEqual([[2]]);
      expect(await store.append('license-a', NO_STREAM, [anEvent()])).toMatchObject({ position: 1 });
    });

    it('has another schema version when its functions take other parameters', async () => {
      await open();
      const parameters = "select proname || '(' || pg_get_function_identity_arguments(oid) || ')' from pg_proc where pronamespace = 'SCHEMA'::regnamespace and proname <> 'refuse_change'";
      expect(await sql(`select version::text from SCHEMA.schema_version union all (${parameters} order by 1)`)).toEqual([
        ['2'],
        ['append(streams text[], expected integer[], counts integer[], ids uuid[], types text[], datas text[], metadatas text[], tell boolean)'],
        ['restore(positions bigint[], streams text[], revisions integer[], ids uuid[], types text[], datas text[], metadatas text[], times text[])'],
      ]);
    });

    it('commits in groups', async () => {
      const seconds: number[] = [];
      const store = await open({ observe: (time) => seconds.push(time) });
      await Promise.all(Array.from({ length: 500 }, (_, n) => store.append(`license-${n}`, NO_STREAM, [anEvent()])));
      const transactions = await sql('select count(distinct xmin::text) from SCHEMA.events');
      expect(Number(transactions[0]?.[0])).toBeLessThan(10);
      expect(seconds).toHaveLength(500);
      expect(Math.min(...seconds)).toBeGreaterThan(0);
    });

    it('fails one append of a group without the others', async () => {
      const store = await open();
      const outcomes = await Promise.allSettled([
        store.append('license-a', NO_STREAM, [anEvent()]),
        store.append('license-b', NO_STREAM, [anEvent(), { ...anEvent(), id: 'no uuid' }]),
        store.append('license-c', 4, [anEvent()]),
        store.append('license-d', NO_STREAM, [{ ...anEvent(), type: 'a\u0000b' }]),
        store.append('license-e', NO_STREAM, [anEvent()]),
      ]);
      expect(outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value.position : (outcome.reason as Error).name))).toEqual([1, 'RangeError', 'WrongExpectedRevision', 'RangeError', 2]);
      expect(positions(await everything(store))).toEqual([1, 2]);
    });

    it('shows live subscribers the event before the caller gets his answer, the same object to all, without reading it', async () => {
      const store = await open();
      const followers = [follow(store), follow(store)];
      await Promise.resolve();
      const event = anEvent();
      await store.append('license-a', NO_STREAM, [event]);
      expect(followers.map(({ events }) => events.length)).toEqual([1, 1]);
      expect(followers[0]?.events[0]).toBe(followers[1]?.events[0]);
      expect(followers[0]?.events[0]?.data).toBe(event.data);
      expect(followers[0]?.events).toEqual(await store.readAll(0));
    });

    it('reads what others write once for all subscribers', async () => {
      const [mine, theirs] = [await open(), await open()];
      const followers = Array.from({ length: 20 }, () => follow(mine));
      const took = stopwatch();
      for (let n = 0; n < 10; n++) {
        await theirs.append('license-a', 'any', [anEvent()]);
        await Promise.all(followers.map(({ has }) => has(n + 1)));
      }
      // They are told: asking once a second would take ten.
      expect(took()).toBeLessThan(5_000);
      for (const { events } of followers) expect(events[7]).toBe(followers[0]?.events[7]);
    });

    it('picks out what a subscriber follows, once and in order, while two processes write, and from far back', async () => {
      const [mine, theirs] = [await open(), await open()];
      const chosen = (events: readonly RecordedEvent[]) => positions(events.filter(({ stream }) => stream === 'order-a'));
      const pick = (store: EventStore) => {
        const seen: RecordedEvent[] = [];
        const done = Promise.withResolvers<void>();
        const subscription = store.subscribe(0, (events, upTo) => {
          seen.push(...events);
          if (upTo >= 10_800) done.resolve();
        }, [{ category: 'order' }]);
        return { seen, done: done.promise, subscription };
      };
      const early = pick(mine);
      await Promise.all([mine, theirs].map(async (store) => {
        for (let n = 0; n < 200; n++) await Promise.all(['order-a', 'license-a'].map((stream) => store.append(stream, 'any', [anEvent()])));
      }));
      for (let n = 0; n < 10; n++) await theirs.append('license-b', 'any', Array.from({ length: 1_000 }, () => anEvent()));
      const late = pick(await open());
      await Promise.all([early.done, late.done]);
      const expected = chosen(await everything(mine));
      expect(expected).toHaveLength(400);
      expect([positions(early.seen), positions(late.seen)]).toEqual([expected, expected]);
      expect(late.subscription.position).toBe(10_800);
    });

    it('shows a subscriber that needs no data only that something has happened', async () => {
      const [mine, theirs] = [await open(), await open()];
      const seen: RecordedEvent[] = [];
      const follower = follow(mine);
      await follower.has(0);
      const quiet = await open();
      const got = Promise.withResolvers<void>();
      quiet.subscribe(0, (events) => void (seen.push(...events), seen.length >= 2 && got.resolve()), [{ category: 'order' }, { category: 'license', bare: true }]);
      await theirs.append('license-a', 'any', [anEvent()]);
      await theirs.append('order-a', 'any', [anEvent()]);
      await Promise.all([got.promise, follower.has(2)]);
      expect(seen.map(({ stream, position, type }) => [stream, position, type])).toEqual(follower.events.map(({ stream, position, type }) => [stream, position, type]));
      expect(seen[1]).toEqual(follower.events[1]);
      expect(() => seen[0]?.data).toThrow('license-a');
      // Another one comes that reads more: from then on it is there.
      const all = follow(quiet, 1);
      await all.has(1);
      await theirs.append('license-a', 'any', [anEvent()]);
      await all.has(2);
      expect(all.events).toEqual(await quiet.readAll(1));
    });

    /** What other processes are told, until they are told of the last. */
    const telling = async (last: number) => {
      const told: number[] = [];
      const heardOfAll = Promise.withResolvers<void>();
      const client = new pg.Client({ connectionString: server().url });
      client.on('notification', ({ payload }) => told.push(Number(payload)) && told.at(-1) === last && heardOfAll.resolve());
      await client.connect();
      const [[schema] = []] = await sql(`select table_schema from information_schema.tables where table_name = 'head' and table_schema = trim('"' from 'SCHEMA')`);
      await client.query(`listen "${String(schema)}"`);
      return async () => {
        await heardOfAll.promise;
        await client.end();
        return told;
      };
    };

    it('tells the other processes of many appends together, and leaves none untold', async () => {
      const store = await open();
      const heard = await telling(200);
      for (let n = 0; n < 200; n++) await store.append('license-a', 'any', [anEvent()]);
      const told = await heard();
      expect(told.length).toBeLessThan(100);
      expect(told).toEqual(told.toSorted((a, b) => a - b));
    });

    it('tells of an append although the next one, which would have told of both, came to nothing', async () => {
      const store = await open();
      const heard = await telling(2);
      await store.append('license-a', 'any', [anEvent()]);
      await store.append('license-a', 'any', [anEvent()]);
      for (const until = performance.now() + 50; performance.now() < until;);
      await expect(store.append('license-a', NO_STREAM, [anEvent()])).rejects.toThrow(WrongExpectedRevision);
      expect(await heard()).toContain(2);
    });

    it('hands what is no longer in memory to subscribers that are far behind, and to those that come when nobody has followed', async () => {
      const [mine, theirs] = [await open(), await open()];
      for (let n = 0; n < 7; n++) await (n % 2 ? mine : theirs).append('license-a', 'any', Array.from({ length: 1000 }, () => anEvent()));
      for (const store of [mine, theirs]) {
        const [early, late] = [follow(store, 500), follow(store, 6990)];
        await Promise.all([early.has(6500), late.has(10)]);
        expect(positions(early.events)).toEqual(dense(7000).slice(500));
        expect(positions(late.events)).toEqual(dense(7000).slice(6990));
      }
    });

    it('keeps environments apart, on a few connections for all of them', async () => {
      const environments = Array.from({ length: 5 }, () => `e${randomUUID()}`);
      const stores = await PostgresEventStores.open({ url: `${server().url}&application_name=${environments[0]}`, environments, connections: 3, allowUnsafe: true });
      await Promise.all(environments.flatMap((name, seat) => Array.from({ length: 20 }, (_, n) => stores.of(name).append(`license-${n}`, NO_STREAM, [anEvent({ seat })]))));
      await Promise.all(Array.from({ length: 100 }, (_, n) => stores.of(environments[n % 5] as string).head()));
      const [[connections] = []] = await sql(`select count(*) from pg_stat_activity where application_name = '${environments[0]}'`);
      expect(Number(connections)).toBe(4);
      for (const [seat, name] of environments.entries()) {
        expect((await stores.of(name).readAll(0)).map(({ data }) => data.seat)).toEqual(Array.from({ length: 20 }, () => seat));
      }
      await stores.close();
    });

    it('answers appends that were made before it is closed, and refuses later ones', async () => {
      const store = await open();
      const appends = Array.from({ length: 50 }, (_, n) => store.append(`license-${n}`, NO_STREAM, [anEvent()]));
      const closing = store.close();
      await expect(store.append('license-late', NO_STREAM, [anEvent()])).rejects.toThrow('closed');
      await Promise.all([...appends, closing]);
      expect(await (await open()).head()).toBe(50);
    });

    it.each(['update SCHEMA.events set data = data', 'delete from SCHEMA.events', 'truncate SCHEMA.events'])('refuses changes of the past, whoever asks: %s', async (change) => {
      const store = await open();
      await store.append('license-a', NO_STREAM, [anEvent()]);
      await expect(sql(change)).rejects.toThrow(/events are never (changed|deleted)/);
      expect(await everything(store)).toHaveLength(1);
    });

    it('says so, once, when events are missing that were there', async () => {
      const failures: string[] = [];
      const store = await open({ failed: ({ message }) => void failures.push(message) });
      await store.append('license-a', NO_STREAM, [anEvent(), anEvent()]);
      expect(await store.head()).toBe(2);
      expect(failures).toEqual([]);
      await sql('update SCHEMA.head set position = 1');
      expect([await store.head(), await store.head()]).toEqual([1, 1]);
      expect(failures).toEqual([expect.stringMatching(/ends at 1 but has reached to 2: events are missing$/)]);
    });

    /** What a standby has that takes over without the events after `kept`, when others have appended so many since. */
    const takeOver = async (kept: number, appended: number) => sql(`alter table SCHEMA.events disable trigger user;
      delete from SCHEMA.events where position > ${kept};
      insert into SCHEMA.events select n, 'license-' || n, 0, gen_random_uuid(), 'SeatTaken', '{}', '{}', '2026-01-01T00:00:00.000Z' from generate_series(${kept + 1}, ${kept + appended}) n;
      update SCHEMA.head set position = ${kept + appended}; alter table SCHEMA.events enable trigger user`);
    /** A store that follows its log of ten events, some of which are lost then. */
    const followed = async () => {
      const failures: string[] = [];
      const name = randomUUID();
      const store = await open({ url: `${server().url}&application_name=${name}`, connections: 1, failed: ({ message }) => void failures.push(message) });
      const follower = follow(store);
      for (let n = 0; n < 10; n++) await store.append('license-a', 'any', [anEvent()]);
      await follower.has(10);
      return { store, follower, failures, cut: (which = 'true') => sql(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = '${name}' and ${which}`) };
    };

    it('neither reads nor writes nor hands over anything on a server that has other events in the places of those it knows, and says so once', async () => {
      const { store, follower, failures, cut } = await followed();
      await takeOver(7, 8);
      await cut();
      for (const asked of [store.append('license-b', NO_STREAM, [anEvent()]), store.readAll(10), store.head()]) await expect(asked).rejects.toEqual(unavailable);
      await sleep(1_200);
      expect(follower.events).toHaveLength(10);
      expect(failures).toEqual([expect.stringMatching(/has another event at 10 than it had: events are missing$/)]);
    });

    it('notices that also where nothing of what is missing was followed, and the new server has gone on since', async () => {
      const failures: string[] = [];
      const name = randomUUID();
      const store = await open({ url: `${server().url}&application_name=${name}`, connections: 1, failed: ({ message }) => void failures.push(message) });
      const theirs = await open();
      await theirs.append('order-a', 'any', [anEvent()]);
      const subscription = store.subscribe(0, () => undefined, [{ category: 'order' }]);
      for (let n = 0; n < 9; n++) await theirs.append('license-a', 'any', [anEvent()]);
      while (subscription.position < 10) await sleep(10);
      await takeOver(7, 8);
      await sql(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = '${name}'`);
      while (failures.length === 0) await sleep(10);
      expect(failures).toEqual([expect.stringMatching(/has another event at 10 than it had: events are missing$/)]);
      expect(subscription.position).toBe(10);
    });

    it('does not try again what it has in hand when that is of events that are missing', async () => {
      const { store, failures, cut } = await followed();
      let tries = 0;
      store.subscribe(9, () => {
        tries++;
        throw new Error('There is no database');
      });
      while (tries < 3) await sleep(10);
      await takeOver(7, 3);
      // The connection that listens remains, and notices within a second.
      await cut("query not like '%exists%'");
      tries = 0;
      await sleep(2_000);
      expect([tries, failures.length]).toEqual([0, 1]);
    });

    it('notices within a second that events are missing although it has kept its connections, as behind a pooler', async () => {
      const { failures } = await followed();
      await takeOver(7, 3);
      expect((await timed(async () => { while (failures.length === 0) await sleep(10); })).ms).toBeLessThan(1_500);
    });

    it('notices at once when it gets a position for its own events that others had', async () => {
      const { store, failures } = await followed();
      await takeOver(7, 1);
      await store.append('license-b', NO_STREAM, [anEvent()]);
      expect(failures).toEqual([expect.stringMatching(/takes position 9 but has reached to 10: events are missing$/)]);
    });

    it('takes no server that may lose what it has confirmed', async () => {
      await expect(open({ allowUnsafe: false })).rejects.toThrow(/fsync=off.*would lose what it has confirmed/);
    });

    it('waits for the disk in every append, whatever the default of the server', async () => {
      const store = await open();
      await sql(`create table SCHEMA.seen (setting text);
        create function SCHEMA.look() returns trigger language plpgsql as $$ begin execute format('insert into %I.seen values (current_setting(''synchronous_commit''))', tg_table_schema); return null; end $$;
        create trigger look after update on SCHEMA.head for each row execute function SCHEMA.look()`);
      const weak = await open({ url: `${server().url}&options=${encodeURIComponent('-c synchronous_commit=off')}` });
      await Promise.all([store, weak].map((each) => each.append('license-a', 'any', [anEvent()])));
      expect(await sql('select setting from SCHEMA.seen')).toEqual([['on'], ['on']]);
    });

    it('lives on when its connections are cut, and says so once', async () => {
      const lost: unknown[] = [];
      const name = randomUUID();
      const store = await open({ url: `${server().url}&application_name=${name}`, lost: (error) => lost.push(error) });
      const other = await open();
      const { has } = follow(store);
      await store.append('license-a', NO_STREAM, [anEvent()]);
      for (let n = 1; n <= 3; n++) {
        await sql(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = '${name}'`);
        while (lost.length < n) await sleep(5);
        await other.append('license-a', 'any', [anEvent()]);
        await has(2 * n);
        await store.append('license-a', 'any', [anEvent()]);
        await has(2 * n + 1);
      }
      expect(lost).toHaveLength(3);
    });

    it('tries again what has failed as soon as there is a connection again', async () => {
      const name = randomUUID();
      const store = await open({ url: `${server().url}&application_name=${name}` });
      let failures = 0;
      let isDown = true;
      const handled = new Promise<void>((resolve) => store.subscribe(0, async () => {
        if (!isDown) return resolve();
        failures++;
        throw new Error('The handler needs the same server');
      }));
      await store.append('license-a', NO_STREAM, [anEvent()]);
      // The next pause is of 3.2 seconds.
      while (failures < 6) await sleep(20);
      isDown = false;
      await sql(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = '${name}'`);
      expect((await timed(() => handled)).ms).toBeLessThan(2_000);
    });

    it('finds events that nobody has told it of', async () => {
      const store = await open();
      const { has } = follow(store);
      await sql(`insert into SCHEMA.events values (1, 'license-a', 0, gen_random_uuid(), 'SeatTaken', '{}', '{}', '2026-01-01T00:00:00.000Z'); update SCHEMA.head set position = 1`);
      await has(1);
    });

    it('has the server look whether the machine at the other end is still there', async () => {
      const pool = new PostgresPool(server().url, 1);
      expect(await pool.ask({ name: 'settings', text: "select source from pg_settings where name like 'tcp_keepalives_%'" }, [])).toEqual([['client'], ['client'], ['client']]);
      await pool.close();
    });

    it('does not open when there is no server', async () => {
      const { ms, error } = await timed(() => open({ url: 'postgresql://keyledger@127.0.0.1:9/postgres' }));
      expect(String(error)).toContain('ECONNREFUSED');
      expect(ms).toBeLessThan(2_000);
    });
  });

  describe('PostgresEventStore on a server that says nothing', () => {
    const { open } = bench(() => server().url);

    it('refuses everything within two seconds, stores nothing twice, and goes on by itself', async () => {
      const store = await open();
      const { events, has } = follow(store);
      await store.append('license-a', NO_STREAM, [anEvent()]);
      const repeated: NewEvent[] = [anEvent()];
      const now = [
        () => store.append('license-a', 'any', repeated), () => store.readStream('license-a'), () => store.readAll(0), () => store.head(),
        ...Array.from({ length: 20 }, (_, n) => () => store.append(`license-${n}`, 'any', [anEvent()])), ...Array.from({ length: 20 }, () => () => store.head()),
      ];
      server().pause();
      try {
        // Some come while others are waiting already.
        const later = [50, 300, 1_000].map(async (ms) => {
          await sleep(ms);
          return timed(() => store.append(`license-after-${ms}`, 'any', [anEvent()]));
        });
        const outcomes = [...await Promise.all([...now.map(timed), ...later]), ...await Promise.all(now.map(timed))];
        expect(outcomes.map(({ error }) => error)).toEqual(outcomes.map(() => unavailable));
        expect(Math.max(...outcomes.map(({ ms }) => ms))).toBeLessThan(2_000);
      } finally {
        server().resume();
      }
      let answer: Appended | undefined;
      while (!answer) answer = await store.append('license-a', 'any', repeated).catch(() => undefined);
      const head = await store.head();
      const all = await everything(store);
      expect(positions(all)).toEqual(dense(head));
      expect(all.filter(({ id }) => id === repeated[0]?.id)).toHaveLength(1);
      expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
      await has(all.length);
      expect(events).toEqual(all);
    }, 30_000);

    it('keeps nobody waiting behind an append that is not answered', async () => {
      const store = await open();
      await store.append('license-a', NO_STREAM, [anEvent()]);
      server().pause();
      const outcomes = await Promise.all([0, 50, 600, 1_000].map(async (ms) => {
        await sleep(ms);
        return timed(() => store.append(`license-after-${ms}`, NO_STREAM, [anEvent()]));
      })).finally(() => server().resume());
      expect(outcomes.map(({ error }) => error)).toEqual(outcomes.map(() => unavailable));
      expect(Math.max(...outcomes.map(({ ms }) => ms))).toBeLessThan(2_000);
    });

    it('closes nevertheless', async () => {
      const store = await open();
      follow(store);
      await store.append('license-a', NO_STREAM, [anEvent()]);
      server().pause();
      const { ms } = await timed(() => store.close());
      server().resume();
      expect(ms).toBeLessThan(3_000);
    });
  });
});

describeWith('postgres', 'The event store on a server that is killed', (server) => {
  const { open } = bench(() => server().url);

  it('has all that was answered, once, and its subscribers go on', async () => {
    const stores = [await open({ allowUnsafe: false }), await open({ allowUnsafe: false })];
    const followers = stores.map((store) => follow(store));
    const answered: string[] = [];
    let refused = 0;
    let enough = false;
    const writer = async (store: EventStore, stream: string) => {
      while (!enough) {
        const events = [anEvent(), anEvent()];
        for (let answer: Appended | undefined; !answer;) {
          answer = await store.append(stream, 'any', events).catch(async (error: unknown) => {
            expect(error).toEqual(unavailable);
            refused++;
            await sleep(20);
            return undefined;
          });
          if (answer) answered.push(`${events[1]?.id} ${answer.position}`);
        }
      }
    };
    const writers = stores.flatMap((store, process) => Array.from({ length: 16 }, (_, n) => writer(store, `license-${process}-${n}`)));
    for (let round = 0; round < 3; round++) {
      const before = answered.length;
      while (answered.length < before + 200) await sleep(5);
      await server().kill();
      const refusedBefore = refused;
      while (refused < refusedBefore + 32) await sleep(5);
      await server().restart();
    }
    const before = answered.length;
    while (answered.length < before + 200) await sleep(5);
    enough = true;
    await Promise.all(writers);

    const all = await everything(stores[0] as EventStore);
    const stored = new Set(all.map(({ id, position }) => `${id} ${position}`));
    expect(answered.filter((line) => !stored.has(line))).toEqual([]);
    expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
    expect(all).toHaveLength(answered.length * 2);
    expect(positions(all)).toEqual(dense(all.length));
    for (const { events, has } of followers) {
      await has(all.length);
      expect(events).toEqual(all);
    }
  }, 60_000);
}, { durable: true });
