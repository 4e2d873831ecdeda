import { afterEach, describe, expect, it } from '@jest/globals';
import { InMemorySpanExporter, type ReadableSpan } from '@opentelemetry/sdk-trace';
import { refuse } from '@keyledger/kernel';
import { currentTraceId, currentTraceparent, parseTraceparent, startTracing, traced, withRemoteParent, type Tracing } from './tracing.ts';

const inbound = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
let tracing: Tracing | undefined;
afterEach(async () => {
  await tracing?.stop();
  tracing = undefined;
});

async function recording() {
  const exporter = new InMemorySpanExporter();
  tracing = await startTracing({ service: 'test', exporter });
  return (name: string): ReadableSpan => {
    const span = exporter.getFinishedSpans().find((finished) => finished.name === name);
    if (!span) throw new Error(`No span ${name}`);
    return span;
  };
}

describe('Tracing that is off', () => {
  it.each([[{}], [{ endpoint: 'http://127.0.0.1:4318', disabled: true }], [{ exporter: new InMemorySpanExporter(), disabled: true }]])('is a plain call (%#)', async (config) => {
    tracing = await startTracing({ service: 'test', ...config });
    const error = new Error('x');
    expect(traced('a', {}, () => currentTraceparent() ?? 'nothing')).toBe('nothing');
    expect(withRemoteParent(inbound, () => currentTraceId() ?? 'nothing')).toBe('nothing');
    expect(() => traced('a', {}, () => { throw error; })).toThrow(error);
    await tracing.flush();
  });
});

describe('A trace', () => {
  it('leads from a request through message and append to the projection, which only has the event', async () => {
    const span = await recording();
    const log: { traceparent?: string }[] = [];
    const request = withRemoteParent(inbound, () => traced('POST /licenses/:id/assign', { 'http.route': '/licenses/:id/assign' }, async () => {
      const headers = { traceparent: currentTraceparent() };
      await Promise.resolve();
      return withRemoteParent(headers.traceparent, () => traced('license.assign', {}, () => traced('append', {}, async () => {
        await Promise.resolve();
        log.push({ traceparent: currentTraceparent() });
      })));
    }));
    await request;
    withRemoteParent(log[0]?.traceparent, () => traced('project license-list', {}, () => undefined));
    traced('project batch', {}, () => undefined, [log[0]?.traceparent, undefined, 'broken']);

    const path = ['POST /licenses/:id/assign', 'license.assign', 'append', 'project license-list'].map(span);
    expect(path.map((each) => each.spanContext().traceId)).toEqual(path.map(() => '4bf92f3577b34da6a3ce929d0e0e4736'));
    expect(path.map((each) => each.parentSpanContext?.spanId)).toEqual(['00f067aa0ba902b7', ...path.slice(0, 3).map((each) => each.spanContext().spanId)]);
    expect(span('project batch').links.map((link) => link.context.spanId)).toEqual([span('append').spanContext().spanId]);
    expect(span('project batch').spanContext().traceId).not.toBe('4bf92f3577b34da6a3ce929d0e0e4736');
    expect(span('append').resource.attributes['service.name']).toBe('test');
  });

  it('begins anew where nothing valid came in, even below another span', async () => {
    const span = await recording();
    traced('outer', {}, () => withRemoteParent('broken', () => traced('inner', {}, () => undefined)));
    expect(span('inner').parentSpanContext).toBeUndefined();
    expect(span('inner').spanContext().traceId).not.toBe(span('outer').spanContext().traceId);
  });

  it('keeps the sender\'s choice not to sample', async () => {
    const span = await recording();
    withRemoteParent(inbound.replace(/01$/, '00'), () => traced('unsampled', {}, () => expect(currentTraceparent()).toMatch(/-00$/)));
    expect(() => span('unsampled')).toThrow('No span');
  });

  it('notes a refusal, and marks a crash without the secret in it', async () => {
    const span = await recording();
    expect(() => traced('refused', {}, () => { throw refuse('LICENSE_REVOKED'); })).toThrow();
    await expect(traced('crashed', {}, async () => { throw new Error('bad key ABCDEFG-HJKMNPQ-RSTVWXY-Z012345'); })).rejects.toThrow();
    expect(span('refused')).toMatchObject({ status: { code: 0 }, attributes: { 'keyledger.refusal': 'LICENSE_REVOKED' } });
    expect(span('crashed').status).toEqual({ code: 2, message: 'Error: bad key ABCDEFG-…' });
  });
});

it('Nobody waits for a collector that says nothing', async () => {
  const { stop } = await startTracing({ service: 'test', exporter: { export: () => undefined, shutdown: () => new Promise(() => undefined) } });
  await expect(stop()).rejects.toThrow('The trace collector did not accept them within 2 s');
}, 5_000);

describe('parseTraceparent', () => {
  it('reads W3C trace context', () => {
    expect(parseTraceparent(inbound)).toEqual({ traceId: '4bf92f3577b34da6a3ce929d0e0e4736', spanId: '00f067aa0ba902b7', traceFlags: 1, isRemote: true });
    expect(parseTraceparent(`cc${inbound.slice(2)}-what-the-future-will-be-like`)?.spanId).toBe('00f067aa0ba902b7');
  });

  it.each([
    undefined, '', 'broken', inbound.toUpperCase(), `ff${inbound.slice(2)}`, `${inbound}-more`, inbound.slice(0, -1), ` ${inbound}`,
    '00-00000000000000000000000000000000-00f067aa0ba902b7-01', '00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01',
  ])('is not taken in by %s', (text) => expect(parseTraceparent(text)).toBeUndefined());
});
