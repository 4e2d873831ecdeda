import { Job, License, licenseStatuses, nextDue, statusOf, type JobState, type LicenseState } from '@keyledger/domain';
import { Customer, Product, type CustomerState, type ProductState } from '@keyledger/domain';
import type { Instant, LicenseId } from '@keyledger/kernel';
import { projection, type Migration } from '@keyledger/read-models';
import { defineEntity, p, type InferEntity } from '@mikro-orm/sql';

/** The columns that licenses are searched, filtered and sorted by. Views of licenses are folded from their streams. */
export const LicenseEntity = defineEntity({
  name: 'AuthorityLicense',
  tableName: 'authority_license',
  properties: {
    id: p.string().primary(),
    revision: p.integer(),
    keyHash: p.string().index(),
    licenseKey: p.string().index(),
    productId: p.string(),
    planId: p.string().nullable().index(),
    customerId: p.string().nullable().index(),
    /** The status without the passing of time, and when time makes it expired. */
    status: p.string(),
    statusRank: p.integer(),
    worksUntil: p.string().nullable(),
    activationLimit: p.integer(),
    /** As sorted: unlimited comes last. */
    limitRank: p.integer().index(),
    activationCount: p.integer(),
    expiresAt: p.string().nullable(),
    createdAt: p.string(),
    /** When the sweep has an event to record for it. */
    dueAt: p.string().nullable(),
  },
  indexes: [
    { properties: ['createdAt', 'id'] }, { properties: ['expiresAt', 'id'] }, { properties: ['productId', 'createdAt', 'id'] },
    { properties: ['status', 'createdAt', 'id'] }, { properties: ['productId', 'status', 'worksUntil'] }, { properties: ['statusRank', 'id'] }, { properties: ['dueAt', 'id'] },
  ],
});
type LicenseRow = InferEntity<typeof LicenseEntity>;

const unlimitedRank = 2_147_483_647;
/** Before any instant: the status as far as facts tell, without the clock. */
const dawn: Instant = '0001-01-01T00:00:00.000Z';

export const licenseTable = projection({
  name: 'authority-license',
  version: 2,
  source: License,
  entity: LicenseEntity,
  row: (license: LicenseState, { id, revision }): LicenseRow | null => {
    if (license.existence !== 'issued') return null;
    const status = statusOf(license, dawn);
    return {
      id, revision, status, statusRank: licenseStatuses.indexOf(status), worksUntil: license.worksUntil,
      keyHash: license.keyHash, licenseKey: license.key ?? license.keyPrefix, productId: license.productId, planId: license.planId, customerId: license.customerId,
      activationLimit: license.terms.activationLimit, limitRank: license.terms.activationLimit < 0 ? unlimitedRank : license.terms.activationLimit,
      activationCount: license.activationCount, expiresAt: license.terms.expiresAt, createdAt: license.issuedAt, dueAt: nextDue(license),
    };
  },
  search: ({ licenseKey }) => licenseKey,
});

/** The authority's own copy of the names that licenses are searched and sorted by. */
const named = { id: p.string().primary(), revision: p.integer(), name: p.string(), searched: p.string() };
export const ProductEntity = defineEntity({ name: 'AuthorityProduct', tableName: 'authority_product', properties: named, indexes: [{ properties: ['name', 'id'] }] });
export const CustomerEntity = defineEntity({ name: 'AuthorityCustomer', tableName: 'authority_customer', properties: { ...named, email: p.string().nullable() }, indexes: [{ properties: ['name', 'id'] }] });

export const productNames = projection({
  name: 'authority-product', version: 1, source: Product, entity: ProductEntity,
  row: (product: ProductState | null, { id, revision }) => (product ? { id, revision, name: product.name, searched: product.name } : null),
  search: ({ searched }) => searched,
});
export const customerNames = projection({
  name: 'authority-customer', version: 2, source: Customer, entity: CustomerEntity,
  row: (customer: CustomerState | null, { id, revision }) =>
    (customer?.name ? { id, revision, name: customer.name, email: customer.email, searched: `${customer.name} ${customer.email ?? ''}` } : null),
  search: ({ searched }) => searched,
});

/** The columns jobs are listed by. */
export const JobEntity = defineEntity({
  name: 'AuthorityJob', tableName: 'authority_job',
  properties: { id: p.string().primary(), revision: p.integer(), kind: p.string(), state: p.string(), createdAt: p.string() },
  indexes: [{ properties: ['createdAt', 'id'] }],
});
const jobTable = projection({
  name: 'authority-job', version: 1, source: Job, entity: JobEntity,
  row: (job: JobState | null, { id, revision }) => job && { id, revision, kind: job.work.kind, state: job.state, createdAt: job.createdAt },
});

export const licenseProjections = [licenseTable, productNames, customerNames, jobTable];

/** Keys that once were good. Not derived from the log, where a key's hash is replaced; losing it would only make old keys look unknown. */
export const retiredKeys: Migration = {
  name: 'authority-1-retired-keys',
  async up({ run }) {
    await run('create table authority_retired_keys (key_hash text primary key, license_id text not null)');
    await run('create index authority_retired_keys_license_id on authority_retired_keys (license_id)');
  },
};
export type RetiredKey = { key_hash: string; license_id: LicenseId };
