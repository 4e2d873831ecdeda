import { settingOrFile } from '@keyledger/kernel';

/** The settings of every process. Each variable has a default where one makes sense, and a wrong one is named at the start. */
export interface ProcessConfig {
  logLevel: (typeof levels)[number];
  tracing: { endpoint: string | undefined; disabled: boolean; sampleRatio: number };
  /** NATS_URL or NATS_URL_FILE: where the other services are. */
  natsUrl: string | undefined;
  /** Where a service without an HTTP server of its own answers for health and metrics. */
  host: string;
  port: number;
}

const levels = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;

export function processConfig(env: NodeJS.ProcessEnv = process.env): ProcessConfig {
  const logLevel = levels.find((level) => level === (env['LOG_LEVEL'] || 'info'));
  if (!logLevel) throw new Error(`LOG_LEVEL must be one of ${levels.join(', ')}`);
  const sampleRatio = Number(env['OTEL_TRACES_SAMPLER_ARG'] || 1);
  if (!(sampleRatio >= 0 && sampleRatio <= 1)) throw new Error('OTEL_TRACES_SAMPLER_ARG must be 0 to 1');
  const port = Number(env['PORT'] || 3000);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new Error(`PORT must be a port number, not "${env['PORT']}"`);
  const endpoint = env['OTEL_EXPORTER_OTLP_ENDPOINT'] || undefined;
  if (endpoint !== undefined && !isAddress(endpoint, ['http:', 'https:'])) throw new Error('OTEL_EXPORTER_OTLP_ENDPOINT must be http://… or https://…');
  const natsUrl = settingOrFile(env, 'NATS_URL', 'NATS_URL_FILE');
  if (natsUrl !== undefined && !natsUrl.split(',').every((one) => isAddress(one, ['nats:', 'tls:']))) throw new Error('NATS_URL must be nats://… or tls://…, or several separated by commas');
  return {
    logLevel,
    tracing: { endpoint, disabled: env['OTEL_SDK_DISABLED']?.toLowerCase() === 'true', sampleRatio },
    natsUrl,
    host: env['HOST'] || '127.0.0.1',
    port,
  };
}

/** `localhost:4222` parses as a URL, too, with the scheme `localhost`. */
function isAddress(text: string, protocols: readonly string[]): boolean {
  const url = URL.parse(text.trim());
  return url !== null && protocols.includes(url.protocol) && url.hostname !== '';
}
