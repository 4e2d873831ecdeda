import { Injectable } from '@nestjs/common';
import { Order } from '@keyledger/domain';
import { EventStores, subjectOf } from '@keyledger/event-store';
import { Clock, isTransient, Refusal, type OrderId } from '@keyledger/kernel';
import { Log } from '@keyledger/observability';
import { Reaction, StateDatabases } from '@keyledger/read-models';
import { Fulfilment } from './order.handlers.ts';
import { CatalogStreams } from './streams.ts';

/** Every order gets its licenses, even if the process that placed it died before issuing them all. */
@Injectable()
export class OrderCompletion {
  readonly #reaction: Reaction;

  private constructor(reaction: Reaction) {
    this.#reaction = reaction;
  }

  static async start(events: EventStores, databases: StateDatabases, clock: Clock, streams: CatalogStreams, fulfilment: Fulfilment, log: Log): Promise<OrderCompletion> {
    const failures = new Map<string, number>();
    return new OrderCompletion(await Reaction.start({
      name: 'catalog-order-completion', events, databases, clock,
      follows: [{ category: Order.category, types: ['OrderPlaced'], bare: true }],
      react: async (events) => void await Promise.all(events.map(({ stream }) => complete(subjectOf(stream) as OrderId, streams, fulfilment, log).catch((error: unknown) => {
        if (isTransient(error)) throw error;
        const failed = (failures.get(stream) ?? 0) + 1;
        failures.set(stream, failed);
        if (failed < maxFailures) throw error;
        failures.delete(stream);
        log.error({ err: error, stream }, 'an order cannot be read, or somebody fails at its licenses: it may lack some');
      }))),
    }));
  }

  close(): Promise<void> {
    return this.#reaction.close();
  }
}

async function complete(orderId: OrderId, streams: CatalogStreams, fulfilment: Fulfilment, log: Log): Promise<void> {
  if (await fulfilment.wasDone(orderId)) return;
  const { state } = await streams.orders.load(orderId);
  if (!state) return;
  // One by one: a refused license must not stop the others.
  const refusals = (await Promise.allSettled(fulfilment.licensesOf(state))).flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
  for (const error of refusals) {
    if (!(error instanceof Refusal) || error.status >= 500) throw error;
    // A license that is not found existed and has been erased since.
    if (error.status !== 404) log.error({ err: error, orderId }, 'an order asks for a license that cannot be issued');
  }
}

/** After this many failures an order no longer keeps the others waiting. */
const maxFailures = 5;
