export * from './aggregates.ts';
export * from './codec.ts';
export * from './eventstoredb.ts';
export * from './port.ts';
export * from './snapshots.ts';
export * from './sqlite.ts';
export * from './subscription.ts';
export * from './stores.ts';
export type { View, Written } from './task.ts';
