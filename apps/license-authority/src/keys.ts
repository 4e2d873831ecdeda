import { randomBytes } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { generateKey, keyPrefix, normaliseKey, type KeyFormat, type LicenseKey } from '@keyledger/domain';
import { context, refuse, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { LRUCache } from 'lru-cache';
import { LicenseTable } from './license.queries.ts';

/**
 * License keys: made at random, found by keyed hash. Entries remembered here may be outdated (a key is regenerated, a license erased);
 * callers compare with the license's own stream, so a stale entry costs a second look and never a wrong answer.
 */
@Injectable()
export class LicenseKeys {
  readonly #known = new LRUCache<string, LicenseId>({ maxSize: 100_000, sizeCalculation: () => 1 });
  readonly #hashes = new LRUCache<string, string>({ maxSize: 20_000, sizeCalculation: () => 1 });

  constructor(private readonly keyrings: Keyrings, private readonly table: LicenseTable) {}

  make(format: KeyFormat): LicenseKey {
    const value = generateKey(format, randomBytes);
    return { value, hash: this.hashOf(value), prefix: keyPrefix(value, format.prefix), format };
  }

  hashOf(typed: string): string {
    const { environment } = context();
    const name = `${environment} ${typed}`;
    let hash = this.#hashes.get(name);
    if (!hash) this.#hashes.set(name, (hash = this.keyrings.of(environment).keyHash(normaliseKey(typed))));
    return hash;
  }

  remember(hash: string, licenseId: LicenseId): void {
    this.#known.set(`${context().environment} ${hash}`, licenseId);
  }

  async find(hash: string): Promise<LicenseId | undefined> {
    const known = this.#known.get(`${context().environment} ${hash}`);
    if (known) return known;
    const found = await this.table.byKeyHash(hash);
    if (found) this.remember(hash, found);
    return found;
  }

  /** LICENSE_NOT_FOUND; between services it says whether the key once was good, because then the client is not guessing. */
  async notFound(hash: string) {
    return refuse('LICENSE_NOT_FOUND', undefined, (await this.wasKey(hash)) ? { retired: true } : {});
  }

  wasKey(hash: string): Promise<boolean> {
    return this.table.wasKey(hash);
  }

  /** Before the key is replaced: should the replacement fail, one row too many does no harm. */
  async retire(hash: string, licenseId: LicenseId): Promise<void> {
    await this.table.retireKey(hash, licenseId);
    this.#known.delete(`${context().environment} ${hash}`);
  }
}
