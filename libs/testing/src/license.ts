import type { LicenseCommand, LicenseKey } from '@keyledger/domain';
import type { ActivationId, Id, IdPrefix, Instant } from '@keyledger/kernel';

type CommandOf<Type extends LicenseCommand['type']> = LicenseCommand & { type: Type };
type Fields<Type extends LicenseCommand['type']> = Partial<Omit<CommandOf<Type>, 'type'>>;

/** A well-formed id that reads as what it stands for: the n-th thing of its kind in a test. */
export const idOf = <P extends IdPrefix>(prefix: P, n = 1): Id<P> => `${prefix}_01938000-0000-7000-8000-${String(n).padStart(12, '0')}`;

export const ada = idOf('cus', 1);
export const grace = idOf('cus', 2);
export const editor = idOf('prd', 1);
export const compiler = idOf('prd', 2);

export interface Machine {
  readonly activationId: ActivationId;
  readonly fingerprint?: string;
  readonly installationId?: string;
  readonly instanceName?: string;
}
export const machine = (n: number): Machine => ({ activationId: idOf('act', n), fingerprint: `fp-${n}`, instanceName: `machine ${n}` });
export const laptop: Machine = { activationId: idOf('act', 1001), fingerprint: 'fp-laptop', instanceName: 'laptop' };
export const desktop: Machine = { activationId: idOf('act', 1002), fingerprint: 'fp-desktop', instanceName: 'desktop' };
export const server: Machine = { activationId: idOf('act', 1003), installationId: 'in-server', instanceName: 'server' };

export const licenseKey = (n = 1): LicenseKey =>
  ({ value: `KEY${String(n).padStart(4, '0')}-1111111-2222222-3333333`, hash: `hash-${n}`, prefix: `KEY${String(n).padStart(4, '0')}1` });

/** Valid by default; a test names only the fields it is about. */
export const issue = (fields: Fields<'Issue'> = {}): CommandOf<'Issue'> =>
  ({ type: 'Issue', licenseId: idOf('lic'), productId: editor, environment: 'production', terms: {}, key: licenseKey(), ...fields });
export const assign = (customerId = ada): CommandOf<'Assign'> => ({ type: 'Assign', customerId });
export const edit = (fields: Fields<'Edit'>): CommandOf<'Edit'> => ({ type: 'Edit', ...fields });
export const activate = (who: Machine = laptop, fields: Fields<'Activate'> = {}): CommandOf<'Activate'> => ({ type: 'Activate', ...who, ...fields });
export const deactivate = (who: Machine = laptop, by: CommandOf<'Deactivate'>['by'] = 'client'): CommandOf<'Deactivate'> =>
  ({ type: 'Deactivate', activationId: who.activationId, by });
export const rebind = (fingerprint = 'fp-new', who?: Machine): CommandOf<'Rebind'> =>
  ({ type: 'Rebind', fingerprint, reason: 'the mainboard was replaced', activationId: who?.activationId });
export const suspectAbuse = (fields: Partial<Fields<'SuspectAbuse'>> = {}): CommandOf<'SuspectAbuse'> => ({
  type: 'SuspectAbuse', pattern: 'activationsPerHour', limit: 3, action: 'suspend', observed: 4, from: '2027-11-01T11:30:00.000Z', until: '2027-11-01T12:00:00.000Z', evidence: [4, 5], ...fields,
});
export const direct = (kind: CommandOf<'QueueDirective'>['kind'], n = 1, fields: Fields<'QueueDirective'> = {}): CommandOf<'QueueDirective'> =>
  ({ type: 'QueueDirective', directiveId: idOf('dir', n), kind, ...fields });

const hold = (type: 'Suspend' | 'Unsuspend' | 'Inactivate' | 'Reactivate') => (fields: Fields<'Suspend'> = {}): CommandOf<typeof type> => ({ type, ...fields });
export const suspend = hold('Suspend');
export const unsuspend = hold('Unsuspend');
export const inactivate = hold('Inactivate');
export const reactivate = hold('Reactivate');

export const renew = (expiresAt: Instant): CommandOf<'Renew'> => ({ type: 'Renew', expiresAt, reason: 'paid for another year' });
export const regenerateKey = (n = 2): CommandOf<'RegenerateKey'> => ({ type: 'RegenerateKey', key: licenseKey(n), reason: 'it leaked' });
export const revoke = (reason = 'charged back'): CommandOf<'Revoke'> => ({ type: 'Revoke', reason });
export const erase = (fields: Fields<'Erase'> = {}): CommandOf<'Erase'> => ({ type: 'Erase', reason: 'asked for by its holder', mayEraseActivated: false, ...fields });

/** All that is due by `until`; by default, by now. */
export const sweep = (until: Instant = '9999-12-31T23:59:59.999Z'): CommandOf<'Sweep'> => ({ type: 'Sweep', until });
export const missHeartbeat = (who: Machine = laptop, dueAt?: Instant): LicenseCommand => ({ type: 'MissHeartbeat', activationId: who.activationId, ...(dueAt && { dueAt }) });
export const loseHeartbeat = (who: Machine = laptop, dueAt?: Instant): LicenseCommand => ({ type: 'LoseHeartbeat', activationId: who.activationId, ...(dueAt && { dueAt }) });
export const recoverHeartbeat = (who: Machine = laptop): LicenseCommand => ({ type: 'RecoverHeartbeat', activationId: who.activationId });
export const exceedQuota = (peak: number, limit: number, meter = 'max_dp_cores'): CommandOf<'ExceedQuota'> => ({ type: 'ExceedQuota', meter, peak, limit });
export const restoreQuota = (peak?: number, meter = 'max_dp_cores'): CommandOf<'RestoreQuota'> => ({ type: 'RestoreQuota', meter, peak });
