import { once } from 'node:events';
import { PassThrough, type Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { FollowJob } from '@keyledger/contracts';
import { refuse, type JobId } from '@keyledger/kernel';
import type { ResultOf } from '@keyledger/messaging';
import { Edge } from './edge.ts';
import { eventOf } from './license-streams.ts';

/** Streams are for people who watch progress, so there are not many. */
const MAX_OPEN = 1_000;
const OPEN_FOR_MS = 15 * 60_000;
const QUIET_MS = 15_000;
const GRACE_MS = 5_000;
const ASK_AGAIN_MS = 1_000;

/** The progress of a job as server-sent events: its state after each change, and `end` when it is over. */
@Injectable()
export class JobStreams {
  readonly #open = new Set<PassThrough>();
  #closing = false;

  constructor(private readonly edge: Edge) {}

  /** Refuses like any other request before the stream begins. */
  async open(jobId: JobId, lastEventId: string | undefined, method: string): Promise<Readable> {
    const first = await this.edge.send(FollowJob, { jobId, waitMs: 0 });
    const stream = new PassThrough();
    if (method === 'HEAD') return stream.end();
    if (this.#closing || this.#open.size >= MAX_OPEN) throw refuse('UNAVAILABLE', 'Too many streams are open; poll the job instead', { retryAfter: 60 });
    this.#open.add(stream);
    stream.once('close', () => this.#open.delete(stream));
    void this.#follow(stream, jobId, first, lastEventId);
    return stream;
  }

  /** Ends them all, so that the server can be closed. */
  close(): void {
    this.#closing = true;
    for (const stream of this.#open) stream.end();
  }

  async #follow(stream: PassThrough, jobId: JobId, first: ResultOf<FollowJob>, lastSeen: string | undefined): Promise<void> {
    const until = performance.now() + OPEN_FOR_MS;
    let seen = first;
    let shown = lastSeen;
    for (let next: typeof first | undefined = first; performance.now() < until; next = await this.#next(jobId, seen.place)) {
      if (stream.writableEnded || stream.destroyed) return;
      seen = next ?? seen;
      const text = seen.place === shown ? ': all is as it was\n\n' : eventOf('progress', seen.job, seen.place);
      shown = seen.place;
      if (!stream.write(text)) await Promise.race([once(stream, 'drain'), once(stream, 'close')]).catch(() => undefined);
      if (seen.ended) break;
    }
    if (stream.writableEnded || stream.destroyed) return;
    if (seen.ended) stream.write(eventOf('end', seen.job, seen.place));
    stream.end();
  }

  /** Undefined while the service is unavailable, which is no reason to end the stream. */
  async #next(jobId: JobId, after: string): Promise<ResultOf<FollowJob> | undefined> {
    try {
      return await this.edge.send(FollowJob, { jobId, after, waitMs: QUIET_MS }, { timeoutMs: QUIET_MS + GRACE_MS });
    } catch {
      await sleep(ASK_AGAIN_MS, undefined, { ref: false });
      return undefined;
    }
  }
}
