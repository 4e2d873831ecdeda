import { isGivenUp, outcomeOf } from '@keyledger/domain';
import { environments, runIn, systemContext, type Clock, type Instant } from '@keyledger/kernel';
import type { Log, Metrics } from '@keyledger/observability';
import type { Answer } from './egress.ts';
import { MAIL, type ClaimedParcel, type Outbox } from './outbox.ts';

/** Takes parcels to where they belong. Both work in the environment of the context. */
export interface Channel {
  /** One try. A text says that it is for nobody any more. Rejects only when `signal` is aborted. */
  attempt(parcel: ClaimedParcel, signal: AbortSignal): Promise<Answer | string>;
  /** The target takes nothing (any more). */
  giveUp(target: string, cause: 'failing' | 'gone'): Promise<void>;
}

/** Tries at a time: in all, for one target, and for all those targets together whose last try failed, each of which gets one: they cost others no place. */
const AT_ONCE = { all: 64, target: 4, failing: 32 } as const;
/** How often it is looked for what has fallen due by time, or was put there by another process. */
const LOOK_EVERY_MS = 1_000;

interface Lane {
  running: number;
  hasFailed: boolean;
}

/**
 * Empties the outbox. What is due is claimed, tried, and settled; whoever dies meanwhile loses his claim, and the same is tried again under the same
 * id. A target that is slow or dead keeps nobody else waiting. No order is promised.
 */
export class Courier {
  readonly #lanes = new Map<string, Lane>();
  readonly #looking = new Map<string, { again: boolean; done: Promise<void> }>();
  readonly #trips = new Set<Promise<void>>();
  readonly #stopping = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly outbox: Outbox, private readonly webhooks: Channel, private readonly mail: Channel | undefined, private readonly clock: Clock, private readonly metrics: Metrics,
    private readonly log: Log, private readonly random: () => number = Math.random,
  ) {}

  begin(): void {
    this.#timer = setInterval(() => environments.forEach((environment) => this.wake(environment)), LOOK_EVERY_MS).unref();
    for (const environment of environments) this.wake(environment);
  }

  /** Something may be due. */
  wake(environment: string): void {
    if (this.#stopping.signal.aborted) return;
    const looking = this.#looking.get(environment);
    if (looking) looking.again = true;
    else {
      const look = { again: true, done: Promise.resolve() };
      this.#looking.set(environment, look);
      look.done = this.#look(environment, look).finally(() => this.#looking.delete(environment));
    }
  }

  /** What is under way is broken off; it counts as not tried. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#stopping.abort();
    await Promise.all([...this.#looking.values()].map(({ done }) => done));
    await Promise.all(this.#trips);
  }

  async #look(environment: string, look: { again: boolean }): Promise<void> {
    while (look.again && !this.#stopping.signal.aborted) {
      look.again = false;
      try {
        await this.#in(environment, (now) => this.#sendDue(environment, now));
      } catch (error) {
        this.log.warn({ err: error, environment }, 'what is due could not be read; it is tried again');
      }
    }
  }

  async #sendDue(environment: string, now: Instant): Promise<void> {
    for (const target of await this.outbox.dueTargets(now)) {
      if (target === MAIL && !this.mail) continue;
      const lane = this.#laneOf(environment, target);
      const room = this.#roomIn(lane);
      if (room === 0) continue;
      const parcels = await this.outbox.claim(target, room, now);
      for (const parcel of parcels) this.#send(environment, parcel, lane);
    }
  }

  #roomIn({ running, hasFailed }: Lane): number {
    const lanes = [...this.#lanes.values()];
    const busy = lanes.reduce((sum, lane) => sum + lane.running, 0);
    const failing = lanes.reduce((sum, lane) => sum + (lane.hasFailed ? lane.running : 0), 0);
    const own = hasFailed ? Math.min(1 - running, AT_ONCE.failing - failing) : AT_ONCE.target - running;
    return Math.max(0, Math.min(own, AT_ONCE.all - busy));
  }

  #laneOf(environment: string, target: string): Lane {
    const name = `${environment} ${target}`;
    let lane = this.#lanes.get(name);
    if (!lane) this.#lanes.set(name, (lane = { running: 0, hasFailed: false }));
    return lane;
  }

  #send(environment: string, parcel: ClaimedParcel, lane: Lane): void {
    lane.running += 1;
    const trip = this.#in(environment, () => this.#carry(environment, parcel, lane))
      .catch((error: unknown) => this.log.error({ err: error, environment, parcel: parcel.id }, 'a delivery could not be worked on; it is tried again'))
      .finally(() => {
        lane.running -= 1;
        this.#trips.delete(trip);
        this.wake(environment);
      });
    this.#trips.add(trip);
  }

  async #carry(environment: string, parcel: ClaimedParcel, lane: Lane): Promise<void> {
    const channel = parcel.target === MAIL ? (this.mail as Channel) : this.webhooks;
    const startedMs = performance.now();
    const answer = await channel.attempt(parcel, this.#stopping.signal).catch((error: unknown) => {
      if (this.#stopping.signal.aborted) return undefined;
      throw error;
    });
    if (answer === undefined) return this.outbox.release(parcel);
    if (typeof answer === 'string') return this.outbox.drop(parcel, answer);
    const now = this.clock.now(environment);
    const outcome = outcomeOf(answer, parcel.attempts + 1, this.random());
    lane.hasFailed = outcome.is !== 'delivered';
    const failingSince = await this.outbox.settle(parcel, outcome, answer, Math.round(performance.now() - startedMs), now);
    this.metrics.delivery(environment, parcel.target === MAIL ? 'mail' : 'webhook', outcome.is);
    if (outcome.is === 'gone') await channel.giveUp(parcel.target, 'gone');
    else if (outcome.is === 'failed' && failingSince !== null && isGivenUp(failingSince, now)) await channel.giveUp(parcel.target, 'failing');
  }

  async #in<T>(environment: string, work: (now: Instant) => Promise<T>): Promise<T> {
    await this.clock.current?.(environment);
    const now = this.clock.now(environment);
    return runIn(systemContext(environment, now), () => work(now));
  }
}
