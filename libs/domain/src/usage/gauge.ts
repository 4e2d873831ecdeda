import { MILLION, type Reading } from './reading.ts';

/** How long a reading stands for its instance when no other follows. */
export const HOLD_MS = 60 * 60_000;

/** From one moment on, up to another. */
export interface Span {
  readonly from: number;
  readonly to: number;
}
export interface Peak {
  readonly value: number;
  /** The first moment with this value. */
  readonly at: number;
}

/** An instance whose seat has ended counts no longer, whatever its last reading. */
export type SeatEnds = ReadonlyMap<string, number>;

interface Hold {
  readonly instanceId: string;
  readonly at: number;
  micros: number;
}

/**
 * The highest sum over all instances at one moment, for each of some spans. A reading holds until the instance's next one, an hour at most, and
 * ends with its seat; of two at the same moment the higher one holds. So the peak depends only on the readings and their times.
 *
 * `take` needs readings in the order of time, including the hour before the first span. `spans` follow one another.
 */
export class GaugePeaks {
  readonly #spans: readonly Span[];
  readonly #ends: readonly (readonly [instanceId: string, at: number])[];
  readonly #endOf: SeatEnds;
  readonly #peaks: (Peak | undefined)[];
  readonly #held = new Map<string, Hold>();
  /** In the order in which they were taken, and so in which they run out. */
  readonly #running: Hold[] = [];
  #ranOut = 0;
  #ended = 0;
  /** In millionths, so that it is exact. */
  #total = 0;
  #span = -1;
  #now = -Infinity;

  constructor(spans: readonly Span[], ends: SeatEnds = new Map()) {
    this.#spans = spans;
    this.#peaks = spans.map(() => undefined);
    this.#endOf = ends;
    this.#ends = [...ends].sort(([, a], [, b]) => a - b);
  }

  take({ instanceId, at, micros }: Reading): void {
    if (at < this.#now) throw new Error('Readings are taken in the order of time');
    if (at > this.#now) this.#moveTo(at);
    if (at >= (this.#endOf.get(instanceId) ?? Infinity)) return;
    const held = this.#held.get(instanceId);
    if (held?.at === at) {
      this.#total += Math.max(0, micros - held.micros);
      held.micros = Math.max(held.micros, micros);
      return;
    }
    const hold = { instanceId, at, micros };
    this.#total += micros - (held?.micros ?? 0);
    this.#held.set(instanceId, hold);
    this.#running.push(hold);
  }

  /** For each span its peak; undefined if no reading held: that means unknown, not 0. */
  result(): readonly (Peak | undefined)[] {
    this.#moveTo(Infinity);
    return this.#peaks;
  }

  /** The total of now holds until then: for the present span, and for spans beginning in between with the readings left by then. */
  #moveTo(at: number): void {
    this.#note();
    for (let next = this.#spans[this.#span + 1]; next && next.from <= at; next = this.#spans[this.#span + 1]) {
      this.#span++;
      if (next.from === at) break;
      this.#letGo(next.from);
      this.#now = next.from;
      this.#note();
    }
    this.#letGo(at);
    this.#now = at;
  }

  #note(): void {
    const span = this.#spans[this.#span];
    if (!span || this.#held.size === 0 || this.#now >= span.to) return;
    const known = this.#peaks[this.#span];
    if (!known || this.#total / MILLION > known.value) this.#peaks[this.#span] = { value: this.#total / MILLION, at: this.#now };
  }

  /** Drops the readings that have run out or ended by then. */
  #letGo(by: number): void {
    for (let hold = this.#running[this.#ranOut]; hold && hold.at + HOLD_MS <= by; hold = this.#running[++this.#ranOut]) {
      if (this.#held.get(hold.instanceId) === hold) this.#drop(hold);
    }
    if (this.#ranOut >= 4096) {
      this.#running.splice(0, this.#ranOut);
      this.#ranOut = 0;
    }
    for (let end = this.#ends[this.#ended]; end && end[1] <= by; end = this.#ends[++this.#ended]) {
      const hold = this.#held.get(end[0]);
      if (hold) this.#drop(hold);
    }
  }

  #drop(hold: Hold): void {
    this.#held.delete(hold.instanceId);
    this.#total -= hold.micros;
  }
}

/** The reading of each instance in force at a moment: together they make up the sum. */
export function inForceAt(moment: number, readings: Iterable<Reading>, ends: SeatEnds = new Map()): readonly Reading[] {
  const held = new Map<string, Reading>();
  for (const reading of readings) {
    const { instanceId, at, micros } = reading;
    if (at > moment || at + HOLD_MS <= moment || (ends.get(instanceId) ?? Infinity) <= moment) continue;
    const other = held.get(instanceId);
    if (!other || at > other.at || (at === other.at && (micros > other.micros || (micros === other.micros && reading.id < other.id)))) held.set(instanceId, reading);
  }
  return [...held.values()].sort((a, b) => b.micros - a.micros || (a.instanceId < b.instanceId ? -1 : 1));
}
