export * from './config.ts';
export * from './stores.ts';
