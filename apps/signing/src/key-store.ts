import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { context } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { thumbprint, type PublicJwk } from '@keyledger/license-file';
import { signed, type SignText, type Statement } from '@keyledger/license-file/sign';
import { StateDatabases, type Migration } from '@keyledger/read-models';
import { open, placeOf, seal, settingOf, Unopened, type Lock } from './sealing.ts';
import { Signer } from './signer.ts';

/**
 * Keeps private keys, and is the only place where they are used. It offers no way to read one, nor to sign anything but a statement.
 * A store in a hardware module or in the cloud is another class that passes `key-store.contract.ts`. Keys belong to the environment of the message.
 */
export abstract class KeyStore {
  /** Makes a key pair. The private half is durable before this resolves. */
  abstract generate(): Promise<{ readonly kid: string; readonly publicJwk: PublicJwk }>;
  /** Signs a file, a token or a certificate. Rejects when the key is not here, and with `TooLarge` when no verifier would accept the result. */
  abstract sign(kid: string, statement: Statement): Promise<string>;
  /** Also true when a key could be destroyed only in part: then call `destroy` again. */
  abstract has(kid: string): Promise<boolean>;
  /** Whether this store can sign with the key, and the setting that opens it. Undefined when there is nothing that any setting could open. */
  abstract tried(kid: string): Promise<{ readonly setting: string; readonly opens: boolean } | undefined>;
  /** Permanently, in every file. */
  abstract destroy(kid: string): Promise<void>;
  abstract close(): Promise<void>;
}

export const sealedKeysTable: Migration = {
  name: 'signing-1-sealed-keys',
  up: ({ run }) => run('create table signing_sealed_keys (kid text primary key, sealed text not null)'),
};

/**
 * Replaces a destroyed key by a text of the same length: so no row is moved in the file, which would leave copies behind. `0…` until no file holds the
 * key any more, `1…` from then on. An earlier release left an empty text in its place, and the file still to be rewritten.
 */
const inPlaceOf = (sealed: string, digit: '0' | '1'): string => digit.repeat(Math.max(1, sealed.length));
/** The same mark for all keys that were sealed anew. */
const SCRUBBED = '#scrubbed';
const isOverwritten = (sealed: string): boolean => /^(0+|1+)$/.test(sealed);

/**
 * Sealed private keys in a state table, so that every signing process of an installation has them, on whatever machine. Of an opened key only a
 * function is kept that signs with it, here or, under load, in a thread of its own.
 */
export class SealedKeys extends KeyStore {
  readonly #opened = new Map<string, Promise<SignText>>();
  readonly #stretched: Lock['stretched'] = new Map();
  readonly #signer = new Signer();

  constructor(private readonly databases: StateDatabases, private readonly keyrings: Keyrings, private readonly passphrase: string | undefined) {
    super();
  }

  async generate() {
    const pair = generateKeyPairSync('ed25519');
    const publicJwk: PublicJwk = { kty: 'OKP', crv: 'Ed25519', x: String(pair.publicKey.export({ format: 'jwk' }).x) };
    const kid = await thumbprint(publicJwk);
    const secret = pair.privateKey.export({ format: 'der', type: 'pkcs8' });
    const sealed = await seal(this.#lock(), this.#place(kid), secret);
    secret.fill(0);
    await this.databases.here().run('insert into signing_sealed_keys (kid, sealed) values (?, ?)', [kid, sealed]);
    return { kid, publicJwk };
  }

  async sign(kid: string, statement: Statement): Promise<string> {
    return signed(statement, kid, await this.#signerOf(kid));
  }

  async has(kid: string): Promise<boolean> {
    return !/^1+$/.test((await this.#row(kid)) ?? '1');
  }

  async tried(kid: string) {
    const setting = settingOf((await this.#sealed(kid)) ?? '');
    if (!setting) return undefined;
    return { setting, opens: await this.#signerOf(kid).then(() => true, (error: unknown) => {
      if (error instanceof Unopened) return false;
      throw error;
    }) };
  }

  async destroy(kid: string): Promise<void> {
    const row = await this.#row(kid);
    if (row === undefined) return;
    const database = this.databases.here();
    const become = (digit: '0' | '1') => database.run('update signing_sealed_keys set sealed = ? where kid = ?', [inPlaceOf(row, digit), kid]);
    await become('0');
    this.#opened.delete(nameOf(kid)); // not earlier: another request may have opened it meanwhile
    await database.scrub({ overwritten: row.length > 1 });
    // Last: until no file holds the key any more, the row says that something is left to do.
    await become('1');
    // A thread has its own copy of what it has signed with.
    await this.#signer.close();
  }

  async close(): Promise<void> {
    await this.#signer.close();
  }

  /** Seals keys from before there was a passphrase under it, and leaves no copy of the old seals. A key that cannot be opened stays as it is. */
  async sealAnew(): Promise<void> {
    if (this.passphrase === undefined) return;
    const database = this.databases.here();
    const { rows } = await database.run<{ kid: string; sealed: string }>("select kid, sealed from signing_sealed_keys where sealed like 'm1.%'");
    for (const { kid, sealed } of rows) {
      const secret = await open(this.#lock(), this.#place(kid), sealed).catch(ignoreUnopened);
      if (!secret) continue;
      const anew = await seal(this.#lock(), this.#place(kid), secret);
      secret.fill(0);
      await this.#mark('0');
      // Not if the key was destroyed meanwhile.
      await database.run('update signing_sealed_keys set sealed = ? where kid = ? and sealed = ?', [anew, kid, sealed]);
    }
    // The rows have grown, and so were moved. If the process dies before the file is rewritten, the mark stays.
    if ((await this.#row(SCRUBBED)) !== '0') return;
    await database.scrub();
    await this.#mark('1');
  }

  /** The private key, sealed under another passphrase, to be kept elsewhere. Only a store in a table can export keys. */
  async exported(kid: string, passphrase: string): Promise<string> {
    const secret = await this.#secret(kid);
    try {
      return await seal({ passphrase }, this.#place(kid), secret);
    } finally {
      secret.fill(0);
    }
  }

  async #mark(digit: '0' | '1'): Promise<void> {
    await this.databases.here().run('insert into signing_sealed_keys (kid, sealed) values (?, ?) on conflict (kid) do update set sealed = excluded.sealed', [SCRUBBED, digit]);
  }

  #signerOf(kid: string): Promise<SignText> {
    const name = nameOf(kid);
    const known = this.#opened.get(name);
    if (known) return known;
    const opening = this.#secret(kid).then((secret): SignText => {
      const key = createPrivateKey({ key: secret, format: 'der', type: 'pkcs8' });
      secret.fill(0);
      return this.#signer.of(key);
    });
    this.#opened.set(name, opening);
    opening.catch(() => this.#opened.delete(name));
    return opening;
  }

  async #secret(kid: string): Promise<Buffer> {
    const sealed = await this.#sealed(kid);
    if (!sealed) throw new Error(`There is no private key ${kid}`);
    return open(this.#lock(), this.#place(kid), sealed);
  }

  async #sealed(kid: string): Promise<string | undefined> {
    const row = await this.#row(kid);
    return row === undefined || isOverwritten(row) ? undefined : row;
  }

  async #row(kid: string): Promise<string | undefined> {
    const { rows: [row] } = await this.databases.here().run<{ sealed: string }>('select sealed from signing_sealed_keys where kid = ?', [kid]);
    return row?.sealed;
  }

  #lock(): Lock {
    return { key: this.keyrings.here().signingKeys, passphrase: this.passphrase, stretched: this.#stretched };
  }

  #place(kid: string): Buffer {
    return placeOf(context().environment, kid);
  }
}

const ignoreUnopened = (error: unknown): undefined => {
  if (!(error instanceof Unopened)) throw error;
};
const nameOf = (kid: string): string => `${context().environment} ${kid}`;
