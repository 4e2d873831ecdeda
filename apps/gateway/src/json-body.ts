import { isUtf8 } from 'node:buffer';
import { refuse } from '@keyledger/kernel';
import type { FastifyInstance } from 'fastify';

/** Depth a body may nest to; deeper ones are attacks, not requests. */
const maxDepth = 32;

/**
 * JSON as this API accepts it: valid UTF-8 (RFC 8259 §8.1), no NUL and no half surrogate pair in any string (PostgreSQL could not store them),
 * no `__proto__` or `constructor.prototype`, no absurd nesting. An empty body is none.
 */
export function acceptJson(fastify: FastifyInstance): void {
  const parse = fastify.getDefaultJsonParser('error', 'error');
  fastify.removeAllContentTypeParsers();
  fastify.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
    if (body.length === 0) return done(null, undefined);
    if (!isUtf8(body)) return done(refuse('MALFORMED_JSON', 'The body is not valid UTF-8'));
    const text = body.toString('utf8');
    parse(request, text, (error, value) => {
      if (error) return done(refuse('MALFORMED_JSON', 'The body is not well-formed JSON'));
      const fault = text.includes('\\u') || text.length > 1000 ? faultIn(value, 0) : undefined;
      return fault ? done(refuse('VALIDATION_FAILED', fault)) : done(null, value);
    });
  });
}

function faultIn(value: unknown, depth: number): string | undefined {
  if (typeof value === 'string') return textFault(value);
  if (typeof value !== 'object' || value === null) return undefined;
  if (depth >= maxDepth) return `Nested deeper than ${maxDepth} levels`;
  for (const [name, child] of Object.entries(value)) {
    const fault = textFault(name) ?? faultIn(child, depth + 1);
    if (fault) return fault;
  }
  return undefined;
}

function textFault(text: string): string | undefined {
  if (text.includes('\0')) return 'A string contains NUL';
  return text.isWellFormed() ? undefined : 'A string contains half of a surrogate pair';
}
