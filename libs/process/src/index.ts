export * from './config.ts';
export * from './health-server.ts';
export * from './host.ts';
export * from './run.ts';
export * from './service.ts';
