import type { Position } from '@keyledger/event-store';
import type { Projection, RowTable } from './projection.ts';
import type { Registered } from './register.ts';

/** One table of a projection on its way through the log. */
export class Lane {
  readonly projection: Projection;
  readonly table: RowTable;
  readonly build: number;
  readonly version: string;
  /** Applied, and visible to queries. */
  position: Position;
  saved: Position;
  /** Events since then. */
  unsaved = 0;
  /** Counts what anybody has done to this table. Who does not know the last of it must look again. */
  fence: number;
  serving: boolean;
  /** Another process with a newer release keeps this projection; here it is only waited for. */
  following = false;
  readonly parked = new Set<string>();
  /** Erased while the table is being built: no row of these is written any more. */
  readonly forgotten = new Set<string>();
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

  /** The database knows that it is there. */
  wasSaved(position: Position): void {
    this.saved = position;
    this.unsaved = 0;
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
