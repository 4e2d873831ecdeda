import type { Aggregate, EventOrigin, EventShape, JsonObject, MessageContext, Sealer } from '@keyledger/kernel';
import type { RecordedEvent } from './port.ts';

/** What every stored event says about its origin. Id and recording time are members of the event itself. */
export type EventMetadata = {
  readonly commandId: string;
  readonly correlationId: string;
  readonly causationId?: string;
  readonly actor: EventOrigin['actor'];
  /** When the event was decided. */
  readonly occurredAt: string;
  readonly environment: string;
  readonly schema: number;
  readonly traceparent?: string;
};

type Shapes = Readonly<Record<string, EventShape>>;
type DomainEvent = { readonly type: string };

/** `license-lic_…` → `lic_…`: the subject whose data key seals the fields. Categories have no hyphen. */
export const subjectOf = (stream: string): string => stream.slice(stream.indexOf('-') + 1);
/** `license` of `license-lic_0198…`. */
export const categoryOf = (stream: string): string => stream.slice(0, stream.indexOf('-'));

export const originOf = ({ metadata }: RecordedEvent): EventOrigin => {
  const { occurredAt, actor } = metadata as unknown as EventMetadata;
  return { at: occurredAt, actor };
};

export const originIn = ({ now, actor: { type, id, role } }: MessageContext): EventOrigin => ({ at: now, actor: { type, id, role } });

export function metadataIn({ commandId, correlationId, causationId, environment, traceparent }: MessageContext, { at, actor }: EventOrigin, schema: number): EventMetadata {
  return { commandId, correlationId, causationId, actor, occurredAt: at, environment, schema, traceparent };
}

/** Whether storing the event needs a sealer. */
export const isSealed = (shapes: Shapes, event: DomainEvent): boolean =>
  shapeOf(shapes, event.type).sealed?.some((field) => (event as Partial<Record<string, unknown>>)[field] !== undefined) ?? false;

/** Subjects whose keys `decode` will need for these events, ready for `Sealing.prepare`. */
export const sealedSubjects = (events: readonly RecordedEvent[]): string[] =>
  [...new Set(events.filter(({ data }) => data.sealed !== undefined).map(({ stream }) => subjectOf(stream)))];

/** The stored data of an event: its fields, the sealed ones as one ciphertext in `sealed`. */
export function encode(shapes: Shapes, stream: string, event: DomainEvent, sealer?: Sealer): JsonObject {
  const { type, ...fields } = event as { type: string } & JsonObject;
  const names = shapeOf(shapes, type).sealed ?? [];
  const secrets = names.filter((name) => fields[name] !== undefined);
  if (secrets.length === 0) return fields;
  if (!sealer) throw new Error(`${type} in ${stream} has sealed fields; it needs a sealer`);
  const open = Object.entries(fields).filter(([name]) => !names.includes(name));
  const secret = Object.fromEntries(secrets.map((name) => [name, fields[name]]));
  return { ...Object.fromEntries(open), sealed: sealer.seal(subjectOf(stream), secret) };
}

/**
 * The event in its newest shape: unsealed, then lifted version by version. Once the subject's key is destroyed its sealed fields are null.
 * Throws for a type or version that this release does not know: a reader must stop there, not skip it.
 */
export function decode<Event extends DomainEvent>(shapes: Shapes, { type, stream, data, metadata, position }: RecordedEvent, sealer?: Sealer): Event {
  const shape = shapeOf(shapes, type);
  const stored = (metadata as unknown as EventMetadata).schema;
  if (!(stored <= shape.schema)) throw new Error(`${type} at position ${position} has version ${stored}; this release knows ${shape.schema}`);
  const { fields, shredded } = unseal(stream, data, sealer);
  let lifted = fields;
  for (let version = stored; version < shape.schema; version++) {
    const lift = shape.upcast?.[version];
    if (!lift) throw new Error(`${type} has no upcast from version ${version}`);
    lifted = lift(lifted);
  }
  const lost = shredded ? Object.fromEntries((shape.sealed ?? []).map((name) => [name, null])) : undefined;
  return { ...lifted, ...lost, type } as unknown as Event;
}

/** The state after these events of one stream. It starts with the given state, and may change it. */
export function fold<State, Command extends DomainEvent, Event extends DomainEvent>(
  aggregate: Aggregate<State, Command, Event>, events: readonly RecordedEvent[], sealer?: Sealer, state = aggregate.initial(),
): State {
  return events.reduce((before, event) => aggregate.evolve(before, decode<Event>(aggregate.shapes, event, sealer), originOf(event)), state);
}

function unseal(stream: string, data: JsonObject, sealer: Sealer | undefined): { fields: JsonObject; shredded: boolean } {
  if (data.sealed === undefined) return { fields: data, shredded: false };
  if (!sealer) throw new Error(`${stream} has sealed fields; it needs a sealer`);
  const { sealed, ...open } = data;
  const secret = sealer.open(subjectOf(stream), String(sealed));
  return { fields: { ...open, ...secret }, shredded: secret === null };
}

function shapeOf(shapes: Shapes, type: string): EventShape {
  const shape = Object.hasOwn(shapes, type) ? shapes[type] : undefined;
  if (!shape) throw new Error(`Unknown event type ${type}`);
  return shape;
}
