import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from '@jest/globals';
import { natsUsers } from '@keyledger/messaging';
import { describeWith } from '@keyledger/servers/contract';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const settings = natsUsers({ library: { reader: ['book.find'] }, vault: { library: ['vault.open'] } }, (user) => JSON.stringify(`password-of-${user}`));

/** A service that asks something as soon as it can, says what came of it, and runs until it is told to stop. */
const program = `
import { runIn, systemClock, systemContext } from './libs/kernel/src/index.ts';
import { runService, say } from './libs/process/src/index.ts';
await runService(process.env.SERVICE, async ({ messages }) => {
  const from = performance.now();
  const asked = runIn(systemContext('production', systemClock.now('production')), () => messages.send(class { static subject = 'vault.open'; }, {}));
  await asked.catch(({ code }) => say('asked: ' + code + ' ' + (performance.now() - from < 3000 ? 'soon' : 'late')));
  return {};
});`;

const children: ChildProcess[] = [];
afterAll(() => { for (const child of children) child.kill('SIGKILL'); });

/** All that it prints until it ends, or until a line that is waited for, upon which it is stopped. */
async function run(service: string, env: NodeJS.ProcessEnv, awaited?: string): Promise<{ readonly status: number | null; readonly said: string }> {
  const child = spawn(process.execPath, ['--no-warnings', '--conditions=@keyledger/source', '--import', './tools/swc-register.mjs', '--input-type=module', '--eval', program], {
    cwd: root, env: { PATH: process.env['PATH'], SERVICE: service, PORT: '0', OTEL_SDK_DISABLED: 'true', ...env },
  });
  children.push(child);
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => {
      said += data.toString();
      if (awaited !== undefined && said.includes(awaited)) child.kill('SIGTERM');
    });
  }
  const [status] = (await once(child, 'close')) as [number | null];
  return { status, said };
}

describe('A service as a process', () => {
  it('says in one line which setting is wrong', async () => {
    expect(await run('reader', { LOG_LEVEL: 'loud' })).toEqual({ status: 1, said: 'reader cannot start: LOG_LEVEL must be one of silent, fatal, error, warn, info, debug, trace\n' });
  });

  it('says whom it waits for, once at first, and not with which password', async () => {
    const unused = createServer().listen(0, '127.0.0.1');
    await once(unused, 'listening');
    const { port } = unused.address() as AddressInfo;
    unused.close();
    const child = run('reader', { NATS_URL: `nats://reader:password-of-reader@127.0.0.1:${port}` });
    setTimeout(() => children.at(-1)?.kill('SIGTERM'), 5_000);
    const { status, said } = await child;
    expect(said).toMatch(new RegExp(`^{"level":"warn".*"msg":"reader waits for NATS at 127.0.0.1:${port}: connection refused"}\n$`));
    expect(status).toBe(1);
  });
});

describeWith('nats', 'A service as a process on NATS', (server) => {
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-service-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const runAs = (service: string, user: string, awaited?: string) => {
    const file = join(folder, `${service}-${user}`);
    writeFileSync(file, `${server().url.replace('//', `//${user}:password-of-${user}@`)}\n`, { mode: 0o600 });
    return run(service, { NATS_URL_FILE: file }, awaited);
  };

  it('finds its address in a file, says loudly what it may not ask, is refused that soon, and goes on; it does not run where it may not listen', async () => {
    const [mute, deaf, unknown] = await Promise.all([runAs('reader', 'reader', ' is ready at '), runAs('library', 'reader'), runAs('reader', 'nobody')]);
    expect(mute).toEqual({ status: 0, said: expect.stringMatching(/"level":"error".*The NATS server does not let reader send to vault\.open"/) });
    expect(mute.said).toContain('asked: UNAVAILABLE soon\n');
    expect(deaf).toEqual({ status: 1, said: expect.stringMatching(/^The NATS server does not let library listen on _INBOX\.library\.\S+\n$/) });
    expect(unknown).toEqual({ status: 1, said: expect.stringMatching(/^reader cannot start: .*authorization violation/i) });
  });
}, { settings });
