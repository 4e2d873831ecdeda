import type { Clock } from './clock.ts';
import type { Kept } from './kept.ts';
import type { Refusal } from './refusal.ts';
import { nextWait, type EventStream, type Reply } from './server.ts';
import type { Judgement } from './state.ts';

/** What a stream of changes needs of its license. */
interface Port {
  readonly clock: Clock;
  kept(): Kept;
  judgement(): Judgement;
  open(licenseId: string, instanceId: string, signal: AbortSignal): Promise<EventStream> | undefined;
  acknowledge(licenseId: string, instanceId: string, seq: number): Promise<Reply> | undefined;
  ask(): Promise<Refusal | null>;
  persist(): Promise<unknown>;
}

/** One server-sent event: `state` first, then `change`, and `end` when there will be no more. */
interface Heard {
  readonly event: string;
  readonly seq: number;
  readonly enforcement: string | undefined;
}

const waits = [1_000, 60_000] as const;
/** The server says something every 15 seconds, if only that nothing has happened. */
const quietMs = 45_000;

/**
 * Hears of changes to the license as they happen, over a stream that stays open. What it hears is not signed, so it only is a reason to ask;
 * when the signed answer is there, what was heard is acknowledged. Whatever is lost on the way is told again to the next stream.
 */
export class Changes {
  readonly #port: Port;
  #running: AbortController | undefined;
  #connected = false;
  /** It has heard something since it last was told that nobody can be reached. */
  #heard = false;

  constructor(port: Port) {
    this.#port = port;
  }

  get isConnected(): boolean {
    return this.#connected;
  }

  /** Until `stop`. Keeps no process alive by itself. */
  start(): void {
    if (this.#running) return;
    this.#running = new AbortController();
    void this.#run(this.#running.signal);
  }

  stop(): void {
    this.#running?.abort();
    this.#running = undefined;
  }

  /** What it returns goes on as before. */
  pause(): () => void {
    const isRunning = this.#running !== undefined;
    this.stop();
    return () => isRunning && this.start();
  }

  async #run(signal: AbortSignal): Promise<void> {
    let wait: number = waits[0];
    while (!signal.aborted) {
      const began = this.#port.clock.read().mono;
      const outcome = await this.#follow(signal);
      // A stream that has lasted is no sign of trouble; one that is cut off each time is.
      const hasLasted = this.#port.clock.read().mono - began > waits[1];
      if (outcome === 'over') wait = waits[0];
      else wait = outcome === 'ended' ? waits[1] : nextWait(hasLasted ? waits[0] : wait, waits, Math.random);
      await this.#port.clock.sleep(wait, signal);
    }
  }

  /** `over`: the server has ended it in its own time. `ended`: there is nothing more to hear. */
  async #follow(stopped: AbortSignal): Promise<'over' | 'ended' | 'lost'> {
    const { licenseId, instanceId } = this.#port.kept().state;
    if (licenseId === null || instanceId === null) return 'lost';
    const broken = new AbortController();
    const stop = () => broken.abort();
    stopped.addEventListener('abort', stop);
    try {
      const stream = await this.#port.open(licenseId, instanceId, broken.signal);
      if (stream?.kind !== 'opened') {
        // A stream alone may be more than a proxy lets through. Whether anybody can be reached is asked, once.
        if (stream?.kind === 'unreachable' && this.#heard) await this.#port.ask();
        this.#heard = false;
        return stream?.kind === 'refused' ? 'ended' : 'lost';
      }
      for await (const heard of this.#heardIn(stream.body, broken)) {
        this.#connected = this.#heard = true;
        if (heard.length > 0 && !(await this.#take(heard, licenseId, instanceId))) return 'lost';
        if (heard.some(({ event }) => event === 'end')) return 'ended';
      }
      return 'over';
    } catch {
      return 'lost';
    } finally {
      this.#connected = false;
      broken.abort();
      stopped.removeEventListener('abort', stop);
    }
  }

  /** Answers whether all of it is known and acknowledged. */
  async #take(heard: readonly Heard[], licenseId: string, instanceId: string): Promise<boolean> {
    const seq = Math.max(...heard.map(({ seq }) => seq));
    const last = heard.at(-1);
    const { unreachable, enforcement } = this.#port.judgement();
    const isNews = unreachable || heard.some(({ event }) => event !== 'state') || seq > this.#port.kept().state.seq || last?.enforcement !== enforcement;
    if (!isNews) return true;
    if (await this.#port.ask()) return false;
    await this.#port.persist();
    return seq === 0 || (await this.#port.acknowledge(licenseId, instanceId, seq))?.kind !== 'unreachable';
  }

  /** What has arrived together, together; nothing at all for a sign of life. */
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
