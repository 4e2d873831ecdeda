import { Body, Controller, Param, Query } from '@nestjs/common';
import {
  ArchiveProduct, bodyOf, CreateCustomer, CreateGenerator, CreatePlan, CreateProduct, CustomerView, GeneratorView, GetCustomer, GetGenerator, GetOrder, GetPlan, GetProduct,
  ListCustomers, ListGenerators, ListOrders, ListPlans, ListProducts, OrderView, PlaceOrder, PlanView, ProductView, UpdateCustomer, UpdateGenerator, UpdatePlan, UpdateProduct,
} from '@keyledger/contracts';
import type { CustomerId, GeneratorId, OrderId, PlanId, ProductId } from '@keyledger/kernel';
import { Edge } from './edge.ts';
import { Route } from './operation.ts';
import { IdOf } from './params.ts';

const ProductParam = () => Param('id', IdOf('prd', 'PRODUCT_NOT_FOUND'));
const PlanParam = () => Param('id', IdOf('pln', 'PLAN_NOT_FOUND'));
const CustomerParam = () => Param('id', IdOf('cus', 'CUSTOMER_NOT_FOUND'));
const GeneratorParam = () => Param('id', IdOf('gen', 'GENERATOR_NOT_FOUND'));
const termsRefusals = ['LIMIT_OUT_OF_RANGE', 'TRIAL_TOO_LONG', 'EXPIRY_IN_PAST', 'METADATA_TOO_LARGE'] as const;
const { productId: _ofPath, ...planQuery } = ListPlans.fields;

@Controller()
export class CatalogController {
  constructor(private readonly edge: Edge) {}

  @Route('POST /products', {
    needs: 'catalog.manage', summary: 'Create a product', body: bodyOf(CreateProduct), answer: ProductView, status: 201, versioned: true, refuses: ['PRODUCT_CODE_TAKEN', 'METADATA_TOO_LARGE'],
  })
  createProduct(@Body() body: CreateProduct) {
    return this.edge.send(CreateProduct, body);
  }

  @Route('GET /products', { needs: 'license.read', summary: 'List products', query: ListProducts.fields, answer: ListProducts.answer })
  listProducts(@Query() query: ListProducts) {
    return this.edge.send(ListProducts, query);
  }

  @Route('GET /products/:id', { needs: 'license.read', summary: 'One product', answer: ProductView, versioned: true, refuses: ['PRODUCT_NOT_FOUND'] })
  getProduct(@ProductParam() productId: ProductId) {
    return this.edge.send(GetProduct, { productId });
  }

  @Route('PATCH /products/:id', {
    needs: 'catalog.manage', summary: 'Change a product', body: bodyOf(UpdateProduct, 'productId'), answer: ProductView, versioned: true,
    refuses: ['PRODUCT_NOT_FOUND', 'PRODUCT_CODE_TAKEN', 'METADATA_TOO_LARGE'],
  })
  updateProduct(@ProductParam() productId: ProductId, @Body() body: UpdateProduct) {
    return this.edge.send(UpdateProduct, { ...body, productId });
  }

  @Route('POST /products/:id/archive', { needs: 'catalog.manage', summary: 'Archive: no new sales; existing licenses stay valid', answer: ProductView, versioned: true, refuses: ['PRODUCT_NOT_FOUND'] })
  archiveProduct(@ProductParam() productId: ProductId) {
    return this.edge.send(ArchiveProduct, { productId });
  }

  @Route('POST /products/:id/plans', {
    needs: 'catalog.manage', summary: 'Create a plan', body: bodyOf(CreatePlan, 'productId'), answer: PlanView, status: 201, versioned: true,
    refuses: ['PRODUCT_NOT_FOUND', 'PRODUCT_ARCHIVED', ...termsRefusals],
  })
  createPlan(@ProductParam() productId: ProductId, @Body() body: CreatePlan) {
    return this.edge.send(CreatePlan, { ...body, productId });
  }

  @Route('GET /products/:id/plans', { needs: 'license.read', summary: 'List the plans of a product', query: planQuery, answer: ListPlans.answer, refuses: ['PRODUCT_NOT_FOUND'] })
  listPlans(@ProductParam() productId: ProductId, @Query() query: ListPlans) {
    return this.edge.send(ListPlans, { ...query, productId });
  }

  @Route('GET /plans/:id', { needs: 'license.read', summary: 'One plan', answer: PlanView, versioned: true, refuses: ['PLAN_NOT_FOUND'] })
  getPlan(@PlanParam() planId: PlanId) {
    return this.edge.send(GetPlan, { planId });
  }

  @Route('PATCH /plans/:id', {
    needs: 'catalog.manage', summary: 'Change a plan, for future orders', body: bodyOf(UpdatePlan, 'planId'), answer: PlanView, versioned: true,
    refuses: ['PLAN_NOT_FOUND', ...termsRefusals],
  })
  updatePlan(@PlanParam() planId: PlanId, @Body() body: UpdatePlan) {
    return this.edge.send(UpdatePlan, { ...body, planId });
  }

  @Route('POST /customers', {
    needs: 'license.issue', summary: 'Create a customer', body: bodyOf(CreateCustomer), answer: CustomerView, status: 201, versioned: true, refuses: ['CUSTOMER_EXISTS', 'METADATA_TOO_LARGE'],
  })
  createCustomer(@Body() body: CreateCustomer) {
    return this.edge.send(CreateCustomer, body);
  }

  @Route('GET /customers', { needs: 'license.read', summary: 'List customers; q matches part of a name or e-mail address', query: ListCustomers.fields, answer: ListCustomers.answer })
  listCustomers(@Query() query: ListCustomers) {
    return this.edge.send(ListCustomers, query);
  }

  @Route('GET /customers/:id', { needs: 'license.read', summary: 'One customer', answer: CustomerView, versioned: true, refuses: ['CUSTOMER_NOT_FOUND'] })
  getCustomer(@CustomerParam() customerId: CustomerId) {
    return this.edge.send(GetCustomer, { customerId });
  }

  @Route('PATCH /customers/:id', {
    needs: 'license.issue', summary: 'Change a customer', body: bodyOf(UpdateCustomer, 'customerId'), answer: CustomerView, versioned: true,
    refuses: ['CUSTOMER_NOT_FOUND', 'CUSTOMER_EXISTS', 'METADATA_TOO_LARGE'],
  })
  updateCustomer(@CustomerParam() customerId: CustomerId, @Body() body: UpdateCustomer) {
    return this.edge.send(UpdateCustomer, { ...body, customerId });
  }

  @Route('POST /orders', {
    needs: 'license.issue', summary: 'Place an order; the answer contains its licenses, usable at once', body: bodyOf(PlaceOrder), answer: OrderView, status: 201, versioned: true,
    refuses: ['REFERENCE_NOT_FOUND', 'PRODUCT_ARCHIVED', 'EXPIRY_IN_PAST'],
  })
  placeOrder(@Body() body: PlaceOrder) {
    return this.edge.send(PlaceOrder, body);
  }

  @Route('GET /orders', { needs: 'license.read', summary: 'List orders', query: ListOrders.fields, answer: ListOrders.answer })
  listOrders(@Query() query: ListOrders) {
    return this.edge.send(ListOrders, query);
  }

  @Route('GET /orders/:id', { needs: 'license.read', summary: 'One order with its licenses', answer: OrderView, versioned: true, refuses: ['ORDER_NOT_FOUND'] })
  getOrder(@Param('id', IdOf('ord', 'ORDER_NOT_FOUND')) orderId: OrderId) {
    return this.edge.send(GetOrder, { orderId });
  }

  @Route('POST /generators', {
    needs: 'catalog.manage', summary: 'Create a template for keys and terms', body: bodyOf(CreateGenerator), answer: GeneratorView, status: 201, versioned: true,
    refuses: ['REFERENCE_NOT_FOUND', 'PRODUCT_ARCHIVED', 'KEY_FORMAT_TOO_WEAK', ...termsRefusals],
  })
  createGenerator(@Body() body: CreateGenerator) {
    return this.edge.send(CreateGenerator, body);
  }

  @Route('GET /generators', { needs: 'license.read', summary: 'List generators', query: ListGenerators.fields, answer: ListGenerators.answer })
  listGenerators(@Query() query: ListGenerators) {
    return this.edge.send(ListGenerators, query);
  }

  @Route('GET /generators/:id', { needs: 'license.read', summary: 'One generator', answer: GeneratorView, versioned: true, refuses: ['GENERATOR_NOT_FOUND'] })
  getGenerator(@GeneratorParam() generatorId: GeneratorId) {
    return this.edge.send(GetGenerator, { generatorId });
  }

  @Route('PATCH /generators/:id', {
    needs: 'catalog.manage', summary: 'Change a generator', body: bodyOf(UpdateGenerator, 'generatorId'), answer: GeneratorView, versioned: true,
    refuses: ['GENERATOR_NOT_FOUND', 'REFERENCE_NOT_FOUND', 'KEY_FORMAT_TOO_WEAK', ...termsRefusals],
  })
  updateGenerator(@GeneratorParam() generatorId: GeneratorId, @Body() body: UpdateGenerator) {
    return this.edge.send(UpdateGenerator, { ...body, generatorId });
  }
}
