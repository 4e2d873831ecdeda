import { Customer, Generator, Order, Plan, Pool, Product, Unique } from '@keyledger/domain';
import { Aggregates, type EventStore } from '@keyledger/event-store';
import type { PerEnvironment, Sealing } from '@keyledger/kernel';

/** The streams that the catalog alone writes. */
export class CatalogStreams {
  readonly products;
  readonly plans;
  readonly customers;
  readonly orders;
  readonly generators;
  readonly unique;
  readonly pools;

  constructor(events: PerEnvironment<EventStore>, sealings: PerEnvironment<Sealing>) {
    this.products = new Aggregates(Product, events, sealings);
    this.plans = new Aggregates(Plan, events, sealings);
    this.customers = new Aggregates(Customer, events, sealings);
    this.orders = new Aggregates(Order, events, sealings);
    this.generators = new Aggregates(Generator, events, sealings);
    this.unique = new Aggregates(Unique, events, sealings);
    this.pools = new Aggregates(Pool, events, sealings);
  }
}

/** A view of a state that must be there, with its revision; else the refusal. */
export const shown = <State, View extends object>(view: (state: State) => View) => (state: State | null, revision: number): View & { revision: number } => {
  if (state === null) throw new Error('Nothing to show after a command that succeeded');
  return { ...view(state), revision };
};
