import { readingsInOrder, usageTables } from './usage.tables.ts';

export { UsageMeteringModule } from './usage-metering.module.ts';
export const usageSchema = { state: [usageTables, readingsInOrder] };
