import Type from 'typebox';
import { idOf, instant, json, listOf, name, named, nullable, oneOf, optional, text } from './fields.ts';

export const features = Type.Record(
  Type.String({ pattern: '^[^\\u0000-\\u001f]{1,100}$' }),
  Type.Union([
    Type.Literal(true),
    Type.Number({ minimum: 0 }),
    Type.Object({ limit: Type.Number({ minimum: 0 }), per: oneOf('day', 'month') }, { additionalProperties: false }),
  ]),
  { description: 'name → true, a number cap, or {limit, per}; at most 32 KiB of JSON', additionalProperties: false },
);

/** A meter is a gauge, and the quota is for its daily peak, unless `per` says that it is a counter. */
export const quotas = listOf(Type.Object({ meter: name, limit: Type.Number({ minimum: 0 }), per: optional(oneOf('day', 'month')) }, { additionalProperties: false }), { maxItems: 50 });

/** The meters of a product. The quotas of its plans and licenses need not repeat it. */
export const meters = listOf(
  Type.Object({ meter: name, per: optional(oneOf('day', 'month')), unit: optional(Type.String({ maxLength: 50, description: 'For display: cores, GB' })) }, { additionalProperties: false }), { maxItems: 100 },
);

export const expiry = nullable(
  Type.Object({ value: Type.Integer({ minimum: 1, maximum: 36_500 }), unit: oneOf('days', 'months', 'years') }, { additionalProperties: false }),
);

const days = Type.Integer({ minimum: 0, maximum: 3650 });

/** Licensing terms that a plan, a generator or a new license may set. Omitted terms keep their defaults. */
export const termsFields = {
  activationLimit: optional(Type.Integer({ description: '-1 (unlimited) or 1 to 10000' })),
  effectiveAt: optional(nullable(instant)),
  expiry: optional(expiry),
  expiryBasis: optional(oneOf('purchase', 'firstActivation', 'deployment', 'fixed')),
  expiresAt: optional(nullable(instant)),
  expiryGraceDays: optional(days),
  overageGraceDays: optional(days),
  offlineGraceDays: optional(days),
  trial: optional(nullable(Type.Object({ days: Type.Integer({ minimum: 1, maximum: 3650 }) }, { additionalProperties: false }))),
  validationMode: optional(oneOf('online', 'heartbeat', 'offline')),
  heartbeatIntervalSeconds: optional(Type.Integer({ minimum: 10, maximum: 2_592_000 })),
  deploymentMode: optional(nullable(text(100))),
  deploymentId: optional(nullable(text(255))),
  binding: optional(oneOf('none', 'fingerprint')),
  seats: optional(oneOf('node-locked', 'floating')),
  features: optional(features),
  quotas: optional(quotas),
  featureFlags: optional(json),
  serialNumber: optional(nullable(text(255))),
  expiredEnforcement: optional(oneOf('READ_ONLY', 'LOCKED')),
};

/** What a plan says about licensing. */
export const licensing = named('Licensing', Type.Object({ enabled: Type.Boolean(), ...termsFields }, { additionalProperties: false }));

export const keyFormat = named(
  'KeyFormat',
  Type.Object(
    {
      kind: oneOf('crockford', 'uuid', 'chunks', 'pattern'),
      prefix: optional(Type.String({ pattern: '^[A-Za-z0-9]{1,16}$' })),
      chunks: optional(Type.Integer({ minimum: 1, maximum: 16 })),
      chunkLength: optional(Type.Integer({ minimum: 1, maximum: 32 })),
      pattern: optional(Type.String({ minLength: 1, maxLength: 128 })),
    },
    { additionalProperties: false },
  ),
);

export const ids = {
  license: idOf('lic'), activation: idOf('act'), product: idOf('prd'), plan: idOf('pln'), customer: idOf('cus'), order: idOf('ord'),
  generator: idOf('gen'), apiKey: idOf('key'), job: idOf('job'), webhookEndpoint: idOf('whk'), webhookDelivery: idOf('whd'),
};
