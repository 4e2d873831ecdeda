import { isIPv4 } from 'node:net';
import { Refusal, refuse } from '@keyledger/kernel';
import type { FastifyReply } from 'fastify';
import { LRUCache } from 'lru-cache';
import type { GatewayConfig } from './config.ts';

const minute = 60_000;
const hour = 60 * minute;
/** Callers that one limit remembers. Beyond that, those not seen for the longest start afresh: memory stays bounded even if an attacker makes up callers. */
const remembered = 50_000;

type Reply = Pick<FastifyReply, 'getHeader' | 'header'>;

/** `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers): an item per limit that counted the request. */
class Announced {
  readonly #policy: string;

  constructor(private readonly name: string, quota: number) {
    this.#policy = `"${name}";q=${quota};w=${minute / 1000}`;
  }

  on(reply: Reply, left: number, seconds: number): void {
    add(reply, 'RateLimit-Policy', this.#policy);
    add(reply, 'RateLimit', `"${this.name}";r=${Math.max(0, left)};t=${seconds}`);
  }
}

function add(reply: Reply, header: string, item: string): void {
  const items = reply.getHeader(header);
  reply.header(header, items === undefined ? item : `${String(items)}, ${item}`);
}

const tooMany = (seconds: number) => refuse('RATE_LIMITED', `Try again in ${seconds} s`, { retryAfter: seconds });
const secondsTo = (end: number, now: number): number => Math.max(1, Math.ceil((end - now) / 1000));

interface Window {
  used: number;
  endsAt: number;
}

/** Requests a minute for each caller; 0 means no limit. */
export class Limit {
  readonly #windows = new LRUCache<string, Window>({ maxSize: remembered, sizeCalculation: () => 1 });
  readonly #announced: Announced;

  constructor(name: string, private readonly quota: number) {
    this.#announced = new Announced(name, quota);
  }

  /** Throws RATE_LIMITED. */
  take(caller: string, reply: Reply): void {
    if (this.quota === 0) return;
    const now = performance.now();
    let window = this.#windows.peek(caller);
    if (!window || window.endsAt <= now) this.#windows.set(caller, (window = { used: 0, endsAt: now + minute }));
    window.used += 1;
    // To note every request as the latest costs more than it tells.
    if (window.used % 16 === 0) this.#windows.get(caller);
    const seconds = secondsTo(window.endsAt, now);
    this.#announced.on(reply, this.quota - window.used, seconds);
    if (window.used > this.quota) throw tooMany(seconds);
  }
}

interface Suspect extends Window {
  shutUntil: number;
  times: number;
}

/** Look-ups of credentials that an address has not proven, and requests that wait for their outcome. */
interface Asking {
  count: number;
  waiting: Set<Waiter>;
}
interface Waiter {
  readonly pair: string;
  go(): void;
}
/** As long as a request waits for a service that does not answer. Letting all requests in after that would let in an attacker who made them wait. */
const waitAtMostMs = 2_000;
const nothing = () => undefined;

/**
 * Against guessing: an address that has sent too many wrong credentials within a minute is shut out for a minute, and each further time for twice
 * as long, up to an hour; a day later that is forgotten. Credentials it has used successfully keep working, so a client is not locked out by a
 * neighbour behind the same address. Of all others, no more are looked up at once than may still be wrong: a thousand guesses sent together are
 * counted like guesses sent one by one, while a thousand good credentials all get through.
 */
export class Guesses {
  readonly #suspects = new LRUCache<string, Suspect>({ maxSize: remembered, sizeCalculation: () => 1 });
  readonly #proven = new LRUCache<string, true>({ maxSize: remembered, sizeCalculation: () => 1 });
  readonly #asking = new Map<string, Asking>();

  readonly #announced: Announced;

  constructor(name: string, private readonly quota: number) {
    this.#announced = new Announced(name, quota);
  }

  /** Throws RATE_LIMITED while the address is shut out, except for a credential that it has proven. */
  admit(address: string, credential: string, reply: Reply): void {
    if (this.#suspects.size === 0) return;
    const from = network(address);
    const now = performance.now();
    const { shutUntil = 0 } = this.#suspects.peek(from) ?? {};
    if (shutUntil <= now || this.#proven.has(`${from} ${credential}`)) return;
    const seconds = secondsTo(shutUntil, now);
    this.#announced.on(reply, 0, seconds);
    throw tooMany(seconds);
  }

  /** `look` says when the credential was right, and has told `wrong` before it ends. */
  inTurn<T>(address: string, credential: string, reply: Reply, look: (right: () => void) => Promise<T>): Promise<T> {
    if (this.quota === 0) return look(nothing);
    const from = network(address);
    const pair = `${from} ${credential}`;
    if (this.#proven.has(pair)) return look(nothing);
    return this.#takingTurns(from, pair, (asking) => {
      this.admit(address, credential, reply);
      return look(() => {
        this.#proven.set(pair, true);
        for (const waiter of asking.waiting) if (waiter.pair === pair) waiter.go();
      });
    });
  }

  /** The credential was right, which turned out without a look-up. */
  prove(address: string, credential: string): void {
    if (this.quota > 0) this.#proven.set(`${network(address)} ${credential}`, true);
  }

  async #takingTurns<T>(from: string, pair: string, look: (asking: Asking) => Promise<T>): Promise<T> {
    let asking = this.#asking.get(from);
    if (!asking) this.#asking.set(from, (asking = { count: 0, waiting: new Set() }));
    if (asking.count >= this.#mayBeWrong(from)) await turnOf(asking, pair);
    else asking.count += 1;
    try {
      return await look(asking);
    } finally {
      asking.count -= 1;
      for (const { go } of asking.waiting) {
        if (asking.count >= this.#mayBeWrong(from)) break;
        go();
      }
      if (asking.count === 0) this.#asking.delete(from);
    }
  }

  /** How many more wrong credentials shut the address out. While it is shut out there is nothing to wait for: every request is refused at once. */
  #mayBeWrong(from: string): number {
    const now = performance.now();
    const suspect = this.#suspects.peek(from);
    return !suspect || suspect.endsAt <= now || suspect.shutUntil > now ? this.quota : this.quota - suspect.used;
  }

  wrong(address: string, credential: string, reply: Reply): void {
    if (this.quota === 0) return;
    const from = network(address);
    const now = performance.now();
    let suspect = this.#suspects.get(from);
    if (!suspect || suspect.shutUntil + 24 * hour < now) this.#suspects.set(from, (suspect = { used: 0, endsAt: now + minute, shutUntil: now, times: 0 }));
    if (suspect.endsAt <= now) Object.assign(suspect, { used: 0, endsAt: now + minute });
    this.#proven.delete(`${from} ${credential}`);
    suspect.used += 1;
    const left = this.quota - suspect.used;
    if (left <= 0 && suspect.shutUntil <= now) {
      suspect.shutUntil = now + Math.min(minute * 2 ** suspect.times, hour);
      suspect.times += 1;
      suspect.used = 0;
      suspect.endsAt = suspect.shutUntil;
    }
    this.#announced.on(reply, left, secondsTo(suspect.endsAt, now));
  }
}

function turnOf(asking: Asking, pair: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      if (asking.waiting.delete(waiter)) reject(refuse('UNAVAILABLE', 'Too many other API keys from this address are being looked up; try again'));
    }, waitAtMostMs).unref();
    const waiter: Waiter = {
      pair,
      go() {
        if (!asking.waiting.delete(waiter)) return;
        clearTimeout(late);
        asking.count += 1;
        resolve();
      },
    };
    asking.waiting.add(waiter);
  });
}

/** Only IPv6 has two colons; `isIPv6` would take as long as the rest of a limit. */
const v6 = /^[\da-f]{0,4}:[\da-f]{0,4}:[\da-f:.]{0,40}(?:%\w*)?$/i;
const withPort = /^(?:\[([^\]]*)\]|([^:]*))(?::\d+)?$/;

/**
 * What counts as one address: for IPv6 a /64, which is what a customer owns. Some proxies append the port, which differs for each connection.
 * Everything that is not an address counts as one.
 */
export function network(written: string): string {
  if (isIPv4(written)) return written;
  if (!v6.test(written)) {
    const [, inBrackets, v4 = ''] = withPort.exec(written) ?? [];
    if (inBrackets !== undefined) return network(inBrackets);
    return isIPv4(v4) ? v4 : '';
  }
  if (written.startsWith('::ffff:')) return network(written.slice('::ffff:'.length)) || written;
  const [head = [], tail = []] = written.split('::').map((part) => part.split(':').filter(Boolean));
  const zeros = Array<string>(Math.max(0, 8 - head.length - tail.length)).fill('0');
  return [...head, ...zeros, ...tail].slice(0, 4).join(':');
}

export class RateLimits {
  readonly licenseKeys: Limit;
  readonly apiKeys: Limit;
  readonly unknownLicenseKeys: Guesses;
  /** API keys are too long to be guessed: this bounds what the attempts cost the server. */
  readonly unknownApiKeys: Guesses;

  /** `guessed` is called for each unknown key, with the network it came from. */
  constructor({ perLicenseKey, perApiKey, unknownKeysPerAddress }: GatewayConfig['rateLimits'], private readonly guessed: (address: string) => void = () => undefined) {
    this.licenseKeys = new Limit('license-key', perLicenseKey);
    this.apiKeys = new Limit('api-key', perApiKey);
    this.unknownLicenseKeys = new Guesses('unknown-license-keys', unknownKeysPerAddress);
    this.unknownApiKeys = new Guesses('unknown-api-keys', perApiKey);
  }

  /** Whether the key is a license's, so that guesses are counted. A key that was a license's until it was regenerated is not a guess. */
  watching<T>(address: string, licenseKey: string, reply: Reply, work: () => Promise<T>): Promise<T> {
    return this.unknownLicenseKeys.inTurn(address, licenseKey, reply, async (right) => {
      try {
        const answer = await work();
        right();
        return answer;
      } catch (error) {
        if (error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND' && !error.members['retired']) this.wrongLicenseKey(address, licenseKey, reply);
        throw error;
      }
    });
  }

  wrongLicenseKey(address: string, licenseKey: string, reply: Reply): void {
    this.guessed(network(address));
    this.unknownLicenseKeys.wrong(address, licenseKey, reply);
  }
}
