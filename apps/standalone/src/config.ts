import { resolve } from 'node:path';
import { accessConfig, type AccessConfig } from '@keyledger/access';
import { gatewayConfig, type GatewayConfig } from '@keyledger/gateway';

/** Everything that can be said from outside; each variable has a default, and a wrong one is named at the start. */
export interface StandaloneConfig {
  dataDir: string;
  masterKey: { value: string | undefined; file: string | undefined };
  logLevel: 'silent' | 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace';
  tracing: { endpoint: string | undefined; disabled: boolean; sampleRatio: number };
  gateway: GatewayConfig;
  access: AccessConfig;
}

const levels = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;

export function standaloneConfig(env: NodeJS.ProcessEnv = process.env): StandaloneConfig {
  const logLevel = levels.find((level) => level === (env['LOG_LEVEL'] || 'info'));
  if (!logLevel) throw new Error(`LOG_LEVEL must be one of ${levels.join(', ')}`);
  const sampleRatio = Number(env['OTEL_TRACES_SAMPLER_ARG'] || 1);
  if (!(sampleRatio >= 0 && sampleRatio <= 1)) throw new Error('OTEL_TRACES_SAMPLER_ARG must be 0 to 1');
  return {
    dataDir: resolve(env['KEYLEDGER_DATA_DIR'] || './data'),
    masterKey: { value: env['KEYLEDGER_MASTER_KEY'] || undefined, file: env['KEYLEDGER_MASTER_KEY_FILE'] || undefined },
    logLevel,
    tracing: { endpoint: env['OTEL_EXPORTER_OTLP_ENDPOINT'] || undefined, disabled: env['OTEL_SDK_DISABLED'] === 'true', sampleRatio },
    gateway: gatewayConfig(env),
    access: accessConfig(env),
  };
}
