import { deserialize, serialize } from 'node:v8';
import { expect } from '@jest/globals';
import { Refusal, type Aggregate, type ErrorCode, type EventOrigin, type Instant, type RefusalMembers } from '@keyledger/kernel';

/** The events of one stream. Only commands make a story, so no fixture can be in a state that production cannot reach. */
export interface Story<Event> {
  readonly happened: readonly { readonly event: Event; readonly origin: EventOrigin }[];
}
/** A command given at another time than the scenario's. */
export interface Moment<Command> {
  readonly at: Instant;
  readonly command: Command;
}
export const at = <Command>(instant: Instant, command: Command): Moment<Command> => ({ at: instant, command });

/**
 * `given(story(issue(), assign())).when(activate(laptop)).thenEvents({ type: 'InstanceActivated' })`
 *
 * Every decision is made twice and must not change the state: a rule with a clock, randomness or a side effect fails.
 */
export function scenarios<State, Command extends { type: string }, Event extends { type: string }>(
  aggregate: Aggregate<State, Command, Event>, now: Instant, actor: EventOrigin['actor'] = { type: 'api-key', id: 'key_tester', role: 'super_admin' },
) {
  type Step = Command | Moment<Command> | Story<Event>;
  const stateOf = (history: Story<Event>): State =>
    history.happened.reduce((state, { event, origin }) => aggregate.evolve(state, event, origin), aggregate.initial());

  const decide = (history: Story<Event>, command: Command, instant: Instant): readonly Event[] => {
    const state = stateOf(history);
    const before = serialize(state);
    const attempt = () => {
      try {
        return { events: aggregate.decide(state, command, instant) };
      } catch (refusal) {
        return { refusal };
      }
    };
    const { events, refusal } = attempt();
    expect(attempt()).toEqual({ events, refusal });
    expect(deserialize(before)).toEqual(state);
    if (!events) throw refusal;
    return events;
  };

  const told = (history: Story<Event>, events: readonly Event[], instant: Instant): Story<Event> =>
    ({ happened: [...history.happened, ...events.map((event) => ({ event, origin: { at: instant, actor } }))] });

  /** Commands one after the other. A step that is refused, or changes nothing, is a mistake in the fixture. */
  const story = (...steps: readonly Step[]): Story<Event> => steps.reduce<Story<Event>>((history, step) => {
    if ('happened' in step) return { happened: [...history.happened, ...step.happened] };
    const moment = 'command' in step ? step : { at: now, command: step };
    const events = decide(history, moment.command, moment.at);
    if (events.length === 0) throw new Error(`${moment.command.type} changes nothing here: leave it out of the story`);
    return told(history, events, moment.at);
  }, { happened: [] });

  const given = (history: Story<Event> = { happened: [] }, instant: Instant = now) => ({
    /** The same history, later (or earlier) than the scenario's now. */
    at: (other: Instant) => given(history, other),
    when(command: Command) {
      const run = () => decide(history, command, instant);
      return {
        thenNothing() {
          expect(run()).toEqual([]);
        },
        /** Exactly these, in this order; omitted fields are not compared. A function at the end checks the resulting state. */
        thenEvents(...expected: (({ type: Event['type'] } & Record<string, unknown>) | ((state: State) => void))[]) {
          const events = run();
          const patterns = expected.filter((one) => typeof one !== 'function');
          expect(events.map(({ type }) => type)).toEqual(patterns.map(({ type }) => type));
          expect(events).toMatchObject(patterns);
          for (const check of expected) if (typeof check === 'function') check(stateOf(told(history, events, instant)));
        },
        thenRefused(code: ErrorCode, members: RefusalMembers = {}) {
          const refusal = refusalOf(run);
          expect(refusal?.code ?? 'no refusal').toBe(code);
          expect(refusal?.members).toMatchObject(members);
        },
      };
    },
  });

  return { story, given, stateOf };
}

function refusalOf(run: () => unknown): Refusal | undefined {
  try {
    run();
    return undefined;
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
}
