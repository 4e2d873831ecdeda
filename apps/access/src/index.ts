import { ApiKeyEntity, apiKeys } from './api-keys.queries.ts';

export { AccessModule } from './access.module.ts';
export { accessConfig, type AccessConfig } from './config.ts';
export { controlEnvironment, environments } from './first-start.ts';
export { requestsTable } from './idempotency.handlers.ts';
export const accessEntities = [ApiKeyEntity];
export const accessProjections = [apiKeys];
