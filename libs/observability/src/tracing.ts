import { setTimeout as sleep } from 'node:timers/promises';
import { types } from 'node:util';
import type { Attributes, Link, Span, SpanContext, SpanStatusCode, Tracer } from '@opentelemetry/api';
import type { SpanExporter, TracerProvider } from '@opentelemetry/sdk-trace';
import { Refusal } from '@keyledger/kernel';
import { mask } from './mask.ts';

export interface TracingConfig {
  readonly service: string;
  /** OTEL_EXPORTER_OTLP_ENDPOINT, `http://collector:4318`. Without it, or an exporter, nothing is traced. */
  readonly endpoint?: string;
  /** OTEL_SDK_DISABLED is `true`. */
  readonly disabled?: boolean;
  /** Share of the traces begun here that are kept, 0–1 (default 1). An incoming trace keeps its sender's choice. */
  readonly sampleRatio?: number;
  /** For tests: gets every span as it ends, instead of the endpoint. */
  readonly exporter?: SpanExporter;
}

export interface Tracing {
  flush(): Promise<void>;
  /** Sends the remaining spans and switches tracing off. Rejects when the collector does not accept them in time: the end of a process must not wait for it. */
  stop(): Promise<void>;
}

const load = () => import('@opentelemetry/api');
const ERROR: SpanStatusCode.ERROR = 2;
const LAST_SENT_WITHIN_MS = 2_000;

/** The one boolean of the hot path: undefined means that tracing is off. */
let on: { readonly api: Awaited<ReturnType<typeof load>>; readonly tracer: Tracer } | undefined;

/** For callers whose preparations would cost something even with tracing off. */
export const isTracing = (): boolean => on !== undefined;

/** Switches tracing on for this process when the configuration asks for it. OpenTelemetry is loaded only then: its API alone is a hundred modules. */
export async function startTracing(config: TracingConfig): Promise<Tracing> {
  if (config.disabled || !(config.exporter || config.endpoint)) return { flush: async () => {}, stop: async () => {} };
  if (on) throw new Error('Tracing is already on');
  const { AsyncLocalStorageContextManager } = await import('@opentelemetry/context-async-hooks');
  const [api, provider] = await Promise.all([load(), providerFor(config)]);
  api.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  on = { api, tracer: provider.getTracer('keyledger') };
  return {
    flush: () => provider.forceFlush(),
    stop: async () => {
      on = undefined;
      api.context.disable();
      const late = sleep(LAST_SENT_WITHIN_MS, undefined, { ref: false }).then(() => { throw new Error(`The trace collector did not accept them within ${LAST_SENT_WITHIN_MS / 1000} s`); });
      await Promise.race([provider.shutdown(), late]);
    },
  };
}

async function providerFor({ service, endpoint, sampleRatio = 1, exporter }: TracingConfig): Promise<TracerProvider> {
  const { BatchSpanProcessor, ParentBasedSampler, SimpleSpanProcessor, TraceIdRatioBasedSampler, TracerProvider } = await sdk();
  const { defaultResource, resourceFromAttributes } = await import('@opentelemetry/resources');
  return new TracerProvider({
    resource: defaultResource().merge(resourceFromAttributes({ 'service.name': service })),
    sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(sampleRatio) }),
    spanProcessors: [
      exporter
        ? new SimpleSpanProcessor({ exporter })
        : new BatchSpanProcessor({ exporter: await otlp(`${endpoint?.replace(/\/$/, '')}/v1/traces`), scheduledDelayMillis: 1000 }),
    ],
  });
}

const sdk = () => import('@opentelemetry/sdk-trace');
const otlp = async (url: string): Promise<SpanExporter> => new (await import('@opentelemetry/exporter-trace-otlp-http')).OTLPTraceExporter({ url });

/**
 * Runs the work inside a span; a plain call when tracing is off. The span ends with the work, or with the promise that it returns.
 * A refusal is an answer and only noted; any other error marks the span as failed. `links` are traceparents of other traces that led here.
 */
export function traced<T>(name: string, attributes: Attributes, work: () => T, links?: readonly (string | undefined)[]): T {
  if (!on) return work();
  return on.tracer.startActiveSpan(name, { attributes, links: linksTo(links) }, (span) => {
    try {
      const result = work();
      if (types.isPromise(result)) {
        return result.then((value) => { span.end(); return value; }, (error: unknown) => failed(span, error)) as T;
      }
      span.end();
      return result;
    } catch (error) {
      return failed(span, error);
    }
  });
}

function failed(span: Span, error: unknown): never {
  if (error instanceof Refusal) span.setAttribute('keyledger.refusal', error.code);
  else span.setStatus({ code: ERROR, message: mask(String(error)) });
  span.end();
  throw error;
}

const linksTo = (traceparents: readonly (string | undefined)[] = []): Link[] =>
  traceparents.map(parseTraceparent).filter((context) => context !== undefined).map((context) => ({ context }));

/** Runs the work as part of a trace that came in from outside; with none, or a broken one, it begins a trace of its own. */
export function withRemoteParent<T>(traceparent: string | undefined, work: () => T): T {
  if (!on) return work();
  const { context, ROOT_CONTEXT, trace } = on.api;
  const parent = parseTraceparent(traceparent);
  return context.with(parent ? trace.setSpanContext(ROOT_CONTEXT, parent) : ROOT_CONTEXT, work);
}

/** W3C `traceparent` of the current span, to be sent along; undefined when tracing is off. */
export function currentTraceparent(): string | undefined {
  const span = on?.api.trace.getActiveSpan()?.spanContext();
  return span && `00-${span.traceId}-${span.spanId}-${span.traceFlags.toString(16).padStart(2, '0')}`;
}

export const currentTraceId = (): string | undefined => on?.api.trace.getActiveSpan()?.spanContext().traceId;

/** Version 00; what later versions append is ignored, as the recommendation asks. */
const shape = /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** Undefined for anything but a valid W3C traceparent. */
export function parseTraceparent(traceparent: string | undefined): SpanContext | undefined {
  const [, version, traceId, spanId, flags, more] = (traceparent && shape.exec(traceparent)) || [];
  if (!traceId || !spanId || !flags || (version === '00' && more !== undefined)) return undefined;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & 1, isRemote: true };
}
