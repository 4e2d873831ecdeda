import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The output of a program that only awaits the SDK: nothing else keeps its process alive. */
function running(program: string): readonly string[] {
  const code = `
    import { License } from '${here('./license.ts')}';
    import { TestClock, Vendor } from '${here('./vendor.contract.ts')}';
    const vendor = await Vendor.open(new TestClock());
    vendor.now = Date.now;
    const open = (options) => License.open({ key: vendor.licenseKey, server: 'http://vendor', roots: vendor.roots, fetch: vendor.fetch, attempts: 2, ...options });
    ${program}`;
  const args = ['--conditions=@keyledger/source', '--no-warnings', '--import', here('../../../tools/swc-register.mjs'), '--input-type=module', '--eval', code];
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 30_000 });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout.trimEnd().split('\n');
}

describe('A program that', () => {
  it('asks an unreachable server for a seat goes on', () => {
    expect(running(`
      const license = await open({ server: 'http://127.0.0.1:9', fetch });
      console.log((await license.activate()).code);
      console.log((await license.validate()).code);
    `)).toEqual(['UNREACHABLE', 'NOT_ACTIVATED']);
  });

  it.each([
    '() => Promise.resolve(new Response("", { status: 503 }))', '() => Promise.reject(new TypeError("fetch failed"))',
    '(url, { signal }) => new Promise((_, late) => signal.addEventListener("abort", () => late(signal.reason)))',
  ])('waits for an answer stays alive until it comes, also with %s', (away) => {
    expect(running(`
      let fetch = vendor.fetch;
      const license = await open({ timeoutMs: 100, fetch: (...asked) => fetch(...asked) });
      await license.activate();
      license.quota('reports').tryConsume();
      fetch = ${away};
      for (const ask of [() => license.activate(), () => license.validate(), () => license.reportUsage(), () => license.heartbeat.beat(), () => license.deactivate()]) {
        const { code, problem } = await ask();
        console.log(problem?.code ?? code);
      }
      await license.dispose();
      console.log('over');
    `)).toEqual([...Array.from({ length: 5 }, () => 'UNREACHABLE'), 'over']);
  });

  /** The vendor behind a real socket: what keeps a process alive is the connection. Its own end of it does not. */
  const connected = `
    const { createServer } = await import('node:http');
    const server = createServer(async (request, response) => {
      const body = (await request.toArray()).join('');
      const answer = await vendor.fetch('http://vendor' + request.url, { headers: request.headers, ...(body && { body }) });
      response.writeHead(answer.status, [...answer.headers].flat());
      for await (const part of answer.body) response.write(part);
      response.end();
    }).on('connection', (socket) => socket.unref());
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    server.unref();
    const license = await open({ server: 'http://127.0.0.1:' + server.address().port, fetch });
    await license.activate();`;

  it('has nothing more to do ends, although heartbeats run', () => {
    expect(running(`
      ${connected}
      license.heartbeat.start();
      process.on('exit', () => console.log(vendor.asked.filter(({ path }) => path.endsWith('/heartbeat')).length));
    `)).toEqual(['1']);
  });

  it.each(['license.changes.stop()', 'license.dispose()'])('hears of changes ends with %s', (end) => {
    expect(running(`
      ${connected}
      license.changes.start();
      while (!license.changes.isConnected) await new Promise((resolve) => setTimeout(resolve, 10));
      setTimeout(() => {
        console.log('goes on');
        void ${end};
      }, 500).unref();
      process.on('exit', () => console.log('ends'));
    `)).toEqual(['goes on', 'ends']);
  });
});
