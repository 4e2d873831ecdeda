export const permissions = [
  'catalog.manage', 'license.read', 'license.issue', 'license.manage', 'license.revoke', 'license.erase', 'license.preview', 'license.export',
  'usage.ingest', 'signing.manage', 'audit.read', 'access.manage', 'webhook.manage', 'settings.manage', 'jobs.manage',
] as const;
export type Permission = (typeof permissions)[number];

/** What each role may do. `signing.manage` and `license.erase` belong to super_admin alone. */
export const roles = {
  super_admin: permissions,
  support: ['license.read', 'license.issue', 'license.manage', 'license.revoke', 'license.preview', 'license.export'],
  onboarding: ['license.read', 'license.issue'],
  license_manager: ['license.read', 'license.issue', 'license.manage', 'license.revoke', 'license.preview', 'license.export', 'catalog.manage'],
  auditor: ['license.read', 'audit.read'],
  viewer: ['license.read'],
} as const satisfies Record<string, readonly Permission[]>;
export type Role = keyof typeof roles;
