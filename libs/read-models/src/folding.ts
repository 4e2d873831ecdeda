import { decode, originOf, sealedSubjects, subjectOf, type EventStore, type RecordedEvent } from '@keyledger/event-store';
import type { Sealer, Sealing } from '@keyledger/kernel';
import { LRUCache } from 'lru-cache';
import type { Database, SqlValue } from './database.ts';
import type { Lane } from './lane.ts';
import type { Projection, ProjectionRow } from './projection.ts';
import type { Parked } from './register.ts';
import { searchTextOf } from './search.ts';

const PAGE = 1_000;

/** A stream's state as of one of its events. */
interface Fold {
  state: unknown;
  revision: number;
  at: string;
}
/** States kept, per source, so that a stream's next event needs no earlier one. */
export type Folds = Map<Projection['source'], LRUCache<string, Fold>>;

/** A batch's changes to one table. */
export interface Changes {
  readonly rows: Map<string, readonly SqlValue[]>;
  readonly gone: Set<string>;
  readonly parked: Parked[];
}

export const newChanges = (): Changes => ({ rows: new Map(), gone: new Set(), parked: [] });

export function newFolds(projections: readonly Projection[], max: number): Folds {
  return new Map(projections.map(({ source }) => [source, new LRUCache({ maxSize: max, sizeCalculation: () => 1 })]));
}

/** Events to rows. */
export class Folding {
  readonly #store: EventStore;
  readonly #database: Database;
  readonly #sealing: Sealing;

  constructor({ store, database, sealing }: { readonly store: EventStore; readonly database: Database; readonly sealing: Sealing }) {
    this.#store = store;
    this.#database = database;
    this.#sealing = sealing;
  }

  /** Groups the batch by stream, reads events missing before or after it from the store, and turns the folds into rows. */
  async batch(
    source: Projection['source'], lanes: readonly Lane[], batch: readonly RecordedEvent[], folds: Folds, behind: boolean, changes: ReadonlyMap<Lane, Changes>,
  ): Promise<void> {
    const prefix = `${source.category}-`;
    const own = folds.get(source) as LRUCache<string, Fold>;
    const fresh: [stream: string, known: Fold | undefined, events: readonly RecordedEvent[]][] = [];
    const toRead: [stream: string, known: Fold | undefined, revision: number][] = [];
    for (const [stream, events] of Map.groupBy(batch.filter(({ stream }) => stream.startsWith(prefix)), ({ stream }) => stream)) {
      if (lanes.every(({ parked }) => parked.has(stream))) continue;
      const known = own.get(stream);
      const next = (known?.revision ?? -1) + 1;
      const news = inOrder(events, next);
      const [first] = news ?? events;
      if (news?.length === 0 || !first) continue;
      const isNew = lanes.every((lane) => first.position > lane.position);
      // A stream with all its events so far in this batch is likely to have the later ones here, too.
      if (news && (known || isNew && (!behind || news.length > 1))) fresh.push([stream, known, news]);
      else toRead.push([stream, known, Math.max(...events.map(({ revision }) => revision))]);
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

  /** Folds the stream from its beginning, for one table that had parked it. */
  async anew(lane: Lane, stream: string): Promise<Changes> {
    const events = await this.#read(stream, 0);
    return this.#project([lane], stream, undefined, events, await this.#sealer(events)).get(lane) ?? newChanges();
  }

  /** Without streams whose rows have that revision already: most of them, on a stream's second and later events. */
  async #stale<Read extends readonly [string, Fold | undefined, number]>(lanes: readonly Lane[], toRead: readonly Read[]): Promise<readonly Read[]> {
    if (toRead.length === 0) return toRead;
    const ids = toRead.map(([stream]) => subjectOf(stream));
    const tables = await Promise.all(lanes.map(async ({ table, build }) => {
      const { sql, params } = table.revisions(build, ids);
      const { rows } = await this.#database.run<{ id: string; revision: number }>(sql, params);
      return new Map(rows.map(({ id, revision }) => [id, revision]));
    }));
    return toRead.filter(([stream, , revision]) => tables.some((table) => (table.get(subjectOf(stream)) ?? -1) < revision));
  }

  /** Folds one stream's events onto its known fold and makes its row for each table; an error parks the stream, with the row as of the event before. */
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
      const page = await this.#store.readStream(stream, { from: from + events.length, limit: PAGE });
      events.push(...page);
      if (page.length < PAGE) return events;
    }
  }

  #sealer(events: readonly RecordedEvent[]): Promise<Sealer> | Sealer {
    return this.#sealing.prepare(sealedSubjects(events));
  }
}

function addChange({ rows, gone }: Changes, { projection, table }: Lane, where: { id: string; revision: number; at: string }, state: unknown): void {
  const row: ProjectionRow | null = projection.row(state, where);
  if (!row) return void gone.add(where.id);
  rows.set(where.id, table.values({ ...row, id: where.id, revision: where.revision }, projection.search && searchTextOf(projection.search(row))));
}

/** The events from a revision on, each once; undefined if there is a gap. Events may come twice and in any order. */
function inOrder(events: readonly RecordedEvent[], from: number): readonly RecordedEvent[] | undefined {
  const wanted = events.filter(({ revision }) => revision >= from);
  const isSorted = wanted.every(({ revision }, at) => revision === from + at);
  if (isSorted) return wanted;
  const byRevision = new Map(wanted.map((event) => [event.revision, event]));
  const sorted = [...byRevision.values()].sort((a, b) => a.revision - b.revision);
  return sorted.every(({ revision }, at) => revision === from + at) ? sorted : undefined;
}
