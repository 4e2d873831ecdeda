import { namedSchemas } from '@keyledger/contracts';
import { errors, type ErrorCode } from '@keyledger/kernel';
import type { TSchema } from 'typebox';
import { isMutation, statusOf, type Operation } from './operation.ts';

type Document = Record<string, unknown>;

/** The OpenAPI 3.1 document, made of what the routes themselves declare. */
export function openApi(operations: readonly Operation[], version: string): Document {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of operations) {
    const path = operation.path.replaceAll(/:(\w+)/g, '{$1}');
    (paths[path] ??= {})[operation.method.toLowerCase()] = describe(operation);
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Keyledger', version, summary: 'Licenses that cannot be oversold, answers that explain themselves, a log that proves itself', license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    servers: [{ url: '/' }],
    paths,
    components: {
      securitySchemes: {
        apiKey: { type: 'http', scheme: 'bearer', description: 'An API key. It belongs to one environment; a root key chooses by X-Environment' },
      },
      parameters: {
        environment: { name: 'X-Environment', in: 'header', schema: { type: 'string', default: 'production' }, description: 'For the license API and for root keys' },
        idempotencyKey: { name: 'Idempotency-Key', in: 'header', schema: { type: 'string', minLength: 1, maxLength: 255 }, description: 'Same key and body: the first answer again' },
        ifMatch: { name: 'If-Match', in: 'header', schema: { type: 'string' }, description: 'The ETag you have seen; 412 VERSION_CONFLICT when it is stale' },
      },
      schemas: { Problem: problemSchema, ...Object.fromEntries([...namedSchemas].map(([name, schema]) => [name, withReferences(schema, name)])) },
    },
  };
}

function describe(operation: Operation): Document {
  const { id, path, summary, needs, body, query, answer, alsoStatus, versioned } = operation;
  const status = statusOf(operation);
  const content = answer && { content: { [operation.contentType ?? 'application/json']: { schema: withReferences(answer) } } };
  const headers = versioned ? { headers: { ETag: { schema: { type: 'string' }, description: 'Revision' } } } : {};
  const success = { description: 'Done', ...headers, ...content };
  return {
    operationId: id,
    summary,
    tags: [path.split('/')[1] || 'system'],
    ...(needs === 'public' || needs === 'license-key' ? { security: [] } : { security: [{ apiKey: [] }], 'x-permission': needs }),
    parameters: parametersOf(operation, query),
    ...(body && { requestBody: { required: (body['required'] as string[] | undefined)?.length ? true : false, content: { 'application/json': { schema: withReferences(body) } } } }),
    responses: { [status]: success, ...(alsoStatus && { [alsoStatus]: success }), ...problemsOf(operation) },
  };
}

function parametersOf(operation: Operation, query: Operation['query']): unknown[] {
  const path = [...operation.path.matchAll(/:(\w+)/g)].map(([, name]) => ({ name, in: 'path', required: true, schema: { type: 'string' } }));
  const search = Object.entries(query ?? {}).map(([name, schema]) => ({ name, in: 'query', required: !('~optional' in schema), schema: withReferences(schema) }));
  const shared = [
    ...(operation.needs === 'public' ? [] : ['environment']),
    ...(isMutation(operation) ? ['idempotencyKey'] : []),
    ...(operation.versioned && operation.method !== 'GET' ? ['ifMatch'] : []),
  ].map((name) => ({ $ref: `#/components/parameters/${name}` }));
  return [...path, ...search, ...shared];
}

/** Codes every route of its kind can answer, and its own. */
function problemsOf(operation: Operation): Record<string, unknown> {
  const { needs, body, query, refuses = [] } = operation;
  const codes = new Set<ErrorCode>(refuses);
  if (needs !== 'public') for (const code of ['ENVIRONMENT_NOT_FOUND', 'RATE_LIMITED', 'UNAVAILABLE', 'TRY_AGAIN'] as const) codes.add(code);
  if (needs !== 'public' && needs !== 'license-key') for (const code of ['UNAUTHENTICATED', 'ENVIRONMENT_FORBIDDEN', 'PERMISSION_DENIED'] as const) codes.add(code);
  if (body || query) codes.add('VALIDATION_FAILED');
  if (body) for (const code of ['MALFORMED_JSON', 'BODY_TOO_LARGE', 'UNSUPPORTED_MEDIA_TYPE'] as const) codes.add(code);
  if (isMutation(operation)) for (const code of ['IDEMPOTENCY_KEY_REUSED', 'IDEMPOTENCY_IN_PROGRESS'] as const) codes.add(code);
  const byStatus = Map.groupBy(codes, (code) => errors[code].status);
  return Object.fromEntries([...byStatus].sort(([a], [b]) => a - b).map(([status, list]) => [status, {
    description: list.join(', '),
    content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
  }]));
}

/** Named schemas become references to the components. */
function withReferences(schema: TSchema, self?: string): unknown {
  const names = new Map([...namedSchemas].map(([name, named]) => [named as unknown, name]));
  const visit = (value: unknown): unknown => {
    const name = names.get(value);
    if (name !== undefined && name !== self) return { $ref: `#/components/schemas/${name}` };
    if (Array.isArray(value)) return value.map(visit);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, visit(child)]));
  };
  return visit(schema);
}

const problemSchema = {
  type: 'object',
  description: 'RFC 9457; further members depend on the code',
  required: ['type', 'title', 'status', 'detail', 'instance', 'code', 'requestId'],
  properties: {
    type: { type: 'string' }, title: { type: 'string' }, status: { type: 'integer' }, detail: { type: 'string' }, instance: { type: 'string' },
    code: { type: 'string', enum: Object.keys(errors) }, requestId: { type: 'string' },
    errors: { type: 'array', items: { type: 'object', properties: { pointer: { type: 'string' }, detail: { type: 'string' } } } },
  },
};
