import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { refuse, type Refusal } from '@keyledger/kernel';
import pg from 'pg';
import type { Position, RecordedEvent } from './port.ts';

/** Every operation is answered, or refused with UNAVAILABLE, within this many milliseconds. */
export const ANSWER_WITHIN_MS = 1_400;
/** Of these, the most for a free or new connection. */
const CONNECT_WITHIN_MS = 700;
/** At the start many processes connect at the same moment. */
const START_WITHIN_MS = 10_000;
const CLOSE_WITHIN_MS = 500;
const IDLE_MS = 60_000;
/** Preparing a schema waits for other processes that do the same. */
const PREPARE_WITHIN_MS = 30_000;
const SCHEMA_LOCK = 5_280_018;

/** SQLSTATE classes in which the statement is at fault, not the server: a value it cannot hold, a constraint, a limit of a statement. */
const ownFault = /^(22|23|54)/;
/** Those of a server that is full, stopping, starting, or now a replica. */
const serverFault = /^(08|25|40|53|55|57|58|XX)/;

export interface Question {
  /** Of the prepared statement: one text per name. */
  readonly name: string;
  readonly text: string;
}
export type Cells = readonly unknown[];

export const unreachable = (cause: unknown): Refusal => Object.assign(refuse('UNAVAILABLE', 'The event store does not answer'), { cause });
/** The statement was at fault; nothing was done. */
export const isOwnFault = (error: unknown): boolean => error instanceof pg.DatabaseError && ownFault.test(error.code ?? '');

/** `"production_events"`, and the same without quotes. */
export function schemaOf(environment: string): string {
  const name = `${environment}_events`.replaceAll('-', '_');
  if (!/^[a-z][a-z0-9_]{0,60}$/.test(name)) throw new RangeError(`${environment} is no name for a schema`);
  return name;
}

/** Client sockets to one server: a server that no longer answers cannot be asked to close them. */
class Sockets {
  readonly #open = new Set<Socket>();

  readonly make = (): Socket => {
    const socket = new Socket();
    this.#open.add(socket);
    return socket.once('close', () => this.#open.delete(socket));
  };

  /** For after ending the clients. */
  async close(): Promise<void> {
    const closed = [...this.#open].map((socket) => new Promise<void>((resolve) => socket.once('close', () => resolve())));
    await Promise.race([Promise.all(closed), sleep(CLOSE_WITHIN_MS, undefined, { ref: false })]);
    for (const socket of this.#open) socket.destroy();
  }
}

/** Each side notices within some ten seconds that the other machine is lost. */
const clientOptions = (connectionString: string) => ({
  connectionString, keepAlive: true, keepAliveInitialDelayMillis: 5_000, fallback_application_name: 'keyledger',
  options: '-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3',
});

/** What a process knows of the end of a log. */
export interface Known {
  /** The log reaches at least to here. */
  readonly position: Position;
  /** The last event that the process has seen. */
  readonly event: Pick<RecordedEvent, 'position' | 'id'> | undefined;
}

/** A log on the server. */
export interface Log {
  readonly schema: string;
  readonly known: Known;
  /** The log reaches this position. */
  heard(position: Position): void;
  /** The log ends at this position; `isThere`: the event known when the server was asked is still in its place. Throws when it is not the known log. */
  found(position: Position, isThere: boolean, known: Known): void;
}

/** Asks where all logs end, and for the last event known of each: a standby that has taken over may lack it, and have another in its place. */
async function look(client: pg.ClientBase, logs: readonly Log[], withinMs: number): Promise<void> {
  const known = logs.map((log) => log.known);
  const text = logs.map(({ schema }, n) => {
    const [position, id] = [`$${2 * n + 1}::bigint`, `$${2 * n + 2}::uuid`];
    return `select ${n}, position, ${id} is null or exists (select from "${schema}".events e where e.position = ${position} and e.id = ${id}) from "${schema}".head`;
  }).join(' union all ');
  const query: pg.QueryArrayConfig & { query_timeout: number } = {
    name: 'look', text, values: known.flatMap(({ event }) => [event?.position, event?.id]), rowMode: 'array', query_timeout: withinMs,
  };
  const { rows } = await client.query<[number, string, boolean]>(query);
  for (const [n, position, isThere] of rows) logs[n]?.found(Number(position), isThere, known[n] as Known);
}

/** A few connections to one server for all requests of this process. A failed connection is dropped and replaced when the next is needed. */
export class PostgresPool {
  readonly #pool: pg.Pool;
  readonly #sockets = new Sockets();
  readonly #logs: readonly Log[];
  readonly #looked = new WeakSet<pg.PoolClient>();

  /** A new connection may lead to another server: it is used once that server is known to have these logs' known events. */
  constructor(url: string, connections: number, logs: readonly Log[] = []) {
    this.#logs = logs;
    this.#pool = new pg.Pool({ ...clientOptions(url), stream: this.#sockets.make, max: connections, connectionTimeoutMillis: CONNECT_WITHIN_MS, idleTimeoutMillis: IDLE_MS });
    // If an idle connection is lost, the pool has dropped it; if one in use, its query has failed.
    this.#pool.on('error', () => undefined).on('connect', (client) => client.on('error', () => undefined));
  }

  /**
   * Rows as arrays of text and numbers. Rejects with UNAVAILABLE when there is no answer in time, and then it is unknown what the server has done
   * or will do; with pg's DatabaseError when the statement was wrong.
   */
  async ask({ name, text }: Question, values: readonly unknown[], withinMs = ANSWER_WITHIN_MS): Promise<readonly Cells[]> {
    const deadline = performance.now() + withinMs;
    const client = await this.#pool.connect().catch((error: unknown) => {
      throw unreachable(error);
    });
    const left = () => Math.max(1, deadline - performance.now());
    if (left() === 1) {
      client.release();
      throw unreachable(new Error('No connection was free in time'));
    }
    try {
      if (this.#logs.length > 0 && !this.#looked.has(client)) {
        await look(client, this.#logs, left());
        this.#looked.add(client);
      }
      const query: pg.QueryArrayConfig & { query_timeout: number } = { name, text, values: [...values], rowMode: 'array', query_timeout: left() };
      const { rows } = await client.query(query);
      client.release();
      return rows;
    } catch (error) {
      const answered = error instanceof pg.DatabaseError && error.severity === 'ERROR';
      client.release(!answered);
      throw answered && !serverFault.test(error.code ?? '') ? error : unreachable(error);
    }
  }

  async close(): Promise<void> {
    void this.#pool.end();
    await this.#sockets.close();
  }
}

/** Processes that start at the same moment run it one after another, each in its own transaction, all or nothing. */
export async function prepare(url: string, work: (run: (text: string, values?: unknown[]) => Promise<readonly Cells[]>) => Promise<void>): Promise<void> {
  const sockets = new Sockets();
  const client = new pg.Client({ ...clientOptions(url), stream: sockets.make, connectionTimeoutMillis: START_WITHIN_MS, query_timeout: PREPARE_WITHIN_MS });
  client.on('error', () => undefined);
  try {
    await client.connect();
    const run = async (text: string, values: unknown[] = []): Promise<readonly Cells[]> => (await client.query<unknown[]>({ text, values, rowMode: 'array' })).rows;
    await run('begin');
    await run('select pg_advisory_xact_lock($1)', [SCHEMA_LOCK]);
    await work(run);
    await run('commit');
  } finally {
    void client.end();
    await sockets.close();
  }
}

const POLL_MS = 1_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1_000;

interface Listening {
  /** The connection is back. */
  readonly restored: () => void;
  /** The connection is lost; once for each loss. */
  readonly lost: (error: unknown) => void;
}

/**
 * One connection on which the server announces new events. The server is also polled, once a second: a notification may be lost with the
 * connection or on its way, and a connection without traffic does not show when it is dead.
 */
export class Listener {
  readonly #url: string;
  readonly #logs: readonly Log[];
  readonly #on: Listening;
  readonly #closed = new AbortController();
  #running: Promise<void> = Promise.resolve();

  constructor(url: string, logs: readonly Log[], on: Listening) {
    this.#url = url;
    this.#logs = logs;
    this.#on = on;
  }

  /** Resolves when the head of every log is known; from then on it runs by itself. Rejects when the first connection fails. */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#running = this.#run(resolve, reject);
    });
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#running;
  }

  async #run(started: () => void, failed: (error: unknown) => void): Promise<void> {
    let failures = 0;
    let isFirst = true;
    const up = () => {
      if (isFirst) started();
      else if (failures > 0) this.#on.restored();
      isFirst = false;
      failures = 0;
    };
    while (!this.#closed.signal.aborted) {
      try {
        await this.#listen(up, isFirst ? START_WITHIN_MS : CONNECT_WITHIN_MS);
      } catch (error) {
        if (isFirst) return failed(unreachable(error));
        if (this.#closed.signal.aborted) return;
        if (failures === 0) this.#on.lost(error);
        await this.#pause(Math.min(FIRST_PAUSE_MS * 2 ** failures++, LONGEST_PAUSE_MS));
      }
    }
  }

  async #listen(up: () => void, connectWithinMs: number): Promise<void> {
    const sockets = new Sockets();
    const client = new pg.Client({ ...clientOptions(this.#url), stream: sockets.make, connectionTimeoutMillis: connectWithinMs, query_timeout: ANSWER_WITHIN_MS });
    const lost = new AbortController();
    client.on('notification', ({ channel, payload }) => this.#logs.find(({ schema }) => schema === channel)?.heard(Number(payload)));
    client.on('error', (error) => lost.abort(error)).on('end', () => lost.abort(new Error('Connection closed')));
    try {
      await client.connect();
      await client.query(this.#logs.map(({ schema }) => `listen "${schema}"`).join('; '));
      while (!this.#closed.signal.aborted) {
        await look(client, this.#logs, ANSWER_WITHIN_MS);
        up();
        await this.#pause(POLL_MS, lost.signal);
        lost.signal.throwIfAborted();
      }
    } finally {
      void client.end();
      await sockets.close();
    }
  }

  async #pause(ms: number, ...signals: AbortSignal[]): Promise<void> {
    await sleep(ms, undefined, { signal: AbortSignal.any([this.#closed.signal, ...signals]) }).catch(() => undefined);
  }
}
