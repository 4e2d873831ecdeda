/** The events that webhooks report, by public name. Names are public API: they are added, never renamed. */
export const webhookTypes = [
  'license.issued', 'license.assigned', 'license.activated', 'license.deactivated', 'license.suspended', 'license.unsuspended', 'license.inactivated', 'license.reactivated',
  'license.expiring', 'license.expired', 'license.renewed', 'license.revoked', 'license.key-regenerated', 'license.erased',
  'activation.limit-exceeded', 'license.abuse-suspected', 'activation.rebound', 'deployment.late', 'deployment.locked', 'deployment.recovered',
  'quota.exceeded', 'quota.restricted', 'quota.restored', 'signing-key.rotated', 'job.finished',
] as const;
export type WebhookType = (typeof webhookTypes)[number];
/** Sent on request, whatever the endpoint's filters. */
export const TEST_TYPE = 'webhook.test';

type Family<T> = T extends `${infer F}.${string}` ? `${F}.*` : never;
/** A filter of an endpoint: a type, all types of a family, or everything. */
export type WebhookFilter = WebhookType | Family<WebhookType> | '*';
export const webhookFilters: readonly WebhookFilter[] = ['*', ...new Set(webhookTypes.map((type) => `${type.split('.', 1)[0] as string}.*` as WebhookFilter)), ...webhookTypes];

export const wants = (filters: readonly WebhookFilter[], type: WebhookType): boolean =>
  filters.some((filter) => filter === '*' || filter === type || (filter.endsWith('.*') && type.startsWith(filter.slice(0, -1))));
