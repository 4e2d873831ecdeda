import { createLog, Metrics } from '@keyledger/observability';
import type { Header } from './archive.ts';

/** What stores need of a process that answers nobody. Standard output is for data. */
export const hostOf = (command: string) => ({ log: createLog({ level: 'warn', service: `keyledger-${command}`, destination: process.stderr }), metrics: new Metrics('cli', { processMetrics: false }) });

/** `1,234 events and 567 rows`. */
export function sumOf({ environments }: Pick<Header, 'environments'>): string {
  const all = Object.values(environments);
  const events = all.reduce((sum, contents) => sum + contents.events, 0);
  const rows = all.flatMap((contents) => Object.values(contents.rows)).reduce((sum, count) => sum + count, 0);
  return `${events.toLocaleString('en')} events and ${rows.toLocaleString('en')} rows`;
}
