import { refuse } from '@keyledger/kernel';
import type { FastifyReply } from 'fastify';
import { LRUCache } from 'lru-cache';
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible';
import type { GatewayConfig } from './config.ts';

const window = 60;

/** So many points a minute for each caller; announces itself in `RateLimit` and `RateLimit-Policy`. */
class Limit {
  readonly #name: string;
  readonly #points: number;
  readonly #limiter: RateLimiterMemory | undefined;

  constructor(name: string, points: number) {
    this.#name = name;
    this.#points = points;
    this.#limiter = points > 0 ? new RateLimiterMemory({ points, duration: window, keyPrefix: '' }) : undefined;
  }

  async take(caller: string, reply: FastifyReply): Promise<void> {
    if (!this.#limiter) return;
    try {
      this.#announce(await this.#limiter.consume(caller), reply);
    } catch (over) {
      if (!(over instanceof RateLimiterRes)) throw over;
      this.#announce(over, reply);
      throw tooMany(over.msBeforeNext / 1000);
    }
  }

  #announce({ remainingPoints, msBeforeNext }: RateLimiterRes, reply: FastifyReply): void {
    reply.header('RateLimit-Policy', `"${this.#name}";q=${this.#points};w=${window}`);
    reply.header('RateLimit', `"${this.#name}";r=${Math.max(0, remainingPoints)};t=${Math.ceil(msBeforeNext / 1000)}`);
  }
}

const tooMany = (seconds: number) => {
  const retryAfter = Math.max(1, Math.ceil(seconds));
  return refuse('RATE_LIMITED', `Try again in ${retryAfter} s`, { retryAfter });
};

/**
 * Against guessing: an address that keeps asking for keys that do not exist is shut out, twice as long each time.
 * Keys that it has used with success before go on working, so that a neighbour behind the same address is not locked out.
 */
class UnknownKeys {
  readonly #limiter: RateLimiterMemory | undefined;
  readonly #shut = new LRUCache<string, { until: number; times: number }>({ max: 50_000, ttl: 24 * 3_600_000 });
  readonly #proven = new LRUCache<string, true>({ max: 100_000 });

  constructor(points: number) {
    this.#limiter = points > 0 ? new RateLimiterMemory({ points, duration: window, keyPrefix: '' }) : undefined;
  }

  /** Throws RATE_LIMITED when the address is shut out and has not proven this key. */
  admit(address: string, licenseKey: string): void {
    if (this.#shut.size === 0) return;
    const shut = this.#shut.get(network(address));
    if (!shut || shut.until <= Date.now() || this.#proven.has(`${network(address)} ${licenseKey}`)) return;
    throw tooMany((shut.until - Date.now()) / 1000);
  }

  known(address: string, licenseKey: string): void {
    if (this.#limiter) this.#proven.set(`${network(address)} ${licenseKey}`, true);
  }

  async unknown(address: string): Promise<void> {
    if (!this.#limiter) return;
    const from = network(address);
    const { consumedPoints } = await this.#limiter.penalty(from, 1);
    if (consumedPoints <= this.#limiter.points) return;
    const times = (this.#shut.get(from)?.times ?? 0) + 1;
    this.#shut.set(from, { until: Date.now() + Math.min(window * 2 ** (times - 1), 3600) * 1000, times });
    await this.#limiter.delete(from);
  }
}

/** An IPv6 customer owns a /64, so that is what counts as one address. */
function network(address: string): string {
  if (!address.includes(':') || address.startsWith('::ffff:')) return address;
  const [head = [], tail = []] = address.split('::').map((part) => part.split(':').filter(Boolean));
  const zeros = Array<string>(Math.max(0, 8 - head.length - tail.length)).fill('0');
  return [...head, ...zeros, ...tail].slice(0, 4).join(':');
}

export class RateLimits {
  readonly licenseKeys: Limit;
  readonly apiKeys: Limit;
  readonly unknownKeys: UnknownKeys;

  constructor({ perLicenseKey, perApiKey, unknownKeysPerAddress }: GatewayConfig['rateLimits']) {
    this.licenseKeys = new Limit('license-key', perLicenseKey);
    this.apiKeys = new Limit('api-key', perApiKey);
    this.unknownKeys = new UnknownKeys(unknownKeysPerAddress);
  }
}
