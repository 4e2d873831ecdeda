import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it, jest } from '@jest/globals';
import type { RecordedEvent } from '@keyledger/event-store';
import { until } from '@keyledger/testing';
import { defineEntity, p } from '@mikro-orm/sql';
import fc from 'fast-check';
import { Database } from './database.ts';
import { onEveryDialect } from './dialects.contract.ts';
import { deliver, erased, handing, moved, Parcel, ParcelLog, ParcelRow, parcels, rowsIn, sent } from './parcels.contract.ts';
import { Projector, type ProjectorOptions } from './projector.ts';
import { RowTable, type Projection } from './projection.ts';
import { ReadIndex } from './read-index.ts';

const Second = defineEntity({ name: 'Second', tableName: 'test_second', properties: { id: p.string().primary(), revision: p.integer() } });
const second = { ...parcels(), name: 'second', entity: Second, search: undefined, row: (_: unknown, { id, revision }: ParcelRow) => ({ id, revision }) } as unknown as Projection;
/** Of a release that can read what `writeUnreadable` writes. */
const able = { ...parcels(), source: {
  ...Parcel, shapes: { ...Parcel.shapes, ParcelTeleported: { schema: 1 } },
  evolve: (parcel: never, event: never) => ((event as { type: string }).type === 'ParcelTeleported' ? parcel : Parcel.evolve(parcel, event)),
} } as unknown as Projection;

onEveryDialect('A projector', ({ dialect, open, place }) => {
  let log: ParcelLog;
  let database: Database;
  let here: string;
  let running: Projector[];

  beforeEach(async () => {
    log = await ParcelLog.open();
    here = place();
    database = await open({ entities: [ParcelRow], place: here });
    running = [];
  });
  afterEach(async () => {
    await Promise.all(running.map((projector) => projector.close()));
    await log.close();
    // A server has so many connections, for all tests together.
    await database.close();
  });

  const start = async (options: Partial<ProjectorOptions> = {}): Promise<Projector> => {
    const projector = await Projector.start({ store: log.store, database, projections: [parcels()], sealing: log.sealing, parked: () => undefined, ...options });
    running.push(projector);
    return projector;
  };
  const drained = async (projector: Projector): Promise<void> => new ReadIndex(log.store, projector, 10_000).current();
  const dumpOf = async (projector: Projector): Promise<string> => {
    let dump = '';
    for await (const line of projector.dump('parcels')) dump += line;
    return dump;
  };
  const checkpoint = async () => (await database.run<{ position: number }>('select position from projections where serving = 1')).rows[0]?.position;

  it('holds fold(events), row by row, whether it was there from the beginning or not', async () => {
    await log.write('early', sent('Ada'), moved('Bonn'));
    const projector = await start();
    await log.write('live', sent('Grace'));
    await log.write('early', moved('Rome'));
    await log.writeOther();
    await log.write('gone', sent('Alan'), erased);
    await drained(projector);
    expect(await rowsIn(database)).toEqual(await log.expected());
    expect((await rowsIn(database)).map(({ id }) => id)).toEqual(['early', 'live']);
  });

  it('goes on after its checkpoint, also with nothing in memory', async () => {
    const first = await start();
    await log.write('a', sent('Ada'), moved('Bonn'));
    await drained(first);
    await first.close();
    await log.write('a', moved('Rome'));
    await log.write('b', sent('Grace'));
    const seen: number[] = [];
    const second = await start({ store: deliver(log.store, (events) => {
      seen.push(...events.map(({ position }) => position));
      return events;
    }) });
    await drained(second);
    expect(seen).toEqual([3, 4]);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('is not led astray by events that come twice, late or in any order', async () => {
    await fc.assert(fc.asyncProperty(fc.infiniteStream(fc.nat()), fc.integer({ min: 1, max: 4 }), async (numbers, maxFolds) => {
      const random = (below: number) => (numbers.next().value as number) % below;
      const own = await open({ entities: [ParcelRow] });
      const fresh = await ParcelLog.open();
      const past: RecordedEvent[] = [];
      const shuffled = (events: readonly RecordedEvent[]) => {
        past.push(...events);
        const again = Array.from({ length: random(6) }, () => past[random(past.length)] as RecordedEvent);
        return [...events, ...again].map((event) => [random(100), event] as const).sort(([a], [b]) => a - b).map(([, event]) => event);
      };
      const projector = await start({ store: deliver(fresh.store, shuffled), database: own, sealing: fresh.sealing, maxFolds });
      for (let n = 0; n < 30; n++) {
        const id = `p${random(5)}`;
        const event = [sent(`Ada ${n}`), moved(`Bonn ${n}`), moved(`Rome ${n}`), erased][random(12) === 0 ? 3 : random(3)] as ReturnType<typeof sent>;
        const written = fresh.write(id, event);
        if (random(3) === 0) await written;
      }
      await fresh.writeOther();
      await new ReadIndex(fresh.store, projector, 10_000).current();
      expect(await rowsIn(own)).toEqual(await fresh.expected());
      await projector.close();
      await fresh.close();
      await own.close();
    }), { numRuns: dialect === 'sqlite' ? 15 : 10 });
  });

  it('commits rows and checkpoint together: when a commit fails, neither is there, and both come later', async () => {
    let failures = 0;
    const failing = failEvery(2, database, () => failures++);
    const projector = await start({ database: failing.database });
    failing.begin();
    for (let n = 0; n < 6; n++) {
      await log.write(`p${n % 3}`, n < 3 ? sent('Ada') : moved(`Bonn ${n}`));
      const at = await checkpoint() ?? 0;
      const { rows: before } = await database.run<{ revision: number; id: string }>('select id, revision from test_parcels');
      for (const event of await log.store.readAll(0, at)) {
        expect(before.find(({ id }) => `parcel-${id}` === event.stream)?.revision).toBeGreaterThanOrEqual(event.revision);
      }
    }
    await drained(projector);
    expect(failures).toBeGreaterThan(0);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('never moves a row back, nor brings an erased one back', async () => {
    const projector = await start({ maxFolds: 1 });
    await log.write('a', sent('Ada'), moved('Bonn'));
    await log.write('b', sent('Grace'), erased);
    await log.write('c', sent('Alan'));
    await drained(projector);
    const history = await log.store.readAll(0);
    const before = await dumpOf(projector);
    await projector.close();
    const replayed = gate();
    const again = await start({ maxFolds: 1, store: { ...deliver(log.store, (events) => events), subscribe: (after, handler) => {
      void (async () => {
        for (const event of history) await handing(handler)([event]);
        replayed.open();
      })();
      return log.store.subscribe(after, handler);
    } } });
    await replayed.opened;
    await log.write('d', sent('Edsger'));
    await drained(again);
    expect((await dumpOf(again)).split('\n').slice(0, 2).join('\n')).toBe(before.trimEnd());
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('parks a stream that it cannot read, alone, and says so', async () => {
    const announced: string[] = [];
    const projector = await start({ parked: ({ stream }) => announced.push(stream) });
    await log.write('good', sent('Ada'));
    await log.write('bad', sent('Grace'));
    const position = await log.writeUnreadable('bad');
    await log.write('bad', moved('Bonn'));
    await log.write('good', moved('Rome'));
    await drained(projector);
    const [good] = (await log.expected()).filter(({ id }) => id === 'good');
    expect(await rowsIn(database)).toEqual([expect.objectContaining({ id: 'bad', revision: 0, to: 'Grace' }), good]);
    expect(announced).toEqual(['parcel-bad']);
    expect(await projector.parked()).toEqual([
      { projection: 'parcels', stream: 'parcel-bad', position, error: 'Unknown event type ParcelTeleported', since: expect.stringMatching(/^\d{4}-.*Z$/) },
    ]);
  });

  it('knows after a restart what is parked', async () => {
    const first = await start();
    await log.writeUnreadable('bad');
    await drained(first);
    await first.close();
    const second = await start();
    await log.write('bad', sent('Ada'));
    await drained(second);
    expect(await second.parked()).toHaveLength(1);
    expect(await rowsIn(database)).toEqual([]);
  });

  it('catches up with a parked stream at the start of a release that can read it', async () => {
    const old = await start();
    await log.write('bad', sent('Grace'));
    await log.writeUnreadable('bad');
    await log.write('bad', moved('Bonn'));
    await drained(old);
    await old.close();
    const again = await start();
    expect(await again.parked()).toHaveLength(1);
    await again.close();

    const released = await start({ projections: [able] });
    expect(await released.parked()).toEqual([]);
    expect(await rowsIn(database)).toEqual([expect.objectContaining({ id: 'bad', revision: 2, places: ['Bonn'] })]);
    await log.write('bad', moved('Rome'));
    await drained(released);
    expect(await released.parked()).toEqual([]);
    expect(await rowsIn(database)).toEqual([expect.objectContaining({ id: 'bad', revision: 3, places: ['Bonn', 'Rome'] })]);
  });

  it('catches up with a parked stream also in a table that is behind the others at the start, as after a kill', async () => {
    database = await open({ entities: [ParcelRow, Second], place: here });
    const other = { ...second, source: able.source };
    const old = await start({ projections: [parcels(), other] });
    await log.write('bad', sent('Grace'));
    await log.writeUnreadable('bad');
    await log.write('good', sent('Ada'));
    await drained(old);
    await old.close();
    await database.run("update projections set position = position - 1 where name = 'parcels'");
    const released = await start({ projections: [able, other] });
    await until(() => released.parked(), (parked) => parked.length === 0);
    expect(await rowsIn(database)).toEqual([expect.objectContaining({ id: 'bad', revision: 1 }), expect.objectContaining({ id: 'good', revision: 0 })]);
  });

  it('passes over no event of a stream that another process has caught up with at the same moment', async () => {
    const old = await start();
    await log.writeUnreadable('bad');
    await drained(old);
    await old.close();
    let faster: Promise<Projector> | undefined;
    const readStream: typeof log.store.readStream = async (...all) => {
      await (faster ??= start({ projections: [able] }));
      return log.store.readStream(...all);
    };
    const failed: unknown[] = [];
    const slower = await start({ projections: [able], store: { ...deliver(log.store, (events) => events), readStream }, failed: (error) => failed.push(error) });
    await (await faster)?.close();
    for (const id of ['bad', 'good']) {
      await log.write(id, moved('Bonn'));
      await drained(slower);
    }
    expect(await rowsIn(database)).toEqual([expect.objectContaining({ id: 'bad', places: ['Bonn'] }), expect.objectContaining({ id: 'good', places: ['Bonn'] })]);
    expect(failed).toEqual([]);
  });

  it('counts as parked only what its own projections have parked, not those of another service in the same database', async () => {
    const mine = await start();
    const others = await start({ database: await open({ entities: [Second], place: here }), projections: [second] });
    await log.writeUnreadable('bad');
    await Promise.all([drained(mine), drained(others)]);
    expect([await mine.parked(), await others.parked()]).toEqual([[expect.objectContaining({ projection: 'parcels' })], [expect.objectContaining({ projection: 'second' })]]);
  });

  it('parks a stream whose row no table can hold', async () => {
    const row = parcels().row as (state: unknown, where: { id: string; revision: number; at: string }) => ParcelRow | null;
    const projector = await start({ projections: [{ ...parcels(), row: (state, where) => (where.id === 'bad' ? { ...row(state, where), moves: 0.5 } as ParcelRow : row(state, where)) } as Projection] });
    await Promise.all([log.write('bad', sent('Grace')), log.write('good', sent('Ada'))]);
    await drained(projector);
    expect(await projector.parked()).toEqual([expect.objectContaining({ stream: 'parcel-bad', error: 'moves cannot be stored as integer: it is the number 0.5' })]);
    expect((await rowsIn(database)).map(({ id }) => id)).toEqual(['good']);
  });

  it('parks what only the database refuses, and keeps the rest of the batch', async () => {
    await start().then((projector) => projector.close());
    await database.run(dialect === 'sqlite'
      ? `create trigger refuse before insert on test_parcels_v1 when new."to" = 'Grace' begin select raise(abort, 'not her'); end`
      : `alter table test_parcels_v1 add constraint refuse check ("to" <> 'Grace')`);
    const projector = await start();
    await Promise.all([log.write('a', sent('Ada')), log.write('bad', sent('Grace')), log.write('z', sent('Alan'))]);
    await drained(projector);
    expect((await projector.parked()).map(({ stream }) => stream)).toEqual(['parcel-bad']);
    expect((await rowsIn(database)).map(({ id }) => id)).toEqual(['a', 'z']);
  });

  it('builds anew, byte by byte the same, while it goes on serving and following', async () => {
    const projector = await start();
    for (let n = 0; n < 40; n++) await log.write(`p${n % 20}`, n < 20 ? sent(`Ada ${n}`) : n % 7 === 0 ? erased : moved(`Bonn ${n}`));
    await drained(projector);
    const rebuilt = projector.rebuild('parcels');
    let isDone = false;
    void rebuilt.then(() => (isDone = true));
    let written = 0;
    while (!isDone || written < 20) {
      await log.write(`p${written % 25}`, written % 25 < 20 ? moved(`Rome ${written}`) : sent('Grace'));
      if (written++ % 5 === 0) await drained(projector);
      expect((await rowsIn(database)).length).toBeGreaterThan(10);
    }
    await rebuilt;
    await drained(projector);
    const live = await dumpOf(projector);
    expect(await rowsIn(database)).toEqual(await log.expected());
    await projector.rebuild('parcels');
    const sha = (text: string) => createHash('sha256').update(text).digest('hex');
    expect(sha(await dumpOf(projector))).toBe(sha(live));
    const { rows } = await database.run<{ build: number }>('select build from projections');
    expect(rows).toEqual([{ build: 3 }]);
    await expect(database.run('select * from test_parcels_v1')).rejects.toThrow(/test_parcels_v1/);
    await log.write('p1', moved('Paris'));
    await drained(projector);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('fills an empty table stream by stream, reads no stream twice, and misses nothing that is written meanwhile', async () => {
    for (let n = 0; n < 1_200; n++) await log.write(`p${n % 300}`, n < 300 ? sent(`Ada ${n}`) : n % 41 === 0 ? erased : moved(`Bonn ${n}`));
    const read: string[] = [];
    const readAgain = new Set<string>();
    const projector = await start({ store: {
      ...deliver(log.store, (events) => events),
      readStream: (stream, options) => {
        readAgain.add(stream);
        return log.store.readStream(stream, options);
      },
      async readByStream(category, after, limit) {
        const events = await log.store.readByStream?.(category, after, limit) ?? [];
        read.push(...events.map(({ stream, revision }) => `${stream} ${revision}`));
        await log.write(`p${read.length % 7}`, moved(`Rome ${read.length}`));
        return events;
      },
    } });
    await log.write('p1', moved('Paris'));
    await drained(projector);
    expect(new Set(read).size).toBe(read.length);
    expect(read.length).toBeGreaterThanOrEqual(1_200);
    expect(readAgain.size).toBeLessThan(10);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('fills it from the beginning again when the log could not be read on the way', async () => {
    for (let n = 0; n < 9; n++) await log.write(`p${n}`, sent(`Ada ${n}`), ...Array.from({ length: 499 }, (_, m) => moved(`Bonn ${m}`)));
    const [failures, places]: [unknown[], unknown[]] = [[], []];
    const away = Promise.reject<readonly RecordedEvent[]>(new Error('away'));
    // Nobody waits for it yet: without this the process would end. (Jest forgives what is handled later.)
    const listened = jest.spyOn(away, 'catch');
    const projector = await start({ failed: (error) => void failures.push(error), store: {
      ...deliver(log.store, (events) => events),
      readByStream(category, after, limit) {
        places.push(after?.stream);
        return places.length === 2 ? away : log.store.readByStream?.(category, after, limit) ?? Promise.resolve([]);
      },
    } });
    await drained(projector);
    expect(listened).toHaveBeenCalled();
    expect([failures, places.map((stream) => stream !== undefined)]).toEqual([[new Error('away')], [false, true, false, true]]);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('makes the indexes of a table built anew when it is filled, and makes them again when that was cut short', async () => {
    const projector = await start();
    for (let n = 0; n < 30; n++) await log.write(`p${n}`, sent(`Ada ${n}`));
    await drained(projector);
    await projector.close();
    const indexes = async (build: number) => (await database.run<{ name: string }>(dialect === 'sqlite'
      ? `select name from sqlite_master where tbl_name in ('test_parcels_v${build}', 'test_parcels_v${build}_fts', 'test_parcels_fts') and type in ('index', 'trigger') order by name`
      : `select indexname as name from pg_indexes where schemaname = current_schema() and tablename = 'test_parcels_v${build}' order by indexname`)).rows.map(({ name }) => name.replace(`_v${build}`, ''));
    const before = await indexes(1);
    const table = new RowTable(database, parcels());
    const cut = await start({ projections: [{ ...parcels(), version: 2 } as Projection], failed: () => undefined, store: {
      ...deliver(log.store, (events) => events),
      async readByStream() {
        for (const statements of table.index(2)) await database.batch(statements);
        throw new Error('cut');
      },
    } });
    await cut.close();
    const again = await start({ projections: [{ ...parcels(), version: 2 } as Projection] });
    await again.rebuild('parcels');
    await log.write('late', sent('Grace'));
    await drained(again);
    const { rows: [serving] } = await database.run<{ build: number }>('select build from projections where serving = 1');
    expect(await indexes(Number(serving?.build))).toEqual(before);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('forgets who is erased in a table that is still being built as well, whether the row is there already or comes later', async () => {
    const projector = await start();
    for (let n = 0; n < 9; n++) await log.write(`p${n}`, sent(`Ada ${n}`), ...Array.from({ length: 499 }, (_, m) => moved(`Bonn ${m}`)));
    await drained(projector);
    await projector.close();
    const [reached, rest] = [gate(), gate()];
    const again = await start({ store: { ...deliver(log.store, (events) => events), async readByStream(category, after, limit) {
      const events = await log.store.readByStream?.(category, after, limit) ?? [];
      if (after) reached.open();
      if (after) await rest.opened;
      return events;
    } } });
    const rebuilt = again.rebuild('parcels');
    await reached.opened;
    const building = async () => (await database.run<{ id: string }>('select id from test_parcels_v2 order by id')).rows.map(({ id }) => id);
    while (!(await building()).includes('p3')) await sleep(20);
    await again.forget('parcels', ['p1', 'p8']);
    expect(await building()).not.toContain('p1');
    await log.write('p1', erased);
    rest.open();
    await rebuilt;
    expect((await rowsIn(database)).map(({ id }) => id)).toEqual(['p0', 'p2', 'p3', 'p4', 'p5', 'p6', 'p7']);
    await drained(again);
    await again.rebuild('parcels');
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('lets events gather while nobody waits, and nobody wait for them', async () => {
    await log.write('p', sent('Ada'), moved('Bonn'));
    const events = await log.store.readAll(0);
    let handle: (events: readonly RecordedEvent[]) => void | Promise<void> = () => undefined;
    let written = Promise.withResolvers<unknown>();
    const projector = await start({ observe: (batch) => written.resolve(batch), store: {
      ...deliver(log.store, (all) => all),
      subscribe: (after, handler) => {
        handle = handing(handler);
        return { position: after, close: async () => undefined };
      },
    } });
    const isReadyForMore = async (event: RecordedEvent | undefined) => {
      written = Promise.withResolvers();
      let isReady = false;
      const handled = Promise.resolve(handle(event ? [event] : [])).then(() => { isReady = true; });
      await written.promise;
      for (let turn = 0; turn < 20; turn++) await undefined;
      const soon = isReady;
      await handled;
      return soon;
    };
    expect(await isReadyForMore(events[0])).toBe(false);
    projector.hurry(3);
    expect(await isReadyForMore(events[1])).toBe(true);
  });

  it('does not take for done in a table built anew what only the one before had', async () => {
    await log.write('s', sent('Ada'));
    await log.write('x', sent('Grace'));
    await log.write('s', moved('Bonn'));
    const known = await log.store.readAll(0);
    await log.write('s', moved('Rome'));
    let handle: (events: readonly RecordedEvent[]) => void | Promise<void> = () => undefined;
    const projector = await start({ maxFolds: 1, store: {
      ...deliver(log.store, (events) => events),
      readAll: async (after) => known.filter(({ position }) => position > after),
      subscribe: (after, handler) => {
        handle = handing(handler);
        return { position: after, close: async () => undefined };
      },
    } });
    for (const event of known) await handle([event]);
    await projector.rebuild('parcels');
    await handle(await log.store.readAll(3));
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('does not take for done in every table what only one built anew has read ahead', async () => {
    await database.close();
    database = await open({ entities: [ParcelRow, Second], place: here });
    await log.write('s', sent('Ada'));
    const known = await log.store.readAll(0);
    await log.write('s', moved('Rome'));
    await log.write('x', sent('Grace'), ...Array.from({ length: 99 }, (_, n) => moved(`Bonn ${n}`)));
    const { projector, handle } = await byHand({ projections: [parcels(), second], store: { ...deliver(log.store, (events) => events), readAll: async (after) => known.filter(({ position }) => position > after) } });
    await handle(known);
    await projector.rebuild('parcels');
    await handle(await log.store.readAll(1));
    expect(await rowsIn(database)).toEqual(await log.expected());
    expect((await database.run<{ revision: number }>("select revision from test_second where id = 's'")).rows).toMatchObject([{ revision: 1 }]);
  });

  it('lets a table built anew take over only when it has all that the one before shows', async () => {
    for (const id of ['a', 'b', 'c', 'd']) await log.write(id, sent('Ada'));
    const { projector, handle } = await byHand({ store: { ...deliver(log.store, (events) => events), readAll: async (after) => (await log.store.readAll(after)).slice(0, 1) } });
    await handle(await log.store.readAll(0));
    await projector.rebuild('parcels');
    expect((await rowsIn(database)).map(({ id }) => id)).toEqual(['a', 'b', 'c', 'd']);
  });

  it('writes in a table built anew what it could not write at first', async () => {
    await log.write('a', sent('Ada'), ...Array.from({ length: 499 }, (_, n) => moved(`Bonn ${n}`)));
    await log.write('b', sent('Grace'));
    const projector = await start({ store: deliver(log.store, (events) => events) });
    await drained(projector);
    const batch = database.batch.bind(database);
    let writes = 0;
    const spied = jest.spyOn(database, 'batch').mockImplementation(async (statements) => {
      // As if another process had written to the table.
      if (statements.length > 1 && statements[0]?.sql.startsWith('update projections') && ++writes === 2) await database.run('update projections set fence = fence + 1 where serving = 0');
      return batch(statements);
    });
    await projector.rebuild('parcels');
    spied.mockRestore();
    expect(writes).toBeGreaterThan(2);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  /** A projector that gets its batches by hand. */
  async function byHand(options: Partial<ProjectorOptions> & Pick<ProjectorOptions, 'store'>) {
    let handle: (events: readonly RecordedEvent[]) => void | Promise<void> = () => undefined;
    let from = 0;
    const projector = await start({ ...options, store: {
      ...deliver(options.store, (all) => all),
      subscribe: (after, handler) => {
        [from, handle] = [after, handing(handler)];
        return { position: after, close: async () => undefined };
      },
    } });
    return { projector, from, handle: async (events: readonly RecordedEvent[]) => handle(events) };
  }

  it('misses nothing, however the log is cut into batches, whoever is faster, and whatever is forgotten in between', async () => {
    await fc.assert(fc.asyncProperty(fc.infiniteStream(fc.nat()), fc.integer({ min: 1, max: 6 }), async (numbers, maxFolds) => {
      const random = (below: number) => (numbers.next().value as number) % below;
      const fresh = await ParcelLog.open();
      const there = place();
      const written = Array.from({ length: 300 }, (_, n) => fresh.write(`p${random(50)}`, [sent(`Ada ${n}`), moved(`Bonn ${n}`), moved(`Rome ${n}`), erased][random(40) === 0 ? 3 : random(3)] as ReturnType<typeof sent>));
      await Promise.all(written);
      const all = await fresh.store.readAll(0);
      const begin = async () => {
        const own = await open({ entities: [ParcelRow], place: there });
        const { projector, from, handle } = await byHand({ store: fresh.store, database: own, sealing: fresh.sealing, maxFolds });
        return { at: from, handle, end: () => projector.close().then(() => own.close()) };
      };
      const workers = [await begin(), await begin()];
      const looking = await open({ entities: [ParcelRow], place: there });
      const erasedStreams = new Set(all.filter(({ type }) => type === 'ParcelErased').map(({ stream }) => stream));
      /** Streams whose row lacks what the checkpoint says is there. */
      const missing = async () => {
        const { rows: [checkpointed] } = await looking.run<{ position: number }>('select position from projections');
        const shown = new Map((await rowsIn(looking)).map(({ id, revision }) => [`parcel-${id}`, revision]));
        return all.slice(0, Number(checkpointed?.position)).filter(({ stream, revision }) => !erasedStreams.has(stream) && (shown.get(stream) ?? -1) < revision);
      };
      while (workers.some(({ at }) => at < all.length)) {
        await Promise.all(workers.map(async (worker, n) => {
          const dice = random(8);
          if (dice === 0) await worker.end();
          if (dice === 0) workers[n] = await begin();
          if (dice < 3) return;
          await worker.handle(all.slice(worker.at, (worker.at += 1 + (random(2) ? 100 + random(60) : random(10)))));
        }));
        expect(await missing()).toEqual([]);
      }
      expect(await rowsIn(looking)).toEqual(await fresh.expected());
      for (const { end } of workers) await end();
      await looking.close();
      await fresh.close();
    }), { numRuns: 4 });
  });

  it('misses nothing of a long batch that begins with what the row shows already', async () => {
    const handed = async (events: readonly RecordedEvent[]) => {
      const { projector, handle } = await byHand({ store: log.store });
      await handle(events);
      await projector.close();
    };
    await log.write('s', sent('Ada'));
    await handed(await log.store.readAll(0));
    await log.write('s', moved('Bonn'), moved('Rome'));
    // Whoever has nothing in memory reads the stream to its end: the row is ahead of the checkpoint.
    await handed(await log.store.readAll(1, 1));
    expect([await checkpoint(), (await rowsIn(database))[0]?.place]).toEqual([2, 'Rome']);

    await log.write('s', moved('Paris'));
    for (let n = 0; n < 100; n++) await log.write(`p${n}`, sent('Grace'));
    await handed(await log.store.readAll(2));
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('lets only a newer row take the place of another', async () => {
    await start().then((projector) => projector.close());
    const table = new RowTable(database, parcels());
    const row = (revision: number) => table.values({ id: 'a', revision, to: `Ada ${revision}`, place: null, moves: 0, isMoved: false, places: [], at: '' }, '');
    for (const revision of [3, 2, 3, 5, 4]) await database.batch([table.upsert(1, [row(revision)])]);
    expect((await rowsIn(database)).map(({ to }) => to)).toEqual(['Ada 5']);
  });

  it('sets what no index has by itself only while nothing that one has changes, and only for newer rows', async () => {
    await start().then((projector) => projector.close());
    const table = new RowTable(database, parcels());
    const row = (revision: number, to: string, moves: number) => table.values({ id: 'a', revision, to, place: null, moves, isMoved: false, places: [], at: '' }, to);
    const write = (...values: Parameters<typeof row>) => database.batch([...table.touch(1, [row(...values)]), table.upsert(1, [row(...values)])]);
    const found = async () => (await rowsIn(database)).map(({ revision, to, moves }) => ({ revision, to, moves }));
    await write(1, 'Ada', 1);
    await write(2, 'Ada', 2);
    expect(await found()).toEqual([{ revision: 2, to: 'Ada', moves: 2 }]);
    await write(1, 'Ada', 7);
    await write(3, 'Grace', 3);
    expect(await found()).toEqual([{ revision: 3, to: 'Grace', moves: 3 }]);
  });

  it('serves the old rows to a new release until its own are built', async () => {
    const old = await start();
    await log.write('a', sent('Ada'), moved('Bonn'));
    await log.write('b', sent('Grace'));
    await drained(old);
    await old.close();
    await database.close();

    const Wider = defineEntity({ name: 'ParcelRow', tableName: 'test_parcels', properties: {
      id: p.string().primary(), revision: p.integer(), to: p.string().nullable(), shout: p.string().nullable() } });
    const { row: _, ...rest } = parcels();
    const wider = { ...rest, version: 2, entity: Wider, row: ({ to }: { to: string }, { id, revision }: { id: string; revision: number }) => ({ id, revision, to, shout: `${to}!` }), search: () => 'x' } as unknown as Projection<ParcelRow>;
    database = await open({ entities: [Wider], place: here });
    const hold = gate();
    const seen = [] as unknown[];
    const projector = await start({ projections: [wider], store: { ...deliver(log.store, (events) => events), readAll: async (...all) => {
      await hold.opened;
      return log.store.readAll(...all);
    } } });
    seen.push(await rowsIn(database, wider));
    await log.write('a', moved('Rome'));
    await drained(projector);
    seen.push(await rowsIn(database, wider));
    const swapped = projector.rebuild('parcels');
    hold.open();
    await swapped;
    seen.push(await rowsIn(database, wider));
    expect(seen).toEqual([
      [{ id: 'a', revision: 1, to: 'Ada', shout: null }, { id: 'b', revision: 0, to: 'Grace', shout: null }],
      [{ id: 'a', revision: 2, to: 'Ada', shout: 'Ada!' }, { id: 'b', revision: 0, to: 'Grace', shout: null }],
      [{ id: 'a', revision: 2, to: 'Ada', shout: 'Ada!' }, { id: 'b', revision: 0, to: 'Grace', shout: 'Grace!' }],
    ]);
  });

  it('takes up a rebuild that was cut short', async () => {
    const first = await start();
    for (let n = 0; n < 10; n++) await log.write(`p${n}`, sent(`Ada ${n}`));
    await drained(first);
    await first.close();
    const stuck = gate();
    const second = await start({ projections: [{ ...parcels(), version: 2 } as Projection], store: { ...deliver(log.store, (events) => events), readAll: async () => {
      await stuck.opened;
      throw new Error('cut');
    } }, failed: () => undefined });
    const closing = second.close();
    stuck.open();
    await closing;
    const third = await start({ projections: [{ ...parcels(), version: 2 } as Projection] });
    await third.rebuild('parcels');
    expect((await database.run<{ build: number; version: string }>('select build from projections')).rows).toEqual([{ build: 2 }]);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('may run in several processes at once', async () => {
    const other = await open({ entities: [ParcelRow], place: here });
    const [mine, yours] = [await start(), await start({ database: other })];
    for (let n = 0; n < 60; n++) await log.write(`p${n % 12}`, n < 12 ? sent(`Ada ${n}`) : n % 13 === 0 ? erased : moved(`Bonn ${n}`));
    await Promise.all([drained(mine), drained(yours)]);
    expect(await rowsIn(database)).toEqual(await log.expected());
    await mine.rebuild('parcels');
    await log.write('p1', moved('Rome'));
    await Promise.all([drained(mine), drained(yours)]);
    expect(await rowsIn(database)).toEqual(await log.expected());
    expect(await rowsIn(other)).toEqual(await log.expected());
  });

  it('writes again what the database has lost since it was written, as when a standby takes over', async () => {
    const projector = await start();
    await log.write('a', sent('Ada'));
    await drained(projector);
    const { rows: [{ position, fence } = { position: 0, fence: 0 }] } = await database.run<{ position: number; fence: number }>('select position, fence from projections');
    for (const id of ['b', 'c']) {
      await log.write(id, sent('Grace'));
      await drained(projector);
    }
    await database.batch([{ sql: "delete from test_parcels_v1 where id <> 'a'" }, { sql: 'update projections set position = ?, fence = ?', params: [position, fence] }]);
    await log.write('d', sent('Alan'));
    await drained(projector);
    expect(await rowsIn(database)).toEqual(await log.expected());
    await log.write('a', moved('Bonn'));
    await drained(projector);
    expect(await rowsIn(database)).toEqual(await log.expected());
  });

  it('misses nothing in a table that it is alone to have, where another process was faster with the others', async () => {
    const Own = defineEntity({ name: 'Own', tableName: 'test_own', properties: { id: p.string().primary(), revision: p.integer() } });
    const own = { ...parcels(), name: 'own', entity: Own, search: undefined, row: (_: unknown, { id, revision }: ParcelRow) => ({ id, revision }) } as unknown as Projection;
    const other = await start();
    await log.write('a', sent('Ada'));
    await drained(other);
    const [read, done] = [gate(), gate()];
    const slow = deliver(log.store, (events) => events);
    const mine = await start({
      database: await open({ entities: [ParcelRow, Own], place: here }), projections: [parcels(), own],
      store: {
        ...slow,
        readAll: async (...all) => {
          const events = await log.store.readAll(...all);
          await read.opened;
          return events;
        },
        subscribe: (after, handler) => log.store.subscribe(after, async (events, ...rest) => {
          await drained(other);
          await handler(events, ...rest);
          if ((events.at(-1)?.position ?? 0) >= 2) done.open();
        }),
      },
    });
    await log.write('a', moved('Bonn'));
    await done.opened;
    read.open();
    await log.write('b', sent('Grace'));
    await drained(mine);
    expect((await database.run('select id, revision from test_own order by id')).rows).toEqual((await log.expected()).map(({ id, revision }) => ({ id, revision })));
  });

  if (dialect === 'postgres') {
    it('may begin in several processes at the same moment, with nothing there yet', async () => {
      const others = await Promise.all([1, 2, 3].map(() => open({ entities: [ParcelRow], place: here })));
      await log.write('p1', sent('Ada'), moved('Bonn'));
      const projectors = await Promise.all([database, ...others].map((own) => start({ database: own })));
      await Promise.all(projectors.map((projector) => drained(projector)));
      expect(await rowsIn(database)).toEqual(await log.expected());
      expect((await database.run('select name, build from projections')).rows).toEqual([{ name: 'parcels', build: 1 }]);
    });
  }

  if (dialect === 'postgres') {
    /** A process that fills the table from the beginning, of which each of these pages is one; `began` counts how often. */
    const filling = async (options: Partial<ProjectorOptions>, page: (n: number) => Promise<unknown>) => {
      const counts = { began: 0, pages: 0 };
      const projector = await start({ ...options, store: {
        ...deliver(log.store, (events) => events),
        async readByStream(category, after, limit) {
          if (!after) counts.began++;
          await page(++counts.pages);
          return await log.store.readByStream?.(category, after, limit) ?? [];
        },
      } });
      return { projector, counts };
    };
    const fence = async () => Number((await database.run<{ fence: number }>('select max(fence) as fence from projections')).rows[0]?.fence);
    const manyParcels = async () => {
      for (let n = 0; n < 9; n++) await log.write(`p${n}`, sent(`Ada ${n}`), ...Array.from({ length: 499 }, (_, m) => moved(`Bonn ${m}`)));
    };

    it('is filled by one of several processes, and the others wait for it', async () => {
      const others = await Promise.all([1, 2].map(() => open({ entities: [ParcelRow], place: here })));
      await manyParcels();
      const rest = gate();
      const first = await filling({}, async (n) => n > 1 && rest.opened);
      while (await fence() < 2) await sleep(20);
      const later = await Promise.all(others.map((own) => filling({ database: own }, async () => undefined)));
      await sleep(600);
      rest.open();
      for (const { projector } of [first, ...later]) await drained(projector);
      expect([first, ...later].map(({ counts: { began } }) => began)).toEqual([1, 0, 0]);
      expect(await rowsIn(database)).toEqual(await log.expected());
    });

    it('is filled by one of several processes also when they begin at the same moment', async () => {
      const others = await Promise.all([1, 2].map(() => open({ entities: [ParcelRow], place: here })));
      await manyParcels();
      const all = await Promise.all([database, ...others].map((own) => filling({ database: own }, async () => undefined)));
      for (const { projector } of all) await drained(projector);
      expect(Math.max(...all.map(({ counts: { began } }) => began))).toBe(1);
      expect(await rowsIn(database)).toEqual(await log.expected());
    });

    it('is filled by another when the one that began gives no sign of life for some seconds', async () => {
      const other = await open({ entities: [ParcelRow], place: here });
      await manyParcels();
      const stuck = gate();
      await filling({}, async (n) => n > 1 && stuck.opened);
      while (await fence() < 2) await sleep(20);
      const startedAt = performance.now();
      const heir = await filling({ database: other }, async () => undefined);
      await drained(heir.projector);
      expect(performance.now() - startedAt).toBeGreaterThan(4_000);
      expect(heir.counts.began).toBe(1);
      expect(await rowsIn(other)).toEqual(await log.expected());
      // Perhaps it was only slow.
      stuck.open();
      await log.write('p1', moved('Paris'));
      await Promise.all(running.map((projector) => drained(projector)));
      expect(await rowsIn(database)).toEqual(await log.expected());
    });

    it('gives signs of life while it makes an index', async () => {
      const projector = await start();
      await log.write('a', sent('Ada'));
      await drained(projector);
      const [indexing, made] = [gate(), gate()];
      const slow = new Proxy(database, { get(target, name) {
        const value: unknown = Reflect.get(target, name, target);
        if (name !== 'batch') return typeof value === 'function' ? value.bind(target) : value;
        return async (...all: Parameters<Database['batch']>) => {
          if (/create index/.test(all[0][0]?.sql ?? '')) {
            indexing.open();
            await made.opened;
          }
          return target.batch(...all);
        };
      } });
      await projector.close();
      const rebuilt = (await start({ database: slow })).rebuild('parcels');
      await indexing.opened;
      const before = await fence();
      while (await fence() < before + 2) await sleep(50);
      made.open();
      await rebuilt;
      expect(await rowsIn(database)).toEqual(await log.expected());
    }, 15_000);
  }

  it('adds a projection to those that are far ahead', async () => {
    const first = await start();
    for (let n = 0; n < 10; n++) await log.write(`p${n}`, sent(`Ada ${n}`), moved('Bonn'));
    await drained(first);
    await first.close();
    await database.close();
    database = await open({ entities: [ParcelRow, Second], place: here });
    const projector = await start({ projections: [parcels(), second] });
    await log.write('p3', moved('Rome'));
    await drained(projector);
    expect((await database.run('select id, revision from test_second order by id')).rows).toEqual((await log.expected()).map(({ id, revision }) => ({ id, revision })));
  });

  it('writes to every environment\'s dialect the same dump', async () => {
    const projector = await start();
    await log.write('é', sent('Zoë \u0000 \ud83d'), moved('ﬁ'));
    await log.write('Z', sent('"\\'), moved('ß'));
    await log.write('a', sent('x'));
    await drained(projector);
    expect((await dumpOf(projector)).replaceAll(/2026-[^"]*Z/g, 'T')).toBe([
      '{"at":"T","id":"Z","isMoved":true,"moves":1,"place":"ß","places":["ß"],"revision":1,"to":"\\"\\\\"}',
      '{"at":"T","id":"a","isMoved":false,"moves":0,"place":null,"places":[],"revision":0,"to":"x"}',
      '{"at":"T","id":"é","isMoved":true,"moves":1,"place":"ﬁ","places":["ﬁ"],"revision":1,"to":"Zoë \ufffd \ufffd"}',
      '',
    ].join('\n'));
  });

  if (dialect === 'sqlite') {
    it('loses nothing and doubles nothing when its process is killed', async () => {
      const directory = mkdtempSync(join(tmpdir(), 'keyledger-'));
      for (let kills = 0; kills < 3; kills++) {
        const loader = fileURLToPath(new URL('../../../tools/swc-register.mjs', import.meta.url));
        const child = spawn(process.execPath, ['--conditions=@keyledger/source', '--no-warnings', '--import', loader, fileURLToPath(new URL('./follow.contract.ts', import.meta.url)), directory]);
        let batches = 0;
        child.stdout.on('data', (dots: Buffer) => {
          if ((batches += dots.length) > 20 + 7 * kills) child.kill('SIGKILL');
        });
        expect((await once(child, 'exit'))[1]).toBe('SIGKILL');
        const own = await ParcelLog.open(directory);
        const found = await Database.open({ kind: 'read', environment: 'test', entities: [ParcelRow], at: { sqliteFile: join(directory, 'read.db') } });
        const { rows: [saved] } = await found.run<{ position: number }>('select position from projections');
        const { rows } = await found.run<{ id: string; revision: number }>('select id, revision from test_parcels');
        const shown = new Map(rows.map(({ id, revision }) => [`parcel-${id}`, revision]));
        const last = new Map((await own.store.readAll(0, saved?.position)).map((event) => [event.stream, event]));
        expect(saved?.position).toBeGreaterThan(kills);
        expect([...last.values()].filter(({ stream, revision, type }) => (shown.has(stream) ? type !== 'ParcelErased' : stream.startsWith('parcel-q')) && (shown.get(stream) ?? -1) < revision)).toEqual([]);
        const projector = await start({ store: own.store, database: found, sealing: own.sealing });
        await new ReadIndex(own.store, projector, 10_000).current();
        expect(await rowsIn(found)).toEqual(await own.expected());
        await projector.close();
        await found.close();
        await own.close();
      }
      rmSync(directory, { recursive: true });
    }, 60_000);

    it('switches off what an older release had switched on in its full-text index, where it made changes slow', async () => {
      await (await start()).close();
      const setting = async () => (await database.run("select v from test_parcels_fts_config where k = 'secure-delete'")).rows;
      await database.run("insert into test_parcels_fts (test_parcels_fts, rank) values ('secure-delete', 1)");
      expect(await setting()).toEqual([{ v: 1 }]);
      await database.close();
      database = await open({ entities: [ParcelRow], place: here });
      expect(await setting()).toEqual([{ v: 0 }]);
    });

    it('leaves nothing to read of an erased row in any file', async () => {
      const projector = await start();
      const names = ['ꓐꓑꓒꓓꓔꓕ', 'Mnemosyne-Xq'];
      for (let n = 0; n < 50; n++) await log.write(`p${n}`, sent(`${names.join(' ')} ${n}`), moved('Bonn'));
      for (let n = 0; n < 400; n++) await log.write(`q${n}`, sent(`Somebody else ${n}`));
      await drained(projector);
      const traces = () => [...names, 'ꓐ', 'mnemosyne'].filter((text) => ['', '-wal', '-shm'].some((end) => readFileSync(here + end).includes(text)));
      expect(traces()).not.toEqual([]);
      for (let n = 0; n < 50; n++) await log.write(`p${n}`, n % 2 ? erased : sent('Nobody'));
      await drained(projector);
      await database.scrub();
      expect(traces()).toEqual([]);
    });
  }
});

/** A database whose every n-th batch, once it has begun, fails before it does anything. */
function failEvery(n: number, database: Database, onFailure: () => void): { readonly database: Database; begin(): void } {
  let batches = -Infinity;
  const failing = new Proxy(database, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (name === 'batch') {
        return (...all: Parameters<Database['batch']>) => {
          if (++batches < 0 || batches % n !== 0) return target.batch(...all);
          onFailure();
          return Promise.reject(new Error('disk I/O error'));
        };
      }
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  return { database: failing, begin: () => (batches = 0) };
}

function gate(): { readonly opened: Promise<void>; open(): void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { opened: promise, open: resolve };
}
