import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

const root = fileURLToPath(new URL('../../../', import.meta.url));
/** Of an offline root; nobody has its private half. */
const rootKey = JSON.stringify({ kty: 'OKP', crv: 'Ed25519', x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo' });

describe('The package of the agent', () => {
  let folder: string;
  let target: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'keyledger-agent-package-'));
    target = join(folder, 'agent');
    execFileSync(process.execPath, [join(root, 'apps/license-agent/pack.mjs'), target]);
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it('runs anywhere with its registry dependencies alone, and serves its page', async () => {
    const { dependencies, bundleDependencies } = JSON.parse(readFileSync(join(target, 'package.json'), 'utf8')) as { dependencies: Record<string, string>; bundleDependencies: string[] };
    const fromRegistry = Object.keys(dependencies).filter((name) => !bundleDependencies.includes(name));
    for (const name of fromRegistry) symlinkSync(join(root, 'node_modules', name), join(target, 'node_modules', name));
    const agent = spawn(process.execPath, [join(target, 'dist/main.js')], {
      env: { PATH: process.env['PATH'], AGENT_PORT: '0', AGENT_DATA_DIR: join(folder, 'data'), KEYLEDGER_ROOT_PUBLIC_KEY: rootKey, KEYLEDGER_SERVER_URL: 'http://127.0.0.1:9', HTTPS_PROXY: 'http://127.0.0.1:9', LICENSE_MACHINE_ID: 'a machine' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = new Promise((resolve) => agent.once('exit', resolve));
    try {
      let url: string | undefined;
      for await (const line of createInterface(agent.stdout)) if ((url = /is ready at (\S+)/.exec(line)?.[1])) break;
      for (const path of ['/', '/health/live', '/main.js', '/page.css']) expect([path, (await fetch(`${url}${path}`)).status]).toEqual([path, 200]);
    } finally {
      agent.kill();
      await ended;
    }
  });

  it('has neither tests nor anything that signs in it', () => {
    const files = readdirSync(target, { recursive: true, encoding: 'utf8' });
    expect(files.length).toBeGreaterThan(50);
    expect(files.filter((file) => /spec|contract|(^|\/)sign\./.test(file))).toEqual([]);
  });

  it('takes the SDK along when npm packs it', () => {
    const [packed] = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json'], { cwd: target, encoding: 'utf8' })) as [{ files: { path: string }[] }];
    const paths = packed.files.map(({ path }) => path);
    for (const path of ['dist/main.js', 'src/page/index.html', 'node_modules/@keyledger/sdk/dist/index.js', 'node_modules/@keyledger/license-file/dist/index.js']) expect(paths).toContain(path);
  });
});
