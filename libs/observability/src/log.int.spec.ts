import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, expect, it } from '@jest/globals';

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** A process of its own, with the same sources. It begins when it is told to. */
function processRunning(code: string) {
  const script = `
    const { createLog } = await import(${JSON.stringify(new URL('./log.ts', import.meta.url).href)});
    const log = createLog({ level: 'info', service: 'test' });
    process.once('message', () => { ${code} });
    process.send('ready');`;
  const child = spawn(process.execPath, ['--conditions=@keyledger/source', '--input-type=module', '--eval', script], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
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
