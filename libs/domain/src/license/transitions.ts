/** The actions of people on a license, named as in `allowedActions` and in refusals. */
export const licenseActions = ['assign', 'edit', 'inactivate', 'reactivate', 'suspend', 'unsuspend', 'renew', 'regenerateKey', 'revoke', 'erase'] as const;
export type LicenseAction = (typeof licenseActions)[number];

/** In the order of a license's life. For the precedence see `statusOf`. */
export const licenseStatuses = ['available', 'assigned', 'active', 'inactive', 'suspended', 'expired', 'revoked'] as const;
export type LicenseStatus = (typeof licenseStatuses)[number];

/** Where a step leads: a status, `same`, `before` (the status underneath the hold), or `erased` (it no longer exists). */
export type Next = LicenseStatus | 'same' | 'before' | 'erased';
/** Besides actions of people: an instance is activated, time passes. */
export type Step = LicenseAction | 'activate' | 'expire';

/**
 * The state machine. A step that is not in the line of a status is refused there; the rules decide by this table,
 * and menus, documentation and tests are made from it.
 *
 * Facts overlap, so a step may not show: a hold added to a suspended license, or lifted from an expired one, changes the status
 * that the license will have once the stronger fact is gone.
 */
export const transitions = {
  available: {
    assign: 'assigned', edit: 'same', renew: 'same', regenerateKey: 'same', expire: 'expired', revoke: 'revoked', erase: 'erased',
  },
  assigned: {
    assign: 'same', edit: 'same', activate: 'active', inactivate: 'inactive', suspend: 'suspended', renew: 'same', regenerateKey: 'same',
    expire: 'expired', revoke: 'revoked', erase: 'erased',
  },
  active: {
    assign: 'same', edit: 'same', activate: 'same', inactivate: 'inactive', suspend: 'suspended', renew: 'same', regenerateKey: 'same',
    expire: 'expired', revoke: 'revoked', erase: 'erased',
  },
  inactive: {
    assign: 'same', edit: 'same', inactivate: 'same', reactivate: 'before', suspend: 'suspended', renew: 'same', regenerateKey: 'same',
    expire: 'expired', revoke: 'revoked', erase: 'erased',
  },
  suspended: {
    assign: 'same', edit: 'same', inactivate: 'same', reactivate: 'same', suspend: 'same', unsuspend: 'before', renew: 'same', regenerateKey: 'same',
    expire: 'expired', revoke: 'revoked', erase: 'erased',
  },
  expired: {
    edit: 'same', reactivate: 'same', unsuspend: 'same', renew: 'before', regenerateKey: 'same', revoke: 'revoked', erase: 'erased',
  },
  revoked: { erase: 'erased' },
} as const satisfies Record<LicenseStatus, { readonly [S in Step]?: Next }>;

/** Whether the state machine has this step. */
export const leads = (from: LicenseStatus, step: Step): boolean => step in transitions[from];
