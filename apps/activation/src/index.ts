export { ActivationModule } from './activation.module.ts';
export { lastSeenTable } from './last-seen.ts';
