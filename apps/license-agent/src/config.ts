import { readFileSync } from 'node:fs';
import { readPublicKeys } from '@keyledger/sdk';

/** What the agent can be told from outside. A wrong variable is named, with what it should be, and nothing is started. */
export interface AgentConfig {
  readonly host: string;
  readonly port: number;
  /** Undefined: made at the first start, and kept in the data directory. */
  readonly token: string | undefined;
  readonly dataDir: string;
  /** PEM. */
  readonly tls: { readonly cert: string; readonly key: string } | undefined;
  /** Undefined: nobody is asked, the license comes as a file. */
  readonly server: string | undefined;
  readonly environment: string;
  /** Public JWKs of the pinned offline root. */
  readonly roots: readonly unknown[];
  readonly licenseKey: string | undefined;
  readonly licenseFile: string | undefined;
  readonly machineId: string | undefined;
  readonly deploymentId: string | undefined;
  readonly deploymentMode: string | undefined;
  readonly proxy: { readonly url: string; readonly except: string } | undefined;
  /** What the page says that it manages the license of, and CSS of the host that follows the page's own. */
  readonly productName: string;
  readonly style: string;
  readonly logLevel: (typeof levels)[number];
}

const levels = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;

export class BadConfig extends Error {
  override readonly name = 'BadConfig';
}

export function agentConfig(env: NodeJS.ProcessEnv = process.env): AgentConfig {
  const given = (name: string) => valueOf(env, name);
  const host = given('AGENT_HOST') ?? '127.0.0.1';
  const tls = tlsOf(given('AGENT_TLS_CERT'), given('AGENT_TLS_KEY'));
  if (!tls && !isLoopback(host)) throw new BadConfig(`AGENT_HOST is ${host}, which others can reach: set AGENT_TLS_CERT and AGENT_TLS_KEY, or 127.0.0.1`);
  const logLevel = levels.find((level) => level === (given('LOG_LEVEL') ?? 'info'));
  if (!logLevel) throw new BadConfig(`LOG_LEVEL must be one of ${levels.join(', ')}`);
  const token = given('AGENT_TOKEN');
  if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) throw new BadConfig('AGENT_TOKEN must be of printable letters without blanks');
  const licenseKey = given('LICENSE_KEY');
  const server = urlOf('KEYLEDGER_SERVER_URL', given('KEYLEDGER_SERVER_URL'));
  if (licenseKey !== undefined && server === undefined) throw new BadConfig('KEYLEDGER_SERVER_URL must be set: LICENSE_KEY is good for nothing without a server');
  const proxy = urlOf('HTTPS_PROXY', given('HTTPS_PROXY'));
  return {
    host, port: portOf(given('AGENT_PORT') ?? '7443'), token, dataDir: given('AGENT_DATA_DIR') ?? './agent-data', tls, server,
    environment: given('KEYLEDGER_ENVIRONMENT') ?? 'production', roots: rootsOf(given('KEYLEDGER_ROOT_PUBLIC_KEY')),
    licenseKey, licenseFile: given('LICENSE_FILE_PATH'), machineId: given('LICENSE_MACHINE_ID'),
    deploymentId: given('LICENSE_DEPLOYMENT_ID'), deploymentMode: given('LICENSE_DEPLOYMENT_MODE'),
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

export const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);

/** Each is a path, or the PEM itself. */
function tlsOf(cert: string | undefined, key: string | undefined): AgentConfig['tls'] {
  if (cert === undefined && key === undefined) return undefined;
  if (cert === undefined || key === undefined) throw new BadConfig(`${cert === undefined ? 'AGENT_TLS_CERT' : 'AGENT_TLS_KEY'} is missing: certificate and key belong together`);
  const pem = (name: string, value: string) => (value.startsWith('-----BEGIN') ? value : fileOf(name, value));
  return { cert: pem('AGENT_TLS_CERT', cert), key: pem('AGENT_TLS_KEY', key) };
}

function portOf(text: string): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port > 65_535) throw new BadConfig(`AGENT_PORT must be a port number, not "${text}"`);
  return port;
}

/** Not repeated in the message: a proxy's may have a password in it. */
function urlOf(name: string, text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) throw new BadConfig(`${name} must be a URL that begins with https:// or http://`);
  return text.replace(/\/+$/, '');
}

function rootsOf(text: string | undefined): readonly unknown[] {
  if (text === undefined) throw new BadConfig('KEYLEDGER_ROOT_PUBLIC_KEY must be set: the public key (JWK or PEM) of the offline root of whoever sells the license');
  // In a variable, lines of PEM are often joined by a backslash and an n.
  const read = readPublicKeys(text.startsWith('-----BEGIN') ? text.replaceAll('\\n', '\n') : text);
  if (!read.ok) throw new BadConfig('KEYLEDGER_ROOT_PUBLIC_KEY must be an Ed25519 public key, as JWK or PEM');
  return read.jwks;
}
