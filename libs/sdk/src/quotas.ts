import type { Enforcement, LicenseInfo } from './state.ts';
import { consumed, featureOf, quotaOf, type Counted, type Feature, type Quota } from './usage.ts';

/** What quotas need of their license. */
interface Port {
  info(): LicenseInfo | null;
  enforcement(): Enforcement;
  counted(): Counted;
  use(name: string, value: number, isGauge: boolean): void;
  exceeded(quota: Quota): void;
  onExceeded(listener: (quota: Quota) => void): () => void;
}

/** A quota, or a feature with a cap per day or month, as it was when it was asked for, and what can be done with it. */
export interface UsableQuota extends Quota {
  /** When it is used up: somebody wanted more than is left, or the server says so. Once, until some of it is free again. Returns how to stop listening. */
  on(event: 'exceeded', listener: (quota: Quota) => void): () => void;
  /** Uses some of it, unless that would be too much. Other instances' use is known as of the last verdict. Of a quota without a period it is in use until `report` says less. */
  tryConsume(amount?: number): boolean;
  /** Tells what a gauge shows now. */
  report(value: number): void;
}

/** What a license counts, and who is told when it is used up. */
export class Quotas {
  readonly #port: Port;
  /** What was told of, and how little of it was left since. */
  readonly #told = new Map<string, Quota>();

  constructor(port: Port) {
    this.#port = port;
  }

  feature(name: string): Feature {
    return featureOf(this.#port.info(), name, this.#port.enforcement() === 'LOCKED', this.#port.counted());
  }

  of(name: string): UsableQuota {
    const quota = this.#now(name);
    return {
      ...quota,
      tryConsume: (amount = 1) => {
        this.notice();
        const { value, isGauge, isTooMuch } = consumed(this.#port.info(), name, amount, this.#port.counted());
        const enforcement = this.#port.enforcement();
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

  /** Something is known that was not known before. */
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
