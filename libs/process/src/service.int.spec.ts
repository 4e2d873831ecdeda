import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from '@jest/globals';
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

describeWith('nats', 'A service as a process', (server) => {
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-service-'));
  const children: ChildProcess[] = [];
  afterAll(() => {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true });
  });

  /** All that it prints until it ends, or until a line that is waited for, upon which it is stopped. */
  async function run(service: string, user: string, awaited?: string): Promise<{ readonly status: number | null; readonly said: string }> {
    const file = join(folder, `${service}-${user}`);
    writeFileSync(file, `${server().url.replace('//', `//${user}:password-of-${user}@`)}\n`, { mode: 0o600 });
    const child = spawn(process.execPath, ['--no-warnings', '--conditions=@keyledger/source', '--import', './tools/swc-register.mjs', '--input-type=module', '--eval', program], {
      cwd: root, env: { PATH: process.env['PATH'], SERVICE: service, NATS_URL_FILE: file, PORT: '0', OTEL_SDK_DISABLED: 'true' },
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

  it('finds its address in a file, says loudly what it may not ask, is refused that soon, and goes on; it does not run where it may not listen', async () => {
    const [mute, deaf, unknown] = await Promise.all([run('reader', 'reader', ' is ready at '), run('library', 'reader'), run('reader', 'nobody')]);
    expect(mute).toEqual({ status: 0, said: expect.stringMatching(/"level":"error".*The NATS server does not let reader send to vault\.open"/) });
    expect(mute.said).toContain('asked: UNAVAILABLE soon\n');
    expect(deaf).toEqual({ status: 1, said: expect.stringMatching(/^The NATS server does not let library listen on _INBOX\.library\.\S+\n$/) });
    expect(unknown).toEqual({ status: 1, said: expect.stringMatching(/^reader cannot start: .*authorization violation/i) });
  });
}, { settings });
