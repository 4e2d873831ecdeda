import { startStores } from './eventstoredb.contract.ts';

/** A Jest project with this among its `setupFiles` runs its specs with the log on an EventStoreDB. */
Object.assign(globalThis, { keyledgerStores: startStores });
