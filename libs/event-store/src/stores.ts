import { PerEnvironment } from '@keyledger/kernel';
import type { EventStore } from './port.ts';
import type { SnapshotStore } from './snapshots.ts';

/** The log of each environment; `here()` is the current message's. */
export class EventStores extends PerEnvironment<EventStore> {}

/** Where folds of long streams are stored, for each environment. */
export class SnapshotStores extends PerEnvironment<SnapshotStore> {}
