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
  /** Events since `saved`. */
  unsaved = 0;
  /** Counts the writes to this table by all processes. A process with an older count must reload. */
  fence: number;
  serving: boolean;
  /** A process with a newer release keeps this projection; this one only waits for it. */
  following = false;
  readonly parked = new Set<string>();
  /** Ids erased while the table is being built: their rows are no longer written. */
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

  /** The checkpoint is in the database. */
  wasSaved(position: Position): void {
    this.saved = position;
    this.unsaved = 0;
  }

  onAdvance(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Queries now see `successor`, which may be further: moves the listeners there. */
  hand(successor: Lane): void {
    for (const listener of this.#listeners.splice(0)) {
      successor.onAdvance(listener);
      listener();
    }
  }
}
