import type { Answers } from './answers.ts';
import type { Activation, Logger } from './api.ts';
import { held, type Clock } from './clock.ts';
import { intervalMsOf, termsOf } from './info.ts';
import { inTime, type Judgement } from './judgement.ts';
import type { Beat, Kept } from './kept.ts';
import type { Keys } from './keys.ts';
import { noServer, notActivated, type Refusal } from './refusal.ts';
import { longestPauseMs, nextWait, type Refused, type Reply } from './server.ts';
import type { Sharing } from './sharing.ts';
import { adjustmentMs, type Reading } from './time.ts';

export type BeatResult = { readonly ok: true; readonly judgement: Judgement; /** Until the next heartbeat is due. */ readonly nextInMs: number } | Refusal;

export interface HeartbeatOptions {
  /** Milliseconds; `server`: as the license says. */
  readonly interval?: 'server' | number;
  /** Share of the interval by which each heartbeat is moved at random, earlier or later. */
  readonly jitter?: number;
  /** Of several processes that share a store, one sends heartbeats, and the others live on its answers. When it ends, another one takes over. */
  readonly leader?: 'auto';
}

/** An instruction of the vendor to its customers' instances. */
export interface Directive {
  readonly id: string;
  /** refresh, update-key, message, lock or unlock. */
  readonly kind: string;
  readonly payload?: Readonly<Record<string, unknown>>;
  readonly issuedAt: string;
}

/** What heartbeats need of their license. */
interface Port {
  readonly clock: Clock;
  /** Aborted once the license is disposed: nothing starts again. */
  readonly disposed: AbortSignal;
  readonly logger: Logger | undefined;
  readonly version: string | undefined;
  readonly fingerprint: string;
  readonly answers: Answers;
  readonly keys: Keys;
  /** Undefined for a store of one process. */
  readonly sharing: Sharing | undefined;
  kept(): Kept;
  keep(changes: Partial<Kept>): void;
  persist(): Promise<unknown>;
  judgement(): Judgement;
  /** The instance had a floating seat and lost it, so it may take another. */
  hasLostSeat(): boolean;
  /** Whether this process sends them, as of now. */
  leads(): Promise<boolean>;
  takeSeatAnew(): Promise<Activation>;
  send(licenseId: string, body: object): Promise<Reply> | undefined;
  reportUsage(): Promise<unknown>;
  directive(directive: Directive): void;
  conflict(lastSeq: number, seq: number): void;
}

const shortestWaitMs = 1_000;
/** A server that has refused one refuses the next as well, until something is changed. */
const shortestRefusedMs = 60_000;
/** No instance counts so far: an unsigned answer must not use up all numbers. */
const HIGHEST_SEQ = 2 ** 52;
/** The server would refuse every heartbeat that acknowledges a longer one. */
const ID_AT_MOST = 64;
/** In a row: other processes with the same numbers get ahead again and again only if no server really counts. */
const mostRefused = 5;

/**
 * Signs of life, which renew the lease. Each has a number, stored before it is sent, and a nonce: sent again after a lost answer, or by the next
 * process, it is the same heartbeat; and the server tells two instances with one state apart at the first contact.
 */
export class Heartbeats {
  readonly #port: Port;
  #running: AbortController | undefined;
  #nap = new AbortController();
  #options: HeartbeatOptions = {};
  #beating: Promise<BeatResult> | undefined;
  /** The server has accepted one of this process: from then on no other process counts with its numbers. */
  #accepted = false;
  #conflict: Refusal | undefined;
  /** Other processes of this installation may have counted with its numbers until now: none of them is a clone. */
  #isAfterOthers = false;

  constructor(port: Port) {
    this.#port = port;
  }

  get isRunning(): boolean {
    return this.#running !== undefined;
  }

  /** With `leader: 'auto'`: of several processes, this one sends the heartbeats. */
  get isLeader(): boolean {
    return this.#port.sharing?.isLeading ?? false;
  }

  /** Sends heartbeats until `stop`. Between them it keeps no process alive. */
  start(options: HeartbeatOptions = {}): void {
    if (this.#running || this.#port.disposed.aborted) return;
    const { interval = 'server', jitter = 0.2 } = options;
    const running = new AbortController();
    this.#running = running;
    this.#options = options;
    if (options.leader) this.#port.sharing?.contend();
    void this.#run(running.signal, interval, jitter);
  }

  stop(): void {
    this.#halt();
    this.#port.sharing?.retire();
  }

  /** Ends the wait for the next one. */
  hurry(): void {
    this.#nap.abort();
  }

  /** A process that leads keeps the lead, and sends none. Returns how to go on as before. */
  pause(): () => void {
    const { isRunning } = this;
    this.#halt();
    return () => isRunning && this.start(this.#options);
  }

  /** Sends one now, or waits for the one that is under way. */
  beat(): Promise<BeatResult> {
    return held(this.together());
  }

  /** The process that sent them is gone. `besideOthers`: until now several processes sent them, this one among them. */
  takeOver(besideOthers: boolean): void {
    this.forget();
    this.#isAfterOthers = besideOthers;
    this.hurry();
  }

  /** A new activation: an instance in conflict starts over. */
  forget(): void {
    this.#accepted = false;
    this.#conflict = undefined;
  }

  get #intervalMs(): number {
    return intervalMsOf(termsOf(this.#port.kept().state));
  }

  #halt(): void {
    this.#running?.abort();
    this.#running = undefined;
    this.hurry();
  }

  async #run(signal: AbortSignal, interval: 'server' | number, jitter: number): Promise<void> {
    let wait = shortestWaitMs;
    while (!signal.aborted) {
      const result = await this.#turn(signal);
      const regular = interval === 'server' ? (result.ok ? result.nextInMs : this.#intervalMs) : interval;
      const isUnanswered = !result.ok && (result.code === 'UNREACHABLE' || result.code === 'UNTRUSTED_ANSWER' || this.#port.hasLostSeat());
      const isRefused = !result.ok && !isUnanswered && this.#port.judgement().unreachable;
      const isLost = isUnanswered || isRefused;
      if (isRefused) wait = Math.max(wait, nextWait(Math.max(wait, shortestRefusedMs), [shortestRefusedMs, regular], Math.random));
      else wait = isLost ? nextWait(wait, [shortestWaitMs, regular], Math.random) : shortestWaitMs;
      const planned = inTime(isLost ? wait : regular * (1 + jitter * (Math.random() * 2 - 1)), this.#port.judgement());
      const next = isLost ? Math.max(planned, Math.min(result.retryAfterMs ?? 0, longestPauseMs)) : planned;
      if (signal.aborted) return;
      this.#nap = new AbortController();
      await this.#port.clock.sleep(next, this.#nap.signal);
    }
  }

  /** A sign of life; if the seat was lost, takes another. */
  async #turn(signal: AbortSignal): Promise<BeatResult> {
    if (!(await this.#port.leads())) return this.together();
    const beaten = this.#port.hasLostSeat() ? undefined : await this.together();
    if (beaten && (signal.aborted || !this.#port.hasLostSeat())) return beaten;
    const seat = await this.#port.takeSeatAnew();
    return seat.ok ? { ok: true, judgement: seat.judgement, nextInMs: this.#intervalMs } : seat;
  }

  /** The same in the background: keeps no process alive but by the request itself. */
  together(): Promise<BeatResult> {
    return (this.#beating ??= this.#beat().finally(() => (this.#beating = undefined)));
  }

  async #beat(): Promise<BeatResult> {
    const leads = await this.#port.leads();
    if (leads && this.#conflict && !this.#port.sharing?.isAssumed) return this.#conflict;
    const result = await (leads ? this.#renew() : this.#follow());
    if (result.ok) await this.#port.reportUsage();
    await this.#port.persist();
    return result.ok ? { ...result, judgement: this.#port.judgement() } : result;
  }

  async #follow(): Promise<BeatResult> {
    await this.#port.sharing?.follow();
    return this.#port.kept().state.instanceId === null ? notActivated : { ok: true, judgement: this.#port.judgement(), nextInMs: this.#intervalMs };
  }

  async #renew(): Promise<BeatResult> {
    for (let refused = 0; ;) {
      const { beat: last, acks, state: { licenseId, instanceId } } = this.#port.kept();
      if (licenseId === null || instanceId === null) return notActivated;
      const isAgain = !last.answered;
      const beat: Beat = isAgain ? last : { seq: last.seq + 1, nonce: crypto.randomUUID(), acks, ...(this.#port.version !== undefined && { version: this.#port.version }), answered: false };
      this.#port.keep({ beat });
      await this.#port.persist();
      if (!(await this.#port.leads())) return this.#follow();
      const isAfterOthers = this.#isAfterOthers;
      const asked = this.#port.clock.read();
      const { answered: _, ...body } = beat;
      const reply = await this.#port.send(licenseId, { activationId: instanceId, fingerprint: this.#port.fingerprint, ...body });
      if (!reply) return noServer;
      if (reply.kind === 'unreachable') return this.#port.answers.refusal(reply);
      this.#port.keep({ beat: { ...beat, answered: true } });
      if (reply.kind === 'refused') {
        const lastSeq = reply.code === 'STALE_SEQUENCE' ? Number(reply.body['lastSeq']) : NaN;
        if (!Number.isSafeInteger(lastSeq) || lastSeq > HIGHEST_SEQ) return this.#refused(reply);
        // Another process has taken over while this one was held up.
        if (!(await this.#port.leads())) return this.#follow();
        const isClone = !this.#isAfterOthers && !this.#port.sharing?.isAssumed;
        if (isClone) this.#port.conflict(lastSeq, beat.seq);
        if (isClone && this.#accepted) return (this.#conflict = this.#port.answers.refusal(reply));
        // Expected before the first accepted heartbeat of this process, whose state was lost or restored from a copy, and while other processes of
        // this installation count with the same numbers. It counts on from here.
        this.#accepted = true;
        this.#port.keep({ beat: { ...beat, seq: lastSeq, answered: true } });
        if (++refused < mostRefused) continue;
        return this.#port.answers.refusal(reply);
      }
      const result = await this.#answered(reply.body, instanceId, beat, isAgain ? undefined : asked);
      if (!result.ok) return result;
      this.#accepted = true;
      // Others may have sent theirs after one that was under way when this process took over.
      if (isAfterOthers) this.#isAfterOthers = false;
      // The answer to a repeated heartbeat may be an old one; the next answer is not.
      if (!isAgain) return result;
    }
  }

  /** A refusal is not signed, so a verdict is asked for. If that gives no reason, the lease still runs out, and the software must be told, once. */
  async #refused(reply: Refused): Promise<Refusal> {
    const isKnown = this.#port.judgement().unreachable;
    const problem = await this.#port.answers.ask({ afterRefusal: true });
    const isNews = !problem && !isKnown && this.#port.judgement().unreachable;
    return isNews ? this.#port.answers.unheard(reply) : this.#port.answers.refusal(reply);
  }

  async #answered(body: Readonly<Record<string, unknown>>, instanceId: string, { nonce, acks }: Beat, asked: Reading | undefined): Promise<BeatResult> {
    const { token, enforcement, directives = [], nextInSeconds, serverTime } = body as { token?: unknown; enforcement?: unknown; directives?: readonly Directive[]; nextInSeconds?: unknown; serverTime?: unknown };
    // Not signed, so it may make the next heartbeat sooner, but not later.
    const nextInMs = Math.min(typeof nextInSeconds === 'number' && nextInSeconds > 0 ? nextInSeconds * 1000 : Infinity, this.#intervalMs);
    if (typeof token === 'string') {
      const fault = await this.#port.answers.lease(token, instanceId, { renews: true });
      // The seat was given back since the heartbeat: an answer from before does not revive it.
      if (this.#port.kept().state.instanceId !== instanceId) return notActivated;
      if (fault === 'WRONG_TYPE') {
        // A verdict: the instance may not go on. That of a repeated heartbeat tells nothing new.
        const heard = asked && (await this.#port.answers.verdict(token, nonce, asked));
        if (heard?.ok === false) return heard;
      } else if (fault) return this.#port.answers.distrust(fault);
    }
    this.#port.keep({ acks: this.#port.kept().acks.filter((id) => !acks.includes(id)) });
    await this.#obey(directives);
    // Unsigned members are only a reason to ask. So is a repeated lease that may end before the next answer.
    const judgement = this.#port.judgement();
    const left = judgement.offlineUntil === null ? Infinity : Date.parse(judgement.offlineUntil) - Date.parse(judgement.at);
    // A lease only ever puts the time forward, and may be that of an earlier heartbeat. A verdict puts it back.
    const isAhead = Date.parse(judgement.at) - Date.parse(String(serverTime)) > adjustmentMs;
    const isUnclear = typeof token !== 'string' || enforcement !== judgement.enforcement || left < nextInMs * 1.5 || isAhead;
    const problem = asked && isUnclear ? await this.#port.answers.ask() : null;
    if (problem && typeof token !== 'string') return problem;
    return { ok: true, judgement: this.#port.judgement(), nextInMs };
  }

  /** Directives are not signed, so they only make an instance look again. Only a verdict locks. */
  async #obey(directives: readonly Directive[]): Promise<void> {
    if (!Array.isArray(directives)) return;
    const known = this.#port.kept().acks;
    const news = directives.filter((directive: Directive | null) => typeof directive?.id === 'string' && directive.id.length <= ID_AT_MOST && !known.includes(directive.id));
    for (const directive of news) this.#port.directive(directive);
    this.#port.keep({ acks: [...known, ...news.map(({ id }) => id)].slice(-100) });
    if (news.some(({ kind }) => kind === 'update-key')) await this.#port.keys.refresh();
    if (news.some(({ kind }) => kind === 'refresh')) await this.#port.answers.ask();
  }
}
