import type { SweepView } from '@keyledger/contracts';
import { Sweeps, type SweepsCommand, type SweepsEvent, type SweepsState, type SweepTrigger } from '@keyledger/domain';
import { Aggregates, originOf, type EventStores, type RecordedEvent, type SnapshotStore } from '@keyledger/event-store';
import { addSeconds, context, malformedQuery, systemClock, type Instant, type PerEnvironment, type Sealing } from '@keyledger/kernel';

/** About ten pages of a list, read at once. */
const EVENTS_PER_READ = 200;

/** The sweeps of each environment, in one stream: the claim of the run under way, and the history. */
export class Runs {
  readonly #streams: Aggregates<SweepsState, SweepsCommand, SweepsEvent>;

  constructor(private readonly events: EventStores, sealings: PerEnvironment<Sealing>, snapshots?: PerEnvironment<SnapshotStore>) {
    this.#streams = new Aggregates(Sweeps, events, sealings, { snapshots });
  }

  /** The number of the run, now claimed by the caller; undefined while another process runs one. */
  start(trigger: SweepTrigger): Promise<number | undefined> {
    return this.#streams.run(context().environment, { type: 'Start', trigger, at: realNow() }, ({ number }, _, events) => (events.length > 0 ? number : undefined));
  }

  async showLife(number: number): Promise<void> {
    await this.#streams.run(context().environment, { type: 'ShowLife', number, at: realNow() });
  }

  async finish(outcome: Omit<SweepsCommand & { type: 'Finish' }, 'type'>): Promise<void> {
    await this.#streams.run(context().environment, { type: 'Finish', ...outcome });
  }

  /** Newest first. `page.next` is a revision of the stream. */
  async list(limit: number, cursor?: string): Promise<{ data: SweepView[]; page: { next: string | null; total: number } }> {
    const { state, revision } = await this.#streams.load(context().environment);
    let before = cursor === undefined ? revision + 1 : revisionFrom(cursor);
    const ends = new Map<number, RecordedEvent>();
    const starts: RecordedEvent[] = [];
    while (before > 0 && starts.length <= limit) {
      const from = Math.max(0, before - EVENTS_PER_READ);
      const events = await this.events.here().readStream(`sweep-${context().environment}`, { from, limit: before - from });
      for (const event of events.toReversed()) {
        if (event.type === 'SweepFinished') ends.set(event.data['number'] as number, event);
        if (event.type === 'SweepStarted') starts.push(event);
      }
      before = from;
    }
    const last = starts[limit - 1];
    return {
      data: starts.slice(0, limit).map((start) => runOf(start, ends.get(start.data['number'] as number), state.running?.number)),
      page: { next: starts.length > limit && last ? String(last.revision) : null, total: state.number },
    };
  }
}

const realNow = (): Instant => systemClock.now('');

function revisionFrom(cursor: string): number {
  if (/^\d{1,15}$/.test(cursor)) return Number(cursor);
  throw malformedQuery('cursor', 'is not from a page of this list');
}

function runOf(start: RecordedEvent, end: RecordedEvent | undefined, running: number | undefined): SweepView {
  const { number, trigger } = start.data as unknown as SweepsEvent & { type: 'SweepStarted' };
  const begun = { number, trigger, startedAt: originOf(start).at };
  if (!end) return { ...begun, state: running === number ? 'running' : 'interrupted', finishedAt: null, durationMs: null, examined: 0, transitions: {} };
  const { complete, durationMs, examined, transitions } = end.data as unknown as SweepsEvent & { type: 'SweepFinished' };
  return { ...begun, state: complete ? 'finished' : 'interrupted', finishedAt: addSeconds(begun.startedAt, durationMs / 1000), durationMs, examined, transitions };
}
