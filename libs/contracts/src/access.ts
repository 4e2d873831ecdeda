import { permissions as allPermissions, roles, type Permission, type Role } from '@keyledger/kernel';
import Type, { type Static } from 'typebox';
import { instant, listOf, name, named, nullable, optional, pageOf, paging } from './fields.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';

const role = Type.Unsafe<Role>(Type.String({ enum: Object.keys(roles) }));
const permission = Type.Unsafe<Permission>(Type.String({ enum: [...allPermissions] }));
const permissions = listOf(permission);

export const ApiKeyView = named('ApiKey', Type.Object({
  id: ids.apiKey, name: Type.String(), role: nullable(role), permissions, environment: Type.String(),
  expiresAt: nullable(instant), createdAt: instant, rotatedAt: nullable(instant), revision: Type.Integer(),
}));
export type ApiKeyView = Static<typeof ApiKeyView>;
/** The secret is shown here and never again. */
const ApiKeyWithSecret = named('ApiKeyWithSecret', Type.Object({ ...ApiKeyView.properties, secret: Type.String() }));
/** Either a role or a list of permissions. A caller cannot grant a permission it does not have. */
export class CreateApiKey extends command('api-key.create', {
  name, role: optional(role), permissions: optional(listOf(permission, { minItems: 1 })), environment: optional(Type.String({ minLength: 1, maxLength: 64 })), expiresAt: optional(nullable(instant)),
}, ApiKeyWithSecret) {}
export class ListApiKeys extends query('api-key.list', { ...paging }, pageOf(ApiKeyView)) {}
export class GetApiKey extends query('api-key.get', { apiKeyId: ids.apiKey }, ApiKeyView) {}
export class RotateApiKey extends command('api-key.rotate', { apiKeyId: ids.apiKey }, ApiKeyWithSecret) {}
export class DeleteApiKey extends command('api-key.delete', { apiKeyId: ids.apiKey }, Type.Null()) {}

export class ListEnvironments extends query('environment.list', {}, Type.Object({
  data: listOf(Type.Object({ name: Type.String(), createdAt: instant })),
})) {}

export const ClockView = named('Clock', Type.Object({
  now: instant,
  controlled: Type.Boolean({ description: 'True when the clock has been set and runs on from there; otherwise it is real time' }),
}));
export class GetClock extends query('environment.clock', { name: Type.String() }, ClockView) {}
/** Forward only; refused in production. */
export class SetClock extends command('environment.set-clock', { name: Type.String(), now: instant }, ClockView) {
  readonly type = 'SetClock';
}
export class AdvanceClock extends command('environment.advance-clock', { name: Type.String(), seconds: Type.Number({ minimum: 0 }) }, ClockView) {
  readonly type = 'AdvanceClock';
}

/** The API key with this secret; null when there is none, or no longer. `environment` is null for a root key, which is valid in all of them. */
export class Authenticate extends query('access.authenticate', { secret: Type.String() }, nullable(Type.Object({
  apiKeyId: ids.apiKey, environment: nullable(Type.String()), role: nullable(role), permissions,
}))) {
  static override readonly direct = true;
}

/**
 * Claims an Idempotency-Key for one request. `run`: do it under this command id (`retry` when an earlier try may have had effects);
 * `done`: this was the answer.
 */
export class ClaimRequest extends command('access.claim-request', {
  caller: Type.String(), route: Type.String(), key: Type.String(), bodyHash: Type.String(),
}, Type.Union([
  Type.Object({ state: Type.Literal('run'), commandId: Type.String(), commandAt: instant, retry: Type.Boolean() }),
  Type.Object({ state: Type.Literal('done'), status: Type.Integer(), body: Type.String(), headers: Type.Record(Type.String(), Type.String()) }),
])) {}
/** Stores the answer of a claimed request; answers what is stored, which is the first answer given. Status 0 releases the claim. */
export class CompleteRequest extends command('access.complete-request', {
  caller: Type.String(), route: Type.String(), key: Type.String(), status: Type.Integer(), body: Type.String(), headers: Type.Record(Type.String(), Type.String()),
}, Type.Object({ status: Type.Integer(), body: Type.String(), headers: Type.Record(Type.String(), Type.String()) })) {}
