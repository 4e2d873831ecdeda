import { hash } from 'node:crypto';
import { LastSeen, Leases, Revalidate, SeeInstance, ValidateLicense, type ClientLicense } from '@keyledger/contracts';
import {
  changesAt, clientLicenseView, instanceAsked, isMetered, issued, leaseEndOf, NO_BEAT, statusOf, verdictDetails, verdictOf, withUse, type ClientLicenseView, type LicenseState, type LicenseStatus, type Use, type Verdict,
} from '@keyledger/domain';
import { context, isId, type ActivationId, type Instant } from '@keyledger/kernel';
import { Handles, type ResultOf } from '@keyledger/messaging';
import { Metrics } from '@keyledger/observability';
import { LastSeenLedger } from './last-seen.ts';
import { LeaseLedger } from './leases.ts';
import { Acknowledgements } from './stream.handlers.ts';
import { UseInView } from './usage.ts';
import type { Found, KnownLicense } from './verdict-cache.ts';
import { VerdictCaches } from './verdict-caches.ts';
import { VerdictTokens } from './verdict-tokens.ts';

/** Is this license good? The hot path: one cache look-up, one pure function, no I/O; and a signature if the client sent a nonce. */
@Handles(ValidateLicense)
export class Validation {
  constructor(
    private readonly caches: VerdictCaches, private readonly lastSeen: LastSeenLedger, private readonly metrics: Metrics, private readonly tokens: VerdictTokens,
    private readonly leases: LeaseLedger, private readonly usage: UseInView,
  ) {}

  execute(question: ValidateLicense) {
    const found = this.caches.here().find(question.licenseKey);
    return found instanceof Promise ? found.then((known) => this.#look(question, known)) : this.#look(question, found);
  }

  #look(question: ValidateLicense, found: Found): Answer | Promise<Answer> {
    const use = this.usage.of(found.license);
    return use instanceof Promise ? use.then((known) => this.#judge(question, found, known)) : this.#judge(question, found, use);
  }

  #judge(question: ValidateLicense, found: Found, use: Use | undefined): Answer | Promise<Answer> {
    const endsAt = this.#leaseEnd(question, found.license?.state);
    if (!(endsAt instanceof Promise)) return this.#signed(question, this.#answer(question, found, endsAt, use));
    // An unreadable lease locks no client out.
    return endsAt.then(
      (known) => this.#signed(question, this.#answer(question, found, known, use)),
      () => this.#signed(question, this.#answer(question, { ...found, conclusive: false }, undefined, use)),
    );
  }

  /** When the instance asked about is overdue. The lease is read only if the instance would be overdue without any heartbeat. */
  #leaseEnd(question: ValidateLicense, state: LicenseState | undefined): Instant | undefined | Promise<Instant | undefined> {
    if (state?.existence !== 'issued' || state.terms.validationMode !== 'heartbeat') return undefined;
    const { now } = context();
    const activation = instanceAsked(state, question);
    const atLeast = activation && leaseEndOf(state, activation, undefined);
    if (!atLeast || atLeast > now) return atLeast;
    const lease = this.leases.running(activation.id, now);
    return lease instanceof Promise ? lease.then((row) => leaseEndOf(state, activation, row)) : leaseEndOf(state, activation, lease);
  }

  #signed(question: ValidateLicense, answer: Answer): Answer | Promise<Answer> {
    const seen = answer.instance ? this.lastSeen.see(answer.instance.id as ActivationId, answer.checkedAt as Instant) : undefined;
    return seen ? seen.then(() => this.#withToken(question, answer)) : this.#withToken(question, answer);
  }

  #withToken({ nonce, productId, fingerprint }: ValidateLicense, answer: Answer): Answer | Promise<Answer> {
    if (nonce === undefined) return answer;
    const { valid, code, reasons, conclusive, enforcement, graceEndsAt, decisionId, seq, checkedAt, license, instance } = answer;
    return this.tokens.for({
      nonce, audience: productId || null, instanceId: instance?.id ?? null, fingerprint: fingerprint || null, seq,
      verdict: { valid, code, reasons, conclusive, enforcement, graceEndsAt, decisionId, checkedAt }, license: license && withoutMetadata(license),
    }).then((token) => Object.assign(answer, token !== undefined && { token }));
  }

  #answer(question: ValidateLicense, { license, retired, conclusive }: Found, leaseEndsAt: Instant | undefined, use: Use | undefined): Answer {
    const { now } = context();
    const verdict = verdictOf(license?.state, leaseEndsAt, question, now);
    this.metrics.decision(verdict.code);
    const { valid, code, reasons, enforcement, graceEndsAt } = verdict;
    const seq = license?.revision ?? -1;
    return {
      valid, code, detail: verdictDetails[code], reasons, conclusive, enforcement, graceEndsAt,
      decisionId: decisionId(license?.state, seq, now, question), seq, checkedAt: now,
      license: license ? viewOf(license, use, now) : null,
      instance: this.#instance(question, license?.state, verdict, now),
      ...(retired && { retired }),
      ...(question.repeatable && conclusive && standing(license?.state, now)),
    };
  }

  #instance({ instanceId }: ValidateLicense, state: LicenseState | undefined, { reasons }: Verdict, now: Instant) {
    if (!isId('act', instanceId) || state?.existence !== 'issued' || reasons.includes('INSTANCE_NOT_FOUND')) return null;
    const activation = state.activations.get(instanceId);
    if (!activation) return null;
    return { id: instanceId, name: activation.name, lastSeenAt: now };
  }
}

type Answer = ResultOf<ValidateLicense>;

/** How long a verdict stands, if that depends on nothing but time and the events of the license. */
function standing(state: LicenseState | undefined, now: Instant): Pick<Answer, 'stands'> | undefined {
  if (state?.existence !== 'issued' || state.terms.validationMode === 'heartbeat' || isMetered(state.terms)) return undefined;
  return { stands: { until: changesAt(state, now) } };
}

/** Metadata is the vendor's own; it proves nothing to a client, and may be large. */
const withoutMetadata = ({ metadata: _, ...license }: ClientLicense) => license;

const views = new WeakMap<KnownLicense, { readonly status: LicenseStatus; readonly use: Use | undefined; readonly view: ClientLicenseView }>();

/** The same object as long as its content is the same, so that its serialized form can be cached. */
function viewOf(license: KnownLicense, use: Use | undefined, now: Instant): ClientLicenseView {
  const state = issued(license.state);
  const last = views.get(license);
  if (last && last.use === use && last.status === statusOf(state, now)) return last.view;
  const bare = clientLicenseView(state, now);
  const view = use ? withUse(bare, use) : bare;
  views.set(license, { status: view.status, use, view });
  return view;
}

/** Contains all the decision was based on: license, revision, instant and a hash of the question. Nothing is stored for it. */
function decisionId(state: LicenseState | undefined, seq: number, now: Instant, question: ValidateLicense): string {
  const asked = hash('sha256', JSON.stringify(question.repeatable ? { ...question, repeatable: undefined } : question), 'base64url').slice(0, 22);
  const license = state && state.existence !== 'none' ? state.id : 'none';
  return `${license}.${seq}.${Date.parse(now).toString(36)}.${asked}`;
}

@Handles(Revalidate)
export class Revalidation {
  constructor(private readonly caches: VerdictCaches, private readonly lastSeen: LastSeenLedger) {}

  async execute({ since, seen }: Revalidate) {
    const { now } = context();
    const { position, changed } = await this.caches.here().changedSince(since);
    // Whoever asks about a changed license is seen by the validation that follows, if it still has the instance.
    if (changed) await Promise.all(seen.map(({ licenseId, activationId }) => (changed.has(licenseId) ? undefined : this.lastSeen.see(activationId, now))));
    return { now, position, changed: changed && [...changed] };
  }
}

@Handles(SeeInstance)
export class Sighting {
  constructor(private readonly lastSeen: LastSeenLedger) {}

  async execute({ activationId, at }: SeeInstance) {
    await this.lastSeen.see(activationId, at);
    return null;
  }
}

@Handles(LastSeen)
export class LastSeenQuery {
  constructor(private readonly ledger: LastSeenLedger, private readonly leases: LeaseLedger) {}

  /** By validation, activation or heartbeat, whichever came last. */
  async execute({ activationIds }: LastSeen) {
    const [seen, leases] = await Promise.all([this.ledger.of(activationIds), this.leases.of(activationIds)]);
    for (const { activation_id: id, contact_at: at } of leases) if (!seen[id] || seen[id] < at) seen[id] = at;
    return seen;
  }
}

@Handles(Leases)
export class LeasesQuery {
  constructor(private readonly leases: LeaseLedger, private readonly acks: Acknowledgements) {}

  async execute({ activationIds }: Leases) {
    const leases = await this.leases.of(activationIds);
    const acknowledged = await this.acks.ofEach(leases.map(({ activation_id: id }) => id));
    return Object.fromEntries(leases.map(({ activation_id: id, seq, contact_at: contactAt, lease_ends_at: endsAt, agent_version: version, told_seq: toldSeq }) =>
      [id, { seq: seq === NO_BEAT ? null : seq, contactAt, endsAt, version, acknowledgedSeq: Math.max(toldSeq, acknowledged.get(id) ?? toldSeq) }]));
  }
}
