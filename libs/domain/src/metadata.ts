import { refuse, type Json, type JsonObject } from '@keyledger/kernel';

/** In bytes of JSON in UTF-8. */
export const METADATA_LIMIT = 10_240;
/** JSON nested deeper than this could not be written out again everywhere it is read. */
const DEPTH_LIMIT = 100;

/** Refuses with METADATA_TOO_LARGE a JSON object of the caller's own that is over 10 KB. Nothing given is nothing to check. */
export function checkMetadata(metadata: JsonObject | null | undefined, name = 'metadata'): void {
  if (!metadata) return;
  if (deeperThan(DEPTH_LIMIT, metadata)) throw refuse('METADATA_TOO_LARGE', `${name} is nested more than ${DEPTH_LIMIT} levels deep`, { limit: METADATA_LIMIT });
  const size = Buffer.byteLength(JSON.stringify(metadata));
  if (size > METADATA_LIMIT) throw refuse('METADATA_TOO_LARGE', `${name} is ${size} bytes of JSON; the maximum is ${METADATA_LIMIT}`, { limit: METADATA_LIMIT, size });
}

function deeperThan(levels: number, value: Json | undefined): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => deeperThan(levels - 1, inner));
}

/** The same JSON: the order of members, members that are undefined and the class of an object say nothing in JSON. */
export function sameJson(a: Json | undefined, b: Json | undefined): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    return Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((item, i) => sameJson(item, b[i]));
  }
  const [left, right] = [a, b] as [JsonObject, JsonObject];
  return [...new Set([...Object.keys(left), ...Object.keys(right)])].every((name) => sameJson(own(left, name), own(right, name)));
}

const own = (object: JsonObject, name: string): Json | undefined => (Object.hasOwn(object, name) ? object[name] : undefined);

/**
 * The wanted fields that differ from the present ones; undefined if none does.
 * An undefined field asks for nothing; null asks for null.
 */
export function changes<T extends object>(present: T, wanted: Partial<T>): Partial<T> | undefined {
  const different = (Object.keys(wanted) as (keyof T)[])
    .filter((name) => wanted[name] !== undefined && !sameJson(present[name] as Json | undefined, wanted[name] as Json | undefined));
  return different.length ? (Object.fromEntries(different.map((name) => [name, wanted[name]])) as Partial<T>) : undefined;
}
