import type { Judgement, License, LicensedTerms, LicenseInfo } from '@keyledger/sdk';
import type { LicenseAnswer, MeterAnswer, RuntimeState } from './api.ts';

/** The views of a license for the page and the product. Pure. */

const coreMeter = 'max_dp_cores';

/** The knowledge of a license at one moment. */
export interface Known {
  readonly judgement: Judgement;
  readonly info: LicenseInfo | null;
  readonly terms: LicensedTerms | null;
  readonly meters: readonly MeterAnswer[];
}

export type LicensePart = Omit<LicenseAnswer, 'source' | 'keyPrefix' | 'activationId' | 'installationId' | 'hardwareId' | 'server' | 'file' | 'problems' | 'messages' | 'usageQueued' | 'access' | 'applied' | 'agentVersion'>;

export function licensePart({ judgement, info, terms, meters }: Known, own: { readonly byFile: boolean; readonly deploymentId: string | undefined; readonly deploymentMode: string | undefined }): LicensePart {
  const { enforcement, code, reasons, detail, graceUntil, offlineUntil, daysRemaining, contactAt, at } = judgement;
  return {
    serialNumber: terms?.serialNumber ?? null, customer: info?.customer?.name ?? info?.customer?.id ?? null,
    effectiveDate: info?.effectiveAt ?? null, expirationDate: judgement.expiresAt, maxDpCores: meters.find(({ meter }) => meter === coreMeter)?.limit ?? null,
    features: info?.features ?? {}, deploymentId: terms?.deploymentId ?? own.deploymentId ?? null, freeTrial: info !== null && terms === null ? null : terms?.trial != null,
    runtimeState: runtimeStateOf(judgement, meters), enforcement, status: statusOf(judgement, info), type: typeOf(judgement, info, terms),
    mode: terms?.deploymentMode ?? own.deploymentMode ?? 'on-premises', daysRemaining, usage: meters, lastValidationAt: contactAt,
    validationMode: info === null ? null : own.byFile ? 'offline' : (terms?.validationMode ?? null), deploymentMode: own.deploymentMode ?? terms?.deploymentMode ?? null,
    licenseId: info?.id ?? null, productId: info?.productId ?? null, code, reasons, detail, graceEndsAt: graceUntil,
    offlineGraceEndsAt: offlineUntil, offlineGraceSeconds: offlineUntil === null ? null : Math.max(0, Math.floor((Date.parse(offlineUntil) - Date.parse(at)) / 1000)),
    activationLimit: info?.activationLimit ?? terms?.activationLimit ?? null, activeActivations: info?.activationCount ?? null, now: at,
  };
}

/** Without a license writes are blocked as well. */
function runtimeStateOf({ enforcement }: Judgement, meters: readonly MeterAnswer[]): RuntimeState {
  if (enforcement === 'READ_ONLY' || enforcement === 'LOCKED') return 'restricted';
  return meters.some(({ meter, state }) => meter === coreMeter && state !== 'normal') ? 'dp_core_exceeded' : 'normal';
}

const statusByCode: Readonly<Record<string, LicenseAnswer['status']>> = { REVOKED: 'revoked', EXPIRED: 'expired', SUSPENDED: 'suspended', INACTIVE: 'inactive' };

function statusOf({ code, state }: Judgement, info: LicenseInfo | null): LicenseAnswer['status'] {
  return statusByCode[code] ?? (info === null ? 'none' : state);
}

function typeOf({ expiresAt }: Judgement, info: LicenseInfo | null, terms: LicensedTerms | null): LicenseAnswer['type'] {
  if (info === null || terms === null) return null;
  return terms.trial ? 'trial' : expiresAt === null ? 'lifetime' : 'time-based';
}

/** Every quota, and every feature with a cap per day or month. */
export function metersOf(license: License): MeterAnswer[] {
  const { info } = license;
  const capped = Object.entries(info?.features ?? {}).filter(([, feature]) => typeof feature === 'object').map(([name]) => name);
  return [...(info?.quotas ?? []).map(({ meter }) => meter), ...capped].map((meter) => {
    const { limit, used, remaining, per, state, graceUntil } = license.quota(meter);
    const { lastPeak = null } = info?.quotas.find((one) => one.meter === meter) ?? {};
    return { meter, limit, used, remaining, per, lastPeak, state, graceEndsAt: graceUntil };
  });
}
