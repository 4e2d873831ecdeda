import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type NetConnectOpts, type Server, type Socket } from 'node:net';
import { randomFrom } from './random.ts';

/** Faults of NATS messages on their way, requests and replies alike. Chances are 0 to 1; a message meets at most one fault in each direction. */
export interface MessageFaults {
  /** The same seed and the same traffic meet the same faults. */
  readonly seed: number;
  readonly drop?: number;
  /** Sent twice, the second one late. */
  readonly duplicate?: number;
  /** Sent late: after up to `window` (100) others, or `lateMs` (50), whichever is first. */
  readonly reorder?: number;
  readonly window?: number;
  readonly lateMs?: number;
  /** Sent after up to `delayMs` (1000), however many pass meanwhile. */
  readonly delay?: number;
  readonly delayMs?: number;
}
type Meddling = (frame: Buffer, later: (frame: Buffer, passing: number, ms: number) => void) => readonly Buffer[];

/**
 * Stands on 127.0.0.1 between a server (NATS, PostgreSQL) and the clients that use `url`, and does to connections what networks do.
 * It understands NATS: with `meddle` it does the same to single messages. Control frames always pass, and in order.
 */
export class FaultProxy {
  /** The server's URL, with the proxy's address. */
  readonly url: string;
  /** Numbers of messages by their fate. */
  readonly met = { passed: 0, dropped: 0, duplicated: 0, reordered: 0, delayed: 0 };
  readonly #server: Server;
  readonly #port: number;
  readonly #upstream: NetConnectOpts;
  readonly #isNats: boolean;
  readonly #sockets = new Set<Socket>();
  /** Kept until `close`. */
  readonly #vanished = new Set<Socket>();
  /** Accepted during a silence. */
  readonly #waiting = new Set<Socket>();
  #meddling: Meddling | undefined;
  #silent = false;
  #delayMs = 0;

  static async open(upstream: string): Promise<FaultProxy> {
    const server = createServer({ noDelay: true }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new FaultProxy(new URL(upstream), server);
  }

  private constructor(url: URL, server: Server) {
    const folder = url.searchParams.get('host');
    this.#isNats = url.protocol === 'nats:';
    const port = url.port || (this.#isNats ? '4222' : '5432');
    this.#upstream = folder ? { path: `${folder}/.s.PGSQL.${port}` } : { host: url.hostname, port: Number(port), noDelay: true };
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server.on('connection', (client) => this.#accept(client));
    url.searchParams.delete('host');
    url.hostname = '127.0.0.1';
    url.port = String(this.#port);
    this.url = url.href;
  }

  /** Ends all faults; bytes held back in a silence arrive. */
  async pass(): Promise<void> {
    this.#silent = false;
    this.#delayMs = 0;
    this.#meddling = undefined;
    for (const socket of this.#sockets) socket.resume();
    for (const client of this.#waiting) this.#join(client);
    this.#waiting.clear();
    if (this.#server.listening) return;
    this.#server.listen(this.#port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** Connections stay; new ones are refused. */
  refuse(): void {
    if (this.#server.listening) this.#server.close();
  }

  /** All connections break; new ones are refused. */
  cut(): void {
    this.refuse();
    for (const socket of [...this.#sockets, ...this.#waiting]) socket.destroy();
  }

  /** A black hole: connections stay, new ones are accepted, and no bytes arrive, not even the end of a connection. */
  silence(): void {
    this.#silent = true;
    for (const socket of this.#sockets) socket.pause();
  }

  /** Present connections are in a black hole for good, new ones are not: a machine has lost its power, and another one has taken its place. */
  vanish(): void {
    for (const socket of this.#sockets) this.#vanished.add(socket.pause());
    this.#sockets.clear();
  }

  /** All bytes sent from now on arrive this much later. */
  delay(ms: number): void {
    this.#delayMs = ms;
  }

  meddle(faults: MessageFaults): void {
    if (!this.#isNats) throw new Error('Only messages of NATS can be told apart');
    this.#meddling = this.#meddlingOf(faults);
  }

  async close(): Promise<void> {
    const closed = this.#server.listening ? once(this.#server, 'close') : undefined;
    this.cut();
    for (const socket of this.#vanished) socket.destroy();
    await closed;
  }

  #accept(client: Socket): void {
    client.on('error', () => undefined);
    if (!this.#silent) return this.#join(client);
    this.#waiting.add(client.pause().once('close', () => this.#waiting.delete(client)));
  }

  #join(client: Socket): void {
    const server = connect(this.#upstream).on('error', () => undefined);
    for (const [from, to] of [[client, server], [server, client]] as const) {
      this.#sockets.add(from);
      const carry = inOrder((bytes) => void (to.writable && to.write(bytes)), () => this.#delayMs);
      from.on('data', this.#isNats ? messageByMessage(carry, () => this.#meddling, () => this.met.passed++) : carry);
      from.once('close', () => {
        this.#sockets.delete(from);
        to.destroySoon();
      });
    }
    client.resume();
  }

  #meddlingOf({ seed, drop = 0, duplicate = 0, reorder = 0, delay = 0, window = 100, lateMs = 50, delayMs = 1_000 }: MessageFaults): Meddling {
    const random = randomFrom(seed);
    return (frame, later) => {
      let dice = random(1e6) / 1e6;
      const isOneOf = (chance: number) => (dice -= chance) < 0;
      if (isOneOf(drop)) return void this.met.dropped++, [];
      if (isOneOf(duplicate)) return this.met.duplicated++, later(frame, 1 + random(window), lateMs), [frame];
      if (isOneOf(reorder)) return this.met.reordered++, later(frame, 1 + random(window), lateMs), [];
      if (isOneOf(delay)) return this.met.delayed++, later(frame, Infinity, random(delayMs)), [];
      this.met.passed++;
      return [frame];
    };
  }
}

type Carry = (bytes: Buffer) => void;

/** Bytes keep their order even when the delay changes. */
function inOrder(write: Carry, delayMs: () => number): Carry {
  const underWay: { readonly bytes: Buffer; readonly due: number }[] = [];
  const arrive = () => {
    for (let [next] = underWay; next; [next] = underWay) {
      if (next.due > performance.now()) return void setTimeout(arrive, next.due - performance.now());
      write(next.bytes);
      underWay.shift();
    }
  };
  return (bytes) => {
    const ms = delayMs();
    if (ms === 0 && underWay.length === 0) return write(bytes);
    underWay.push({ bytes, due: performance.now() + ms });
    if (underWay.length === 1) setTimeout(arrive, ms);
  };
}

/** Messages of the NATS protocol, in either direction: `[H]PUB|[H]MSG <subject and more> <bytes>`, a line end, the bytes, a line end. */
const message = /^H?(?:PUB|MSG) .* (\d+)$/i;
const LINE_END = '\r\n';

/** Cuts the stream into frames and passes the messages among them through `meddling`. */
function messageByMessage(carry: Carry, meddling: () => Meddling | undefined, passed: () => void): Carry {
  let rest = Buffer.alloc(0);
  const held = new Set<{ passing: number; readonly release: () => void }>();
  const later = (frame: Buffer, passing: number, ms: number) => {
    const release = () => {
      clearTimeout(timer);
      if (held.delete(one)) carry(frame);
    };
    const timer = setTimeout(release, ms).unref();
    const one = { passing, release };
    held.add(one);
  };
  return (bytes) => {
    rest = Buffer.concat([rest, bytes]);
    const straight: Buffer[] = [];
    const overtaken: (() => void)[] = [];
    for (let end = rest.indexOf(LINE_END); end >= 0; end = rest.indexOf(LINE_END)) {
      const size = message.exec(rest.toString('latin1', 0, end))?.[1];
      const length = end + 2 + (size === undefined ? 0 : Number(size) + 2);
      if (rest.length < length) break;
      const frame = rest.subarray(0, length);
      rest = rest.subarray(length);
      const meddle = size === undefined ? undefined : meddling();
      if (size !== undefined) for (const one of held) if (--one.passing <= 0) overtaken.push(one.release);
      if (size !== undefined && !meddle) passed();
      straight.push(...(meddle ? meddle(frame, later) : [frame]));
    }
    if (straight.length > 0) carry(Buffer.concat(straight));
    for (const release of overtaken) release();
  };
}
