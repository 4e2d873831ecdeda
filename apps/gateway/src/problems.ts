import type { Socket } from 'node:net';
import { Catch, HttpException, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import { errors, newCommandId, Refusal, refuse, type ErrorCode } from '@keyledger/kernel';
import { mask } from '@keyledger/observability';
import type { FastifyReply, FastifyRequest, FastifySchemaValidationError } from 'fastify';

// An import of it would cost every start 40 ms (tools/house-rules.mjs).
const { STATUS_CODES } = process.getBuiltinModule('node:http');

export const problemType = 'application/problem+json; charset=utf-8';

/** `application/problem+json` (RFC 9457). */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance: string;
  code: ErrorCode;
  requestId: string;
  [member: string]: unknown;
}

/** Members for other services only, never for callers. */
const internal: readonly string[] = ['retired'];

export function problemOf(refusal: Refusal, { url, id }: Pick<FastifyRequest, 'url' | 'id'>): Problem {
  const { status, title } = errors[refusal.code];
  const members = Object.entries(refusal.members).filter(([name]) => !internal.includes(name));
  const [path = '/'] = url.split('?', 1);
  return { ...Object.fromEntries(members), type: `/docs/errors#${refusal.code}`, title, status, detail: refusal.message, instance: mask(path), code: refusal.code, requestId: id };
}

const escaped = (name: string): string => (name.length > 200 ? `${name.slice(0, 200)}…` : name).replaceAll('~', '~0').replaceAll('/', '~1');
/** JSON pointer (RFC 6901) to a field of the object at `pointer`. */
export const pointerTo = (pointer: string, name: string): string => `${pointer}/${escaped(name)}`;

/** More findings than any reader of one answer needs. */
const maxFindings = 1000;
const maxFields = 100;

/** Ajv's findings, one entry per field. */
export function validationRefusal(findings: readonly FastifySchemaValidationError[], part: string): Refusal {
  const isQuery = part === 'querystring';
  const fields = fieldsOf(findings.slice(0, maxFindings)).slice(0, maxFields).map(([pointer, detail]) => ({ ...(isQuery && { in: 'query' }), pointer, detail }));
  const detail = fields.slice(0, 3).map((field) => `${field.pointer || (isQuery ? 'The query' : 'The body')} ${field.detail}`).join('; ');
  return refuse('VALIDATION_FAILED', detail, { errors: fields });
}

/** If none of several alternatives fits, a fault inside one of them says more than that none matched. */
function fieldsOf(findings: readonly FastifySchemaValidationError[]): [pointer: string, detail: string][] {
  const fields = Map.groupBy(findings.filter(({ keyword }) => keyword !== 'anyOf'), pointerOf);
  const alternatives = new Set(findings.filter(({ keyword }) => keyword === 'anyOf').map(({ instancePath }) => instancePath));
  const isVague = (pointer: string) => alternatives.has(pointer) && [...fields.keys()].some((other) => other.startsWith(`${pointer}/`));
  return [...fields].filter(([pointer]) => !isVague(pointer))
    .map(([pointer, found]) => [pointer, [...new Set(found.map(detailOf))].join(alternatives.has(pointer) ? ' or ' : ' and ')]);
}

function pointerOf({ instancePath, params }: FastifySchemaValidationError): string {
  const name = params['missingProperty'] ?? params['additionalProperty'];
  return name === undefined ? instancePath : pointerTo(instancePath, String(name));
}

function detailOf({ keyword, params, message = 'is not valid' }: FastifySchemaValidationError): string {
  if (keyword === 'additionalProperties') return 'is not a known field';
  if (keyword === 'required') return 'is required';
  if (keyword === 'enum') return `must be one of ${(params['allowedValues'] as unknown[]).join(', ')}`;
  return keyword === 'const' ? `must be ${JSON.stringify(params['allowedValue'])}` : message;
}

/** The one place where a "no" becomes an HTTP answer. Whatever is not a refusal is a bug: logged whole, answered bare. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  constructor(
    private readonly onBug: (error: unknown, request: FastifyRequest) => void,
    private readonly onRefusal: (code: ErrorCode) => void,
  ) {}

  catch(error: unknown, host: ArgumentsHost): void {
    const request = host.switchToHttp().getRequest<FastifyRequest>();
    const reply = host.switchToHttp().getResponse<FastifyReply>();
    this.answer(error, request, reply);
  }

  answer(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
    const refusal = refusalFrom(error) ?? this.#bug(error, request);
    this.onRefusal(refusal.code);
    sendProblem(refusal, request, reply);
  }

  #bug(error: unknown, request: FastifyRequest): Refusal {
    this.onBug(error, request);
    return refuse('INTERNAL');
  }
}

function sendProblem(refusal: Refusal, request: FastifyRequest, reply: FastifyReply): void {
  const retryAfter = refusal.members['retryAfter'] ?? ([429, 503].includes(refusal.status) ? 1 : undefined);
  if (retryAfter !== undefined) void reply.header('Retry-After', String(retryAfter));
  if (refusal.code === 'UNAUTHENTICATED') void reply.header('WWW-Authenticate', request.routeOptions.config.operation?.orLicenseKey ? 'Bearer, License' : 'Bearer');
  // Fastify would close the connection if it has not read the body: a client that is still sending would see a broken pipe instead of the refusal.
  void reply.removeHeader('ETag').removeHeader('Connection').status(refusal.status).headers({ 'Request-Id': request.id, 'Content-Type': problemType }).send(JSON.stringify(problemOf(refusal, request)));
}

/** What the HTTP server refuses by itself. */
const byStatus: Readonly<Record<number, ErrorCode>> = {
  404: 'NOT_FOUND', 405: 'METHOD_NOT_ALLOWED', 408: 'REQUEST_TIMEOUT', 413: 'BODY_TOO_LARGE', 415: 'UNSUPPORTED_MEDIA_TYPE', 431: 'HEADERS_TOO_LARGE',
};

function refusalFrom(error: unknown): Refusal | undefined {
  if (error instanceof Refusal) return error.code === 'INTERNAL' ? refuse('INTERNAL') : error;
  const status = error instanceof HttpException ? error.getStatus() : (error as { statusCode?: number } | undefined)?.statusCode;
  return status !== undefined && status >= 400 && status < 500 ? refuse(byStatus[status] ?? 'VALIDATION_FAILED') : undefined;
}

/** For URLs that cannot be routed: `/%zz`, or a path segment of absurd length. */
export function refuseUrl(error: Error, request: FastifyRequest, reply: FastifyReply): void {
  const detail = 'The URL is not well-formed';
  sendProblem(refusalFrom(error) ? refuse('VALIDATION_FAILED', detail) : refuse('INTERNAL'), request, reply);
}

/** For bytes that are not an HTTP request, arrive too slowly, or are too many: there is no request and no reply then, only a socket. */
export function refuseBytes(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy();
  const status = { ERR_HTTP_REQUEST_TIMEOUT: 408, HPE_HEADER_OVERFLOW: 431 }[error.code ?? ''] ?? 400;
  const problem = problemOf(refuse(byStatus[status] ?? 'VALIDATION_FAILED', status === 400 ? 'The request is not well-formed HTTP' : undefined), { url: '/', id: newCommandId() });
  const body = JSON.stringify(problem);
  const head = [`HTTP/1.1 ${status} ${STATUS_CODES[status]}`, `Content-Type: ${problemType}`, `Content-Length: ${Buffer.byteLength(body)}`, `Request-Id: ${problem.requestId}`, 'Connection: close'];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
}
