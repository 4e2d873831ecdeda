import type { Position, RecordedEvent } from './port.ts';
import { RecentEvents } from './recent-events.ts';
import type { Follower } from './subscription.ts';

/** At most so many events at a time. */
export const READ_LIMIT = 1_000;
/** Being told wakes every process, and the server lets one writer at a time tell: no more often than this. Whoever has to know sooner asks. */
const TELL_EVERY_MS = 25;
/** Events that nobody waits for are read together: a read costs the same for one as for many, and every process follows every log. */
const GATHER_MS = 100;

/** `reads`: the only categories of which more than the name is wanted; all when undefined. */
type Read = (after: Position, reads: Reads) => Promise<readonly RecordedEvent[]>;
type Reads = readonly string[] | undefined;

/**
 * The end of a log as this process knows it. Subscribers that have come that far share one read of what is new; what this process has
 * appended itself is not read at all.
 */
export class Tail {
  readonly followers = new Map<Follower, Reads>();
  readonly #read: Read;
  readonly #failed: (error: unknown) => void;
  #recent = new RecentEvents(0);
  #known: Position = 0;
  #newest: RecordedEvent | undefined;
  #wanted: Position = 0;
  #reading = false;
  /** What any of the followers wants to know more of. */
  #reads: Reads = [];
  #gathering: NodeJS.Timeout | undefined;

  constructor(read: Read, failed: (error: unknown) => void) {
    this.#read = read;
    this.#failed = failed;
  }

  /** The log has reached at least to here. */
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

  add(follower: Follower, reads: Reads): void {
    this.followers.set(follower, reads);
    const wanted = this.#reads && reads && [...new Set([...this.#reads, ...reads])];
    if (wanted?.length === this.#reads?.length) return;
    this.#reads = wanted;
    // What is remembered may lack what it wants to know.
    this.#recent = new RecentEvents(this.#recent.end);
  }

  /** The log reaches to this position. Often it is what this process has appended itself, and that needs no reading. */
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
    this.saw(events.at(-1) as RecordedEvent);
    const first = events[0];
    if (first?.position === this.#recent.end + 1) for (const event of events) this.#recent.push(event);
  }

  /** A follower's source. Who has come as far as the others is woken with them. */
  after(position: Position): readonly RecordedEvent[] | Promise<readonly RecordedEvent[]> {
    return position >= this.#recent.end ? [] : (this.#recent.after(position, READ_LIMIT) ?? this.#read(position, this.#reads));
  }

  wake(): void {
    for (const follower of this.followers.keys()) follower.wake();
  }

  /** What could not be read or handled before is tried again at once. */
  retry(): void {
    for (const follower of this.followers.keys()) follower.retry();
  }

  async #readOn(): Promise<void> {
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    if (this.#reading || this.followers.size === 0 || this.#recent.end >= this.#known) return;
    this.#reading = true;
    let found = 0;
    try {
      // Nobody has followed for a while: who is further behind than this reads for himself.
      if (this.#known - this.#recent.end > READ_LIMIT) this.#recent = new RecentEvents(this.#known - READ_LIMIT);
      const reads = this.#reads;
      const events = await this.#read(this.#recent.end, reads);
      if (reads === this.#reads) for (const event of events) this.#recent.push(event);
      found = events.length;
      this.wake();
    } catch (error) {
      this.#failed(error);
    }
    this.#reading = false;
    // What could not be read is tried again when something is heard: once a second at the latest.
    if (found > 0) this.heard(0);
  }
}

/** Tells the other processes of what was appended: with the append, or a little later of several together. Who is never told asks within a second. */
export class Telling {
  readonly #tell: () => Promise<unknown>;
  #lastAt = -Infinity;
  #later: NodeJS.Timeout | undefined;

  constructor(tell: () => Promise<unknown>) {
    this.#tell = tell;
  }

  /** May this append tell itself? Otherwise it will be told of. */
  isDue(): boolean {
    const wait = this.#lastAt + TELL_EVERY_MS - performance.now();
    if (wait > 0) this.#tellIn(wait);
    else this.#told();
    return wait <= 0;
  }

  /** It was due, and came to nothing: somebody else's may have counted on it. */
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
