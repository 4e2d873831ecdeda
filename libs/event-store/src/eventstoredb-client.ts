import type { EventStoreDBClient } from '@eventstore/db-client';
import { refuse, Refusal } from '@keyledger/kernel';
import type { Position } from './port.ts';

/** Of gRPC. */
const DEADLINE_EXCEEDED = 4;
/** What was asked for less time than this tells nothing of the connection. */
const MUTE_MS = 1_000;

type Library = typeof import('@eventstore/db-client');

/** To a server, or to the leader of a cluster. Nothing is sent before the first question. */
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

  /** Not for long: the next call may be another one's. */
  get client(): EventStoreDBClient {
    return this.#client;
  }

  /** Something has come from the server. */
  heard(): void {
    this.#heardAt = performance.now();
  }

  /**
   * A call was given up. When nothing else has come since it began (`performance.now()`) either, the other end may have vanished without a word, as
   * a machine does that loses its power; the client would hold on to it for 20 s. Whatever comes next takes a new connection, to who is there by then.
   */
  unanswered(client: EventStoreDBClient, since: number): void {
    if (client !== this.#client || this.#heardAt > since || performance.now() - since < MUTE_MS) return;
    this.#client = clientOf(this.library, this.#url);
    closed(client).catch(() => undefined);
  }

  /** The calls of one that was closed end as if they had come to their end. */
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
    // What the client throws about a wrong string carries the whole of it, with the password.
    if (!(error instanceof Error && 'connectionString' in error)) throw error;
  }
  if (!client) throw new Error('This is no connection string of an EventStoreDB, such as esdb://user:password@host:2113?tls=true');
  // The client would send appends over one long-lived call: it forgets their deadlines when the server hangs, keeps the outcome of its first look
  // at the server's abilities even when that was an error, and throws outside of any promise when an answer follows a lost call. A call for
  // each append has none of this, and is what the client does with servers that have no such long call.
  return Object.assign(client, { supports: async () => false });
}

/**
 * The channel comes first: what hangs may never be disposed of, and channels to the same address share their connections as long as one of them
 * is open. The client itself leaves it open, and has no public way to it.
 */
async function closed(client: EventStoreDBClient): Promise<void> {
  const { getChannel } = client as unknown as { getChannel(): Promise<{ close(): void }> };
  const disposed = client.dispose();
  (await getChannel()).close();
  await disposed;
}

/** A read, or a subscription that is left once there is enough. */
type Answers = {
  on(event: string, listener: (answer: unknown) => void): unknown;
  off(event: string, listener: (answer: unknown) => void): unknown;
  resume(): unknown;
} & ({ cancel(): Promise<void> } | { unsubscribe(): Promise<void> });

/** What is still on its way is let pass: the client takes a call for ended only when nothing of it is left unread. */
export const stop = (answers: Answers): void => {
  answers.resume();
  ('cancel' in answers ? answers.cancel() : answers.unsubscribe()).catch(() => undefined);
};

/** Resolves when there is no more, or when `enough` says so of an answer; rejects after `patience` milliseconds without a sign of life. */
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

/** Rejects when the work takes longer; it may still be done then. */
export async function within<T>(milliseconds: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => { timer = setTimeout(() => reject(doesNotAnswer()), milliseconds); });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** By a call that has a deadline of its own. */
export const isUnanswered = (error: unknown): boolean => kindOf(error) === 'deadline-exceeded' || (error instanceof Error && 'code' in error && error.code === DEADLINE_EXCEEDED);

export const doesNotAnswer = () => refuse('UNAVAILABLE', 'The event store does not answer');

/** The client's kinds of error, as it names them in `type`. */
export const kindOf = (error: unknown): string | undefined => (error instanceof Error && 'type' in error ? String(error.type) : undefined);

/** What the callers of the port are told: whatever is the connection's fault passes. */
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
 * itself: commit and prepare position are the same, grow from event to event, and any event's is a place to go on from. (`prepare` as the server
 * tells it is the first event's of the append; it is not used.) Throws beyond 2^53, which is nine petabytes.
 */
export function positionOf(at: { readonly commit: bigint } | undefined): Position {
  if (at === undefined) throw new Error('This EventStoreDB does not tell the positions of events; it takes 22.10 or a newer one');
  if (at.commit > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError(`Position ${at.commit} of the log is beyond 2^53: Keyledger cannot count that far`);
  return Number(at.commit);
}

/** For questions about what comes after (or, backwards, before) the event there. */
export const placeOf = (position: Position): 'start' | { commit: bigint; prepare: bigint } =>
  (position === 0 ? 'start' : { commit: BigInt(position), prepare: BigInt(position) });
