export * from './access.ts';
export * from './catalog.ts';
export * from './fields.ts';
export * from './license.ts';
export * from './message.ts';
export * from './signing.ts';
export * from './sweep.ts';
export * from './terms.ts';
