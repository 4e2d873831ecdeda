import { isIP, isIPv4 } from 'node:net';

/** The gateway's settings. Every limit is per minute; 0 switches it off. */
export interface GatewayConfig {
  host: string;
  port: number;
  /** Addresses of the proxies whose X-Forwarded-For is trusted. */
  trustProxy: false | string;
  /** How long it answers on, not ready any more, before it stops listening. */
  stopDelayMs: number;
  rateLimits: { perLicenseKey: number; unknownKeysPerAddress: number; perApiKey: number };
}

/** In seconds: requests under way then have six more, webhooks in the same process three, and the process has fifteen in all. */
const mostStopDelay = 5;

export function gatewayConfig(env: NodeJS.ProcessEnv = process.env): GatewayConfig {
  return {
    host: env['HOST'] || '127.0.0.1',
    port: whole(env, 'PORT', 3000),
    trustProxy: trustedProxies(env['KEYLEDGER_TRUST_PROXY']),
    stopDelayMs: whole(env, 'KEYLEDGER_STOP_DELAY', 0, mostStopDelay) * 1_000,
    rateLimits: {
      perLicenseKey: whole(env, 'KEYLEDGER_RATE_LIMIT_PER_KEY', 600),
      unknownKeysPerAddress: whole(env, 'KEYLEDGER_RATE_LIMIT_UNKNOWN_KEYS', 30),
      perApiKey: whole(env, 'KEYLEDGER_RATE_LIMIT_PER_API_KEY', 6000),
    },
  };
}

/** Addresses or networks, `10.0.0.5,fd00::/8`; `true` means any private one. Never every address, or a caller could choose its own. */
function trustedProxies(text = 'false'): GatewayConfig['trustProxy'] {
  if (text === '' || text === 'false') return false;
  if (text === 'true') return namedNetworks.join();
  if (!text.split(',').every((one) => isNetwork(one.trim()))) throw new Error(`KEYLEDGER_TRUST_PROXY must be addresses or networks like 10.0.0.5,fd00::/8, or true or false, not "${text}"`);
  return text;
}

const namedNetworks = ['loopback', 'linklocal', 'uniquelocal'];

/** What Fastify accepts: an address, optionally with a prefix length or a mask. */
function isNetwork(text: string): boolean {
  const [, address = '', prefix] = /^([^/]*)(?:\/(.*))?$/.exec(text) ?? [];
  if (isIP(address) === 0) return namedNetworks.includes(text);
  return prefix === undefined || (isIPv4(address) && isMask(prefix)) || (/^[1-9]\d{0,2}$/.test(prefix) && Number(prefix) <= (isIPv4(address) ? 32 : 128));
}

const isMask = (text: string): boolean => isIPv4(text) && /^1+0*$/.test(text.split('.').map((part) => Number(part).toString(2).padStart(8, '0')).join(''));

function whole(env: NodeJS.ProcessEnv, name: string, fallback: number, most = Infinity): number {
  const text = env[name];
  if (text === undefined || text === '') return fallback;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0 || value > most) throw new Error(`${name} must be a whole number ${most === Infinity ? 'of at least 0' : `from 0 to ${most}`}, not "${text}"`);
  return value;
}
