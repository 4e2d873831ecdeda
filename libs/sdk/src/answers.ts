import { reasons, type Reason, type SignedVerdict } from '@keyledger/license-file';
import type { Logger } from './api.ts';
import type { Clock } from './clock.ts';
import { defined } from './json.ts';
import { timeIn, type Checks, type Kept } from './kept.ts';
import type { Keys } from './keys.ts';
import { noServer, notActivated, unreachable, untrusted, type Refusal } from './refusal.ts';
import type { Refused, Server, Unreachable } from './server.ts';
import { saidAt, type LicenseEvent } from './state.ts';
import { timeOf, type Reading } from './time.ts';

/** The members by which every question about the license names the instance. */
export interface Asker {
  readonly licenseKey: string | undefined;
  readonly fingerprint: string;
  readonly productId?: string;
}

/** What answers need of their license. */
interface Port {
  readonly server: Server | undefined;
  readonly asker: Asker;
  readonly verifier: Checks;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly logger: Logger | undefined;
  kept(): Kept;
  apply(event: LicenseEvent): Reason | null;
  /** The answer counts as no contact. */
  failed(refusal: Refusal): void;
  /** A verdict that was asked for at `askedAt` has arrived; the license's time is ahead of it by `aheadMs`. */
  answered(askedAt: number, aheadMs: number): void;
}

type Heard = { readonly ok: true; readonly verdict: SignedVerdict } | Refusal;

/** What answers of the server mean: a signed one is checked and applied, any other is a refusal, which locks nothing. */
export class Answers {
  readonly #port: Port;

  constructor(port: Port) {
    this.#port = port;
  }

  /** Asks with a nonce; the signed answer decides. Null when there is one. `afterRefusal`: asks why a heartbeat was refused. */
  async ask(options: { readonly afterRefusal?: boolean } = {}): Promise<Refusal | null> {
    const heard = await this.hear(options);
    return heard.ok ? null : heard;
  }

  /** The same, with the verdict of this very answer: one that is not conclusive leaves the license as it was. */
  async hear({ afterRefusal = false }: { readonly afterRefusal?: boolean } = {}): Promise<Heard> {
    const { server, clock, asker } = this.#port;
    if (!server) return noServer;
    const nonce = crypto.randomUUID();
    const asked = clock.read();
    const reply = await server.ask('POST', '/license/validate', { ...asker, nonce, ...defined({ instanceId: this.#port.kept().state.instanceId ?? undefined }) });
    // The server answers 200 to every well-formed question: no refusal here is about the license, and the offline grace runs.
    if (reply.kind !== 'answered') return this.unheard(reply);
    return this.verdict(String(reply.body['token'] ?? ''), nonce, asked, { ...defined({ audience: asker.productId }), afterRefusal });
  }

  /** What it says, once it is taken. */
  async verdict(token: string, nonce: string, asked: Reading, { afterRefusal = false, ...expected }: { readonly audience?: string; readonly afterRefusal?: boolean } = {}): Promise<Heard> {
    const { keys, verifier, asker: { fingerprint }, kept, apply, answered } = this.#port;
    const verdict = await keys.checked(() => verifier.verdict(token, { ...expected, now: timeIn(token), nonce, fingerprint }));
    if (!verdict.ok) return this.distrust(verdict.reason);
    // The seat was given back after the question was sent: a verdict about it says nothing about an instance without one.
    if (verdict.claims.instanceId !== null && verdict.claims.instanceId !== kept().state.instanceId) return notActivated;
    const askedAt = timeOf(kept().state.time, asked);
    const fault = apply({ type: 'Answered', text: token, claims: verdict.claims, asked, afterRefusal });
    if (fault) return this.distrust(fault);
    // After a vendor's clock was put back, older signatures are ahead of it: the license's time never goes behind them, but the server judges readings by its clock.
    answered(askedAt, kept().state.time.at - saidAt(verdict.claims));
    return { ok: true, verdict: verdict.claims.verdict };
  }

  /** The reason why it is not taken. `renews`: only for the seat that the instance has. */
  async lease(token: string, instanceId: string, { renews = false } = {}): Promise<Reason | null> {
    const { keys, verifier, asker: { fingerprint, productId }, apply } = this.#port;
    const lease = await keys.checked(() => verifier.lease(token, { now: timeIn(token), subject: instanceId, fingerprint, ...defined({ audience: productId }) }));
    return lease.ok ? apply({ type: 'Leased', text: token, claims: lease.claims, renews }) : lease.reason;
  }

  refusal(reply: Refused | Unreachable): Refusal {
    if (reply.kind === 'refused') return { ok: false, code: reply.code, detail: reply.detail, docUrl: reply.docUrl, members: reply.body, retryAfterMs: null };
    return this.#failed(unreachable(reply.detail, reply.retryAfterMs, reply.status));
  }

  /** The same, where a refusal says no more about the license than no answer would. */
  unheard(reply: Refused | Unreachable): Refusal {
    const refusal = this.refusal(reply);
    return reply.kind === 'refused' ? this.#failed(refusal) : refusal;
  }

  /** The answer is not from the vendor's server, or is an older one. */
  distrust(reason: Reason): Refusal {
    this.#port.logger?.warn('an answer was not taken', { reason });
    return this.#failed(untrusted(reasons[reason], { reason }));
  }

  #failed(refusal: Refusal): Refusal {
    this.#port.apply({ type: 'Unreachable' });
    this.#port.failed(refusal);
    return refusal;
  }
}
