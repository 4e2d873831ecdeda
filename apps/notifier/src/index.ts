import { EndpointEntity, endpointList, failedIndex, failedOfTargetIndex, notifierTables, withoutLeftovers } from './tables.ts';

export { notifierConfig, type NotifierConfig } from './config.ts';
export { NotifierModule } from './notifier.module.ts';
export const notifierSchema = { state: [notifierTables, failedIndex, withoutLeftovers, failedOfTargetIndex], read: [EndpointEntity] };
export const notifierProjections = [endpointList];
