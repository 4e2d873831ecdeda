import Type, { type Static } from 'typebox';
import { email, instant, json, listOf, name, named, nullable, oneOf, optional, pageOf, paging, text } from './fields.ts';
import { LicenseView } from './license.ts';
import { command, query } from './message.ts';
import { ids, keyFormat, licensing, meters, termsFields } from './terms.ts';

const sort = optional(oneOf('name', '-name', 'createdAt', '-createdAt'));

const buffer = Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'Number of unassigned licenses to keep available; 50 to 100 is usual' });
export const ProductView = named('Product', Type.Object({
  id: ids.product, name: Type.String(), code: nullable(Type.String()), status: oneOf('active', 'archived'), metadata: json, meters,
  pool: nullable(Type.Object({
    buffer, available: nullable(Type.Integer({ description: 'null while the count is unavailable' })), low: nullable(Type.Boolean({ description: 'Fewer than the buffer' })),
  }, { description: 'For licenses that are issued before they have a holder; null when not set' })),
  createdAt: instant, revision: Type.Integer(),
}));
export type ProductView = Static<typeof ProductView>;
const code = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' });
const pool = nullable(Type.Object({ buffer }, { additionalProperties: false }));
export class CreateProduct extends command('product.create', { name, code: optional(code), metadata: optional(json), meters: optional(meters), pool: optional(pool) }, ProductView) {
  readonly type = 'Create';
}
export class GetProduct extends query('product.get', { productId: ids.product }, ProductView) {}
export class ListProducts extends query('product.list', { q: optional(text(200)), status: optional(oneOf('active', 'archived')), sort, ...paging }, pageOf(ProductView)) {}
export class UpdateProduct extends command('product.update', { productId: ids.product, name: optional(name), code: optional(nullable(code)), metadata: optional(json), meters: optional(meters), pool: optional(pool) }, ProductView) {
  readonly type = 'Update';
}
export class ArchiveProduct extends command('product.archive', { productId: ids.product }, ProductView) {
  readonly type = 'Archive';
}

export const PlanView = named('Plan', Type.Object({
  id: ids.plan, productId: ids.product, name: Type.String(), licensing, metadata: optional(json), createdAt: instant, revision: Type.Integer(),
}));
export type PlanView = Static<typeof PlanView>;
export class CreatePlan extends command('plan.create', { productId: ids.product, name, licensing: optional(licensing) }, PlanView) {
  readonly type = 'Create';
}
export class GetPlan extends query('plan.get', { planId: ids.plan }, PlanView) {}
export class ListPlans extends query('plan.list', { productId: optional(ids.product), sort, ...paging }, pageOf(PlanView)) {}
/** Future orders only. `licensing` names what changes; the rest of it stays. */
export class UpdatePlan extends command('plan.update', {
  planId: ids.plan, name: optional(name), licensing: optional(Type.Partial(licensing, { additionalProperties: false })),
}, PlanView) {
  readonly type = 'Update';
}

export const CustomerView = named('Customer', Type.Object({
  id: ids.customer, name: nullable(Type.String()), email: nullable(Type.String()), metadata: nullable(json), createdAt: instant, revision: Type.Integer(),
}));
export type CustomerView = Static<typeof CustomerView>;
export class CreateCustomer extends command('customer.create', { name, email, metadata: optional(json) }, CustomerView) {
  readonly type = 'Create';
}
export class GetCustomer extends query('customer.get', { customerId: ids.customer }, CustomerView) {}
export class ListCustomers extends query('customer.list', { q: optional(text(200)), sort, ...paging }, pageOf(CustomerView)) {}
export class UpdateCustomer extends command('customer.update', { customerId: ids.customer, name: optional(name), email: optional(email), metadata: optional(json) }, CustomerView) {
  readonly type = 'Update';
}

export const OrderView = named('Order', Type.Object({
  id: ids.order, planId: ids.plan, productId: ids.product, customerId: ids.customer, purchasedAt: instant, quantity: Type.Integer(),
  licenses: listOf(LicenseView), createdAt: instant, revision: Type.Integer(),
}));
export type OrderView = Static<typeof OrderView>;
/** `customer` with a known e-mail address reuses that customer. */
export class PlaceOrder extends command('order.place', {
  planId: ids.plan,
  customerId: optional(ids.customer),
  customer: optional(Type.Object({ name, email }, { additionalProperties: false })),
  purchasedAt: optional(instant),
  quantity: optional(Type.Integer({ minimum: 1, maximum: 100, default: 1 })),
  deploymentId: optional(text(255)),
  deploymentMode: optional(text(100)),
}, OrderView) {
  static override readonly direct = true;
  readonly type = 'Place';
}
export class GetOrder extends query('order.get', { orderId: ids.order }, OrderView) {}
const OrderSummary = named('OrderSummary', Type.Object({
  id: ids.order, planId: ids.plan, productId: ids.product, customerId: ids.customer, purchasedAt: instant, quantity: Type.Integer(),
  licenseIds: listOf(ids.license), createdAt: instant, revision: Type.Integer(),
}));
export class ListOrders extends query('order.list', {
  customerId: optional(ids.customer), planId: optional(ids.plan), sort: optional(oneOf('createdAt', '-createdAt', 'purchasedAt', '-purchasedAt')), ...paging,
}, pageOf(OrderSummary)) {}

export const GeneratorView = named('Generator', Type.Object({
  id: ids.generator, name: Type.String(), productId: ids.product, planId: nullable(ids.plan), keyFormat, terms: Type.Object(termsFields), createdAt: instant, revision: Type.Integer(),
}));
export type GeneratorView = Static<typeof GeneratorView>;
const terms = Type.Object(termsFields, { additionalProperties: false });
export class CreateGenerator extends command('generator.create', { name, productId: ids.product, planId: optional(ids.plan), keyFormat, terms: optional(terms) }, GeneratorView) {
  readonly type = 'Create';
}
export class GetGenerator extends query('generator.get', { generatorId: ids.generator }, GeneratorView) {}
export class ListGenerators extends query('generator.list', { productId: optional(ids.product), sort, ...paging }, pageOf(GeneratorView)) {}
export class UpdateGenerator extends command('generator.update', {
  generatorId: ids.generator, name: optional(name), planId: optional(nullable(ids.plan)), keyFormat: optional(keyFormat), terms: optional(terms),
}, GeneratorView) {
  readonly type = 'Update';
}

/** What a new license is made of: the references checked, the terms of plan and generator merged, the key format. */
export class ResolveOffer extends query('catalog.resolve-offer', {
  productId: ids.product, generatorId: optional(ids.generator), planId: optional(ids.plan), customerId: optional(ids.customer),
}, Type.Object({ planId: nullable(ids.plan), terms: Type.Object(termsFields), meters, keyFormat })) {}
/** Refuses with REFERENCE_NOT_FOUND when there is no such customer. */
export class RequireCustomer extends query('catalog.require-customer', { customerId: ids.customer }, Type.Null()) {}
