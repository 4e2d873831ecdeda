import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

/** How far a projection is behind the log. `/health/ready` judges by the same numbers. */
export interface ProjectionLag {
  readonly environment: string;
  readonly projection: string;
  /** Log head minus checkpoint. */
  readonly positions: number;
  /** Age of the oldest event that is not applied yet; 0 when there is none. */
  readonly seconds: number;
  /** Streams set aside because one of their events could not be applied. */
  readonly parked: number;
}

export type Outcome = 'answered' | 'refused' | 'failed';

const requestBuckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
const sweepBuckets = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300];
const appendBuckets = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** The metrics of one process in Prometheus format. Labels hold names from the code (routes, codes, subjects), never values from a request. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #requests = this.#histogram('keyledger_http_request_duration_seconds', 'Time to answer a request', requestBuckets, ['method', 'route', 'status']);
  readonly #appends = this.#histogram('keyledger_append_duration_seconds', 'Time until appended events are durable', appendBuckets, []);
  /** Counts a verdict or a refusal. */
  readonly decision: (code: string) => void = this.#tally('keyledger_decisions_total', 'Verdicts and refusals by code', 'code');
  /** Counts a message by its subject, and by what became of it. */
  readonly message: (subject: string, outcome: Outcome) => void = this.#tally<Outcome>('keyledger_messages_total', 'Messages handled by subject and outcome', 'subject', 'outcome');
  /** Counts a signature by what was signed. */
  readonly signature: (statement: string) => void = this.#tally('keyledger_signatures_total', 'Signatures by what was signed', 'statement');
  readonly #sweeps = this.#histogram('keyledger_sweep_duration_seconds', 'Time a run of the sweep took', sweepBuckets, ['environment']);
  readonly #swept = this.#counter('keyledger_sweep_transitions_total', 'Events recorded by the sweep, by type', ['environment', 'type']);
  readonly #due = this.#gauge('keyledger_sweep_due', 'Subjects due when the sweep last looked (counted up to 10,000 of each kind)', ['environment']);
  readonly #overdue = this.#gauge('keyledger_sweep_lag_seconds', 'How long the oldest of them had been due', ['environment']);
  readonly #pools = this.#gauge('keyledger_pools_low', 'Products with fewer unassigned licenses than their buffer', ['environment']);
  readonly #usage = this.#counter('keyledger_usage_records_total', 'Usage records, accepted and duplicate', ['outcome']);
  readonly #deliveries = this.#counter('keyledger_deliveries_total', 'Delivery attempts by outcome', ['environment', 'channel', 'outcome']);
  readonly #outbox = this.#gauge('keyledger_outbox_pending', 'Webhooks and mails waiting to be sent or retried (counted up to 10,000)', ['environment']);
  readonly #outboxLag = this.#gauge('keyledger_outbox_lag_seconds', 'How long the oldest pending delivery has been due, or the oldest event has not been read for deliveries', ['environment']);

  /** `processMetrics: false` leaves out memory, CPU, event loop and garbage collection. */
  constructor(service: string, { processMetrics = true } = {}) {
    this.#registry.setDefaultLabels({ service });
    if (processMetrics) collectDefaultMetrics({ register: this.#registry });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** What to call for each answer of a route. `route` is the pattern, `/licenses/:id`, never the URL. */
  requests(method: string, route: string): (status: number, seconds: number) => void {
    const byStatus = new Map<number, (seconds: number) => void>();
    return (status, seconds) => {
      let observe = byStatus.get(status);
      if (!observe) byStatus.set(status, (observe = this.#requests.labels(method, route, String(status)).observe));
      observe(seconds);
    };
  }

  append(seconds: number): void {
    this.#appends.observe(seconds);
  }

  sweep(environment: string, seconds: number, transitions: Readonly<Record<string, number>>): void {
    this.#sweeps.observe({ environment }, seconds);
    for (const [type, count] of Object.entries(transitions)) this.#swept.inc({ environment, type }, count);
  }

  sweepBacklog(environment: string, due: number, lagSeconds: number): void {
    this.#due.set({ environment }, due);
    this.#overdue.set({ environment }, lagSeconds);
  }

  poolsLow(environment: string, products: number): void {
    this.#pools.set({ environment }, products);
  }

  usage(accepted: number, duplicates: number): void {
    this.#usage.inc({ outcome: 'accepted' }, accepted);
    this.#usage.inc({ outcome: 'duplicate' }, duplicates);
  }

  delivery(environment: string, channel: 'webhook' | 'mail', outcome: string): void {
    this.#deliveries.inc({ environment, channel, outcome });
  }

  outbox(environment: string, pending: number, lagSeconds: number): void {
    this.#outbox.set({ environment }, pending);
    this.#outboxLag.set({ environment }, lagSeconds);
  }

  /** Read at every scrape, so that the lag of a stuck projection grows. A lag that is unknown, while a database is away, is left out. Call once. */
  watchProjections(lags: () => readonly ProjectionLag[] | Promise<readonly ProjectionLag[]>): void {
    const labelNames = ['environment', 'projection'] as const;
    const gauge = (name: string, help: string, read: (lag: ProjectionLag) => number) =>
      new Gauge({
        name, help, labelNames, registers: [this.#registry],
        async collect() {
          const known = await (async () => lags())().catch(() => []);
          this.reset();
          for (const lag of known) this.set({ environment: lag.environment, projection: lag.projection }, read(lag));
        },
      });
    gauge('keyledger_projection_lag_positions', 'Log positions not applied yet', ({ positions }) => positions);
    gauge('keyledger_projection_lag_seconds', 'Age of the oldest event not applied yet', ({ seconds }) => seconds);
    gauge('keyledger_parked_streams', 'Streams set aside after an event could not be applied', ({ parked }) => parked);
  }

  /** The text that `GET /metrics` answers. */
  expose(): Promise<string> {
    return this.#registry.metrics();
  }

  #histogram<L extends string>(name: string, help: string, buckets: number[], labelNames: L[]) {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.#registry] });
  }

  #gauge<L extends string>(name: string, help: string, labelNames: L[]) {
    return new Gauge({ name, help, labelNames, registers: [this.#registry] });
  }

  /** For the hot path: counts by itself until the scrape, because prom-client hashes all labels each time. */
  #tally<S extends string = never>(name: string, help: string, label: string, another?: string): (value: string, other?: S) => void {
    const counts = new Map<string, Map<S | undefined, number>>();
    this.#registry.registerMetric(new Counter({
      name, help, labelNames: another ? [label, another] : [label], registers: [],
      collect() {
        for (const [value, each] of counts) for (const [other, count] of each) this.inc({ [label]: value, ...(another && other && { [another]: other }) }, count);
        counts.clear();
      },
    }));
    return (value, other) => {
      let each = counts.get(value);
      if (!each) counts.set(value, (each = new Map()));
      each.set(other, (each.get(other) ?? 0) + 1);
    };
  }

  #counter<L extends string>(name: string, help: string, labelNames: L[]) {
    return new Counter({ name, help, labelNames, registers: [this.#registry] });
  }
}
