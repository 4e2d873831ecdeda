import { fileTypeOf, reasons, Verifier, type FileType, type LeaseClaims, type LicenseFile, type OfflineFile, type Reason, type VerdictClaims, type Verified } from '@keyledger/license-file';
import type { LicenseOptions } from './api.ts';
import { msOf } from './clock.ts';
import { defined } from './json.ts';
import { judge, type Judgement, type Limits } from './judgement.ts';
import type { Checks } from './kept.ts';
import { apply, initial, type LicenseEvent, type State } from './state.ts';
import { timeOf, type Reading } from './time.ts';

export type OfflineResult =
  | { readonly ok: true; readonly type: 'license-file'; readonly file: LicenseFile; readonly judgement: Judgement }
  | { readonly ok: true; readonly type: 'offline-file'; readonly file: OfflineFile; readonly judgement: Judgement }
  | { readonly ok: false; readonly reason: Reason; readonly detail: string };

export interface OfflineOptions {
  readonly roots: LicenseOptions['roots'];
  readonly environment?: string;
  readonly product?: string;
  /** Id of the license that the file must be about. */
  readonly license?: string;
  readonly fingerprint?: string | undefined;
  readonly now?: Date | string;
  /** How far ahead of `now` the file may have been issued: at most five minutes, the default. Milliseconds, or `30s`, `5m`. */
  readonly maxSkew?: number | string;
  /** Default: as the text begins. */
  readonly type?: FileType;
  /** An answer of `/.well-known/jwks.json`: signatures by keys that its signed list names as revoked are refused. */
  readonly keys?: unknown;
}

export interface TokenOptions extends Omit<OfflineOptions, 'type' | 'license' | 'maxSkew'> {
  /** The activation of a lease, the license of a verdict. */
  readonly subject?: string;
  /** The nonce of the question. */
  readonly nonce?: string;
  /** The highest counter seen. */
  readonly counter?: number;
}
export type TokenResult =
  | { readonly ok: true; readonly type: 'lease'; readonly claims: LeaseClaims }
  | { readonly ok: true; readonly type: 'verdict'; readonly claims: VerdictClaims }
  | { readonly ok: false; readonly reason: Reason; readonly detail: string };

export async function verifyOffline(text: string, { roots, environment = 'production', keys, now = new Date(), ...options }: OfflineOptions): Promise<OfflineResult> {
  const trust = await Verifier.open({ environment, roots });
  if (!trust.ok) return { ok: false, reason: trust.reason, detail: reasons[trust.reason] };
  if (keys !== undefined) await trust.verifier.learn(keys);
  const at = new Date(now).getTime();
  const reading: Reading = { wall: at, mono: 0, boot: '' };
  return verifiedOffline(trust.verifier, text, options, reading, initial(reading), { asksNobody: true });
}

export async function verifyToken(type: 'lease' | 'verdict', token: string, { roots, environment = 'production', keys, now = new Date(), product, ...options }: TokenOptions): Promise<TokenResult> {
  const trust = await Verifier.open({ environment, roots });
  if (!trust.ok) return { ok: false, reason: trust.reason, detail: reasons[trust.reason] };
  await trust.verifier.learn(keys);
  const at = new Date(now);
  const expected = { now: Number.isNaN(at.getTime()) ? '' : at.toISOString(), ...defined({ audience: product, ...options }) };
  const result = type === 'lease' ? named(type, await trust.verifier.lease(token, expected)) : named(type, await trust.verifier.verdict(token, { nonce: '', ...expected }));
  return result.ok ? result : { ok: false, reason: result.reason, detail: reasons[result.reason] };
}

type Opened = { readonly type: 'license-file'; readonly file: LicenseFile } | { readonly type: 'offline-file'; readonly file: OfflineFile };
export const installing = (opened: Opened, text: string): LicenseEvent =>
  (opened.type === 'license-file' ? { type: 'LicenseFileInstalled', text, file: opened.file } : { type: 'OfflineFileInstalled', text, file: opened.file });

/** Checked against a state: what is known of the time, and of the license. */
export async function verifiedOffline(verifier: Checks, text: string, { type = fileTypeOf(text), product, license, fingerprint, maxSkew = Infinity }: Omit<OfflineOptions, 'roots'>, reading: Reading, state: State, limits: Limits): Promise<OfflineResult> {
  const no = (reason: Reason): OfflineResult => ({ ok: false, reason, detail: reasons[reason] });
  const at = timeOf(state.time, reading);
  const now = Number.isNaN(at) ? '' : new Date(at).toISOString();
  const expected = { now, ...defined({ audience: product, subject: license, fingerprint }) };
  const result: Verified<Opened> = type === 'offline-file' ? named('offline-file', await verifier.offlineFile(text, expected))
    : type === 'license-file' ? named('license-file', await verifier.licenseFile(text, { now })) : { ok: false, reason: 'MALFORMED' };
  if (!result.ok) return no(result.reason);
  if (Date.parse(result.file.issuedAt) - at > msOf(maxSkew)) return no('NOT_YET_VALID');
  if (product !== undefined && result.file.license.productId !== product) return no('WRONG_AUDIENCE');
  if (license !== undefined && result.file.license.id !== license) return no('WRONG_SUBJECT');
  const applied = apply(state, installing(result, text), reading);
  return applied.ok ? { ...result, judgement: judge(applied.state, reading, limits) } : no(applied.reason);
}

const named = <T extends string, R extends object>(type: T, result: Verified<R>): Verified<R & { type: T }> => (result.ok ? { ...result, type } : result);
