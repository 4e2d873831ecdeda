import { addSeconds, type Aggregate, type Instant } from '@keyledger/kernel';

/** The process's timer, a request, or an environment's clock that was put forward. */
export type SweepTrigger = 'schedule' | 'request' | 'clock';
/** The results of a run: events by type. */
export type Transitions = Readonly<Record<string, number>>;

/** The runs of an environment's sweep. At most one is under way: starting one is the claim, and one that shows no sign of life any more loses it. */
export type SweepsState = Readonly<{
  /** Of the last run; the first is 1. */
  number: number;
  running: { readonly number: number; readonly aliveAt: Instant } | null;
}>;

/** `at` is real time, because that of the environment may jump. */
export type SweepsCommand =
  | { readonly type: 'Start'; readonly trigger: SweepTrigger; readonly at: Instant }
  | { readonly type: 'ShowLife'; readonly number: number; readonly at: Instant }
  | ({ readonly type: 'Finish' } & Finished);
interface Finished {
  readonly number: number;
  /** False if it was cut short; the next run does the rest. */
  readonly complete: boolean;
  readonly durationMs: number;
  /** Subjects that were due, or looked so. */
  readonly examined: number;
  readonly transitions: Transitions;
}

export type SweepsEvent =
  | { readonly type: 'SweepStarted'; readonly number: number; readonly trigger: SweepTrigger; readonly at: Instant }
  | { readonly type: 'SweepAlive'; readonly number: number; readonly at: Instant }
  | ({ readonly type: 'SweepFinished' } & Finished);

/** A run shows a sign of life three times as often. */
export const SWEEP_ABANDONED_SECONDS = 15;

export const Sweeps: Aggregate<SweepsState, SweepsCommand, SweepsEvent> = {
  category: 'sweep',
  stateVersion: 1,
  shapes: { SweepStarted: { schema: 1 }, SweepAlive: { schema: 1 }, SweepFinished: { schema: 1 } },
  initial: () => ({ number: 0, running: null }),

  /** No event: another run is under way. */
  decide({ number, running }, command) {
    switch (command.type) {
      case 'Start': return isUnderWay(running, command.at) ? [] : [{ type: 'SweepStarted', number: number + 1, trigger: command.trigger, at: command.at }];
      case 'ShowLife': return running?.number === command.number ? [{ type: 'SweepAlive', number: command.number, at: command.at }] : [];
      case 'Finish': {
        const { type: _, ...finished } = command;
        const isOver = command.number === number && running === null;
        // A run taken for dead has worked all the same.
        return isOver || command.number > number ? [] : [{ type: 'SweepFinished', ...finished }];
      }
    }
  },

  evolve(state, event) {
    switch (event.type) {
      case 'SweepStarted': return { number: event.number, running: { number: event.number, aliveAt: event.at } };
      case 'SweepAlive': return state.running?.number === event.number ? { ...state, running: { number: event.number, aliveAt: event.at } } : state;
      case 'SweepFinished': return state.running?.number === event.number ? { ...state, running: null } : state;
    }
  },
};

/** A sign of life in the future does not count: it was given before the clock was set back. */
const isUnderWay = (running: SweepsState['running'], at: Instant): boolean =>
  running !== null && at < addSeconds(running.aliveAt, SWEEP_ABANDONED_SECONDS) && at > addSeconds(running.aliveAt, -SWEEP_ABANDONED_SECONDS);
