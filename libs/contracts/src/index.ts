export * from './access.ts';
export * from './catalog.ts';
export * from './fields.ts';
export * from './license.ts';
export * from './message.ts';
export * from './terms.ts';
