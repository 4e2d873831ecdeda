import { hash, randomUUID } from 'node:crypto';
import { v5 as uuidV5, v7 as uuidV7, validate } from 'uuid';
import type { Instant } from './time.ts';

/** What an id names → its prefix. An id is the prefix, an underscore and a UUIDv7 (RFC 9562). */
const idPrefixes = {
  license: 'lic', activation: 'act', product: 'prd', plan: 'pln', customer: 'cus', order: 'ord', generator: 'gen', apiKey: 'key', job: 'job', directive: 'dir', webhookEndpoint: 'whk', webhookDelivery: 'whd',
} as const;
export type IdPrefix = (typeof idPrefixes)[keyof typeof idPrefixes];
export type Id<P extends IdPrefix> = `${P}_${string}`;
export type LicenseId = Id<'lic'>;
export type ActivationId = Id<'act'>;
export type ProductId = Id<'prd'>;
export type PlanId = Id<'pln'>;
export type CustomerId = Id<'cus'>;
export type OrderId = Id<'ord'>;
export type GeneratorId = Id<'gen'>;
export type ApiKeyId = Id<'key'>;
export type JobId = Id<'job'>;
export type DirectiveId = Id<'dir'>;
export type WebhookEndpointId = Id<'whk'>;
export type WebhookDeliveryId = Id<'whd'>;

/** For JSON Schema, and to check an id before its stream is read. */
export const idPattern = (prefix: IdPrefix): string => `^${prefix}_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`;

export function isId<P extends IdPrefix>(prefix: P, value: unknown): value is Id<P> {
  return typeof value === 'string' && value.startsWith(`${prefix}_`) && validate(value.slice(4));
}

/** The n-th thing of its kind that a command creates always gets the same id, so a command that died half way can simply run again. */
export function derivedId<P extends IdPrefix>(prefix: P, commandId: string, commandAt: Instant, index = 0): Id<P> {
  const random = hash('sha256', `${commandId}/${prefix}/${index}`, 'buffer').subarray(0, 16);
  return `${prefix}_${uuidV7({ msecs: Date.parse(commandAt), random, seq: random.readUInt32BE(0) })}`;
}

/** UUIDv5 of command and index (or another name within the command): the event store drops an event it already has. */
export const eventId = (commandId: string, index: number | string): string => uuidV5(String(index), commandId);

export const newCommandId = (): string => randomUUID();
