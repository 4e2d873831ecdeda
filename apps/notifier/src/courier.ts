import { isGivenUp, outcomeOf } from '@keyledger/domain';
import { environments, runIn, systemContext, type Clock, type Instant } from '@keyledger/kernel';
import type { Log, Metrics } from '@keyledger/observability';
import type { Answer } from './egress.ts';
import { MAIL, type ClaimedParcel, type Outbox } from './outbox.ts';

/** Delivers parcels to their targets. Both methods work in the environment of the context. */
export interface Channel {
  /** One attempt. A text says why the parcel is no longer wanted. Rejects only when `signal` is aborted. */
  attempt(parcel: ClaimedParcel, signal: AbortSignal): Promise<Answer | string>;
  /** The target accepts nothing (any more). */
  giveUp(target: string, cause: 'failing' | 'gone'): Promise<void>;
}

/**
 * Limits of concurrent attempts: in all; for one target; for all targets together that get one each, which keeps room for targets known to accept
 * deliveries; and for those among them that have been failing, because nothing is known of any target after a start.
 */
const AT_ONCE = { all: 128, target: 4, unproven: 96, failing: 48 } as const;
/** A target that takes longer than this to answer takes a place from others. */
const SLOW_MS = 2_000;
/** How often to check for parcels that have fallen due, or were added by another process. */
const LOOK_EVERY_MS = 1_000;

/** A target begins with one attempt at a time, gets more with each delivery it accepts promptly, and begins again when it does not. */
interface Lane {
  running: number;
  width: number;
  isFailing: boolean;
  /** When it got its last attempt, counted in attempts. */
  last: number;
}

/** When the process stops. */
const ANSWERED_WITHIN_MS = 3_000;

const isUnproven = ({ width }: Lane): boolean => width === 1;

/**
 * Empties the outbox. A due parcel is claimed, tried, and settled; a process that dies meanwhile loses its claim, and the parcel is tried again under
 * the same id. A slow or dead target does not keep others waiting. No order is promised.
 */
export class Courier {
  readonly #lanes = new Map<string, Lane>();
  readonly #looking = new Map<string, { again: boolean; done: Promise<void> }>();
  readonly #trips = new Set<Promise<void>>();
  readonly #leaving = new AbortController();
  #isClosing = false;
  #timer: NodeJS.Timeout | undefined;
  #attempts = 0;

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
    if (this.#isClosing) return;
    const looking = this.#looking.get(environment);
    if (looking) looking.again = true;
    else {
      const look = { again: true, done: Promise.resolve() };
      this.#looking.set(environment, look);
      look.done = this.#look(environment, look).finally(() => this.#looking.delete(environment));
    }
  }

  /** Attempts in flight have a moment to be answered, so that what has arrived is not sent again; those aborted then count as not tried. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#isClosing = true;
    await Promise.all([...this.#looking.values()].map(({ done }) => done));
    const late = setTimeout(() => this.#leaving.abort(), ANSWERED_WITHIN_MS);
    await Promise.all(this.#trips);
    clearTimeout(late);
  }

  async #look(environment: string, look: { again: boolean }): Promise<void> {
    while (look.again && !this.#isClosing) {
      look.again = false;
      try {
        await this.#in(environment, (now) => this.#sendDue(environment, now));
      } catch (error) {
        this.log.warn({ err: error, environment }, 'due deliveries could not be read; it will be tried again');
      }
    }
  }

  async #sendDue(environment: string, now: Instant): Promise<void> {
    const due = (await this.outbox.dueTargets(now)).filter(({ target }) => target !== MAIL || this.mail);
    const { wanted, isFull } = this.#rooms(due.map(({ target, isFailing }) => ({ target, lane: this.#laneOf(environment, target, isFailing) })));
    // Taken while the outbox is asked: the other environment's look must not give the same places away.
    for (const { lane, room } of wanted) lane.running += room;
    const parcels = await this.outbox.claim(wanted, now).finally(() => {
      for (const { lane, room } of wanted) lane.running -= room;
    });
    for (const parcel of parcels) this.#send(environment, parcel, this.#laneOf(environment, parcel.target));
    // Some got more places than they had parcels: others may have them, of any environment.
    if (isFull && parcels.length > 0 && parcels.length < wanted.reduce((sum, { room }) => sum + room, 0)) environments.forEach((each) => this.wake(each));
  }

  /** One place for each before anybody gets more. Targets with the fewest attempts in flight come first, then those that have waited longest: where many never answer, the others still get their turn. */
  #rooms(due: readonly { readonly target: string; readonly lane: Lane }[]) {
    const running = (isOne: (lane: Lane) => boolean) => [...this.#lanes.values()].reduce((sum, lane) => sum + (isOne(lane) ? lane.running : 0), 0);
    const left = { all: AT_ONCE.all - running(() => true), unproven: AT_ONCE.unproven - running(isUnproven), failing: AT_ONCE.failing - running((lane) => isUnproven(lane) && lane.isFailing) };
    const wanted: { readonly target: string; readonly lane: Lane; room: number }[] = [];
    for (const { target, lane } of due.toSorted((a, b) => a.lane.running - b.lane.running || a.lane.last - b.lane.last)) {
      const isLimited = isUnproven(lane);
      const places = Math.min(lane.width - lane.running, left.all, isLimited ? left.unproven : 1, isLimited && lane.isFailing ? left.failing : 1);
      if (places <= 0) continue;
      wanted.push({ target, lane, room: 1 });
      left.all -= 1;
      if (isLimited) left.unproven -= 1;
      if (isLimited && lane.isFailing) left.failing -= 1;
    }
    for (const one of wanted) {
      const more = Math.min(one.lane.width - one.lane.running - one.room, left.all);
      one.room += more;
      left.all -= more;
    }
    return { wanted, isFull: left.all <= 0 };
  }

  #laneOf(environment: string, target: string, isFailing?: boolean): Lane {
    const name = `${environment} ${target}`;
    let lane = this.#lanes.get(name);
    if (!lane) this.#lanes.set(name, (lane = { running: 0, width: 1, isFailing: false, last: 0 }));
    lane.isFailing = isFailing ?? lane.isFailing;
    return lane;
  }

  #send(environment: string, parcel: ClaimedParcel, lane: Lane): void {
    lane.running += 1;
    lane.last = ++this.#attempts;
    const trip = this.#in(environment, () => this.#carry(environment, parcel, lane))
      .catch((error: unknown) => this.log.error({ err: error, environment, parcel: parcel.id }, 'a delivery could not be processed; it will be tried again'))
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
    const answer = await channel.attempt(parcel, this.#leaving.signal).catch((error: unknown) => {
      if (this.#leaving.signal.aborted) return undefined;
      throw error;
    });
    if (answer === undefined) return this.outbox.release(parcel);
    if (typeof answer === 'string') return this.outbox.drop(parcel, answer);
    const now = this.clock.now(environment);
    const ms = Math.round(performance.now() - startedMs);
    const outcome = answer.isFinal ? { is: 'failed' } as const : outcomeOf(answer, parcel.attempts + 1, this.random());
    lane.width = outcome.is === 'delivered' && ms < SLOW_MS ? Math.min(lane.width * 2, AT_ONCE.target) : 1;
    const failingSince = await this.outbox.settle(parcel, outcome, answer, ms, now);
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
