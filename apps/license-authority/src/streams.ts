import { License, type LicenseCommand, type LicenseEvent, type LicenseState } from '@keyledger/domain';
import { Aggregates, EventStores, SnapshotStores } from '@keyledger/event-store';
import { Keyrings } from '@keyledger/keyring';
import { Injectable } from '@nestjs/common';

/** The license streams. No other service writes them. */
@Injectable()
export class Licenses extends Aggregates<LicenseState, LicenseCommand, LicenseEvent> {
  constructor(events: EventStores, keyrings: Keyrings, snapshots: SnapshotStores) {
    super(License, events, keyrings, { snapshots });
  }
}
