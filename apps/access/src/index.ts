import { ApiKeyEntity, apiKeys } from './api-keys.queries.ts';
import { requestsTable } from './idempotency.handlers.ts';

export { AccessModule } from './access.module.ts';
export { accessConfig, type AccessConfig } from './config.ts';
export const accessSchema = { state: [requestsTable], read: [ApiKeyEntity] };
export const accessProjections = [apiKeys];
