import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { TogetherResponse } from './responses.ts';

describe('answers of one turn', () => {
  let server: Server<never, typeof TogetherResponse>;
  let asked: TogetherResponse[];
  let clients: Socket[];

  beforeEach(async () => {
    [asked, clients] = [[], []];
    server = createServer({ ServerResponse: TogetherResponse }, (_request, response) => {
      asked.push(response);
      server.emit('asked');
    }) as typeof server;
    await once(server.listen(0, '127.0.0.1'), 'listening');
  });

  afterEach(() => {
    for (const client of clients) client.destroy();
    server.close();
  });

  /** So many requests that wait for their answers, over one connection or each over its own. */
  async function ask(count: number, connections = count): Promise<TogetherResponse[]> {
    clients = Array.from({ length: connections }, () => connect((server.address() as AddressInfo).port, '127.0.0.1').setEncoding('utf8'));
    for (let n = 0; n < count; n++) clients[n % connections]!.write('GET / HTTP/1.1\r\nHost: here\r\n\r\n');
    while (asked.length < count) await once(server, 'asked');
    return asked;
  }

  const written = (responses: TogetherResponse[]) => responses.map(({ socket }) => socket?.bytesWritten ?? 0);

  it('are written at its end, and are answered before', async () => {
    const responses = await ask(3);
    for (const response of responses) response.end('yes');
    expect(written(responses)).toEqual([0, 0, 0]);
    expect(responses.map(({ writableEnded }) => writableEnded)).toEqual([true, true, true]);
    const answers = await Promise.all(clients.map((client) => once(client, 'data')));
    expect(answers.map(String)).toEqual(Array(3).fill(expect.stringMatching(/^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nyes$/)));
  });

  it('do not wait for more than 32', async () => {
    const responses = await ask(33);
    const sockets = responses.map(({ socket }) => socket!);
    for (const response of responses) response.end('yes');
    expect(sockets.filter(({ bytesWritten }) => bytesWritten > 0)).toHaveLength(32);
    await setImmediate();
    expect(sockets.filter(({ bytesWritten }) => bytesWritten > 0)).toHaveLength(33);
  });

  it('keep the order of their requests on one connection', async () => {
    const [first, second] = await ask(2, 1);
    let heard = '';
    clients[0]!.on('data', (text) => (heard += String(text)));
    second!.end('second');
    first!.end('first');
    while (!heard.includes('second')) await once(clients[0]!, 'data');
    expect(heard.indexOf('first')).toBeLessThan(heard.indexOf('second'));
  });

  it('are answered once, and reach the others when one client has gone', async () => {
    const [gone, here] = await ask(2);
    clients[0]!.destroy();
    await once(gone!, 'close');
    gone!.end('nobody hears');
    here!.end('yes');
    here!.end('no');
    const [answer] = await once(clients[1]!, 'data') as [string];
    expect(answer).toMatch(/\r\n\r\nyes$/);
  });

  it('that come in pieces are written as they come', async () => {
    const [response] = await ask(1);
    response!.write('a');
    response!.end();
    expect(response!.socket!.bytesWritten).toBeGreaterThan(0);
    let heard = '';
    for await (const text of clients[0]!) if ((heard += String(text)).endsWith('0\r\n\r\n')) break;
    expect(heard).toContain('\r\na\r\n');
  });
});
