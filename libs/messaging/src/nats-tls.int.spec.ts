import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { obtain, startNats, type RunningNats } from '@keyledger/servers';
import { NatsTransport } from './nats.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const launch = obtain('nats');
const missing = !launch || !('path' in launch) ? 'nats-server is' : spawnSync('openssl', ['version']).status === 0 ? undefined : 'openssl is';
if (missing) describe('NATS over TLS', () => it.skip(`${missing} not installed here: NOTHING of NATS over TLS was tested`, () => undefined));

(missing ? describe.skip : describe)('NATS over TLS', () => {
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-tls-'));
  const path = (name: string) => join(folder, name);
  const servers: RunningNats[] = [];
  const children: ChildProcess[] = [];
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  const newKey = (name: string) => ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', `${name}.key`, '-subj', `/CN=${name}`];

  /** A server whose certificate the authority has signed, for a name or an address. */
  async function serverFor(name: string, subject: string): Promise<RunningNats> {
    openssl('req', ...newKey(name), '-out', `${name}.csr`);
    writeFileSync(path(`${name}.ext`), `subjectAltName=${subject}\n`);
    openssl('x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '1', '-extfile', `${name}.ext`, '-out', `${name}.pem`);
    const server = await startNats({ settings: `tls { cert_file: "${path(`${name}.pem`)}", key_file: "${path(`${name}.key`)}" }\nauthorization { user: library, password: secret }` });
    servers.push(server);
    return server;
  }
  const urlOf = (server: RunningNats, scheme = 'tls') => server.url.replace('nats://', `${scheme}://library:secret@`);

  /** A process as an operator starts it, because Node reads the authorities at its start. */
  async function service(url: string): Promise<string> {
    const program = `import { NatsTransport } from './libs/messaging/src/nats.ts';
      const said = await NatsTransport.connect({ url: process.env.URL, name: 'library' }).then((transport) => transport.close().then(() => 'connected'), (error) => error.code ?? error.message);
      console.log(said);`;
    const child = spawn(process.execPath, ['--no-warnings', '--conditions=@keyledger/source', '--import', './tools/swc-register.mjs', '--input-type=module', '--eval', program], {
      cwd: root, env: { PATH: process.env['PATH'], URL: url, NODE_EXTRA_CA_CERTS: path('ca.pem') }, stdio: ['ignore', 'pipe', 'inherit'],
    });
    children.push(child);
    let said = '';
    child.stdout.on('data', (data: Buffer) => { said += data.toString(); });
    await once(child, 'close');
    return said.trim();
  }

  let trusted: RunningNats;
  beforeAll(async () => {
    openssl('req', '-x509', ...newKey('ca'), '-days', '1', '-out', 'ca.pem');
    trusted = await serverFor('server', 'DNS:localhost,IP:127.0.0.1');
  }, 60_000);
  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL');
    await Promise.all(servers.map((server) => server.stop()));
    rmSync(folder, { recursive: true });
  });

  it('connects to a server whose certificate an authority of ours has signed, and to none that has it for another name', async () => {
    const another = await serverFor('another', 'DNS:another.example.com');
    const [own, byName, other] = await Promise.all([service(urlOf(trusted)), service(urlOf(trusted).replace('127.0.0.1', 'localhost')), service(urlOf(another))]);
    expect({ own, byName, other }).toEqual({ own: 'connected', byName: 'connected', other: 'ERR_TLS_CERT_ALTNAME_INVALID' });
  });

  it.each(['tls', 'nats'])('refuses a server whose certificate nobody knows, and says so instead of waiting (%s)', async (scheme) => {
    await expect(NatsTransport.connect({ url: urlOf(trusted, scheme) })).rejects.toMatchObject({ code: expect.stringMatching(/SELF_SIGNED_CERT|UNABLE_TO_VERIFY/) });
  });

  it('refuses a server without a certificate, and tells it no password', async () => {
    const plain = await startNats();
    servers.push(plain);
    await expect(NatsTransport.connect({ url: plain.url.replace('nats:', 'tls:') })).rejects.toThrow(/tls/);
    await expect(NatsTransport.connect({ url: `${plain.url},${plain.url.replace('nats:', 'tls:')}` })).rejects.toThrow(/tls/);
  });
});
