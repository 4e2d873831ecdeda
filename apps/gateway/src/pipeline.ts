import { runIn, type MessageContext } from '@keyledger/kernel';
import { isTracing, traced, withRemoteParent, type Metrics } from '@keyledger/observability';
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import type { Admission } from './admission.ts';
import type { Idempotency } from './idempotency.ts';
import { isMutation, type Operation } from './operation.ts';

/**
 * What happens around every handler, in this order: admission (who, where, how often) before the body is read; then the body's schema;
 * then the message context and the Idempotency-Key. Fastify hooks and no Nest interceptors, which would cost more than the request itself.
 */
export function assemblePipeline(fastify: FastifyInstance, { admission, idempotency, metrics, operations }: {
  admission: Admission; idempotency: Idempotency; metrics: Metrics; operations: Operation[];
}): void {
  fastify.decorateRequest('context', undefined);
  fastify.decorateRequest('claim', undefined);

  fastify.addHook('onRoute', (route) => {
    const operation = route.config?.operation;
    if (!operation || route.method === 'HEAD') return;
    operations.push(operation);
    prepend(route, 'onRequest', (request, reply, done) => {
      void reply.header('Request-Id', request.id);
      if (operation.needs !== 'public' && operation.needs !== 'license-key') return void admission.apiKey(request, reply, operation).then(() => done(), done);
      try {
        admission.public(request);
        done();
      } catch (error) {
        done(error as Error);
      }
    });
    if (operation.body && !(operation.body['required'] as string[] | undefined)?.length) {
      prepend(route, 'preValidation', (request, _reply, done) => {
        request.body ??= {};
        done();
      });
    }
    prepend(route, 'preHandler', (request, reply, done) => {
      const enter = () => runIn(request.context as MessageContext, () => span(operation, request, reply, done));
      if (request.headers['idempotency-key'] === undefined || !isMutation(operation)) return enter();
      idempotency.begin(request, reply).then((answered) => answered || enter(), done);
    });
    if (operation.versioned || isMutation(operation)) {
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
    prepend(route, 'onResponse', (_request, reply, done) => {
      metrics.request(operation.method, operation.path, reply.statusCode, reply.elapsedTime / 1000);
      done();
    });
  });
}

/** The request's span stays open until the answer is on its way; without tracing this is a plain call. */
function span({ method, path }: Operation, request: FastifyRequest, reply: FastifyReply, done: () => void): void {
  withRemoteParent(request.headers['traceparent'] as string | undefined, () =>
    traced(`${method} ${path}`, { 'http.request.method': method, 'http.route': path }, () => {
      done();
      return isTracing() ? new Promise<void>((resolve) => reply.raw.once('close', resolve)) : undefined;
    }));
}

type HookName = 'onRequest' | 'preValidation' | 'preHandler' | 'preSerialization' | 'onSend' | 'onResponse';

function prepend<H extends HookName>(route: RouteOptions, name: H, hook: Exclude<RouteOptions[H], unknown[] | undefined>): void {
  const existing = route[name] as unknown;
  const rest = existing === undefined ? [] : Array.isArray(existing) ? existing : [existing];
  (route as unknown as Record<HookName, unknown[]>)[name] = [hook, ...rest];
}
