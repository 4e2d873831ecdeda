import type { EventStoreDBClient } from '@eventstore/db-client';
import { refuse, Refusal } from '@keyledger/kernel';
import type { Position } from './port.ts';

/** A gRPC code. */
const DEADLINE_EXCEEDED = 4;
/** A call unanswered for less time than this says nothing about the connection. */
const MUTE_MS = 1_000;

type Library = typeof import('@eventstore/db-client');

/** To a server, or to the leader of a cluster. Nothing is sent before the first call. */
export class Connection {
  readonly library: Library;
  readonly #url: string;
  #client: EventStoreDBClient;
  #heardAt = 0;
  #isClosed = false;

  /** Loads the client, which is large, only in a process that has an EventStoreDB. */
  static async open(url: string): Promise<Connection> {
    return new Connection(await import('@eventstore/db-client'), url.replace(/^kurrentdb/, 'esdb'));
  }

  private constructor(library: Library, url: string) {
    this.library = library;
    this.#url = url;
    this.#client = clientOf(library, url);
  }

  /** Do not keep it: the next call may need a new client. */
  get client(): EventStoreDBClient {
    return this.#client;
  }

  /** The server has sent something. */
  heard(): void {
    this.#heardAt = performance.now();
  }

  /**
   * A call was given up. If nothing else has arrived since it began (`performance.now()`), the server may have vanished silently, for example in a
   * power cut; the client would keep the connection for 20 s. Later calls take a new connection, to the server that is there by then.
   */
  unanswered(client: EventStoreDBClient, since: number): void {
    if (client !== this.#client || this.#heardAt > since || performance.now() - since < MUTE_MS) return;
    this.#client = clientOf(this.library, this.#url);
    closed(client).catch(() => undefined);
  }

  /** The calls of a closed client end as if they were complete. */
  isOpen(client: EventStoreDBClient): boolean {
    return client === this.#client && !this.#isClosed;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await closed(this.#client);
  }
}

function clientOf(library: Library, url: string): EventStoreDBClient {
  let client: EventStoreDBClient | undefined;
  try {
    client = library.EventStoreDBClient.connectionString(url);
  } catch (error) {
    // The client's error about a wrong connection string contains all of it, with the password.
    if (!(error instanceof Error && 'connectionString' in error)) throw error;
  }
  if (!client) throw new Error('This is no connection string of an EventStoreDB, such as esdb://user:password@host:2113?tls=true');
  // The client would send appends over one long-lived call: that ignores their deadlines when the server hangs, keeps the outcome of the first
  // query of the server's features even if it was an error, and throws outside of any promise when an answer follows a lost call. One call
  // per append has none of these faults; the client does the same with servers that lack the long-lived call.
  return Object.assign(client, { supports: async () => false });
}

/**
 * The channel is closed first: disposing a hung client may never end, and channels to one address share their connections while one is open.
 * The client itself leaves its channel open, and gives no public access to it.
 */
async function closed(client: EventStoreDBClient): Promise<void> {
  const { getChannel } = client as unknown as { getChannel(): Promise<{ close(): void }> };
  const disposed = client.dispose();
  (await getChannel()).close();
  await disposed;
}

/** A read, or a subscription that is ended once it has enough. */
type Answers = {
  on(event: string, listener: (answer: unknown) => void): unknown;
  off(event: string, listener: (answer: unknown) => void): unknown;
  resume(): unknown;
} & ({ cancel(): Promise<void> } | { unsubscribe(): Promise<void> });

/** Events still on their way are read and dropped: the client considers a call ended only when all of it has been read. */
export const stop = (answers: Answers): void => {
  answers.resume();
  ('cancel' in answers ? answers.cancel() : answers.unsubscribe()).catch(() => undefined);
};

/** Resolves at the end, or when `enough` accepts an answer; rejects after `patience` milliseconds without a sign of life. */
export function read<Answer>(
  connection: Connection, patience: number, open: (client: EventStoreDBClient, alive: () => void) => Answers, enough: (answer: Answer) => boolean,
): Promise<void> {
  const { client } = connection;
  return new Promise((resolve, reject) => {
    const alive = () => {
      connection.heard();
      since = performance.now();
      timer.refresh();
    };
    let since = performance.now();
    const answers = open(client, alive);
    const timer = setTimeout(() => end(() => {
      connection.unanswered(client, since);
      reject(doesNotAnswer());
    }), patience);
    const end = (settle: () => void) => {
      clearTimeout(timer);
      answers.off('data', take);
      stop(answers);
      settle();
    };
    const take = (answer: unknown) => {
      alive();
      try {
        if (enough(answer as Answer)) end(resolve);
      } catch (error) {
        end(() => reject(error));
      }
    };
    // The client may report the same loss more than once: the listener stays.
    answers.on('error', (error) => end(() => reject(error)));
    answers.on('end', () => {
      if (!connection.isOpen(client)) return end(() => reject(doesNotAnswer()));
      connection.heard();
      end(resolve);
    });
    answers.on('data', take);
  });
}

/** Rejects when the work takes longer; the work may still complete. */
export async function within<T>(milliseconds: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => { timer = setTimeout(() => reject(doesNotAnswer()), milliseconds); });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** For a call that has a deadline of its own. */
export const isUnanswered = (error: unknown): boolean => kindOf(error) === 'deadline-exceeded' || (error instanceof Error && 'code' in error && error.code === DEADLINE_EXCEEDED);

export const doesNotAnswer = () => refuse('UNAVAILABLE', 'The event store does not answer');

/** The client's kinds of error, as it names them in `type`. */
export const kindOf = (error: unknown): string | undefined => (error instanceof Error && 'type' in error ? String(error.type) : undefined);

/** The error for callers of the port: UNAVAILABLE for faults of the connection. */
export function failureOf(error: unknown): unknown {
  const kind = kindOf(error);
  const message = error instanceof Error ? error.message : String(error);
  if (kind === 'maximum-append-size-exceeded') return new RangeError(`The events are larger than this EventStoreDB takes at once, see its MaxAppendSize: ${message}`);
  if (kind === 'access-denied') return new Error(`EventStoreDB denies access, see docs/operations/eventstoredb.md for the required rights: ${message}`);
  if (kind === 'stream-deleted') return new Error(`A stream has been deleted in EventStoreDB, which must never happen: ${message}`);
  const isFromTheServer = kind !== undefined || (error instanceof Error && 'code' in error && typeof error.code === 'number');
  const found = !message.startsWith('Failed to discover');
  return (isFromTheServer || !found) && !(error instanceof Refusal) ? refuse('UNAVAILABLE', `The event store cannot be reached: ${message}`) : error;
}

/**
 * A position is where an event begins in the server's transaction log, in bytes. Each event of an append has a record of its own there, committed by
 * itself: commit and prepare position are equal, grow from event to event, and reading can resume after any event. (The `prepare` that the server
 * reports is the one of the append's first event; it is not used.) Throws beyond 2^53, which is nine petabytes.
 */
export function positionOf(at: { readonly commit: bigint } | undefined): Position {
  if (at === undefined) throw new Error('This EventStoreDB does not tell the positions of events; it takes 22.10 or a newer one');
  if (at.commit > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError(`Position ${at.commit} of the log is beyond 2^53: Keyledger cannot count that far`);
  return Number(at.commit);
}

/** For reading after (or, backwards, before) the event at the position. */
export const placeOf = (position: Position): 'start' | { commit: bigint; prepare: bigint } =>
  (position === 0 ? 'start' : { commit: BigInt(position), prepare: BigInt(position) });
