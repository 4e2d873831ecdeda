import { ApiKey, Environment } from '@keyledger/domain';
import { Aggregates, type EventStores } from '@keyledger/event-store';
import { context, controlEnvironment, environments, refuse, runIn, type ApiKeyId } from '@keyledger/kernel';
import type { Keyrings } from '@keyledger/keyring';

/** The streams that only access writes. */
export class AccessStreams {
  readonly apiKeys;
  readonly environments;

  constructor(events: EventStores, keyrings: Keyrings) {
    this.apiKeys = new Aggregates(ApiKey, events, keyrings);
    this.environments = new Aggregates(Environment, events, keyrings);
  }

  /** Refuses unless the environment exists and the caller's key belongs to it or is a root key. */
  async mustReach(environment: string): Promise<void> {
    if (!(environments as readonly string[]).includes(environment)) throw refuse('ENVIRONMENT_NOT_FOUND');
    const { environment: own, actor } = context();
    if (environment !== own && !(await this.#isRoot(actor.id as ApiKeyId))) throw refuse('ENVIRONMENT_FORBIDDEN');
  }

  #isRoot(apiKeyId: ApiKeyId): Promise<boolean> {
    return runIn({ ...context(), environment: controlEnvironment }, async () => (await this.apiKeys.load(apiKeyId)).state?.root === true);
  }
}
