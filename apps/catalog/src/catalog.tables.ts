import {
  Customer, Generator, isErased, Order, Plan, Product, type CustomerState, type GeneratorState, type OrderState, type PlanState, type ProductState,
} from '@keyledger/domain';
import { projection } from '@keyledger/read-models';
import { defineEntity, p } from '@mikro-orm/sql';

const common = { id: p.string().primary(), revision: p.integer(), createdAt: p.string() };

export const ProductEntity = defineEntity({
  name: 'CatalogProduct', tableName: 'catalog_product',
  properties: { ...common, name: p.string(), status: p.string(), poolBuffer: p.integer().nullable() },
  indexes: [{ properties: ['createdAt', 'id'] }, { properties: ['name', 'id'] }, { properties: ['poolBuffer', 'id'] }],
});
export const PlanEntity = defineEntity({
  name: 'CatalogPlan', tableName: 'catalog_plan',
  properties: { ...common, name: p.string(), productId: p.string() },
  indexes: [{ properties: ['productId', 'createdAt', 'id'] }, { properties: ['productId', 'name', 'id'] }],
});
export const CustomerEntity = defineEntity({
  name: 'CatalogCustomer', tableName: 'catalog_customer',
  properties: { ...common, name: p.string(), email: p.string() },
  indexes: [{ properties: ['createdAt', 'id'] }, { properties: ['name', 'id'] }],
});
export const OrderEntity = defineEntity({
  name: 'CatalogOrder', tableName: 'catalog_order',
  properties: { ...common, customerId: p.string(), planId: p.string(), purchasedAt: p.string() },
  indexes: [{ properties: ['createdAt', 'id'] }, { properties: ['purchasedAt', 'id'] }, { properties: ['customerId', 'createdAt', 'id'] }, { properties: ['planId', 'createdAt', 'id'] }],
});
export const GeneratorEntity = defineEntity({
  name: 'CatalogGenerator', tableName: 'catalog_generator',
  properties: { ...common, name: p.string(), productId: p.string() },
  indexes: [{ properties: ['createdAt', 'id'] }, { properties: ['name', 'id'] }, { properties: ['productId', 'createdAt', 'id'] }],
});

export const products = projection({
  name: 'catalog-product', version: 2, source: Product, entity: ProductEntity,
  row: (product: ProductState | null, { id, revision }) =>
    product && { id, revision, createdAt: product.createdAt, name: product.name, status: product.archived ? 'archived' : 'active', poolBuffer: product.pool?.buffer ?? null },
  search: ({ name }) => name,
});
export const plans = projection({
  name: 'catalog-plan', version: 1, source: Plan, entity: PlanEntity,
  row: (plan: PlanState | null, { id, revision }) => plan && { id, revision, createdAt: plan.createdAt, name: plan.name, productId: plan.productId },
});
export const customers = projection({
  name: 'catalog-customer', version: 1, source: Customer, entity: CustomerEntity,
  row: (customer: CustomerState | null, { id, revision }) =>
    (customer && !isErased(customer) ? { id, revision, createdAt: customer.createdAt, name: customer.name ?? '', email: customer.email ?? '' } : null),
  search: ({ name, email }) => `${name} ${email}`,
});
export const orders = projection({
  name: 'catalog-order', version: 1, source: Order, entity: OrderEntity,
  row: (order: OrderState | null, { id, revision }) =>
    order && { id, revision, createdAt: order.createdAt, customerId: order.customerId, planId: order.planId, purchasedAt: order.purchasedAt },
});
export const generators = projection({
  name: 'catalog-generator', version: 1, source: Generator, entity: GeneratorEntity,
  row: (generator: GeneratorState | null, { id, revision }) =>
    generator && { id, revision, createdAt: generator.createdAt, name: generator.name, productId: generator.productId },
});

export const catalogProjections = [products, plans, customers, orders, generators];
