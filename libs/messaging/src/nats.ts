import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { hasContext, context, refuse, Slots, type Refusal } from '@keyledger/kernel';
import { AuthorizationError, connect, createInbox, InvalidArgumentError, PermissionViolationError, type Msg, type NatsConnection, type NodeConnectionOptions, type Subscription } from '@nats-io/transport-node';
import { Bundles, packed, unpacked, type Part } from './bundles.ts';
import { inboxOf } from './nats-users.ts';
import { isUnderway } from './server.ts';
import { nobody, refusalEnvelope, tooLate, type Envelope, type MessageHandler, type Transport } from './transport.ts';

export interface NatsOptions {
  /** `nats://127.0.0.1:4222`, several separated by commas; user and password, or a token, in the URL. `tls://` for an encrypted connection. */
  readonly url: string;
  /** The service: names this connection in the server's lists, and the inbox in which answers arrive. */
  readonly name?: string;
  /** How long `close` waits for requests being handled. */
  readonly drainLimitMs?: number;
  /** `refused`: the server no longer accepts this user. The connection does not come back by itself; a new one may be accepted. */
  readonly onStatus?: (status: 'connected' | 'disconnected' | 'refused') => void;
  /** Called for each failed try before the first connection; it is tried again. */
  readonly onWaiting?: (hosts: string, error: unknown) => void;
  /** The server does not permit this user the operation. A publish is then refused with UNAVAILABLE; requests it may not subscribe to go unanswered. */
  readonly onDenied?: (operation: 'publish' | 'subscription', subject: string) => void;
}

/** A silent server counts as gone after 1 to 1.5 s; requests waiting for it are refused then, whatever their own time limit. */
const heartbeat = { pingInterval: 500, maxPingOut: 2 } as const;
const reconnect = { maxReconnectAttempts: -1, reconnectTimeWait: 100, reconnectJitter: 100 } as const;
/** With several servers, how long to try one that is gone before the next. */
const DIAL_WITHIN_MS = 2_000;
/**
 * A server that works on a request for longer than SIGN_AFTER_MS sends a keep-alive; a client that has received nothing within SIGN_WITHIN_MS gives the
 * request up, because the server hangs. So slow answers may take their time, and nobody waits long for one that never comes.
 */
const SIGN_AFTER_MS = 400;
const SIGN_WITHIN_MS = 1_500;
/** How often a server makes sure that it has not stood still for so long. */
const AWAKE_EVERY_MS = 250;
/** A hundred licenses of the largest size allowed. */
const LARGEST_MESSAGE = 8_000_000;
const NO_RESPONDERS = 503;
/** Stands for input that is not one of our bundles; it is answered as malformed. */
const unreadable: Part = { id: -1, head: {}, body: '' };

interface Pending extends Part {
  /** Given anew as soon as it is free; what comes for it counts only with the name of its bundle. */
  id: number;
  readonly subject: string;
  readonly timeoutMs: number;
  readonly askedAt: number;
  /** Names the bundle it was sent in; only the receiver of that bundle knows it. */
  bundle?: string;
  readonly resolve: (answer: Envelope) => void;
  readonly reject: (refusal: Refusal) => void;
  timer?: NodeJS.Timeout;
}

/**
 * Services as separate processes, joined by a NATS server (core NATS: requests and replies, queue groups; nothing that must not be lost).
 * While the server is away every request is refused at once, and the connection comes back by itself.
 */
export class NatsTransport implements Transport {
  readonly #connection: NatsConnection;
  readonly #drainLimitMs: number;
  readonly #inbox: string;
  readonly #pending = new Slots<Pending>();
  readonly #requests = new Bundles<Pending>((subject, bundle) => this.#ask(subject, bundle));
  readonly #answers = new Bundles<Part>((inbox, bundle) => this.#answer(inbox, bundle));
  readonly #served = new Map<string, { readonly queue: string; readonly handler: MessageHandler; readonly subscription: Subscription }>();
  #state: 'open' | 'draining' | 'closed' = 'open';
  #connected = true;
  #inFlight = 0;
  #drained: (() => void) | undefined;
  /** By the clock that stands still with a paused machine as well, and by one that does not. */
  #awakeAt: readonly number[] = clocks();
  readonly #awake = setInterval(() => this.#isAwake(), AWAKE_EVERY_MS).unref();
  #missed: Promise<void> | undefined;

  /** Resolves when there is a connection, however long that takes; rejects when the address or the credentials are wrong, or the server's certificate does not match. */
  static async connect(options: NatsOptions): Promise<NatsTransport> {
    const { url, name, onWaiting } = options;
    const address = addressOf(url);
    const waiting = (error: unknown) => onWaiting?.(address.servers.join(', '), error);
    const transport = new NatsTransport(await dialled({ ...address, ...heartbeat, ...reconnect, timeout: DIAL_WITHIN_MS, ...(name && { name }), noAsyncTraces: true }, waiting), options);
    try {
      await transport.#listen(`${transport.#inbox}.*`, {}, (message) => transport.#answered(message)).isHeard;
      return transport;
    } catch (error) {
      await transport.close();
      throw error;
    }
  }

  private constructor(connection: NatsConnection, { name, drainLimitMs = 10_000, onStatus, onDenied }: NatsOptions) {
    this.#connection = connection;
    this.#drainLimitMs = drainLimitMs;
    this.#inbox = createInbox(name && inboxOf(name));
    void this.#watch(onStatus, onDenied);
  }

  get isConnected(): boolean {
    return this.#connected;
  }

  /** The server's message limit in bytes, if it is too low for the largest answers, which are then refused with INTERNAL. */
  get tooLowALimit(): number | undefined {
    const limit = this.#connection.info?.max_payload ?? LARGEST_MESSAGE;
    return limit < LARGEST_MESSAGE ? limit : undefined;
  }

  request(subject: string, request: Envelope, timeoutMs: number): Promise<Envelope> {
    const own = this.#whileDraining(subject);
    if (own) return own.answer(request);
    if (this.#state === 'closed' || (this.#state === 'draining' && !isPartOfWork()) || !this.#connected) return Promise.reject(nobody(subject));
    return new Promise((resolve, reject) => {
      const pending: Pending = { ...request, id: -1, subject, timeoutMs, askedAt: performance.now(), resolve, reject };
      pending.id = this.#pending.add(pending);
      this.#waitFor(pending, SIGN_WITHIN_MS);
      this.#requests.add(subject, pending);
    });
  }

  /** Resolves when the server has registered it: requests are answered from then on. Rejects when the server does not permit this user to serve the subject. */
  async serve(subject: string, queue: string, handler: MessageHandler): Promise<void> {
    const already = this.#served.get(subject);
    if (already && already.queue !== queue) throw new Error(`${subject} is served by ${already.queue} and ${queue}: each would answer it`);
    const { subscription, isHeard } = this.#listen(subject, { queue }, (message) => this.#handle(handler, message));
    this.#served.set(subject, { queue, handler, subscription });
    await isHeard;
  }

  async close(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    const limit = AbortSignal.timeout(this.#drainLimitMs);
    const limited = new Promise<void>((resolve) => limit.addEventListener('abort', () => resolve()));
    // First stop new requests, then answer those that have come in, then close the connection.
    if (this.#connected) await Promise.race([limited, Promise.all([...this.#served.values()].map(({ subscription }) => subscription.isClosed() || subscription.drain()))]);
    if (this.#inFlight > 0) await Promise.race([limited, new Promise<void>((resolve) => { this.#drained = resolve; })]);
    this.#state = 'closed';
    clearInterval(this.#awake);
    this.#answers.flush();
    if (this.#connected) await Promise.race([limited, this.#connection.flush().catch(() => undefined)]);
    await this.#connection.close();
    this.#refuseAll();
  }

  #listen(subject: string, options: { readonly queue?: string }, hear: (message: Msg) => void): { readonly subscription: Subscription; readonly isHeard: Promise<void> } {
    let denied: Error | undefined;
    const callback = (error: Error | void | null, message: Msg) => {
      if (error) denied = error;
      else hear(message);
    };
    const subscription = this.#connection.subscribe(subject, { ...options, callback });
    // If the connection breaks, it comes back with all its subscriptions.
    const isHeard = this.#connection.flush().catch(() => undefined).then(() => {
      if (denied) throw new Error(`The NATS server does not let this user listen on ${subject}`, { cause: denied });
    });
    return { subscription, isHeard };
  }

  #ask(subject: string, bundle: readonly Pending[]): void {
    // Requests refused in the meantime need no answer any more.
    const asking = bundle.filter((pending) => this.#isPending(pending));
    if (asking.length === 0) return;
    // No process can answer in place of the one that was asked: only that one knows the reply address, which cannot be guessed.
    const reply = `${this.#inbox}.${randomUUID()}`;
    for (const pending of asking) pending.bundle = reply;
    try {
      this.#connection.publish(subject, packed(asking), { reply });
    } catch (error) {
      for (const pending of asking) this.#take(pending)?.reject(Object.assign(refuse('INTERNAL'), { cause: error }));
    }
  }

  /**
   * A process that stood still, frozen or with its machine, then finds requests in its socket that were given up long ago. Whoever sent them may have
   * gone on since, so to carry them out now could undo what was acknowledged in between: all that the server had sent by then is left unanswered.
   */
  #isAwake(): boolean {
    const now = clocks();
    const stoodStill = now.some((at, n) => at - (this.#awakeAt[n] as number) > SIGN_WITHIN_MS);
    this.#awakeAt = now;
    if (stoodStill) {
      const missed = this.#connection.flush().catch(() => undefined).then(() => {
        if (this.#missed === missed) this.#missed = undefined;
      });
      this.#missed = missed;
    }
    return this.#missed === undefined;
  }

  #handle(handler: MessageHandler, message: Msg): void {
    if (!this.#isAwake()) return;
    for (const part of unpacked(message.string()) ?? [unreadable]) void this.#handlePart(handler, part, message.reply);
  }

  async #handlePart(handler: MessageHandler, { id, ...request }: Part, inbox: string | undefined): Promise<void> {
    this.#inFlight++;
    const sign = inbox ? setTimeout(() => void (this.#state === 'closed' || this.#answers.add(inbox, { ...working, id })), SIGN_AFTER_MS) : undefined;
    const answer = await handler.answer(request);
    clearTimeout(sign);
    // A handler that took longer than the drain limit has no connection left to answer on.
    if (inbox && this.#state !== 'closed') this.#answers.add(inbox, { ...answer, id });
    this.#inFlight--;
    if (this.#inFlight === 0) this.#drained?.();
  }

  #answer(inbox: string, bundle: readonly Part[]): void {
    // No caller waits any more.
    if (this.#connection.isClosed()) return;
    try {
      this.#connection.publish(inbox, packed(bundle));
    } catch {
      // Larger than the server accepts.
      const refusal = refusalEnvelope(refuse('INTERNAL', 'The answer is too large to be sent'));
      this.#connection.publish(inbox, packed(bundle.map(({ id }) => ({ ...refusal, id }))));
    }
  }

  #answered(message: Msg): void {
    const { subject } = message;
    const parts = message.headers?.code === NO_RESPONDERS ? undefined : unpacked(message.string());
    if (!parts) return this.#refuseAll(({ bundle }) => bundle === subject);
    for (const { id, ...answer } of parts) {
      const pending = this.#pending.get(id);
      if (pending?.bundle !== subject) continue;
      if (isSign(answer)) this.#heardOf(pending);
      else this.#take(pending)?.resolve(answer);
    }
  }

  #heardOf(pending: Pending): void {
    clearTimeout(pending.timer);
    this.#waitFor(pending, Infinity);
  }

  /** For so long, and not longer than it was asked for in all. What has come in while this process had no time is looked at first. */
  #waitFor(pending: Pending, ms: number): void {
    const { subject, timeoutMs, askedAt } = pending;
    const left = timeoutMs - (performance.now() - askedAt);
    const timer = setTimeout(() => void setImmediate(() => {
      if (pending.timer === timer) this.#take(pending)?.reject(ms < left ? nobody(subject) : tooLate(subject, timeoutMs));
    }), Math.min(ms, left));
    pending.timer = timer;
  }

  #isPending(pending: Pending): boolean {
    return this.#pending.get(pending.id) === pending;
  }

  #take(pending: Pending): Pending | undefined {
    if (!this.#isPending(pending)) return undefined;
    this.#pending.take(pending.id);
    clearTimeout(pending.timer);
    return pending;
  }

  /** Work being finished may need subjects that only this process serves and no longer announces. */
  #whileDraining(subject: string): MessageHandler | undefined {
    return this.#state === 'draining' && isPartOfWork() ? this.#served.get(subject)?.handler : undefined;
  }

  /** Answers to requests sent before the connection broke may never come, so those requests are refused at once. */
  #refuseAll(which: (pending: Pending) => boolean = () => true): void {
    for (const pending of this.#pending.all) if (which(pending)) this.#take(pending)?.reject(nobody(pending.subject));
  }

  async #watch(onStatus: NatsOptions['onStatus'], onDenied: NatsOptions['onDenied']): Promise<void> {
    onStatus?.('connected');
    for await (const status of this.#connection.status()) {
      if (status.type === 'error' && status.error instanceof PermissionViolationError) {
        const { operation, subject: denied } = status.error;
        if (operation === 'publish') this.#refuseAll(({ subject }) => subject === denied);
        onDenied?.(operation, denied);
      }
      if (status.type !== 'disconnect' && status.type !== 'reconnect') continue;
      this.#connected = status.type === 'reconnect';
      if (!this.#connected) this.#refuseAll();
      onStatus?.(this.#connected ? 'connected' : 'disconnected');
    }
    // The client gives up only where it is refused by name, twice.
    if (this.#state !== 'open') return;
    this.#connected = false;
    this.#refuseAll();
    onStatus?.('refused');
  }
}

const working: Envelope = { head: { working: true }, body: '' };
const isSign = ({ head }: Envelope): boolean => (head as { readonly working?: boolean } | null)?.working === true;

const clocks = (): readonly number[] => [performance.now(), Date.now()];

const isPartOfWork = (): boolean => hasContext() && isUnderway(context());

/** After the first connection the client reconnects by itself. Until then the retry is here, unless every try would fail the same way. */
async function dialled(options: NodeConnectionOptions, waiting: (error: unknown) => void): Promise<NatsConnection> {
  for (;;) {
    try {
      return await connect(options);
    } catch (error) {
      if (isForGood(error)) throw error;
      waiting(error);
      await sleep(reconnect.reconnectTimeWait);
    }
  }
}

/** Wrong settings or credentials, and a server whose certificate does not match or is missing. */
function isForGood(error: unknown): boolean {
  if (error instanceof AuthorizationError || error instanceof InvalidArgumentError) return true;
  const { code = '', message = '', cause } = (error ?? {}) as Partial<NodeJS.ErrnoException>;
  return /^(ERR_|UNABLE_TO_|INVALID_|HOSTNAME_)|CERT/.test(code) || /does not support 'tls'/.test(message) || (cause !== undefined && isForGood(cause));
}

function addressOf(url: string): NodeConnectionOptions & { readonly servers: readonly string[] } {
  const servers = url.split(',').map((one) => new URL(one.trim()));
  const [{ username, password }] = servers as [URL];
  return {
    servers: servers.map(({ host }) => host),
    ...(password ? { user: decodeURIComponent(username), pass: decodeURIComponent(password) } : username && { token: decodeURIComponent(username) }),
    // All of them or none: the client would take any that the others name.
    ...(servers.some(({ protocol }) => protocol === 'tls:') && { tls: {} }),
  };
}
