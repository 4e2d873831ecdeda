import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, it } from '@jest/globals';
import { agentConfig, withFlags } from './config.ts';

const folder = mkdtempSync(join(tmpdir(), 'keyledger-agent-config-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

const x = 'iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w';
const jwk = { kty: 'OKP', crv: 'Ed25519', x };
const pem = `-----BEGIN PUBLIC KEY-----\n${Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), Buffer.from(x, 'base64url')]).toString('base64')}\n-----END PUBLIC KEY-----`;
const least = { KEYLEDGER_ROOT_PUBLIC_KEY: JSON.stringify(jwk) };

describe('The configuration', () => {
  it('needs a root, and has a default for everything else', () => {
    expect(agentConfig(least)).toEqual({
      host: '127.0.0.1', port: 7443, token: undefined, viewerToken: undefined, dataDir: resolve('agent-data'), tls: undefined, server: undefined, environment: 'production', roots: [jwk], licenseKey: undefined, licenseFile: undefined,
      machineId: undefined, deploymentId: undefined, deploymentMode: undefined, product: undefined, mode: 'heartbeat', heartbeatMs: undefined, filePollMs: 5_000, offlineGraceDays: undefined, proxy: undefined, logLevel: 'info', productName: 'API Platform', style: '',
    });
  });

  it.each([['a JWK', JSON.stringify(jwk)], ['what the server shows', JSON.stringify({ environment: 'production', roots: [jwk] })], ['PEM', pem], ['PEM in one line', pem.replaceAll('\n', '\\n')]])('pins a root that is given as %s', (_name, text) => {
    expect(agentConfig({ KEYLEDGER_ROOT_PUBLIC_KEY: text }).roots).toEqual([jwk]);
  });

  it('takes every value from a file as well, without the line end, but not from both', () => {
    const secrets = { AGENT_TOKEN_FILE: file('token', 'secret-token\n'), LICENSE_KEY_FILE: file('key', 'KEY-1\r\n'), KEYLEDGER_ROOT_PUBLIC_KEY_FILE: file('root', `${pem}\n`), HTTPS_PROXY_FILE: file('proxy', 'http://user:pass@proxy:3128\n') };
    expect(agentConfig({ ...secrets, KEYLEDGER_SERVER_URL: 'https://licenses.example/', NO_PROXY: 'localhost' })).toMatchObject({
      token: 'secret-token', licenseKey: 'KEY-1', roots: [jwk], server: 'https://licenses.example', proxy: { url: 'http://user:pass@proxy:3128', except: 'localhost' },
    });
    expect(() => agentConfig({ ...least, AGENT_TOKEN: 'a', AGENT_TOKEN_FILE: secrets.AGENT_TOKEN_FILE })).toThrow('Set AGENT_TOKEN or AGENT_TOKEN_FILE, not both');
  });

  it.each([
    [{}, 'KEYLEDGER_ROOT_PUBLIC_KEY must be set'], [{ KEYLEDGER_ROOT_PUBLIC_KEY: 'nonsense' }, 'KEYLEDGER_ROOT_PUBLIC_KEY must be an Ed25519 public key'],
    [{ ...least, AGENT_HOST: '0.0.0.0' }, 'AGENT_HOST is 0.0.0.0, which others can reach: set AGENT_TLS_CERT and AGENT_TLS_KEY'], [{ ...least, AGENT_HOST: '192.168.1.2' }, 'AGENT_HOST'], [{ ...least, AGENT_HOST: '127.example.com' }, 'AGENT_HOST'],
    [{ ...least, AGENT_TLS_CERT: '-----BEGIN CERTIFICATE-----' }, 'AGENT_TLS_KEY is missing'], [{ ...least, AGENT_TLS_CERT: '/nowhere', AGENT_TLS_KEY: '/nowhere' }, 'AGENT_TLS_CERT: /nowhere cannot be read (ENOENT)'],
    [{ ...least, AGENT_PORT: '70000' }, 'AGENT_PORT must be a port number, not "70000"'], [{ ...least, AGENT_PORT: '7e3' }, 'AGENT_PORT'], [{ ...least, AGENT_TOKEN: 'two words' }, 'AGENT_TOKEN'], [{ ...least, AGENT_VIEWER_TOKEN: 'two words' }, 'AGENT_VIEWER_TOKEN must be'], [{ ...least, AGENT_TOKEN: 'same', AGENT_VIEWER_TOKEN: 'same' }, 'AGENT_VIEWER_TOKEN must be another one'],
    [{ ...least, AGENT_TOKEN_FILE: '/nowhere' }, 'AGENT_TOKEN_FILE: /nowhere cannot be read'], [{ ...least, AGENT_TOKEN_FILE: file('empty', ' \n') }, 'is empty'],
    [{ ...least, KEYLEDGER_SERVER_URL: 'licenses.example' }, 'KEYLEDGER_SERVER_URL must be a URL'], [{ ...least, HTTPS_PROXY: 'socks5://user:hidden@proxy' }, 'HTTPS_PROXY must be a URL'],
    [{ ...least, LICENSE_KEY: 'KEY-1' }, 'KEYLEDGER_SERVER_URL must be set'], [{ ...least, LOG_LEVEL: 'loud' }, 'LOG_LEVEL must be one of'],
    [{ ...least, LICENSE_MODE: 'sometimes' }, 'LICENSE_MODE must be one of heartbeat, online, offline'], [{ ...least, LICENSE_MODE: 'offline', LICENSE_KEY: 'KEY-1', KEYLEDGER_SERVER_URL: 'https://a' }, 'LICENSE_MODE is offline'],
    [{ ...least, LICENSE_HEARTBEAT_INTERVAL: '5s' }, 'LICENSE_HEARTBEAT_INTERVAL must be a time from 10s to 1d'], [{ ...least, LICENSE_HEARTBEAT_INTERVAL: '2d' }, 'LICENSE_HEARTBEAT_INTERVAL'], [{ ...least, LICENSE_FILE_POLL_INTERVAL: 'soon' }, 'LICENSE_FILE_POLL_INTERVAL'],
    [{ ...least, LICENSE_FILE_POLL_INTERVAL: '0' }, 'LICENSE_FILE_POLL_INTERVAL'], [{ ...least, LICENSE_OFFLINE_GRACE_DAYS: '-1' }, 'LICENSE_OFFLINE_GRACE_DAYS must be a whole number of days'],
  ])('names what is wrong: %#', (env, why) => {
    expect(() => agentConfig(env)).toThrow(why);
  });

  it('takes times with their unit, seconds without', () => {
    expect(agentConfig({ ...least, LICENSE_HEARTBEAT_INTERVAL: '10m', LICENSE_FILE_POLL_INTERVAL: '30', LICENSE_OFFLINE_GRACE_DAYS: '3', LICENSE_MODE: 'online', LICENSE_PRODUCT_ID: 'prd_1' }))
      .toMatchObject({ heartbeatMs: 600_000, filePollMs: 30_000, offlineGraceDays: 3, mode: 'online', product: 'prd_1' });
    expect(agentConfig({ ...least, LICENSE_MODE: 'offline', KEYLEDGER_SERVER_URL: 'https://licenses.example' })).toMatchObject({ server: undefined });
  });

  it('takes flags before the environment, whichever way that says it, and no secret but by its file', () => {
    const env = { ...least, AGENT_PORT: '1', LICENSE_FILE_PATH_FILE: '/nowhere', LICENSE_KEY: 'FROM-ENV', KEYLEDGER_SERVER_URL: 'https://licenses.example' };
    const args = ['--agent-port', '7000', '--license-file-path=/a/b', '--license-key-file', file('flag-key', 'FROM-FILE')];
    expect(agentConfig(withFlags(args, env))).toMatchObject({ port: 7000, licenseFile: '/a/b', licenseKey: 'FROM-FILE' });
    expect(agentConfig(withFlags([], { ...least, AGENT_PORT: '1' })).port).toBe(1);
    for (const bad of [['--license-key', 'SECRET'], ['--agent-token=SECRET'], ['--no-such-thing', 'a'], ['--agent-port'], ['stray']]) {
      expect(() => withFlags(bad, least)).toThrow(expect.objectContaining({ name: 'BadConfig' }));
      expect(() => withFlags(bad, least)).not.toThrow(/SECRET/);
    }
  });

  it('says which folder it is once and for all, though no shell has looked at the flag', () => {
    const dataDirOf = (folder: string) => agentConfig(withFlags([`--agent-data-dir=${folder}`], least)).dataDir;
    expect(['~/agent-data', '~', './~/agent-data', '~data', '/var/lib/agent/'].map(dataDirOf)).toEqual([join(homedir(), 'agent-data'), homedir(), resolve('~', 'agent-data'), resolve('~data'), '/var/lib/agent']);
  });

  it('has a flag for whatever it looks at', () => {
    const names = new Set<string>();
    agentConfig(new Proxy<NodeJS.ProcessEnv>({ ...least }, { get: (env, name) => (names.add(String(name)), env[String(name)]) }));
    expect(names.size).toBeGreaterThan(40);
    for (const name of names) if (name.endsWith('_FILE')) expect(withFlags([`--${name.toLowerCase().replaceAll('_', '-')}`, '/x'], {})).toMatchObject({ [name]: '/x' });
  });

  it('repeats no secret in what it says', () => {
    for (const env of [{ HTTPS_PROXY: 'socks5://user:hidden@proxy' }, { AGENT_TOKEN: 'hidden hidden' }, { KEYLEDGER_SERVER_URL: 'https://user:hidden@licenses.example' }, { KEYLEDGER_SERVER_URL: 'https://hidden@licenses.example' }]) {
      expect(() => agentConfig({ ...least, ...env })).toThrow(/^(?!.*hidden)/);
    }
  });

  it('listens where only this machine can ask, or with TLS', () => {
    for (const AGENT_HOST of ['127.0.0.1', '127.1.2.3', 'localhost', '::1']) expect(agentConfig({ ...least, AGENT_HOST }).host).toBe(AGENT_HOST);
    const [cert, key] = ['-----BEGIN CERTIFICATE-----\nA', '-----BEGIN PRIVATE KEY-----\nB'];
    expect(agentConfig({ ...least, AGENT_HOST: '0.0.0.0', AGENT_TLS_CERT: file('cert', cert), AGENT_TLS_KEY: key })).toMatchObject({ host: '0.0.0.0', tls: { cert, key } });
  });
});
