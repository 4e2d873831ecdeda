import type { Position, RecordedEvent } from './port.ts';

/** Events kept in memory per log, so that live subscribers neither read nor parse. */
const RECENT_EVENTS = 5_000;

/** The last events of a log, as far back as their positions are dense. */
export class RecentEvents {
  readonly #events: RecordedEvent[] = [];
  #first: Position;
  #next: Position;

  constructor(head: Position) {
    this.#first = this.#next = head + 1;
  }

  /** Position of the last event here; later ones are unknown. */
  get end(): Position {
    return this.#next - 1;
  }

  /** Takes later events only: those already here stay. */
  push(event: RecordedEvent): void {
    if (event.position < this.#next) return;
    if (event.position > this.#next) this.#first = this.#next = event.position;
    this.#events[this.#next % RECENT_EVENTS] = event;
    this.#next++;
    this.#first = Math.max(this.#first, this.#next - RECENT_EVENTS);
  }

  /** undefined when some events are not here: no longer, or not yet. */
  after(position: Position, limit: number): readonly RecordedEvent[] | undefined {
    if (position + 1 < this.#first || position >= this.#next) return undefined;
    const events: RecordedEvent[] = [];
    for (let at = position + 1; at < this.#next && events.length < limit; at++) events.push(this.#events[at % RECENT_EVENTS] as RecordedEvent);
    return events;
  }
}
