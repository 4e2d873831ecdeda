import type { Clock } from './clock.ts';
import { objectIn } from './json.ts';

/** Outcome of a request. `refused` is a "no" of the product itself (problem+json with a code); any other failure says nothing about the license. */
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
/** No network, a timeout, 5xx, 429, or an answer of something other than the product, like a proxy. */
export interface Unreachable {
  readonly kind: 'unreachable';
  readonly detail: string;
  /** The HTTP status, if there was an answer. */
  readonly status?: number;
  /** By the server's Retry-After. */
  readonly retryAfterMs: number | null;
}

/** An open stream of server-sent events, or why there is none. */
export type EventStream = { readonly kind: 'opened'; readonly body: ReadableStream<Uint8Array> } | Refused | Unreachable;

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

interface ServerOptions {
  readonly url: string;
  readonly environment: string;
  readonly fetch: Fetch;
  readonly clock: Clock;
  readonly timeoutMs: number;
  /** The first one included. */
  readonly attempts: number;
  readonly random?: () => number;
}

/** Decorrelated jitter: each wait is drawn from between the shortest and three times the one before, so that clients that failed together do not retry together. */
export const nextWait = (previousMs: number, [shortestMs, longestMs]: readonly [number, number], random: () => number): number =>
  Math.min(longestMs, shortestMs + random() * Math.max(0, previousMs * 3 - shortestMs));

const waits = [200, 5_000] as const;
/** A request does not wait for a Retry-After that is longer. */
const longestRetryAfterMs = 10_000;
/** Work in the background waits for a Retry-After no longer than this. */
export const longestPauseMs = 3_600_000;

export class Server {
  readonly #options: ServerOptions;
  readonly #base: string;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#base = options.url.replace(/\/+$/, '');
  }

  /** Retries are safe: every request is identified by a fingerprint, a nonce or a number. Never rejects. */
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

  /** Never rejects; but reading the body does, when the connection is lost or the signal aborted. */
  async open(path: string, licenseKey: string | undefined, signal: AbortSignal): Promise<EventStream> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error('no answer in time')), this.#options.timeoutMs);
    try {
      const response = await this.#options.fetch(this.#base + path, {
        method: 'GET', redirect: 'error', signal: AbortSignal.any([signal, late.signal]), headers: this.#headers('text/event-stream', licenseKey),
      });
      if (response.ok && response.body && response.headers.get('content-type')?.startsWith('text/event-stream')) return { kind: 'opened', body: response.body };
      const reply = await this.#read('GET', path, response);
      return reply.kind === 'answered' ? { kind: 'unreachable', detail: `GET ${path.split('?')[0]}: no stream`, retryAfterMs: null } : reply;
    } catch (error) {
      return lost('GET', path, error);
    } finally {
      clearTimeout(timer);
    }
  }

  #headers(accept: string, licenseKey: string | undefined): Record<string, string> {
    return { accept, 'x-environment': this.#options.environment, ...(licenseKey !== undefined && { authorization: `License ${licenseKey}` }) };
  }

  async #once(method: string, path: string, body: unknown, licenseKey: string | undefined): Promise<Reply> {
    try {
      const response = await this.#options.fetch(this.#base + path, {
        method, redirect: 'error', signal: AbortSignal.timeout(this.#options.timeoutMs),
        headers: { ...this.#headers('application/json', licenseKey), ...(body !== undefined && { 'content-type': 'application/json' }) },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      });
      return await this.#read(method, path, response);
    } catch (error) {
      return lost(method, path, error);
    }
  }

  async #read(method: string, path: string, response: Response): Promise<Reply> {
    const { status, headers } = response;
    const parsed = objectIn(await response.text());
    if (status >= 200 && status < 300 && parsed) return { kind: 'answered', status, body: parsed };
    const { code, detail, title, type } = parsed ?? {};
    if (status >= 400 && status < 500 && status !== 429 && status !== 408 && parsed && typeof code === 'string') {
      return { kind: 'refused', code, detail: String(detail ?? title ?? code), docUrl: new URL(String(type ?? `/docs/errors#${code}`), `${this.#base}/`).href, body: parsed };
    }
    return { kind: 'unreachable', detail: `${method} ${path.split('?')[0]}: ${status}`, status, retryAfterMs: retryAfterMs(headers.get('retry-after'), this.#options.clock.read().wall) };
  }
}

const lost = (method: string, path: string, error: unknown): Unreachable =>
  ({ kind: 'unreachable', detail: `${method} ${path.split('?')[0]}: ${error instanceof Error ? error.message : String(error)}`, retryAfterMs: null });

/** Seconds, or a date. */
export function retryAfterMs(header: string | null, wall: number): number | null {
  if (header === null) return null;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - wall;
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}
