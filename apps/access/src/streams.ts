import { ApiKey, Environment } from '@keyledger/domain';
import { Aggregates, type EventStores } from '@keyledger/event-store';
import type { Keyrings } from '@keyledger/keyring';

/** The streams that access alone writes. */
export class AccessStreams {
  readonly apiKeys;
  readonly environments;

  constructor(events: EventStores, keyrings: Keyrings) {
    this.apiKeys = new Aggregates(ApiKey, events, keyrings);
    this.environments = new Aggregates(Environment, events, keyrings);
  }
}
