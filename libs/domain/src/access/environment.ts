import { addSeconds, instantOf, malformed, mayHaveOwnTime, refuse, type Aggregate, type Instant } from '@keyledger/kernel';
import { instantIn } from '../license/terms.ts';

/** An isolated world, named for ever: files, schemas, keys and streams carry the name. null before it was created. */
export type EnvironmentState = Readonly<{
  name: string; createdAt: Instant;
  /** The time its clock was set to, and how far ahead of real time that was; it ticks on from there. null: real time. */
  clock: { readonly setTo: Instant; readonly aheadMs: number } | null;
}>;
export type EnvironmentCommand =
  | { readonly type: 'Create'; readonly name: string }
  | { readonly type: 'SetClock'; readonly now: Instant }
  | { readonly type: 'AdvanceClock'; readonly seconds: number };
export type EnvironmentEvent =
  | { readonly type: 'EnvironmentCreated'; readonly name: string }
  | { readonly type: 'ClockSet'; readonly now: Instant; readonly aheadMs: number };

/** The name becomes part of file, schema and stream names, so nothing in it may be ambiguous in any of them. */
const environmentNamePattern = '^[a-z][a-z0-9-]{0,31}$';
/** Instants compare as strings up to the year 9999, and a grace must still fit after any time of the clock. */
const END_OF_CLOCKS: Instant = '9000-01-01T00:00:00.000Z';

/** Its stream is one of `control`, so `now` is real time in every decision here. */
export const Environment: Aggregate<EnvironmentState | null, EnvironmentCommand, EnvironmentEvent> = {
  category: 'environment',
  stateVersion: 2,
  shapes: { EnvironmentCreated: { schema: 1 }, ClockSet: { schema: 1 } },
  initial: () => null,

  decide(environment, command, now) {
    if (command.type === 'Create') return create(environment, command.name);
    if (!environment) throw refuse('ENVIRONMENT_NOT_FOUND');
    if (!mayHaveOwnTime(environment.name)) throw refuse('PRODUCTION_CLOCK');
    switch (command.type) {
      case 'SetClock': return setClock(environment, instantIn('now', command.now), now);
      case 'AdvanceClock': return command.seconds === 0 ? [] : setClock(environment, later(timeIn(environment, now), command.seconds), now);
    }
  },

  evolve(environment, event, { at }) {
    switch (event.type) {
      case 'EnvironmentCreated': return { name: event.name, createdAt: at, clock: null };
      case 'ClockSet': return environment && { ...environment, clock: { setTo: event.now, aheadMs: event.aheadMs } };
    }
  },
};

function create(environment: EnvironmentState | null, name: string): EnvironmentEvent[] {
  if (environment) return [];
  if (!new RegExp(environmentNamePattern).test(name)) {
    throw refuse('VALIDATION_FAILED', 'name is not a valid environment name', { errors: [{ pointer: '/name', detail: `must match ${environmentNamePattern}` }] });
  }
  return [{ type: 'EnvironmentCreated', name }];
}

/** Forward only: else past events would lie in the environment's future. The same instant again changes nothing, although the clock has ticked since. */
function setClock(environment: EnvironmentState, wanted: Instant, realNow: Instant): EnvironmentEvent[] {
  if (environment.clock?.setTo === wanted) return [];
  const present = timeIn(environment, realNow);
  if (wanted < present) throw refuse('CLOCK_BACKWARDS', `The clock of the environment is already at ${present}`, { now: present });
  if (wanted > END_OF_CLOCKS) throw malformed('now', `must be ${END_OF_CLOCKS} at the latest`);
  return [{ type: 'ClockSet', now: wanted, aheadMs: Date.parse(wanted) - Date.parse(realNow) }];
}

const later = (from: Instant, seconds: number): Instant => {
  const instant = seconds < Date.parse(END_OF_CLOCKS) / 1000 ? instantOf(addSeconds(from, seconds)) : undefined;
  if (instant === undefined) throw malformed('seconds', `must not lead beyond ${END_OF_CLOCKS}`);
  return instant;
};

/** The time in the environment. */
export const timeIn = ({ clock }: EnvironmentState, realNow: Instant): Instant => (clock ? new Date(Date.parse(realNow) + clock.aheadMs).toISOString() : realNow);

export const environmentView = ({ name, createdAt }: EnvironmentState) => ({ name, createdAt });
export const clockView = (environment: EnvironmentState, realNow: Instant) => ({ now: timeIn(environment, realNow), controlled: environment.clock !== null });
