import { settingOrFile } from '@keyledger/kernel';

/** What every process can be told from outside, whatever it does. Each variable has a default where one makes sense, and a wrong one is named at the start. */
export interface ProcessConfig {
  logLevel: (typeof levels)[number];
  tracing: { endpoint: string | undefined; disabled: boolean; sampleRatio: number };
  /** NATS_URL or NATS_URL_FILE: where the other services are. */
  natsUrl: string | undefined;
  /** Where a service without an edge of its own answers for its health and numbers. */
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
  return {
    logLevel,
    tracing: { endpoint: env['OTEL_EXPORTER_OTLP_ENDPOINT'] || undefined, disabled: env['OTEL_SDK_DISABLED'] === 'true', sampleRatio },
    natsUrl: settingOrFile(env, 'NATS_URL', 'NATS_URL_FILE'),
    host: env['HOST'] || '127.0.0.1',
    port,
  };
}
