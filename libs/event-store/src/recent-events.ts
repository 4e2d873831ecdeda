import type { Position, RecordedEvent } from './port.ts';
import type { Section } from './subscription.ts';

/** Events kept in memory per log, so that live subscribers neither read nor parse. */
const RECENT_EVENTS = 5_000;

/** The last events of a log that this process follows. */
export class RecentEvents {
  readonly #events: RecordedEvent[] = [];
  #first = 0;
  #next = 0;
  /** All later events are here. */
  #since: Position;
  /** As far as the log is known; later events are not. */
  end: Position;

  constructor(head: Position) {
    this.#since = this.end = head;
  }

  /** The log goes on with these, as far as this process follows it, and up to here. */
  extend(events: readonly RecordedEvent[], upTo: Position): void {
    for (const event of events) {
      const at = this.#next++ % RECENT_EVENTS;
      if (this.#next - this.#first > RECENT_EVENTS) {
        this.#since = (this.#events[at] as RecordedEvent).position;
        this.#first++;
      }
      this.#events[at] = event;
    }
    this.end = upTo;
  }

  /** At most so many events; none at the end. undefined when some are not here: no longer, or not yet. */
  after(position: Position, limit: number): Section | undefined {
    if (position < this.#since || position > this.end) return undefined;
    let [low, high] = [this.#first, this.#next];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#at(middle).position > position) high = middle;
      else low = middle + 1;
    }
    const events: RecordedEvent[] = [];
    let place = low;
    for (; place < this.#next && events.length < limit; place++) events.push(this.#at(place));
    const upTo = place === this.#next ? this.end : (events.at(-1)?.position ?? position);
    return { events, upTo, passed: upTo - position };
  }

  #at(place: number): RecordedEvent {
    return this.#events[place % RECENT_EVENTS] as RecordedEvent;
  }
}
