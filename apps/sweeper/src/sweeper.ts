import { setTimeout as sleep } from 'node:timers/promises';
import type { Backlog, SweepReport } from '@keyledger/contracts';
import { SWEEP_ABANDONED_SECONDS, type SweepTrigger, type Transitions } from '@keyledger/domain';
import { addDays, context, refuse, runIn, systemContext, type Clock, type Instant } from '@keyledger/kernel';
import type { Metrics } from '@keyledger/observability';
import type { Pass, Passes, Subject } from './passes.ts';
import type { Runs } from './runs.ts';

const SUBJECTS_PER_LOOK = 500;
/** Some ten milliseconds of the owner's time, in several pieces; then a rest, in which the owner serves other requests. */
const SUBJECTS_PER_COMMAND = 50;
const LONGEST_REST_MS = 20;
const SIGN_OF_LIFE_MS = SWEEP_ABANDONED_SECONDS * 1000 / 3;
const LOOK_AGAIN_MS = 100;

/** What a run has done so far. */
interface Tally {
  examined: number;
  transitions: Record<string, number>;
}

/** Asks what has fallen due and has its owner record it, until nothing is due any more. A run may be cut short, repeated, or run beside another one: the result is the same. */
export class Sweeper {
  constructor(
    private readonly groups: readonly Passes[], private readonly runs: Runs, private readonly clock: Clock, private readonly metrics: Metrics, private readonly stopping: AbortSignal,
  ) {}

  /** Processes everything due now. Undefined while another run is under way. */
  async run(trigger: SweepTrigger): Promise<SweepReport | undefined> {
    return this.#asTime(async (startedAt) => {
      const number = await this.runs.start(trigger);
      return number === undefined ? undefined : this.#claimed(number, startedAt);
    });
  }

  /** The same, after the run under way. */
  async runInTurn(trigger: SweepTrigger): Promise<SweepReport> {
    for (;;) {
      const report = await this.run(trigger);
      if (report) return report;
      await sleep(LOOK_AGAIN_MS, undefined, { signal: this.stopping }).catch(() => undefined);
      this.#mayGoOn();
    }
  }

  /** Reports what a run would do. */
  dryRun(): Promise<SweepReport> {
    return this.#asTime(async (startedAt) => {
      const [tally, startedMs] = [newTally(), performance.now()];
      for (const pass of this.groups.flat()) await this.#walk(pass, startedAt, undefined, tally, true);
      return { number: null, dryRun: true, state: 'finished', startedAt, durationMs: Math.round(performance.now() - startedMs), ...tally };
    });
  }

  /** What is due now, beyond a place, from all groups that answer. */
  async backlog(after?: Subject): Promise<Backlog> {
    return this.#asTime(async (now) => {
      const asked = await Promise.allSettled(this.groups.map((passes) => this.#backlog(passes, now, after)));
      const backlog = together(asked.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : [])));
      const silent = asked.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined;
      if (silent && backlog.count === 0) throw silent.reason;
      return backlog;
    });
  }

  async #claimed(number: number, startedAt: Instant): Promise<SweepReport> {
    const [tally, startedMs] = [newTally(), performance.now()];
    const alive = setInterval(() => void this.runs.showLife(number).catch(() => undefined), SIGN_OF_LIFE_MS);
    const durationMs = () => Math.round(performance.now() - startedMs);
    let complete = false;
    try {
      await this.#everything(startedAt, tally);
      complete = true;
    } finally {
      clearInterval(alive);
      await this.runs.finish({ number, complete, durationMs: durationMs(), ...tally });
      this.metrics.sweep(context().environment, durationMs() / 1000, tally.transitions);
    }
    return { number, dryRun: false, state: 'finished', startedAt, durationMs: durationMs(), ...tally };
  }

  /** Day by day, if there is more than one to make up for: what falls due on one day may bring about what falls due on another. */
  async #everything(now: Instant, tally: Tally): Promise<void> {
    const going = new Set(this.groups);
    const failures: unknown[] = [];
    /** All groups in parallel. A failing group does not stop the others; its error is thrown at the end. */
    const each = (work: (passes: Passes) => Promise<unknown>) => Promise.all([...going].map((passes) => work(passes).catch((error: unknown) => {
      going.delete(passes);
      failures.push(error);
    })));
    for (let done: Subject | undefined; ;) {
      const backlogs: Backlog[] = [];
      await each(async (passes) => backlogs.push(await this.#backlog(passes, now, done)));
      const { oldest } = together(backlogs);
      if (oldest === null) break;
      const until = earlier(endOfDay(oldest), now);
      for (let found = Infinity; found > 0;) {
        found = 0;
        await each(async (passes) => {
          for (const pass of passes) {
            const walked = await this.#walk(pass, until, done, tally, false);
            found += walked;
          }
        });
      }
      done = placeAfter(until);
    }
    if (failures.length > 0) throw failures[0];
  }

  async #backlog(passes: Passes, until: Instant, after?: Subject): Promise<Backlog> {
    return together(await Promise.all(passes.map((pass) => pass.backlog(until, after))));
  }

  /** Goes once through everything a pass finds due; returns the number of events recorded. */
  async #walk(pass: Pass, until: Instant, after: Subject | undefined, tally: Tally, dryRun: boolean): Promise<number> {
    let found = 0;
    for (let place = after; ;) {
      const subjects = await pass.due(until, place, SUBJECTS_PER_LOOK);
      for (let from = 0; from < subjects.length; from += SUBJECTS_PER_COMMAND) {
        found += await this.#settle(pass, subjects.slice(from, from + SUBJECTS_PER_COMMAND), until, tally, dryRun);
      }
      place = subjects.at(-1);
      if (!place || subjects.length < SUBJECTS_PER_LOOK) return found;
    }
  }

  async #settle(pass: Pass, subjects: readonly Subject[], until: Instant, tally: Tally, dryRun: boolean): Promise<number> {
    this.#mayGoOn();
    const startedMs = performance.now();
    const transitions = await pass.settle(subjects, until, dryRun);
    tally.examined += subjects.length;
    const rest = Math.min(performance.now() - startedMs, LONGEST_REST_MS);
    if (subjects.length === SUBJECTS_PER_COMMAND) await sleep(rest, undefined, { signal: this.stopping }).catch(() => undefined);
    return addTo(tally.transitions, transitions);
  }

  #mayGoOn(): void {
    if (this.stopping.aborted) throw refuse('UNAVAILABLE', 'This process is stopping; another one will finish the sweep');
  }

  /** As the system, whoever called; at the time of the environment, whose clock may have been set forward a moment ago. */
  async #asTime<T>(work: (now: Instant) => Promise<T>): Promise<T> {
    const asked = context();
    await this.clock.current?.(asked.environment);
    const now = this.clock.now(asked.environment);
    const own = systemContext(asked.environment, now);
    return runIn({ ...asked, ...own, correlationId: asked.correlationId, causationId: asked.commandId, retry: false, ifRevision: undefined }, () => work(now));
  }
}

const newTally = (): Tally => ({ examined: 0, transitions: {} });

function addTo(sum: Record<string, number>, transitions: Transitions): number {
  let total = 0;
  for (const [type, count] of Object.entries(transitions)) {
    sum[type] = (sum[type] ?? 0) + count;
    total += count;
  }
  return total;
}

const together = (backlogs: readonly Backlog[]): Backlog => ({
  oldest: backlogs.reduce<Instant | null>((oldest, backlog) => (oldest === null || (backlog.oldest !== null && backlog.oldest < oldest) ? backlog.oldest : oldest), null),
  count: backlogs.reduce((sum, { count }) => sum + count, 0),
});
const earlier = (a: Instant, b: Instant): Instant => (a < b ? a : b);
const endOfDay = (instant: Instant): Instant => `${addDays(instant, 0).slice(0, 10)}T23:59:59.999Z`;
/** Behind everything that is due by then. */
export const placeAfter = (dueAt: Instant): Subject => ({ id: '~', dueAt });
