import { refuse, roles, type Aggregate, type ApiKeyId, type Instant, type Permission, type Role } from '@keyledger/kernel';
import { instantIn } from '../license/terms.ts';

/** A caller of the control plane. null before it was created. Only the SHA-256 of the secret is stored: it is random, so that is enough. */
export type ApiKeyState = Readonly<{
  id: ApiKeyId; name: string; role: Role | null; permissions: readonly Permission[]; environment: string; root: boolean; secretHash: string;
  expiresAt: Instant | null; createdAt: Instant; rotatedAt: Instant | null; deleted: boolean;
}>;

export type ApiKeyCommand =
  /** Either a role or permissions. A root key reaches every environment, whichever it is kept in. */
  | { readonly type: 'Create'; readonly apiKeyId: ApiKeyId; readonly name: string; readonly role?: Role; readonly permissions?: readonly Permission[];
      readonly environment: string; readonly secretHash: string; readonly expiresAt?: Instant | null; readonly root?: boolean }
  /** The old secret stops at once. */
  | { readonly type: 'Rotate'; readonly secretHash: string }
  | { readonly type: 'Delete' };

export type ApiKeyEvent =
  | { readonly type: 'ApiKeyCreated'; readonly apiKeyId: ApiKeyId; readonly name: string; readonly role: Role | null; readonly permissions: readonly Permission[];
      readonly environment: string; readonly secretHash: string; readonly expiresAt: Instant | null; readonly root: boolean }
  | { readonly type: 'ApiKeyRotated'; readonly secretHash: string }
  | { readonly type: 'ApiKeyDeleted' };

export const ApiKey: Aggregate<ApiKeyState | null, ApiKeyCommand, ApiKeyEvent> = {
  category: 'apikey',
  stateVersion: 1,
  shapes: { ApiKeyCreated: { schema: 1 }, ApiKeyRotated: { schema: 1 }, ApiKeyDeleted: { schema: 1 } },
  initial: () => null,

  decide(key, command, now) {
    if (command.type === 'Create') return key ? [] : [created(command, now)];
    if (!key) throw refuse('API_KEY_NOT_FOUND');
    switch (command.type) {
      case 'Rotate': {
        if (key.deleted) throw refuse('API_KEY_NOT_FOUND');
        return key.secretHash === command.secretHash ? [] : [{ type: 'ApiKeyRotated', secretHash: command.secretHash }];
      }
      case 'Delete': return key.deleted ? [] : [{ type: 'ApiKeyDeleted' }];
    }
  },

  evolve(key, event, { at }) {
    switch (event.type) {
      case 'ApiKeyCreated': {
        const { type: _, apiKeyId, ...rest } = event;
        return { id: apiKeyId, ...rest, createdAt: at, rotatedAt: null, deleted: false };
      }
      case 'ApiKeyRotated': return key && { ...key, secretHash: event.secretHash, rotatedAt: at };
      case 'ApiKeyDeleted': return key && { ...key, deleted: true };
    }
  },
};

function created(command: ApiKeyCommand & { type: 'Create' }, now: Instant): ApiKeyEvent {
  const { apiKeyId, name, role = null, permissions = [], environment, secretHash, root = false } = command;
  if ((role === null) === (command.permissions === undefined)) {
    throw refuse('VALIDATION_FAILED', 'Give either role or permissions', { errors: [{ pointer: '/role', detail: 'either role or permissions must be given' }] });
  }
  const expiresAt = command.expiresAt ? instantIn('expiresAt', command.expiresAt) : null;
  if (expiresAt !== null && expiresAt <= now) throw refuse('EXPIRY_IN_PAST', `${expiresAt} is not in the future`, { expiresAt });
  return { type: 'ApiKeyCreated', apiKeyId, name, role, permissions: [...new Set(permissions)], environment, secretHash, expiresAt, root };
}

/** What the key may do. Nothing once it has expired or was deleted. A role's permissions are today's, not those of the day it was given. */
export function permissionsOf(key: ApiKeyState | null, now: Instant): readonly Permission[] {
  if (!key || key.deleted || (key.expiresAt !== null && key.expiresAt <= now)) return [];
  return granted(key);
}

const granted = ({ role, permissions }: Pick<ApiKeyState, 'role' | 'permissions'>): readonly Permission[] => (role === null ? permissions : (roles[role] ?? []));

/** A caller cannot grant permissions it does not have: PERMISSION_DENIED with the first missing one. */
export function mayGrant(own: readonly Permission[], { role = null, permissions = [] }: { readonly role?: Role | null; readonly permissions?: readonly Permission[] }): void {
  const missing = granted({ role, permissions }).find((permission) => !own.includes(permission));
  if (missing) throw refuse('PERMISSION_DENIED', `Only a caller with ${missing} can grant it`, { permission: missing });
}

/** Without the secret's hash: it does not help a reader, but it would help an attacker who tries secrets offline. */
export const apiKeyView = (key: ApiKeyState) => {
  const { id, name, role, environment, expiresAt, createdAt, rotatedAt } = key;
  return { id, name, role, permissions: granted(key), environment, expiresAt, createdAt, rotatedAt };
};
