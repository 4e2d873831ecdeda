import type { EventStore, Position } from '@keyledger/event-store';
import { SqlFailure, type Database, type Statement } from './database.ts';
import type { Changes } from './folding.ts';
import type { Lane } from './lane.ts';
import type { Parked, Register } from './register.ts';

/** After this many events without a row the checkpoint is saved anyway. Counted, because positions may be bytes. */
const UNSAVED_EVENTS = 1_000;

export interface Write {
  readonly lane: Lane;
  readonly position: Position;
  readonly statements: readonly Statement[];
}

interface WritingOptions {
  readonly database: Database;
  readonly store: EventStore;
  readonly register: Register;
  /** Called once it is stored. */
  readonly parked: (parked: Parked) => void;
}

/** Rows to the database. */
export class Writing {
  readonly #options: WritingOptions;

  constructor(options: WritingOptions) {
    this.#options = options;
  }

  /** Rows and checkpoints of all tables, after `events` more events up to this position, in one transaction. Without a change the checkpoint may wait. */
  async write(changes: ReadonlyMap<Lane, Changes>, position: Position, events: number): Promise<void> {
    for (const lane of changes.keys()) lane.unsaved += events;
    const due = [...changes].filter(([lane, { rows, gone, parked }]) => rows.size + gone.size + parked.length > 0 || lane.unsaved >= UNSAVED_EVENTS);
    if (due.length === 0) return;
    const save = () => this.save(due.map(([lane, own]) => ({ lane, position: Math.max(position, lane.position), statements: this.statements(lane, own) })));
    try {
      await save();
    } catch (error) {
      if (!isDataError(error)) throw error;
      for (const [lane, own] of due) await this.#parkUnstorable(lane, own, position, error);
      await save();
    }
    for (const [lane, { parked }] of due) {
      for (const one of parked) {
        lane.parked.add(one.stream);
        this.#options.parked(one);
      }
    }
  }

  /** All or nothing; nothing when another process has written to one of the tables. */
  async save(writes: readonly Write[]): Promise<void> {
    const { database, register } = this.#options;
    await database.batch(writes.flatMap(({ lane, position, statements }) => [register.advance(lane, position), ...statements]));
    for (const { lane, position } of writes) {
      lane.fence++;
      lane.wasSaved(position);
    }
  }

  statements({ table, build, position, forgotten }: Lane, { rows, gone, parked }: Changes): Statement[] {
    for (const id of forgotten) rows.delete(id);
    const statements: Statement[] = [];
    // An empty table has no rows to update.
    if (rows.size > 0 && position > 0) statements.push(...table.touch(build, [...rows.values()]));
    if (rows.size > 0) statements.push(table.upsert(build, [...rows.values()]));
    if (gone.size > 0) statements.push(table.delete(build, [...gone]));
    if (parked.length > 0) statements.push(this.#options.register.park({ build }, parked));
    return statements;
  }

  /** The database refused the batch for its content: finds the rows that it refuses alone, and parks them. */
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
}

/** Matches no row, so that a batch that got this far is undone. */
const UNDO: Statement = { sql: 'delete from projections where 1 = 0', expect: 1 };

/** Another process has written to a table. */
export const isFenced = (error: unknown): boolean => error instanceof SqlFailure && error.unexpected;
export const ignoreFenced = (error: unknown): void => {
  if (!isFenced(error)) throw error;
};

/** The value is at fault, not the database: too big, a constraint, a type. A retry would fail again. */
function isDataError(error: unknown): boolean {
  const { code } = error as { code?: number | string };
  return typeof code === 'number' ? [18, 19, 20].includes(code & 255) : typeof code === 'string' && /^(22|23|54)...$|^ERR_(INVALID|OUT)_/.test(code);
}
