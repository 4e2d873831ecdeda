export * from './license.ts';
export * from './scenarios.ts';
