import { License, type LicenseCommand, type LicenseEvent, type LicenseState } from '@keyledger/domain';
import { Aggregates, EventStores, SnapshotStores } from '@keyledger/event-store';
import { Keyrings } from '@keyledger/keyring';

/** The license streams. Nobody else writes them. */
export class Licenses extends Aggregates<LicenseState, LicenseCommand, LicenseEvent> {
  constructor(events: EventStores, keyrings: Keyrings, snapshots: SnapshotStores) {
    super(License, events, keyrings, { snapshots });
  }
}
