import { createInterface } from 'node:readline';
import { License } from './license.ts';
import { fileStore, nodeClock } from './node.ts';

/** One of several processes of an installation: `node … process.contract.ts '{"name", "server", "key", "roots", "path", "takeOverMs"}'`. Answers each line of its input. */
const { name, server, key, roots, path, takeOverMs } = JSON.parse(process.argv[2] ?? '{}') as { name: string; server: string; key: string; roots: unknown[]; path: string; takeOverMs: number };
const license = await License.open({ key, server, roots, version: name, store: fileStore(path, { takeOverMs }), clock: nodeClock(), attempts: 1, logger: { warn: (...what) => console.error(name, ...what) } });
let conflicts = 0;
license.on('conflict', () => conflicts++);

for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'activate') await license.activate({ name });
  if (line === 'start') license.heartbeat.start({ interval: 100, jitter: 0, leader: 'auto' });
  if (line === 'use') license.quota('reports').tryConsume();
  if (line === 'deactivate') await license.deactivate();
  if (line === 'dispose') await license.dispose();
  const { code, valid, offlineUntil } = license.judgement();
  console.log(JSON.stringify({ isLeader: license.heartbeat.isLeader, fingerprint: license.fingerprint, instanceId: license.instanceId, code, valid, offlineUntil, conflicts, waiting: license.waiting }));
  if (line === 'dispose') process.exit();
}
