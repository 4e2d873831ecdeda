import type { Backlog } from '@keyledger/contracts';
import { addSeconds, environments, runIn, systemContext, type Clock } from '@keyledger/kernel';
import type { Log, Metrics } from '@keyledger/observability';
import type { Subject } from './passes.ts';
import { placeAfter, type Sweeper } from './sweeper.ts';

/** How long a run's leftovers are left alone, such as a license whose stream cannot be folded. */
const LEAVE_ALONE_MS = 3_600_000;
const LATE_SECONDS = 60;

/** Checks every environment every few seconds, in real time, and starts a run where something is due. */
export class Schedule {
  readonly #leftAlone = new Map<string, Backlog & { readonly place: Subject; readonly until: number }>();
  readonly #late = new Map<string, string>();
  #timer: NodeJS.Timeout | undefined;
  readonly #looking = new Map<string, Promise<void>>();

  constructor(private readonly sweeper: Sweeper, private readonly clock: Clock, private readonly metrics: Metrics, private readonly log: Log, private readonly intervalMs: number) {}

  begin(): void {
    if (this.intervalMs > 0) this.#timer = setInterval(() => environments.forEach((environment) => this.#lookOnce(environment)), this.intervalMs).unref();
  }

  async end(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#looking.values());
  }

  async look(): Promise<void> {
    for (const environment of environments) await this.#lookIn(environment);
  }

  /** A detail about overdue work for `/health/ready`; being late is no reason to send requests elsewhere. */
  word(): string | undefined {
    return this.#late.size > 0 ? [...this.#late.values()].join('; ') : undefined;
  }

  /** Each environment by itself: a long run in one whose clock was set forward by a year does not keep the others waiting. */
  #lookOnce(environment: string): void {
    if (!this.#looking.has(environment)) this.#looking.set(environment, this.#lookIn(environment).finally(() => this.#looking.delete(environment)));
  }

  async #lookIn(environment: string): Promise<void> {
    try {
      await runIn(systemContext(environment, this.clock.now(environment)), () => this.#lookAt(environment));
    } catch (error) {
      this.#late.set(environment, `${environment}: ${error instanceof Error ? error.message : String(error)}`);
      this.log.warn({ err: error, environment }, 'the sweep did not finish; it will be tried again');
    }
  }

  async #lookAt(environment: string): Promise<void> {
    const { oldest, count } = await this.#due(environment);
    const now = this.clock.now(environment);
    const seconds = oldest === null ? 0 : Math.max(0, (Date.parse(now) - Date.parse(oldest)) / 1000);
    this.metrics.sweepBacklog(environment, count, seconds);
    if (seconds > LATE_SECONDS) this.#late.set(environment, `${environment}: ${count} due, the oldest for ${Math.round(seconds)} s`);
    else this.#late.delete(environment);
    if (count === 0) return;
    const report = await this.sweeper.run('schedule');
    if (!report) return;
    this.#late.delete(environment);
    // What fell due only just now may not be due yet by the clock of its owner, and is checked again.
    if (Object.keys(report.transitions).length === 0) this.#leftAlone.set(environment, { ...await this.sweeper.backlog(), place: placeAfter(addSeconds(report.startedAt, -LATE_SECONDS)), until: Date.now() + LEAVE_ALONE_MS });
  }

  /** Without what was still due behind a run. Most runs leave nothing; and something that should have been due earlier, such as an order that was backdated, makes it another backlog. */
  async #due(environment: string): Promise<Backlog> {
    const all = await this.sweeper.backlog();
    const left = this.#leftAlone.get(environment);
    const isAsLeft = all.count > 0 && left !== undefined && left.until > Date.now() && left.count === all.count && left.oldest === all.oldest;
    return isAsLeft ? this.sweeper.backlog(left.place) : all;
  }
}
