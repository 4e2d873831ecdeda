import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { readPublicKeys } from '@keyledger/sdk';

/** The agent's settings. For a wrong variable, the error names it and what it should be, and the agent does not start. */
export interface AgentConfig {
  readonly host: string;
  readonly port: number;
  /** Undefined: made at the first start, and kept in the data directory. */
  readonly token: string | undefined;
  /** Sees everything, and changes nothing. Undefined: there is no viewer. */
  readonly viewerToken: string | undefined;
  /** Absolute. */
  readonly dataDir: string;
  /** PEM. */
  readonly tls: { readonly cert: string; readonly key: string } | undefined;
  /** Undefined: no server is asked, the license comes as a file. */
  readonly server: string | undefined;
  readonly environment: string;
  /** Public JWKs of the pinned offline root. */
  readonly roots: readonly unknown[];
  readonly licenseKey: string | undefined;
  readonly licenseFile: string | undefined;
  readonly machineId: string | undefined;
  readonly deploymentId: string | undefined;
  readonly deploymentMode: string | undefined;
  /** Id of the product that the license must be for. */
  readonly product: string | undefined;
  /** `online`: the server is asked, and heartbeats are sent only for licenses that need them. `offline`: no server is asked, even if one is set. */
  readonly mode: (typeof modes)[number];
  /** Undefined: as the license says. Can only make heartbeats more frequent. */
  readonly heartbeatMs: number | undefined;
  readonly filePollMs: number;
  /** Makes the signed offline grace shorter, never longer. */
  readonly offlineGraceDays: number | undefined;
  readonly proxy: { readonly url: string; readonly except: string } | undefined;
  /** The product the page names, and CSS of the host that follows the page's own. */
  readonly productName: string;
  readonly style: string;
  readonly logLevel: (typeof levels)[number];
}

const modes = ['heartbeat', 'online', 'offline'] as const;
const levels = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;

export class BadConfig extends Error {
  override readonly name = 'BadConfig';
}

/** Any user of the machine can read a command line: for these, flags only name the file. */
const secrets = ['AGENT_TOKEN', 'AGENT_VIEWER_TOKEN', 'AGENT_TLS_KEY', 'LICENSE_KEY', 'HTTPS_PROXY'];
const plain = [
  'AGENT_HOST', 'AGENT_PORT', 'AGENT_DATA_DIR', 'AGENT_TLS_CERT', 'AGENT_PRODUCT_NAME', 'AGENT_STYLE', 'KEYLEDGER_SERVER_URL', 'KEYLEDGER_ENVIRONMENT', 'KEYLEDGER_ROOT_PUBLIC_KEY', 'LICENSE_FILE_PATH', 'LICENSE_FILE_POLL_INTERVAL',
  'LICENSE_MACHINE_ID', 'LICENSE_DEPLOYMENT_ID', 'LICENSE_DEPLOYMENT_MODE', 'LICENSE_PRODUCT_ID', 'LICENSE_MODE', 'LICENSE_HEARTBEAT_INTERVAL', 'LICENSE_OFFLINE_GRACE_DAYS', 'NO_PROXY', 'LOG_LEVEL',
];
const flagOf = (name: string): string => name.toLowerCase().replaceAll('_', '-');

/** `--license-file-path /a/b` is LICENSE_FILE_PATH, and so on: flags override the environment. */
export function withFlags(args: readonly string[], env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const names = new Map([...plain, ...[...plain, ...secrets].map((name) => `${name}_FILE`)].map((name) => [flagOf(name), name]));
  try {
    const { values } = parseArgs({ args: [...args], options: Object.fromEntries([...names.keys()].map((flag) => [flag, { type: 'string' as const }])) });
    const given = Object.entries(values).flatMap(([flag, value]) => [[names.get(flag) ?? '', String(value)] as const]);
    // A flag replaces both variables of the setting.
    const others = given.flatMap(([name]) => [[`${name.replace(/_FILE$/, '')}`, undefined], [`${name.replace(/_FILE$/, '')}_FILE`, undefined]] as const);
    return { ...env, ...Object.fromEntries(others), ...Object.fromEntries(given) };
  } catch (error) {
    throw new BadConfig((error as Error).message);
  }
}

export function agentConfig(env: NodeJS.ProcessEnv = process.env): AgentConfig {
  const given = (name: string) => valueOf(env, name);
  const host = given('AGENT_HOST') ?? '127.0.0.1';
  const tls = tlsOf(given('AGENT_TLS_CERT'), given('AGENT_TLS_KEY'));
  if (!tls && !isLoopback(host)) throw new BadConfig(`AGENT_HOST is ${host}, which others can reach: set AGENT_TLS_CERT and AGENT_TLS_KEY, or 127.0.0.1`);
  const logLevel = oneOf(levels, 'LOG_LEVEL', given('LOG_LEVEL') ?? 'info');
  const mode = oneOf(modes, 'LICENSE_MODE', given('LICENSE_MODE') ?? 'heartbeat');
  const [token, viewerToken] = (['AGENT_TOKEN', 'AGENT_VIEWER_TOKEN'] as const).map((name) => {
    const value = given(name);
    if (value !== undefined && !/^[\x21-\x7e]+$/.test(value)) throw new BadConfig(`${name} must be of printable letters without blanks`);
    return value;
  });
  if (viewerToken !== undefined && viewerToken === token) throw new BadConfig('AGENT_VIEWER_TOKEN must be another one than AGENT_TOKEN');
  const licenseKey = given('LICENSE_KEY');
  if (licenseKey !== undefined && mode === 'offline') throw new BadConfig('LICENSE_MODE is offline: the license server is not asked, so LICENSE_KEY has no use');
  const url = urlOf('KEYLEDGER_SERVER_URL', given('KEYLEDGER_SERVER_URL'));
  // The log, the page and the answers show the URL.
  if (url !== undefined && (new URL(url).username || new URL(url).password)) throw new BadConfig('KEYLEDGER_SERVER_URL must have no user and no password in it');
  const server = mode === 'offline' ? undefined : url;
  if (licenseKey !== undefined && server === undefined) throw new BadConfig('KEYLEDGER_SERVER_URL must be set: LICENSE_KEY is good for nothing without a server');
  const proxy = urlOf('HTTPS_PROXY', given('HTTPS_PROXY'));
  return {
    host, port: portOf(given('AGENT_PORT') ?? '7443'), token, viewerToken, dataDir: folderOf(given('AGENT_DATA_DIR') ?? './agent-data'), tls, server,
    environment: given('KEYLEDGER_ENVIRONMENT') ?? 'production', roots: rootsOf(given('KEYLEDGER_ROOT_PUBLIC_KEY')),
    licenseKey, licenseFile: given('LICENSE_FILE_PATH'), machineId: given('LICENSE_MACHINE_ID'),
    deploymentId: given('LICENSE_DEPLOYMENT_ID'), deploymentMode: given('LICENSE_DEPLOYMENT_MODE'), product: given('LICENSE_PRODUCT_ID'), mode,
    heartbeatMs: msOf('LICENSE_HEARTBEAT_INTERVAL', given('LICENSE_HEARTBEAT_INTERVAL'), 10_000), filePollMs: msOf('LICENSE_FILE_POLL_INTERVAL', given('LICENSE_FILE_POLL_INTERVAL'), 1_000) ?? 5_000,
    offlineGraceDays: daysOf('LICENSE_OFFLINE_GRACE_DAYS', given('LICENSE_OFFLINE_GRACE_DAYS')),
    proxy: proxy === undefined ? undefined : { url: proxy, except: given('NO_PROXY') ?? '' }, productName: given('AGENT_PRODUCT_NAME') ?? 'API Platform',
    style: given('AGENT_STYLE') ?? '', logLevel,
  };
}

/** Every variable can name a file that has its value instead: secrets are mounted as files. An empty one is not set. */
function valueOf(env: NodeJS.ProcessEnv, name: string): string | undefined {
  const [value, path] = [env[name]?.trim() || undefined, env[`${name}_FILE`]?.trim() || undefined];
  if (path === undefined) return value;
  if (value !== undefined) throw new BadConfig(`Set ${name} or ${name}_FILE, not both`);
  const text = fileOf(`${name}_FILE`, path).trim();
  if (text === '') throw new BadConfig(`${name}_FILE: ${path} is empty`);
  return text;
}

function fileOf(name: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new BadConfig(`${name}: ${path} cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown error'})`);
  }
}

const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);

/** Each is a path, or the PEM itself. */
function tlsOf(cert: string | undefined, key: string | undefined): AgentConfig['tls'] {
  if (cert === undefined && key === undefined) return undefined;
  if (cert === undefined || key === undefined) throw new BadConfig(`${cert === undefined ? 'AGENT_TLS_CERT' : 'AGENT_TLS_KEY'} is missing: certificate and key belong together`);
  const pem = (name: string, value: string) => (value.startsWith('-----BEGIN') ? value : fileOf(name, value));
  return { cert: pem('AGENT_TLS_CERT', cert), key: pem('AGENT_TLS_KEY', key) };
}

/** Absolute, so the same for all its users. In a flag like `--agent-data-dir=~/agent` the shell does not expand `~`. */
const folderOf = (text: string): string => (/^~(\/|$)/.test(text) ? resolve(homedir(), text.slice(2)) : resolve(text));

function portOf(text: string): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port > 65_535) throw new BadConfig(`AGENT_PORT must be a port number, not "${text}"`);
  return port;
}

function oneOf<T extends string>(values: readonly T[], name: string, text: string): T {
  const value = values.find((one) => one === text);
  if (value === undefined) throw new BadConfig(`${name} must be one of ${values.join(', ')}`);
  return value;
}

const units: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `5s`, `10m`, `1h`, at most a day; a bare number is seconds. */
function msOf(name: string, text: string | undefined, leastMs: number): number | undefined {
  if (text === undefined) return undefined;
  const [, count = '', unit = 's'] = /^(\d+)([smhd])?$/.exec(text) ?? [];
  const ms = count === '' ? NaN : Number(count) * (units[unit] ?? NaN);
  if (!(ms >= leastMs && ms <= 86_400_000)) throw new BadConfig(`${name} must be a time from ${leastMs / 1000}s to 1d, like 30s or 2h, not "${text}"`);
  return ms;
}

function daysOf(name: string, text: string | undefined): number | undefined {
  if (text !== undefined && !/^\d{1,4}$/.test(text)) throw new BadConfig(`${name} must be a whole number of days, not "${text}"`);
  return text === undefined ? undefined : Number(text);
}

/** The message does not repeat the URL: it may contain a password. */
function urlOf(name: string, text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) throw new BadConfig(`${name} must be a URL that begins with https:// or http://`);
  return text.replace(/\/+$/, '');
}

function rootsOf(text: string | undefined): readonly unknown[] {
  if (text === undefined) throw new BadConfig('KEYLEDGER_ROOT_PUBLIC_KEY must be set: the public key (JWK or PEM) of the offline root of the vendor');
  // In a variable, lines of PEM are often joined by a backslash and an n.
  const read = readPublicKeys(text.startsWith('-----BEGIN') ? text.replaceAll('\\n', '\n') : text);
  if (!read.ok) throw new BadConfig('KEYLEDGER_ROOT_PUBLIC_KEY must be an Ed25519 public key, as JWK or PEM');
  return read.jwks;
}
