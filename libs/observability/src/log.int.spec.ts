import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, expect, it } from '@jest/globals';

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** What a file that is a process's output can take. */
const DISK_BYTES = 128 * 512;

/** A process of its own, with the same sources. It begins when it is told to. */
function processRunning(code: string, output: 'pipe' | number = 'pipe') {
  const script = `
    const { createLog } = await import(${JSON.stringify(new URL('./log.ts', import.meta.url).href)});
    const log = createLog({ level: 'info', service: 'test' });
    process.once('message', () => { ${code} });
    process.send('ready');`;
  const node = [process.execPath, '--conditions=@keyledger/source', '--input-type=module', '--eval', script];
  const stdio: StdioOptions = ['ignore', output, 'inherit', 'ipc'];
  const child = output === 'pipe' ? spawn(node[0] ?? '', node.slice(1), { stdio }) : spawn('sh', ['-c', `ulimit -f ${DISK_BYTES / 512}; exec "$0" "$@"`, ...node], { stdio });
  children.push(child);
  return child;
}

it('The last lines are written before a process ends', async () => {
  const child = processRunning("for (let n = 0; n < 2_000; n++) log.info({ n }, 'one of many'); process.exit(0);");
  let text = '';
  child.stdout?.setEncoding('utf8').on('data', (some: string) => (text += some));
  await once(child, 'message');
  child.send('go');
  await once(child, 'close');
  expect(text.trimEnd().split('\n').map((line) => (JSON.parse(line) as { n: number }).n).toSorted((a, b) => a - b)).toEqual(Array.from({ length: 2_000 }, (_, n) => n));
});

it.each([
  ['is gone', "log.info('one'); log.info('two'); process.exit(0);"],
  ['was gone long ago', "log.info('one'); setTimeout(() => { log.info('two'); log.info('three'); process.exit(0); }, 300);"],
])('A process ends although whoever read its output %s', async (_, code) => {
  const child = processRunning(code);
  await once(child, 'message');
  child.stdout?.destroy();
  child.send('go');
  expect(await once(child, 'exit')).toEqual([0, null]);
}, 20_000);

it('What a reader that stands still does not take is dropped, line by line, instead of filling the memory', async () => {
  const child = processRunning(`
    const text = 'some words '.repeat(100);
    for (let n = 0; n < 20_000; n++) log.info({ n, text }, 'one of many');
    process.send('logged');
    process.once('message', () => process.exit(0));`);
  await once(child, 'message');
  child.stdout?.pause();
  child.send('go');
  await once(child, 'message');
  let text = '';
  child.stdout?.setEncoding('utf8').on('data', (some: string) => (text += some)).resume();
  child.send('end');
  await once(child, 'close');
  const kept = text.trimEnd().split('\n').map((line) => (JSON.parse(line) as { n: number }).n);
  expect(kept.length).toBeGreaterThan(1_000);
  expect(text.length).toBeLessThan(6_000_000);
});

it('A process ends although the reader of its non-blocking output stands still', async () => {
  const child = processRunning(`
    process.stdout.on('error', () => undefined); // As Node uses it, it does not block.
    for (let n = 0; n < 20_000; n++) log.info({ n }, 'one of many');
    setTimeout(() => process.exit(0), 300);`);
  await once(child, 'message');
  child.stdout?.pause();
  child.send('go');
  expect(await once(child, 'exit')).toEqual([0, null]);
}, 20_000);

it('Lines come again when a full disk has room again, and say how many were dropped', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'keyledger-log-'));
  const file = join(directory, 'log');
  const output = openSync(file, 'a');
  try {
    const child = processRunning(`
      const text = 'some words '.repeat(100);
      let ticks = 0;
      const tell = setInterval(() => {
        if (ticks++ >= 10) return log.info({ text }, 'room');
        for (let n = 0; n < 1_000; n++) log.info({ text }, 'full');
        if (ticks === 10) process.send('full');
      }, 20);
      process.once('message', () => { clearInterval(tell); process.exit(0); });`, output);
    await once(child, 'message');
    child.send('go');
    await once(child, 'message');
    let taken = '';
    const text = () => taken + readFileSync(file, 'utf8');
    while (!text().includes('"msg":"room"') || !text().includes('"dropped"')) {
      await setTimeout(5);
      if (statSync(file).size < DISK_BYTES) continue;
      taken = text();
      truncateSync(file);
    }
    expect(text()).toMatch(/"service":"test","dropped":\d{4},"msg":"Log lines were dropped: nothing took them"/);
    child.send('end');
    await once(child, 'close');
  } finally {
    closeSync(output);
    rmSync(directory, { recursive: true });
  }
}, 20_000);
