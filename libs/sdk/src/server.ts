import type { Clock } from './clock.ts';

/** What came of a request. `refused` is a "no" in the product's own words (problem+json with a code); all else that is no answer says nothing. */
export type Reply =
  | { readonly kind: 'answered'; readonly status: number; readonly body: Readonly<Record<string, unknown>> }
  | Refused
  | Unreachable;
export interface Refused {
  readonly kind: 'refused';
  readonly code: string;
  readonly detail: string;
  readonly docUrl: string;
  readonly body: Readonly<Record<string, unknown>>;
}
/** No network, a timeout, 5xx, 429, or something in between that is not the product. */
export interface Unreachable {
  readonly kind: 'unreachable';
  readonly detail: string;
  /** What the server has asked for. */
  readonly retryAfterMs: number | null;
}

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export interface ServerOptions {
  readonly url: string;
  readonly environment: string;
  readonly fetch: Fetch;
  readonly clock: Clock;
  readonly timeoutMs: number;
  /** In all, of requests that somebody waits for. */
  readonly attempts: number;
  readonly random?: () => number;
}

/** Decorrelated jitter: each wait is drawn from between the shortest and three times the one before, so that many who failed together do not come back together. */
export const nextWait = (previousMs: number, [shortestMs, longestMs]: readonly [number, number], random: () => number): number =>
  Math.min(longestMs, shortestMs + random() * Math.max(0, previousMs * 3 - shortestMs));

const waits = [200, 5_000] as const;
/** Nobody who waits for an answer is kept longer by a Retry-After. */
const longestRetryAfterMs = 10_000;

export class Server {
  readonly #options: ServerOptions;
  readonly #base: string;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#base = options.url.replace(/\/+$/, '');
  }

  /** Everything that is asked may be asked again: each question is about one fingerprint, nonce or number. Never rejects. */
  async ask(method: 'GET' | 'POST', path: string, body?: unknown, licenseKey?: string): Promise<Reply> {
    const { attempts, clock, random = Math.random } = this.#options;
    let wait: number = waits[0];
    for (let attempt = 1; ; attempt++) {
      const reply = await this.#once(method, path, body, licenseKey);
      if (reply.kind !== 'unreachable' || attempt >= attempts || (reply.retryAfterMs ?? 0) > longestRetryAfterMs) return reply;
      wait = nextWait(wait, waits, random);
      await clock.sleep(Math.max(wait, reply.retryAfterMs ?? 0));
    }
  }

  async #once(method: string, path: string, body: unknown, licenseKey: string | undefined): Promise<Reply> {
    const { environment, timeoutMs, clock } = this.#options;
    try {
      const response = await this.#options.fetch(this.#base + path, {
        method, redirect: 'error', signal: AbortSignal.timeout(timeoutMs),
        headers: {
          accept: 'application/json', 'x-environment': environment, ...(body !== undefined && { 'content-type': 'application/json' }),
          ...(licenseKey !== undefined && { authorization: `License ${licenseKey}` }),
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      });
      const { status, headers } = response;
      const parsed = objectIn(await response.text());
      if (status >= 200 && status < 300 && parsed) return { kind: 'answered', status, body: parsed };
      const { code, detail, title, type } = parsed ?? {};
      if (status >= 400 && status < 500 && status !== 429 && status !== 408 && parsed && typeof code === 'string') {
        return { kind: 'refused', code, detail: String(detail ?? title ?? code), docUrl: new URL(String(type ?? `/docs/errors#${code}`), `${this.#base}/`).href, body: parsed };
      }
      return { kind: 'unreachable', detail: `${method} ${path.split('?')[0]}: ${status}`, retryAfterMs: retryAfterMs(headers.get('retry-after'), clock.read().wall) };
    } catch (error) {
      return { kind: 'unreachable', detail: `${method} ${path.split('?')[0]}: ${error instanceof Error ? error.message : String(error)}`, retryAfterMs: null };
    }
  }
}

/** Seconds, or a date. */
export function retryAfterMs(header: string | null, wall: number): number | null {
  if (header === null) return null;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - wall;
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}

function objectIn(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
