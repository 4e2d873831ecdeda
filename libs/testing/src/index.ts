export * from './license.ts';
export * from './scenarios.ts';
export * from './until.ts';
