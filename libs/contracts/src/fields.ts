import { idPattern, type Id, type IdPrefix, type JsonObject } from '@keyledger/kernel';
import Type, { type Static, type TSchema } from 'typebox';

/** The building blocks of bodies and answers. What a schema can express is refused at the edge with 400; what needs a rule is left to the domain. */

const schemas = new Map<string, TSchema>();
/** Gives a schema its name in the OpenAPI document. */
export function named<S extends TSchema>(name: string, schema: S): S {
  schemas.set(name, schema);
  return schema;
}
export const namedSchemas: ReadonlyMap<string, TSchema> = schemas;

export const idOf = <P extends IdPrefix>(prefix: P) => Type.Unsafe<Id<P>>(Type.String({ pattern: idPattern(prefix), description: `Id: ${prefix}_ and a UUIDv7` }));
export const instant = Type.String({ format: 'date-time', description: 'RFC 3339' });
export const nullable = <S extends TSchema>(schema: S) => Type.Union([schema, Type.Null()]);
export const optional = Type.Optional;
export const listOf = <S extends TSchema>(item: S, options?: { minItems?: number; maxItems?: number; description?: string }) => Type.Unsafe<readonly Static<S>[]>(Type.Array(item, options));
export const name = Type.String({ minLength: 1, maxLength: 255 });
export const text = (maxLength: number) => Type.String({ maxLength });
export const email = Type.String({ format: 'email', maxLength: 254 });
/** A JSON object of the caller's own; a rule limits its size (10 KB). */
export const json = Type.Unsafe<JsonObject>(Type.Object({}, { additionalProperties: true }));
export const reason = Type.String({ maxLength: 1000, description: 'Free text; stored unencrypted in the log, even after an erasure' });
export const oneOf = <const V extends readonly string[]>(...values: V) => Type.Unsafe<V[number]>(Type.String({ enum: [...values] }));
/** Any value, refused by a rule with a code of its own. */
export const anything = Type.Unknown();

/** `limit` and `cursor` of every list. */
export const paging = {
  limit: optional(Type.Integer({ minimum: 1, maximum: 100, default: 25 })),
  /** A cursor holds the sort value of the last row: a name of 255 control characters makes a cursor of 2,120. */
  cursor: optional(Type.String({ maxLength: 4096, description: 'page.next of the previous page' })),
};

export const pageOf = <S extends TSchema>(item: S) =>
  Type.Object({
    data: listOf(item),
    page: Type.Object({ next: nullable(Type.String()), total: nullable(Type.Integer()) }),
  });
