import { lastSeenTable } from './last-seen.ts';
import { leasesTable } from './leases.ts';
import { acksTable } from './stream.handlers.ts';

export { ActivationModule } from './activation.module.ts';
export const activationSchema = { state: [lastSeenTable, leasesTable, acksTable] };
