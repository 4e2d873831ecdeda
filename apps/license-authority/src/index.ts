import { jobTables } from './job.ledger.ts';
import { CustomerEntity, JobEntity, LicenseEntity, ProductEntity, retiredKeys } from './license.tables.ts';
import { apartTables, sightingsTable } from './sightings.ts';

export { LicenseAuthorityModule } from './authority.module.ts';
export { licenseProjections as authorityProjections } from './license.tables.ts';
export const authoritySchema = { state: [retiredKeys, jobTables, sightingsTable, apartTables], read: [LicenseEntity, ProductEntity, CustomerEntity, JobEntity] };
