import { EndpointEntity, endpointList, failedIndex, notifierTables, rareIndexes, withoutLeftovers } from './tables.ts';

export { notifierConfig, type NotifierConfig } from './config.ts';
export { NotifierModule } from './notifier.module.ts';
export const notifierSchema = { state: [notifierTables, failedIndex, withoutLeftovers, rareIndexes], read: [EndpointEntity] };
export const notifierProjections = [endpointList];
