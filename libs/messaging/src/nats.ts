import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { hasContext, context, refuse, type Refusal } from '@keyledger/kernel';
import { AuthorizationError, connect, createInbox, InvalidArgumentError, PermissionViolationError, type Msg, type NatsConnection, type NodeConnectionOptions, type Subscription } from '@nats-io/transport-node';
import { Bundles, packed, unpacked, type Part } from './bundles.ts';
import { inboxOf } from './nats-users.ts';
import { isUnderway } from './server.ts';
import { nobody, refusalEnvelope, tooLate, type Envelope, type MessageHandler, type Transport } from './transport.ts';

export interface NatsOptions {
  /** `nats://127.0.0.1:4222`, several separated by commas; user and password, or a token, in the URL. `tls://` for an encrypted connection. */
  readonly url: string;
  /** The service: what the server calls this connection in its own lists, and whose inbox answers arrive in. */
  readonly name?: string;
  /** How long `close` waits for what is being handled. */
  readonly drainLimitMs?: number;
  /** `refused`: the server knows this user no more. The connection does not come back by itself; a new one may be let in. */
  readonly onStatus?: (status: 'connected' | 'disconnected' | 'refused') => void;
  /** Nobody answers there, and it is tried again: of each try before there has been a connection. */
  readonly onWaiting?: (hosts: string, error: unknown) => void;
  /** The server does not let this user do that. What it asks is refused then with UNAVAILABLE; what it does not hear it cannot answer. */
  readonly onDenied?: (operation: 'publish' | 'subscription', subject: string) => void;
}

/** A server that is silent is taken for gone after 1 to 1.5 s; what waits for it is refused then, whatever its own time limit. */
const heartbeat = { pingInterval: 500, maxPingOut: 2 } as const;
const reconnect = { maxReconnectAttempts: -1, reconnectTimeWait: 100, reconnectJitter: 100 } as const;
/** A server of several that is not there any more does not hold up the way to the next. */
const DIAL_WITHIN_MS = 2_000;
/**
 * Who works on a request for longer than the one says so, and who hears nothing of his within the other takes it for lost: the process that got it
 * hangs. So a slow answer may take its time, and nobody waits long for one that does not come.
 */
const SIGN_AFTER_MS = 400;
const SIGN_WITHIN_MS = 1_500;
/** A hundred licenses, as large as they may be. */
const LARGEST_MESSAGE = 8_000_000;
const NO_RESPONDERS = 503;
/** For what nobody of ours has sent: answered like a message that is none. */
const unreadable: Part = { id: -1, head: {}, body: '' };

interface Pending extends Part {
  readonly subject: string;
  readonly timeoutMs: number;
  readonly askedAt: number;
  /** Names the bundle that it was sent in, and is known to nobody but who got that. */
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
  readonly #pending = new Map<number, Pending>();
  readonly #requests = new Bundles<Pending>((subject, bundle) => this.#ask(subject, bundle));
  readonly #answers = new Bundles<Part>((inbox, bundle) => this.#answer(inbox, bundle));
  readonly #served = new Map<string, { readonly queue: string; readonly handler: MessageHandler; readonly subscription: Subscription }>();
  #state: 'open' | 'draining' | 'closed' = 'open';
  #connected = true;
  #sent = 0;
  #inFlight = 0;
  #drained: (() => void) | undefined;

  /** Resolves when there is a connection, however long that takes; rejects when the address or the credentials are wrong, or the server is not whom its certificate should name. */
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

  /** The server's own limit in bytes, where that is too low for the largest answers; they are refused with INTERNAL then. */
  get tooLowALimit(): number | undefined {
    const limit = this.#connection.info?.max_payload ?? LARGEST_MESSAGE;
    return limit < LARGEST_MESSAGE ? limit : undefined;
  }

  request(subject: string, request: Envelope, timeoutMs: number): Promise<Envelope> {
    const own = this.#whileDraining(subject);
    if (own) return own.answer(request);
    if (this.#state === 'closed' || (this.#state === 'draining' && !isPartOfWork()) || !this.#connected) return Promise.reject(nobody(subject));
    return new Promise((resolve, reject) => {
      const id = this.#sent++;
      const pending: Pending = { ...request, id, subject, timeoutMs, askedAt: performance.now(), resolve, reject };
      this.#pending.set(id, pending);
      this.#waitFor(pending, SIGN_WITHIN_MS);
      this.#requests.add(subject, pending);
    });
  }

  /** Resolves when the server knows it: whoever asks from then on is answered. Rejects when the server does not let this user answer that. */
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
    // First nothing new comes in, then what has come in is answered, then the line is cut.
    if (this.#connected) await Promise.race([limited, Promise.all([...this.#served.values()].map(({ subscription }) => subscription.isClosed() || subscription.drain()))]);
    if (this.#inFlight > 0) await Promise.race([limited, new Promise<void>((resolve) => { this.#drained = resolve; })]);
    this.#state = 'closed';
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
    // If the line breaks, it comes back with all that is listened to.
    const isHeard = this.#connection.flush().catch(() => undefined).then(() => {
      if (denied) throw new Error(`The NATS server does not let this user listen on ${subject}`, { cause: denied });
    });
    return { subscription, isHeard };
  }

  #ask(subject: string, bundle: readonly Pending[]): void {
    // What was refused since then needs no answer any more.
    const asking = bundle.filter(({ id }) => this.#pending.has(id));
    if (asking.length === 0) return;
    // Nobody can answer in the place of another who was asked: where the answer goes is told to him alone, and cannot be guessed.
    const reply = `${this.#inbox}.${randomUUID()}`;
    for (const pending of asking) pending.bundle = reply;
    try {
      this.#connection.publish(subject, packed(asking), { reply });
    } catch (error) {
      for (const { id } of asking) this.#take(id)?.reject(Object.assign(refuse('INTERNAL'), { cause: error }));
    }
  }

  #handle(handler: MessageHandler, message: Msg): void {
    for (const part of unpacked(message.string()) ?? [unreadable]) void this.#handlePart(handler, part, message.reply);
  }

  async #handlePart(handler: MessageHandler, { id, ...request }: Part, inbox: string | undefined): Promise<void> {
    this.#inFlight++;
    const sign = inbox ? setTimeout(() => void (this.#state === 'closed' || this.#answers.add(inbox, { ...working, id })), SIGN_AFTER_MS) : undefined;
    const answer = await handler.answer(request);
    clearTimeout(sign);
    // Who took longer than the drain's limit has nobody left to tell.
    if (inbox && this.#state !== 'closed') this.#answers.add(inbox, { ...answer, id });
    this.#inFlight--;
    if (this.#inFlight === 0) this.#drained?.();
  }

  #answer(inbox: string, bundle: readonly Part[]): void {
    try {
      this.#connection.publish(inbox, packed(bundle));
    } catch {
      // Larger than the server takes. The connection itself may be gone as well: then nobody waits any more.
      const refusal = refusalEnvelope(refuse('INTERNAL', 'The answer is too large to be sent'));
      if (this.#connected) this.#connection.publish(inbox, packed(bundle.map(({ id }) => ({ ...refusal, id }))));
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
      else this.#take(id)?.resolve(answer);
    }
  }

  #heardOf(pending: Pending): void {
    clearTimeout(pending.timer);
    this.#waitFor(pending, Infinity);
  }

  /** For so long, and not longer than it was asked for in all. What has come in while this process had no time is looked at first. */
  #waitFor(pending: Pending, ms: number): void {
    const { id, subject, timeoutMs, askedAt } = pending;
    const left = timeoutMs - (performance.now() - askedAt);
    const timer = setTimeout(() => void setImmediate(() => {
      if (pending.timer === timer) this.#take(id)?.reject(ms < left ? nobody(subject) : tooLate(subject, timeoutMs));
    }), Math.min(ms, left));
    pending.timer = timer;
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (!pending) return;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    return pending;
  }

  /** Work that is being finished may need what only this process serves, and that is no longer announced. */
  #whileDraining(subject: string): MessageHandler | undefined {
    return this.#state === 'draining' && isPartOfWork() ? this.#served.get(subject)?.handler : undefined;
  }

  /** An answer to what was asked before the line broke may never come: waiting for it helps nobody. */
  #refuseAll(which: (pending: Pending) => boolean = () => true): void {
    for (const pending of this.#pending.values()) if (which(pending)) this.#take(pending.id)?.reject(nobody(pending.subject));
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

const isPartOfWork = (): boolean => hasContext() && isUnderway(context());

/** Once there was a connection the client looks after it. Before that it is tried again here, unless it would be the same every time. */
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

/** Wrong settings or credentials, and a server that is not whom its certificate should name, or that has none. */
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
