import { PerEnvironment } from '@keyledger/kernel';
import type { EventStore } from './port.ts';

/** The log of each environment; `here()` is the one of the current message's. */
export class EventStores extends PerEnvironment<EventStore> {}
