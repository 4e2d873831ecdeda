import { lastSeenTable } from './last-seen.ts';

export { ActivationModule } from './activation.module.ts';
export const activationSchema = { state: [lastSeenTable] };
