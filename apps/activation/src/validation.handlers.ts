import { createHash } from 'node:crypto';
import { LastSeen, ValidateLicense } from '@keyledger/contracts';
import { clientLicenseView, issued, verdictDetails, verdictOf, type LicenseState, type Verdict } from '@keyledger/domain';
import { context, isId, type Instant } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Metrics } from '@keyledger/observability';
import { LastSeenLedger } from './last-seen.ts';
import type { Found } from './verdict-cache.ts';
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
      license: license ? clientLicenseView(issued(license.state), now) : null,
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

/** Says by itself what was decided on: license, revision, instant and a hash of the question. Nothing is stored for it. */
function decisionId(state: LicenseState | undefined, seq: number, now: Instant, question: ValidateLicense): string {
  const hash = createHash('sha256').update(JSON.stringify(question)).digest('base64url').slice(0, 22);
  const license = state && state.existence !== 'none' ? state.id : 'none';
  return `${license}.${seq}.${Date.parse(now).toString(36)}.${hash}`;
}

@Handles(LastSeen)
export class LastSeenQuery {
  constructor(private readonly ledger: LastSeenLedger) {}

  execute({ activationIds }: LastSeen) {
    return this.ledger.of(activationIds);
  }
}
