import { AdvanceClock, GetClock, ListEnvironments, SetClock } from '@keyledger/contracts';
import { clockView, environmentView, type EnvironmentState } from '@keyledger/domain';
import { Clock, context, controlEnvironment, environments, refuse, runIn } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { AccessStreams } from './streams.ts';

/** Environments are kept in `control`, which runs in real time. */
const inControl = <T>(clock: Clock, work: () => Promise<T>): Promise<T> =>
  runIn({ ...context(), environment: controlEnvironment, now: clock.now(controlEnvironment) }, work);

function clockNow() {
  const { now } = context();
  return (environment: EnvironmentState | null) => {
    if (!environment) throw refuse('ENVIRONMENT_NOT_FOUND');
    return clockView(environment, now);
  };
}

@Handles(ListEnvironments, GetClock)
export class EnvironmentQueries {
  constructor(private readonly streams: AccessStreams, private readonly clock: Clock) {}

  async execute(query: ListEnvironments | GetClock) {
    if (query instanceof ListEnvironments) return this.#list();
    await this.streams.mustReach(query.name);
    return inControl(this.clock, () => this.streams.environments.load(query.name, clockNow()));
  }

  #list() {
    return inControl(this.clock, async () => {
      const states = await Promise.all(environments.map((name) => this.streams.environments.load(name)));
      return { data: states.flatMap(({ state }) => (state ? [environmentView(state)] : [])) };
    });
  }
}

/** Moves the clock of an environment. The sweeper records what falls due by that. */
@Handles(SetClock, AdvanceClock)
export class ClockCommands {
  constructor(private readonly streams: AccessStreams, private readonly clock: Clock) {}

  async execute(command: SetClock | AdvanceClock) {
    await this.streams.mustReach(command.name);
    return inControl(this.clock, () => this.streams.environments.run(command.name, command, clockNow()));
  }
}
