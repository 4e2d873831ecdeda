import type { Reason } from '@keyledger/license-file';
import { held, type Clock } from './clock.ts';
import type { Beat, Kept } from './kept.ts';
import type { Activation, Logger } from './api.ts';
import { noServer, notActivated, type Refusal } from './refusal.ts';
import { nextWait, type Refused, type Reply, type Unreachable } from './server.ts';
import { adjustmentMs, inTime, type Judgement, type Reading } from './state.ts';

export type BeatResult = { readonly ok: true; readonly judgement: Judgement; /** Until the next one is due. */ readonly nextInMs: number } | Refusal;

export interface HeartbeatOptions {
  /** Milliseconds; `server`: as the license says. */
  readonly interval?: 'server' | number;
  /** Share of the interval by which each one is drawn earlier or later. */
  readonly jitter?: number;
  /** Of several processes that share a store, one sends them, and the others live on what it hears. When it ends, another one does. */
  readonly leader?: 'auto';
}

/** What a vendor tells his customers' instances. */
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
  readonly logger: Logger | undefined;
  readonly version: string | undefined;
  readonly fingerprint: string;
  kept(): Kept;
  keep(changes: Partial<Kept>): void;
  persist(): Promise<unknown>;
  judgement(): Judgement;
  intervalMs(): number;
  /** A seat that floats, which may be taken anew. */
  hasLostSeat(): boolean;
  /** From now on it wants to be the one of several processes that sends them. What it returns ends that. */
  contend(): () => void;
  isLeading(): boolean;
  /** Others of this installation may send them as well, because no lead can be taken. */
  isLeadAssumed(): boolean;
  /** Nobody else does, as of now. */
  leads(): Promise<boolean>;
  /** Reads what the one who sends them has heard. */
  follow(): Promise<void>;
  takeSeatAnew(): Promise<Activation>;
  send(licenseId: string, body: object): Promise<Reply> | undefined;
  /** `afterRefusal`: for the reason why a heartbeat was refused. */
  ask(options?: { readonly afterRefusal: boolean }): Promise<Refusal | null>;
  /** Renews the seat, if it is still had. */
  lease(token: string, instanceId: string): Promise<Reason | null>;
  verdict(token: string, nonce: string, asked: Reading): Promise<Refusal | null>;
  refusal(reply: Refused | Unreachable): Refusal;
  /** The same, where a refusal tells no more than no answer would. */
  unheard(reply: Refused): Refusal;
  distrust(reason: Reason): Refusal;
  reportUsage(): Promise<unknown>;
  refreshKeys(): Promise<void>;
  directive(directive: Directive): void;
  conflict(lastSeq: number, seq: number): void;
}

const shortestWaitMs = 1_000;
/** Whoever has refused one is there, and refuses the next as well until somebody has changed something. */
const shortestRefusedMs = 60_000;
/** Nobody gets there by counting: an answer that nobody has signed must not use up all numbers. */
const HIGHEST_SEQ = 2 ** 52;
/** A longer one would be refused with every heartbeat that acknowledges it. */
const ID_AT_MOST = 64;
/** In a row: others that count with the same numbers get ahead again and again only where no server counts. */
const mostRefused = 5;
/** Nobody is kept silent for longer by a Retry-After. */
const longestRetryAfterMs = 3_600_000;

/**
 * Signs of life, which renew the lease. Each has a number, kept before it is sent, and a nonce: sent again after a lost answer, or by the next
 * process, it is the same heartbeat; and two instances that share one state are told apart at the first contact.
 */
export class Heartbeats {
  readonly #port: Port;
  #running: AbortController | undefined;
  #nap = new AbortController();
  #options: HeartbeatOptions = {};
  #beating: Promise<BeatResult> | undefined;
  /** One of this process was accepted: from then on nobody else counts with its numbers. */
  #accepted = false;
  #conflict: Refusal | undefined;
  /** Others of this installation may have counted with its numbers, and do so no more: none of them is a clone. */
  #isAfterOthers = false;
  #retire: (() => void) | undefined;

  constructor(port: Port) {
    this.#port = port;
  }

  get isRunning(): boolean {
    return this.#running !== undefined;
  }

  /** With `leader: 'auto'`: of several processes, this one sends them. */
  get isLeader(): boolean {
    return this.#port.isLeading();
  }

  /** Until `stop`. Keeps no process alive. */
  start(options: HeartbeatOptions = {}): void {
    if (this.#running) return;
    const { interval = 'server', jitter = 0.2 } = options;
    const running = new AbortController();
    this.#running = running;
    this.#options = options;
    if (options.leader) this.#retire ??= this.#port.contend();
    void this.#run(running.signal, interval, jitter);
  }

  stop(): void {
    this.#halt();
    this.#retire?.();
    this.#retire = undefined;
  }

  /** There is something to do before the next one is due. */
  hurry(): void {
    this.#nap.abort();
  }

  /** Who leads still does, and sends none. What it returns goes on as before. */
  pause(): () => void {
    const { isRunning } = this;
    this.#halt();
    return () => isRunning && this.start(this.#options);
  }

  /** One now; or the one that is under way. */
  beat(): Promise<BeatResult> {
    return held(this.together());
  }

  /** The one who has sent them is no more. `besideOthers`: until now several have, this process among them. */
  takeOver(besideOthers: boolean): void {
    this.forget();
    this.#isAfterOthers = besideOthers;
    this.hurry();
  }

  /** A new activation: whoever was in conflict starts over. */
  forget(): void {
    this.#accepted = false;
    this.#conflict = undefined;
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
      const regular = interval === 'server' ? (result.ok ? result.nextInMs : this.#port.intervalMs()) : interval;
      const isUnanswered = !result.ok && (result.code === 'UNREACHABLE' || result.code === 'UNTRUSTED_ANSWER' || this.#port.hasLostSeat());
      const isRefused = !result.ok && !isUnanswered && this.#port.judgement().unreachable;
      const isLost = isUnanswered || isRefused;
      if (isRefused) wait = Math.max(wait, nextWait(Math.max(wait, shortestRefusedMs), [shortestRefusedMs, regular], Math.random));
      else wait = isLost ? nextWait(wait, [shortestWaitMs, regular], Math.random) : shortestWaitMs;
      const planned = inTime(isLost ? wait : regular * (1 + jitter * (Math.random() * 2 - 1)), this.#port.judgement());
      const next = isLost ? Math.max(planned, Math.min(result.retryAfterMs ?? 0, longestRetryAfterMs)) : planned;
      if (signal.aborted) return;
      this.#nap = new AbortController();
      await this.#port.clock.sleep(next, this.#nap.signal);
    }
  }

  /** A sign of life; where the seat was lost meanwhile, it takes another. */
  async #turn(signal: AbortSignal): Promise<BeatResult> {
    if (!(await this.#port.leads())) return this.together();
    const beaten = this.#port.hasLostSeat() ? undefined : await this.together();
    if (beaten && (signal.aborted || !this.#port.hasLostSeat())) return beaten;
    const seat = await this.#port.takeSeatAnew();
    return seat.ok ? { ok: true, judgement: seat.judgement, nextInMs: this.#port.intervalMs() } : seat;
  }

  /** The same, for whoever runs in the background: it keeps no process alive. */
  together(): Promise<BeatResult> {
    return (this.#beating ??= this.#beat().finally(() => (this.#beating = undefined)));
  }

  async #beat(): Promise<BeatResult> {
    const leads = await this.#port.leads();
    if (leads && this.#conflict && !this.#port.isLeadAssumed()) return this.#conflict;
    const result = await (leads ? this.#renew() : this.#follow());
    if (result.ok) await this.#port.reportUsage();
    await this.#port.persist();
    return result.ok ? { ...result, judgement: this.#port.judgement() } : result;
  }

  async #follow(): Promise<BeatResult> {
    await this.#port.follow();
    return this.#port.kept().state.instanceId === null ? notActivated : { ok: true, judgement: this.#port.judgement(), nextInMs: this.#port.intervalMs() };
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
      if (reply.kind === 'unreachable') return this.#port.refusal(reply);
      this.#port.keep({ beat: { ...beat, answered: true } });
      if (reply.kind === 'refused') {
        const lastSeq = reply.code === 'STALE_SEQUENCE' ? Number(reply.body['lastSeq']) : NaN;
        if (!Number.isSafeInteger(lastSeq) || lastSeq > HIGHEST_SEQ) return this.#refused(reply);
        // Another process has taken over while this one was held up.
        if (!(await this.#port.leads())) return this.#follow();
        const isClone = !this.#isAfterOthers && !this.#port.isLeadAssumed();
        if (isClone) this.#port.conflict(lastSeq, beat.seq);
        if (isClone && this.#accepted) return (this.#conflict = this.#port.refusal(reply));
        // Before the first of this process it is no wonder: its state was lost, or put back from a copy. Nor is it while others of this installation
        // count with the same numbers. From here on it counts on.
        this.#accepted = true;
        this.#port.keep({ beat: { ...beat, seq: lastSeq, answered: true } });
        if (++refused < mostRefused) continue;
        return this.#port.refusal(reply);
      }
      const result = await this.#answered(reply.body, instanceId, beat, isAgain ? undefined : asked);
      if (!result.ok) return result;
      this.#accepted = true;
      // One that was under way before may have been followed by those of others.
      if (isAfterOthers) this.#isAfterOthers = false;
      // Its answer may be an old one; the next one's is not.
      if (!isAgain) return result;
    }
  }

  /** Not signed. What it means for the license is asked for; where that gives no reason, the lease still runs out, and the software must be told, once. */
  async #refused(reply: Refused): Promise<Refusal> {
    const isKnown = this.#port.judgement().unreachable;
    const problem = await this.#port.ask({ afterRefusal: true });
    const isNews = !problem && !isKnown && this.#port.judgement().unreachable;
    return isNews ? this.#port.unheard(reply) : this.#port.refusal(reply);
  }

  async #answered(body: Readonly<Record<string, unknown>>, instanceId: string, { nonce, acks }: Beat, asked: Reading | undefined): Promise<BeatResult> {
    const { token, enforcement, directives = [], nextInSeconds, serverTime } = body as { token?: unknown; enforcement?: unknown; directives?: readonly Directive[]; nextInSeconds?: unknown; serverTime?: unknown };
    // Not signed, so it may make the next one sooner, and not later.
    const nextInMs = Math.min(typeof nextInSeconds === 'number' && nextInSeconds > 0 ? nextInSeconds * 1000 : Infinity, this.#port.intervalMs());
    if (typeof token === 'string') {
      const fault = await this.#port.lease(token, instanceId);
      // Given back since it was asked: the seat is not alive again because it was when this was answered.
      if (this.#port.kept().state.instanceId !== instanceId) return notActivated;
      if (fault === 'WRONG_TYPE') {
        // A verdict: the box may not go on. An old one tells nothing new.
        const refused = asked && (await this.#port.verdict(token, nonce, asked));
        if (refused) return refused;
      } else if (fault) return this.#port.distrust(fault);
    }
    this.#port.keep({ acks: this.#port.kept().acks.filter((id) => !acks.includes(id)) });
    await this.#obey(directives);
    // What was said without a signature is only a reason to ask. So is a lease that came once more, where the next answer may be too late.
    const judgement = this.#port.judgement();
    const left = judgement.offlineUntil === null ? Infinity : Date.parse(judgement.offlineUntil) - Date.parse(judgement.at);
    // A lease only ever puts the time forward, and may itself be of an earlier heartbeat. A verdict puts it back.
    const isAhead = Date.parse(judgement.at) - Date.parse(String(serverTime)) > adjustmentMs;
    const isUnclear = typeof token !== 'string' || enforcement !== judgement.enforcement || left < nextInMs * 1.5 || isAhead;
    const problem = asked && isUnclear ? await this.#port.ask() : null;
    if (problem && typeof token !== 'string') return problem;
    return { ok: true, judgement: this.#port.judgement(), nextInMs };
  }

  /** Directives are not signed, so they make nobody do more than look again. What locks comes with a verdict. */
  async #obey(directives: readonly Directive[]): Promise<void> {
    if (!Array.isArray(directives)) return;
    const known = this.#port.kept().acks;
    const news = directives.filter((directive: Directive | null) => typeof directive?.id === 'string' && directive.id.length <= ID_AT_MOST && !known.includes(directive.id));
    for (const directive of news) this.#port.directive(directive);
    this.#port.keep({ acks: [...known, ...news.map(({ id }) => id)].slice(-100) });
    if (news.some(({ kind }) => kind === 'update-key')) await this.#port.refreshKeys();
    if (news.some(({ kind }) => kind === 'refresh')) await this.#port.ask();
  }
}
