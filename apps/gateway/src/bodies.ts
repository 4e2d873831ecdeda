import { isUtf8 } from 'node:buffer';
import { refuse } from '@keyledger/kernel';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { FileType } from './operation.ts';
import { pointerTo } from './problems.ts';

/** Depth a body may nest to; deeper ones are attacks, not requests. */
const maxDepth = 32;

/**
 * JSON as this API accepts it: valid UTF-8 and nothing else (RFC 8259 §8.1), uncompressed, no NUL and no half surrogate pair in any string
 * (PostgreSQL could not store them), no `__proto__`, no number beyond what a double holds, no absurd nesting. An empty body is none.
 * A file is UTF-8 as well, and handed over as it came.
 */
export function acceptBodies(fastify: FastifyInstance): void {
  fastify.removeAllContentTypeParsers();
  accept(fastify, 'application/json', undefined, readJson);
  for (const [type, bodyLimit] of Object.entries(fileLimits)) accept(fastify, type as FileType, bodyLimit, readFile);
}

/** Larger than the limit of other bodies, and only on routes that take a file. */
const fileLimits: Readonly<Record<FileType, number>> = { 'text/csv': 16 * 1024 * 1024 };

function accept(fastify: FastifyInstance, type: FileType | 'application/json', bodyLimit: number | undefined, read: (body: Buffer) => unknown): void {
  fastify.addContentTypeParser(type, { parseAs: 'buffer', ...(bodyLimit !== undefined && { bodyLimit }) }, (request, body: Buffer, done) => {
    let value: unknown;
    try {
      requirePlain(request.headers);
      value = body.length === 0 ? undefined : read(body);
    } catch (error) {
      return done(error as Error);
    }
    done(null, value);
  });
  // Before the body is read: no client may have 16 MiB read on a route that takes no file.
  if (bodyLimit === undefined) return;
  fastify.addHook('preParsing', ({ headers, routeOptions: { config: { operation } } }, _reply, _payload, done) => {
    const given = typeOf(headers);
    const wanted = operation?.file ?? 'application/json';
    const isOther = operation && operation.method !== 'GET' && given !== undefined && given !== wanted && (given === type || wanted === type);
    done(isOther ? refuse('UNSUPPORTED_MEDIA_TYPE', `The body must be ${wanted}`) : null);
  });
}

const typeOf = ({ 'content-type': type }: FastifyRequest['headers']): string | undefined => (type === 'application/json' ? type : type?.split(';', 1)[0]?.trim().toLowerCase());

function requirePlain({ 'content-encoding': encoding, 'content-type': type = '' }: FastifyRequest['headers']): void {
  if (encoding !== undefined && encoding !== 'identity') throw refuse('UNSUPPORTED_MEDIA_TYPE', 'Content-Encoding is not supported: send the body as it is');
  if (type.length > 'text/csv'.length && /charset=(?!"?utf-8\b)/i.test(type)) throw refuse('UNSUPPORTED_MEDIA_TYPE', 'The body must be UTF-8');
}

function readFile(body: Buffer): Buffer {
  if (!isUtf8(body)) throw refuse('VALIDATION_FAILED', 'The file is not valid UTF-8');
  return body;
}

export function readJson(body: Buffer): unknown {
  if (!isUtf8(body)) throw refuse('MALFORMED_JSON', 'The body is not valid UTF-8');
  const text = body.toString('utf8');
  const value = parse(text);
  const fault = isSuspicious(text) ? faultIn(value, '', 0) : undefined;
  if (fault) throw refuse('VALIDATION_FAILED', `${fault.pointer || 'The body'} ${fault.detail}`, { errors: [fault] });
  return value;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw refuse('MALFORMED_JSON', 'The body is not well-formed JSON');
  }
}

/** A cheap test before every value is inspected: without any of these in the text there is nothing to find. */
function isSuspicious(text: string): boolean {
  return text.includes('\\u') || text.includes('__proto__') || hugeExponent.test(text) || manyDigits.test(text) || opens(text, '{') + opens(text, '[') > maxDepth;
}

const hugeExponent = /\d[eE]\+?\d{3}/;
/** With two digits of exponent it takes 210 before the point to be beyond a double. Tried once per run of digits: a hostile text costs no more than its length. */
const manyDigits = /(?<!\d)\d{210}/;

function opens(text: string, bracket: string): number {
  let count = 0;
  for (let at = text.indexOf(bracket); at >= 0; at = text.indexOf(bracket, at + 1)) count += 1;
  return count;
}

interface Fault {
  pointer: string;
  detail: string;
}

function faultIn(value: unknown, pointer: string, depth: number): Fault | undefined {
  const detail = valueFault(value, depth);
  if (detail) return { pointer, detail };
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [name, child] of Object.entries(value)) {
    const at = pointerTo(pointer, name);
    const fault = nameFault(name);
    const found = fault ? { pointer: at, detail: fault } : faultIn(child, at, depth + 1);
    if (found) return found;
  }
  return undefined;
}

function valueFault(value: unknown, depth: number): string | undefined {
  if (typeof value === 'string') return textFault(value);
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : 'is too large a number';
  return typeof value === 'object' && depth >= maxDepth ? `is nested deeper than ${maxDepth} levels` : undefined;
}

const nameFault = (name: string): string | undefined => (name === '__proto__' ? 'is no name for a field' : textFault(name));

function textFault(text: string): string | undefined {
  if (text.includes('\0')) return 'contains NUL';
  return text.isWellFormed() ? undefined : 'contains half of a surrogate pair';
}
