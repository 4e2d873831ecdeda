export * from './health.ts';
export * from './log.ts';
export * from './mask.ts';
export * from './metrics.ts';
export * from './tracing.ts';
