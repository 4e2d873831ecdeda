import { Catch, HttpException, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import { errors, Refusal, refuse, type ErrorCode } from '@keyledger/kernel';
import type { FastifyReply, FastifyRequest, FastifySchemaValidationError } from 'fastify';

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

/** Members that one service tells another and nobody else. */
const internal: readonly string[] = ['retired'];

export function problemOf(refusal: Refusal, request: FastifyRequest): Problem {
  const { status, title } = errors[refusal.code];
  const members = Object.entries(refusal.members).filter(([name]) => !internal.includes(name));
  const [path] = request.url.split('?', 1);
  return { ...Object.fromEntries(members), type: `/docs/errors#${refusal.code}`, title, status, detail: refusal.message, instance: path ?? '/', code: refusal.code, requestId: request.id };
}

/** Ajv's findings, one entry per field, each with a JSON pointer (RFC 6901). */
export function validationRefusal(findings: readonly FastifySchemaValidationError[], part: string): Refusal {
  const fields = new Map<string, string>();
  for (const { instancePath, keyword, params, message } of findings) {
    const missing = params['missingProperty'] ?? params['additionalProperty'];
    const pointer = missing === undefined ? instancePath : `${instancePath}/${escapePointer(String(missing))}`;
    if (!fields.has(pointer)) fields.set(pointer, keyword === 'additionalProperties' ? 'is not known here' : (message ?? 'is not valid'));
  }
  const list = [...fields].slice(0, 100).map(([pointer, detail]) => ({ pointer: part === 'querystring' ? `?${pointer}` : pointer, detail }));
  return refuse('VALIDATION_FAILED', list.map(({ pointer, detail }) => `${pointer || 'The body'} ${detail}`).slice(0, 3).join('; '), { errors: list });
}

const escapePointer = (name: string): string => name.replaceAll('~', '~0').replaceAll('/', '~1');

/** The one place where a "no" becomes an HTTP answer. Whatever is not a refusal is a bug: logged whole, answered bare. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  constructor(private readonly onBug: (error: unknown, request: FastifyRequest) => void) {}

  catch(error: unknown, host: ArgumentsHost): void {
    const request = host.switchToHttp().getRequest<FastifyRequest>();
    const reply = host.switchToHttp().getResponse<FastifyReply>();
    sendProblem(refusalFrom(error) ?? this.#bug(error, request), request, reply);
  }

  #bug(error: unknown, request: FastifyRequest): Refusal {
    this.onBug(error, request);
    return refuse('INTERNAL');
  }
}

export function sendProblem(refusal: Refusal, request: FastifyRequest, reply: FastifyReply): void {
  const retryAfter = refusal.members['retryAfter'] ?? (refusal.status === 503 ? 1 : undefined);
  if (retryAfter !== undefined) void reply.header('Retry-After', String(retryAfter));
  if (refusal.code === 'UNAUTHENTICATED') void reply.header('WWW-Authenticate', 'Bearer');
  void reply.status(refusal.status).header('Content-Type', problemType).send(JSON.stringify(problemOf(refusal, request)));
}

const byStatus: Readonly<Record<number, ErrorCode>> = {
  400: 'VALIDATION_FAILED', 404: 'NOT_FOUND', 405: 'METHOD_NOT_ALLOWED', 413: 'BODY_TOO_LARGE', 414: 'VALIDATION_FAILED', 415: 'UNSUPPORTED_MEDIA_TYPE', 431: 'VALIDATION_FAILED',
};

function refusalFrom(error: unknown): Refusal | undefined {
  if (error instanceof Refusal) return error.code === 'INTERNAL' ? refuse('INTERNAL') : error;
  const status = error instanceof HttpException ? error.getStatus() : (error as { statusCode?: number } | undefined)?.statusCode;
  const code = status === undefined ? undefined : byStatus[status];
  return code && refuse(code, code === 'NOT_FOUND' ? undefined : (error as Error).message);
}
