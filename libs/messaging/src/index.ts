export * from './client.ts';
export * from './in-process.ts';
export * from './message.ts';
export { natsUsers } from './nats-users.ts';
export * from './nest.ts';
export { handlerOf, type ServeOptions } from './server.ts';
export * from './transport.ts';
