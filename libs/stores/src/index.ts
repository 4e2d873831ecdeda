export * from './clocks.ts';
export * from './config.ts';
export * from './import.ts';
export * from './stores.ts';
