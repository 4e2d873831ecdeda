import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { settingOrFile } from '@keyledger/kernel';
import { services, type ServiceName } from './services.ts';

export interface DistributedConfig {
  dataDir: string;
  host: string;
  /** Of the first gateway; the others take the ports after it. 0: any that are free. */
  port: number;
  replicas: Readonly<Record<ServiceName, number>>;
  /** Servers that are there already; what is missing is started. */
  natsUrl: string | undefined;
  databaseUrl: string | undefined;
  /** What the services get to know, beside the two URLs. */
  env: NodeJS.ProcessEnv;
}

/** `--replicas authority=2,activation=3,gateway=2`, and the environment. */
export function distributedConfig(args: readonly string[] = process.argv.slice(2), env: NodeJS.ProcessEnv = process.env): DistributedConfig {
  const { values: { replicas = '' } } = parseArgs({ args: [...args], options: { replicas: { type: 'string' } } });
  const port = Number(env['PORT'] || 3000);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new Error(`PORT must be a port number, not "${env['PORT']}"`);
  return {
    dataDir: resolve(env['KEYLEDGER_DATA_DIR'] || './data-distributed'),
    host: env['HOST'] || '127.0.0.1',
    port,
    replicas: replicasOf(replicas),
    natsUrl: settingOrFile(env, 'NATS_URL', 'NATS_URL_FILE'),
    databaseUrl: settingOrFile(env, 'DATABASE_URL', 'DATABASE_URL_FILE'),
    env: { ...env, NATS_URL_FILE: undefined, DATABASE_URL_FILE: undefined },
  };
}

function replicasOf(text: string): DistributedConfig['replicas'] {
  const counts: Record<ServiceName, number> = Object.fromEntries(services.map(({ name }) => [name, 1])) as Record<ServiceName, number>;
  for (const part of text.split(',').filter(Boolean)) {
    const [, asked, count] = /^([a-z-]+)=(\d+)$/.exec(part.trim()) ?? [];
    const service = services.find(({ name, alias }) => name === asked || alias === asked);
    if (!service || Number(count) < 1 || Number(count) > 16) throw new Error(`--replicas ${part}: expected <service>=<1 to 16>, with a service of ${services.map(({ name }) => name).join(', ')}`);
    counts[service.name] = Number(count);
  }
  return counts;
}
