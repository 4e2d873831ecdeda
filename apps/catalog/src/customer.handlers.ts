import { CreateCustomer, FindCustomers, GetCustomer, RequireCustomer, UpdateCustomer } from '@keyledger/contracts';
import { customerView, isErased, normaliseEmail } from '@keyledger/domain';
import { newId, Refusal, refuse, type CustomerId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Injectable } from '@nestjs/common';
import { CatalogStreams, shown } from './streams.ts';
import { UniqueValues } from './unique-values.ts';

const view = shown(customerView);

/** Customers, one for each e-mail address. */
@Injectable()
export class Customers {
  constructor(private readonly streams: CatalogStreams, private readonly unique: UniqueValues) {}

  async create({ name, email, metadata }: { name: string; email: string; metadata?: CreateCustomer['metadata'] }) {
    const customerId = newId('cus');
    const emailHash = await this.#claim(email, customerId);
    return this.streams.customers.create(customerId, { type: 'Create', customerId, name, email, emailHash, ...(metadata && { metadata }) }, view);
  }

  /** The customer with this address, made if there is none. */
  async findOrCreate(customer: { name: string; email: string }): Promise<CustomerId> {
    try {
      return (await this.create(customer)).id;
    } catch (error) {
      if (error instanceof Refusal && error.code === 'CUSTOMER_EXISTS') return error.members['id'] as CustomerId;
      throw error;
    }
  }

  async update({ customerId, email, name, metadata }: UpdateCustomer) {
    const { state } = await this.streams.customers.load(customerId);
    if (!state || isErased(state)) throw refuse('CUSTOMER_NOT_FOUND');
    const change = { type: 'Update', ...(name !== undefined && { name }), ...(metadata !== undefined && { metadata }) } as const;
    if (email === undefined) return this.streams.customers.run(customerId, change, view);
    const emailHash = await this.#claim(email, customerId);
    const answer = await this.streams.customers.run(customerId, { ...change, email, emailHash }, view);
    if (state.email !== null && state.emailHash !== emailHash) await this.unique.release('customer-email', normaliseEmail(state.email), customerId);
    return answer;
  }

  async require(customerId: CustomerId, otherwise: 'CUSTOMER_NOT_FOUND' | 'REFERENCE_NOT_FOUND') {
    const { state, revision } = await this.streams.customers.load(customerId);
    if (!state || isErased(state)) throw refuse(otherwise, 'There is no such customer', otherwise === 'REFERENCE_NOT_FOUND' ? { field: 'customerId' } : {});
    return view(state, revision);
  }

  /** Whose address this is. */
  async find(email: string): Promise<CustomerId | undefined> {
    const value = normaliseEmail(email);
    const holder = await this.unique.holder('customer-email', value);
    const { state = null } = holder === undefined ? {} : await this.streams.customers.load(holder);
    return state && !isErased(state) && state.emailHash === this.unique.hash('customer-email', value) ? state.id : undefined;
  }

  async #claim(email: string, ownerId: CustomerId): Promise<string> {
    const value = normaliseEmail(email);
    const hash = this.unique.hash('customer-email', value);
    const bears = async (id: string) => (await this.streams.customers.load(id)).state?.emailHash === hash;
    await this.unique.claim({ kind: 'customer-email', value, ownerId, taken: 'CUSTOMER_EXISTS', bears });
    return hash;
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
