import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it, jest } from '@jest/globals';
import { runIn, systemContext } from '@keyledger/kernel';
import { defineEntity, p, UniqueConstraintViolationException } from '@mikro-orm/sql';
import { describeWith } from '@keyledger/servers/contract';
import { stopwatch } from '@keyledger/testing';
import { CompiledQuery } from 'kysely';
import { Database, openDatabases, type DatabaseOptions, type Migration } from './database.ts';
import { onEveryDialect } from './dialects.contract.ts';
import { SqliteFile } from './sqlite-file.ts';

const Seen = defineEntity({
  name: 'Seen', tableName: 'test_last_seen', properties: { id: p.string().primary(), seenAt: p.string(), count: p.integer() },
});
const lastSeen: Migration = {
  name: 'test-1-last-seen',
  up: ({ run, dialect }) => run(`create table test_last_seen (id text primary key, seen_at text not null, count ${dialect === 'sqlite' ? 'integer' : 'bigint'} not null check (count >= 0))`),
};
const tables = { entities: [Seen], migrations: [lastSeen], kind: 'state' } as const;
const insert = 'insert into test_last_seen (id, seen_at, count) values (?, ?, ?)';
const ids = async (database: Database) => (await database.run<{ id: string }>('select id from test_last_seen order by id')).rows.map(({ id }) => id);

onEveryDialect('A database', ({ dialect, open, place }) => {
  it('holds a service\'s own entities, made by its own migration, once', async () => {
    const here = place();
    const first = await open({ ...tables, place: here });
    const em = first.em();
    em.create(Seen, { id: 'a', seenAt: '2026-11-21T00:00:00.000Z', count: 1 });
    await em.flush();
    await first.close();

    const again = await open({ ...tables, place: here });
    expect(await again.em().findOne(Seen, { id: 'a' })).toMatchObject({ seenAt: '2026-11-21T00:00:00.000Z', count: 1 });
  });

  it('keeps nothing of a migration that failed', async () => {
    const here = place();
    const failing: Migration = {
      name: 'test-2-fails',
      async up({ run }) {
        await run('create table test_half (id text)');
        await run('create table test_half (id text)');
      },
    };
    await expect(open({ migrations: [failing], place: here })).rejects.toThrow(/test_half/);
    const database = await open({ place: here });
    await expect(database.run('select * from test_half')).rejects.toThrow(/test_half/);
  });

  it('fails one of the writes that arrive together without the others', async () => {
    const database = await open(tables);
    await database.run(insert, ['there', 'x', 1]);
    const outcomes = await Promise.allSettled([
      ...Array.from({ length: 20 }, (_, n) => database.run(insert, [`a${n}`, 'x', n])),
      database.run(insert, ['there', 'x', 2]),
      database.run(insert, ['negative', 'x', -1]),
      ...Array.from({ length: 20 }, (_, n) => database.run(insert, [`b${n}`, 'x', n])),
    ]);
    expect(outcomes.flatMap(({ status }, at) => (status === 'rejected' ? [at] : []))).toEqual([20, 21]);
    expect(await ids(database)).toHaveLength(41);
  });

  it('refuses lists that still wait for their turn when it is closed', async () => {
    const database = await open(tables);
    const [begun, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let running = 0;
    const others = Promise.allSettled([1, 2, 3].map(() => database.listing(() => (++running === (dialect === 'sqlite' ? 1 : 3) && begun.resolve(), over.promise))));
    const last = database.listing(ids, 3_000);
    await begun.promise;
    const closing = database.close();
    const outcome = await last.catch((error: unknown) => error);
    over.resolve();
    await Promise.all([others, closing]);
    expect(outcome).toMatchObject({ code: 'UNAVAILABLE', message: expect.stringContaining('closed') });
  });

  it('runs a batch wholly or not at all', async () => {
    const database = await open(tables);
    await expect(database.batch([{ sql: insert, many: [['a', 'x', 1], ['b', 'x', 1]] }, { sql: insert, params: ['a', 'x', 1] }])).rejects.toThrow();
    expect(await ids(database)).toEqual([]);
    const [inserted, selected] = await database.batch([
      { sql: insert, many: [['a', 'x', 1], ['b', 'x', 1]], expect: 2 }, { sql: 'select id from test_last_seen where id = ?', params: ['b'] },
    ]);
    expect([inserted?.changes, selected?.rows]).toEqual([2, [{ id: 'b' }]]);
  });

  it('undoes a batch in which a statement changes another number of rows than expected', async () => {
    const database = await open(tables);
    const failed = database.batch([{ sql: insert, params: ['a', 'x', 1] }, { sql: 'update test_last_seen set count = 2 where id = ?', params: ['b'], expect: 1 }]);
    await expect(failed).rejects.toMatchObject({ name: 'SqlFailure', unexpected: true });
    expect(await ids(database)).toEqual([]);
  });

  it('undoes a transaction that throws, and goes on', async () => {
    const database = await open(tables);
    await expect(database.em().transactional(async (em) => {
      em.create(Seen, { id: 'a', seenAt: 'x', count: 1 });
      await em.flush();
      throw new Error('changed my mind');
    })).rejects.toThrow('changed my mind');
    await database.run(insert, ['b', 'x', 1]);
    expect(await ids(database)).toEqual(['b']);
  });

  it('shows nobody what a transaction has not committed', async () => {
    const database = await open(tables);
    let begun = () => {};
    const beginning = new Promise<void>((resolve) => (begun = resolve));
    const outside = beginning.then(() => ids(database));
    await database.em().transactional(async (em) => {
      await em.execute(`insert into test_last_seen (id, seen_at, count) values ('half', 'x', 1)`);
      begun();
      await em.execute('delete from test_last_seen');
      await em.execute(`insert into test_last_seen (id, seen_at, count) values ('a', 'x', 1), ('b', 'x', 1)`);
    });
    expect([[], ['a', 'b']]).toContainEqual(await outside);
  });

  it('takes plain SQL into the transaction of the unit of work it is called in', async () => {
    const database = await open(tables);
    await expect(database.em().transactional(async () => {
      await database.run(insert, ['a', 'x', 1]);
      await database.batch([{ sql: insert, many: [['b', 'x', 1], ['c', 'x', 1]], expect: 2 }]);
      throw new Error('changed my mind');
    })).rejects.toThrow('changed my mind');
    expect(await ids(database)).toEqual([]);
  });

  it('names a violated constraint as MikroORM does', async () => {
    const em = (await open(tables)).em();
    await em.insert(Seen, { id: 'a', seenAt: 'x', count: 1 });
    await expect(em.insert(Seen, { id: 'a', seenAt: 'x', count: 1 })).rejects.toBeInstanceOf(UniqueConstraintViolationException);
  });

  it('takes any text as a value, never as SQL', async () => {
    const database = await open(tables);
    const text = `'); drop table test_last_seen; -- " \\ % _ $1 :a \u{1f511} `;
    await database.run(insert, ['a', text, 1]);
    const em = database.em();
    expect(await em.findOne(Seen, { seenAt: text })).toMatchObject({ id: 'a', seenAt: text });
  });
});

describe('A SQLite database', () => {
  const directory = mkdtempSync(join(tmpdir(), 'keyledger-'));
  afterAll(() => rmSync(directory, { recursive: true }));
  const pragma = async (database: Database, name: string) => Object.values((await database.run(`pragma ${name}`)).rows[0] ?? {})[0];

  it('fsyncs every commit of state, and wipes what it deletes', async () => {
    const state = await Database.open({ kind: 'state', environment: 'test', entities: [], at: { sqliteFile: join(directory, 'state.db') } });
    const read = await Database.open({ kind: 'read', environment: 'test', entities: [], at: { sqliteFile: join(directory, 'read.db') } });
    const names = ['journal_mode', 'synchronous', 'secure_delete', 'foreign_keys', 'busy_timeout'];
    expect(await Promise.all(names.map((name) => pragma(state, name)))).toEqual(['wal', 2, 1, 1, 5000]);
    expect(await Promise.all(names.map((name) => pragma(read, name)))).toEqual(['wal', 1, 1, 1, 5000]);
    await Promise.all([state.close(), read.close()]);
  });

  it('is one connection for all services that share the file', async () => {
    const at = { sqliteFile: join(directory, 'shared.db') };
    const [mine, yours] = await Promise.all([1, 2].map((n) => Database.open({
      kind: 'state', environment: 'test', entities: [], at, migrations: [{ name: `service${n}-1`, up: ({ run }) => run(`create table service${n} (n integer)`) }],
    }))) as [Database, Database];
    await mine.transaction(async (sql) => {
      const other = yours.run('insert into service2 (n) values (1)');
      await sql.insertInto('service1').values({ n: 1 }).execute();
      void other;
    });
    await mine.close();
    expect((await yours.run('select (select count(*) from service1) + (select count(*) from service2) as n')).rows).toEqual([{ n: 2 }]);
    await yours.close();
  });

  it('is the one of the message\'s environment', async () => {
    const databases = await openDatabases({ ...tables, environments: ['production', 'staging'], at: { directory } });
    const write = (environment: string) => runIn(systemContext(environment, '2026-11-21T00:00:00.000Z'), () => databases.here().run(insert, [environment, 'x', 1]));
    await Promise.all(['production', 'staging'].map(write));
    expect(await ids(databases.of('production'))).toEqual(['production']);
    expect(() => databases.here()).toThrow('No message context');
    await Promise.all([...databases.entries()].map(([, database]) => database.close()));
  });

  it('refuses what does not fit on its disk as a lost server does, and goes on when there is room again', async () => {
    const database = await Database.open({ ...tables, environment: 'test', at: { sqliteFile: join(directory, 'full.db') } });
    const { rows: [pages] } = await database.run<{ page_count: number }>('pragma page_count');
    await database.run(`pragma max_page_count = ${pages?.page_count}`);
    const full = expect.objectContaining({
      name: 'Refusal', code: 'UNAVAILABLE', message: 'The database does not answer: database or disk is full', cause: expect.objectContaining({ name: 'SqlFailure', code: 13 }),
    });
    const big = (id: string) => [id, 'x'.repeat(100_000), 1] as const;
    await expect(database.run(insert, big('alone'))).rejects.toEqual(full);
    await expect(database.batch([{ sql: insert, params: big('batch') }])).rejects.toEqual(full);
    await expect(database.transaction((sql) => sql.insertInto('test_last_seen').values({ id: 'transaction', seen_at: 'x'.repeat(100_000), count: 1 }).execute())).rejects.toEqual(full);
    const together = await Promise.allSettled([1, 2, 3].map((n) => database.run(insert, big(`together ${n}`))));
    expect(together).toEqual([1, 2, 3].map(() => ({ status: 'rejected', reason: full })));
    await database.run('pragma max_page_count = 100000');
    await database.run(insert, big('there'));
    expect(await ids(database)).toEqual(['there']);
    await expect(database.run(insert, ['there', 'x', 1])).rejects.toMatchObject({ name: 'SqlFailure' });
    await database.close();
  });

  it('refuses statements in the same way when they wait too long for a transaction', async () => {
    const database = await Database.open({ ...tables, environment: 'test', at: { sqliteFile: join(directory, 'held.db') } });
    await database.transaction(() => expect(ids(database)).rejects.toMatchObject({ name: 'Refusal', code: 'UNAVAILABLE' }));
    await database.close();
  });

  it('looks up and writes at once, whatever is being listed', async () => {
    const database = await Database.open({ ...tables, kind: 'read', environment: 'test', at: { sqliteFile: join(directory, 'listed.db') } });
    const [begun, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const listing = database.listing(async (lists) => {
      await ids(lists);
      begun.resolve();
      await over.promise;
    });
    await begun.promise;
    await database.run(insert, ['a', 'x', 1]);
    expect(await ids(database)).toEqual(['a']);
    over.resolve();
    await listing;
    expect(await database.listing(ids)).toEqual(['a']);
    await expect(database.listing((lists) => lists.run(insert, ['b', 'x', 1]))).rejects.toThrow('readonly');
    await database.close();
  });

  it('refuses a list that would begin when its caller has given up, and that costs nothing', async () => {
    const database = await Database.open({ ...tables, kind: 'read', environment: 'test', at: { sqliteFile: join(directory, 'turns.db') } });
    const done: number[] = [];
    const list = (n: number) => database.listing(async (lists) => {
      done.push(n);
      await Promise.all([lists.run('select 1'), sleep(n === 0 ? 2_500 : 10)]);
    });
    const outcomes = await Promise.allSettled([0, 1, 2].map(list));
    expect(outcomes.map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as { code: string }).code : outcome.status))).toEqual(['fulfilled', 'UNAVAILABLE', 'UNAVAILABLE']);
    await list(3);
    expect(done).toEqual([0, 3]);
    await database.close();
  });

  it('lets a list wait for its turn for as long as its caller does', async () => {
    const database = await Database.open({ ...tables, kind: 'read', environment: 'test', at: { sqliteFile: join(directory, 'patience.db') } });
    const over = Promise.withResolvers<void>();
    const opened = jest.spyOn(SqliteFile, 'open');
    const first = database.listing(() => over.promise);
    const [patient, usual, hasty] = [database.listing(ids, 25_000), database.listing(ids), database.listing(ids, 100)];
    const took = stopwatch();
    await expect(hasty).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(took()).toBeLessThan(1_500);
    await expect(usual).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    over.resolve();
    expect([await first, await patient]).toEqual([undefined, []]);
    expect(opened).toHaveBeenCalledTimes(1);
    opened.mockRestore();
    await database.close();
  });

  it('is scrubbed before its first list, if that is asked for meanwhile', async () => {
    const database = await Database.open({ ...tables, kind: 'read', environment: 'test', at: { sqliteFile: join(directory, 'first.db') } });
    await database.run("insert into test_last_seen (id, seen_at, count) values ('big', hex(zeroblob(40000000)), 1)");
    let scrubbed = false;
    const scrubbing = database.scrub().then(() => (scrubbed = true));
    const first = database.listing(async (lists) => {
      await lists.run('select 1');
      return scrubbed;
    });
    expect(await first).toBe(true);
    await scrubbing;
    await database.close();
  });

  it('is scrubbed behind lists that take long', async () => {
    const database = await Database.open({ ...tables, kind: 'read', environment: 'test', at: { sqliteFile: join(directory, 'patient.db') } });
    const begun = Promise.withResolvers<void>();
    const listing = database.listing(() => (begun.resolve(), sleep(5_500)));
    await begun.promise;
    await database.scrub();
    await listing;
    await database.close();
  }, 15_000);

  it('keeps no list waiting for a long write, however long the log has become', async () => {
    const sqliteFile = join(directory, 'busy.db');
    const database = await Database.open({ ...tables, kind: 'read', environment: 'test', at: { sqliteFile } });
    await database.listing(ids);
    const over = Promise.withResolvers<void>();
    const writing = Promise.withResolvers<void>();
    const written = database.transaction(async (sql) => {
      await sql.executeQuery(CompiledQuery.raw("insert into test_last_seen (id, seen_at, count) values ('big', hex(zeroblob(50000000)), 1)"));
      writing.resolve();
      await over.promise;
    });
    await writing.promise;
    expect(statSync(`${sqliteFile}-wal`).size).toBeGreaterThan(68_000_000);
    const took = stopwatch();
    expect(await database.listing(ids)).toEqual([]);
    expect(took()).toBeLessThan(3_000);
    over.resolve();
    await written;
    await database.close();
  });

  it('is scrubbed between two lists, while look-ups go on', async () => {
    const database = await Database.open({ ...tables, kind: 'read', environment: 'test', at: { sqliteFile: join(directory, 'scrubbed.db') } });
    const [begun, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const listing = database.listing(async (lists) => {
      const before = await ids(lists);
      begun.resolve();
      await over.promise;
      return [before, await ids(lists)];
    });
    await begun.promise;
    await database.run(insert, ['a', 'x', 1]);
    let scrubbed = false;
    const scrubbing = database.scrub().then(() => (scrubbed = true));
    const next = database.listing(ids).then((found) => [found, scrubbed]);
    const took = stopwatch();
    expect(await ids(database)).toEqual(['a']);
    expect([took() < 1_000, scrubbed]).toEqual([true, false]);
    over.resolve();
    expect([await listing, await next]).toEqual([[[], []], [['a'], true]]);
    await scrubbing;
    await database.close();
  });

  it('does not write a log without end while one list follows the other', async () => {
    const sqliteFile = join(directory, 'log.db');
    const database = await Database.open({ ...tables, kind: 'read', environment: 'test', at: { sqliteFile } });
    const [begun, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const first = database.listing(async (lists) => {
      await ids(lists);
      begun.resolve();
      await over.promise;
    });
    await begun.promise;
    await database.run("insert into test_last_seen (id, seen_at, count) values ('big', hex(zeroblob(40000000)), 1)");
    expect(statSync(`${sqliteFile}-wal`).size).toBeGreaterThan(80_000_000);
    const second = database.listing(async (lists) => {
      await ids(lists);
      await database.run(insert, ['small', 'x', 1]);
      return statSync(`${sqliteFile}-wal`).size;
    });
    over.resolve();
    expect(await second).toBeLessThan(68_000_000);
    await first;
    await database.close();
  });

  it('lists the columns that there are by now', async () => {
    const database = await Database.open({ kind: 'read', environment: 'test', entities: [], at: { sqliteFile: join(directory, 'columns.db') } });
    const list = () => database.listing(async (lists) => (await lists.run('select * from shown where n < ?', [2])).rows);
    await database.batch([{ sql: 'create table shown (n integer)' }, { sql: 'insert into shown (n) values (1)' }]);
    expect(await list()).toEqual([{ n: 1 }]);
    await database.batch([{ sql: 'drop table shown' }, { sql: 'create table shown (name text, n integer)' }, { sql: "insert into shown (name, n) values ('a', 1)" }]);
    expect(await list()).toEqual([{ name: 'a', n: 1 }]);
    await database.close();
  });

  it('answers with an error, and lives on, when the value is none of SQLite\'s', async () => {
    const database = await Database.open({ ...tables, environment: 'test', at: { sqliteFile: join(directory, 'values.db') } });
    await expect(database.run(insert, ['a', {}, 1])).rejects.toThrow(/cannot be bound/);
    await expect(database.run(insert, ['a', () => 1, 1])).rejects.toThrow(/could not be cloned/);
    expect(await ids(database)).toEqual([]);
    await database.close();
    await expect(database.run('select 1')).rejects.toThrow();
  });
});

describeWith('postgres', 'A database whose server is lost or silent', (server) => {
  const opened: Database[] = [];
  afterAll(() => Promise.all(opened.map((database) => database.close())));
  let schemas = 0;
  const open = async (options: Partial<DatabaseOptions> = {}): Promise<Database> => {
    const database = await Database.open({ ...tables, environment: 'test', at: { postgresUrl: server().url, schema: `lost_${++schemas}` }, ...options });
    opened.push(database);
    return database;
  };
  const unavailable = expect.objectContaining({ name: 'Refusal', code: 'UNAVAILABLE' });
  const operations = (database: Database) => [
    database.run(insert, [randomUUID(), 'x', 1]),
    database.batch([{ sql: insert, params: [randomUUID(), 'x', 1] }, { sql: 'select 1' }]),
    database.transaction((sql) => sql.selectFrom('test_last_seen').selectAll().execute()),
    ...Array.from({ length: 20 }, () => database.run('select 1')),
  ];
  const all = async (database: Database) => {
    const took = stopwatch();
    const outcomes = await Promise.allSettled(operations(database));
    return { ms: took(), errors: outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : [])), of: outcomes.length };
  };

  it('refuses to read and write state within two seconds, and goes on by itself', async () => {
    const database = await open();
    expect((await all(database)).errors).toEqual([]);
    server().pause();
    try {
      for (let round = 0; round < 2; round++) {
        const { ms, errors, of } = await all(database);
        expect(errors).toEqual(Array.from({ length: of }, () => unavailable));
        expect(ms).toBeLessThan(2_000);
      }
    } finally {
      server().resume();
    }
    expect((await all(database)).errors).toEqual([]);
  });

  it('is neither a reason to crash, nor is anything left of the connections', async () => {
    const [state, read] = [await open(), await open({ kind: 'read' })];
    for (const database of [state, read]) expect((await all(database)).errors).toEqual([]);
    let begun = () => {};
    const inTransaction = new Promise<void>((resolve) => (begun = resolve));
    const cut = Promise.allSettled([state, read].flatMap((database) => [
      database.run('select pg_sleep(60)'),
      database.transaction(async (sql) => {
        await sql.insertInto('test_last_seen').values({ id: 'half', seen_at: 'x', count: 1 }).execute();
        begun();
        await new Promise((resolve) => setTimeout(resolve, 300));
        await sql.selectFrom('test_last_seen').selectAll().execute();
      }),
    ]));
    await inTransaction;
    await server().kill();
    for (const outcome of await cut) expect(outcome).toEqual({ status: 'rejected', reason: unavailable });
    for (const database of [state, read]) {
      const { errors, of } = await all(database);
      expect(errors).toEqual(Array.from({ length: of }, () => unavailable));
    }
    await server().restart();
    for (const database of [state, read]) {
      expect((await all(database)).errors).toEqual([]);
      expect(await ids(database)).not.toContain('half');
    }
  });

  it('gives what takes long the time it needs, where it may take long', async () => {
    const slow: Migration = { name: 'test-3-slow', up: ({ run }) => run('select pg_sleep(1.8)') };
    const [state, read, copied] = await Promise.all([open({ migrations: [lastSeen, slow] }), open({ kind: 'read' }), open({ answerWithinMs: null })]);
    const asleep = 'select 1 as n from pg_sleep(1.8)';
    await expect(state.run(asleep)).rejects.toEqual(unavailable);
    expect((await Promise.all([read, copied].map((database) => database.run(asleep)))).map(({ rows }) => rows)).toEqual([[{ n: 1 }], [{ n: 1 }]]);
    await state.scrub();
    expect((await all(state)).errors).toEqual([]);
  });

  it('does not keep a read model waiting for ever that has gone without a word', async () => {
    const [database, patient] = await Promise.all([open({ kind: 'read', answerWithinMs: 300 }), open({ kind: 'read' })]);
    server().pause();
    try {
      for (const asked of [database.run('select 1'), database.batch([{ sql: 'select 1' }])]) await expect(asked).rejects.toEqual(unavailable);
    } finally {
      server().resume();
    }
    for (const each of [database, patient]) expect((await all(each)).errors).toEqual([]);
  });

  it('is tidied up by several at once without their waiting for each other to let go', async () => {
    const schema = 'tidied';
    const several = await Promise.all([1, 2, 3].map(() => open({ kind: 'read', at: { postgresUrl: server().url, schema } })));
    const [one] = several as [Database];
    await one.run('create table heap (n integer, filler text)');
    await one.run("insert into heap select n, repeat('x', 500) from generate_series(1, 3000) n");
    await one.run('delete from heap where n > 100');
    const took = stopwatch();
    await Promise.all(several.map((database) => database.scrub()));
    expect(took()).toBeLessThan(3_000);
  });

  it('is tidied up without a lock that a process which hangs would keep', async () => {
    const schema = 'unlocked';
    const [one, other] = await Promise.all([1, 2].map(() => open({ at: { postgresUrl: server().url, schema } }))) as [Database, Database];
    const locks = async (which: string) => (await one.run<{ locktype: string }>(`select locktype from pg_locks where ${which}`)).rows;
    const tidied = other.transaction(async (sql) => {
      await sql.executeQuery(CompiledQuery.raw('lock table test_last_seen in share update exclusive mode'));
      const scrubbing = one.scrub();
      while ((await locks('not granted')).length === 0) await sleep(10);
      expect(await locks("locktype = 'advisory'")).toEqual([]);
      return [scrubbing];
    });
    await (await tidied)[0];
  });

  it('lets go of what a process that hangs has locked in the middle of a transaction, and does nothing of that', async () => {
    const at = { postgresUrl: server().url, schema: 'hanging' };
    const [hanging, waiting] = [await open({ kind: 'read', at }), await open({ kind: 'read', at })];
    await waiting.batch([{ sql: insert, many: [['a', 'x', 1], ['b', 'x', 1]] }]);
    const begun = Promise.withResolvers<void>();
    const hung = hanging.transaction(async (sql) => {
      await sql.updateTable('test_last_seen').set({ count: 2 }).execute();
      begun.resolve();
      await sleep(5_500);
    });
    hung.catch(() => undefined);
    await begun.promise;
    expect((await waiting.run("update test_last_seen set seen_at = 'y' where id = 'a'")).changes).toBe(1);
    await expect(hung).rejects.toEqual(unavailable);
    expect((await waiting.run('select seen_at, count from test_last_seen order by id')).rows).toEqual([{ seen_at: 'y', count: 1 }, { seen_at: 'x', count: 1 }]);
    expect((await all(hanging)).errors).toEqual([]);
  }, 15_000);

  it('does not cut off who copies whole tables, or has it alone, while that looks elsewhere', async () => {
    const [copied, read] = [await open({ answerWithinMs: null }), await open({ kind: 'read' })];
    await Promise.all([
      copied.transaction(async (sql) => {
        await sql.insertInto('test_last_seen').values({ id: 'a', seen_at: 'x', count: 1 }).execute();
        await sleep(5_500);
      }),
      read.alone(() => sleep(5_500)),
    ]);
    expect(await ids(copied)).toEqual(['a']);
  }, 15_000);

  it('has the server look whether the machine at the other end is still there', async () => {
    const { rows } = await (await open()).run("select source from pg_settings where name like 'tcp_keepalives_%'");
    expect(rows).toEqual(Array.from({ length: 3 }, () => ({ source: 'client' })));
  });

  it('has a few connections, however much is asked at once', async () => {
    const database = await open({ connections: 2, at: { postgresUrl: `${server().url}&application_name=few`, schema: 'few' } });
    await Promise.all(operations(database));
    expect((await database.run<{ n: number }>("select count(*) as n from pg_stat_activity where application_name = 'few'")).rows).toEqual([{ n: 2 }]);
  });

  it('leaves look-ups a connection that lists cannot take, and refuses a list that would begin when its caller has given up', async () => {
    const database = await open({ kind: 'read', connections: 3 });
    const over = Promise.withResolvers<void>();
    const lists = [1, 2].map(() => database.listing(async (reading) => (await Promise.all([1, 2, 3].map(() => ids(reading))), over.promise)));
    const [patient, hasty] = [database.listing(ids), database.listing(ids, 100)];
    const took = stopwatch();
    expect(await ids(database)).toEqual([]);
    expect(took()).toBeLessThan(1_000);
    await expect(hasty).rejects.toEqual(unavailable);
    over.resolve();
    await Promise.all(lists);
    expect(await patient).toEqual([]);
  });

  it('works no longer on a list than is waited for', async () => {
    const [database, other] = await Promise.all([open({ answerWithinMs: 300 }), open()]);
    await expect(database.listing((lists) => lists.run('select pg_sleep(20), 1 as forlorn'))).rejects.toEqual(unavailable);
    await sleep(200);
    expect((await other.run("select pid from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and query like '%forlorn%'")).rows).toEqual([]);
    expect((await all(database)).errors).toEqual([]);
  });

  it('works no longer on all the statements of a list together than is waited for, and keeps the connection', async () => {
    const database = await open({ kind: 'read', connections: 2 });
    const pid = async (lists: Database) => (await lists.run<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]?.pid;
    const before = await database.listing(pid);
    const took = stopwatch();
    const long = database.listing(async (lists) => {
      await lists.run('select pg_sleep(2)');
      await lists.run('select pg_sleep(2)');
    }, 100);
    const next = database.listing(pid, 10_000);
    await expect(long).rejects.toEqual(unavailable);
    expect([took() < 3_900, await next]).toEqual([true, before]);
    const late = database.listing(async (lists) => (await sleep(3_200), ids(lists).catch(({ code }: { code: string }) => code)), 0);
    expect(await late).toBe('UNAVAILABLE');
  }, 20_000);

  it('still says what is wrong with a statement', async () => {
    const database = await open();
    await database.run(insert, ['a', 'x', 1]);
    await expect(database.run(insert, ['a', 'x', 1])).rejects.toMatchObject({ code: '23505' });
    await expect(database.run('select nothing')).rejects.toMatchObject({ code: '42703' });
  });
});
