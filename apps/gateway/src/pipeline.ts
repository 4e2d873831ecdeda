import { refuse, runIn, type MessageContext } from '@keyledger/kernel';
import { isTracing, traced, withRemoteParent, type Metrics } from '@keyledger/observability';
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import type { Admission } from './admission.ts';
import type { Idempotency } from './idempotency.ts';
import { isForCustomers, isMutation, needsApiKey, requiresBody, type Operation } from './operation.ts';

/**
 * What happens around every handler, in this order: admission (caller, environment, rate) before the body is read; the body's schema; the limits of
 * a license key; the Idempotency-Key; the message context. Fastify hooks, not Nest interceptors, which would cost more than the request itself.
 */
export function assemblePipeline(fastify: FastifyInstance, { admission, idempotency, metrics, operations }: {
  admission: Admission; idempotency: Idempotency; metrics: Metrics; operations: Operation[];
}): void {
  fastify.decorateRequest('context', undefined);
  fastify.decorateRequest('claim', undefined);
  fastify.decorateRequest('licenseKey', undefined);
  const places = new Places();
  // Node would answer these two by itself, without a body: an unknown expectation is ignored, a missing Host is refused below.
  fastify.server.on('checkExpectation', (request, response) => fastify.server.emit('request', request, response));

  fastify.addHook('onRequest', (request, reply, done) => {
    void reply.header('Request-Id', request.id);
    if (request.headers.host === undefined && request.raw.httpVersion === '1.1') return done(refuse('VALIDATION_FAILED', 'The Host header is missing'));
    if (!request.is404) return done();
    const place = places.at(request.url);
    if (place === undefined) return done(refuse('NOT_FOUND'));
    const { allowed, isForCustomers: isOpen } = place;
    void reply.header('Allow', allowed);
    if (isOpen && request.headers.origin !== undefined) void reply.headers({ ...crossOrigin, 'Access-Control-Allow-Methods': allowed, ...preflight });
    if (request.method !== 'OPTIONS') return done(refuse('METHOD_NOT_ALLOWED', `${request.method} is not allowed here; allowed: ${allowed}`));
    void reply.status(204).send();
  });

  fastify.addHook('onRoute', (route) => {
    places.add(route);
    const operation = route.config?.operation;
    if (!operation) return;
    // Fastify makes a HEAD route of every GET route, and it needs the same hooks.
    if (route.method !== 'HEAD') operations.push(operation);
    const isOpen = isForCustomers(operation);
    prepend(route, 'onRequest', needsApiKey(operation)
      ? (request, reply, done) => {
        void reply.header('Cache-Control', 'no-store');
        if (isOpen && request.headers.origin !== undefined) void reply.headers(crossOrigin);
        admission.apiKey(request, reply, operation).then(() => done(), done);
      }
      : (request, reply, done) => {
        if (isOpen && request.headers.origin !== undefined) void reply.headers(crossOrigin);
        attempt(() => admission.public(request, operation), done);
      });
    if (operation.method !== 'GET' && !requiresBody(operation)) {
      prepend(route, 'preValidation', (request, _reply, done) => {
        if (request.body === undefined) request.body = {};
        done();
      });
    }
    prepend(route, 'preHandler', (request, reply, done) => {
      const enter = () => runIn(request.context as MessageContext, () => span(operation, request, reply, done));
      if (request.headers['idempotency-key'] === undefined || !isMutation(operation)) return enter();
      idempotency.begin(request, reply).then((answered) => answered || enter(), done);
    });
    if (operation.needs === 'license-key') prepend(route, 'preHandler', (request, reply, done) => attempt(() => admission.licenseKey(request, reply), done));
    if (isMutation(operation)) {
      prepend(route, 'onSend', (request, reply, payload, done) => {
        if (!request.claim) return done(null, payload);
        idempotency.finish(request, reply, payload).then((stored) => done(null, stored), done);
      });
    }
    if (operation.versioned) {
      prepend(route, 'preSerialization', (_request, reply, payload, done) => {
        const revision = (payload as { revision?: number } | null)?.revision;
        if (revision !== undefined) void reply.header('ETag', `"${revision}"`);
        done(null, payload);
      });
    }
    const observe = metrics.requests(operation.method, operation.path);
    prepend(route, 'onResponse', (_request, reply, done) => {
      observe(reply.statusCode, reply.elapsedTime / 1000);
      done();
    });
  });
}

/** Nothing that a browser adds by itself is a credential here, so any page may send requests; see the Fetch standard, "CORS protocol". */
const crossOrigin = { 'Access-Control-Allow-Origin': '*', 'Access-Control-Expose-Headers': 'Request-Id, Retry-After' } as const;
const preflight = { 'Access-Control-Allow-Headers': 'Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Environment', 'Access-Control-Max-Age': '7200' } as const;

function attempt(work: () => void, done: (error?: Error) => void): void {
  try {
    work();
  } catch (error) {
    return done(error as Error);
  }
  done();
}

/** The request's span stays open until the answer is on its way; without tracing this is a plain call. */
function span({ method, path }: Operation, request: FastifyRequest, reply: FastifyReply, done: () => void): void {
  withRemoteParent(request.headers['traceparent'] as string | undefined, () =>
    traced(`${method} ${path}`, { 'http.request.method': method, 'http.route': path }, () => {
      done();
      return isTracing() ? new Promise<void>((resolve) => reply.raw.once('close', resolve)) : undefined;
    }));
}

interface Place {
  parts: readonly string[];
  methods: Set<string>;
  isForCustomers: boolean;
}

/** Every served path with its methods, to tell 405 from 404. */
class Places {
  readonly #places = new Map<string, Place>();
  #mostParts = 0;

  add({ url, method, config }: RouteOptions): void {
    const place: Place = this.#places.get(url) ?? { parts: url.split('/'), methods: new Set(['OPTIONS']), isForCustomers: false };
    for (const one of [method].flat()) place.methods.add(one);
    if (config?.operation && isForCustomers(config.operation)) place.isForCustomers = true;
    this.#places.set(url, place);
    this.#mostParts = Math.max(this.#mostParts, place.parts.length);
  }

  /** `GET, HEAD, OPTIONS`, or undefined for an unknown path. A path with more parts than any route is not parsed to its end. */
  at(url: string): { allowed: string; isForCustomers: boolean } | undefined {
    const given = pathOf(url).split('/', this.#mostParts + 1);
    const found = [...this.#places.values()].filter(({ parts }) => fits(parts, given));
    if (found.length === 0) return undefined;
    return { allowed: [...new Set(found.flatMap(({ methods }) => [...methods]))].sort().join(', '), isForCustomers: found.some((place) => place.isForCustomers) };
  }
}

const pathOf = (url: string): string => url.split('?', 1)[0] ?? '';

/** `/licenses/:id` matches `/licenses/x`; `*` matches any rest. */
function fits(wanted: readonly string[], given: readonly string[]): boolean {
  if (wanted.at(-1) === '*') return given.length >= wanted.length && wanted.slice(0, -1).every((part, n) => part === given[n]);
  return given.length === wanted.length && wanted.every((part, n) => part === given[n] || part.startsWith(':'));
}

type HookName = 'onRequest' | 'preValidation' | 'preHandler' | 'preSerialization' | 'onSend' | 'onResponse';

function prepend<H extends HookName>(route: RouteOptions, name: H, hook: Exclude<RouteOptions[H], unknown[] | undefined>): void {
  const existing = route[name] as unknown;
  const rest = existing === undefined ? [] : Array.isArray(existing) ? existing : [existing];
  (route as unknown as Record<HookName, unknown[]>)[name] = [hook, ...rest];
}
