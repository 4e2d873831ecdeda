import { Injectable } from '@nestjs/common';
import { context, runIn, systemContext, type ActivationId, type Clock, type Instant } from '@keyledger/kernel';
import { StateDatabases, type Migration } from '@keyledger/read-models';

export const lastSeenTable: Migration = {
  name: 'activation-1-last-seen',
  up: ({ run }) => run('create table activation_last_seen (activation_id text primary key, last_seen_at text not null)'),
};

const flushEveryMs = 1000;

/** When each instance was last heard of: observed, not decided, so it is a row, written once a second for all that were heard of in it. */
@Injectable()
export class LastSeenLedger {
  readonly #fresh = new Map<string, Map<ActivationId, Instant>>();
  readonly #timer = setInterval(() => void this.flush(), flushEveryMs).unref();

  constructor(private readonly databases: StateDatabases, private readonly clock: Clock, private readonly onError: (error: unknown) => void) {}

  see(activationId: ActivationId, at: Instant): void {
    const { environment } = context();
    let fresh = this.#fresh.get(environment);
    if (!fresh) this.#fresh.set(environment, (fresh = new Map()));
    fresh.set(activationId, at);
  }

  async of(activationIds: readonly ActivationId[]): Promise<Record<ActivationId, Instant>> {
    if (activationIds.length === 0) return {};
    const { rows } = await this.databases.here().run<{ activation_id: ActivationId; last_seen_at: Instant }>(
      `select activation_id, last_seen_at from activation_last_seen where activation_id in (${activationIds.map(() => '?').join(', ')})`, activationIds);
    const seen = Object.fromEntries(rows.map((row) => [row.activation_id, row.last_seen_at])) as Record<ActivationId, Instant>;
    const fresh = this.#fresh.get(context().environment);
    for (const id of activationIds) {
      const at = fresh?.get(id);
      // Another process may have heard of it later, and written that down already.
      if (at && !((seen[id] ?? '') > at)) seen[id] = at;
    }
    return seen;
  }

  /** What cannot be written now is kept for the next time, unless it was seen again meanwhile. */
  async flush(): Promise<void> {
    for (const [environment, fresh] of this.#fresh) {
      this.#fresh.delete(environment);
      try {
        await runIn(systemContext(environment, this.clock.now(environment)), () => this.#write(fresh));
      } catch (error) {
        this.#fresh.set(environment, new Map([...fresh, ...(this.#fresh.get(environment) ?? [])]));
        this.onError(error);
      }
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.flush();
  }

  async #write(seen: ReadonlyMap<ActivationId, Instant>): Promise<void> {
    await this.databases.here().batch([{
      sql: `insert into activation_last_seen (activation_id, last_seen_at) values (?, ?) on conflict (activation_id) do update set last_seen_at = excluded.last_seen_at
        where excluded.last_seen_at > activation_last_seen.last_seen_at`,
      many: [...seen],
    }]);
  }
}
