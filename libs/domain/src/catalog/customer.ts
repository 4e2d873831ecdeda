import { refuse, type Aggregate, type CustomerId, type Instant, type JsonObject } from '@keyledger/kernel';
import { changes, checkMetadata } from '../metadata.ts';

/**
 * The holder of licenses. null before it was created. Name, e-mail address and metadata are sealed under the customer's data key in the log:
 * they are null for good once that key was destroyed.
 */
export type CustomerState = Readonly<{
  id: CustomerId; name: string | null; email: string | null; emailHash: string; metadata: JsonObject | null; createdAt: Instant;
}>;

/** An address and its keyed hash over `normaliseEmail` of it come together: the hash is what makes an address unique without showing it. */
type Email = { readonly email: string; readonly emailHash: string };

export type CustomerCommand =
  | ({ readonly type: 'Create'; readonly customerId: CustomerId; readonly name: string; readonly metadata?: JsonObject } & Email)
  | ({ readonly type: 'Update'; readonly name?: string; readonly metadata?: JsonObject } & (Email | { readonly email?: undefined; readonly emailHash?: undefined }));

type Personal = { readonly name: string | null; readonly email: string | null; readonly metadata: JsonObject | null };
export type CustomerEvent =
  | ({ readonly type: 'CustomerCreated'; readonly customerId: CustomerId; readonly emailHash: string } & Personal)
  | ({ readonly type: 'CustomerChanged'; readonly emailHash?: string } & Partial<Personal>);

const sealed = ['name', 'email', 'metadata'] satisfies (keyof Personal)[];

export const Customer: Aggregate<CustomerState | null, CustomerCommand, CustomerEvent> = {
  category: 'customer',
  stateVersion: 1,
  shapes: { CustomerCreated: { schema: 1, sealed }, CustomerChanged: { schema: 1, sealed } },
  initial: () => null,

  decide(customer, command) {
    checkMetadata(command.metadata);
    switch (command.type) {
      case 'Create': {
        const { customerId, name, email, emailHash, metadata = {} } = command;
        return customer ? [] : [{ type: 'CustomerCreated', customerId, name, email, emailHash, metadata }];
      }
      case 'Update': {
        if (!customer || isErased(customer)) throw refuse('CUSTOMER_NOT_FOUND');
        const { name, email, emailHash, metadata } = command;
        const change = changes<Omit<CustomerEvent & { type: 'CustomerChanged' }, 'type'>>(customer, { name, email, emailHash, metadata });
        return change ? [{ type: 'CustomerChanged', ...change }] : [];
      }
    }
  },

  evolve(customer, event, { at }) {
    switch (event.type) {
      case 'CustomerCreated': {
        const { customerId, name, email, emailHash, metadata } = event;
        return { id: customerId, name, email, emailHash, metadata, createdAt: at };
      }
      case 'CustomerChanged': {
        const { type: _, ...change } = event;
        return customer && { ...customer, ...change };
      }
    }
  },
};

/** A name is never empty, so one that folds to null has been shredded. */
export const isErased = (customer: CustomerState): boolean => customer.name === null;

/** Two spellings of one address that no mail server tells apart in practice. */
export const normaliseEmail = (email: string): string => email.trim().normalize('NFC').toLowerCase();

export const customerView = ({ id, name, email, metadata, createdAt }: CustomerState) => ({ id, name, email, metadata, createdAt });
