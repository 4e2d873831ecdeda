import { describe, expect, it } from '@jest/globals';
import { processConfig } from './config.ts';

describe('The configuration of a process', () => {
  it('has a default for everything', () => {
    expect(processConfig({})).toEqual({ logLevel: 'info', tracing: { endpoint: undefined, disabled: false, sampleRatio: 1 }, natsUrl: undefined, host: '127.0.0.1', port: 3000 });
  });

  it.each(['nats://127.0.0.1:4222', 'nats://user:pass@word@nats', 'tls://[::1]:4222', 'nats://token@one:4222, nats://two:4222'])('takes %s for NATS', (url) => {
    expect(processConfig({ NATS_URL: url, OTEL_EXPORTER_OTLP_ENDPOINT: 'https://collector.example.com:4318/otlp' })).toMatchObject({ natsUrl: url });
  });

  it.each([['true', true], ['TRUE', true], ['1', false], ['', false]])('turns tracing off as OpenTelemetry has it: OTEL_SDK_DISABLED=%s', (value, disabled) => {
    expect(processConfig({ OTEL_SDK_DISABLED: value }).tracing).toMatchObject({ disabled });
  });

  it.each([
    ...['foo', 'localhost:4222', 'nats://', 'nats://:4222', 'ws://nats', 'nats://one,two:4222'].map((url) => [{ NATS_URL: url }, /^NATS_URL must be nats:/] as const),
    ...['foo', 'collector:4318', 'http://', 'grpc://collector:4317'].map((url) => [{ OTEL_EXPORTER_OTLP_ENDPOINT: url }, /^OTEL_EXPORTER_OTLP_ENDPOINT must be http:/] as const),
    [{ LOG_LEVEL: 'loud' }, /^LOG_LEVEL/], [{ PORT: '70000' }, /^PORT/], [{ OTEL_TRACES_SAMPLER_ARG: '2' }, /^OTEL_TRACES_SAMPLER_ARG/],
  ])('names what is wrong: %j', (env, why) => {
    expect(() => processConfig(env)).toThrow(why);
  });
});
