import { Injectable } from '@nestjs/common';
import { context, mayHaveOwnTime, runIn, systemContext, type ActivationId, type Clock, type Instant } from '@keyledger/kernel';
import { StateDatabases, type Migration } from '@keyledger/read-models';

export const lastSeenTable: Migration = {
  name: 'activation-1-last-seen',
  up: ({ run }) => run('create table activation_last_seen (activation_id text primary key, last_seen_at text not null)'),
};

const flushEveryMs = 1000;

/** When each instance was last heard of: observed, not decided, so it is a row, written once a second for all instances heard of in it. */
@Injectable()
export class LastSeenLedger {
  /** By environment: times not yet on their way to the disk, and those on it. */
  #fresh = new Map<string, Map<ActivationId, Instant>>();
  #writing: ReadonlyMap<string, ReadonlyMap<ActivationId, Instant>> = new Map();
  #flushing: Promise<void> | undefined;
  readonly #timer = setInterval(() => void this.flush(), flushEveryMs).unref();

  constructor(private readonly databases: StateDatabases, private readonly clock: Clock, private readonly onError: (error: unknown) => void) {}

  /** Where the clock can be moved it resolves once written: there an hour may pass within the second until the next write. */
  see(activationId: ActivationId, at: Instant): Promise<void> | undefined {
    const { environment } = context();
    let fresh = this.#fresh.get(environment);
    if (!fresh) this.#fresh.set(environment, (fresh = new Map()));
    fresh.set(activationId, at);
    return mayHaveOwnTime(environment) ? this.#written() : undefined;
  }

  async of(activationIds: readonly ActivationId[]): Promise<Record<ActivationId, Instant>> {
    if (activationIds.length === 0) return {};
    const { environment } = context();
    // Taken before the rows are read: times written meanwhile are in one of the two.
    const unwritten = [this.#writing.get(environment), this.#fresh.get(environment)];
    const { rows } = await this.databases.here().run<{ activation_id: ActivationId; last_seen_at: Instant }>(
      `select activation_id, last_seen_at from activation_last_seen where activation_id in (${activationIds.map(() => '?').join(', ')})`, activationIds);
    const seen = Object.fromEntries(rows.map((row) => [row.activation_id, row.last_seen_at])) as Record<ActivationId, Instant>;
    for (const id of activationIds) {
      for (const known of unwritten) {
        const at = known?.get(id);
        // Another process may have heard of it later, and written that already.
        if (at && !((seen[id] ?? '') > at)) seen[id] = at;
      }
    }
    return seen;
  }

  /** Writes the times there are now, one flush at a time. Newer times wait for the next flush, and so do those that cannot be written. */
  flush(): Promise<void> {
    return (this.#flushing ??= this.#flush().finally(() => (this.#flushing = undefined)));
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#written();
  }

  async #written(): Promise<void> {
    await this.#flushing;
    await this.flush();
  }

  async #flush(): Promise<void> {
    const writing = this.#fresh;
    [this.#writing, this.#fresh] = [writing, new Map()];
    for (const [environment, seen] of writing) {
      try {
        await runIn(systemContext(environment, this.clock.now(environment)), () => this.#write(seen));
      } catch (error) {
        this.#fresh.set(environment, new Map([...seen, ...(this.#fresh.get(environment) ?? [])]));
        this.onError(error);
      }
    }
    this.#writing = new Map();
  }

  async #write(seen: ReadonlyMap<ActivationId, Instant>): Promise<void> {
    await this.databases.here().batch([{
      sql: `insert into activation_last_seen (activation_id, last_seen_at) values (?, ?) on conflict (activation_id) do update set last_seen_at = excluded.last_seen_at
        where excluded.last_seen_at > activation_last_seen.last_seen_at`,
      // In order: two processes that write the same rows must not wait for each other.
      many: [...seen].sort(([one], [other]) => (one < other ? -1 : 1)),
    }]);
  }
}
