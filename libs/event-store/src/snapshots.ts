import { createHash } from 'node:crypto';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { deserialize, serialize } from 'node:v8';
import type { Aggregate, JsonObject, Sealer } from '@keyledger/kernel';

/** A stored fold. It is a cache: a snapshot that is missing, of another version, shredded or of another history is ignored. */
export interface Snapshot {
  readonly revision: number;
  /** Id of the event at that revision: proof that the snapshot belongs to the stream as it is now (and not as it was before a restore). */
  readonly eventId: string;
  /** Of the state's shape and of the code that made it; see `versionOf`. */
  readonly version: string;
  /** Sealed under the stream's subject: a state holds in clear what its events hold sealed. */
  readonly sealed: string;
}

export interface SnapshotStore {
  get(stream: string): Promise<Snapshot | undefined>;
  put(stream: string, snapshot: Snapshot): Promise<void>;
}

/** Raise it after a fault in folding itself: no older snapshot is used. */
const FOLDS = 2;

/** Changes with `stateVersion` and, as a safety net, with the text of `evolve` and of the upcasts. */
export function versionOf<State, Command extends { type: string }, Event extends { type: string }>(aggregate: Aggregate<State, Command, Event>): string {
  const { stateVersion, evolve, shapes } = aggregate;
  const code = JSON.stringify(shapes, (_, value: unknown) => (typeof value === 'function' ? String(value) : value));
  return `${FOLDS}.${stateVersion}-${createHash('sha256').update(String(evolve)).update(code).digest('base64url').slice(0, 16)}`;
}

/** Copies the state at the call; the fold moves on. */
export const packState = (state: unknown): JsonObject => ({ state: serialize(state).toString('base64') });

/** undefined when it cannot be opened: its subject's key is destroyed, or it is damaged. The stream can always be replayed. */
export function openState<State>(sealer: Sealer, subject: string, { sealed }: Snapshot): { readonly state: State } | undefined {
  try {
    const packed = sealer.open(subject, sealed);
    return packed ? { state: deserialize(Buffer.from(String(packed.state), 'base64')) as State } : undefined;
  } catch {
    return undefined;
  }
}

/** For aggregates that keep no secrets. */
export const unsealed: Sealer = {
  seal: (_, value) => JSON.stringify(value),
  open: (_, text) => JSON.parse(text) as JsonObject,
};

/** Snapshots in a database file of their own, one per environment. It may be deleted at any time. */
export class SqliteSnapshots implements SnapshotStore {
  readonly #db: DatabaseSync;
  readonly #get: StatementSync;
  readonly #put: StatementSync;

  constructor(file: string) {
    this.#db = new DatabaseSync(file);
    this.#db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
      CREATE TABLE IF NOT EXISTS snapshots (
        stream TEXT PRIMARY KEY, revision INTEGER NOT NULL, event_id TEXT NOT NULL, version TEXT NOT NULL, sealed TEXT NOT NULL) STRICT`);
    this.#get = this.#db.prepare('SELECT revision, event_id AS eventId, version, sealed FROM snapshots WHERE stream = ?');
    this.#put = this.#db.prepare('INSERT OR REPLACE INTO snapshots (stream, revision, event_id, version, sealed) VALUES (?, ?, ?, ?, ?)');
  }

  async get(stream: string): Promise<Snapshot | undefined> {
    return this.#get.get(stream) as Snapshot | undefined;
  }

  async put(stream: string, { revision, eventId, version, sealed }: Snapshot): Promise<void> {
    this.#put.run(stream, revision, eventId, version, sealed);
  }

  close(): void {
    this.#db.close();
  }
}
