import { revokedKeys, SigningKeys, type SigningKeysCommand, type SigningKeysEvent, type SigningKeysState } from '@keyledger/domain';
import { Aggregates, EventStores } from '@keyledger/event-store';
import { context } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Injectable } from '@nestjs/common';
import { VerdictCaches } from './verdict-caches.ts';

/**
 * The signing keys whose signatures are no longer good. They are read when the log shows another revocation; a license look-up in the cache
 * includes asking the log, so no token of such a key is given out once the revocation has been answered.
 */
@Injectable()
export class RevokedKeys {
  readonly #keys: Aggregates<SigningKeysState, SigningKeysCommand, SigningKeysEvent>;
  readonly #known = new Map<string, { readonly revocations: number; readonly kids: ReadonlySet<string> }>();

  constructor(events: EventStores, keyrings: Keyrings, private readonly caches: VerdictCaches) {
    this.#keys = new Aggregates(SigningKeys, events, keyrings);
  }

  /** Whether a token of ours was signed with a revoked key. */
  async signed(token: string): Promise<boolean> {
    const kids = await this.#here();
    return kids.size > 0 && kids.has((JSON.parse(Buffer.from(token.split('.', 1)[0] ?? '', 'base64url').toString()) as { kid: string }).kid);
  }

  async #here(): Promise<ReadonlySet<string>> {
    const { environment } = context();
    const { revocations } = this.caches.here();
    const known = this.#known.get(environment);
    if (known?.revocations === revocations) return known.kids;
    const kids = await this.#keys.load(environment, (state) => new Set(revokedKeys(state).map(({ kid }) => kid)));
    this.#known.set(environment, { revocations, kids });
    return kids;
  }
}
