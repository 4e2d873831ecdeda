import { CustomerEntity, GeneratorEntity, OrderEntity, PlanEntity, ProductEntity } from './catalog.tables.ts';

export { CatalogModule } from './catalog.module.ts';
export { catalogProjections } from './catalog.tables.ts';
export const catalogSchema = { read: [ProductEntity, PlanEntity, CustomerEntity, OrderEntity, GeneratorEntity] };
