import { CreateCustomer, FindCustomers, GetCustomer, RequireCustomer, UpdateCustomer } from '@keyledger/contracts';
import { Customer, customerView, isErased, normaliseEmail, type CustomerState } from '@keyledger/domain';
import { newId, Refusal, refuse, type CustomerId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles } from '@keyledger/messaging';
import { Injectable } from '@nestjs/common';
import { CatalogStreams, shown } from './streams.ts';
import { UniqueValues } from './unique-values.ts';

const view = shown(customerView, 'CUSTOMER_NOT_FOUND');

/** Customers; each e-mail address belongs to only one. */
@Injectable()
export class Customers {
  readonly #addresses;

  constructor(private readonly streams: CatalogStreams, keyrings: Keyrings) {
    const hashOf = (state: CustomerState | null) => (state && !isErased(state) ? state.emailHash : null);
    this.#addresses = new UniqueValues(streams, keyrings, { kind: 'customer-email', taken: 'CUSTOMER_EXISTS', rules: Customer, owners: streams.customers, hashOf });
  }

  create({ name, email, metadata }: { name: string; email: string; metadata?: CreateCustomer['metadata'] }) {
    const customerId = newId('cus');
    const emailHash = this.#hash(email);
    return this.#addresses.create(customerId, emailHash, { type: 'Create', customerId, name, email, emailHash, ...(metadata && { metadata }) }, view);
  }

  /** The customer with this address, created if there is none. */
  async findOrCreate(customer: { name: string; email: string }): Promise<CustomerId> {
    try {
      return (await this.create(customer)).id;
    } catch (error) {
      if (error instanceof Refusal && error.code === 'CUSTOMER_EXISTS') return error.members['id'] as CustomerId;
      throw error;
    }
  }

  update({ customerId, email, name, metadata }: UpdateCustomer) {
    const change = { type: 'Update', ...(name !== undefined && { name }), ...(metadata !== undefined && { metadata }) } as const;
    if (email === undefined) return this.streams.customers.run(customerId, change, view);
    const emailHash = this.#hash(email);
    return this.#addresses.update(customerId, emailHash, { ...change, email, emailHash }, view);
  }

  async require(customerId: CustomerId, otherwise: 'CUSTOMER_NOT_FOUND' | 'REFERENCE_NOT_FOUND') {
    const { state, revision } = await this.streams.customers.load(customerId);
    if (!state || isErased(state)) throw refuse(otherwise, 'There is no such customer', otherwise === 'REFERENCE_NOT_FOUND' ? { field: 'customerId' } : {});
    return view(state, revision);
  }

  /** The customer with this address. */
  async find(email: string): Promise<CustomerId | undefined> {
    return (await this.#addresses.bearer(this.#hash(email))) as CustomerId | undefined;
  }

  #hash(email: string): string {
    return this.#addresses.hash(normaliseEmail(email));
  }
}

@Handles(CreateCustomer, UpdateCustomer)
export class CustomerCommands {
  constructor(private readonly customers: Customers) {}

  execute(command: CreateCustomer | UpdateCustomer) {
    return command instanceof UpdateCustomer ? this.customers.update(command) : this.customers.create(command);
  }
}

@Handles(GetCustomer)
export class CustomerQueries {
  constructor(private readonly customers: Customers) {}

  execute({ customerId }: GetCustomer) {
    return this.customers.require(customerId, 'CUSTOMER_NOT_FOUND');
  }
}

@Handles(RequireCustomer)
export class CustomerReferences {
  constructor(private readonly customers: Customers) {}

  async execute({ customerId }: RequireCustomer) {
    await this.customers.require(customerId, 'REFERENCE_NOT_FOUND');
    return null;
  }
}

@Handles(FindCustomers)
export class CustomerFinder {
  constructor(private readonly customers: Customers) {}

  async execute({ emails }: FindCustomers) {
    const found = await Promise.all(emails.map(async (email) => ({ email, customerId: await this.customers.find(email) })));
    return { data: found.flatMap(({ email, customerId }) => (customerId ? [{ email, customerId }] : [])) };
  }
}
