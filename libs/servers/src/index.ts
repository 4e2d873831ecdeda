export { freePort } from './child.ts';
export * from './nats.ts';
export * from './obtain.ts';
export * from './postgres.ts';
export * from './running.ts';
