import type { LicensedFeature, LicensedTerms, LicenseFile } from '@keyledger/license-file';
import type { State } from './state.ts';

export interface QuotaState {
  readonly meter: string;
  readonly limit: number;
  readonly per?: 'day' | 'month';
  readonly state?: 'normal' | 'exceeded' | 'restricted';
  readonly lastPeak?: number | null;
  readonly graceEndsAt?: string | null;
}
export type FeatureState = LicensedFeature | { readonly limit: number; readonly per: 'day' | 'month'; readonly used?: number; readonly remaining?: number };

/** What the license says, by the newest signed proof. */
export interface LicenseInfo {
  readonly id: string;
  readonly productId: string;
  readonly status: string | null;
  readonly expiresAt: string | null;
  readonly effectiveAt: string | null;
  readonly features: Readonly<Record<string, FeatureState>>;
  readonly featureFlags: Readonly<Record<string, unknown>>;
  readonly quotas: readonly QuotaState[];
  /** -1: unlimited; null: unknown. */
  readonly activationLimit: number | null;
  /** Seats taken, as of the last verdict. */
  readonly activationCount: number | null;
  /** Named in license files only. */
  readonly customer: LicenseFile['customer'];
}

/** The newest signed terms: those of a lease, a license file or an offline validation file. */
export function termsOf({ lease, file, said }: State): LicensedTerms | null {
  const all = [
    lease && { seq: lease.claims.seq, at: lease.claims.iat * 1000, terms: lease.claims.license },
    file && { seq: file.file.seq, at: Date.parse(file.file.issuedAt), terms: file.file.license },
    said?.terms ? { seq: said.seq, at: said.at, terms: said.terms } : null,
  ].filter((one) => one !== null);
  return all.sort((a, b) => b.seq - a.seq || b.at - a.at)[0]?.terms ?? null;
}

export function infoOf(state: State): LicenseInfo | null {
  const { said, lease, file } = state;
  const terms = termsOf(state);
  const termsSeq = Math.max(...[lease?.claims.seq, file?.file.seq, said?.terms ? said.seq : undefined].map((seq) => seq ?? -1));
  const newest = said?.license && (said.seq >= termsSeq || !terms) ? (said.license as unknown as Partial<LicenseInfo> & Pick<LicenseInfo, 'id' | 'productId'>) : null;
  const status = (said?.license?.['status'] as string | undefined) ?? file?.file.status ?? null;
  // Members that a newer server leaves out, or that a verdict lacks, are taken from the terms.
  const { id, productId } = newest ?? terms ?? {};
  if (id === undefined || productId === undefined) return null;
  return {
    id, productId, status,
    expiresAt: newest?.expiresAt === undefined ? (terms?.expiresAt ?? null) : newest.expiresAt,
    effectiveAt: newest?.effectiveAt === undefined ? (terms?.effectiveAt ?? null) : newest.effectiveAt,
    features: newest?.features ?? terms?.features ?? {}, featureFlags: newest?.featureFlags ?? terms?.featureFlags ?? {}, quotas: newest?.quotas ?? terms?.quotas ?? [],
    activationLimit: newest?.activationLimit ?? terms?.activationLimit ?? null, activationCount: newest?.activationCount ?? null, customer: file?.file.customer ?? null,
  };
}

/** Between two heartbeats. */
export const intervalMsOf = (terms: LicensedTerms | null): number => (terms?.heartbeatIntervalSeconds ?? 3600) * 1000;
