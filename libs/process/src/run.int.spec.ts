import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from '@jest/globals';

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
const until = performance.now() + 3_000;
const looking = setInterval(() => {
  if (room() > 2 && performance.now() < until) return;
  clearInterval(looking);
  say(JSON.stringify([inBetween, room()]));
  setInterval(() => {}, 1_000);
}, 50);`;

it('A process that has started has given back the room that it took, and kept what it compiled, even if it is killed', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-compiled-'));
  const child = spawn(process.execPath, ['--no-warnings', '--input-type=module', '--eval', program], { env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: folder }, stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const [before, after] = JSON.parse(String(await once(child.stdout, 'data'))) as [number, number];
    expect(before).toBeGreaterThan(8);
    expect(after).toBeLessThan(2);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'close');
  }
  const kept = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  rmSync(folder, { recursive: true });
  expect(kept.length).toBeGreaterThan(0);
});
