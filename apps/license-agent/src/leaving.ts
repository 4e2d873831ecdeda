import { sameKey, type License, type Refusal, type SeatOptions } from '@keyledger/sdk';
import type { DataDir, Kept, Leaving } from './data-dir.ts';
import { openLicense, type AgentOptions } from './open-license.ts';

/** A license that cannot give its seat back is given up after this time, if the agent has tried for a day since it started. */
const [longestLeaveMs, triedForMs] = [30 * 86_400_000, 86_400_000];
/** Refusals after which nothing can be sent or given back any more. */
const endings: ReadonlySet<string> = new Set(['NOT_ACTIVATED', 'INSTANCE_NOT_FOUND', 'LICENSE_NOT_FOUND']);
/** The same for a seat that would have to be taken again first. An expired license may be renewed under its key. */
const seatEndings: ReadonlySet<string> = new Set([...endings, 'LICENSE_REVOKED']);
/** The server has not refused anything. */
const unanswered: ReadonlySet<string> = new Set(['UNREACHABLE', 'UNTRUSTED_ANSWER']);

/** Why usage waits on. `needsSeat`: the floating seat has lapsed, and the server gives no other at present; there is none to give back. */
interface Unsent {
  readonly refusal: Refusal;
  readonly needsSeat: boolean;
}

/** The license in use, beside which others leave. */
interface InUse {
  readonly license: License;
  readonly kept: Kept;
  readonly seat: SeatOptions;
  readonly now: number;
}

/** Licenses by key that are not in use: each sends what was used under it, and gives its seat back. The agent's file names them until then. */
export class LeavingLicenses {
  readonly #options: AgentOptions;
  readonly #dir: DataDir;
  readonly #inUse: InUse;
  /** Those that have not been closed yet, by their state. */
  readonly #open = new Map<string, License>();
  /** Those with nothing left to do: the next write of the agent's file leaves them out. */
  readonly #gone = new WeakSet<Leaving>();
  /** When one failed to leave for the first time since the start, by `mono`: while the agent was off, nothing was tried. */
  readonly #failedAt = new WeakMap<Leaving, number>();

  constructor(options: AgentOptions, dir: DataDir, inUse: InUse) {
    this.#options = options;
    this.#dir = dir;
    this.#inUse = inUse;
  }

  /** One that is open: it need not be read from its state. */
  add(state: string, license: License): void {
    this.#open.set(state, license);
  }

  /** It does not leave: it is in use from now on. */
  stays(state: string): void {
    this.#open.delete(state);
  }

  hasLeft(one: Leaving): boolean {
    return this.#gone.has(one);
  }

  /** Lets them leave. What fails is tried again the next time. No key may be tried meanwhile: it may have such a seat. */
  async giveBack(): Promise<void> {
    const leaving = this.#inUse.kept.leaving.filter((one) => !this.#gone.has(one));
    // All that have one key have one seat. Groups leave together: a key that is uploaded waits for all of them.
    const parting = [...Map.groupBy(leaving, ({ key }) => sameKey(key)).values()].map((those) => this.#part(those));
    await Promise.allSettled(parting);
    await Promise.all(parting);
  }

  async #part(those: readonly Leaving[]): Promise<void> {
    const isNew = those.some(({ state }) => this.#open.has(state));
    const licenses = await Promise.all(those.map((one) => this.#open.get(one.state) ?? openLicense(this.#options, one, this.#dir.store(one.state), 0)));
    const why = await this.#leave(licenses).finally(() => Promise.all(licenses.map((license) => license.dispose())));
    const readings = licenses.filter((license) => !this.#hasSameSeat(license)).reduce((sum, { waiting }) => sum + waiting, 0);
    for (const { state } of those) this.#open.delete(state);
    if (why !== null && isNew) this.#options.log.warn({ code: why, readings }, 'a license that is not in use could not give its seat back, and will try again');
    if (why !== null && !those.map((one) => this.#isGivenUp(one)).every(Boolean)) return;
    if (why !== null) this.#options.log.warn({ code: why }, 'a license that is not in use could not give its seat back within 30 days, and is given up');
    if (readings > 0) this.#options.log.warn({ readings }, 'usage could not be delivered and is lost');
    for (const one of those) {
      await this.#dir.remove(one.state);
      this.#gone.add(one);
    }
  }

  #isGivenUp(one: Leaving): boolean {
    const { mono } = this.#options.clock.read();
    const failedAt = this.#failedAt.get(one) ?? mono;
    this.#failedAt.set(one, failedAt);
    return mono - failedAt > triedForMs && this.#inUse.now - one.since > longestLeaveMs;
  }

  /** Sends what was used under a license that leaves. Null when it was sent, or never can be. */
  async sendRest(license: License): Promise<Unsent | null> {
    let sent: Refusal | { readonly ok: true } = await license.reportUsage();
    if (!sent.ok && endings.has(sent.code) && license.waiting > 0) {
      // The license goes on under another key, if its own was replaced.
      if (license !== this.#inUse.license && this.#hasSameSeat(license)) sent = await this.#inUse.license.record(license.unsent);
      else if (sent.code === 'INSTANCE_NOT_FOUND' && license.terms?.seats === 'floating') {
        // The seat has lapsed, and the server takes no usage without one. A seat that does not float was taken away by the vendor, and stays so.
        const seat = await license.activate(this.#inUse.seat);
        if (!seat.ok) return seatEndings.has(seat.code) ? null : { refusal: seat, needsSeat: !unanswered.has(seat.code) };
        sent = await license.reportUsage();
      }
    }
    return sent.ok || endings.has(sent.code) ? null : { refusal: sent, needsSeat: false };
  }

  /** One license has one seat here, whatever its keys. With a file there is none. */
  #hasSameSeat({ licenseId }: License): boolean {
    return this.#inUse.kept.source?.kind === 'key' && licenseId !== null && licenseId === this.#inUse.license.licenseId;
  }

  /** Why they cannot leave yet; null when they have left. */
  async #leave(licenses: readonly License[]): Promise<string | null> {
    for (const license of licenses) {
      const unsent = await this.sendRest(license);
      if (unsent) return unsent.refusal.code;
    }
    for (const license of licenses) {
      if (license.licenseId === null || license.instanceId === null) continue;
      if (this.#inUse.license.licenseId === null && this.#inUse.kept.source) return 'NOT_KNOWN_AS_OTHER';
      const given = this.#hasSameSeat(license) ? undefined : await license.deactivate();
      if (given?.ok === false) return given.code;
    }
    return null;
  }
}
