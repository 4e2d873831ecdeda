import { CustomerEntity, LicenseEntity, ProductEntity, retiredKeys } from './license.tables.ts';

export { LicenseAuthorityModule } from './authority.module.ts';
export { licenseProjections as authorityProjections } from './license.tables.ts';
export const authoritySchema = { state: [retiredKeys], read: [LicenseEntity, ProductEntity, CustomerEntity] };
