import { setTimeout as sleep } from 'node:timers/promises';
import type { EventStore, Position, RecordedEvent, Subscription } from '@keyledger/event-store';
import type { Sealing } from '@keyledger/kernel';
import { isTracing, traced, withRemoteParent } from '@keyledger/observability';
import type { Database } from './database.ts';
import { Filling, PAGE_TO_CATCH_UP } from './filling.ts';
import { Folding, newChanges, newFolds, type Changes, type Folds } from './folding.ts';
import { Lane } from './lane.ts';
import { RowTable, type Projection } from './projection.ts';
import { mustReach, type View } from './read-index.ts';
import { Register, type Parked, type Registered } from './register.ts';
import { ignoreFenced, isFenced, Writing } from './writing.ts';

export interface ProjectorOptions {
  readonly store: EventStore;
  readonly database: Database;
  readonly projections: readonly Projection[];
  readonly sealing: Sealing;
  /** Folded states kept, per source. Default 25,000. */
  readonly maxFolds?: number;
  /** Called when a stream is parked. Default: a process warning. */
  readonly parked?: (parked: Parked) => void;
  /** Building a table met an error not caused by an event (a full disk, a lost connection); it is tried again. Default: a process warning. */
  readonly failed?: (error: unknown) => void;
  /** After every batch: events seen, rows written, seconds taken. */
  readonly observe?: (batch: { readonly events: number; readonly rows: number; readonly seconds: number }) => void;
}

const MAX_FOLDS = 25_000;
/** Some ten milliseconds, on either thread. */
const EVENTS_PER_BATCH = 500;
const PAGE = 1_000;
/** A batch this large means that more events will come; then it pays to read a new stream to its end at once. */
const CATCHING_UP = 100;
/** After a batch more events may gather, because many rows cost hardly more than one; not while a reader waits. */
const GATHER_MS = 10;
const RETRY_MS = 1_000;
const FOLLOW_MS = 50;
/** A process waiting for another to fill a table checks its signs this often, */
const LOOK_MS = 250;
/** and takes over after this long without. */
const SILENT_MS = 5_000;

/**
 * Keeps the tables of an environment's projections: every row is its stream's state, and rows and checkpoint are committed together.
 * Any number of processes may run one on the same PostgreSQL schema; the first to commit a batch has done it for all.
 * An empty table is filled by one of them while the others wait.
 */
export class Projector implements View {
  readonly #options: ProjectorOptions;
  readonly #register: Register;
  readonly #folding: Folding;
  readonly #writing: Writing;
  readonly #filling: Filling;
  readonly #stop = new AbortController();
  readonly #folds: Folds;
  /** The tables fed by the subscription, all at the same position. */
  #live: Lane[] = [];
  #subscription: Subscription | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  readonly #catchingUp = new Map<Lane, Promise<void>>();
  readonly #serving = new Map<string, Lane>();
  /** The subscription's position, whether or not it feeds a table. */
  #followed: Position = 0;
  #wanted: Position = 0;
  #endRest: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /** Resolves when it follows the log; it may be far behind then, see ReadIndex. */
  static async start(options: ProjectorOptions): Promise<Projector> {
    const projector = new Projector(options);
    await projector.#start();
    return projector;
  }

  private constructor(options: ProjectorOptions) {
    this.#options = options;
    this.#register = new Register(options.database);
    this.#folding = new Folding(options);
    this.#writing = new Writing({ ...options, register: this.#register, parked: options.parked ?? warn });
    this.#filling = new Filling({ ...options, folding: this.#folding, writing: this.#writing, maxFolds: options.maxFolds ?? MAX_FOLDS, stop: this.#stop.signal });
    this.#folds = this.#newFolds();
  }

  /** Queries see all events up to here. */
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

  /** Of its own projections: other projectors may use the same database. */
  async parked(): Promise<readonly Parked[]> {
    return (await this.#register.parked()).filter(({ projection }) => this.#serving.has(projection));
  }

  /** As this process knows them. */
  get parkedCount(): number {
    return [...this.#serving.values()].reduce((sum, { parked }) => sum + parked.size, 0);
  }

  /** Builds the projection anew from the first event while the present table keeps serving; resolves when the new one has taken over. */
  async rebuild(name: string): Promise<void> {
    const serving = this.#laneOf(name);
    const building = [...this.#catchingUp.keys()].find((lane) => lane.projection.name === name) ?? await this.#build(serving);
    await (this.#catchingUp.get(building) ?? this.#catchUp(building));
  }

  /**
   * These subjects were erased and their keys destroyed: their rows are removed from, and no longer written to, tables still being built, too, which
   * may reach the erasing event only hours from now.
   */
  async forget(name: string, ids: readonly string[]): Promise<void> {
    // Rows already folded are written after this.
    for (const lane of this.#catchingUp.keys()) if (lane.projection.name === name) for (const id of ids) lane.forgotten.add(id);
    const { table } = this.#laneOf(name);
    const builds = (await this.#register.tablesOf(name)).filter(({ serving }) => !serving);
    if (builds.length > 0) await this.#options.database.batch(builds.map(({ build }) => table.delete(build, ids)));
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

  /** Resolves when no work is under way. Applied events stay applied. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#stop.abort();
    this.#endRest?.();
    await this.#subscription?.close();
    await Promise.all(this.#catchingUp.values());
    await this.#alone(async () => {
      const unsaved = this.#live.filter((lane) => !lane.following && lane.position > lane.saved);
      // That another process was faster does not stop the close.
      if (unsaved.length > 0) await this.#writing.save(unsaved.map((lane) => ({ lane, position: lane.position, statements: [] }))).catch(ignoreFenced);
    });
  }

  // ---- tables and their versions ------------------------------------------------------------------------------------------------

  async #start(): Promise<void> {
    const { database, projections, store } = this.#options;
    await database.alone(async () => {
      await this.#register.create();
      for (const projection of projections) await this.#open(projection);
    });
    const serving = [...this.#serving.values()];
    const furthest = Math.max(0, ...serving.map(({ position }) => position));
    await mustReach(store, furthest, database.environment);
    // If all tables are empty, they are better filled beside the subscription.
    const from = furthest > 0 ? furthest : await this.#emptyTablesFrom(await store.head());
    const live = serving.filter(({ position }) => position === from);
    this.#live = [...live];
    for (const lane of serving.filter(({ position }) => position < from)) void this.#catchUp(lane);
    this.#followed = from;
    for (const lane of live) await this.#unpark(lane);
    this.#subscription = store.subscribe(from, async (events, upTo, passed) => {
      await this.#alone(() => this.#follow(events, upTo, passed));
      await this.#rest();
    }, [...new Set(projections.map(({ source }) => source.category))].map((category) => ({ category })));
  }

  /** Folds parked streams once more: this release may be able to. */
  async #unpark(lane: Lane): Promise<void> {
    const streams = [...lane.parked];
    for (const stream of streams) {
      try {
        // Another process may have been faster, with this or other work.
        while (lane.parked.has(stream) && !await this.#foldAnew(lane, stream)) if (!await this.#reloaded(lane)) return;
      } catch (error) {
        // It stays parked; a failed read or write must not prevent the start.
        (this.#options.failed ?? warn)(error);
      }
    }
  }

  /** False when another process has written to the table meanwhile. */
  async #foldAnew(lane: Lane, stream: string): Promise<boolean> {
    const changes = await this.#folding.anew(lane, stream);
    if (changes.parked.length > 0) return true;
    try {
      await this.#writing.save([{ lane, position: lane.position, statements: [...this.#writing.statements(lane, changes), this.#register.unpark(lane, stream)] }]);
    } catch (error) {
      ignoreFenced(error);
      return false;
    }
    return lane.parked.delete(stream);
  }

  #emptyTablesFrom(head: Position): Position {
    return this.#options.store.readByStream && head > PAGE ? head : 0;
  }

  /** Ends early when a reader waits for later events. */
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

  /** Finds the table that serves a projection, or creates it; if its version differs, resumes or begins building a new one. */
  async #open(projection: Projection): Promise<void> {
    const table = new RowTable(this.#options.database, projection);
    const version = `${projection.version}-${table.shape}`;
    const registered = await this.#register.tablesOf(projection.name);
    const there = registered.find(({ serving }) => serving);
    if (!there) {
      const first: Registered = { build: 1, version, position: 0, serving: true, columns: JSON.stringify(table.columnNames), fence: 0 };
      await this.#options.database.batch([...table.drop(1), ...table.create(1), ...table.serve(1), this.#register.add(projection.name, first)]);
      return this.#open(projection);
    }
    const serving = new Lane(projection, table, there);
    this.#serving.set(projection.name, serving);
    await this.#loadParked(serving);
    const building = registered.find((other) => !other.serving && other.version === version);
    for (const stale of registered.filter((other) => !other.serving && other !== building)) {
      await this.#options.database.batch([...table.drop(stale.build), ...this.#register.forget(projection.name, stale.build)]);
    }
    if (there.version !== version) {
      const columns = JSON.parse(there.columns) as string[];
      const wider = JSON.stringify([...new Set([...columns, ...table.columnNames])]);
      await this.#options.database.batch([
        ...table.extend(there.build, columns), this.#register.widen(projection.name, there.build, wider),
      ]);
    }
    if (building) {
      const lane = new Lane(projection, table, building);
      await this.#loadParked(lane);
      void this.#catchUp(lane);
    } else if (there.version !== version) void this.#catchUp(await this.#build(serving));
  }

  async #build({ projection, table }: Lane): Promise<Lane> {
    const builds = (await this.#register.tablesOf(projection.name)).map(({ build }) => build);
    const registered: Registered = {
      build: Math.max(...builds) + 1, version: `${projection.version}-${table.shape}`, position: 0, serving: false, columns: JSON.stringify(table.columnNames), fence: 0,
    };
    await this.#options.database.batch([...table.create(registered.build, true), this.#register.add(projection.name, registered)]);
    return new Lane(projection, table, registered);
  }

  #catchUp(lane: Lane): Promise<void> {
    const running = this.#readUp(lane).finally(() => this.#catchingUp.delete(lane));
    this.#catchingUp.set(lane, running);
    return running;
  }

  async #readUp(lane: Lane): Promise<void> {
    const folds = this.#newFolds();
    // Filling has begun; perhaps another process is still at it.
    let isFencedOff = lane.position === 0 && lane.fence > 0;
    while (!this.#stop.signal.aborted) {
      try {
        if (isFencedOff && !await this.#leftToOthers(lane)) return;
        isFencedOff = false;
        if (lane.position === 0) await this.#filling.fill(lane);
        const events = await this.#options.store.readAll(lane.position, PAGE_TO_CATCH_UP);
        await this.#applyAll([lane], events, folds, true);
        if (events.length < PAGE && await this.#alone(() => this.#join(lane, folds))) return;
      } catch (error) {
        folds.forEach((own) => own.clear());
        if (isFenced(error)) {
          isFencedOff = true;
        } else {
          (this.#options.failed ?? warn)(error);
          await sleep(RETRY_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
        }
      }
    }
  }

  /** The last events and the change-over come between two live batches. False when the log is still ahead. */
  async #join(lane: Lane, folds: Folds): Promise<boolean> {
    const live = this.#followed;
    const rest = lane.position < live ? await this.#options.store.readAll(lane.position, PAGE) : [];
    await this.#applyAll([lane], rest, folds, true);
    if (lane.position < live) return false;
    if (!lane.serving) await this.#takeOver(lane, this.#laneOf(lane.projection.name));
    this.#live.push(lane);
    lane.forgotten.clear();
    // The folds match the other tables; this one may lack rows.
    this.#folds.forEach((own) => own.clear());
    await this.#unpark(lane);
    return true;
  }

  async #takeOver(lane: Lane, old: Lane): Promise<void> {
    const { name } = lane.projection;
    await this.#options.database.batch([
      this.#register.serve(lane, lane.position),
      ...this.#register.forget(name, old.build),
      ...lane.table.serve(lane.build, old.build),
    ]);
    lane.wasSaved(lane.position);
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

  async #follow(events: readonly RecordedEvent[], upTo: Position, passed: number): Promise<void> {
    try {
      await this.#applyAll(this.#live, events, this.#folds, events.length >= CATCHING_UP);
      await this.#pass(this.#live, upTo, passed - events.length);
    } catch (error) {
      // The folds of these streams have advanced, their rows have not.
      for (const { stream } of events) this.#folds.forEach((own) => own.delete(stream));
      if (!isFenced(error)) throw error;
      await this.#reload();
      const done = Math.min(...this.#live.map(({ position }) => position));
      return this.#follow(events.filter(({ position }) => position > done), upTo, passed);
    }
    this.#followed = Math.max(this.#followed, upTo);
  }

  /** Nothing more for these tables, in so many events, up to there. */
  async #pass(lanes: readonly Lane[], upTo: Position, events: number): Promise<void> {
    if (events === 0) return;
    await this.#writing.write(new Map(lanes.filter(({ following }) => !following).map((lane) => [lane, newChanges()])), upTo, events);
    for (const lane of lanes) lane.advance(upTo);
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
      await this.#folding.batch(source, own, batch, folds, behind, changes);
    }
    return changes;
  }

  async #apply(changes: ReadonlyMap<Lane, Changes>, batch: readonly RecordedEvent[], startedAt: number): Promise<void> {
    const last = batch.reduce((highest, { position }) => Math.max(highest, position), 0);
    const written = this.#writing.write(changes, last, batch.length);
    if (isTracing()) traceProjection(batch.filter(({ stream }) => [...changes.keys()].some(({ projection: { source } }) => stream.startsWith(`${source.category}-`))), written);
    await written;
    for (const lane of changes.keys()) lane.advance(last);
    const rows = [...changes.values()].reduce((sum, { rows: { size }, gone }) => sum + size + gone.size, 0);
    this.#options.observe?.({ events: batch.length, rows, seconds: (performance.now() - startedAt) / 1000 });
  }

  // ---- other processes ----------------------------------------------------------------------------------------------------------

  /** Another process has written: reloads the state of the live tables. */
  async #reload(): Promise<void> {
    for (const lane of this.#live) {
      const { position } = lane;
      if (lane.following || await this.#reloaded(lane)) {
        if (lane.position < position) this.#fallBack(lane);
        continue;
      }
      const serving = await this.#register.servingOf(lane.projection.name);
      // Rebuilt by a process of this release: continue there. By another release: only its processes can make those rows.
      if (serving?.version !== lane.version) lane.following = true;
      else await this.#goOnAt(new Lane(lane.projection, lane.table, serving), lane);
    }
  }

  #fallBack(lane: Lane): void {
    this.#live = this.#live.filter((other) => other !== lane);
    void this.#catchUp(lane);
  }

  async #goOnAt(lane: Lane, old: Lane): Promise<void> {
    await this.#loadParked(lane);
    this.#adopt(lane, old);
    this.#live.push(lane);
  }

  /**
   * Two processes filling the same table would keep resetting each other. So wait until the other has filled it, or has given no sign of life for a
   * while. False when no work is left.
   */
  async #leftToOthers(lane: Lane): Promise<boolean> {
    const { serving } = lane;
    for (let fence = -1, since = 0; ; await sleep(LOOK_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined)) {
      if (this.#stop.signal.aborted || !await this.#reloaded(lane)) return false;
      // Only one process uses a file.
      if (lane.position > 0 || lane.serving !== serving || this.#options.database.dialect === 'sqlite') return true;
      if (lane.fence !== fence) [fence, since] = [lane.fence, performance.now()];
      else if (performance.now() - since > SILENT_MS) return true;
    }
  }

  /** False when the table is no longer there. */
  async #reloaded(lane: Lane): Promise<boolean> {
    const now = (await this.#register.tablesOf(lane.projection.name)).find(({ build }) => build === lane.build);
    if (!now) return false;
    if (now.serving && !lane.serving) this.#adopt(lane, this.#laneOf(lane.projection.name));
    lane.fence = now.fence;
    // The database had more: a standby without the last writes has taken over.
    if (now.position < lane.saved) lane.position = now.position;
    lane.wasSaved(now.position);
    lane.advance(now.position);
    await this.#loadParked(lane);
    return true;
  }

  async #waitFor(lane: Lane, batch: readonly RecordedEvent[]): Promise<void> {
    const [name, prefix] = [lane.projection.name, `${lane.projection.source.category}-`];
    const wanted = batch.findLast(({ stream }) => stream.startsWith(prefix))?.position ?? 0;
    for (let there = lane.position; there < wanted && !this.#stop.signal.aborted;) {
      there = (await this.#register.servingOf(name))?.position ?? 0;
      if (there < wanted) await sleep(FOLLOW_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
    await this.#loadParked(lane);
    lane.advance(batch.at(-1)?.position ?? 0);
  }

  async #loadParked(lane: Lane): Promise<void> {
    const parked = await this.#register.parkedIn(lane);
    lane.parked.clear();
    for (const stream of parked) lane.parked.add(stream);
  }

  #laneOf(name: string): Lane {
    const lane = this.#serving.get(name);
    if (!lane) throw new Error(`Unknown projection ${name}`);
    return lane;
  }

  #newFolds(): Folds {
    return newFolds(this.#options.projections, this.#options.maxFolds ?? MAX_FOLDS);
  }

  /** One piece of work at a time. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }
}

/** A span in every trace that made one of these events, open until its row can be read. */
function traceProjection(batch: readonly RecordedEvent[], written: Promise<void>): void {
  for (const traceparent of new Set(batch.map(({ metadata }) => metadata['traceparent'] as string | undefined))) {
    if (traceparent) withRemoteParent(traceparent, () => traced('project', {}, () => written)).catch(() => undefined);
  }
}

const warn = (what: unknown): void => process.emitWarning(what instanceof Error ? what.stack ?? what.message : JSON.stringify(what), 'ProjectorWarning');
