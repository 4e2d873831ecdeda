import { lookup as systemLookup, type LookupAddress } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { malformed, refuse } from '@keyledger/kernel';

/** The only way out to addresses chosen by users. Whatever a name resolves to, and however an address is spelled: nothing connects to one that is not public. */

/** All of an IPv4 address space that is not the public internet (IANA's special-purpose registry), and Azure's host, which only looks public. */
const specialV4 = blockList('ipv4', [
  '0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '192.0.0.0/24', '192.0.2.0/24', '192.31.196.0/24', '192.52.193.0/24', '192.88.99.0/24',
  '192.168.0.0/16', '192.175.48.0/24', '198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24', '224.0.0.0/4', '240.0.0.0/4', '168.63.129.16/32',
]);
/** Of IPv6 only 2000::/3 is public: neither mapped nor translated IPv4 (::ffff:0:0/96, 64:ff9b::/96), nor local addresses are in it. */
const publicV6 = blockList('ipv6', ['2000::/3']);
/** Except Teredo and other protocol ranges, documentation, and 6to4, which carries an IPv4 address. */
const specialV6 = blockList('ipv6', ['2001::/23', '2001:db8::/32', '2002::/16', '2620:4f:8000::/48', '3fff::/20']);

function blockList(family: 'ipv4' | 'ipv6', networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const network of networks) {
    const [address, bits] = network.split('/') as [string, string];
    list.addSubnet(address, Number(bits), family);
  }
  return list;
}

/** Whether an address, in any spelling that the system would connect to, is on the public internet. */
export function isPublicAddress(address: string): boolean {
  const bare = address.replace(/^\[|\]$/g, '');
  switch (isIP(bare)) {
    case 4: return !specialV4.check(bare, 'ipv4');
    case 6: return !bare.includes('%') && publicV6.check(bare, 'ipv6') && !specialV6.check(bare, 'ipv6');
    default: return false;
  }
}

/** How an endpoint answered, or why it did not. */
export interface Answer {
  readonly status: number | null;
  /** The first 2 KB. */
  readonly text: string | null;
  readonly error: string | null;
  /** Another attempt would get the same answer. */
  readonly isFinal?: boolean;
}

export interface EgressOptions {
  readonly allowPrivate: boolean;
  /** For specs: resolves names. */
  readonly lookup?: typeof systemLookup;
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 15_000;
const READ_BYTES = 2_048;
/** A request that registers an address does not wait longer for its name to resolve; the name is resolved again at each connection. */
const RESOLVE_MS = 2_000;

class NotPublic extends Error {
  readonly code = 'NOT_PUBLIC';
  constructor() {
    super('The address is not on the public internet');
  }
}

export class Egress {
  readonly #allowPrivate: boolean;
  readonly #lookup: typeof systemLookup;
  readonly #timeoutMs: number;
  #client: ReturnType<Egress['connect']> | undefined;

  constructor({ allowPrivate, lookup = systemLookup, timeoutMs = TIMEOUT_MS }: EgressOptions) {
    this.#allowPrivate = allowPrivate;
    this.#lookup = lookup;
    this.#timeoutMs = timeoutMs;
  }

  /** Refuses with VALIDATION_FAILED what is not a URL, and with WEBHOOK_URL_REFUSED and the reason a URL to which nothing would be sent. */
  async mustBeAllowed(text: string): Promise<void> {
    if (!URL.canParse(text)) throw malformed('url', 'is not a URL');
    const reason = this.#refusalOf(text) ?? (await this.#refusalByName(text));
    if (reason) throw refuse('WEBHOOK_URL_REFUSED', reason);
  }

  /** Rejects only when `signal` is aborted. Redirects are not followed. */
  async post(url: string, headers: Readonly<Record<string, string>>, body: string, signal: AbortSignal): Promise<Answer> {
    const reason = this.#refusalOf(url);
    if (reason) return { status: null, text: null, error: reason };
    const { agent, request } = await (this.#client ??= this.connect());
    const limited = AbortSignal.any([signal, AbortSignal.timeout(this.#timeoutMs)]);
    try {
      const response = await request(url, { method: 'POST', headers: { ...headers }, body, dispatcher: agent, signal: limited });
      return { status: response.statusCode, text: await beginningOf(response.body), error: null };
    } catch (error) {
      signal.throwIfAborted();
      return { status: null, text: null, error: limited.aborted ? `no answer within ${this.#timeoutMs / 1000} s` : wordsFor(error) };
    }
  }

  async close(): Promise<void> {
    await (await this.#client)?.agent.destroy();
  }

  /** With the first message: not every installation has webhooks, and undici would add a hundred modules to each start. */
  private async connect() {
    const { Agent, buildConnector, request } = await import('undici');
    // A host that is an address is never resolved: hence the check before each connection, too.
    const connect = buildConnector({ lookup: this.#checkedLookup, timeout: this.#timeoutMs, allowH2: false });
    const agent = new Agent({
      connect: (options, callback) => (isIP(options.hostname.replace(/^\[|\]$/g, '')) && !this.#mayReach(options.hostname) ? callback(new NotPublic(), null) : connect(options, callback)),
      headersTimeout: this.#timeoutMs, bodyTimeout: this.#timeoutMs,
    });
    return { agent, request };
  }

  #mayReach(address: string): boolean {
    return this.#allowPrivate || isPublicAddress(address);
  }

  /** What can be checked without DNS. The URL parser has already normalised 127.1, 0x7f000001 and 017700000001. */
  #refusalOf(text: string): string | undefined {
    const url = URL.parse(text);
    if (!url) return 'It is not a URL';
    if (url.protocol !== 'https:' && !(url.protocol === 'http:' && this.#allowPrivate)) return this.#allowPrivate ? 'Only http and https are possible' : 'Only https is possible';
    if (url.username || url.password) return 'Credentials in a URL would be sent to whoever is there; use the secret to know the sender';
    if (this.#allowPrivate) return undefined;
    const host = url.hostname.replace(/\.$/, '');
    if (/(^|\.)localhost$/.test(host) || (isIP(host.replace(/^\[|\]$/g, '')) && !isPublicAddress(host))) return 'The address is of this machine or of a private network (KEYLEDGER_WEBHOOK_ALLOW_PRIVATE)';
    return undefined;
  }

  /** A name that does not resolve now may resolve later: that is no reason to refuse. */
  async #refusalByName(text: string): Promise<string | undefined> {
    const { hostname } = new URL(text);
    if (this.#allowPrivate || isIP(hostname.replace(/^\[|\]$/g, ''))) return undefined;
    const { promise, resolve } = Promise.withResolvers<readonly LookupAddress[]>();
    const timer = setTimeout(resolve, RESOLVE_MS, []);
    this.#lookup(hostname, { all: true }, (error, addresses) => resolve(error ? [] : addresses));
    const addresses = await promise;
    clearTimeout(timer);
    return addresses.every(({ address }) => isPublicAddress(address)) ? undefined : 'The host has an address of this machine or of a private network (KEYLEDGER_WEBHOOK_ALLOW_PRIVATE)';
  }

  /** If one address of a name is forbidden, its other addresses are not trusted either. */
  readonly #checkedLookup: LookupFunction = (hostname, options, callback) => {
    this.#lookup(hostname, { ...options, all: true }, (error, addresses) => {
      const refused = error ?? (addresses.every(({ address }) => this.#mayReach(address)) ? null : new NotPublic());
      const [first] = refused ? [] : addresses;
      if (refused || !first) return callback(refused ?? new NotPublic(), '', 0);
      if (options.all) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
  };
}

async function beginningOf(body: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    // Leaving the loop closes the connection.
    for await (const chunk of body) {
      chunks.push(chunk);
      if ((size += chunk.length) >= READ_BYTES) break;
    }
  } catch {
    // The status is what counts.
  }
  return Buffer.concat(chunks).subarray(0, READ_BYTES).toString().replaceAll('\0', '');
}

/** The error in words, without the address. */
function wordsFor(error: unknown): string {
  const { code, message } = error as { code?: string; message?: string };
  return (code === 'NOT_PUBLIC' ? message : undefined) ?? code ?? 'the connection failed';
}
