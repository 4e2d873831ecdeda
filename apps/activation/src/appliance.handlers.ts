import { hash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { ActivateAppliance, BindAppliance, ContinueLease, Heartbeat, LoseHeartbeats, RecordUsage, RecoverHeartbeat, SignLeases, type HeartbeatAnswer, type Licensed } from '@keyledger/contracts';
import {
  activationOf, beat, beatSeconds, clientLicenseView, isEnding, isLive, isOutdated, issued, leaseSeconds, lookAtOf, licensedTerms, NO_BEAT, openLease, signedAtOf, standingOf, verdictOf,
  type Directive, type IssuedLicense, type Lease, type Standing,
} from '@keyledger/domain';
import { context, isId, Refusal, refuse, type ActivationId, type DirectiveId, type Instant, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Log, Metrics } from '@keyledger/observability';
import { Injectable } from '@nestjs/common';
import { LastSeenLedger } from './last-seen.ts';
import { LeaseLedger, type Kept, type Step } from './leases.ts';
import { RevokedKeys } from './revoked-keys.ts';
import type { KnownLicense } from './verdict-cache.ts';
import { VerdictCaches } from './verdict-caches.ts';
import { VerdictTokens } from './verdict-tokens.ts';

/** If the license cannot be read, the appliance gets no answer and lives on its lease, as if offline: better than an outdated answer. */
async function licenseOf(caches: VerdictCaches, asked: Pick<Heartbeat, 'licenseId' | 'licenseKey'>): Promise<KnownLicense> {
  const known = await caches.here().get(asked.licenseId, asked.licenseKey);
  issued(known.state);
  return known;
}

/** Time for a token to be signed. */
const signedWithinMs = 2000;
/** Time for another process to hear of new events in the log. */
const heardAfterMs = 100;

/** Tokens an appliance carries to prove itself offline. */
@Injectable()
export class ApplianceTokens {
  readonly #licensed = new WeakMap<KnownLicense, { readonly terms: Licensed; readonly says: string }>();

  constructor(private readonly messages: MessageClient, private readonly verdicts: VerdictTokens, private readonly revoked: RevokedKeys, private readonly log: Log) {}

  /**
   * The last lease again as long as it says what a new one would; most heartbeats cost no signature. While signing is unavailable, the last one
   * is better than none. One whose key was revoked does not count.
   */
  async lease(known: KnownLicense, activationId: ActivationId, lease: Lease, given: Kept['token'], now: Instant): Promise<Kept['token']> {
    const last = given && !(await this.revoked.signed(given.text)) ? given : null;
    const license = issued(known.state);
    const fingerprint = license.activations.get(activationId)?.fingerprint ?? null;
    const { terms, says: allowed } = this.#allowed(known, license);
    const says = `${allowed} ${lease.boundAt}`;
    if (last && !isOutdated(last, says, license.terms, now)) return last;
    const seconds = Math.floor((Date.parse(lease.endsAt) - Date.parse(now)) / 1000);
    const statement = { activationId, fingerprint, counter: Math.max(lease.seq, 0), seq: known.revision, seconds, license: terms };
    try {
      const text = (await this.#sign(statement)) ?? (await sleep(heardAfterMs).then(() => this.#sign(statement)));
      if (text === undefined) throw refuse('UNAVAILABLE', 'The signing key was revoked');
      return text ? { text, says, signedAt: signedAtOf(lease, license.terms) } : null;
    } catch (error) {
      this.log.warn({ err: error, activationId }, 'a heartbeat was answered without a new lease');
      return last?.says === says ? last : null;
    }
  }

  /** Why the appliance must stop: only a signed "no" counts. */
  async refusal(known: KnownLicense, { activationId, fingerprint, seq, nonce }: Pick<Heartbeat, 'activationId' | 'fingerprint' | 'seq' | 'nonce'>, { enforcement }: Standing, now: Instant): Promise<string | null> {
    const license = issued(known.state);
    const { code, reasons, graceEndsAt } = verdictOf(license, undefined, { instanceId: activationId, fingerprint }, now);
    const { metadata: _, ...view } = clientLicenseView(license, now);
    const token = await this.verdicts.for({
      nonce: nonce ?? `${activationId}.${seq}`, audience: null, instanceId: activationId, fingerprint, seq: known.revision, license: view,
      verdict: { valid: false, code, reasons, conclusive: true, enforcement, graceEndsAt, decisionId: `${license.id}.${known.revision}.${Date.parse(now).toString(36)}.${seq}`, checkedAt: now },
    });
    return token ?? null;
  }

  /** True if a lapse has decided the seat's end. It gets no other lease, and the license records the end before any answer: the lapse may not have got there. */
  async endSeat({ id: licenseId, activations }: IssuedLicense, activationId: ActivationId, lease: Lease | undefined): Promise<boolean> {
    if (!lease || !isEnding(activations.get(activationId), lease)) return false;
    const { failed } = await this.messages.send(LoseHeartbeats, { instances: [{ licenseId, activationId, dueAt: lease.endsAt }], dryRun: false });
    if (failed.length > 0) throw refuse('TRY_AGAIN');
    return true;
  }

  /** The lease of an instance that asks for the seat it has, and its token; no token while locked. If the seat is just ending, the next try may get another. */
  async seated(known: KnownLicense, activationId: ActivationId, kept: Kept | undefined, now: Instant) {
    const license = issued(known.state);
    if (await this.endSeat(license, activationId, kept?.lease)) throw refuse('TRY_AGAIN');
    const lease = openLease(license, activationId, kept?.lease, now);
    const standing = standingOf(license, activationOf(license, activationId), now);
    const lookAt = lookAtOf(license, activationId, lease);
    const token = standing.enforcement === 'LOCKED' ? null : await this.lease(known, activationId, lease, kept?.token ?? null, now);
    return { lease, standing, token, lookAt };
  }

  /** Undefined if signed with a revoked key: one of several signing processes may hear of the revocation a moment later than this one. */
  async #sign(statement: SignLeases['leases'][number]): Promise<string | null | undefined> {
    const { tokens: [text = null] } = await this.messages.send(SignLeases, { leases: [statement] }, { timeoutMs: signedWithinMs });
    return text !== null && (await this.revoked.signed(text)) ? undefined : text;
  }

  #allowed(known: KnownLicense, license: IssuedLicense) {
    let allowed = this.#licensed.get(known);
    if (!allowed) {
      const terms = licensedTerms(license) as Licensed;
      this.#licensed.set(known, (allowed = { terms, says: hash('sha256', JSON.stringify(terms), 'base64url') }));
    }
    return allowed;
  }
}

/** Every start of an appliance, from the first. The authority gives the seat; here its lease is opened. */
@Handles(ActivateAppliance)
export class ApplianceActivation {
  constructor(private readonly caches: VerdictCaches, private readonly leases: LeaseLedger, private readonly tokens: ApplianceTokens, private readonly messages: MessageClient, private readonly lastSeen: LastSeenLedger) {}

  async execute(asked: ActivateAppliance) {
    const { licenseId, licenseKey, fingerprint, hostname, address } = asked;
    const { keyHash } = issued((await licenseOf(this.caches, asked)).state);
    const { activationId, created } = await this.messages.send(BindAppliance, {
      licenseId, fingerprint, ...(licenseKey !== undefined && { keyHash }), ...(hostname !== undefined && { hostname }), ...(address !== undefined && { address }),
    });
    if (!created) await this.lastSeen.see(activationId, context().now);
    return this.leases.change(activationId, async (kept, isCertain) => (isCertain ? this.#open(asked, activationId, created, kept) : undefined));
  }

  async #open(asked: ActivateAppliance, activationId: ActivationId, created: boolean, kept: Kept | undefined) {
    const { now } = context();
    const { fingerprint, version } = asked;
    const known = await licenseOf(this.caches, asked);
    const { terms } = issued(known.state);
    const { lease, standing, token, lookAt } = await this.tokens.seated(known, activationId, kept, now);
    const isLocked = standing.enforcement === 'LOCKED';
    const refusal = isLocked ? await this.tokens.refusal(known, { activationId, fingerprint, seq: Math.max(lease.seq, 0) }, standing, now) : null;
    const answer = {
      activationId, token: token?.text ?? refusal, deployment: { state: standing.state }, offlineGraceSeconds: leaseSeconds(terms), nextInSeconds: beatSeconds(terms),
      lastSeq: lease.seq === NO_BEAT ? null : lease.seq, created,
    };
    return { answer, keep: { licenseId: asked.licenseId, lease, token, answer: kept?.answer, toldSeq: known.revision, agentVersion: version ?? kept?.agentVersion ?? null, lookAt } };
  }
}

/** An instance that asks for its seat again keeps its lease, however often it asks. */
@Handles(ContinueLease)
export class LeaseContinuation {
  constructor(private readonly caches: VerdictCaches, private readonly leases: LeaseLedger, private readonly tokens: ApplianceTokens) {}

  execute({ licenseId, activationId }: ContinueLease) {
    return this.leases.change(activationId, async (kept, isCertain) => {
      if (!isCertain) return undefined;
      const { now } = context();
      const known = await licenseOf(this.caches, { licenseId });
      // A lapse was faster than this request: the next try takes another seat.
      if (!isLive(issued(known.state).activations.get(activationId))) throw refuse('TRY_AGAIN');
      const { lease, token, lookAt } = await this.tokens.seated(known, activationId, kept, now);
      const { answer, toldSeq = known.revision, agentVersion = null } = kept ?? {};
      return { answer: { token: token?.text ?? null }, keep: { licenseId, lease, token, answer, toldSeq, agentVersion, lookAt } };
    });
  }
}

@Handles(Heartbeat)
export class Heartbeats {
  constructor(
    private readonly caches: VerdictCaches, private readonly leases: LeaseLedger, private readonly tokens: ApplianceTokens, private readonly keyrings: Keyrings,
    private readonly messages: MessageClient, private readonly metrics: Metrics, private readonly log: Log,
  ) {}

  async execute(heartbeat: Heartbeat): Promise<HeartbeatAnswer> {
    const { licenseId, activationId, fingerprint, nonce } = heartbeat;
    if (!isId('act', activationId)) {
      // A made-up license is refused as such: guesses are counted by that.
      await licenseOf(this.caches, heartbeat);
      throw refuse('INSTANCE_NOT_FOUND');
    }
    // A heartbeat sent again may carry more besides these, and is still the same one.
    const said = this.keyrings.here().hmac('heartbeat', JSON.stringify({ fingerprint, nonce }));
    try {
      const { answer, recovered } = await this.leases.change(activationId, (kept, isCertain) => this.#look(heartbeat, said, kept, isCertain));
      if (recovered) await this.#recovered(licenseId, activationId);
      const usageRefused = await this.#count(heartbeat, answer);
      return usageRefused.length > 0 ? { ...answer, usageRefused } : answer;
    } catch (error) {
      if (error instanceof Refusal && error.members['conflict']) this.#conflict(licenseId, activationId);
      throw error;
    }
  }

  /**
   * Ids of records that do not count: all, from an appliance that the activation was moved away from. Usage never decides the answer to a heartbeat;
   * only while the metering is away there is none, so that the appliance sends all again: it is the same heartbeat then, and a record counts once.
   */
  async #count({ licenseId, activationId: instanceId, usage: records }: Heartbeat, { state }: HeartbeatAnswer): Promise<readonly string[]> {
    if (!records?.length) return [];
    const all = records.map(({ id }) => id);
    if (state === 'rebound') return all;
    try {
      return (await this.messages.send(RecordUsage, { licenseId, instanceId, records })).refused;
    } catch (error) {
      if (error instanceof Refusal && error.status !== 503) return all;
      throw error;
    }
  }

  async #look(heartbeat: Heartbeat, said: string, kept: Kept | undefined, isCertain: boolean): Promise<Step<{ answer: HeartbeatAnswer; recovered: boolean }> | undefined> {
    const { now } = context();
    const { licenseId, activationId, fingerprint, seq, acks, version } = heartbeat;
    let known = await licenseOf(this.caches, heartbeat);
    if (kept?.lease.isOver && (await this.tokens.endSeat(issued(known.state), activationId, kept.lease))) known = await licenseOf(this.caches, heartbeat);
    const license = issued(known.state);
    const outcome = beat(license, kept?.lease, { activationId, fingerprint, seq, said, ...(acks && { acks: acks as readonly DirectiveId[] }) }, now);
    if (outcome.kind !== 'accepted' && !isCertain) return undefined;
    if (outcome.kind === 'again') return { answer: { answer: lastAnswer(kept), recovered: false } };
    const { standing, directives } = outcome;
    const isLocked = standing.enforcement === 'LOCKED';
    // The license was read at this instant: from here on it may change.
    const rest = { directives: directives.map(viewOf), nextInSeconds: beatSeconds(license.terms), serverTime: now };
    const refusal = isLocked ? await this.tokens.refusal(known, heartbeat, standing, now) : null;
    if (outcome.kind === 'told') return { answer: { answer: { ...standing, token: isLocked ? refusal : (kept?.token?.text ?? null), ...rest }, recovered: false } };
    const lease = isLocked ? null : await this.tokens.lease(known, activationId, outcome.lease, kept?.token ?? null, now);
    const answer: HeartbeatAnswer = { ...standing, token: lease?.text ?? refusal, ...rest };
    return {
      answer: { answer, recovered: outcome.recovered },
      keep: { licenseId, lease: outcome.lease, token: lease, answer, toldSeq: known.revision, agentVersion: version ?? kept?.agentVersion ?? null, lookAt: lookAtOf(license, activationId, outcome.lease) },
    };
  }

  /** If this cannot be recorded now, the next heartbeat records it. */
  async #recovered(licenseId: LicenseId, activationId: ActivationId): Promise<void> {
    try {
      await this.messages.send(RecoverHeartbeat, { licenseId, activationId });
    } catch (error) {
      this.log.warn({ err: error, licenseId, activationId }, 'an appliance that was silent is back, but this could not be recorded');
    }
  }

  #conflict(licenseId: LicenseId, activationId: ActivationId): void {
    this.metrics.decision('SEQUENCE_CONFLICT');
    this.log.warn({ licenseId, activationId }, 'two appliances share an activation: one was cloned or restored from a backup');
  }
}

function lastAnswer(kept: Kept | undefined): HeartbeatAnswer {
  if (!kept?.answer) throw new Error('A heartbeat was accepted, but its answer cannot be found');
  return kept.answer;
}

const viewOf = ({ id, kind, payload, issuedAt }: Directive) => ({ id, kind, ...(payload && { payload }), issuedAt });
