import { once } from 'node:events';
import { PassThrough, type Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { NextChanges } from '@keyledger/contracts';
import { Refusal, refuse } from '@keyledger/kernel';
import type { ResultOf } from '@keyledger/messaging';
import type { FastifyRequest } from 'fastify';
import { Edge } from './edge.ts';
import { network } from './rate-limits.ts';

type Asked = Pick<NextChanges, 'licenseId' | 'licenseKey' | 'activationId'>;
type Changes = ResultOf<NextChanges>;

/** How many streams may be open, and for how long each: a revoked API key must not be able to listen for ever. */
export interface StreamLimits {
  readonly perLicense: number;
  readonly perAddress: number;
  readonly inAll: number;
  readonly openForMs: number;
}
const limits: StreamLimits = { perLicense: 1_000, perAddress: 200, inAll: 10_000, openForMs: 15 * 60_000 };

/** After this long without news a comment keeps the connection alive. */
const quietMs = 15_000;
/** Time for the answer to arrive, beyond the time activation may wait for news. */
const graceMs = 5_000;
const askAgainAfterMs = 1_000;

/**
 * Streams of server-sent events. Each polls activation for what comes next with a request that waits there for something to happen: so it works the
 * same in one process and over a network, and a different process may answer each time.
 */
@Injectable()
export class LicenseStreams {
  readonly #open = new Map<PassThrough, readonly string[]>();
  readonly #counts = new Map<string, number>();
  readonly #limits: StreamLimits;
  #closing = false;

  constructor(private readonly edge: Edge, own: Partial<StreamLimits> = {}) {
    this.#limits = { ...limits, ...own };
  }

  get size(): number {
    return this.#open.size;
  }

  /** Refuses like any other request before the stream begins. */
  async open(asked: Asked, lastEventId: string | undefined, { ip, method }: Pick<FastifyRequest, 'ip' | 'method'>): Promise<Readable> {
    const first = await this.edge.send(NextChanges, { ...asked, waitMs: 0 });
    const stream = new PassThrough();
    if (method === 'HEAD') return stream.end();
    this.#admit(stream, [`license ${asked.licenseId}`, `address ${network(ip)}`]);
    stream.once('close', () => this.#release(stream));
    void this.#follow(stream, asked, /^\d{1,15}$/.test(lastEventId ?? '') ? { ...first, after: Number(lastEventId) } : first);
    return stream;
  }

  /** Ends them all, so that the server can be closed. */
  close(): void {
    this.#closing = true;
    for (const stream of this.#open.keys()) stream.end();
  }

  async #follow(stream: PassThrough, asked: Asked, { after: from, changes: _, ended, ...state }: Changes): Promise<void> {
    const until = performance.now() + this.#limits.openForMs;
    let after = from;
    let over = ended;
    stream.write(eventOf('state', state));
    while (!over && performance.now() < until) {
      const next = await this.#next({ ...asked, after });
      if (stream.writableEnded || stream.destroyed) return;
      if (next) ({ after, ended: over } = next);
      if (!stream.write(next ? textOf(next) : ': nobody can be asked just now\n\n')) await Promise.race([once(stream, 'drain'), once(stream, 'close')]).catch(() => undefined);
      if (stream.writableEnded || stream.destroyed) return;
    }
    if (over) stream.write(eventOf('end', {}));
    stream.end();
  }

  /** Undefined while activation is unavailable. A permanent refusal ends the stream. */
  async #next(asked: Asked & { after: number }): Promise<Changes | undefined> {
    try {
      return await this.edge.send(NextChanges, { ...asked, waitMs: quietMs }, { timeoutMs: quietMs + graceMs });
    } catch (error) {
      if (error instanceof Refusal && error.status < 500) return { seq: asked.after, after: asked.after, status: 'revoked', code: 'NOT_FOUND', enforcement: 'LOCKED', changes: [], ended: true };
      await sleep(askAgainAfterMs, undefined, { ref: false });
      return undefined;
    }
  }

  #admit(stream: PassThrough, names: readonly string[]): void {
    const [ofLicense = 0, ofAddress = 0] = names.map((name) => this.#counts.get(name));
    if (this.#closing) throw refuse('UNAVAILABLE');
    if (ofLicense >= this.#limits.perLicense || ofAddress >= this.#limits.perAddress) throw refuse('RATE_LIMITED', 'Too many streams are open; use heartbeats instead', { retryAfter: 60 });
    if (this.#open.size >= this.#limits.inAll) throw refuse('UNAVAILABLE', 'Too many streams are open; use heartbeats instead', { retryAfter: 60 });
    this.#open.set(stream, names);
    for (const name of names) this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
  }

  #release(stream: PassThrough): void {
    for (const name of this.#open.get(stream) ?? []) {
      const left = (this.#counts.get(name) ?? 1) - 1;
      if (left > 0) this.#counts.set(name, left);
      else this.#counts.delete(name);
    }
    this.#open.delete(stream);
  }
}

export const eventOf = (event: string, data: object, id?: number | string): string => `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;

/** Each change with the state after all of them. */
function textOf({ changes, status, code, enforcement }: Changes): string {
  if (changes.length === 0) return ': all is as it was\n\n';
  return changes.map(({ seq, type, at }) => eventOf('change', { seq, type, at, status, code, enforcement }, seq)).join('');
}
