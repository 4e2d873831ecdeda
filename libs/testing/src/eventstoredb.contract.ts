import { randomUUID } from 'node:crypto';
import { serverKind, startServer, type TestServer } from '@keyledger/event-store/eventstoredb-server';
import { startPostgres, type Running } from '@keyledger/servers';
import type { Stores } from './process.ts';

const LOUD = 'NO REAL EVENTSTOREDB: what follows was tested on a DOUBLE of it. Set KEYLEDGER_TEST_EVENTSTORE_URL, or start Docker';

/** For the title of a suite. */
export const onEventStoreDb = `on ${serverKind ?? 'a DOUBLE of EventStoreDB'}`;

export interface EventStoreDbStores extends Stores {
  readonly eventStore: TestServer;
  readonly postgres: Running;
}

/** A log on an EventStoreDB (if shared: under its own prefix) or its double, which is announced, and a PostgreSQL. Both outlive the product. */
export async function startStores(): Promise<EventStoreDbStores> {
  if (serverKind === undefined) process.stdout.write(`${LOUD}\n`);
  const [eventStore, postgres] = await Promise.all([startServer({ apart: true }), startPostgres({ durable: true, settings: { max_connections: 400 } })]);
  return {
    eventStore, postgres,
    env: { DATABASE_URL: postgres.url, EVENTSTORE_URL: eventStore.url, ...(eventStore.own ? {} : { EVENTSTORE_PREFIX: `t-${randomUUID()}` }) },
    async stop() {
      await Promise.all([eventStore.stop(), postgres.stop()]);
    },
  };
}
