import { ActivateSigningKey, CreateSigningKey, GetKeySet, GetRootKeys, ListSigningKeys, RetireSigningKey, RevokeSigningKey, type SigningKeyView } from '@keyledger/contracts';
import { keyOf, revokedKeys, signingKeyView, trustedKeys, type SigningKey } from '@keyledger/domain';
import { context, isTransient, malformedQuery } from '@keyledger/kernel';
import type { Certificate } from '@keyledger/license-file';
import { Handles } from '@keyledger/messaging';
import { Keys } from './keys.ts';
import { Signatures } from './statements.handlers.ts';

const viewOf = (key: SigningKey) => signingKeyView(key) as SigningKeyView;

@Handles(CreateSigningKey, ActivateSigningKey, RetireSigningKey, RevokeSigningKey)
export class SigningKeyCommands {
  constructor(private readonly keys: Keys) {}

  async execute(command: CreateSigningKey | ActivateSigningKey | RetireSigningKey | RevokeSigningKey): Promise<SigningKeyView> {
    if (command instanceof CreateSigningKey) return viewOf(await this.keys.create(command.purpose));
    if (command instanceof ActivateSigningKey) return viewOf(keyOf(await this.keys.activate(command.kid, command.certificate), command.kid));
    const type = command instanceof RetireSigningKey ? 'Retire' : 'Revoke';
    return viewOf(keyOf(await this.keys.run({ type, kid: command.kid }), command.kid));
  }
}

@Handles(ListSigningKeys)
export class SigningKeyList {
  constructor(private readonly keys: Keys) {}

  async execute({ limit = 25, cursor }: ListSigningKeys) {
    const newestFirst = [...(await this.keys.load()).keys.values()].reverse();
    const last = cursor === undefined ? -1 : newestFirst.findIndex(({ kid }) => kid === cursor);
    if (cursor !== undefined && last < 0) throw malformedQuery('cursor', 'is not from a page of this list');
    const data = newestFirst.slice(last + 1, last + 1 + limit).map(viewOf);
    return { data, page: { next: last + 1 + limit < newestFirst.length ? (data.at(-1)?.kid ?? null) : null, total: newestFirst.length } };
  }
}

@Handles(GetKeySet)
export class KeySetQuery {
  /** By environment: an unchanged statement is signed once. */
  readonly #said = new Map<string, { readonly what: string; readonly revocations: string }>();

  constructor(private readonly keys: Keys, private readonly signatures: Signatures) {}

  async execute() {
    // Sign first, because that may create a new key, which must be in the set.
    const said = await this.#revocations();
    const state = await this.keys.load();
    return {
      keys: trustedKeys(state).map(({ kid, publicJwk, certificate }) => ({ ...publicJwk, kid, alg: 'Ed25519' as const, use: 'sig' as const, kl_cert: certificate as unknown as Certificate })),
      revoked: revokedKeys(state).map(({ kid }) => kid), ...said,
    };
  }

  /** The same text to the letter, whichever process signs it and when. Undefined where nothing is revoked, or no key can sign: the key set is answered all the same. */
  async #revocations(): Promise<{ readonly revocations: string } | undefined> {
    const { environment: env } = context();
    const keys = revokedKeys(await this.keys.load());
    if (keys.length === 0) return undefined;
    try {
      const { kid, notBefore } = await this.keys.signer('verdict');
      const revoked = keys.map((key) => key.kid);
      const what = [kid, ...revoked].join(' ');
      const known = this.#said.get(env);
      if (known?.what === what) return { revocations: known.revocations };
      const revocations = await this.signatures.plain(kid, { type: 'revocations', payload: { iss: 'keyledger', env, iat: Math.ceil(Math.max(...[notBefore, ...keys.map(({ revokedAt }) => revokedAt ?? notBefore)].map(Date.parse)) / 1000), revoked } });
      this.#said.set(env, { what, revocations });
      return { revocations };
    } catch (error) {
      if (isTransient(error)) return undefined;
      throw error;
    }
  }
}

@Handles(GetRootKeys)
export class RootKeysQuery {
  constructor(private readonly keys: Keys) {}

  async execute() {
    const { root } = await this.keys.load();
    return { environment: context().environment, roots: root ? [{ ...root.publicJwk, kid: root.kid, alg: 'Ed25519' as const, use: 'sig' as const }] : [] };
  }
}
