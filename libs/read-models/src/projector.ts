import { setTimeout as sleep } from 'node:timers/promises';
import { decode, originOf, sealedSubjects, subjectOf, type EventStore, type Position, type RecordedEvent, type Subscription } from '@keyledger/event-store';
import type { Sealer, Sealing } from '@keyledger/kernel';
import { isTracing, traced, withRemoteParent } from '@keyledger/observability';
import { LRUCache } from 'lru-cache';
import { SqlFailure, type Database, type SqlValue, type Statement } from './database.ts';
import { RowTable, type Projection, type ProjectionRow } from './projection.ts';
import { mustReach, type View } from './read-index.ts';
import { searchTextOf } from './search.ts';

/** A stream that a projection could not fold: its row stays as of the event before, the later ones wait. */
export interface Parked {
  readonly projection: string;
  readonly stream: string;
  /** Of the event that was being applied when it went wrong. */
  readonly position: Position;
  readonly error: string;
  /** When that event was recorded. */
  readonly since: string;
}

export interface ProjectorOptions {
  readonly store: EventStore;
  readonly database: Database;
  readonly projections: readonly Projection[];
  readonly sealing: Sealing;
  /** Folded states kept, per source. Default 25,000. */
  readonly maxFolds?: number;
  /** A stream has been parked. Default: a process warning. */
  readonly parked?: (parked: Parked) => void;
  /** Building a table met an error that is no event's fault (a full disk, a lost connection); it is tried again. Default: a process warning. */
  readonly failed?: (error: unknown) => void;
  /** After every batch: events looked at, rows written, seconds taken. */
  readonly observe?: (batch: { readonly events: number; readonly rows: number; readonly seconds: number }) => void;
}

const MAX_FOLDS = 25_000;
/** Some ten milliseconds, on either thread. */
const EVENTS_PER_BATCH = 500;
const EVENTS_PER_FILL = 2_000;
const PAGE = 1_000;
const PAGE_TO_CATCH_UP = 4 * PAGE;
/** A batch this large means that there is more to come; then it pays to read a stream to its end at first sight. */
const CATCHING_UP = 100;
/** Positions that may pass without a row before the checkpoint is saved for their sake. */
const UNSAVED_POSITIONS = 1_000;
/** After a batch others may gather, because many rows cost hardly more than one; not while somebody waits. */
const GATHER_MS = 10;
const RETRY_MS = 1_000;
const FOLLOW_MS = 50;

interface Fold {
  state: unknown;
  revision: number;
  at: string;
}
type Folds = Map<Projection['source'], LRUCache<string, Fold>>;

interface Registered {
  readonly build: number;
  readonly version: string;
  readonly position: number;
  readonly serving: boolean;
  readonly columns: string;
  readonly fence: number;
}

/** What a batch does to one table. */
interface Changes {
  readonly rows: Map<string, readonly SqlValue[]>;
  readonly gone: Set<string>;
  readonly parked: Parked[];
}

/** One table of a projection on its way through the log. */
class Lane {
  readonly projection: Projection;
  readonly table: RowTable;
  readonly build: number;
  readonly version: string;
  /** Applied, and visible to queries. */
  position: Position;
  saved: Position;
  /** Counts what anybody has done to this table. Who does not know the last of it must look again. */
  fence: number;
  serving: boolean;
  /** Another process with a newer release keeps this projection; here it is only waited for. */
  following = false;
  readonly parked = new Set<string>();
  #listeners: (() => void)[] = [];

  constructor(projection: Projection, table: RowTable, { build, version, position, serving, fence }: Registered) {
    this.projection = projection;
    this.table = table;
    this.build = build;
    this.version = version;
    this.position = this.saved = position;
    this.serving = serving;
    this.fence = fence;
  }

  advance(position: Position): void {
    if (position <= this.position) return;
    this.position = position;
    for (const listener of this.#listeners) listener();
  }

  onAdvance(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Queries now see `successor`, which may be further: those who wait do so there. */
  hand(successor: Lane): void {
    for (const listener of this.#listeners.splice(0)) {
      successor.onAdvance(listener);
      listener();
    }
  }
}

/**
 * Keeps the tables of an environment's projections: every row is its stream's state, and rows and checkpoint are committed together.
 * Any number of processes may run one on the same PostgreSQL schema; whoever commits a batch first has done it for all.
 */
export class Projector implements View {
  readonly #options: ProjectorOptions;
  readonly #stop = new AbortController();
  readonly #folds: Folds;
  /** The tables fed by the subscription, all at the same position. */
  #live: Lane[] = [];
  #subscription: Subscription | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  readonly #catchingUp = new Map<Lane, Promise<void>>();
  readonly #serving = new Map<string, Lane>();
  /** Where the subscription is, whether or not a table was there to be fed. */
  #followed: Position = 0;
  #wanted: Position = 0;
  #endRest: (() => void) | undefined;

  /** Resolves when it follows the log; it may be far behind then, see ReadIndex. */
  static async start(options: ProjectorOptions): Promise<Projector> {
    const projector = new Projector(options);
    await projector.#start();
    return projector;
  }

  private constructor(options: ProjectorOptions) {
    this.#options = options;
    this.#folds = this.#newFolds();
  }

  /** All queries see at least this. */
  get position(): Position {
    return Math.min(...[...this.#serving.values()].map(({ position }) => position));
  }

  onAdvance(listener: () => void): void {
    for (const lane of this.#serving.values()) lane.onAdvance(listener);
  }

  hurry(position: Position): void {
    this.#wanted = Math.max(this.#wanted, position);
    this.#subscription?.hurry?.(position);
    this.#endRest?.();
  }

  /** How far one projection is. */
  view({ name }: Pick<Projection, 'name'>): View {
    const lane = () => this.#laneOf(name);
    return { get position() { return lane().position; }, onAdvance: (listener) => lane().onAdvance(listener) };
  }

  async parked(): Promise<readonly Parked[]> {
    const { rows } = await this.#options.database.run<Parked>(
      `select k.projection, k.stream, k.position, k.error, k.since from parked k join projections p on p.name = k.projection and p.build = k.build
      where p.serving = 1 order by k.projection, k.stream`);
    return rows;
  }

  /** Tries the stream again from its beginning, in every projection that parked it. Resolves to those that still cannot fold it. */
  unpark(stream: string): Promise<readonly Parked[]> {
    return this.#alone(async () => {
      await this.#reload();
      for (const lane of this.#live.filter(({ parked }) => parked.has(stream))) {
        const events = await this.#read(stream, 0);
        const changes = this.#project([lane], stream, undefined, events, await this.#sealer(events)).get(lane) ?? newChanges();
        if (changes.parked.length > 0) continue;
        const statements = [...this.#statements(lane, changes), this.#unparked(lane, stream)];
        try {
          await this.#save([{ lane, position: lane.position, statements }]);
          lane.parked.delete(stream);
        } catch (error) {
          if (!isDataError(error)) throw error;
        }
      }
      return (await this.parked()).filter((parked) => parked.stream === stream);
    });
  }

  /** Builds the projection anew from the first event while the present table goes on serving; resolves when the new one has taken over. */
  async rebuild(name: string): Promise<void> {
    const serving = this.#laneOf(name);
    const building = [...this.#catchingUp.keys()].find((lane) => lane.projection.name === name) ?? await this.#build(serving);
    await (this.#catchingUp.get(building) ?? this.#catchUp(building));
  }

  /** The rows that queries see, one line of JSON each, ordered by id: equal states give equal dumps, byte by byte, in both dialects. */
  async *dump(name: string): AsyncGenerator<string> {
    const { table } = this.#laneOf(name);
    let after = '';
    for (;;) {
      const { sql, params } = table.page(after, PAGE);
      const { rows } = await this.#options.database.run(sql, params);
      for (const row of rows) yield `${table.canonical(row)}\n`;
      if (rows.length < PAGE) return;
      after = String(rows.at(-1)?.id);
    }
  }

  /** Resolves when nothing is under way any more. What was applied is kept. */
  async close(): Promise<void> {
    this.#stop.abort();
    this.#endRest?.();
    await this.#subscription?.close();
    await Promise.all(this.#catchingUp.values());
    await this.#alone(async () => {
      const unsaved = this.#live.filter((lane) => !lane.following && lane.position > lane.saved);
      // Another process that was faster is no reason not to end.
      if (unsaved.length > 0) await this.#save(unsaved.map((lane) => ({ lane, position: lane.position, statements: [] }))).catch(ignoreFenced);
    });
  }

  // ---- tables and their versions ------------------------------------------------------------------------------------------------

  async #start(): Promise<void> {
    const { database, projections, store } = this.#options;
    await database.alone(async () => {
      await createRegister(database);
      for (const projection of projections) await this.#open(projection);
    });
    const serving = [...this.#serving.values()];
    const furthest = Math.max(0, ...serving.map(({ position }) => position));
    await mustReach(store, furthest, database.environment);
    // Tables that all have to be filled from nothing are better filled beside the subscription.
    const from = furthest > 0 ? furthest : await this.#emptyTablesFrom(await store.head());
    this.#live = serving.filter(({ position }) => position === from);
    for (const lane of serving.filter(({ position }) => position < from)) void this.#catchUp(lane);
    this.#followed = from;
    this.#subscription = store.subscribe(from, async (events) => {
      await this.#alone(() => this.#follow(events));
      await this.#rest();
    }, [...new Set(projections.map(({ source }) => source.category))]);
  }

  #emptyTablesFrom(head: Position): Position {
    return this.#options.store.readByStream && head > PAGE ? head : 0;
  }

  /** Ends early when a reader wants more than is there. */
  #rest(): Promise<void> | void {
    if (this.#wanted > this.position || this.#stop.signal.aborted) return;
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#endRest?.(), GATHER_MS);
      this.#endRest = () => {
        clearTimeout(timer);
        this.#endRest = undefined;
        resolve();
      };
    });
  }

  /** Finds the table that serves a projection, or makes it; takes up or begins a new one when that is of another version. */
  async #open(projection: Projection): Promise<void> {
    const table = new RowTable(this.#options.database, projection);
    const version = `${projection.version}-${table.shape}`;
    const registered = await this.#registered(projection.name);
    const there = registered.find(({ serving }) => serving);
    if (!there) {
      const first: Registered = { build: 1, version, position: 0, serving: true, columns: JSON.stringify(table.columnNames), fence: 0 };
      await this.#options.database.batch([...table.drop(1), ...table.create(1), ...table.serve(1), this.#register(projection, first)]);
      return this.#open(projection);
    }
    const serving = new Lane(projection, table, there);
    this.#serving.set(projection.name, serving);
    await this.#loadParked(serving);
    const building = registered.find((other) => !other.serving && other.version === version);
    for (const stale of registered.filter((other) => !other.serving && other !== building)) {
      await this.#options.database.batch([...table.drop(stale.build), ...this.#forget(projection.name, stale.build)]);
    }
    if (there.version !== version) {
      const columns = JSON.parse(there.columns) as string[];
      const wider = JSON.stringify([...new Set([...columns, ...table.columnNames])]);
      await this.#options.database.batch([
        ...table.extend(there.build, columns), { sql: 'update projections set columns = ? where name = ? and build = ?', params: [wider, projection.name, there.build] },
      ]);
    }
    if (building) {
      const lane = new Lane(projection, table, building);
      await this.#loadParked(lane);
      void this.#catchUp(lane);
    } else if (there.version !== version) void this.#catchUp(await this.#build(serving));
  }

  async #build({ projection, table }: Lane): Promise<Lane> {
    const builds = (await this.#registered(projection.name)).map(({ build }) => build);
    const registered: Registered = {
      build: Math.max(...builds) + 1, version: `${projection.version}-${table.shape}`, position: 0, serving: false, columns: JSON.stringify(table.columnNames), fence: 0,
    };
    await this.#options.database.batch([...table.create(registered.build, true), this.#register(projection, registered)]);
    return new Lane(projection, table, registered);
  }

  #catchUp(lane: Lane): Promise<void> {
    const running = this.#readUp(lane).finally(() => this.#catchingUp.delete(lane));
    this.#catchingUp.set(lane, running);
    return running;
  }

  async #readUp(lane: Lane): Promise<void> {
    const folds = this.#newFolds();
    while (!this.#stop.signal.aborted) {
      try {
        if (lane.position === 0) await this.#fill(lane);
        const events = await this.#options.store.readAll(lane.position, PAGE_TO_CATCH_UP);
        await this.#applyAll([lane], events, folds, true);
        if (events.length < PAGE && await this.#alone(() => this.#join(lane, folds))) return;
      } catch (error) {
        folds.forEach((own) => own.clear());
        if (isFenced(error)) {
          if (!await this.#reloaded(lane)) return;
        } else {
          (this.#options.failed ?? warn)(error);
          await sleep(RETRY_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
        }
      }
    }
  }

  /** An empty table gets its rows stream by stream, so that each event is read and each row written once; what happens meanwhile follows in log order. */
  async #fill(lane: Lane): Promise<void> {
    const { store } = this.#options;
    const { source } = lane.projection;
    const head = await store.head();
    if (!store.readByStream || head === 0) return this.#index(lane);
    const folds = this.#newFolds();
    let reading = store.readByStream(source.category, undefined, PAGE_TO_CATCH_UP);
    let writing: Promise<void> | undefined;
    for (let isMore = true; isMore && !this.#stop.signal.aborted;) {
      const events = await reading;
      isMore = events.length === PAGE_TO_CATCH_UP;
      if (isMore) reading = store.readByStream(source.category, events.at(-1), PAGE_TO_CATCH_UP);
      for (let from = 0; from < events.length; from += EVENTS_PER_FILL) {
        const changes = new Map([[lane, newChanges()]]);
        await this.#foldBatch(source, [lane], events.slice(from, from + EVENTS_PER_FILL), folds, false, changes);
        await writing;
        writing = this.#write(changes, lane.position);
        // It is awaited in the next round, or below.
        writing.catch(() => undefined);
      }
    }
    await writing;
    if (this.#stop.signal.aborted) return;
    await this.#index(lane);
    await this.#save([{ lane, position: head, statements: [] }]);
    lane.advance(head);
  }

  /** Over rows that are there an index costs a third of what it costs row by row. */
  async #index({ table, build, serving }: Lane): Promise<void> {
    if (serving) return;
    for (const statements of table.index(build)) await this.#options.database.batch(statements);
  }

  /** The last stretch and the change-over happen between two live batches. False when the log is still ahead. */
  async #join(lane: Lane, folds: Folds): Promise<boolean> {
    const live = this.#followed;
    const rest = lane.position < live ? await this.#options.store.readAll(lane.position, PAGE) : [];
    await this.#applyAll([lane], rest, folds, true);
    if (lane.position < live) return false;
    if (!lane.serving) await this.#takeOver(lane, this.#laneOf(lane.projection.name));
    this.#live.push(lane);
    // They say what the other tables hold; this one may lack it.
    this.#folds.forEach((own) => own.clear());
    return true;
  }

  async #takeOver(lane: Lane, old: Lane): Promise<void> {
    const { name } = lane.projection;
    await this.#options.database.batch([
      { sql: 'update projections set serving = 1, position = ?, fence = fence + 1 where name = ? and build = ? and fence = ?', params: [lane.position, name, lane.build, lane.fence], expect: 1 },
      ...this.#forget(name, old.build),
      ...lane.table.serve(lane.build, old.build),
    ]);
    lane.saved = lane.position;
    lane.fence++;
    this.#adopt(lane, old);
  }

  #adopt(lane: Lane, old: Lane): void {
    lane.serving = true;
    this.#serving.set(lane.projection.name, lane);
    this.#live = this.#live.filter((other) => other !== old);
    old.hand(lane);
  }

  // ---- events to rows -----------------------------------------------------------------------------------------------------------

  async #follow(events: readonly RecordedEvent[]): Promise<void> {
    try {
      await this.#applyAll(this.#live, events, this.#folds, events.length >= CATCHING_UP);
      this.#followed = events.at(-1)?.position ?? this.#followed;
    } catch (error) {
      // The folds of these streams have moved on and the rows have not.
      for (const { stream } of events) this.#folds.forEach((own) => own.delete(stream));
      if (!isFenced(error)) throw error;
      await this.#reload();
      const done = Math.min(...this.#live.map(({ position }) => position));
      await this.#follow(events.filter(({ position }) => position > done));
    }
  }

  /** While the database writes one batch, the next is read and folded. */
  async #applyAll(lanes: readonly Lane[], events: readonly RecordedEvent[], folds: Folds, behind: boolean): Promise<void> {
    let writing: Promise<void> | undefined;
    try {
      for (let from = 0; from < events.length; from += EVENTS_PER_BATCH) {
        const batch = events.slice(from, from + EVENTS_PER_BATCH);
        const startedAt = performance.now();
        const changes = await this.#changes(lanes, batch, folds, behind);
        await writing;
        writing = this.#apply(changes, batch, startedAt);
        // It is awaited below, perhaps not before it has failed.
        writing.catch(() => undefined);
      }
    } finally {
      await writing;
    }
  }

  async #changes(lanes: readonly Lane[], batch: readonly RecordedEvent[], folds: Folds, behind: boolean): Promise<Map<Lane, Changes>> {
    for (const lane of lanes.filter(({ following }) => following)) await this.#waitFor(lane, batch);
    const changes = new Map(lanes.filter(({ following }) => !following).map((lane) => [lane, newChanges()]));
    for (const [source, own] of Map.groupBy(changes.keys(), ({ projection }) => projection.source)) {
      await this.#foldBatch(source, own, batch, folds, behind, changes);
    }
    return changes;
  }

  async #apply(changes: ReadonlyMap<Lane, Changes>, batch: readonly RecordedEvent[], startedAt: number): Promise<void> {
    const last = batch.reduce((highest, { position }) => Math.max(highest, position), 0);
    const written = this.#write(changes, last);
    if (isTracing()) traceProjection(batch.filter(({ stream }) => [...changes.keys()].some(({ projection: { source } }) => stream.startsWith(`${source.category}-`))), written);
    await written;
    for (const lane of changes.keys()) lane.advance(last);
    const rows = [...changes.values()].reduce((sum, { rows: { size }, gone }) => sum + size + gone.size, 0);
    this.#options.observe?.({ events: batch.length, rows, seconds: (performance.now() - startedAt) / 1000 });
  }

  /** Groups the batch by stream, gets what is missing before or after it from the store, and turns the folds into rows. */
  async #foldBatch(
    source: Projection['source'], lanes: readonly Lane[], batch: readonly RecordedEvent[], folds: Folds, behind: boolean, changes: ReadonlyMap<Lane, Changes>,
  ): Promise<void> {
    const prefix = `${source.category}-`;
    const own = folds.get(source) as LRUCache<string, Fold>;
    const fresh: [stream: string, known: Fold | undefined, events: readonly RecordedEvent[]][] = [];
    const toRead: [stream: string, known: Fold | undefined, reason: RecordedEvent][] = [];
    for (const [stream, events] of Map.groupBy(batch.filter(({ stream }) => stream.startsWith(prefix)), ({ stream }) => stream)) {
      if (lanes.every(({ parked }) => parked.has(stream))) continue;
      const known = own.get(stream);
      const next = (known?.revision ?? -1) + 1;
      const news = inOrder(events, next);
      const [first] = news ?? events;
      if (news?.length === 0 || !first) continue;
      const isNew = lanes.every((lane) => first.position > lane.position);
      // The later events of a stream that is all in this batch so far are likely to be there, too.
      if (news && (known || isNew && (!behind || news.length > 1))) fresh.push([stream, known, news]);
      else toRead.push([stream, known, first]);
    }
    const stale = behind ? await this.#stale(lanes, toRead) : toRead;
    const read = await Promise.all(stale.map(async ([stream, known]) => [stream, known, await this.#read(stream, (known?.revision ?? -1) + 1)] as const));
    const work = [...fresh, ...read].filter(([, , events]) => events.length > 0);
    const sealer = await this.#sealer(work.flatMap(([, , events]) => events));
    for (const [stream, known, events] of work) {
      own.delete(stream);
      const outcome = this.#project(lanes, stream, known, events, sealer, (fold) => own.set(stream, fold));
      for (const [lane, { rows, gone, parked }] of outcome) {
        const into = changes.get(lane);
        rows.forEach((row, id) => into?.rows.set(id, row));
        gone.forEach((id) => into?.gone.add(id));
        into?.parked.push(...parked);
      }
    }
  }

  /** Without the streams whose rows are as new as the event already: most of them, on the second and later events of a stream. */
  async #stale<Read extends readonly [string, Fold | undefined, RecordedEvent]>(lanes: readonly Lane[], toRead: readonly Read[]): Promise<readonly Read[]> {
    if (toRead.length === 0) return toRead;
    const ids = toRead.map(([stream]) => subjectOf(stream));
    const tables = await Promise.all(lanes.map(async ({ table, build }) => {
      const { sql, params } = table.revisions(build, ids);
      const { rows } = await this.#options.database.run<{ id: string; revision: number }>(sql, params);
      return new Map(rows.map(({ id, revision }) => [id, revision]));
    }));
    return toRead.filter(([stream, , { revision }]) => tables.some((table) => (table.get(subjectOf(stream)) ?? -1) < revision));
  }

  /** Folds one stream's events onto what is known and makes its row for each table; an error parks the stream, with the row as of the event before. */
  #project(
    lanes: readonly Lane[], stream: string, known: Fold | undefined, events: readonly RecordedEvent[], sealer: Sealer, keep?: (fold: Fold) => void,
  ): Map<Lane, Changes> {
    const outcome = new Map(lanes.map((lane) => [lane, newChanges()]));
    const park = (lane: Lane, { position, recordedAt: since }: RecordedEvent, cause: unknown) => {
      const error = cause instanceof Error ? cause.message : String(cause);
      outcome.get(lane)?.parked.push({ projection: lane.projection.name, stream, position, error, since });
    };
    const [{ projection: { source } }] = lanes as [Lane];
    let fold: Fold = known ?? { state: source.initial(), revision: -1, at: '' };
    let current = events[0] as RecordedEvent;
    try {
      for (current of events) {
        const origin = originOf(current);
        fold = { state: source.evolve(fold.state, decode(source.shapes, current, sealer) as never, origin), revision: current.revision, at: origin.at };
      }
      keep?.(fold);
    } catch (cause) {
      for (const lane of lanes) park(lane, current, cause);
    }
    if (fold.revision < 0) return outcome;
    for (const lane of lanes.filter(({ parked }) => !parked.has(stream) || !keep)) {
      try {
        addChange(outcome.get(lane) as Changes, lane, { id: subjectOf(stream), revision: fold.revision, at: fold.at }, fold.state);
      } catch (cause) {
        park(lane, current, cause);
      }
    }
    return outcome;
  }

  async #read(stream: string, from: number): Promise<readonly RecordedEvent[]> {
    const events: RecordedEvent[] = [];
    for (;;) {
      const page = await this.#options.store.readStream(stream, { from: from + events.length, limit: PAGE });
      events.push(...page);
      if (page.length < PAGE) return events;
    }
  }

  #sealer(events: readonly RecordedEvent[]): Promise<Sealer> | Sealer {
    return this.#options.sealing.prepare(sealedSubjects(events));
  }

  // ---- rows to the database -----------------------------------------------------------------------------------------------------

  /** Rows and checkpoints of all tables in one transaction. Where nothing changed the checkpoint may wait. */
  async #write(changes: ReadonlyMap<Lane, Changes>, position: Position): Promise<void> {
    const due = [...changes].filter(([lane, { rows, gone, parked }]) => rows.size + gone.size + parked.length > 0 || position - lane.saved >= UNSAVED_POSITIONS);
    if (due.length === 0) return;
    try {
      await this.#save(due.map(([lane, own]) => ({ lane, position: Math.max(position, lane.position), statements: this.#statements(lane, own) })));
    } catch (error) {
      if (!isDataError(error)) throw error;
      for (const [lane, own] of due) await this.#parkUnstorable(lane, own, position, error);
      await this.#save(due.map(([lane, own]) => ({ lane, position: Math.max(position, lane.position), statements: this.#statements(lane, own) })));
    }
    for (const [lane, { parked }] of due) for (const one of parked) this.#announce(lane, one);
  }

  async #save(writes: readonly { readonly lane: Lane; readonly position: Position; readonly statements: readonly Statement[] }[]): Promise<void> {
    await this.#options.database.batch(writes.flatMap(({ lane, position, statements }) => [
      {
        sql: 'update projections set position = ?, fence = fence + 1 where name = ? and build = ? and fence = ?',
        params: [position, lane.projection.name, lane.build, lane.fence], expect: 1,
      },
      ...statements,
    ]));
    for (const { lane, position } of writes) {
      lane.fence++;
      lane.saved = position;
    }
  }

  #statements({ table, build, position }: Lane, { rows, gone, parked }: Changes): Statement[] {
    const statements: Statement[] = [];
    // An empty table is only inserted into.
    if (rows.size > 0 && position > 0) statements.push(...table.touch(build, [...rows.values()]));
    if (rows.size > 0) statements.push(table.upsert(build, [...rows.values()]));
    if (gone.size > 0) statements.push(table.delete(build, [...gone]));
    if (parked.length > 0) {
      statements.push({
        sql: 'insert into parked (projection, build, stream, position, error, since) values (?, ?, ?, ?, ?, ?) on conflict do nothing',
        many: parked.map(({ projection, stream, position, error, since }) => [projection, build, stream, position, error.slice(0, 1_000), since]),
      });
    }
    return statements;
  }

  /** The database refused the batch for what is in it: finds the rows that it refuses by themselves. */
  async #parkUnstorable(lane: Lane, { rows, parked }: Changes, position: Position, cause: unknown): Promise<void> {
    for (const [id, row] of rows) {
      try {
        await this.#options.database.batch([lane.table.upsert(lane.build, [row]), UNDO]);
      } catch (error) {
        if (!isDataError(error)) {
          if (isFenced(error)) continue;
          throw error;
        }
        rows.delete(id);
        const stream = `${lane.projection.source.category}-${id}`;
        const [event] = await this.#options.store.readStream(stream, { limit: 1 });
        parked.push({ projection: lane.projection.name, stream, position, error: (error as Error).message, since: event?.recordedAt ?? '' });
      }
    }
    if (parked.length === 0) throw cause;
  }

  #announce(lane: Lane, parked: Parked): void {
    lane.parked.add(parked.stream);
    (this.#options.parked ?? warn)(parked);
  }

  // ---- other processes ----------------------------------------------------------------------------------------------------------

  /** Somebody else has written; looks where that leaves the live tables. */
  async #reload(): Promise<void> {
    for (const lane of this.#live) {
      if (lane.following || await this.#reloaded(lane)) continue;
      const serving = (await this.#registered(lane.projection.name)).find((other) => other.serving);
      // Built anew by a process of this release: go on there. Of another release: that one's rows are not this one's to make.
      if (serving?.version !== lane.version) lane.following = true;
      else await this.#goOnAt(new Lane(lane.projection, lane.table, serving), lane);
    }
  }

  async #goOnAt(lane: Lane, old: Lane): Promise<void> {
    await this.#loadParked(lane);
    this.#adopt(lane, old);
    this.#live.push(lane);
  }

  /** False when the table is no longer there. */
  async #reloaded(lane: Lane): Promise<boolean> {
    const now = (await this.#registered(lane.projection.name)).find(({ build }) => build === lane.build);
    if (!now) return false;
    if (now.serving && !lane.serving) this.#adopt(lane, this.#laneOf(lane.projection.name));
    lane.fence = now.fence;
    lane.saved = now.position;
    lane.advance(now.position);
    await this.#loadParked(lane);
    return true;
  }

  async #waitFor(lane: Lane, batch: readonly RecordedEvent[]): Promise<void> {
    const [name, prefix] = [lane.projection.name, `${lane.projection.source.category}-`];
    const wanted = batch.findLast(({ stream }) => stream.startsWith(prefix))?.position ?? 0;
    for (let there = lane.position; there < wanted && !this.#stop.signal.aborted;) {
      there = (await this.#registered(name)).find(({ serving }) => serving)?.position ?? 0;
      if (there < wanted) await sleep(FOLLOW_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
    lane.advance(batch.at(-1)?.position ?? 0);
  }

  async #loadParked(lane: Lane): Promise<void> {
    const { rows } = await this.#options.database.run<{ stream: string }>('select stream from parked where projection = ? and build = ?', [lane.projection.name, lane.build]);
    lane.parked.clear();
    for (const { stream } of rows) lane.parked.add(stream);
  }

  async #registered(name: string): Promise<readonly Registered[]> {
    const { rows } = await this.#options.database.run<Registered>(
      'select build, version, position, serving, columns, fence from projections where name = ? order by build', [name]);
    return rows.map((row) => ({ ...row, serving: Boolean(row.serving) }));
  }

  #register({ name }: Projection, { build, version, position, serving, columns, fence }: Registered): Statement {
    return {
      sql: 'insert into projections (name, build, version, position, serving, columns, fence) values (?, ?, ?, ?, ?, ?, ?)',
      params: [name, build, version, position, Number(serving), columns, fence],
    };
  }

  #forget(name: string, build: number): Statement[] {
    return [
      { sql: 'delete from parked where projection = ? and build = ?', params: [name, build] },
      { sql: 'delete from projections where name = ? and build = ?', params: [name, build] },
    ];
  }

  #unparked({ projection, build }: Lane, stream: string): Statement {
    return { sql: 'delete from parked where projection = ? and build = ? and stream = ?', params: [projection.name, build, stream] };
  }

  #laneOf(name: string): Lane {
    const lane = this.#serving.get(name);
    if (!lane) throw new Error(`Unknown projection ${name}`);
    return lane;
  }

  #newFolds(): Folds {
    const max = this.#options.maxFolds ?? MAX_FOLDS;
    return new Map(this.#options.projections.map(({ source }) => [source, new LRUCache({ max })]));
  }

  /** One piece of work at a time. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }
}

/** A span in every trace that led to one of these events, open until its row can be read. */
function traceProjection(batch: readonly RecordedEvent[], written: Promise<void>): void {
  for (const traceparent of new Set(batch.map(({ metadata }) => metadata['traceparent'] as string | undefined))) {
    if (traceparent) withRemoteParent(traceparent, () => traced('project', {}, () => written)).catch(() => undefined);
  }
}

const newChanges = (): Changes => ({ rows: new Map(), gone: new Set(), parked: [] });

function addChange({ rows, gone }: Changes, { projection, table }: Lane, where: { id: string; revision: number; at: string }, state: unknown): void {
  const row: ProjectionRow | null = projection.row(state, where);
  if (!row) return void gone.add(where.id);
  rows.set(where.id, table.values({ ...row, id: where.id, revision: where.revision }, projection.search && searchTextOf(projection.search(row))));
}

/** The events from a revision on, each once and without a gap; undefined when there is one. Events may come twice and in any order. */
function inOrder(events: readonly RecordedEvent[], from: number): readonly RecordedEvent[] | undefined {
  const wanted = events.filter(({ revision }) => revision >= from);
  const isSorted = wanted.every(({ revision }, at) => revision === from + at);
  if (isSorted) return wanted;
  const byRevision = new Map(wanted.map((event) => [event.revision, event]));
  const sorted = [...byRevision.values()].sort((a, b) => a.revision - b.revision);
  return sorted.every(({ revision }, at) => revision === from + at) ? sorted : undefined;
}

/** Matches no row, so that a batch that got this far is undone. */
const UNDO: Statement = { sql: 'delete from projections where 1 = 0', expect: 1 };

const isFenced = (error: unknown): boolean => error instanceof SqlFailure && error.unexpected;
const ignoreFenced = (error: unknown): void => {
  if (!isFenced(error)) throw error;
};

/** The value is at fault, not the database: too big, a constraint, a type. Asking again would be in vain. */
function isDataError(error: unknown): boolean {
  const { code } = error as { code?: number | string };
  return typeof code === 'number' ? [18, 19, 20].includes(code & 255) : typeof code === 'string' && /^(22|23|54)...$|^ERR_(INVALID|OUT)_/.test(code);
}

const ignoreExisting = (error: unknown): void => {
  if (!/exist|UNIQUE|duplicate/i.test((error as Error).message)) throw error;
};

const warn = (what: unknown): void => process.emitWarning(what instanceof Error ? what.stack ?? what.message : JSON.stringify(what), 'ProjectorWarning');

async function createRegister(database: Database): Promise<void> {
  await database.batch([
    {
      sql: `create table if not exists projections (name text not null, build integer not null, version text not null, position bigint not null,
        serving integer not null, columns text not null, fence bigint not null, primary key (name, build))`,
    },
    {
      sql: `create table if not exists parked (projection text not null, build integer not null, stream text not null, position bigint not null,
        error text not null, since text not null, primary key (projection, build, stream))`,
    },
  ]).catch(ignoreExisting);
}
