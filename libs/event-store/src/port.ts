import type { Instant, JsonObject } from '@keyledger/kernel';

/** Place in the whole log of one environment. Grows with commit order; readers may not assume that it is dense. 0 is before the first event. */
export type Position = number;

export interface NewEvent {
  /** UUID. An append whose first event id is already in the stream changes nothing and gets the first answer again. */
  readonly id: string;
  readonly type: string;
  readonly data: JsonObject;
  readonly metadata: JsonObject;
}

export interface RecordedEvent extends NewEvent {
  readonly stream: string;
  /** 0 for a stream's first event. */
  readonly revision: number;
  readonly position: Position;
  readonly recordedAt: Instant;
}

/** Revision of the stream's last event as the writer knows it; NO_STREAM when there must be none. */
export type ExpectedRevision = number | 'any';
export const NO_STREAM = -1;

export interface Appended {
  /** Of the last event appended. */
  readonly revision: number;
  readonly position: Position;
  /** True when the events were there before. */
  readonly duplicate: boolean;
}

export class WrongExpectedRevision extends Error {
  override readonly name = 'WrongExpectedRevision';
  readonly stream: string;
  readonly actual: number;

  constructor(stream: string, expected: number, actual: number) {
    super(`${stream}: expected revision ${expected}, found ${actual}`);
    this.stream = stream;
    this.actual = actual;
  }
}

/**
 * Takes what its subscriber follows of the log up to and with the position `upTo`: perhaps nothing. `passed`: how many events of the log that were
 * since the batch before, whoever follows them.
 */
export type Handler = (events: readonly RecordedEvent[], upTo: Position, passed: number) => void | Promise<void>;

/** Events that a subscriber wants. What nobody wants in a process need not come there. */
export interface Follows {
  /** Of the streams `<category>-…`. */
  readonly category: string;
  /** Default: all. */
  readonly types?: readonly string[];
  /** Without `data` and `metadata`: these may be missing, and then throw. Default: false. */
  readonly bare?: boolean;
}

export interface Subscription {
  /** The handler has finished up to this position. */
  readonly position: Position;
  /** A reader waits for this position: hand it over without gathering more events. */
  hurry?(position: Position): void;
  /** Ends it; resolves when the handler is no longer running. */
  close(): Promise<void>;
}

/** The log of one environment. Append-only: nothing here changes or removes an event. */
export interface EventStore {
  /** All events or none, durable before it resolves. Rejects with WrongExpectedRevision. */
  append(stream: string, expected: ExpectedRevision, events: readonly NewEvent[]): Promise<Appended>;
  /** Events of the stream from a revision (0) on, oldest first, at most `limit` (1000). None when there is no such stream. */
  readStream(stream: string, options?: { from?: number; limit?: number }): Promise<readonly RecordedEvent[]>;
  /**
   * Events of all streams of a category, stream by stream, each stream's oldest first, at most `limit` (1000), after the given one.
   * Only if the store has them in that order; a read model is built from nothing this way without folding any stream twice.
   */
  readByStream?(category: string, after?: Pick<RecordedEvent, 'stream' | 'revision'>, limit?: number): Promise<readonly RecordedEvent[]>;
  /** Events after a position in log order, at most `limit` (1000). */
  readAll(after: Position, limit?: number): Promise<readonly RecordedEvent[]>;
  /**
   * Hands over every event after a position that the subscriber follows (default: all), in order, then every new one, until closed: it survives a
   * lost connection or server. Waits for the handler before the next batch; a handler that throws gets the same batch again, after a pause.
   */
  subscribe(after: Position, handler: Handler, follows?: readonly Follows[]): Subscription;
  /** Position of the last event. A number where it is known without asking (the embedded store). */
  head(): Position | Promise<Position>;
  /**
   * Takes over events as another store has recorded them: positions, revisions and times are kept. In log order, after all events here,
   * each the next one of its stream; all or none, durable before it resolves. For moving a log into a store that has no other writer
   * yet, and only if the store accepts positions given by the caller.
   */
  restore?(events: readonly RecordedEvent[]): Promise<void>;
  close(): Promise<void>;
}
