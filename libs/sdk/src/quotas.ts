import type { LicenseInfo } from './info.ts';
import type { Judgement } from './judgement.ts';
import { consumed, featureOf, quotaOf, type Counted, type Feature, type Quota } from './usage.ts';

/** What quotas need of their license. */
interface Port {
  info(): LicenseInfo | null;
  judgement(): Judgement;
  counted(): Counted;
  use(name: string, value: number, isGauge: boolean): void;
  exceeded(quota: Quota): void;
  onExceeded(listener: (quota: Quota) => void): () => void;
}

/** A quota, or a feature with a cap per day or month, as of the call of `quota`, with its operations. */
export interface UsableQuota extends Quota {
  /** Tells that it is used up: more than is left was wanted, or the server says so. Once, until some of it is free again. Returns how to stop listening. */
  on(event: 'exceeded', listener: (quota: Quota) => void): () => void;
  /** Uses some of it, unless that would be too much. Other instances' use is known as of the last verdict. In a quota without a period, the amount stays in use until `report` says less. */
  tryConsume(amount?: number): boolean;
  /** Records what a gauge shows now. */
  report(value: number): void;
}

/** Features and quotas of a license, and the event when one is used up. */
export class Quotas {
  readonly #port: Port;
  /** Quotas whose event was told, and the least that was left of them since. */
  readonly #told = new Map<string, Quota>();

  constructor(port: Port) {
    this.#port = port;
  }

  feature(name: string): Feature {
    return featureOf(this.#port.info(), name, this.#port.judgement().enforcement === 'LOCKED', this.#port.counted());
  }

  of(name: string): UsableQuota {
    const quota = this.#now(name);
    return {
      ...quota,
      tryConsume: (amount = 1) => {
        this.notice();
        const { value, isGauge, isTooMuch } = consumed(this.#port.info(), name, amount, this.#port.counted());
        const { enforcement } = this.#port.judgement();
        const blocked = enforcement === 'LOCKED' || enforcement === 'READ_ONLY' || isTooMuch;
        if (!blocked) this.#port.use(name, value, isGauge);
        else if (isTooMuch) this.#exceeds(name);
        return !blocked;
      },
      report: (value) => {
        this.#port.use(name, value, quota.per === null);
        const { used, limit } = this.#now(name);
        if (used !== null && limit !== null && used > limit) this.#exceeds(name);
      },
      on: (_event, listener) => this.#port.onExceeded((exceeded) => exceeded.name === name && listener(exceeded)),
    };
  }

  /** Called when the state of the license may have changed. */
  notice(): void {
    for (const { meter, state = 'normal' } of this.#port.info()?.quotas ?? []) if (state !== 'normal') this.#exceeds(meter);
    for (const [name, told] of this.#told) {
      const quota = this.#now(name);
      const [left, leftThen] = [quota.remaining ?? Infinity, told.remaining ?? Infinity];
      if (quota.state === 'normal' && (told.state !== 'normal' || left > leftThen)) this.#told.delete(name);
      else if (left < leftThen) this.#told.set(name, { ...told, remaining: left });
    }
  }

  #exceeds(name: string): void {
    if (this.#told.has(name)) return;
    const quota = this.#now(name);
    this.#told.set(name, quota);
    this.#port.exceeded(quota);
  }

  #now(name: string): Quota {
    return quotaOf(this.#port.info(), name, this.#port.counted());
  }
}
