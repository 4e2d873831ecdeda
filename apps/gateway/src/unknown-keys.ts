import { ReportUnknownKeys } from '@keyledger/contracts';
import { context, runIn, systemContext, type Clock } from '@keyledger/kernel';
import type { MessageClient } from '@keyledger/messaging';

const tellEveryMs = 1_000;
/** Bounds memory when an attacker makes up addresses, too: all further addresses count as one. */
const apartAtMost = 1_000;

/** Requests with unknown license keys: counted, and reported once a second. What cannot be reported then is only in the metrics. */
export class UnknownKeys {
  readonly #seen = new Map<string, Map<string, number>>();

  constructor(private readonly messages: MessageClient, private readonly clock: Clock) {}

  saw(address: string): void {
    const { environment } = context();
    if (this.#seen.size === 0) setTimeout(() => this.#tell(), tellEveryMs).unref();
    let seen = this.#seen.get(environment);
    if (!seen) this.#seen.set(environment, (seen = new Map()));
    const from = seen.size < apartAtMost || seen.has(address) ? address : '';
    seen.set(from, (seen.get(from) ?? 0) + 1);
  }

  #tell(): void {
    for (const [environment, seen] of this.#seen) {
      const addresses = [...seen].map(([address, count]) => ({ address, count }));
      runIn(systemContext(environment, this.clock.now(environment)), () => this.messages.send(ReportUnknownKeys, { addresses })).catch(() => undefined);
    }
    this.#seen.clear();
  }
}
