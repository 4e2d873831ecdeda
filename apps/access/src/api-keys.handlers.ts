import { Authenticate, CreateApiKey, DeleteApiKey, GetApiKey, RotateApiKey } from '@keyledger/contracts';
import { apiKeyView, mayGrant, permissionsOf, type ApiKeyState } from '@keyledger/domain';
import { Clock, context, controlEnvironment, environments, newId, refuse, runIn, type ApiKeyId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles } from '@keyledger/messaging';
import { LRUCache } from 'lru-cache';
import { ApiKeyTable } from './api-keys.queries.ts';
import { secretHash } from './secrets.ts';
import { AccessStreams } from './streams.ts';

const view = (state: ApiKeyState | null, revision: number) => {
  if (!state || state.deleted) throw refuse('API_KEY_NOT_FOUND');
  return { ...apiKeyView(state), permissions: [...apiKeyView(state).permissions], revision };
};

@Handles(CreateApiKey, RotateApiKey, DeleteApiKey)
export class ApiKeyCommands {
  constructor(private readonly streams: AccessStreams, private readonly keyrings: Keyrings, private readonly clock: Clock) {}

  async execute(command: CreateApiKey | RotateApiKey | DeleteApiKey) {
    if (command instanceof CreateApiKey) return this.#create(command);
    if (command instanceof RotateApiKey) return this.#rotate(command);
    await this.streams.apiKeys.run(command.apiKeyId, { type: 'Delete' });
    return null;
  }

  /** In the environment that the key is for: a root key may create keys for any. */
  async #create({ environment = context().environment, ...command }: CreateApiKey) {
    mayGrant(context().actor.permissions, command);
    await this.streams.mustReach(environment);
    await this.clock.current?.(environment);
    return runIn({ ...context(), environment, now: this.clock.now(environment) }, async () => {
      const apiKeyId = newId('key');
      const secret = this.#secret(apiKeyId);
      const answer = await this.streams.apiKeys.run(apiKeyId, { type: 'Create', apiKeyId, ...command, environment, secretHash: secretHash(secret) }, view);
      return { ...answer, secret };
    });
  }

  /** The secret gives all permissions of the key, so creating a new secret means granting them. */
  async #rotate({ apiKeyId }: RotateApiKey) {
    const { permissions } = await this.streams.apiKeys.load(apiKeyId, view);
    mayGrant(context().actor.permissions, { permissions });
    const secret = this.#secret(apiKeyId);
    return { ...(await this.streams.apiKeys.run(apiKeyId, { type: 'Rotate', secretHash: secretHash(secret) }, view)), secret };
  }

  /** Derived from the command, so that the retry of a request whose answer was lost shows the secret that is in force. */
  #secret(apiKeyId: ApiKeyId): string {
    const { environment, commandId } = context();
    return `lk_${environment}_${apiKeyId.slice(4, 12)}_${this.keyrings.here().hmac('api-key-secret', `${commandId}/${apiKeyId}`)}`;
  }
}

@Handles(GetApiKey)
export class ApiKeyQuery {
  constructor(private readonly streams: AccessStreams) {}

  execute({ apiKeyId }: GetApiKey) {
    return this.streams.apiKeys.load(apiKeyId, view);
  }
}

/**
 * Finds the key with a secret. The stream to read is cached; whether the key is still valid is read from that stream every time, so a deleted or
 * rotated key stops working with the next request.
 */
@Handles(Authenticate)
export class Authentication {
  readonly #known = new LRUCache<string, { environment: string; apiKeyId: ApiKeyId }>({ maxSize: 10_000, sizeCalculation: () => 1 });

  constructor(private readonly streams: AccessStreams, private readonly table: ApiKeyTable, private readonly clock: Clock) {}

  async execute({ secret }: Authenticate) {
    const hash = secretHash(secret);
    const place = this.#known.get(hash) ?? (await this.#look(secret, hash));
    if (!place) return null;
    const { environment, apiKeyId } = place;
    // The message comes in the context of control; the key expires by the time of its environment.
    const clockIsSet = this.clock.current?.(environment);
    if (clockIsSet) await clockIsSet;
    const now = this.clock.now(environment);
    return runIn({ ...context(), environment }, () => this.streams.apiKeys.load(apiKeyId, (key) => {
      if (key?.secretHash !== hash) return null;
      const permissions = [...permissionsOf(key, now)];
      return permissions.length > 0 ? { apiKeyId, environment: key.root ? null : key.environment, role: key.role, permissions } : null;
    }));
  }

  async #look(secret: string, hash: string) {
    const named = environments.find((name) => secret.startsWith(`lk_${name}_`));
    // A root key chosen by the operator may begin like any other key.
    for (const environment of named ? [named, controlEnvironment] : [controlEnvironment]) {
      const apiKeyId = await runIn({ ...context(), environment }, () => this.table.bySecretHash(hash));
      if (!apiKeyId) continue;
      const place = { environment, apiKeyId };
      this.#known.set(hash, place);
      return place;
    }
    return undefined;
  }
}
