import { mask } from './mask.ts';
import type { ProjectionLag } from './metrics.ts';

/** Returns or resolves when all is well, optionally with a detail; otherwise throws an error that says what is wrong. */
export type Check = () => string | void | Promise<string | void>;

export interface CheckAnswer {
  readonly status: 'ok' | 'failed';
  readonly detail?: string;
}

/** Answered with 200 when `ok`, with 503 otherwise. */
export interface HealthAnswer {
  readonly status: 'ok' | 'unavailable';
  readonly checks: Readonly<Record<string, CheckAnswer>>;
}

interface Registered {
  readonly kind: 'live' | 'ready';
  readonly check: Check;
  readonly timeoutMs: number;
}

/** Live: the process works; if not, restart it. Ready: it can do its work now; if not, send requests elsewhere for a while. */
export class Health {
  readonly #checks = new Map<string, Registered>();

  add(kind: Registered['kind'], name: string, check: Check, timeoutMs = 1000): this {
    if (this.#checks.has(name)) throw new Error(`There is already a health check ${name}`);
    this.#checks.set(name, { kind, check, timeoutMs });
    return this;
  }

  live(): Promise<HealthAnswer> {
    return this.#run(({ kind }) => kind === 'live');
  }

  /** A process that is not live is not ready either. */
  ready(): Promise<HealthAnswer> {
    return this.#run(() => true);
  }

  async #run(wanted: (registered: Registered) => boolean): Promise<HealthAnswer> {
    const chosen = [...this.#checks].filter(([, registered]) => wanted(registered));
    const answers = await Promise.all(chosen.map(async ([name, registered]) => [name, await outcomeOf(registered)] as const));
    const ok = answers.every(([, { status }]) => status === 'ok');
    return { status: ok ? 'ok' : 'unavailable', checks: Object.fromEntries(answers) };
  }
}

/** Details are read by strangers: a connection string in an error message is masked like in a log line. */
async function outcomeOf({ check, timeoutMs }: Registered): Promise<CheckAnswer> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  try {
    const detail = await Promise.race([(async () => check())(), late.promise]);
    return detail ? { status: 'ok', detail: mask(detail) } : { status: 'ok' };
  } catch (error) {
    return { status: 'failed', detail: mask(error instanceof Error ? error.message : String(error)) };
  } finally {
    clearTimeout(timer);
  }
}

/** Fails while the oldest event not yet applied by a projection is older than this many seconds; names the projections and their lag. */
export const projectionsKeepUp = (lags: () => readonly ProjectionLag[] | Promise<readonly ProjectionLag[]>, mostSeconds: number): Check => async () => {
  const behind = (await lags()).filter(({ seconds }) => seconds > mostSeconds);
  if (behind.length === 0) return;
  throw new Error(behind.map((lag) => `${lag.environment}/${lag.projection} is behind by ${lag.positions} positions, ${Math.round(lag.seconds)} s`).join('; '));
};
