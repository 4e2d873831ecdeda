import { Injectable } from '@nestjs/common';
import { ReadMeters } from '@keyledger/contracts';
import { dayOf, isMetered, metersNamed, type Day, type IssuedLicense, type Use } from '@keyledger/domain';
import { context, type LicenseId } from '@keyledger/kernel';
import { MessageClient } from '@keyledger/messaging';
import { LRUCache } from 'lru-cache';
import type { KnownLicense } from './verdict-cache.ts';

interface Kept {
  /** Undefined: the metering did not answer. */
  readonly use: Use | undefined;
  /** The terms it was read for: meters they do not name are unknown. */
  readonly terms: IssuedLicense['terms'];
  /** Of the environment: a new day begins at nought. */
  readonly day: Day;
  /** By this process's clock, milliseconds: when it was read, and when last requested. */
  readonly at: number;
  askedAt: number;
}

/** From this age on it is read again in the background; from the next one on, no verdict shows it. */
const freshMs = 1_000;
const knownMs = 10_000;
/** The longest a verdict waits. Without an answer it omits the usage. */
const waitMs = 250;
const maxKept = 50_000;

/**
 * The usage of licenses being validated, at most ten seconds old. A license that is validated all the time is answered from memory; only the
 * first verdict after a pause waits, together with all waiting at that moment. Licenses without caps and quotas cost nothing.
 */
@Injectable()
export class UseInView {
  readonly #kept = new LRUCache<string, Kept>({ maxSize: maxKept, sizeCalculation: () => 1 });
  readonly #asking = new Map<string, { readonly licenses: Map<LicenseId, IssuedLicense>; readonly answered: Promise<void> }>();

  constructor(private readonly messages: MessageClient) {}

  /** Undefined if nothing is metered, or the metering does not answer. */
  of(license: KnownLicense | undefined): Use | undefined | Promise<Use | undefined> {
    if (!license || license.state.existence !== 'issued' || !isMetered(license.state.terms)) return undefined;
    const { state } = license;
    const { id } = state;
    const { environment, now } = context();
    const name = `${environment} ${id}`;
    const kept = this.#kept.get(name);
    const moment = performance.now();
    if (kept && kept.terms === state.terms && kept.day === dayOf(Date.parse(now)) && moment - kept.at < knownMs) {
      if (moment - kept.askedAt >= freshMs) {
        kept.askedAt = moment;
        void this.#ask(state);
      }
      return kept.use;
    }
    return this.#ask(state).then(() => {
      const known = this.#kept.get(name);
      return known && known.at >= moment ? known.use : undefined;
    });
  }

  /** One message for all licenses wanted within the same turn of the event loop. */
  #ask(license: IssuedLicense): Promise<void> {
    const { environment } = context();
    const asking = this.#asking.get(environment);
    if (asking) {
      asking.licenses.set(license.id, license);
      return asking.answered;
    }
    const licenses = new Map([[license.id, license]]);
    const answered = new Promise<void>((resolve) => {
      setImmediate(() => {
        this.#asking.delete(environment);
        resolve(this.#read(licenses));
      });
    });
    this.#asking.set(environment, { licenses, answered });
    return answered;
  }

  /** That there was no answer is remembered too, for a while: not every verdict has to wait for one. */
  async #read(licenses: ReadonlyMap<LicenseId, IssuedLicense>): Promise<void> {
    const { environment, now } = context();
    const asked = [...licenses.values()].map(({ id, terms }) => [id, terms] as const);
    const named = new Set(asked.flatMap(([, terms]) => metersNamed(terms)));
    const meters = await this.messages.send(ReadMeters, { licenseIds: asked.map(([id]) => id), meters: [...named] }, { timeoutMs: waitMs }).catch(() => undefined);
    const [day, at] = [dayOf(Date.parse(now)), performance.now()];
    for (const [id, terms] of asked) {
      const name = `${environment} ${id}`;
      const kept = this.#kept.get(name);
      if (meters || !kept || kept.terms !== terms || kept.day !== day || at - kept.at >= knownMs) this.#kept.set(name, { use: meters && (meters[id] ?? {}), terms, day, at, askedAt: at });
    }
  }
}
