import { abuseActions, abusePatterns, holdCauses, signingPurposes, TEST_TYPE, webhookFilters, webhookTypes, type WebhookFilter, type WebhookType } from '@keyledger/domain';
import Type, { type Static, type TObject, type TProperties, type TSchema } from 'typebox';
import { instant, listOf, named, nullable, oneOf, optional, pageOf, paging, text } from './fields.ts';
import { command, query } from './message.ts';
import { ids } from './terms.ts';

const url = Type.String({ format: 'uri', minLength: 1, maxLength: 2048, description: 'https; addresses of the server itself and of private networks are refused' });
const filters = listOf(Type.Unsafe<WebhookFilter>(Type.String({ enum: [...webhookFilters] })), { minItems: 1, maxItems: 50 });
const description = nullable(text(1000));

export const WebhookEndpointView = named('WebhookEndpoint', Type.Object({
  id: ids.webhookEndpoint, url: Type.String(), events: filters, description, enabled: Type.Boolean(),
  disabledBy: nullable(Type.Unsafe<'manual' | 'failing' | 'gone'>(Type.String({ enum: ['manual', 'failing', 'gone'], description: 'failing: no delivery was accepted for three days; gone: it answered 410' }))),
  oldSecretValidUntil: nullable(Type.String({ format: 'date-time', description: 'After a rotation: both secrets sign until then' })),
  createdAt: instant, revision: Type.Integer(),
}));
export type WebhookEndpointView = Static<typeof WebhookEndpointView>;
/** The secret is shown here and never again. */
const WebhookEndpointWithSecret = named('WebhookEndpointWithSecret', Type.Object({ ...WebhookEndpointView.properties, secret: Type.String({ description: 'whsec_ and 32 bytes in base64' }) }));

export class CreateWebhookEndpoint extends command('webhook-endpoint.create', { url, events: filters, description: optional(description) }, WebhookEndpointWithSecret) {}
export class ListWebhookEndpoints extends query('webhook-endpoint.list', { ...paging }, pageOf(WebhookEndpointView)) {}
export class GetWebhookEndpoint extends query('webhook-endpoint.get', { endpointId: ids.webhookEndpoint }, WebhookEndpointView) {}
export class UpdateWebhookEndpoint extends command('webhook-endpoint.update', {
  endpointId: ids.webhookEndpoint, url: optional(url), events: optional(filters), description: optional(description), enabled: optional(Type.Boolean()),
}, WebhookEndpointView) {}
export class DeleteWebhookEndpoint extends command('webhook-endpoint.delete', { endpointId: ids.webhookEndpoint }, Type.Null()) {}
/** The old secret keeps signing beside the new one for a day. */
export class RotateWebhookSecret extends command('webhook-endpoint.rotate-secret', { endpointId: ids.webhookEndpoint }, WebhookEndpointWithSecret) {}

const deliveryStatus = oneOf('pending', 'delivered', 'failed');
export const WebhookDeliveryView = named('WebhookDelivery', Type.Object({
  id: ids.webhookDelivery, endpointId: ids.webhookEndpoint, type: Type.String(), timestamp: instant, status: deliveryStatus,
  attempts: Type.Integer({ description: 'Attempts so far, each with the same webhook-id: the id' }), nextAttemptAt: nullable(instant), lastAttemptAt: nullable(instant),
  responseStatus: nullable(Type.Integer({ description: 'HTTP status of the last answer' })), responseBody: nullable(Type.String({ description: 'The first 2 KB of the answer' })),
  error: nullable(Type.String({ description: 'Why there was no answer' })), durationMs: nullable(Type.Integer()),
  payload: Type.Object({}, { additionalProperties: true, description: 'The body as it is sent' }),
}));
export type WebhookDeliveryView = Static<typeof WebhookDeliveryView>;
export class TestWebhookEndpoint extends command('webhook-endpoint.test', { endpointId: ids.webhookEndpoint }, WebhookDeliveryView) {}
/** Failed deliveries, and events the endpoint was never sent while it was disabled. */
export class RecoverWebhookEndpoint extends command('webhook-endpoint.recover', { endpointId: ids.webhookEndpoint, since: instant },
  Type.Object({ since: instant, requeued: Type.Integer({ description: 'Number of failed deliveries queued again. Events never sent before are taken from the log and not counted' }) })) {}
export class ListWebhookDeliveries extends query('webhook-delivery.list', { endpointId: optional(ids.webhookEndpoint), status: optional(deliveryStatus), ...paging }, pageOf(WebhookDeliveryView)) {}
export class GetWebhookDelivery extends query('webhook-delivery.get', { deliveryId: ids.webhookDelivery }, WebhookDeliveryView) {}
/** Under the same webhook-id. */
export class ResendWebhookDelivery extends command('webhook-delivery.resend', { deliveryId: ids.webhookDelivery }, WebhookDeliveryView) {}

// ---- what is sent to receivers: public API, and not what is stored. Members are added, never renamed or dropped. ----

const license = {
  licenseId: ids.license, keyPrefix: Type.String({ description: 'The first characters of the key; the key itself is never sent' }),
  productId: nullable(ids.product), planId: nullable(ids.plan), customerId: nullable(ids.customer), orderId: nullable(ids.order),
};
const reason = nullable(Type.String());
const held = { ...license, cause: oneOf(...holdCauses), reason };
const activation = { ...license, activationId: ids.activation };
const since = nullable(Type.String({ format: 'date-time', description: 'When it began; the event is sent a little later' }));

const data = {
  'license.issued': { ...license, expiresAt: nullable(instant), activationLimit: Type.Integer() },
  'license.assigned': license,
  'license.activated': { ...activation, deploymentId: nullable(Type.String({ description: 'Null, because it is erased with the license; the list of activations has it' })), deploymentMode: nullable(Type.String()) },
  'license.deactivated': { ...activation, by: oneOf('client', 'admin', 'lapse') },
  'license.suspended': held,
  'license.unsuspended': held,
  'license.inactivated': held,
  'license.reactivated': held,
  'license.expiring': { ...license, days: Type.Integer(), expiresAt: instant },
  'license.expired': { ...license, expiresAt: instant, graceEndedAt: instant },
  'license.renewed': { ...license, expiresAt: instant, reason: Type.String() },
  'license.revoked': { ...license, reason, cause: nullable(oneOf(...holdCauses)), activationsEnded: Type.Integer() },
  'license.key-regenerated': { ...license, keyVersion: Type.Integer(), reason, activationsEnded: Type.Integer() },
  'license.erased': { ...license, reason: Type.String(), everActivated: Type.Boolean() },
  'activation.limit-exceeded': { ...license, limit: Type.Integer(), used: Type.Integer(), denials: Type.Integer(), machines: Type.Integer(), from: instant, until: instant },
  'license.abuse-suspected': {
    ...license, pattern: oneOf(...(Object.keys(abusePatterns) as (keyof typeof abusePatterns)[])), limit: Type.Integer(), observed: Type.Integer(), action: oneOf(...abuseActions),
    from: instant, until: instant, evidence: listOf(Type.Integer(), { maxItems: 100 }),
  },
  'activation.rebound': { ...activation, reason: Type.String() },
  'deployment.late': { ...activation, since },
  'deployment.locked': { ...license, activationId: nullable(ids.activation), by: oneOf('silence', 'directive'), since },
  'deployment.recovered': { ...license, activationId: nullable(ids.activation) },
  'quota.exceeded': { ...license, meter: Type.String(), peak: Type.Number(), limit: Type.Number(), graceEndsAt: instant },
  'quota.restricted': { ...license, meter: Type.String(), since },
  'quota.restored': { ...license, meter: Type.String(), peak: nullable(Type.Number()), limit: nullable(Type.Number()) },
  'signing-key.rotated': { kid: Type.String(), purpose: oneOf(...signingPurposes) },
  'job.finished': { jobId: ids.job, kind: oneOf('batch', 'import'), state: oneOf('completed', 'failed', 'cancelled'), total: Type.Integer(), done: Type.Integer(), failed: Type.Integer(), detail: nullable(Type.String()) },
} satisfies Record<WebhookType, TProperties>;
/** What is sent for each type, besides the environment. */
export type WebhookData = { readonly [T in WebhookType]: Static<TObject<(typeof data)[T]>> };

const bodyOf = (type: string, fields: TProperties): TSchema => Type.Object({
  type: Type.Literal(type), timestamp: Type.String({ format: 'date-time', description: 'When it happened, in the time of its environment' }), data: Type.Object({ environment: Type.String(), ...fields }, { additionalProperties: false }),
}, { additionalProperties: false });
/** The body of a webhook, by its type. */
export const webhookBodies: Readonly<Record<WebhookType | typeof TEST_TYPE, TSchema>> = {
  ...(Object.fromEntries(webhookTypes.map((type) => [type, bodyOf(type, data[type])])) as Record<WebhookType, TSchema>),
  [TEST_TYPE]: bodyOf(TEST_TYPE, { endpointId: ids.webhookEndpoint }),
};
