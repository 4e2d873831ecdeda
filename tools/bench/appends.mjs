// Single events appended through the product's own event store, each to a stream of its own: `appends.mjs <where> <seconds> <concurrency>`, where is the
// URL of a PostgreSQL or a folder.
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { NO_STREAM, SqliteEventStores } from '@keyledger/event-store';
import { PostgresEventStores } from '@keyledger/event-store/postgres';
import { warmUp } from './warm.mjs';

const [, , where, seconds, concurrency] = process.argv;
const stores = where.startsWith('postgres') ? await PostgresEventStores.open({ url: where, environments: ['bench'] }) : await SqliteEventStores.open({ bench: join(where, 'events.db') });
const store = stores.of('bench');
const data = { instanceName: 'laptop', sealed: 'x'.repeat(200) };
const metadata = { commandId: randomUUID(), correlationId: randomUUID(), actor: { type: 'client', id: 'client' }, occurredAt: new Date().toISOString(), schema: 1 };

async function appendUntil(until) {
  let count = 0;
  for (; performance.now() < until; count++) await store.append(`bench-${randomUUID()}`, NO_STREAM, [{ id: randomUUID(), type: 'Measured', data, metadata }]);
  return count;
}
async function round(length) {
  const until = performance.now() + length * 1000;
  const counts = await Promise.all(Array.from({ length: Number(concurrency) }, () => appendUntil(until)));
  return counts.reduce((sum, count) => sum + count, 0) / length;
}
await warmUp(round);
console.log(await round(Number(seconds)));
await stores.close();
