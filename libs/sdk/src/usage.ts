import type { FeatureState, LicenseInfo, QuotaState } from './state.ts';

/** As the server takes it: its id counts once, ever, so that sending it again does no harm. */
export interface UsageRecord {
  readonly id: string;
  readonly meter: string;
  readonly value: number;
  readonly at: string;
}

/** What the license says of a feature. It is not enabled while the license is locked. */
export interface Feature {
  readonly name: string;
  readonly enabled: boolean;
  /** Null: without a limit, or not included. */
  readonly limit: number | null;
  readonly per: 'day' | 'month' | null;
  readonly used: number | null;
  readonly remaining: number | null;
}

export interface Quota {
  readonly name: string;
  /** Null: the license sets none. */
  readonly limit: number | null;
  readonly per: 'day' | 'month' | null;
  /** As far as it is known here: what the server has counted, and what this instance has used since. */
  readonly used: number | null;
  readonly remaining: number | null;
  readonly state: 'normal' | 'exceeded' | 'restricted';
  readonly graceUntil: string | null;
}

export function featureOf(info: LicenseInfo | null, name: string, isLocked: boolean, counted: Counted): Feature {
  const feature = info && Object.hasOwn(info.features, name) ? info.features[name] : undefined;
  const enabled = feature !== undefined && !isLocked;
  if (typeof feature !== 'object') return { name, enabled, limit: typeof feature === 'number' ? feature : null, per: null, used: null, remaining: null };
  const used = usedOf(feature, name, counted);
  return { name, enabled, limit: feature.limit, per: feature.per, used, remaining: Math.max(0, feature.limit - used) };
}

export function quotaOf(info: LicenseInfo | null, name: string, counted: Counted): Quota {
  const quota: QuotaState | undefined = info?.quotas.find(({ meter }) => meter === name);
  if (!quota) {
    const { limit, per, used, remaining } = featureOf(info, name, false, counted);
    return { name, limit, per, used, remaining, state: 'normal', graceUntil: null };
  }
  const { limit, per = null, state = 'normal', graceEndsAt = null } = quota;
  // A gauge is worth what it shows; of a counter only this instance's own use is known.
  const used = per ? sumOf(counted, name, per) : (counted.records.findLast(({ meter }) => meter === name)?.value ?? quota.lastPeak ?? null);
  return { name, limit, per, used, remaining: used === null ? null : Math.max(0, limit - used), state, graceUntil: graceEndsAt };
}

/** What this instance has used that the verdict of `since` does not know of, and what time it is; ISO. */
export interface Counted {
  readonly records: readonly UsageRecord[];
  readonly since: string | null;
  readonly now: string;
}

function usedOf(feature: Extract<FeatureState, object>, name: string, counted: Counted): number {
  const known = 'used' in feature && counted.since !== null && periodOf(counted.since, feature.per) === periodOf(counted.now, feature.per) ? (feature.used ?? 0) : 0;
  return known + sumOf(counted, name, feature.per);
}

const sumOf = ({ records, now }: Counted, name: string, per: 'day' | 'month'): number =>
  records.reduce((sum, { meter, value, at }) => (meter === name && periodOf(at, per) === periodOf(now, per) ? sum + value : sum), 0);

/** In UTC, like the server counts. */
const periodOf = (at: string, per: 'day' | 'month'): string => at.slice(0, per === 'day' ? 10 : 7);
