import { eventId, refuse, type Aggregate, type EventOrigin, type MessageContext } from '@keyledger/kernel';
import { originIn } from './codec.ts';
import { NO_STREAM, type Position } from './port.ts';

/** The outcome of a command. */
export interface Written<State, Event> {
  /** The fold itself, which later commands change: read it before the next await, or pass `run` a view. */
  readonly state: State;
  /** Of the stream after this command; -1 when there is no such stream. */
  readonly revision: number;
  /** Every event that the answer rests on is at or before this position. */
  readonly position: Position;
  /** None when nothing changed. */
  readonly events: readonly Event[];
}

/** Makes the caller's answer from the state right after its own command. It must not keep the state. */
export type View<State, Event, Answer> = (state: State, revision: number, events: readonly Event[]) => Answer;

/** A command (or, without one, a read) that waits for its turn and then for its answer. */
export class Task<State, Command extends { type: string }, Event extends { type: string }> {
  readonly command: Command | undefined;
  readonly message: MessageContext;
  /** Makes the ids of this command's events: the same on a retry, different for every other command of the same message. */
  readonly claim: string;
  readonly origin: EventOrigin;
  readonly #view: View<State, Event, unknown> | undefined;
  readonly #resolve: (answer: unknown) => void;
  readonly reject: (error: unknown) => void;
  events: readonly Event[] = [];
  revision = NO_STREAM;
  error: unknown;
  #seen: unknown;

  constructor(
    command: Command | undefined, message: MessageContext, stream: string,
    view: View<State, Event, unknown> | undefined, resolve: (answer: unknown) => void, reject: (error: unknown) => void,
  ) {
    this.command = command;
    this.message = message;
    this.claim = command ? claimIn(message, `${stream}/${command.type}`) : '';
    this.origin = originIn(message);
    this.#view = view;
    this.#resolve = resolve;
    this.reject = reject;
  }

  get isRetry(): boolean {
    return this.command !== undefined && this.message.retry === true;
  }

  eventId(index: number): string {
    return eventId(this.message.commandId, `${this.claim}/${index}`);
  }

  /** `last`: the event that made the state. If it is this command's own, the message has come twice, which is no reason to refuse it. */
  decide(aggregate: Aggregate<State, Command, Event>, state: State, revision: number, last: string | undefined): void {
    this.events = [];
    this.error = undefined;
    try {
      if (this.command) {
        this.#checkRevision(revision);
        this.events = aggregate.decide(state, this.command, this.message.now);
      }
    } catch (error) {
      if (last === undefined || (last !== this.eventId(0) && last !== this.eventId(1))) this.error = error;
    }
    this.revision = revision + this.events.length;
  }

  /** An earlier run of the same message did the command. */
  wasDone(revision: number): void {
    this.events = [];
    this.error = undefined;
    this.revision = revision;
  }

  /** The view is taken when the state is this command's, not when it is answered. */
  see(state: State): void {
    try {
      this.#seen = this.#view?.(state, this.revision, this.events);
    } catch (error) {
      this.error = error;
    }
  }

  answer(state: State, position: Position): void {
    if (this.error !== undefined) this.reject(this.error);
    else if (this.#view) this.#resolve(this.#seen);
    else this.#resolve({ state, revision: this.revision, position, events: this.events } satisfies Written<State, Event>);
  }

  #checkRevision(revision: number): void {
    const { ifRevision } = this.message;
    if (ifRevision === undefined || ifRevision === revision) return;
    throw refuse('VERSION_CONFLICT', `Asked for revision ${ifRevision}, found ${revision}`, { revision });
  }
}

const runsIn = new WeakMap<MessageContext, Map<string, number>>();

/** Numbers the runs of a command on a stream within one message; a retry of the message counts the same way. */
function claimIn(message: MessageContext, run: string): string {
  let runs = runsIn.get(message);
  if (!runs) runsIn.set(message, (runs = new Map()));
  const nth = runs.get(run) ?? 0;
  runs.set(run, nth + 1);
  return `${run}/${nth}`;
}
