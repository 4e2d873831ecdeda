import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { describe, expect, it } from '@jest/globals';

const program = `
import { runUntilStopped, say } from ${JSON.stringify(new URL('./run.ts', import.meta.url).href)};
const { getHeapSpaceStatistics } = process.getBuiltinModule('node:v8');
const room = () => getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space').physical_space_size / 2 ** 20;
let inBetween = 0;
await runUntilStopped('It', async () => {
  for (let kept = [], n = 0; n < 3_000_000; n++) {
    kept.push({ n });
    if (n % 500_000 === 0) kept = [];
  }
  inBetween = room();
  return { close: async () => {} };
});
const tell = () => say(JSON.stringify([inBetween, room()]));
const until = performance.now() + (process.connected ? 1_500 : 3_000);
const looking = setInterval(() => {
  if (room() > 2 && performance.now() < until) return;
  clearInterval(looking);
  tell();
  setInterval(() => {}, 1_000);
}, 50);
process.on('message', () => setImmediate(tell));`;

const roomOf = async (child: ChildProcess) => JSON.parse(String(await once(child.stdout as Readable, 'data'))) as readonly [before: number, after: number];
const started = (stdio: StdioOptions, env: NodeJS.ProcessEnv = {}) => spawn(process.execPath, ['--no-warnings', '--input-type=module', '--eval', program], { env: { PATH: process.env['PATH'], ...env }, stdio });
async function killed(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'close');
}

/** Its seconds pass as soon as it has been told to stop. */
const hanging = `
import { mock } from 'node:test';
import { ENDS_WITHIN_MS, runUntilStopped, say } from ${JSON.stringify(new URL('./run.ts', import.meta.url).href)};
setInterval(() => {}, 1_000);
mock.timers.enable({ apis: ['setTimeout'] });
await runUntilStopped('It', async () => ({ close: () => new Promise(() => setImmediate(() => mock.timers.tick(15_000))) }), ENDS_WITHIN_MS);
say('running');`;

describe('A process that is to stop', () => {
  it('ends, and says so, when something in it does not', async () => {
    const child = spawn(process.execPath, ['--no-warnings', '--input-type=module', '--eval', hanging], { env: { PATH: process.env['PATH'] }, stdio: ['ignore', 'pipe', 'pipe'] });
    const said = text(child.stderr);
    await once(child.stdout, 'data');
    child.kill('SIGTERM');
    const limit = setTimeout(() => child.kill('SIGKILL'), 10_000);
    expect((await once(child, 'close'))[0]).toBe(1);
    clearTimeout(limit);
    expect(await said).toBe('It has not stopped within 15 s, and ends as it is\n');
  });
});

describe('A process that has started', () => {
  it('gives back the room that it took', async () => {
    const child = started(['ignore', 'pipe', 'inherit']);
    const [before, after] = await roomOf(child).finally(() => killed(child));
    expect(before).toBeGreaterThan(8);
    expect(after).toBeLessThan(2);
  });

  it('does so when it is told to, where somebody looks after it, and writes down what it compiled before it ends', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'keyledger-compiled-'));
    const files = () => readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    const child = started(['ignore', 'pipe', 'inherit', 'ipc'], { NODE_COMPILE_CACHE: folder });
    try {
      expect((await roomOf(child))[1]).toBeGreaterThan(8);
      expect(files()).toEqual([]);
      const roomAfter = async (what: string) => {
        const room = roomOf(child);
        child.send(what);
        expect((await once(child, 'message'))[0]).toBe('done');
        return (await room)[1];
      };
      expect(await roomAfter('flush')).toBeGreaterThan(8);
      expect(files().length).toBeGreaterThan(0);
      expect(await roomAfter('collect')).toBeLessThan(2);
    } finally {
      await killed(child);
    }
    rmSync(folder, { recursive: true });
  });
});

it('A process goes on when whoever read what it says has left', async () => {
  const code = `
    import { say } from ${JSON.stringify(new URL('./run.ts', import.meta.url).href)};
    process.once('message', () => {
      say('one');
      setImmediate(() => { say('two'); setTimeout(() => process.exit(3), 50); });
    });
    process.send('ready');`;
  const child = spawn(process.execPath, ['--no-warnings', '--input-type=module', '--eval', code], { env: { PATH: process.env['PATH'] }, stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
  await once(child, 'message');
  child.stdout?.destroy();
  child.send('go');
  expect((await once(child, 'exit'))[0]).toBe(3);
});
