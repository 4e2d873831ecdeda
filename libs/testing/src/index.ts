export * from './license.ts';
export * from './scenarios.ts';
export * from './stopwatch.ts';
export * from './until.ts';
