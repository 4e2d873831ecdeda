import { Module, type DynamicModule, type OnApplicationBootstrap, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { EventStores } from '@keyledger/event-store';
import { Clock } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Log } from '@keyledger/observability';
import { Projectors, ReadDatabases, StateDatabases } from '@keyledger/read-models';
import { CustomerList, GeneratorList, OrderList, PlanList, ProductList } from './catalog.queries.ts';
import { catalogProjections } from './catalog.tables.ts';
import { CustomerCommands, CustomerFinder, CustomerQueries, CustomerReferences, Customers } from './customer.handlers.ts';
import { GeneratorCommands, GeneratorQueries, Offers } from './generator.handlers.ts';
import { Fulfilment, OrderCommands, OrderQueries } from './order.handlers.ts';
import { PlanCommands, PlanQueries } from './plan.handlers.ts';
import { Pools } from './pools.ts';
import { ProductCommands, ProductQueries } from './product.handlers.ts';
import { OrderCompletion } from './reactions.ts';
import { CatalogStreams } from './streams.ts';

/** Products, plans, generators and customers, and the orders that issue licenses. */
@Module({})
export class CatalogModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(private readonly projectors: Projectors, private readonly completion: OrderCompletion, private readonly pools: Pools) {}

  static with(platform: readonly Provider[]): DynamicModule {
    return {
      module: CatalogModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        CatalogStreams, Customers, Fulfilment, Pools,
        ProductCommands, ProductQueries, ProductList, PlanCommands, PlanQueries, PlanList, CustomerCommands, CustomerQueries, CustomerReferences, CustomerFinder, CustomerList,
        OrderCommands, OrderQueries, OrderList, GeneratorCommands, GeneratorQueries, GeneratorList, Offers,
        {
          provide: Projectors,
          useFactory: (events: EventStores, databases: ReadDatabases, sealings: Keyrings, log: Log) =>
            Projectors.start({ name: 'catalog', projections: catalogProjections, events, databases, sealings, parked: (parked) => log.error(parked, 'stream parked') }),
          inject: [EventStores, ReadDatabases, Keyrings, Log],
        },
        { provide: OrderCompletion, useFactory: OrderCompletion.start, inject: [EventStores, StateDatabases, Clock, CatalogStreams, Fulfilment, Log] },
      ],
    };
  }

  onApplicationBootstrap(): void {
    this.pools.begin();
  }

  async onModuleDestroy(): Promise<void> {
    await this.pools.end();
    await this.completion.close();
    await this.projectors.close();
  }
}
