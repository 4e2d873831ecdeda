import { addSeconds, refuse, type Aggregate, type Instant, type WebhookEndpointId } from '@keyledger/kernel';
import { changes } from '../metadata.ts';
import type { WebhookFilter } from './types.ts';

/** The newest secret has no end; older ones sign beside it until `validUntil`. */
export interface WebhookSecret {
  /** `whsec_` and 32 bytes in base64; null once the endpoint's data key has been destroyed. */
  readonly secret: string | null;
  readonly validUntil: Instant | null;
}
/** `failing`: the endpoint has accepted nothing for days. `gone`: it answered 410. */
export type DisabledBy = 'manual' | 'failing' | 'gone';

/** An address of the vendor's own software that events are sent to. null before it was created. */
export type WebhookEndpointState = Readonly<{
  id: WebhookEndpointId; url: string | null; events: readonly WebhookFilter[]; description: string | null; disabledBy: DisabledBy | null;
  /** Newest first. */
  secrets: readonly WebhookSecret[];
  createdAt: Instant; deleted: boolean;
}>;

type Changeable = { readonly url: string | null; readonly events: readonly WebhookFilter[]; readonly description: string | null };
export type WebhookEndpointCommand =
  | { readonly type: 'Create'; readonly endpointId: WebhookEndpointId; readonly url: string; readonly events: readonly WebhookFilter[]; readonly description?: string | null; readonly secret: string }
  | { readonly type: 'Update'; readonly url?: string; readonly events?: readonly WebhookFilter[]; readonly description?: string | null; readonly enabled?: boolean }
  | { readonly type: 'RotateSecret'; readonly secret: string }
  /** The result of its answers. */
  | { readonly type: 'Disable'; readonly cause: 'failing' | 'gone' }
  | { readonly type: 'Delete' };

/** An address may contain a password of the receiver, so it is sealed like the secrets. */
export type WebhookEndpointEvent =
  | { readonly type: 'WebhookEndpointCreated'; readonly endpointId: WebhookEndpointId; readonly secret: string | null } & Changeable
  | { readonly type: 'WebhookEndpointChanged' } & Partial<Changeable>
  | { readonly type: 'WebhookSecretRotated'; readonly secret: string | null }
  | { readonly type: 'WebhookEndpointDisabled'; readonly cause: DisabledBy }
  | { readonly type: 'WebhookEndpointEnabled' }
  | { readonly type: 'WebhookEndpointDeleted' };

/** So long after a rotation both secrets sign: time to give the receiver the new one. */
export const OLD_SECRET_SECONDS = 86_400;
/** Even if rotated more often in a day: each secret makes the header longer. */
const MAX_OLD_SECRETS = 4;

export const WebhookEndpoint: Aggregate<WebhookEndpointState | null, WebhookEndpointCommand, WebhookEndpointEvent> = {
  category: 'webhook',
  stateVersion: 1,
  shapes: {
    WebhookEndpointCreated: { schema: 1, sealed: ['url', 'secret'] }, WebhookEndpointChanged: { schema: 1, sealed: ['url'] }, WebhookSecretRotated: { schema: 1, sealed: ['secret'] },
    WebhookEndpointDisabled: { schema: 1 }, WebhookEndpointEnabled: { schema: 1 }, WebhookEndpointDeleted: { schema: 1 },
  },
  initial: () => null,

  decide(endpoint, command) {
    switch (command.type) {
      case 'Create': {
        const { endpointId, url, events, description = null, secret } = command;
        return endpoint ? [] : [{ type: 'WebhookEndpointCreated', endpointId, url, events, description, secret }];
      }
      case 'Update': return updated(existing(endpoint), command);
      case 'RotateSecret': return existing(endpoint).secrets[0]?.secret === command.secret ? [] : [{ type: 'WebhookSecretRotated', secret: command.secret }];
      case 'Disable': return !endpoint || endpoint.deleted || endpoint.disabledBy ? [] : [{ type: 'WebhookEndpointDisabled', cause: command.cause }];
      case 'Delete': {
        existing(endpoint);
        return [{ type: 'WebhookEndpointDeleted' }];
      }
    }
  },

  evolve(endpoint, event, { at }) {
    switch (event.type) {
      case 'WebhookEndpointCreated': {
        const { endpointId: id, url, events, description, secret } = event;
        return { id, url, events, description, disabledBy: null, secrets: [{ secret, validUntil: null }], createdAt: at, deleted: false };
      }
      case 'WebhookEndpointChanged': {
        const { type: _, ...change } = event;
        return endpoint && { ...endpoint, ...change };
      }
      case 'WebhookSecretRotated': return endpoint && { ...endpoint, secrets: [{ secret: event.secret, validUntil: null }, ...retired(endpoint, at)] };
      case 'WebhookEndpointDisabled': return endpoint && { ...endpoint, disabledBy: event.cause };
      case 'WebhookEndpointEnabled': return endpoint && { ...endpoint, disabledBy: null };
      case 'WebhookEndpointDeleted': return endpoint && { ...endpoint, deleted: true };
    }
  },
};

/** Refuses with WEBHOOK_ENDPOINT_NOT_FOUND, also for a deleted one. */
export function existing(endpoint: WebhookEndpointState | null): WebhookEndpointState {
  if (!endpoint || endpoint.deleted) throw refuse('WEBHOOK_ENDPOINT_NOT_FOUND');
  return endpoint;
}

/** Refuses with WEBHOOK_ENDPOINT_DISABLED if nothing would be sent. */
export function enabled(endpoint: WebhookEndpointState | null): WebhookEndpointState {
  const { disabledBy } = existing(endpoint);
  if (disabledBy) throw refuse('WEBHOOK_ENDPOINT_DISABLED', 'The endpoint is disabled; enable it first', { disabledBy });
  return existing(endpoint);
}

function updated(endpoint: WebhookEndpointState, { url, events, description, enabled }: WebhookEndpointCommand & { type: 'Update' }): readonly WebhookEndpointEvent[] {
  const change = changes<Changeable>(endpoint, { url, events, description });
  const isEnabled = endpoint.disabledBy === null;
  return [
    ...(change ? [{ type: 'WebhookEndpointChanged', ...change } as const] : []),
    ...(enabled === undefined || enabled === isEnabled ? [] : [enabled ? { type: 'WebhookEndpointEnabled' } as const : { type: 'WebhookEndpointDisabled', cause: 'manual' } as const]),
  ];
}

const retired = (endpoint: WebhookEndpointState, at: Instant): readonly WebhookSecret[] =>
  goodAt(endpoint, at).slice(0, MAX_OLD_SECRETS).map((old) => ({ ...old, validUntil: old.validUntil ?? addSeconds(at, OLD_SECRET_SECONDS) }));
const goodAt = ({ secrets }: WebhookEndpointState, now: Instant): readonly WebhookSecret[] => secrets.filter(({ validUntil }) => validUntil === null || now < validUntil);

/** All secrets that sign now, newest first. */
export const signingSecrets = (endpoint: WebhookEndpointState, now: Instant): readonly string[] => goodAt(endpoint, now).flatMap(({ secret }) => secret ?? []);

export const webhookEndpointView = (endpoint: WebhookEndpointState, now: Instant) => {
  const { id, url, events, description, disabledBy, createdAt } = endpoint;
  return { id, url: url ?? '', events, description, enabled: disabledBy === null, disabledBy, oldSecretValidUntil: goodAt(endpoint, now)[1]?.validUntil ?? null, createdAt };
};
