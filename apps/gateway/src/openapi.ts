import { namedSchemas, webhookBodies } from '@keyledger/contracts';
import { errors, type ErrorCode } from '@keyledger/kernel';
import type { TSchema } from 'typebox';
import { hasEnvironment, honoursIfMatch, isMutation, needsApiKey, requiresBody, statusOf, type Operation } from './operation.ts';
import { problemType } from './problems.ts';

type Document = Record<string, unknown>;
const reference = (kind: 'schemas' | 'parameters' | 'headers', name: string) => ({ $ref: `#/components/${kind}/${name}` });

/** The OpenAPI 3.1 document, built from what the routes declare. */
export function openApi(operations: readonly Operation[], version: string): Document {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of operations) {
    const path = operation.path.replaceAll(/:(\w+)/g, '{$1}');
    (paths[path] ??= {})[operation.method.toLowerCase()] = describe(operation);
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Keyledger', version, summary: 'Issue, activate and validate software licenses',
      description: 'Send an API key as `Authorization: Bearer …`; `/license/*` needs the license key in its body and no API key. Errors are `application/problem+json`; [/docs/errors](/docs/errors) lists the codes. Unknown paths answer 404 `NOT_FOUND`, unsupported methods 405 `METHOD_NOT_ALLOWED` with `Allow`.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: [...new Set(operations.map(tagOf))].map((name) => ({ name })),
    paths,
    webhooks: Object.fromEntries(Object.entries(webhookBodies).map(([type, body]) => [type, { post: webhook(type, body) }])),
    components: {
      securitySchemes: {
        apiKey: { type: 'http', scheme: 'bearer', description: 'An API key. Valid for one environment; the root key selects one with X-Environment' },
        licenseKey: { type: 'apiKey', in: 'header', name: 'Authorization', description: '`License <license key>`: the key of the license in the path, in the environment of X-Environment' },
      },
      parameters,
      headers,
      schemas: { Problem: problemSchema, ...Object.fromEntries([...namedSchemas].map(([name, schema]) => [name, withReferences(schema, name)])) },
    },
  };
}

/** The request a receiver gets. Only the status of its answer matters. */
const webhook = (type: string, body: TSchema) => ({
  operationId: `on-${type}`, summary: `${type}, sent to the endpoints subscribed to it`, tags: ['webhooks'],
  parameters: ['webhook-id', 'webhook-timestamp', 'webhook-signature'].map((name) => ({ name, in: 'header', required: true, schema: { type: 'string' } })),
  requestBody: { required: true, content: { 'application/json': { schema: withReferences(body) } } },
  responses: { '2XX': { description: 'Accepted' }, 410: { description: 'The endpoint is gone; it is disabled and nothing more is sent to it' } },
});

const parameters = {
  environment: { name: 'X-Environment', in: 'header', schema: { type: 'string', default: 'production' }, description: 'Selects the environment for the license API and for root keys. Other API keys have their own; a different value is refused' },
  idempotencyKey: { name: 'Idempotency-Key', in: 'header', schema: { type: 'string', minLength: 1, maxLength: 255 }, description: 'Repeating a request with the same key and body returns the first answer, for at least three days' },
  ifMatch: { name: 'If-Match', in: 'header', schema: { type: 'string' }, description: 'The ETag of the version you have read; 412 VERSION_CONFLICT if it is out of date' },
};

const headers = {
  'Request-Id': { schema: { type: 'string' }, required: true, description: 'The one you sent (up to 128 letters, digits and .:_-), or a new one. Quote it when you ask for help' },
  ETag: { schema: { type: 'string' }, description: 'Revision, for If-Match' },
  Location: { schema: { type: 'string' }, required: true, description: 'Where to follow its progress' },
  RateLimit: { schema: { type: 'string' }, description: 'Per limit: requests remaining (r), and seconds until the full quota is available again (t)' },
  'RateLimit-Policy': { schema: { type: 'string' }, description: 'Per limit: the number of requests (q) allowed in a window of seconds (w)' },
  'Retry-After': { schema: { type: 'integer' }, description: 'Seconds to wait before trying again' },
  'Idempotency-Replayed': { schema: { type: 'string', enum: ['true'] }, description: 'This is the stored answer to an earlier request' },
};
const headersOf = (...names: (keyof typeof headers)[]) => Object.fromEntries(names.map((name) => [name, reference('headers', name)]));

const tags: Readonly<Record<string, string>> = {
  license: 'client license API', me: 'access', environments: 'access', 'api-keys': 'access', 'signing-keys': 'signing', 'webhook-endpoints': 'webhooks', 'webhook-deliveries': 'webhooks', '.well-known': 'signing', health: 'operation', metrics: 'operation', 'openapi.json': 'operation',
};
function tagOf({ path }: Operation): string {
  const first = path.split('/')[1] ?? '';
  return tags[first] ?? first;
}

function describe(operation: Operation): Document {
  const { id, summary, needs, body, file, answer, alsoStatus, example } = operation;
  const others = Object.entries(operation.otherwise ?? {}).map(([type, schema]) => [type, { schema: withReferences(schema) }]);
  const content = answer && { content: { [operation.contentType ?? 'application/json']: { schema: withReferences(answer), ...(example && { example: example.answer }) }, ...Object.fromEntries(others) } };
  const success = { description: 'Success', headers: successHeaders(operation), ...content };
  return {
    operationId: id,
    summary,
    tags: [tagOf(operation)],
    ...(needsApiKey(operation) ? { security: [{ apiKey: [] }, ...(operation.orLicenseKey ? [{ licenseKey: [] }] : [])], ...(needs !== 'any-api-key' && { 'x-permission': needs }) } : { security: [] }),
    parameters: parametersOf(operation),
    ...(file && { requestBody: { required: true, content: { [file]: { schema: { type: 'string' } } } } }),
    ...(body && { requestBody: { required: requiresBody(operation), content: { 'application/json': { schema: withReferences(body), ...(example && { example: example.body }) } } } }),
    responses: { [statusOf(operation)]: success, ...(alsoStatus && { [alsoStatus]: success }), ...problemsOf(operation) },
  };
}

const successHeaders = (operation: Operation) => headersOf('Request-Id',
  ...(operation.versioned && operation.answer ? ['ETag' as const] : []),
  ...(operation.location ? ['Location' as const] : []),
  ...(operation.needs === 'public' ? [] : ['RateLimit' as const, 'RateLimit-Policy' as const]),
  ...(isMutation(operation) ? ['Idempotency-Replayed' as const] : []));

function parametersOf(operation: Operation): unknown[] {
  const path = [...operation.path.matchAll(/:(\w+)/g)].map(([, name]) => ({ name, in: 'path', required: true, schema: { type: 'string' } }));
  const search = Object.entries(operation.query ?? {}).map(([name, schema]) => ({ name, in: 'query', required: !('~optional' in schema), schema: withReferences(schema) }));
  const shared = [
    ...(hasEnvironment(operation) ? ['environment'] : []),
    ...(isMutation(operation) ? ['idempotencyKey'] : []),
    ...(honoursIfMatch(operation) ? ['ifMatch'] : []),
  ].map((name) => reference('parameters', name));
  return [...path, ...search, ...shared];
}

/** The codes an operation can answer: those of every route of its kind, and its own. */
export function codesOf(operation: Operation): ReadonlySet<ErrorCode> {
  const { needs, method, refuses = [] } = operation;
  const codes: ErrorCode[] = ['VALIDATION_FAILED', 'INTERNAL', ...refuses];
  if (hasEnvironment(operation)) codes.push('ENVIRONMENT_NOT_FOUND');
  if (needs !== 'public') codes.push('RATE_LIMITED', 'UNAVAILABLE', 'TRY_AGAIN', 'READ_MODEL_BEHIND');
  if (needsApiKey(operation)) codes.push('UNAUTHENTICATED', 'ENVIRONMENT_FORBIDDEN');
  if (needsApiKey(operation) && needs !== 'any-api-key') codes.push('PERMISSION_DENIED');
  if (method !== 'GET') codes.push('MALFORMED_JSON', 'BODY_TOO_LARGE', 'UNSUPPORTED_MEDIA_TYPE');
  if (isMutation(operation)) codes.push('IDEMPOTENCY_KEY_REUSED', 'IDEMPOTENCY_IN_PROGRESS');
  if (honoursIfMatch(operation)) codes.push('VERSION_CONFLICT');
  return new Set(codes);
}

function problemsOf(operation: Operation): Record<string, unknown> {
  const byStatus = Map.groupBy(codesOf(operation), (code) => errors[code].status);
  const problem = (description: string, schema: object, ...more: (keyof typeof headers)[]) =>
    ({ description, headers: headersOf('Request-Id', ...more), content: { [mediaType]: { schema } } });
  return {
    ...Object.fromEntries([...byStatus].sort(([a], [b]) => a - b).map(([status, codes]) => [status, problem(
      codes.map((code) => `\`${code}\` ${errors[code].title}`).join('  \n'),
      { allOf: [reference('schemas', 'Problem'), { properties: { status: { const: status }, code: { enum: codes } } }] },
      ...(status === 429 || status === 503 ? ['Retry-After' as const] : []),
    )])),
    default: problem('`REQUEST_TIMEOUT` 408, `HEADERS_TOO_LARGE` 431: answered before the request is read in full', reference('schemas', 'Problem')),
  };
}

const [mediaType = ''] = problemType.split(';');

/** Named schemas become references to the components. Fields that exist only to be refused by a rule are not shown. */
function withReferences(schema: TSchema, self?: string): unknown {
  const names = new Map([...namedSchemas].map(([name, named]) => [named as unknown, name]));
  const visit = (value: unknown): unknown => {
    const name = names.get(value);
    if (name !== undefined && name !== self) return reference('schemas', name);
    if (Array.isArray(value)) return value.map(visit);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).filter(([, child]) => !isHidden(child)).map(([key, child]) => [key, visit(child)]));
  };
  return visit(schema);
}

/** `anything` of the contracts: a field that exists to be refused by a rule. */
const isHidden = (schema: unknown): boolean => typeof schema === 'object' && schema !== null && '~kind' in schema && schema['~kind'] === 'Unknown';

const problemSchema = {
  type: 'object',
  description: 'RFC 9457; additional members depend on the code',
  required: ['type', 'title', 'status', 'detail', 'instance', 'code', 'requestId'],
  properties: {
    type: { type: 'string', format: 'uri-reference', description: 'Where the code is explained' },
    title: { type: 'string' },
    status: { type: 'integer', minimum: 400, maximum: 599 },
    detail: { type: 'string' },
    instance: { type: 'string', description: 'Path of the request' },
    code: { type: 'string', enum: Object.keys(errors) },
    requestId: { type: 'string' },
    errors: {
      type: 'array',
      description: 'One entry per field',
      items: {
        type: 'object', required: ['pointer', 'detail'],
        properties: { pointer: { type: 'string', description: 'JSON pointer (RFC 6901) into the body, or the query' }, detail: { type: 'string' }, in: { const: 'query' } },
      },
    },
  },
};
