import { AsyncLocalStorage } from 'node:async_hooks';
import { refuse, type Refusal } from '@keyledger/kernel';
import type { Client, Pool, PoolClient } from 'pg';

/** For a free connection or a new one. */
const CONNECT_WITHIN_MS = 1_500;
/** At the start many processes connect at the same moment. */
const START_WITHIN_MS = 15_000;
/** A client that hangs in the middle of a transaction keeps its locks, which block every list, for this long. */
const IDLE_IN_TRANSACTION_MS = 5_000;
const KEEPALIVE_AFTER_MS = 5_000;
/** A server that is there says that it has given a statement up, and the connection can be kept. */
const CANCELLED_WITHIN_MS = 200;

/** SQLSTATE classes of a server that is full, stopping, starting, or now a replica, and of a transaction aborted in favour of another. */
const serverFault = /^(08|25006|40|53|57|58|XX)/;

const patience = new AsyncLocalStorage<true>();
/** Without a time limit: for a migration, or clearing away deleted rows. */
export const patiently = <T>(work: () => Promise<T>): Promise<T> => patience.run(true, work);

const listsEnd = new AsyncLocalStorage<number>();
/** The statements of a list, together up to that moment of `performance.now()`. The server gives them up by itself: it would not notice that the connection is cut. */
export const until = <T>(end: number, list: () => Promise<T>): Promise<T> => listsEnd.run(end, list);

export interface Guard {
  /** A statement of this pool not answered in this time fails; null: no limit. */
  readonly answerWithinMs: number | null;
  /** The most connections. */
  readonly connections: number;
}

/** Options of a pool, for its start. */
export const startOptions = ({ connections }: Guard) => ({
  max: connections, connectionTimeoutMillis: START_WITHIN_MS, keepAlive: true, keepAliveInitialDelayMillis: KEEPALIVE_AFTER_MS, idleTimeoutMillis: 60_000,
});

/** Settings that make the server drop a client that hangs, or whose machine is lost. A client that copies whole tables may be idle in its transaction. */
export const serverSettings = (schema: string, { answerWithinMs }: Guard): string => Object.entries({
  // public comes second for the operator classes of pg_trgm.
  search_path: `${schema},public`, idle_in_transaction_session_timeout: answerWithinMs === null ? 0 : IDLE_IN_TRANSACTION_MS,
  tcp_keepalives_idle: KEEPALIVE_AFTER_MS / 1_000, tcp_keepalives_interval: 2, tcp_keepalives_count: 3,
}).map(([name, value]) => `-c ${name}=${value}`).join(' ');

/**
 * Makes a pool fail soon and in one way, Refusal UNAVAILABLE, when its server is lost or silent; it is then unknown whether a statement under
 * way was carried out. A connection that does not answer is cut, and so leaves the pool: the next user gets a new one.
 */
export function guardPool(pool: Pool, { answerWithinMs }: Guard): void {
  const connect = pool.connect.bind(pool) as () => Promise<PoolClient>;
  // Kysely, the pool's only user, connects in no other way.
  pool.connect = (() => connect().catch(unavailable)) as typeof pool.connect;
  pool.on('connect', (client) => guardClient(client as PoolClient & Client, answerWithinMs));
}

/** From now on waits for a connection are short. */
export function started(pool: Pool): void {
  pool.options.connectionTimeoutMillis = CONNECT_WITHIN_MS;
}

function guardClient(client: Client, answerWithinMs: number | null): void {
  const query = client.query.bind(client) as (text: unknown, values: unknown) => Promise<unknown>;
  const limited = async (text: string, values: unknown) => {
    const end = listsEnd.getStore();
    const left = end === undefined ? undefined : Math.min(Math.ceil(end - performance.now()), answerWithinMs ?? Infinity);
    if (left !== undefined && left <= 0) unavailable(new Error('A list has taken too long'));
    const withinMs = left === undefined ? answerWithinMs : left + CANCELLED_WITHIN_MS;
    const timer = withinMs !== null && !patience.getStore() ? setTimeout(() => client.connection.stream.destroy(), withinMs) : undefined;
    try {
      if (left !== undefined) await query(`set local statement_timeout = ${left}`, undefined);
      return await query(text, values);
    } catch (error) {
      return lostOrWrong(error as Parameters<typeof lostOrWrong>[0]);
    } finally {
      clearTimeout(timer);
    }
  };
  // A cursor's reads are paced by its reader: no limit.
  const guarded = (text: unknown, values: unknown) => (typeof text === 'string' ? limited(text, values) : query(text, values));
  client.query = guarded as typeof client.query;
}

function lostOrWrong(error: { severity?: string; code?: string }): never {
  if (error.severity === 'ERROR' && !serverFault.test(error.code ?? '')) throw error;
  unavailable(error);
}

function unavailable(cause: unknown): never {
  throw Object.assign<Refusal, object>(refuse('UNAVAILABLE', 'The database does not answer'), { cause });
}
