export * from './aggregate.ts';
export * from './context.ts';
export * from './errors.ts';
export * from './ids.ts';
export * from './permissions.ts';
export * from './sealing.ts';
export * from './settings.ts';
export * from './time.ts';
