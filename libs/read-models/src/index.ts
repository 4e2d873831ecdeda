export * from './database.ts';
export * from './paging.ts';
export * from './projection.ts';
export * from './projector.ts';
export * from './projectors.ts';
export * from './reaction.ts';
export * from './read-index.ts';
export * from './search.ts';
