import { Injectable } from '@nestjs/common';
import { uniqueId } from '@keyledger/domain';
import { Refusal, type ErrorCode } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { CatalogStreams } from './streams.ts';

type Kind = Parameters<typeof uniqueId>[0];

interface Claim {
  kind: Kind;
  /** Normalised. */
  value: string;
  ownerId: string;
  taken: ErrorCode;
  /** Whether that owner really has the value: a claim may have been left behind by a creator that died half way. */
  bears(ownerId: string): Promise<boolean>;
}

/** Values that only one may have: see unique.ts in the domain. */
@Injectable()
export class UniqueValues {
  constructor(private readonly streams: CatalogStreams, private readonly keyrings: Keyrings) {}

  async claim({ kind, value, ownerId, taken, bears }: Claim): Promise<void> {
    const id = this.#id(kind, value);
    try {
      await this.streams.unique.run(id, { type: 'Claim', ownerId, taken });
    } catch (error) {
      const holder = error instanceof Refusal && error.code === taken ? (error.members['id'] as string) : undefined;
      if (holder === undefined || (await bears(holder))) throw error;
      await this.streams.unique.run(id, { type: 'Claim', ownerId, taken, insteadOf: holder });
    }
  }

  async release(kind: Kind, value: string, ownerId: string): Promise<void> {
    await this.streams.unique.run(this.#id(kind, value), { type: 'Release', ownerId });
  }

  /** Who has claimed it, if anybody; whether it bears that out is to be asked. */
  async holder(kind: Kind, value: string): Promise<string | undefined> {
    return (await this.streams.unique.load(this.#id(kind, value))).state?.ownerId;
  }

  hash(kind: Kind, value: string): string {
    return this.keyrings.here().hmac(kind, value);
  }

  #id(kind: Kind, value: string): string {
    return uniqueId(kind, this.hash(kind, value));
  }
}
