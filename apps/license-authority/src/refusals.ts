import { Injectable } from '@nestjs/common';
import { NoteRefusedActivation } from '@keyledger/contracts';
import { Refusal, type LicenseId } from '@keyledger/kernel';
import { MessageClient } from '@keyledger/messaging';
import { LRUCache } from 'lru-cache';

const ONCE_IN_MS = 60_000;
const PATIENCE_MS = 1_000;

/**
 * A refused activation is no event, or whoever asks again and again would write the log. It is told to others once a minute for each license, by
 * the way: nobody waits for that, and whether it arrives changes nothing here.
 */
@Injectable()
export class RefusedActivations {
  readonly #told = new LRUCache<LicenseId, true>({ max: 10_000, ttl: ONCE_IN_MS });

  constructor(private readonly messages: MessageClient) {}

  note(licenseId: LicenseId, error: unknown): void {
    if (!(error instanceof Refusal && error.code === 'ACTIVATION_LIMIT_EXCEEDED') || this.#told.has(licenseId)) return;
    this.#told.set(licenseId, true);
    const { limit, used } = error.members as { limit: number; used: number };
    this.messages.send(NoteRefusedActivation, { licenseId, limit, used }, { timeoutMs: PATIENCE_MS }).catch(() => undefined);
  }
}
