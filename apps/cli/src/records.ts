import { createLog, Metrics } from '@keyledger/observability';
import type { Migration } from '@keyledger/read-models';
import { openRecords, type Records, type StoresConfig } from '@keyledger/stores';
import type { Header } from './archive.ts';

/** The stores that the configuration names, for a process that answers nobody. Standard output is for data. */
export async function openFor(command: 'export' | 'import', config: StoresConfig, migrations: readonly Migration[] = []): Promise<Records> {
  const log = createLog({ level: 'warn', service: `keyledger-${command}`, destination: process.stderr });
  try {
    return await openRecords(config, { log, metrics: new Metrics('cli', { processMetrics: false }) }, migrations);
  } catch (error) {
    if (!(error as Error).message.endsWith('is already open for writing')) throw error;
    throw new Error(`The product is running on these files; stop it first: ${(error as Error).message}`, { cause: error });
  }
}

/** `1,234 events and 567 rows`. */
export function sumOf({ environments }: Pick<Header, 'environments'>): string {
  const all = Object.values(environments);
  const events = all.reduce((sum, contents) => sum + contents.events, 0);
  const rows = all.flatMap((contents) => Object.values(contents.rows)).reduce((sum, count) => sum + count, 0);
  return `${events.toLocaleString('en')} events and ${rows.toLocaleString('en')} rows`;
}
