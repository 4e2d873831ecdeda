import type { Clock } from './clock.ts';
import type { Judgement } from './judgement.ts';
import type { Kept } from './kept.ts';
import type { Refusal } from './refusal.ts';
import { longestPauseMs, nextWait, type EventStream, type Reply } from './server.ts';

/** What the stream of changes needs of its license. */
interface Port {
  readonly clock: Clock;
  /** Aborted once the license is disposed: nothing starts again. */
  readonly disposed: AbortSignal;
  kept(): Kept;
  judgement(): Judgement;
  /** Whether this process hears of changes, as of now. */
  leads(): Promise<boolean>;
  open(licenseId: string, instanceId: string, signal: AbortSignal): Promise<EventStream> | undefined;
  acknowledge(licenseId: string, instanceId: string, seq: number): Promise<Reply> | undefined;
  ask(): Promise<Refusal | null>;
  persist(): Promise<unknown>;
}

/** One server-sent event: `state` first, then `change`, and `end` as the last. */
interface Heard {
  readonly event: string;
  readonly seq: number;
  readonly enforcement: string | undefined;
}

/** After a stream was lost; and after it was refused or has sent `end`: each try counts as one of the license's requests. */
const waits = { lost: [1_000, 60_000], refused: [60_000, 900_000] } as const;
/** The server sends something every 15 seconds, if only a sign of life. */
const quietMs = 45_000;
/** Which process leads is not known for longer only if the disk hangs. */
const unknownMs = 30_000;

/**
 * Hears of changes to the license as they happen, over a stream that stays open. Its events are not signed, so they are only a reason to ask;
 * once the signed answer is there, they are acknowledged. The server repeats unacknowledged events on the next stream. Of several processes with one
 * state only the leader has a stream: a browser has six connections to a host for all of its tabs, and a stream keeps one of them. Tabs that all lead,
 * because none can alone, have none.
 */
export class Changes {
  readonly #port: Port;
  #running: AbortController | undefined;
  /** The current stream. One that was given up may end after the next has begun. */
  #heardFrom: AbortController | undefined;
  /** A stream was heard since the server was last found unreachable. */
  #heard = false;

  constructor(port: Port) {
    this.#port = port;
  }

  /** A stream is heard; of several processes with one state, in the leader. */
  get isConnected(): boolean {
    return this.#heardFrom !== undefined;
  }

  /** Runs until `stop`. While a stream is open, `fetch` keeps the process alive. Of several processes with one state all call this: only the leader's stream is opened. */
  start(): void {
    if (this.#running || this.#port.disposed.aborted) return;
    this.#running = new AbortController();
    void this.#run(this.#running.signal);
  }

  stop(): void {
    this.#running?.abort();
    this.#running = undefined;
  }

  /** A new seat, or the lead: tries at once, unless a stream is heard. */
  again(): void {
    if (!this.isConnected) this.pause()();
  }

  /** Returns how to go on as before. */
  pause(): () => void {
    const isRunning = this.#running !== undefined;
    this.stop();
    return () => isRunning && this.start();
  }

  async #run(signal: AbortSignal): Promise<void> {
    let wait: number = waits.lost[0];
    while (!signal.aborted) {
      const began = this.#port.clock.read().mono;
      const { outcome, retryAfterMs = 0 } = await this.#follow(signal);
      // The end of a stream that has lasted is no sign of trouble; streams that end each time are.
      const hasLasted = this.#port.clock.read().mono - began > waits.lost[1];
      const range = outcome === 'refused' ? waits.refused : waits.lost;
      wait = nextWait(hasLasted ? range[0] : Math.max(wait, range[0]), range, Math.random);
      await this.#port.clock.sleep(wait + Math.min(retryAfterMs, longestPauseMs), signal);
    }
  }

  /** `refused`: there is nothing to hear, or it was requested too often. */
  async #follow(stopped: AbortSignal): Promise<{ readonly outcome: 'refused' | 'lost'; readonly retryAfterMs?: number }> {
    const leads = await this.#leads();
    const { licenseId, instanceId } = this.#port.kept().state;
    if (!leads || stopped.aborted || licenseId === null || instanceId === null) return { outcome: 'lost' };
    const broken = new AbortController();
    const stop = () => broken.abort();
    stopped.addEventListener('abort', stop);
    try {
      const stream = await this.#port.open(licenseId, instanceId, broken.signal);
      if (stream?.kind !== 'opened') {
        // A proxy may block streams alone: one question tells whether the server can be reached.
        if (stream?.kind === 'unreachable' && this.#heard) await this.#port.ask();
        this.#heard = false;
        if (stream?.kind !== 'unreachable') return { outcome: stream ? 'refused' : 'lost' };
        return { outcome: stream.status === 429 ? 'refused' : 'lost', retryAfterMs: stream.retryAfterMs ?? 0 };
      }
      let looking: Promise<void> | undefined;
      for await (const heard of this.#heardIn(stream.body, broken)) {
        if (broken.signal.aborted) return { outcome: 'lost' };
        this.#heardFrom = broken;
        this.#heard = true;
        // Neither events nor signs of life wait for the disk.
        if (heard.length === 0) looking ??= this.#port.leads().then((leads) => (leads ? (looking = undefined) : stop()));
        else if (!(await this.#take(heard, licenseId, instanceId, stop))) return { outcome: 'lost' };
        if (heard.some(({ event }) => event === 'end')) return { outcome: 'refused' };
      }
      return { outcome: 'lost' };
    } catch {
      return { outcome: 'lost' };
    } finally {
      if (this.#heardFrom === broken) this.#heardFrom = undefined;
      broken.abort();
      stopped.removeEventListener('abort', stop);
    }
  }

  /** Opens a stream also where a disk hangs and does not tell who leads: an event is only a reason to ask, which any process may. */
  async #leads(): Promise<boolean> {
    const known = new AbortController();
    return Promise.race([this.#port.leads(), this.#port.clock.sleep(unknownMs, known.signal).then(() => true)]).finally(() => known.abort());
  }

  /** Returns whether all events are known. They are acknowledged once that is stored; `stop`: if it cannot be, the next stream repeats them. */
  async #take(heard: readonly Heard[], licenseId: string, instanceId: string, stop: () => void): Promise<boolean> {
    const seq = Math.max(...heard.map(({ seq }) => seq));
    const last = heard.at(-1);
    const { unreachable, enforcement } = this.#port.judgement();
    const isNews = unreachable || heard.some(({ event }) => event !== 'state') || seq > this.#port.kept().state.seq || last?.enforcement !== enforcement;
    if (!isNews) return true;
    if (await this.#port.ask()) return false;
    const acknowledge = async () => {
      await this.#port.persist();
      if (seq > 0 && (await this.#port.acknowledge(licenseId, instanceId, seq))?.kind === 'unreachable') stop();
    };
    void acknowledge();
    return true;
  }

  /** Events that arrive together come together; a sign of life is an empty list. */
  async *#heardIn(body: ReadableStream<Uint8Array>, broken: AbortController): AsyncGenerator<readonly Heard[]> {
    const [reader, decoder] = [body.getReader(), new TextDecoder()];
    let text = '';
    for (;;) {
      const waited = new AbortController();
      void this.#port.clock.sleep(quietMs, waited.signal).then(() => waited.signal.aborted || broken.abort());
      const { done, value } = await reader.read().finally(() => waited.abort());
      if (done) return;
      const parts = (text + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
      text = (parts.pop() ?? '').slice(-65_536);
      yield parts.map(heardOf).filter((heard) => heard !== undefined);
    }
  }
}

function heardOf(part: string): Heard | undefined {
  const field = (name: string) => part.split(/\r?\n/).find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1).trim();
  const event = field('event');
  if (event === undefined) return undefined;
  try {
    const { seq, enforcement } = JSON.parse(field('data') ?? '{}') as { seq?: unknown; enforcement?: unknown };
    return { event, seq: Number.isSafeInteger(seq) ? (seq as number) : 0, enforcement: typeof enforcement === 'string' ? enforcement : undefined };
  } catch {
    return undefined;
  }
}
