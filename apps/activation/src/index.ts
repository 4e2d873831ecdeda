import { lastSeenTable } from './last-seen.ts';
import { leaseTables } from './leases.ts';
import { acksTable } from './stream.handlers.ts';

export { ActivationModule } from './activation.module.ts';
export const activationSchema = { state: [lastSeenTable, ...leaseTables, acksTable] };
