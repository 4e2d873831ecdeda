import type { EventStore, Position, RecordedEvent, Subscription } from '@keyledger/event-store';
import { Clock, mayHaveOwnTime, systemClock, type Instant } from '@keyledger/kernel';
import { ReadIndex, type View } from '@keyledger/read-models';

const PAGE = 1_000;

/**
 * The time of every environment, from the log of `control`: a change of an environment's clock applies in this process as soon as the log shows it,
 * and `current` waits for that. Without any change it is real time; production has no other, and never waits.
 */
export class EnvironmentClocks extends Clock implements View {
  /** Milliseconds. */
  readonly #ahead = new Map<string, number>();
  readonly #listeners: (() => void)[] = [];
  readonly #index: ReadIndex;
  #subscription: Subscription | undefined;
  position: Position = 0;

  static async open(control: EventStore, environments: readonly string[]): Promise<EnvironmentClocks> {
    const clocks = new EnvironmentClocks(control);
    // Events after the head may be read here and received again below: the last one counts.
    clocks.position = await control.head();
    for (const name of environments.filter(mayHaveOwnTime)) await clocks.#read(control, name);
    clocks.#subscription = control.subscribe(clocks.position, (events, upTo) => clocks.#hear(events, upTo), [{ category: 'environment' }]);
    return clocks;
  }

  private constructor(control: EventStore) {
    super();
    this.#index = new ReadIndex(control, this);
  }

  now(environment: string): Instant {
    const ahead = this.#ahead.get(environment);
    return ahead === undefined ? systemClock.now(environment) : new Date(Date.now() + ahead).toISOString();
  }

  override current(environment: string): Promise<void> | undefined {
    return !mayHaveOwnTime(environment) || this.#index.isCurrent() ? undefined : this.#index.current();
  }

  onAdvance(listener: () => void): void {
    this.#listeners.push(listener);
  }

  hurry(position: Position): void {
    this.#subscription?.hurry?.(position);
  }

  async close(): Promise<void> {
    await this.#subscription?.close();
  }

  async #read(control: EventStore, environment: string): Promise<void> {
    for (let from = 0; ; from += PAGE) {
      const events = await control.readStream(`environment-${environment}`, { from, limit: PAGE });
      this.#take(events);
      if (events.length < PAGE) return;
    }
  }

  #hear(events: readonly RecordedEvent[], upTo: Position): void {
    this.#take(events);
    this.position = upTo;
    for (const listener of this.#listeners) listener();
  }

  #take(events: readonly RecordedEvent[]): void {
    for (const { type, stream, data } of events) {
      if (type === 'ClockSet') this.#ahead.set(stream.slice('environment-'.length), data['aheadMs'] as number);
    }
  }
}
