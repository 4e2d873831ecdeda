import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { mode, Product } from '@keyledger/testing/process';

interface Span { traceId: string; spanId: string; parentSpanId?: string; name: string; service: string | undefined }
interface Exported {
  resourceSpans: { resource: { attributes: { key: string; value: { stringValue?: string } }[] }; scopeSpans: { spans: Omit<Span, 'service'>[] }[] }[];
}

/** What an OpenTelemetry collector receives, over OTLP/HTTP with JSON. */
class Collector {
  readonly spans: Span[] = [];
  readonly #server: Server;
  #received = Promise.withResolvers<void>();

  constructor() {
    this.#server = createServer((request, response) => {
      const parts: Buffer[] = [];
      request.on('data', (part: Buffer) => parts.push(part)).on('end', () => {
        for (const { resource, scopeSpans } of (JSON.parse(Buffer.concat(parts).toString()) as Exported).resourceSpans) {
          const service = resource.attributes.find(({ key }) => key === 'service.name')?.value.stringValue;
          this.spans.push(...scopeSpans.flatMap(({ spans }) => spans.map((span) => ({ ...span, service }))));
        }
        response.end('{}');
        this.#received.resolve();
        this.#received = Promise.withResolvers();
      });
    });
  }

  async listen(): Promise<string> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Resolves when the trace has spans of all these names. */
  async trace(traceId: string, names: readonly string[]): Promise<readonly Span[]> {
    for (;;) {
      const spans = this.spans.filter((span) => span.traceId === traceId);
      if (names.every((name) => spans.some((span) => span.name === name))) return spans;
      await this.#received.promise;
    }
  }

  close(): void {
    this.#server.close();
  }
}

const collector = new Collector();
let product: Product;
beforeAll(async () => {
  product = await Product.start({ OTEL_SDK_DISABLED: 'false', OTEL_EXPORTER_OTLP_ENDPOINT: await collector.listen() });
});
afterAll(async () => {
  await product.stop();
  collector.close();
});

it('One trace, begun by the caller, spans the request, its messages, the appends and the projection', async () => {
  const { id: productId } = await product.root.post<{ id: string }>('/products', { name: 'Traced' });
  const { id: planId } = await product.root.post<{ id: string }>(`/products/${productId}/plans`, { name: 'Plan', licensing: { enabled: true } });
  const traceId = '4bf92f3577b34da6a3ce929d0e0e4736';
  await product.root.post('/orders', { planId, customer: { name: 'Ada', email: 'ada@example.com' } }, { traceparent: `00-${traceId}-00f067aa0ba902b7-01` });

  const spans = await collector.trace(traceId, ['POST /orders', 'order.place', 'license.issue-ordered', 'append', 'project']);
  const request = spans.find(({ name }) => name === 'POST /orders');
  expect(request?.parentSpanId).toBe('00f067aa0ba902b7');
  const ids = new Set(spans.map(({ spanId }) => spanId));
  expect(spans.filter(({ parentSpanId }) => !parentSpanId || !ids.has(parentSpanId))).toEqual([request]);
  if (mode === 'standalone') return;
  const servicesOf = (wanted: string) => new Set(spans.filter(({ name }) => name === wanted).map(({ service }) => service?.replace('keyledger-', '')));
  expect(request?.service).toBe('keyledger-gateway');
  expect(servicesOf('order.place')).toEqual(new Set(['catalog']));
  expect(servicesOf('license.issue-ordered')).toEqual(new Set(['license-authority']));
  expect(servicesOf('append')).toEqual(new Set(['catalog', 'license-authority']));
  expect(servicesOf('project').size).toBeGreaterThan(0);
});
