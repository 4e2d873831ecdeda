// The bare NATS client, for comparison: `nats.mjs reply <url>` answers, `nats.mjs request <url> <concurrency>` asks for as many seconds as it is
// told, whenever it is told, and says how often a second.
import { connect } from '@nats-io/transport-node';
import { warmUp } from './warm.mjs';

const [, , role, url, concurrency] = process.argv;
const connection = await connect({ servers: new URL(url).host, noAsyncTraces: true, ...credentials(url) });
if (role === 'reply') {
  // As long as a verdict is.
  const answer = JSON.stringify({ valid: true, detail: 'x'.repeat(900) });
  connection.subscribe('bench', { queue: 'bench', callback: (_, message) => void message.respond(answer) });
  await connection.flush();
  console.log(`ready at http://127.0.0.1:0`);
} else {
  const question = JSON.stringify({ licenseKey: 'KL-0000000-0000000-0000000', instanceId: 'act_01937c2e-0b5a-7c1d-8a53-2f1d9c7be001' });
  const ask = async (until) => {
    let count = 0;
    for (; performance.now() < until; count++) await connection.request('bench', question, { timeout: 5_000 });
    return count;
  };
  const round = async (length) => {
    const until = performance.now() + length * 1000;
    const counts = await Promise.all(Array.from({ length: Number(concurrency) }, () => ask(until)));
    return counts.reduce((sum, count) => sum + count, 0) / length;
  };
  await warmUp(round);
  process.on('message', async (seconds) => {
    // Like the product: what has had nothing to do for some seconds is not counted at once.
    await round(1);
    process.send(await round(seconds));
  });
  process.on('disconnect', () => process.exit());
  process.send('ready');
}

function credentials(address) {
  const { username, password } = new URL(address);
  return password ? { user: username, pass: password } : username && { token: username };
}
