import { afterEach, describe, expect, it } from '@jest/globals';
import { until } from '@keyledger/testing';
import { Supervised } from './supervised.ts';

const listening = `
  const server = require('node:http').createServer().listen(Number(process.env.PORT), '127.0.0.1', () => console.log(\`it is ready at http://127.0.0.1:\${server.address().port}, \${process.pid}\`));
  process.on('SIGTERM', () => process.exit());`;

const running: Supervised[] = [];
afterEach(() => Promise.all(running.splice(0).map((process) => process.stop())));

describe('A process that is started again whenever it ends', () => {
  it('is found where it was at first, if it is to be', async () => {
    const said: string[] = [];
    const supervised = new Supervised({ title: 'it', args: ['-e', listening], env: { ...process.env, PORT: '0' }, keepsPort: true, say: (line) => said.push(line) });
    running.push(supervised);
    const first = await supervised.ready;
    const times = () => said.map((line) => / is ready at (\S+), (\d+)/.exec(line)).filter((found) => found !== null);
    process.kill(Number(times()[0]?.[2]), 'SIGKILL');
    const [, again] = await until(times, (found) => found.length === 2);
    expect(again?.[1]).toBe(first);
  });

  it('settles when it is told to, and by itself when it was started again', async () => {
    const said: string[] = [];
    const settling = `${listening} process.on('message', (what) => { console.log(what + ' ' + process.pid); process.send('done'); });`;
    const supervised = new Supervised({ title: 'it', args: ['-e', settling], env: { ...process.env, PORT: '0' }, say: (line) => said.push(line) });
    running.push(supervised);
    await supervised.ready;
    const settled = () => said.flatMap((line) => / collect (\d+)$/.exec(line)?.[1] ?? []);
    await supervised.settle();
    const [first] = await until(settled, (found) => found.length === 1);
    process.kill(Number(first), 'SIGKILL');
    const [, again] = await until(settled, (found) => found.length === 2);
    expect(again).not.toBe(first);
  });
});
