import { setTimeout as sleep } from 'node:timers/promises';
import type { EventStore } from '@keyledger/event-store';
import type { Database } from './database.ts';
import { newChanges, newFolds, type Folding } from './folding.ts';
import type { Lane } from './lane.ts';
import { patiently } from './lost-server.ts';
import type { Writing } from './writing.ts';

/** Events read at a time when far behind. */
export const PAGE_TO_CATCH_UP = 4_000;
const EVENTS_PER_FILL = 2_000;
/** A process filling a table gives a sign with every batch, and in long ones this often. */
const SIGN_MS = 1_000;

export interface FillingOptions {
  readonly store: EventStore;
  readonly database: Database;
  readonly folding: Folding;
  readonly writing: Writing;
  readonly maxFolds: number;
  readonly stop: AbortSignal;
}

/** The first rows of an empty table. */
export class Filling {
  readonly #options: FillingOptions;

  constructor(options: FillingOptions) {
    this.#options = options;
  }

  /** Stream by stream, so that each event is read and each row written once; events after the start follow in log order. */
  async fill(lane: Lane): Promise<void> {
    const { store, folding, writing: rows, maxFolds, stop } = this.#options;
    const { source } = lane.projection;
    const head = await store.head();
    if (!store.readByStream || head === 0) return this.#index(lane);
    const folds = newFolds([lane.projection], maxFolds);
    let reading = store.readByStream(source.category, undefined, PAGE_TO_CATCH_UP);
    let writing: Promise<void> | undefined;
    for (let isMore = true; isMore && !stop.aborted;) {
      const events = await reading;
      isMore = events.length === PAGE_TO_CATCH_UP;
      if (isMore) {
        reading = store.readByStream(source.category, events.at(-1), PAGE_TO_CATCH_UP);
        // It is awaited in the next round, or no longer needed.
        reading.catch(() => undefined);
      }
      for (let from = 0; from < events.length; from += EVENTS_PER_FILL) {
        const changes = new Map([[lane, newChanges()]]);
        await folding.batch(source, [lane], events.slice(from, from + EVENTS_PER_FILL), folds, false, changes);
        await writing;
        writing = rows.write(changes, lane.position, 0);
        // It is awaited in the next round, or below.
        writing.catch(() => undefined);
      }
    }
    await writing;
    if (stop.aborted) return;
    await this.#index(lane);
    await rows.save([{ lane, position: head, statements: [] }]);
    lane.advance(head);
  }

  /** Indexing existing rows costs a third of indexing row by row. */
  async #index(lane: Lane): Promise<void> {
    if (lane.serving) return;
    for (const statements of lane.table.index(lane.build)) {
      const made = patiently(() => this.#options.database.batch(statements)).then(() => true);
      // When a sign fails, it is not awaited any more.
      made.catch(() => undefined);
      while (!await Promise.race([made, sleep(SIGN_MS, false, { ref: false })])) await this.#options.writing.save([{ lane, position: lane.position, statements: [] }]);
    }
  }
}
