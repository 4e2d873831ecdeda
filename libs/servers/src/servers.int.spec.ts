import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { freePort, obtain, startNats, startPostgres } from './index.ts';
import { describeWith } from './servers.contract.ts';

const folder = mkdtempSync(join(tmpdir(), 'servers-'));
// PostgreSQL runs as somebody else than root, who has to come in.
chmodSync(folder, 0o755);
afterAll(() => rmSync(folder, { recursive: true }));

async function query(url: string, text: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query({ text, rowMode: 'array' })).rows.flat();
  } finally {
    await client.end();
  }
}

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

describeWith('postgres', 'A server for a suite', (server) => {
  it('answers, with the order of text of a real installation', async () => {
    expect(await query(server().url, "select x from (values ('b'), ('A'), ('a'), ('B')) as t (x) order by x")).toEqual(['a', 'A', 'b', 'B']);
  });

  it('keeps what it holds over a SIGKILL of all its processes, at the same address', async () => {
    const { url, pid } = server();
    await query(url, 'create table kept as select 1 as n');
    await query(url, 'checkpoint');
    const client = new pg.Client({ connectionString: url });
    const lost = once(client, 'error');
    await client.connect();
    await server().kill();
    await lost;
    await expect(query(url, 'select 1')).rejects.toThrow();
    await server().restart();
    expect(server().pid).not.toBe(pid);
    expect(await query(url, 'select n from kept')).toEqual([1]);
  });

  it('says nothing while it is paused, and goes on', async () => {
    const client = new pg.Client({ connectionString: server().url });
    await client.connect();
    server().pause();
    const answer = client.query('select 1');
    const silence = new Promise((resolve) => setTimeout(() => resolve('silence'), 200));
    expect(await Promise.race([answer, silence])).toBe('silence');
    server().resume();
    expect((await answer).rows).toHaveLength(1);
    await client.end();
  });
});

(obtain('postgres') ? describe : describe.skip)('PostgreSQL on a folder and a port', () => {
  it('is started again on what an earlier one has written, also when that one still runs or was killed', async () => {
    const options = { directory: join(folder, 'data'), port: await freePort(), durable: true, settings: { max_connections: 17 } };
    const first = await startPostgres(options);
    expect(await query(first.url, "select current_setting('fsync') || current_setting('max_connections')")).toEqual(['on17']);
    await query(first.url, 'create table kept as select 1 as n');
    const second = await startPostgres(options);
    await first.ended;
    expect(isAlive(first.pid)).toBe(false);
    await query(second.url, 'insert into kept values (2)');
    await second.kill();
    const third = await startPostgres(options);
    expect(await query(third.url, 'select n from kept order by n')).toEqual([1, 2]);
    await Promise.all([first, second, third].map((server) => server.stop()));
    expect(isAlive(third.pid)).toBe(false);
  });

  it('is started where only its owner may enter', async () => {
    const closed = join(folder, 'closed');
    mkdirSync(closed, { mode: 0o700 });
    const options = { directory: join(closed, 'data') };
    const first = await startPostgres(options);
    await query(first.url, 'create table kept as select 1 as n');
    await first.kill();
    const second = await startPostgres(options);
    expect(await query(second.url, 'select n from kept')).toEqual([1]);
    await second.stop();
    await first.stop();
  });

  it('rejects with what the server has to say when it cannot start', async () => {
    await expect(startPostgres({ settings: { max_connections: 'many' } })).rejects.toThrow(/max_connections/);
    const port = await freePort();
    const server = await startPostgres({ port });
    await expect(startPostgres({ port })).rejects.toThrow('already a server at its address');
    await server.stop();
  });
});

async function greeting(port: number): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port });
  const [data] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  return data.toString();
}

describeWith('nats', 'A server for a suite', (server) => {
  it('comes back at the same address after a SIGKILL', async () => {
    const { port, pid, url } = server();
    expect(url).toMatch(new RegExp(`^nats://keyledger:[\\w-]{32}@127.0.0.1:${port}$`));
    expect(await greeting(port)).toMatch(/^INFO (?!.*"jetstream":true)/);
    await server().kill();
    expect(isAlive(pid)).toBe(false);
    await expect(greeting(port)).rejects.toThrow('ECONNREFUSED');
    await server().restart();
    expect(await greeting(port)).toContain('INFO');
  });

  it('does not start where one is already', async () => {
    await expect(startNats({ port: server().port })).rejects.toThrow('already a server at its address');
  });
});
