import type { Verifier } from '@keyledger/license-file';
import type { LicenseOptions, Logger } from './api.ts';
import { installationIn, nothingKept, readKept, written, type Checks, type Kept } from './kept.ts';
import { hashed, sameKey, sealerFor } from './store.ts';

/** What a license starts with. */
export interface Opened {
  readonly kept: Kept;
  readonly opened: 'new' | 'restored' | 'tampered';
  readonly fingerprint: string;
  readonly verifier: Checks;
  readonly seal: (text: string) => Promise<string>;
  readonly unseal: (text: string, known?: readonly unknown[]) => Promise<Kept | undefined>;
  /** The text of the store. */
  readonly text: string | null;
}

/** Reads the store; `typed`: the license key as it was typed. Of several processes that begin together on a shared store, one makes the installation. */
export async function openState(typed: string, verifier: Verifier, options: LicenseOptions & Required<Pick<LicenseOptions, 'clock' | 'store'>>): Promise<Opened> {
  const { clock, store, logger } = options;
  const readText = async () => (await quietly(() => store.read(), 'the license state could not be read', logger)) ?? null;
  let text = await readText();
  const sealedFor = async (installation: string) => {
    const fingerprint = options.fingerprint || (await hashed('installation', installation));
    return { installation, fingerprint, sealer: await sealerFor(fingerprint, sameKey(typed)) };
  };
  let self = await sealedFor(installationIn(text?.slice(65)) ?? crypto.randomUUID());
  if (text === null && store.shared) {
    const first = await self.sealer.seal(written(nothingKept(clock.read(), self.installation, options.after)));
    const isFirst = await quietly(() => store.shared?.create(first), 'the license state could not be written', logger);
    if (isFirst === false) text = await readText();
    if (isFirst === false) self = await sealedFor(installationIn(text?.slice(65)) ?? self.installation);
  }
  const { installation, fingerprint, sealer } = self;
  // Releases before spellings of a key were unified have sealed under the key as it was typed.
  const unseal = async (sealed: string, known?: readonly unknown[]) => {
    const bare = (await sealer.open(sealed)) ?? (await (await sealerFor(fingerprint, typed)).open(sealed));
    return bare === undefined ? undefined : readKept(bare, verifier, known);
  };
  const found = text === null ? undefined : await unseal(text);
  // A seat that was being given back when its process ended is in use like any other.
  const kept = found ? { ...found, leaving: undefined } : nothingKept(clock.read(), installation, options.after);
  if (text !== null && !found) logger?.warn('the license state in the store is not of this machine and key, or was edited: starting anew');
  return { kept, opened: found ? 'restored' : text === null ? 'new' : 'tampered', fingerprint, verifier, seal: sealer.seal, unseal, text };
}

/** Undefined, with a warning, if it fails. */
export async function quietly<T>(work: () => Promise<T> | T, message: string, logger: Logger | undefined): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    logger?.warn(message, { error });
    return undefined;
  }
}

/** A logger whose errors are ignored. */
export const harmless = (logger: Logger): Logger => ({ warn: (message, details) => void quietly(() => logger.warn(message, details), '', undefined) });
