// The load generator, a process of its own: keep-alive connections over bare sockets, each with one request under way, answered requests at
// once followed by the next. It parses no more of an answer than its status, its length and whether it contains what is expected.
import { connect } from 'node:net';

/**
 * A stream of requests: `connections` of them at a time to `port` with `method`, `path` (which may hold a `*`, replaced by one of the list
 * `values`), `headers` and `body` (likewise; a value that is a list has one for each of the three); runs of `#` in the body become a number never used before, the same in all of them. Every answer must have `status` and contain `expect`.
 * `keep`: how many of the last answers' bodies to hand back. `requests`: end after so many instead of after the job's time.
 */
class Stream {
  latencies = new Float64Array(1 << 16);
  count = 0;
  sent = 0;
  kept = [];

  constructor({ port, method, path, headers = {}, body = '', values = 'none', order = 'random', connections = 64, status = 200, expect = '', keep = 0, requests = Infinity }, job) {
    Object.assign(this, { port, values: lists.get(values), order, connections, status, expect: Buffer.from(expect), keep, requests, job });
    this.build = requestBuilder(method, path, headers, body);
  }

  next() {
    const { values, order, sent } = this;
    return this.build(values[order === 'random' ? Math.floor(Math.random() * values.length) : sent % values.length]);
  }

  answered(startedAt, status, answer, bodyAt) {
    if (status !== this.status || !answer.includes(this.expect, bodyAt)) throw new Error(`answered ${status}: ${answer.toString('utf8', bodyAt, bodyAt + 500)}`);
    if (this.keep > 0) this.kept[this.count % this.keep] = answer.toString('utf8', bodyAt);
    if (this.count === this.latencies.length) {
      const larger = new Float64Array(this.count * 2);
      larger.set(this.latencies);
      this.latencies = larger;
    }
    this.latencies[this.count++] = performance.now() - startedAt;
  }

  get isOver() {
    return this.sent >= this.requests || performance.now() >= this.job.until;
  }

  async run() {
    const startedAt = performance.now();
    await Promise.all(Array.from({ length: this.connections }, () => this.#connection()));
    const seconds = (performance.now() - startedAt) / 1000;
    const sorted = this.latencies.subarray(0, this.count).sort();
    const at = (share) => sorted[Math.min(this.count - 1, Math.floor(this.count * share))] ?? NaN;
    return { count: this.count, perSecond: this.count / seconds, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1), kept: this.kept };
  }

  #connection() {
    return new Promise((resolve, reject) => {
      const socket = connect({ port: this.port, host: '127.0.0.1', noDelay: true });
      let startedAt = 0;
      let part;
      const ask = () => {
        if (this.isOver) return socket.end();
        const request = this.next();
        this.sent++;
        startedAt = performance.now();
        socket.write(request, 'latin1');
      };
      socket.on('connect', ask);
      socket.on('data', (data) => {
        try {
          const answer = part ? Buffer.concat([part, data]) : data;
          const headEnd = answer.indexOf('\r\n\r\n');
          if (headEnd < 0) return void (part = answer);
          const head = answer.latin1Slice(0, headEnd);
          const length = Number(/content-length: (\d+)/i.exec(head)?.[1]);
          if (!(answer.length >= headEnd + 4 + length)) return void (part = answer);
          part = undefined;
          this.answered(startedAt, Number(head.slice(9, 12)), answer, headEnd + 4);
          ask();
        } catch (error) {
          reject(error);
          socket.destroy();
        }
      });
      socket.on('close', resolve);
      socket.on('error', reject);
    });
  }
}

let unique = Date.now() % 1e9;

function requestBuilder(method, path, headers, body) {
  const head = Object.entries({ host: '127.0.0.1', ...(body && { 'content-type': 'application/json' }), ...headers }).map(([name, value]) => `${name}: ${value}\r\n`).join('');
  const digits = /#+/.exec(body)?.[0].length;
  return (value) => {
    const [inPath, inHead, inBody] = Array.isArray(value) ? value : [value, value, value];
    let content = body.replace('*', inBody);
    if (digits) content = content.replaceAll(/#+/g, String(unique++).padStart(digits, '0'));
    return `${method} ${path.replace('*', inPath)} HTTP/1.1\r\n${head.replace('*', inHead)}${content && `content-length: ${content.length}\r\n`}\r\n${content}`;
  };
}

/** Lists of values, sent once and used by many streams. */
const lists = new Map([['none', ['']]]);

process.on('message', async ({ seconds = Infinity, streams = [], define }) => {
  if (define) return void lists.set(...define);
  const job = { until: performance.now() + seconds * 1000 };
  const cpu = process.cpuUsage();
  const startedAt = performance.now();
  try {
    const results = await Promise.all(streams.map((stream) => new Stream(stream, job).run()));
    const { user, system } = process.cpuUsage(cpu);
    process.send({ results, busy: (user + system) / 1000 / (performance.now() - startedAt) });
  } catch (error) {
    process.send({ error: error.message });
  }
});
process.on('disconnect', () => process.exit());
