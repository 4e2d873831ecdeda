import { jobTables } from './job.ledger.ts';
import { CustomerEntity, JobEntity, LicenseEntity, ProductEntity, retiredKeys } from './license.tables.ts';
import { sightingsTable } from './sightings.ts';

export { LicenseAuthorityModule } from './authority.module.ts';
export { licenseProjections as authorityProjections } from './license.tables.ts';
export const authoritySchema = { state: [retiredKeys, jobTables, sightingsTable], read: [LicenseEntity, ProductEntity, CustomerEntity, JobEntity] };
