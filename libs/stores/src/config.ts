import { resolve } from 'node:path';
import { settingOrFile } from '@keyledger/kernel';

/** Where an installation keeps its data. With nothing set: files in ./data. */
export interface StoresConfig {
  dataDir: string;
  masterKey: { value: string | undefined; file: string | undefined };
  /** DATABASE_URL or DATABASE_URL_FILE: PostgreSQL keeps state tables, read models and (without EVENTSTORE_URL) the log. */
  databaseUrl: string | undefined;
  /** EVENTSTORE_URL or EVENTSTORE_URL_FILE: EventStoreDB keeps the log. */
  eventStoreUrl: string | undefined;
  /** EVENTSTORE_PREFIX: starts the names of this installation's streams, where several share an EventStoreDB. */
  eventStorePrefix?: string | undefined;
  /** DATABASE_CONNECTIONS: the most connections this process opens to each schema of the database. */
  connections: number;
}

export function storesConfig(env: NodeJS.ProcessEnv = process.env): StoresConfig {
  const databaseUrl = settingOrFile(env, 'DATABASE_URL', 'DATABASE_URL_FILE');
  const eventStoreUrl = settingOrFile(env, 'EVENTSTORE_URL', 'EVENTSTORE_URL_FILE');
  if (databaseUrl !== undefined && !/^postgres(ql)?:\/\//.test(databaseUrl)) throw new Error('DATABASE_URL must begin with postgresql://');
  if (eventStoreUrl !== undefined && !/^(esdb|kurrentdb)(\+discover)?:\/\//.test(eventStoreUrl)) throw new Error('EVENTSTORE_URL must begin with esdb://');
  if (eventStoreUrl !== undefined && databaseUrl === undefined) throw new Error('EVENTSTORE_URL is set, but DATABASE_URL is not: state tables and read models need a PostgreSQL server beside the log');
  const eventStorePrefix = env['EVENTSTORE_PREFIX'] || undefined;
  if (eventStorePrefix !== undefined && !/^[\w-]+$/.test(eventStorePrefix)) throw new Error('EVENTSTORE_PREFIX may contain only letters, digits, - and _');
  const connections = Number(env['DATABASE_CONNECTIONS'] || 4);
  if (!Number.isInteger(connections) || connections < 2) throw new Error('DATABASE_CONNECTIONS must be a whole number of at least 2');
  return {
    dataDir: resolve(env['KEYLEDGER_DATA_DIR'] || './data'),
    masterKey: { value: env['KEYLEDGER_MASTER_KEY'] || undefined, file: env['KEYLEDGER_MASTER_KEY_FILE'] || undefined },
    databaseUrl, eventStoreUrl, eventStorePrefix, connections,
  };
}
