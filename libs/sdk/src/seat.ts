import type { Reason } from '@keyledger/license-file';
import type { Answers, Asker } from './answers.ts';
import type { Activation, Deactivation, Logger, SeatOptions } from './api.ts';
import type { Changes } from './changes.ts';
import type { Heartbeats } from './heartbeats.ts';
import { termsOf } from './info.ts';
import { defined } from './json.ts';
import type { Judgement } from './judgement.ts';
import type { Kept } from './kept.ts';
import { quietly } from './opening.ts';
import { noServer, notActivated, undecided, untrusted, type Refusal } from './refusal.ts';
import type { Server } from './server.ts';
import type { Sharing } from './sharing.ts';
import type { LicenseEvent } from './state.ts';

/** What a seat needs of its license. */
interface Port {
  readonly server: Server | undefined;
  readonly asker: Asker;
  readonly answers: Answers;
  readonly heartbeat: Heartbeats;
  readonly changes: Changes;
  /** Undefined for a store of one process. */
  readonly sharing: Sharing | undefined;
  readonly logger: Logger | undefined;
  /** Aborted once the license is disposed: nothing starts again. */
  readonly disposed: AbortSignal;
  kept(): Kept;
  keep(changes: Partial<Kept>): void;
  apply(event: LicenseEvent): Reason | null;
  persist(): Promise<unknown>;
  judgement(): Judgement;
}

/** The seat that this machine has of the license: taken, given back, and taken anew where a floating one has lapsed. */
export class Seat {
  readonly #port: Port;
  #takingAnew: Promise<unknown> = Promise.resolve();

  constructor(port: Port) {
    this.#port = port;
  }

  get #id(): string | null {
    return this.#port.kept().state.instanceId;
  }

  /** A verdict says so: the instance had a floating seat, and sent no sign of life for too long. */
  get isLost(): boolean {
    return termsOf(this.#port.kept().state)?.seats === 'floating' && this.#id !== null && this.#port.judgement().code === 'INSTANCE_NOT_FOUND';
  }

  /** Takes one: the same machine gets the same seat again. */
  async take(seat: SeatOptions = {}): Promise<Activation> {
    const { name, metadata, installationId } = seat;
    const { server, asker, answers, heartbeat, changes, apply, keep, kept, judgement, persist } = this.#port;
    if (!server) return noServer;
    const reply = await server.ask('POST', '/license/activate', { ...asker, ...defined({ instanceName: name, metadata, installationId }) });
    if (reply.kind !== 'answered') {
      // A refusal is not signed. What it means for a license that was good is asked for.
      if (reply.kind === 'refused' && kept().state.licenseId !== null) await answers.ask();
      return answers.refusal(reply);
    }
    const { instance, token } = reply.body as { instance?: { id?: unknown }; token?: unknown };
    const instanceId = instance?.id;
    if (typeof instanceId !== 'string') return untrusted('The answer names no instance');
    const fault = typeof token === 'string' ? await answers.lease(token, instanceId) : null;
    if (fault && fault !== 'STALE') return answers.distrust(fault);
    // An instance that is not signed counts only if there is no lease.
    if (typeof token !== 'string' && !kept().state.lease) apply({ type: 'Seated', instanceId });
    keep({ seat });
    heartbeat.forget();
    changes.again();
    // A seat with numbered heartbeats is renewed by a heartbeat, not by activating it again.
    if (fault === 'STALE') await heartbeat.together();
    // Only a verdict lifts what a verdict has refused.
    const { enforcement } = judgement();
    if (typeof token !== 'string' || enforcement === 'LOCKED' || enforcement === 'READ_ONLY') await answers.ask();
    await persist();
    return { ok: true, instanceId: this.#id ?? instanceId, created: reply.status === 201, judgement: judgement() };
  }

  /** Takes another one with the same options, where it is lost. */
  async takeAnew(): Promise<Activation> {
    // A seat that another process gives back, or has given back by now, is not lost.
    const { sharing, logger, kept } = this.#port;
    const { instanceId, epoch } = kept().state;
    const isGivenBack = (theirs: Kept) => theirs.leaving === instanceId || theirs.state.epoch > epoch;
    if (await quietly(() => sharing?.hears(isGivenBack), 'the other processes cannot be heard', logger)) return notActivated;
    const seating = this.take(kept().seat);
    this.#takingAnew = seating.catch(() => undefined);
    return seating;
  }

  /** Gives it back, unless the vendor has moved it to another machine. If the server cannot be told, the instance still has it, and all goes on as before. */
  async giveBack(): Promise<Deactivation> {
    const { server, heartbeat, changes, sharing, disposed, apply, keep, persist } = this.#port;
    if (!server) return noServer;
    if (this.#id === null) return notActivated;
    const paused = [heartbeat.pause(), changes.pause()];
    // A seat that is just being taken anew is given back, too.
    await this.#takingAnew;
    const instanceId = this.#id;
    keep({ leaving: instanceId ?? undefined });
    if (sharing) await persist();
    const refusal = await this.#tell(server, instanceId);
    if (refusal) {
      keep({ leaving: undefined });
      if (sharing) await persist();
      if (!disposed.aborted) for (const goOn of paused) goOn();
      return refusal;
    }
    apply({ type: 'Released' });
    keep({ seat: undefined, beat: { seq: 0, nonce: '', acks: [], answered: true }, acks: [] });
    // Beside the store, too, where another process may just be writing over it. Not before all can read it: the next leader must not take the seat again.
    await persist();
    keep({ leaving: undefined });
    heartbeat.stop();
    return { ok: true };
  }

  /** Null once this machine has the seat no more. */
  async #tell(server: Server, instanceId: string | null): Promise<Refusal | null> {
    const { answers, asker } = this.#port;
    // A seat that the vendor has moved keeps its id: it is the other machine's, and only forgotten here.
    const heard = await answers.hear();
    if (!heard.ok && heard.code === 'UNREACHABLE') return heard;
    if (heard.ok && !heard.verdict.conclusive) return undecided;
    if (heard.ok && heard.verdict.reasons.includes('FINGERPRINT_MISMATCH')) return null;
    const reply = await server.ask('POST', '/license/deactivate', { licenseKey: asker.licenseKey, instanceId });
    if (reply.kind === 'answered') return reply.body['deactivated'] === true ? null : untrusted('The answer does not say that the seat was given back');
    // A key whose license was erased, or has a new key, has no seats.
    const isGone = reply.kind === 'refused' && (reply.code === 'INSTANCE_NOT_FOUND' || reply.code === 'LICENSE_NOT_FOUND');
    return isGone ? null : answers.refusal(reply);
  }
}
