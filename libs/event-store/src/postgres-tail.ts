import { matcher, together, type Interest } from './follows.ts';
import type { Position, RecordedEvent } from './port.ts';
import { RecentEvents } from './recent-events.ts';
import { wholeSection, type Follower, type Section } from './subscription.ts';

/** The most events per read. */
export const READ_LIMIT = 1_000;
/** Positions of which a statement picks out what is followed, within a few milliseconds. */
export const FILTERED_AT_ONCE = 10_000;
/** A notification wakes every process, and the server lets one writer notify at a time: no more often than this. A reader in a hurry asks. */
const TELL_EVERY_MS = 25;
/** Events that no reader waits for are read together: a read costs the same for one as for many. */
const GATHER_MS = 100;

type Read = (after: Position, interest: Interest) => Promise<Section>;

/**
 * The end of a log as this process knows it. Subscribers that have got there share one read of new events that any of them follows; events that
 * this process has appended itself are not read.
 */
export class Tail {
  readonly followers = new Set<Follower>();
  readonly #read: Read;
  readonly #failed: (error: unknown) => void;
  #recent = new RecentEvents(0);
  #known: Position = 0;
  #newest: RecordedEvent | undefined;
  #wanted: Position = 0;
  #reading = false;
  /** What any follower wants. */
  #interest: Interest = [];
  #isWanted = matcher([]);
  #gathering: NodeJS.Timeout | undefined;

  constructor(read: Read, failed: (error: unknown) => void) {
    this.#read = read;
    this.#failed = failed;
  }

  /** The log reaches at least to here. */
  get known(): Position {
    return this.#known;
  }

  /** The last event that this process has seen. */
  get newest(): RecordedEvent | undefined {
    return this.#newest;
  }

  saw(event: RecordedEvent): void {
    if (event.position > (this.#newest?.position ?? 0)) this.#newest = event;
  }

  add(follower: Follower, follows: Interest): void {
    this.followers.add(follower);
    const interest = this.#interest && together(this.#interest, follows);
    if (interest === this.#interest) return;
    this.#interest = interest;
    this.#isWanted = matcher(interest);
    // What it wants may be missing among the events kept.
    this.#recent = new RecentEvents(this.#recent.end);
  }

  /** The log reaches this position. Often with events that this process has appended itself and need not read. */
  heard(position: Position): void {
    this.#known = Math.max(this.#known, position);
    if (this.#reading || this.#recent.end >= this.#known) return;
    if (this.followers.size === 0) this.#recent = new RecentEvents(this.#known);
    else if (this.#recent.end < this.#wanted) void this.#readOn();
    else this.#gathering ??= setTimeout(() => void this.#readOn(), GATHER_MS);
  }

  hurry(position: Position): void {
    this.#wanted = Math.max(this.#wanted, position);
    this.heard(position);
  }

  close(): void {
    clearTimeout(this.#gathering);
    this.followers.clear();
  }

  wrote(events: readonly RecordedEvent[]): void {
    const last = events.at(-1) as RecordedEvent;
    this.saw(last);
    if (events[0]?.position === this.#recent.end + 1) this.#recent.extend(events.filter(this.#isWanted), last.position);
  }

  /** A follower's source. A follower at the end is woken with the others there. */
  after(position: Position): Section | Promise<Section> {
    return position > this.#recent.end ? wholeSection([], position) : (this.#recent.after(position, READ_LIMIT) ?? this.#read(position, this.#interest));
  }

  wake(): void {
    for (const follower of this.followers) follower.wake();
  }

  /** Tries events again at once that could not be read or handled. */
  retry(): void {
    for (const follower of this.followers) follower.retry();
  }

  async #readOn(): Promise<void> {
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    if (this.#reading || this.followers.size === 0 || this.#recent.end >= this.#known) return;
    this.#reading = true;
    let isFurther = false;
    try {
      // There was no follower for a while: one further behind than this reads by itself.
      const atOnce = this.#interest ? FILTERED_AT_ONCE : READ_LIMIT;
      if (this.#known - this.#recent.end > atOnce) this.#recent = new RecentEvents(this.#known - atOnce);
      const [interest, before] = [this.#interest, this.#recent.end];
      const { events, upTo } = await this.#read(before, interest);
      // Meanwhile a follower may have come that wants more; or this process has written what it was reading.
      const { end } = this.#recent;
      if (interest === this.#interest) this.#recent.extend(events.filter(({ position }) => position > end), Math.max(end, upTo));
      isFurther = upTo > before;
      this.wake();
    } catch (error) {
      this.#failed(error);
    }
    this.#reading = false;
    // A failed read is tried again when news of the log arrives: within a second.
    if (isFurther) this.heard(0);
  }
}

/** Notifies the other processes of appends: with the append, or a little later of several together. A process not notified asks within a second. */
export class Telling {
  readonly #tell: () => Promise<unknown>;
  #lastAt = -Infinity;
  #later: NodeJS.Timeout | undefined;

  constructor(tell: () => Promise<unknown>) {
    this.#tell = tell;
  }

  /** Whether this append may notify; else a notification follows. */
  isDue(): boolean {
    const wait = this.#lastAt + TELL_EVERY_MS - performance.now();
    if (wait > 0) this.#tellIn(wait);
    else this.#told();
    return wait <= 0;
  }

  /** A due notification was not sent: other appends may have counted on it. */
  missed(): void {
    this.#tellIn(TELL_EVERY_MS);
  }

  close(): void {
    clearTimeout(this.#later);
  }

  #tellIn(ms: number): void {
    this.#later ??= setTimeout(() => {
      this.#told();
      this.#tell().catch(() => undefined);
    }, ms);
  }

  #told(): void {
    clearTimeout(this.#later);
    this.#later = undefined;
    this.#lastAt = performance.now();
  }
}
