import { License } from '@keyledger/domain';
import { Aggregates, EventStores, SnapshotStores } from '@keyledger/event-store';
import { PerEnvironment, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { MessageClient } from '@keyledger/messaging';
import { VerdictCache } from './verdict-cache.ts';

/** A verdict cache for each environment. */
export class VerdictCaches extends PerEnvironment<VerdictCache> {
  static async open(events: EventStores, keyrings: Keyrings, messages: MessageClient, snapshots: SnapshotStores): Promise<VerdictCaches> {
    // A changed license is read on from its fold. The states are those that the cache keeps, so the folds take less than 1 KB each.
    const licenses = new Aggregates(License, events, keyrings, { snapshots, maxFolds: 10_000 });
    const load = (licenseId: LicenseId) => licenses.load(licenseId);
    return new VerdictCaches(await Promise.all([...events.entries()].map(async ([environment, store]) =>
      [environment, new VerdictCache(keyrings.of(environment), messages, store, load, await store.head())] as const)));
  }

  async close(): Promise<void> {
    await Promise.all([...this.entries()].map(([, cache]) => cache.close()));
  }
}
