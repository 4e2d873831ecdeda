import { refuse, type Instant } from '@keyledger/kernel';
import { allowedActions, meterState, statusOf, type Activation, type IssuedLicense } from './state.ts';

export type LicenseView = ReturnType<typeof licenseView>;
export type ClientLicenseView = ReturnType<typeof clientLicenseView>;
export type InstanceView = ReturnType<typeof instanceView>;

/** The license as `GET /licenses/:id` answers it, without the revision. `key` is in clear; `graceEndsAt` is null without a grace after expiry. */
export function licenseView(license: IssuedLicense, now: Instant) {
  const { id, key, keyPrefix, keyVersion, productId, planId, generatorId, customerId, orderId, environment, purchasedAt, terms, metadata, holds, locked, activationCount } = license;
  return {
    id, key, keyPrefix, keyVersion, status: statusOf(license, now), productId, planId, generatorId, customerId, orderId, environment, purchasedAt,
    ...terms,
    activationCount, graceEndsAt: terms.expiryGraceDays > 0 ? license.worksUntil : null, holds, locked,
    features: terms.features as Readonly<Record<string, FeatureView>>, quotas: quotasView(license), metadata,
    createdAt: license.issuedAt, allowedActions: allowedActions(license, now),
  };
}

/** The license as the licensed software sees it: nothing of the vendor's side. */
export function clientLicenseView(license: IssuedLicense, now: Instant) {
  const { id, productId, planId, terms: { expiresAt, effectiveAt, activationLimit, features, featureFlags }, activationCount, metadata } = license;
  return {
    id, status: statusOf(license, now), productId, planId, expiresAt, effectiveAt, activationLimit, activationCount,
    features: features as Readonly<Record<string, FeatureView>>, featureFlags, quotas: quotasView(license), metadata,
  };
}

/** The signed part of a license, for offline machines: what it allows. No personal data, and nothing of the vendor's own. */
export function licensedTerms({ id, productId, planId, terms }: IssuedLicense) {
  const { expiry: _length, expiryBasis: _basis, ...allowed } = terms;
  return { id, productId, planId, ...allowed };
}

/**
 * A license file goes on working offline, so there is none of a license that is over or on hold. Refuses like any other step that the state does
 * not allow; `issueFile` is not in the menus.
 */
export function mustBeGoodForFile(license: IssuedLicense, now: Instant): void {
  const from = statusOf(license, now);
  if (from === 'revoked') throw refuse('TERMINAL_STATE', undefined, { from, requested: 'issueFile', allowed: allowedActions(license, now) });
  if (!license.locked && (from === 'available' || from === 'assigned' || from === 'active')) return;
  throw refuse('INVALID_TRANSITION', `There is no license file while the license is ${license.locked ? 'locked by a directive' : from}`, { from, requested: 'issueFile', allowed: allowedActions(license, now) });
}

/** name → true, a cap, or a cap per day or month. The metering knows what is left of it: see `withUse`. */
export type FeatureView = true | number | { readonly limit: number; readonly per: 'day' | 'month'; readonly used?: number; readonly remaining?: number };

const quotasView = (license: IssuedLicense) => license.terms.quotas.map((quota) => ({ ...quota, ...meterState(license, quota.meter) }));

/** One instance, without its last-seen time, which the log does not know. */
export function instanceView({ id, name, fingerprint, installationId, hardwareId, deploymentId, deploymentMode, metadata, createdAt, reboundAt, late, endedAt, endedBy }: Activation) {
  return { id, name, fingerprint, installationId, hardwareId, deploymentId, deploymentMode, metadata, createdAt, reboundAt, late, endedAt, endedBy };
}
