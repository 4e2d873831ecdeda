import { Customer, Generator, Order, Plan, Pool, Product, Unique } from '@keyledger/domain';
import { Aggregates, EventStores } from '@keyledger/event-store';
import { refuse, type ErrorCode } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Injectable } from '@nestjs/common';

/** The streams that only the catalog writes. */
@Injectable()
export class CatalogStreams {
  readonly products;
  readonly plans;
  readonly customers;
  readonly orders;
  readonly generators;
  readonly unique;
  readonly pools;

  constructor(events: EventStores, keyrings: Keyrings) {
    this.products = new Aggregates(Product, events, keyrings);
    this.plans = new Aggregates(Plan, events, keyrings);
    this.customers = new Aggregates(Customer, events, keyrings);
    this.orders = new Aggregates(Order, events, keyrings);
    this.generators = new Aggregates(Generator, events, keyrings);
    this.unique = new Aggregates(Unique, events, keyrings);
    this.pools = new Aggregates(Pool, events, keyrings);
  }
}

/** The view of a state that must exist, with its revision; otherwise the refusal. */
export const shown = <State, View extends object>(view: (state: State) => View, otherwise: ErrorCode) => (state: State | null, revision: number): View & { revision: number } => {
  if (state === null) throw refuse(otherwise);
  return { ...view(state), revision };
};
