import { hash } from 'node:crypto';
import { LastSeen, ValidateLicense } from '@keyledger/contracts';
import {
  clientLicenseView, issued, statusOf, verdictDetails, verdictOf, type ClientLicenseView, type LicenseState, type LicenseStatus, type Verdict,
} from '@keyledger/domain';
import { context, isId, type Instant } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Metrics } from '@keyledger/observability';
import { LastSeenLedger } from './last-seen.ts';
import type { Found, KnownLicense } from './verdict-cache.ts';
import { VerdictCaches } from './verdict-caches.ts';

/** Is this license good? The hot path: one look into the cache, one pure function, no I/O. */
@Handles(ValidateLicense)
export class Validation {
  constructor(private readonly caches: VerdictCaches, private readonly lastSeen: LastSeenLedger, private readonly metrics: Metrics) {}

  execute(question: ValidateLicense) {
    const found = this.caches.here().find(question.licenseKey);
    return found instanceof Promise ? found.then((known) => this.#answer(question, known)) : this.#answer(question, found);
  }

  #answer(question: ValidateLicense, { license, retired, conclusive }: Found) {
    const { now } = context();
    const verdict = verdictOf(license?.state, undefined, question, now);
    this.metrics.decision(verdict.code);
    const { valid, code, reasons, enforcement, graceEndsAt } = verdict;
    const seq = license?.revision ?? -1;
    return {
      valid, code, detail: verdictDetails[code], reasons, conclusive, enforcement, graceEndsAt,
      decisionId: decisionId(license?.state, seq, now, question), seq, checkedAt: now,
      license: license ? viewOf(license, now) : null,
      instance: this.#instance(question, license?.state, verdict, now),
      ...(retired && { retired }),
    };
  }

  #instance({ instanceId }: ValidateLicense, state: LicenseState | undefined, { reasons }: Verdict, now: Instant) {
    if (!isId('act', instanceId) || state?.existence !== 'issued' || reasons.includes('INSTANCE_NOT_FOUND')) return null;
    const activation = state.activations.get(instanceId);
    if (!activation) return null;
    this.lastSeen.see(instanceId, now);
    return { id: instanceId, name: activation.name, lastSeenAt: now };
  }
}

const views = new WeakMap<KnownLicense, { readonly status: LicenseStatus; readonly view: ClientLicenseView }>();

/** The same object as long as it says the same: whoever writes it out may remember what he wrote. Quotas move with time by themselves. */
function viewOf(license: KnownLicense, now: Instant): ClientLicenseView {
  const state = issued(license.state);
  const last = views.get(license);
  if (last && state.meters.size === 0 && last.status === statusOf(state, now)) return last.view;
  const view = clientLicenseView(state, now);
  views.set(license, { status: view.status, view });
  return view;
}

/** Says by itself what was decided on: license, revision, instant and a hash of the question. Nothing is stored for it. */
function decisionId(state: LicenseState | undefined, seq: number, now: Instant, question: ValidateLicense): string {
  const asked = hash('sha256', JSON.stringify(question), 'base64url').slice(0, 22);
  const license = state && state.existence !== 'none' ? state.id : 'none';
  return `${license}.${seq}.${Date.parse(now).toString(36)}.${asked}`;
}

@Handles(LastSeen)
export class LastSeenQuery {
  constructor(private readonly ledger: LastSeenLedger) {}

  execute({ activationIds }: LastSeen) {
    return this.ledger.of(activationIds);
  }
}
